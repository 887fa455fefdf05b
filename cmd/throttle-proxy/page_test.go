package main

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"throttle-proxy/cluster"
)

// bigFleet is what so many replicas with so many busy routes report, the first of
// which refuse.
func bigFleet(t *testing.T, replicas, routes, refusing int) *fleetStatus {
	t.Helper()
	policies := map[string]string{}
	for i := range routes {
		name := fmt.Sprintf("route-%03d", i)
		policies[name] = "10/s, burst 20; repeats refused while in flight"
	}
	f := &fleetStatus{Asked: "web-0", At: time.Now(), StepSeconds: stepTime.Seconds(), Store: fleetStore{Address: "redis://r", TripMS: .4}}
	sum := newFleetSum()
	for i := range replicas {
		report := replicaReport{Ready: "ok", TripMS: .4, Routes: map[string]routeReport{}}
		for r := range routes {
			route := routeReport{Took: map[int]uint32{40: 100}}
			for s := range route.Steps {
				route.Steps[s].Forwarded = 1 + (s*r)%7
				if r < refusing {
					route.Steps[s].Limited = r + 1
				}
			}
			if r < refusing {
				route.Most = []callerCount{{fmt.Sprintf("%08x", r), "limited", r}}
				report.Budgets = append(report.Budgets, fleetBudget{fmt.Sprintf("route-%03d", r), fmt.Sprintf("route-%03d", r), "10/s", 0, 20})
			}
			report.Routes[fmt.Sprintf("route-%03d", r)] = route
		}
		replica := fleetReplica{Name: fmt.Sprint("web-", i), StartedAt: time.Now()}
		replica.tell(report)
		f.Replicas = append(f.Replicas, replica)
		sum.add(replica.Name, report)
	}
	f.Changed = []statusChanged{}
	sum.tell(f, policies)
	return f
}

func pageOf(t *testing.T, f *fleetStatus, query string) string {
	t.Helper()
	values, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	writePage(w, newPageView(f, values))
	if w.Code != 200 {
		t.Fatalf("got %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// With many routes the page shows those with trouble, and says how many there are
// besides.
func TestPage_IsShortHoweverLargeTheFleet(t *testing.T) {
	f := bigFleet(t, 50, 500, 20)
	page := pageOf(t, f, "")
	for _, want := range []string{"route-019", "route-008", "and 488 more (8 of them with refusals)", "and 30 more", "and 10 more", "All is well: 50 replicas"} {
		if !strings.Contains(page, want) {
			t.Errorf("it has no %q", want)
		}
	}
	if strings.Contains(page, `<th scope="row">route-007<span`) || len(page) > 100<<10 {
		t.Errorf("got %d bytes, want the worst routes alone in at most 100 KiB", len(page))
	}
	all := pageOf(t, f, "all&still")
	if !strings.Contains(all, "route-499") || strings.Contains(all, "http-equiv") || strings.Contains(all, "more") {
		t.Error("?all&still cuts something, or comes again")
	}
	if page = pageOf(t, bigFleet(t, 1, 20, 0), ""); !strings.Contains(page, "and 8 more without refusals") || !strings.Contains(page, "Nothing is refused now") {
		t.Error("it does not say that nothing is refused")
	}
	text, _ := json.Marshal(f)
	t.Logf("50 replicas, 500 routes: page %d bytes, all of it %d, JSON %d", len(pageOf(t, f, "")), len(all), len(text))
}

// What operators have written is shown as they wrote it, and the style is the one
// that the policy allows.
func TestPage_IsWhatItsPolicyAllows(t *testing.T) {
	f := bigFleet(t, 1, 1, 0)
	f.Changed = []statusChanged{{What: "pause", Of: "route-000", Message: `<script>alert("x")</script>`, By: "uid 0"}}
	page := pageOf(t, f, "")
	style := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindStringSubmatch(page)
	if style == nil || !strings.Contains(pagePolicy, "'"+hashOf(style[1])+"'") {
		t.Error("the style is not the one of the policy")
	}
	for _, never := range []string{"<script", "javascript:", "http://www", "https://", " style=", "ZgotmplZ"} {
		if rest := strings.ReplaceAll(page, "http://www.w3.org/2000/svg", ""); strings.Contains(rest, never) {
			t.Errorf("it has %q", never)
		}
	}
	if !strings.Contains(page, "&lt;script&gt;") {
		t.Error("the message is not shown")
	}
}

// The first line says what is wrong, the worst first.
func TestPage_SaysHowItIs(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*fleetStatus)
		want   []string
	}{
		"without a store": {func(f *fleetStatus) { f.Store.Address = "memory" }, []string{"ok", "All is well: this replica decides by itself"}},
		"away": {func(f *fleetStatus) {
			f.Store.Away = []statusAway{{"", 12, "refused"}}
			f.Store.Meanwhile = "it decides"
		}, []string{"bad", "Redis has been away since ", "Meanwhile it decides."}},
		"a part away":  {func(f *fleetStatus) { f.Store.Away = []statusAway{{"slack", 12, "timeout"}} }, []string{"bad", "Redis’ part of slack has been away"}},
		"away for one": {func(f *fleetStatus) { f.Replicas[1].Away = []statusAway{{"", 3, "timeout"}} }, []string{"bad", "Redis is away for web-1 alone"}},
		"differs": {func(f *fleetStatus) {
			f.Replicas[2].Differences = []cluster.Difference{{Route: "a", In: "policy"}, {Route: "b", In: "upstream"}, {Route: "c", In: "absence"}, {Route: "d", In: "policy"}}
		}, []string{"warn", "web-2 differs from web-0 in the policy of a, the upstream of b, the absence of c, 1 more"}},
		"missing": {func(f *fleetStatus) { f.Replicas[2].State, f.Replicas[2].SilentFor = stateMissing, 70 }, []string{"warn", "web-2 is missing", "1m10s ago"}},
		"two things": {func(f *fleetStatus) {
			f.Replicas[1].State = stateMissing
			f.Store.Away = []statusAway{{"", 12, "refused"}}
		}, []string{"bad", "Redis has been away since ", ", and 1 more", "web-1 is missing"}},
		"silent": {func(f *fleetStatus) { f.Replicas[1].State = stateSilent }, []string{"ok", "This is without web-1, which is not heard of."}},
	} {
		f := bigFleet(t, 3, 1, 0)
		test.change(f)
		page := pageOf(t, f, "")
		if !strings.Contains(page, `<section class="state `+test.want[0]+`"`) {
			t.Errorf("%s: it is not %s", name, test.want[0])
		}
		for _, want := range test.want[1:] {
			if !strings.Contains(page, want) {
				t.Errorf("%s: it has no %q", name, want)
			}
		}
	}
}

func TestDrawPlot(t *testing.T) {
	p := drawPlot([]plotStep{{}, {forwarded: 10}, {forwarded: 10, limited: 5}, {duplicates: 5, failed: 5}}, 2)
	if p.Forwarded != "M76.0 6.0H228.0V30.0H76.0z" || p.Limited == "" || p.Duplicates == "" || p.Failed == "" || p.Ticks != "M152.0 0V56" {
		t.Errorf("got %+v", p)
	}
	if p := drawPlot(nil, 12); p.Forwarded+p.Limited+p.Ticks != "" {
		t.Errorf("of nothing: got %+v", p)
	}
}
