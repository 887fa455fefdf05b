package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// promtool runs Prometheus's own tool, which must be content.
func promtool(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("promtool", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v (make test installs what is missing)\n%s", strings.Join(args, " "), err, out)
	}
}

// Fails if an alert fires at another time than it is said to, or says something else,
// or if there is one without a test, or without a row in docs/metrics.md.
func TestRules(t *testing.T) {
	t.Parallel()
	const dir = "../deploy/prometheus"
	promtool(t, dir, "check", "rules", "--lint=all", "--lint-fatal", "rules.yml")
	promtool(t, dir, "test", "rules", "rules_test.yml")
	rules, tests, page := readFile(t, dir+"/rules.yml"), readFile(t, dir+"/rules_test.yml"), readFile(t, "../docs/metrics.md")
	alerts := regexp.MustCompile(`(?m)- alert: (\w+)$`).FindAllStringSubmatch(rules, -1)
	if len(alerts) < 10 {
		t.Errorf("got %d alerts, want all of them", len(alerts))
	}
	for _, alert := range alerts {
		if !strings.Contains(tests, "alertname: "+alert[1]+"\n") {
			t.Errorf("%s is not tested", alert[1])
		}
		if !strings.Contains(page, "| `"+alert[1]+"` |") {
			t.Errorf("docs/metrics.md does not say what to do about %s", alert[1])
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// prometheus is a real one.
type prometheus struct{ url string }

// startPrometheus starts one that scrapes replicas every so often, with the rules of
// deploy/, whose alerts fire without a pause.
func startPrometheus(t *testing.T, every time.Duration, replicas []*replica) *prometheus {
	t.Helper()
	dir := t.TempDir()
	rules := regexp.MustCompile(`(?m)^ +for: .*\n`).ReplaceAllString(readFile(t, "../deploy/prometheus/rules.yml"), "")
	var targets []string
	for _, r := range replicas {
		targets = append(targets, strings.TrimPrefix(r.admin(t), "http://"))
	}
	list, _ := json.Marshal(targets)
	config := fmt.Sprintf("global: {scrape_interval: %s, scrape_timeout: %[1]s, evaluation_interval: %[1]s}\nrule_files: [rules.yml]\nscrape_configs: [{job_name: throttle-proxy, static_configs: [{targets: %s}]}]\n", every, list)
	for name, text := range map[string]string{"rules.yml": rules, "prometheus.yml": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	promtool(t, dir, "check", "config", "prometheus.yml")
	addr := net.JoinHostPort("127.0.0.1", redistest.FreePort(t))
	launch(t, exec.Command("prometheus", "--config.file="+dir+"/prometheus.yml", "--storage.tsdb.path="+dir+"/data", "--web.listen-address="+addr,
		"--enable-feature=exemplar-storage", "--log.level=warn"))
	p := &prometheus{"http://" + addr}
	eventually(t, "Prometheus is ready", func() bool {
		res, err := client.Get(p.url + "/-/ready")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	return p
}

// ask returns the data of an answer of Prometheus's.
func (p *prometheus) ask(t *testing.T, path string, query url.Values, data any) {
	t.Helper()
	a := do(t, http.MethodGet, p.url+path+"?"+query.Encode(), "")
	var all struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal([]byte(a.body), &all); err != nil || all.Status != "success" {
		t.Fatalf("%s %v: %d %s, %v", path, query, a.status, all.Error, err)
	}
	if err := json.Unmarshal(all.Data, data); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// series returns how many a query finds now.
func (p *prometheus) series(t *testing.T, expr string) int {
	t.Helper()
	var found struct{ Result []json.RawMessage }
	p.ask(t, "/api/v1/query", url.Values{"query": {expr}}, &found)
	return len(found.Result)
}

// dashboardQueries returns the queries of deploy/grafana/dashboard.json as Grafana
// asks them, by what each is for.
func dashboardQueries(t *testing.T) map[string]string {
	t.Helper()
	type targets []struct{ RefID, Expr string }
	var board struct {
		Panels []struct {
			Title, Type string
			Targets     targets
		}
		Templating  struct{ List []struct{ Name string } }
		Annotations struct {
			List []struct{ Name, Expr string }
		}
	}
	if err := json.Unmarshal([]byte(readFile(t, "../deploy/grafana/dashboard.json")), &board); err != nil {
		t.Fatal(err)
	}
	variables := []string{"$__rate_interval", "10s", "$__range", "1m"}
	for _, v := range board.Templating.List {
		variables = append(variables, "$"+v.Name, ".*")
	}
	queries := map[string]string{}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			queries[p.Title+" "+target.RefID] = strings.NewReplacer(variables...).Replace(target.Expr)
		}
	}
	for name, expr := range queries {
		if strings.Contains(expr, "$") {
			t.Errorf("%s: a variable that the dashboard does not have: %s", name, expr)
		}
	}
	return queries
}

// Fails if a query of the dashboard finds nothing while all that it is about happens,
// if a rule cannot be evaluated, or if the death of Redis raises no alert.
func TestDashboardAndAlertsInPrometheus(t *testing.T) {
	t.Parallel()
	u := pausing(t, http.StatusTooManyRequests, "Retry-After: 1")
	defer u.open()
	c := newCollector(t)
	f := startFleet(t, 3, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.URL, "--admin", "127.0.0.1:0", "--store-timeout", "300ms", "--lock-ttl", "3s",
		"--register", "hook="+u.URL, "--register", "limited="+u.URL, "--register", "waits="+u.URL, "--register", "slots="+u.URL, "--register", "shadow="+u.URL,
		"--register", "paused="+u.URL, "--register", "gone=http://127.0.0.1:"+redistest.FreePort(t),
		"--rate", "1000/s", "--rate", "limited=1/m", "--rate", "limited=1/s,candidate", "--rate", "waits=50/s,burst=1", "--wait", "waits=1m", "--rate", "shadow=1/d", "--shadow", "shadow=on",
		"--rate", "hook=1000/s", "--rate", "hook=1/d,candidate,name=tried", "--concurrency", "slots=1", "--hold", "0s,unknown=0s")
	p := startPrometheus(t, 500*time.Millisecond, f.replicas)

	ended := make(chan struct{})
	var traffic sync.WaitGroup
	defer traffic.Wait()
	defer sync.OnceFunc(func() { close(ended) })()
	for _, send := range []func(){
		func() { post(t, f.url+"/hook", fmt.Sprint(nonces.Add(1))) },
		func() {
			each(2, 2, func(int) { post(t, f.url+"/hook", "equal", lingers, lingerField+": 20ms", nonceField+": equal") })
		},
		func() { post(t, f.url+"/limited", fmt.Sprint(nonces.Add(1))) },
		func() { each(3, 3, func(i int) { post(t, f.url+"/waits", fmt.Sprint(i, nonces.Add(1))) }) },
		func() {
			each(3, 3, func(i int) {
				post(t, f.url+"/slots", fmt.Sprint(i, nonces.Add(1)), lingers, lingerField+": 20ms")
			})
		},
		func() { post(t, f.url+"/shadow", fmt.Sprint(nonces.Add(1))) },
		func() { post(t, f.url+"/paused", fmt.Sprint(nonces.Add(1)), asksToPause) },
		func() { post(t, f.url+"/gone", fmt.Sprint(nonces.Add(1))) },
		func() { post(t, f.url+"/no-such-route", "") },
	} {
		traffic.Go(func() {
			for {
				select {
				case <-ended:
					return
				case <-time.After(20 * time.Millisecond):
					send()
				}
			}
		})
	}

	queries := dashboardQueries(t)
	if len(queries) < 30 {
		t.Fatalf("got %d queries, want all of the dashboard's", len(queries))
	}
	// What is there only while Redis is away.
	outage := []string{"Faults A", "Decided without it A"}
	finds := func(when func(name string) bool) {
		t.Helper()
		for name, expr := range queries {
			if when(name) {
				eventually(t, name+" finds something: "+expr, func() bool { return p.series(t, expr) > 0 })
			}
		}
	}
	finds(func(name string) bool { return !slices.Contains(outage, name) })
	eventually(t, "three replicas are scraped, and know of each other", func() bool {
		return p.series(t, "count(throttle_proxy_build_info) == 3") == 1 && p.series(t, "min(throttle_proxy_replicas) == 3") == 1
	})
	for _, expr := range []string{
		`sum(throttle_proxy_limit_refusals_total{route="limited",limit="limited"}) > 0`, `sum(throttle_proxy_limit_refusals_total{route="slots"}) > 0`,
		`sum(throttle_proxy_candidate_refusals_total{limit="tried"}) > 0`, `max(throttle_proxy_slots{of="slots"}) == 1`, `sum(throttle_proxy_wait_duration_seconds_count{route="waits"}) > 0`,
	} {
		eventually(t, expr, func() bool { return p.series(t, expr) == 1 })
	}
	var examples []struct {
		Exemplars []struct{ Labels map[string]string }
	}
	eventually(t, "Prometheus keeps exemplars", func() bool {
		now := time.Now().Unix()
		p.ask(t, "/api/v1/query_exemplars", url.Values{"query": {"throttle_proxy_request_duration_seconds_bucket"}, "start": {fmt.Sprint(now - 600)}, "end": {fmt.Sprint(now + 60)}}, &examples)
		return len(examples) > 0 && len(examples[0].Exemplars[0].Labels["trace_id"]) == 32
	})
	firing := func() (names []string) {
		var alerts struct {
			Alerts []struct {
				State  string
				Labels map[string]string
			}
		}
		p.ask(t, "/api/v1/alerts", nil, &alerts)
		for _, a := range alerts.Alerts {
			if a.State == "firing" {
				names = append(names, a.Labels["alertname"])
			}
		}
		return names
	}
	if names := firing(); slices.Contains(names, "ThrottleProxyStoreAway") {
		t.Errorf("%v fire while Redis lives", names)
	}
	eventually(t, "an upstream that is gone raises an alert", func() bool { return slices.Contains(firing(), "ThrottleProxyUpstreamFails") })

	f.server.Kill()
	eventually(t, "the death of Redis raises an alert", func() bool { return slices.Contains(firing(), "ThrottleProxyStoreAway") })
	finds(func(name string) bool { return slices.Contains(outage, name) })

	var groups struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	p.ask(t, "/api/v1/rules", nil, &groups)
	rules := 0
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			rules++
			if rule.Health != "ok" {
				t.Errorf("rule %s: %s, %s", rule.Name, rule.Health, rule.LastError)
			}
		}
	}
	if rules < 10 {
		t.Errorf("got %d rules, want all of them", rules)
	}
}
