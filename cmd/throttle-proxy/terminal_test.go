package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
)

// watch returns the log of a replica with routes slack and quite-long at a
// terminal, and what it shows.
func watch(t *testing.T, width int, colours bool) (*slog.Logger, *bytes.Buffer) {
	t.Helper()
	shown := new(bytes.Buffer)
	c := parse(t, "--register slack=http://host --register quite-long=http://host")
	return slog.New(c.newTerminal(shown, &display{func() int { return width }, colours})), shown
}

var at = time.Date(2026, 11, 26, 10, 20, 30, 0, time.UTC)

func TestTerminalShowsRequestsInColumns(t *testing.T) {
	logger, shown := watch(t, 100, false)
	observe := requestLog(logger)
	for _, e := range []proxy.Event{
		{Route: "slack", Method: "POST", Status: 201, Duration: 1500 * time.Microsecond},
		{Route: "slack", Method: "POST", Status: 200, Duration: 2100 * time.Millisecond, Waited: 2 * time.Second, Candidates: []string{"c"}, TraceID: "0af7"},
		{Route: "quite-long", Method: "POST", Status: 409, Reason: proxy.ReasonDuplicate, Holder: cluster.Holder{RequestID: "FIRST"}},
		{Route: "slack", Method: "POST", Status: 429, Reason: proxy.ReasonLimited, Limits: []string{"a", "b"}, Caller: "01234567"},
		{Method: "GET", Status: 404, Reason: proxy.ReasonUnknownRoute, Unknown: "slak", Nearest: "slack"},
	} {
		e.Started, e.ID, e.Client = at, "MINE", netip.MustParseAddr("203.0.113.7")
		observe(&e)
	}
	const want = `10:20:30 slack      POST   201 forwarded          1.5ms  id MINE  client 203.0.113.7
10:20:32 slack      POST   200 forwarded           2.1s  waited 2.0s  candidate c  id MINE  client …
10:20:30 quite-long POST   409 duplicate          0.0ms  holder FIRST  id MINE  client 203.0.113.7
10:20:30 slack      POST   429 limited            0.0ms  limit a,b  id MINE  client 203.0.113.7  ca…
10:20:30 -          GET    404 unknown-route      0.0ms  unknown route slak  is it slack  id MINE  …
`
	if got := shown.String(); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
}

var escape = regexp.MustCompile("\x1b\\[([0-9]*)m")

// Whatever is told, no line is wider than the terminal, nor has anything in it that
// a terminal would obey.
func TestTerminalLinesFit(t *testing.T) {
	hostile := "\x1b[2J\r\a\t漢字 é " + strings.Repeat("wide words ", 30) + strings.Repeat("x", 300)
	for width := leastWidth; width < 200; width++ {
		logger, shown := watch(t, width, true)
		observe := requestLog(logger)
		observe(&proxy.Event{Route: strings.Repeat("r", 63), Method: "PROPPATCHED", Status: 502, Reason: proxy.ReasonUpstreamRefused, Fault: hostile, ID: hostile})
		observe(&proxy.Event{Method: hostile, Status: 404, Reason: proxy.ReasonUnknownRoute, Unknown: hostile})
		observe(&proxy.Event{Route: "slack", Method: "GET", Status: 500, Reason: proxy.ReasonInternal, Panic: hostile, Stack: []byte("a\n\tb.go:1\n" + hostile)})
		logger.With("routes", hostile).Warn("store away", "error", errors.New(hostile))
		(&config{}).announce(shown, logger, "slack  "+hostile)
		(&life{logger: logger, began: time.Now()}).stopped(1)
		for line := range strings.Lines(shown.String()) {
			text := escape.ReplaceAllString(strings.TrimSuffix(line, "\n"), "")
			if columns(text) > width || strings.ContainsFunc(text, func(r rune) bool { return (r < ' ' || r > '~') && r != '…' }) {
				t.Errorf("width %d: got %q of %d columns", width, line, columns(text))
			}
		}
		if all := strings.Join(strings.Fields(escape.ReplaceAllString(shown.String(), "")), ""); !strings.Contains(all, strings.Repeat("x", 10)) || strings.Count(all, "storeaway") != 1 {
			t.Fatalf("width %d: got %s", width, shown)
		}
	}
}

func TestTerminalColoursByOutcome(t *testing.T) {
	for _, test := range []struct {
		event proxy.Event
		want  string // the colour
	}{
		{proxy.Event{Status: 200}, green},
		{proxy.Event{Status: 302}, green},
		{proxy.Event{Status: 404}, plain}, // the upstream's
		{proxy.Event{Status: 503}, red},
		{proxy.Event{Status: 409, Reason: proxy.ReasonHeld}, yellow},
		{proxy.Event{Status: 429, Reason: proxy.ReasonLimited}, yellow},
		{proxy.Event{Status: 500, Reason: proxy.ReasonInternal, Panic: "x"}, red},
	} {
		for _, colours := range []bool{true, false} {
			logger, shown := watch(t, 80, colours)
			test.event.Route = "slack"
			requestLog(logger)(&test.event)
			got := ""
			if match := escape.FindStringSubmatch(shown.String()); match != nil {
				got = match[1]
			}
			if want := map[bool]string{true: test.want, false: plain}[colours]; got != want {
				t.Errorf("%d %s: got colour %q, want %q", test.event.Status, test.event.Reason, got, want)
			}
		}
	}
}

// Of a flood of equal refusals the first are shown, then how many more there were,
// each second; others are not held up by it.
func TestTerminalFoldsFloods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logger, shown := watch(t, 100, false)
		observe := requestLog(logger)
		seen := func() string { // since it was last asked
			terminal := logger.Handler().(*terminal)
			terminal.mu.Lock()
			defer terminal.mu.Unlock()
			defer shown.Reset()
			return shown.String()
		}
		send := func(n int, e proxy.Event) {
			for range n {
				observe(&e)
			}
		}
		limited := proxy.Event{Route: "slack", Status: 429, Reason: proxy.ReasonLimited, Limits: []string{"a", "b"}}
		send(foldAfter+1214, limited)
		send(foldAfter, proxy.Event{Route: "slack", Status: 429, Reason: proxy.ReasonLimited, Limits: []string{"a"}}) // another limit
		send(foldAfter, proxy.Event{Route: "quite-long", Status: 429, Reason: proxy.ReasonLimited})
		send(10, proxy.Event{Route: "slack", Status: 200})
		send(10, proxy.Event{Route: "slack", Status: 500, Reason: proxy.ReasonInternal, Panic: "x"}) // of which there is another line
		if got, want := strings.Count(seen(), "\n"), 3*foldAfter+10+10*2; got != want {
			t.Errorf("got %d lines, want %d", got, want)
		}
		time.Sleep(foldEvery)
		synctest.Wait()
		if got, want := seen(), "… 1,214 more refusals of slack in 1s: limited, limit a,b\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		send(foldAfter+1, proxy.Event{Route: "slack", Status: 502, Reason: proxy.ReasonUpstreamRefused}) // a new second
		(&life{logger: logger, began: time.Now().Add(-2 * time.Minute)}).stopped(0)
		want := "… 1 more failures of slack in 1s: upstream-refused\n" +
			time.Now().Format(time.TimeOnly) + " served 1,247 in 2 min: 1,223 limited, 10 forwarded, 10 internal, 4 upstream-refused\n" +
			time.Now().Format(time.TimeOnly) + " stopped  status 0  requests 0  uptime_ms 120000\n"
		if _, after, _ := strings.Cut(seen(), "…"); "…"+after != want {
			t.Errorf("got\n…%s, want\n%s", after, want)
		}
		time.Sleep(2 * foldEvery) // its timer is over
	})
}

func TestTimesForPersons(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 59 * time.Second: "59 s", 2 * time.Minute: "2 min", 185 * time.Minute: "3 h 5 min", 51 * time.Hour: "2 d 3 h",
	} {
		if got := longTime(d); got != want {
			t.Errorf("%s: got %s, want %s", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		123 * time.Microsecond: "0.1ms", 45 * time.Millisecond: "45ms", 1240 * time.Millisecond: "1.2s", 3 * time.Minute: "3m",
	} {
		if got := shortTime(d); got != want {
			t.Errorf("%s: got %s, want %s", d, got, want)
		}
	}
}

// What is not a terminal has no terminal's lines, whatever it is.
func TestLogThatIsNoTerminal(t *testing.T) {
	if d := displayOf(new(bytes.Buffer), nil); d != nil {
		t.Error("got a display for a buffer")
	}
	c := parse(t, "--register a=http://host --log-format text")
	if handler := c.logHandler(new(bytes.Buffer), &display{}); fmt.Sprintf("%T", handler) != "*main.textHandler" {
		t.Errorf("got %T for --log-format text at a terminal", handler)
	}
}
