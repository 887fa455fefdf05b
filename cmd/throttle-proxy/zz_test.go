package main

import (
	"fmt"
	"math/rand"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"
	"time"
)

func mockFleet(n int) *fleetStatus {
	r := rand.New(rand.NewSource(3))
	now := time.Date(2026, 11, 27, 14, 3, 7, 0, time.UTC)
	mk := func(name, pol string, f, l, d, e float64) fleetRoute {
		var s []fleetStep
		for i := 0; i < 60; i++ {
			k := 0.0
			if i > 30 {
				k = 1
			}
			s = append(s, fleetStep{int64(5 * f * (0.7 + 0.6*r.Float64())), int64(5 * k * l * (0.5 + r.Float64())), int64(5 * d * r.Float64() * k), int64(5 * e * r.Float64() * 2 * k)})
		}
		return fleetRoute{Name: name, Policy: pol, Steps: s, P50: 124, P99: 841}
	}
	f := &fleetStatus{Replica: "web-0", Now: now, StepSeconds: 5, Store: fleetStore{Address: "x", Answers: 0.41},
		Routes: []fleetRoute{mk("slack", "1/s, burst 5 (Slack's published limit)", 1, 6, 1, 0), mk("payments", "10/s, burst 20", 9, 0, 1, 1), mk("github", "5000/h, burst 5000", 2, 0, 0, 0)},
		Locks:  []fleetLock{{"payments", "QJNE5LS5IBG7WALZ", "web-1", 16}, {"slack", "AZVO6PUGKU3EVEZV", "web-0", 0.41}}, LocksHeld: 2,
		Budgets:   []fleetBudget{{"slack", "slack", "1/s", 0, 5}, {"payments-2", "payments", "1000/d", 112, 1000}},
		CoolDowns: []fleetCoolDown{{"github", true, 42}},
		Callers:   []fleetCaller{{"3f9a2c1b", "slack", "limited", 372}, {"77aa01de", "slack", "duplicate", 41}},
		Changed:   []statusChanged{{What: "limit", Of: "github", Limit: "github", Rate: "100/m,burst=100", Left: 593, By: "uid 1000"}, {What: "pause", Of: "search", Message: "back at noon", By: "uid 1000"}},
	}
	for i := 0; i < 3; i++ {
		f.Replicas = append(f.Replicas, fleetReplica{Name: fmt.Sprint("web-", i), Version: "v1.2.0", Ready: "ready", Answers: .4, Started: now.Add(-3 * time.Hour), InFlight: 4})
	}
	for i := 0; i < n; i++ {
		f.Routes = append(f.Routes, mk(fmt.Sprint("r", i), "10/s", 0, 0, 0, 0))
	}
	return f
}
func TestZZ(t *testing.T) {
	out := func(name string, f *fleetStatus, q string) {
		u, _ := url.ParseQuery(q)
		w := httptest.NewRecorder()
		servePage(w, newPageView(f, u))
		os.WriteFile("/tmp/page_"+name+".html", w.Body.Bytes(), 0o644)
		fmt.Println(name, w.Body.Len())
	}
	out("ok", mockFleet(0), "still")
	f := mockFleet(480)
	f.Replicas[2].Differences = []statusDifference{{"slack", "policy"}}
	out("warn", f, "")
	f = mockFleet(0)
	f.Store.Away = []statusAway{{"", 12, "refused"}}
	f.Store.Policy = "each replica decides by itself"
	for i := range f.Replicas {
		f.Replicas[i].StoreAway = 12
	}
	out("bad", f, "")
}
