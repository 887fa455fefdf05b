package main

import (
	"io"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
	"throttle-proxy/proxy"
)

// Fails if a metric breaks Prometheus's rules of names, is not what its Event says, or
// is not the same one in docs/metrics.md.
func TestMetrics(t *testing.T) {
	c := parse(t, "--register a=http://host --rate 2/s,name=budget --rate a=1/s,candidate,name=tried --concurrency 3,name=slots --redis redis://127.0.0.1:1")
	store := cluster.NewMemory("replica")
	r, err := newReplica(c, store, &life{logger: slog.New(slog.DiscardHandler)}, &health{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	lines := newLogWriter(io.Discard)
	defer lines.close()
	m := newMetrics(c, r, store, lines)
	value := func(want float64, name string, labels ...string) {
		t.Helper()
		families, err := m.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := 0.0
		for _, family := range families {
			if family.GetName() != "throttle_proxy_"+name {
				continue
			}
			for _, series := range family.Metric {
				values := ""
				for _, label := range series.Label {
					values += " " + label.GetValue()
				}
				if values == " "+strings.Join(labels, " ") || len(labels) == 0 {
					got += series.GetCounter().GetValue() + series.GetGauge().GetValue() + float64(series.GetHistogram().GetSampleCount())
				}
			}
		}
		if got != want {
			t.Errorf("%s %v: got %v, want %v", name, labels, got, want)
		}
	}
	value(0, "limit_refusals_total", "budget", "a")
	if got, err := testutil.GatherAndCount(m.registry, "throttle_proxy_limit_refusals_total", "throttle_proxy_candidate_refusals_total", "throttle_proxy_cool_downs_total", "throttle_proxy_slots_used"); got != 5 || err != nil {
		t.Errorf("got %d series before anything has happened, want 5: %v", got, err)
	}

	admitted := proxy.Event{
		Route: "a", Method: "CANARY", Status: 200, Duration: time.Second, Verdict: time.Millisecond, Waited: time.Second, Upstream: time.Second,
		Candidates: []string{"tried"}, CoolDown: time.Second, Decisions: []limiter.Decision{{Allowed: true}}, TraceID: strings.Repeat("0", 32), TraceKept: true,
	}
	for _, e := range []proxy.Event{
		admitted,
		{Route: "a", Method: "POST", Status: 429, Reason: proxy.ReasonLimited, Limits: []string{"budget"}},
		{Route: "a", Method: "GET", Status: 429, Reason: proxy.ReasonBusy, Limits: []string{"slots"}},
		{Route: "a", Method: "POST", Status: 200, Shadowed: proxy.ReasonLimited, Limits: []string{"budget"}},
		{Route: "a", Method: "POST", Status: 200, Degraded: true, StoreFault: "timeout"},
		{Route: "a", Method: "POST", Status: 201, Joined: true},
		{Route: "a", Method: "POST", Status: 201, Replayed: true},
		{Route: "a", Method: "POST", Status: 409, Reason: proxy.ReasonNotShareable},
		{Route: "a", Method: "POST", Status: 422, Reason: proxy.ReasonKeyReused},
		{Route: "a", Method: "POST", Status: 500, Reason: proxy.ReasonInternal, Panic: "a mistake"},
	} {
		m.observe(&e)
	}
	if _, err := store.Control(cluster.Order{Deed: cluster.SetPause, Route: "a"}); err != nil {
		t.Fatal(err)
	}
	r.panics.seen.Add(1)
	lines.dropped.Add(7)
	value(1, "requests_total", "read", "busy", "a", "429")
	value(3, "requests_total", "write", "forwarded", "a", "200")
	value(1, "requests_total", "write", "joined", "a", "201")
	value(1, "requests_total", "write", "replayed", "a", "201")
	value(1, "requests_total", "write", "not-shareable", "a", "409")
	value(1, "requests_total", "write", "key-reused", "a", "422")
	value(1, "limit_refusals_total", "budget", "a")
	value(1, "limit_refusals_total", "slots", "a")
	value(1, "candidate_refusals_total", "tried", "a")
	value(1, "shadowed_refusals_total")
	value(1, "degraded_requests_total", "timeout", "a")
	value(1, "wait_duration_seconds", "a")
	value(1, "cool_downs_total", "a")
	value(3, "slots", "slots", "a")
	value(0, "slots_used", "slots", "a")
	value(1, "changed_by_hand", "a", "pause")
	value(1, "changes_by_hand_total", "pause")
	value(0, "changes_by_hand_total", "unlock")
	value(1, "panics_total")
	value(7, "log_lines_dropped_total")

	problems, err := testutil.GatherAndLint(m.registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("got %v, %v", problems, err)
	}
	page := documentation(t)[root+"docs/metrics.md"]
	families, _ := m.registry.Gather()
	there := map[string]bool{"throttle_proxy_store_faults_total": true, "throttle_proxy_changed_by_hand": true} // where there are some
	for _, family := range families {
		name := family.GetName()
		there[name] = true
		if strings.HasPrefix(name, "throttle_proxy_") && !strings.Contains(page, "\n| `"+name) {
			t.Errorf("docs/metrics.md does not have %s", name)
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(throttle_proxy_[a-z_]+)(?:\\{([a-z_,]+)\\})?`").FindAllStringSubmatch(page, -1) {
		if !there[row[1]] {
			t.Errorf("docs/metrics.md has %s, which there is not", row[1])
		}
		for _, family := range families {
			if family.GetName() == row[1] && len(family.Metric[0].Label) != len(strings.FieldsFunc(row[2], func(r rune) bool { return r == ',' })) {
				t.Errorf("docs/metrics.md has %s with the labels %q, which are others", row[1], row[2])
			}
		}
	}
}
