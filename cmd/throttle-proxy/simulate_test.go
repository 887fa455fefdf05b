package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
)

// The property: of any arrivals, a simulation of the log that tells of them
// refuses those that the budgets themselves refused. The log is that of the
// replica, whose lines are in the order in which requests ended.
func TestSimulationRefusesWhatBudgetsRefuse(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			rate := fmt.Sprintf("%d/%s", 1+random.IntN(20), []string{"s", "m", "250ms"}[random.IntN(3)])
			switch random.IntN(3) {
			case 0:
				rate += fmt.Sprintf(",burst=%d", 1+random.IntN(30))
			case 1:
				rate += ",strict"
			}
			by := []string{"", ",by=client", ",by=client/48", ",by=header:Tenant"}[random.IntN(4)]
			l, _, err := parseRate(rate + by)
			if err != nil {
				t.Fatal(err)
			}
			memory := cluster.NewMemory("a")
			type ended struct {
				at time.Time
				e  proxy.Event
			}
			var lines []ended
			var want []bool
			for range 300 {
				time.Sleep(time.Duration(1+random.IntN(200)) * time.Millisecond)
				if random.IntN(50) == 0 {
					time.Sleep(time.Duration(random.IntN(300)) * time.Second)
				}
				client := netip.MustParseAddr([]string{"203.0.113.1", "203.0.113.2", "2001:db8::1", "2001:db8:0:1::1", "2001:db8:1::1"}[random.IntN(5)])
				e := proxy.Event{
					Route: []string{"a", "b"}[random.IntN(2)], Client: client, Caller: []string{"00000001", "00000002"}[random.IntN(2)],
					Started: time.Now(), Duration: time.Duration(random.IntN(100_000)) * time.Millisecond,
				}
				charge := cluster.Charge{Name: "x", Limit: l.Limit}
				switch {
				case l.By.Client:
					charge.Caller = l.By.Network(client)
				case l.By.Header != "":
					charge.Caller = e.Caller
				}
				if random.IntN(4) == 0 { // one that does not come as far as the budgets
					e.Reason = proxy.ReasonHeld
				} else {
					v, err := memory.Admit(context.Background(), cluster.Ask{Tag: e.Route, Charges: []cluster.Charge{charge}})
					if err != nil {
						t.Fatal(err)
					}
					if v.Outcome == cluster.Limited {
						e.Reason, e.Duration = proxy.ReasonLimited, 0
					}
					want = append(want, v.Outcome == cluster.Limited)
				}
				lines = append(lines, ended{e.Started.Add(e.Duration), e})
			}
			slices.SortStableFunc(lines, func(a, b ended) int { return a.at.Compare(b.at) })
			for _, handler := range []func(*bytes.Buffer) slog.Handler{
				func(w *bytes.Buffer) slog.Handler { return slog.NewTextHandler(w, nil) },
				func(w *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(w, nil) },
			} {
				var log bytes.Buffer
				logger := slog.New(handler(&log))
				observe := requestLog(logger)
				for _, line := range lines {
					observe(&line.e)
					if random.IntN(10) == 0 {
						logger.Warn("store away")
					}
				}
				c := newCandidate(rate+by, "", l)
				var got []bool
				read, err := readLog(&log, func(a *arrival) { got = append(got, c.take(a)) })
				if err != nil || read.Late != 0 {
					t.Fatal(err, read)
				}
				if !slices.Equal(got, want) {
					t.Errorf("seed %d, %s: got %v, want %v", seed, rate+by, got, want)
				}
				refused := int64(0)
				for _, r := range want {
					if r {
						refused++
					}
				}
				if c.refused != refused || c.asked != int64(len(want)) {
					t.Errorf("seed %d: got %d of %d, want %d of %d", seed, c.refused, c.asked, refused, len(want))
				}
			}
		})
	}
}

const combined = `203.0.113.1 - - [26/Nov/2026:10:20:30 +0000] "POST /slack/x?y HTTP/1.1" 200 2 "-" "curl/8"
203.0.113.1 - bob [26/Nov/2026:10:20:30 +0000] "POST /slack HTTP/1.1" 200 2 "-" "a \"b\""
203.0.113.2 - - [26/Nov/2026:11:20:31 +0100] "POST /slack HTTP/1.1" 200 2 "-" "curl/8"
203.0.113.2 - - [26/Nov/2026:10:25:00 +0000] "GET /other HTTP/1.1" 200 2 "-" "curl/8"
203.0.113.2 - - [26/Nov/2026:10:25:00 +0000] "GET / HTTP/1.1" 200 2 "-" "curl/8"
what is this
203.0.113.2 - - [yesterday] "GET / HTTP/1.1" 200 2 "-" "curl/8"
`

// simulate runs the command on a log.
func simulate(t *testing.T, log string, words ...string) (status int, stdout, stderr string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "access.log")
	if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	status = run(append([]string{"simulate", path}, words...), nil, &out, &errs)
	return status, out.String(), errs.String()
}

func TestSimulateTellsWhatWhenAndOfWhom(t *testing.T) {
	status, got, stderr := simulate(t, combined, "--rate", "slack=1/m", "--rate", "1/m,by=client", "--rate", "2/s", "--rate", "1/m,by=header:Tenant")
	const want = `5 requests in 7 lines, from 2026-11-26 10:20:30 to 2026-11-26 10:25:00 UTC

slack=1/m  refuses 2 of 3 (66.7 %)
  when: from 2026-11-26 10:20:30 to 2026-11-26 10:20:31, most of all, 2, in the minute of 2026-11-26 10:20:00
  whom: 203.0.113.1 1, 203.0.113.2 1

1/m,by=client  refuses 2 of 5 (40.0 %)
  when: from 2026-11-26 10:20:30 to 2026-11-26 10:25:00, most of all, 1, in the minute of 2026-11-26 10:20:00
  whom: 203.0.113.1 1, 203.0.113.2 1

2/s  refuses 0 of 5 (0.0 %)

1/m,by=header:Tenant  refuses 0 of 0 (0.0 %)
  left out: 5 requests of which the log does not say caller=
`
	if status != 0 || got != want {
		t.Errorf("got %d\n%s%s, want\n%s", status, got, stderr, want)
	}
	_, got, _ = simulate(t, combined, "--rate", "slack=1/m", "--json")
	var out simulation
	if err := json.Unmarshal([]byte(got), &out); err != nil {
		t.Fatal(err)
	}
	if c := out.Candidates[0]; out.Requests != 5 || c.Refused != 2 || c.When.RefusedInThat != 2 || len(c.Whom) != 2 || c.Whom[0] != (simulatedCaller{"203.0.113.1", 1}) {
		t.Errorf("got %s", got)
	}
}

func TestSimulateSaysWhatToWrite(t *testing.T) {
	for words, want := range map[string]string{
		"":                         "throttle-proxy: --rate: write a candidate, as in --rate slack=1/s,burst=5",
		"--rate off":               "throttle-proxy: --rate: off refuses nothing: write a rate, as in 10/s",
		"--rate 1/s --rate 1/year": "--rate: value 2 of 2: ",
	} {
		if status, _, got := simulate(t, combined, strings.Fields(words)...); status != exitUsage || !strings.Contains(got, want) {
			t.Errorf("%s: got %d %q, want %q", words, status, got, want)
		}
	}
	if status, _, got := simulate(t, "nothing\n\n", "--rate", "1/s"); status != exitFailed || !strings.Contains(got, "no line is a request") {
		t.Errorf("got %d %q", status, got)
	}
	if status, _, got := simulate(t, strings.Repeat("x", longestLine+1), "--rate", "1/s"); status != exitFailed || !strings.Contains(got, "line 1 is longer") {
		t.Errorf("got %d %q", status, got)
	}
	var out, errs bytes.Buffer
	if status := run([]string{"simulate", "/nowhere/log", "--rate", "1/s"}, nil, &out, &errs); status != exitUsage || !strings.Contains(errs.String(), "write the path of an access log") {
		t.Errorf("got %d %q", status, errs.String())
	}
}

// Whatever log comes, memory has a bound: callers that are counted, budgets, and
// requests that wait for their place.
func TestSimulationIsBounded(t *testing.T) {
	c := newCandidate("1/d", "", proxy.Limit{Limit: mustRate(t, "1/d").Limit, By: proxy.By{Client: true}})
	for i := range countedCallers + 1000 {
		for range 2 {
			c.take(&arrival{at: int64(i), client: fmt.Sprint(i)})
		}
	}
	if len(c.whom) != countedCallers || c.others != 1000 || c.refused != countedCallers+1000 {
		t.Errorf("got %d callers, %d others, %d refused", len(c.whom), c.others, c.refused)
	}
	// A request that is further from its place than are kept is taken as late.
	var log bytes.Buffer
	for i := range outOfOrder + 2 {
		at := time.Unix(int64(1000+i), 0)
		if i == outOfOrder+1 {
			at = time.Unix(0, 0)
		}
		fmt.Fprintf(&log, "h - - [%s] \"GET /a HTTP/1.1\" 200\n", at.UTC().Format(combinedTime))
	}
	last := int64(0)
	read, err := readLog(&log, func(a *arrival) {
		if a.at < last {
			t.Error("the clock steps back")
		}
		last = a.at
	})
	if err != nil || read.Late != 1 || read.Requests != outOfOrder+2 {
		t.Errorf("got %+v, %v", read, err)
	}
}

func mustRate(t *testing.T, text string) proxy.Limit {
	t.Helper()
	l, _, err := parseRate(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func FuzzParseLine(f *testing.F) {
	for line := range strings.Lines(combined) {
		f.Add([]byte(line))
	}
	f.Add([]byte(`time=2026-11-26T23:00:51.354Z level=INFO msg=request route=slack outcome=limited duration_ms=0.059 client=127.0.0.1`))
	f.Add([]byte(`{"time":"2026-11-26T23:00:51.354Z","msg":"request","route":"a","outcome":"forwarded"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if a, ok := parseLine(line); ok && a == nil {
			t.Error("a request of nothing")
		}
	})
}

func BenchmarkSimulate(b *testing.B) {
	c := newCandidate("10/s", "", proxy.Limit{By: proxy.By{Client: true}})
	c.limit.Limit.Rate, c.limit.Limit.Period, c.limit.Limit.Burst = 10, time.Second, 10
	var log bytes.Buffer
	observe := requestLog(slog.New(slog.NewTextHandler(&log, nil)))
	for i := range 1000 {
		observe(&proxy.Event{Route: "slack", Method: "POST", Status: 200, ID: "ABCDEFGHIJKLMNOP", Client: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Started: time.Unix(int64(i), 0), Duration: time.Second})
	}
	b.SetBytes(int64(log.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := readLog(bytes.NewReader(log.Bytes()), func(a *arrival) { c.take(a) }); err != nil {
			b.Fatal(err)
		}
	}
}
