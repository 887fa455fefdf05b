package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// What operators see from outside.

var adminAt = regexp.MustCompile(`(?m)admin on ([^\s"]+)`)

// admin returns the URL of the replica's admin listener.
func (r *replica) admin(t *testing.T) string {
	t.Helper()
	match := adminAt.FindStringSubmatch(r.stderr.String())
	if match == nil {
		t.Fatal("the replica has no admin listener")
	}
	return "http://" + match[1]
}

// metrics returns what Prometheus would read, by name.
func (r *replica) metrics(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	text := do(t, http.MethodGet, r.admin(t)+"/metrics", "").body
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// metric returns the sum of a metric's values whose labels have all of these
// values.
func (r *replica) metric(t *testing.T, name string, labels ...string) (sum float64) {
	t.Helper()
	family := r.metrics(t)["throttle_proxy_"+name]
series:
	for _, m := range family.GetMetric() {
		has := map[string]bool{}
		for _, l := range m.GetLabel() {
			has[l.GetValue()] = true
		}
		for _, want := range labels {
			if !has[want] {
				continue series
			}
		}
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sum
}

// Fails if a request is not counted as what it was, a metric breaks the rules of
// its field, or docs/metrics.md does not know one.
func TestMetrics(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 2, "--admin", "127.0.0.1:0", "--register", "hook="+u.URL, "--register", "shadow="+u.URL, "--shadow", "shadow=on",
		"--rate", "hook=3/d", "--rate", "shadow=1/d", "--hold", "0s,unknown=0s")
	r := f.replicas[0]
	first := u.occupy(t, r.url+"/hook", "first")
	expect(t, "a duplicate", post(t, r.url+"/hook", "first"), "409 duplicate")
	wants := func(want float64, name string, labels ...string) {
		t.Helper()
		if got := r.metric(t, name, labels...); got != want {
			t.Errorf("%s %v: got %v, want %v", name, labels, got, want)
		}
	}
	wants(1, "in_flight")
	wants(1, "locks_held")
	u.open()
	expect(t, "the first", <-first, "200")
	for i := range 4 {
		post(t, r.url+"/hook", fmt.Sprint(i))
		post(t, r.url+"/shadow", fmt.Sprint(i))
	}
	post(t, r.url+"/no-such-route/canary", "canary", "X-Api-Key: canary")
	for range 3 {
		do(t, "CANARY", r.url+"/hook", "canary")
	}
	wants(3, "requests_total", "hook", "write", "forwarded", "200")
	wants(5, "requests_total", "hook", "write", "limited", "429")
	wants(1, "requests_total", "hook", "write", "duplicate", "409")
	wants(1, "requests_total", "", "write", "unknown-route", "404")
	wants(3, "shadowed_refusals_total", "shadow", "limited")
	wants(3, "upstream_duration_seconds", "hook")
	wants(0, "budget_remaining", "hook")
	wants(0, "in_flight")
	wants(0, "locks_held")
	wants(1, "store_up")
	eventually(t, "both replicas are known", func() bool { return r.metric(t, "replicas") == 2 })

	text := do(t, http.MethodGet, r.admin(t)+"/metrics", "").body
	if strings.Contains(strings.ToLower(text), "canary") {
		t.Error("what a client sent is in the metrics")
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	documented := map[string]bool{}
	for _, match := range regexp.MustCompile("(?m)^\\| `(throttle_proxy_[a-z_]+)").FindAllStringSubmatch(readFile(t, "../docs/metrics.md"), -1) {
		documented[match[1]] = true
	}
	for name := range r.metrics(t) {
		if strings.HasPrefix(name, "throttle_proxy_") && !documented[name] {
			t.Errorf("docs/metrics.md does not know %s", name)
		}
	}
	// Each rule and each query of the dashboard is about metrics that there are.
	for _, path := range []string{"../deploy/prometheus/rules.yml", "../deploy/grafana/dashboard.json"} {
		for _, name := range regexp.MustCompile(`throttle_proxy_[a-z_]+`).FindAllString(readFile(t, path), -1) {
			if !documented[strings.TrimSuffix(name, "_bucket")] {
				t.Errorf("%s names %s, which docs/metrics.md does not know", path, name)
			}
		}
	}
}

// Fails if an outage is not seen from outside, or its end.
func TestOutageIsSeen(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	s := startStoreUnderTest(t)
	r := startReplicas(t, s.link.URL(), 1, "--admin", "127.0.0.1:0", "--register", "hook="+u.URL, "--rate", "off", "--store-timeout", "300ms", "--lock-ttl", "1m")[0]
	eventually(t, "the store is up", func() bool { return r.metric(t, "store_up") == 1 })
	s.server.Kill()
	const sent = 50
	for i := range sent {
		expect(t, "meanwhile", post(t, r.url+"/hook", fmt.Sprint(i)), "200")
	}
	eventually(t, "the store is down", func() bool { return r.metric(t, "store_up") == 0 })
	for _, listener := range []string{r.url, r.admin(t)} {
		if got := do(t, http.MethodGet, listener+"/-/ready", ""); got.status != http.StatusOK || !strings.HasPrefix(got.body, "degraded: store away ") || !strings.HasSuffix(got.body, "policy local\n") {
			t.Errorf("ready: got %v %q", got, got.body)
		}
		expect(t, "healthy", do(t, http.MethodGet, listener+"/-/healthy", ""), "200")
	}
	if got := r.metric(t, "degraded_requests_total", "hook"); got < sent {
		t.Errorf("got %v degraded requests, want %d", got, sent)
	}
	if r.metric(t, "store_faults_total") == 0 || r.metric(t, "degraded_seconds_total") == 0 {
		t.Error("faults and degraded time are not counted")
	}
	var status struct {
		Ready string
		Store struct {
			Breaker string
			Away    []struct{ Fault string }
		}
	}
	if err := json.Unmarshal([]byte(do(t, http.MethodGet, r.admin(t)+"/-/status", "").body), &status); err != nil {
		t.Fatal(err)
	}
	if status.Store.Breaker != "open" || len(status.Store.Away) != 1 || status.Store.Away[0].Fault == "" {
		t.Errorf("got %+v, want the outage in the status", status)
	}
	s.server.Restart()
	eventually(t, "the store is up again", func() bool { return r.metric(t, "store_up") == 1 })
	// One line for each request and each change: an outage does not flood the log.
	log := r.stderr.String()
	if away, back, requests := strings.Count(log, `msg="store away"`), strings.Count(log, `msg="store back"`), strings.Count(log, "msg=request"); away != 1 || back != 1 || requests != sent {
		t.Errorf("got %d away, %d back and %d requests in the log, want 1, 1 and %d", away, back, requests, sent)
	}
}

// Fails if the status does not tell what is held, by whom, and who differs.
func TestStatus(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 1, "--admin", "127.0.0.1:0", "--replica-name", "one", "--register", "hook="+u.URL+"/canary-path", "--rate", "10/d")
	startReplicas(t, f.server.URL(), 1, "--replica-name", "two", "--register", "hook="+u.URL+"/canary-path", "--rate", "20/d")
	r := f.replicas[0]
	first := u.occupy(t, r.url+"/hook", "canary", "Authorization: canary")
	var status struct {
		Replica, ID, Version, Ready string
		Routes                      map[string]string
		Store                       struct{ Address, Breaker string }
		Replicas                    struct {
			Live  int
			Peers []struct {
				Name        string
				Differences []struct{ Route, In string }
			}
		}
		Budgets []struct {
			Limit, Of string
			Remaining int
		}
		Locks struct {
			Held   int
			Oldest []struct{ Of string }
		}
	}
	var body string
	eventually(t, "the other is known", func() bool {
		body = do(t, http.MethodGet, r.admin(t)+"/-/status", "").body
		if err := json.Unmarshal([]byte(body), &status); err != nil {
			t.Fatal(err)
		}
		return status.Replicas.Live == 2 && len(status.Replicas.Peers) == 1 && len(status.Replicas.Peers[0].Differences) == 1
	})
	peer := status.Replicas.Peers[0]
	if peer.Name != "two" || peer.Differences[0].Route != "hook" || peer.Differences[0].In != "policy" {
		t.Errorf("got peer %+v, want one that has another policy", peer)
	}
	if status.Replica != "one" || status.Ready != "ok" || status.Routes["hook"] == "" || status.Store.Breaker != "closed" {
		t.Errorf("got %s", body)
	}
	if len(status.Budgets) != 1 || status.Budgets[0].Remaining != 10 && status.Budgets[0].Remaining != 9 {
		t.Errorf("got budgets %+v, want hook's", status.Budgets)
	}
	if status.Locks.Held != 1 || status.Locks.Oldest[0].Of != "hook" {
		t.Errorf("got locks %+v, want the one in flight", status.Locks)
	}
	if strings.Contains(body, "canary") || strings.Contains(body, u.URL) {
		t.Errorf("the status tells a secret: %s", body)
	}
	expect(t, "pprof by TCP", do(t, http.MethodGet, r.admin(t)+"/debug/pprof/goroutine?debug=1", ""), "403")
	expect(t, "on the clients' port", do(t, http.MethodGet, r.url+"/metrics", ""), "404 unknown-route")
	u.open()
	expect(t, "the first", <-first, "200")
}
