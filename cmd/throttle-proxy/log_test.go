package main

import (
	"bytes"
	"io"
	"log/slog"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
)

// docs/operating.md has a row for each field that a request's line can have, and
// no other.
func TestFieldsOfTheLogAreDocumented(t *testing.T) {
	e := &proxy.Event{
		Route: "slack", Method: "POST", ID: "ours", ClientRequestID: "the client's", TraceID: "1", TraceKept: true, Client: netip.IPv6Loopback(), Caller: "01234567", Status: 409, Reason: proxy.ReasonDuplicate,
		Shadowed: proxy.ReasonLimited, Holder: cluster.Holder{RequestID: "another"}, Limits: []string{"a"}, Candidates: []string{"b"},
		Fault: "dns_error", Unknown: "slak", Nearest: "slack", Degraded: true, StoreFault: "timeout", CoolDown: 1,
		Duration: 1, Verdict: 1, Waited: 1, Upstream: 1, Joined: true, ClientGone: true, UpstreamWentOn: true, Replayed: true, Panic: "p",
	}
	for field := range reflect.ValueOf(*e).NumField() {
		name := reflect.TypeOf(*e).Field(field).Name
		if reflect.ValueOf(*e).Field(field).IsZero() && !slices.Contains([]string{"Started", "Asked", "Stack", "Decisions", "Changed"}, name) {
			t.Errorf("%s is not tested here", name)
		}
	}
	var got []string
	for _, attr := range appendAttrs(nil, e, client(e)) {
		got = append(got, attr.Key)
	}
	page := documentation(t)[root+"docs/operating.md"]
	_, page, _ = strings.Cut(page, "| name | meaning |")
	page, _, _ = strings.Cut(page, "\n\n")
	var want []string
	for row := range strings.Lines(page) {
		_, cells, _ := strings.Cut(row, "| ")
		names, _, _ := strings.Cut(cells, " |")
		for _, name := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(names, -1) {
			want = append(want, name[1])
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func BenchmarkRequestLog(b *testing.B) {
	observe := requestLog(slog.New(newTextHandler(io.Discard, nil)))
	e := proxy.Event{
		Route: "slack", Method: "POST", Status: 429, ID: "ABCDEFGHIJKLMNOP", Client: netip.MustParseAddr("203.0.113.7"), Caller: "01234567",
		Verdict: 45 * time.Microsecond,
		Reason:  proxy.ReasonLimited, Limits: []string{"slack"}, Started: time.Now(), Duration: 123 * time.Microsecond,
	}
	b.ReportAllocs()
	for b.Loop() {
		observe(&e)
	}
}

// Lines of requests are, to the byte, those of slog's own handler.
func TestLinesOfRequestsAreSlogs(t *testing.T) {
	var ours, slogs bytes.Buffer
	observe, want := requestLog(slog.New(newTextHandler(&ours, nil))), requestLog(slog.New(slog.NewTextHandler(&slogs, nil)))
	for _, text := range []string{"", "plain", "two words", "a=b", `"`, `back\slash`, "tab\t", "\x00", "\x7f", "é", "日本", "\u00a0", "\u2028", "\xff", "\U0010ffff", "a\nb"} {
		for _, d := range []time.Duration{0, 1, time.Microsecond, 10 * time.Microsecond, 1200 * time.Microsecond, 1230 * time.Microsecond, 1234567, time.Second, 99_999_999_999, 100 * time.Second, time.Hour} {
			e := &proxy.Event{
				Route: text, Method: text, ID: text, ClientRequestID: text, Caller: text, Status: 409, Reason: proxy.ReasonDuplicate,
				Holder: cluster.Holder{RequestID: text}, Limits: []string{text, "b"}, Unknown: text, Degraded: true, StoreFault: text,
				Started: time.Now(), Duration: d, Verdict: d, Waited: d, Upstream: d, CoolDown: d, ClientGone: true, UpstreamWentOn: d > 0, Panic: text, Stack: []byte(text),
			}
			ours.Reset()
			slogs.Reset()
			observe(e)
			want(e)
			if got, want := ours.String(), slogs.String(); got != want {
				t.Errorf("got  %swant %s", got, want)
			}
		}
	}
}

// Lines are made of memory that is used again: each has the address that is its
// own, and none costs an allocation where addresses repeat.
func TestLogLinesHaveTheirOwnClient(t *testing.T) {
	var log bytes.Buffer
	observe := requestLog(slog.New(newTextHandler(&log, nil)))
	for _, test := range []struct {
		client netip.Addr
		want   string
	}{
		{netip.Addr{}, "unix"}, {netip.MustParseAddr("203.0.113.7"), "203.0.113.7"}, {netip.MustParseAddr("203.0.113.7"), "203.0.113.7"},
		{netip.MustParseAddr("2001:db8::1"), "2001:db8::1"}, {netip.Addr{}, "unix"},
	} {
		log.Reset()
		observe(&proxy.Event{Client: test.client})
		if got := log.String(); !strings.Contains(got, " client="+test.want+"\n") {
			t.Errorf("got %s, want client=%s", got, test.want)
		}
	}
}

// What one line needed beyond what is usual is not kept for those to come.
func TestLongLogLineCostsNoOther(t *testing.T) {
	for size, want := range map[int]bool{100: true, 100_000: false} {
		e := &proxy.Event{Method: strings.Repeat("A", size)}
		line := &requestLine{attrs: appendAttrs(nil, e, "unix")}
		line.text = appendLine(nil, time.Time{}, slog.LevelInfo, "request", line.attrs)
		line.forget()
		if got := cap(line.text) >= size; got != want {
			t.Errorf("a line of %d bytes: got that its room is kept: %v, want %v", size, got, want)
		}
		if line.attrs[1].Value.Any() != nil {
			t.Errorf("a line of %d bytes: its words are kept", size)
		}
	}
}
