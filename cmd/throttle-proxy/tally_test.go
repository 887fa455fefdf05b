package main

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
)

// A tally has what ended in the last minutes, and nothing else.
func TestTally(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &config{routes: []proxy.Route{{Name: "slack"}, {Name: "quiet"}}}
		tally := newTally(c)
		for _, e := range []proxy.Event{
			{Status: 200, Upstream: 100 * time.Millisecond},
			{Status: 404, Upstream: time.Millisecond, Waited: time.Second},
			{Status: 500, Upstream: time.Millisecond},
			{Status: 502, Reason: proxy.ReasonUpstreamRefused},
			{Status: 499, Reason: proxy.ReasonUpstreamClosed},
			{Status: 429, Reason: proxy.ReasonLimited, Caller: "aa"},
			{Status: 429, Reason: proxy.ReasonBusy, Caller: "bb"},
			{Status: 429, Reason: proxy.ReasonCoolingDown},
			{Status: 503, Reason: proxy.ReasonPaused},
			{Status: 409, Reason: proxy.ReasonDuplicate},
			{Status: 409, Reason: proxy.ReasonHeld},
			{Status: 409, Reason: proxy.ReasonNotShareable},
			{Status: 409, Reason: proxy.ReasonOutcomeUnknown},
			{Status: 422, Reason: proxy.ReasonKeyReused},
			{Status: 400, Reason: proxy.ReasonBadPath},
			{Status: 499, Reason: proxy.ReasonClientGone},
			{Status: 429, Reason: proxy.ReasonLimited, Caller: "aa"},
		} {
			e.Route = "slack"
			tally.observe(&e)
		}
		tally.observe(&proxy.Event{Status: 404, Reason: proxy.ReasonUnknownRoute})
		want := counted{Forwarded: 2, Limited: 5, Duplicates: 5, Errors: 3, Other: 2}
		report := func() (routeReport, bool) { return tally.routes["slack"].report(time.Now()) }
		if _, ok := report(); ok {
			t.Error("it tells of a step that has not ended")
		}
		time.Sleep(stepTime)
		r, ok := report()
		if got := r.Steps[tallySteps-1]; !ok || got != want || r.Paused != 2 || r.Waited != 1 {
			t.Errorf("got %+v, %d paused, %d waited, want %+v, 2 and 1", got, r.Paused, r.Waited, want)
		}
		if len(r.Most) != 2 || r.Most[0] != (callerCount{"aa", "limited", 2}) || r.Most[1] != (callerCount{"bb", "busy", 1}) {
			t.Errorf("got %v, want aa and bb", r.Most)
		}
		if got := quantile(r.Took, .99); math.Abs(got-100) > 20 {
			t.Errorf("got %v ms, want about 100", got)
		}
		time.Sleep(time.Minute)
		if r, _ = report(); r.Paused != 0 || len(r.Took) > 0 || r.Steps[tallySteps-1-minuteSteps] != want {
			t.Errorf("a minute later: got %+v", r)
		}
		time.Sleep(5 * time.Minute)
		if r, ok := report(); ok || len(r.Most) > 0 {
			t.Errorf("minutes later: got %+v, want nothing", r)
		}
		if _, ok := tally.routes["quiet"].report(time.Now()); ok {
			t.Error("a route without requests has a report")
		}
	})
}

// Who is refused often is found among any number of others.
func TestTopCallers(t *testing.T) {
	var top topCallers
	for i := range 10_000 {
		top.count(callerOf{fmt.Sprint("rare ", i), "limited"})
		if i%10 == 0 {
			top.count(callerOf{"often", "limited"})
		}
	}
	if got := merge(top); got[0].Caller != "often" || got[0].Refused < 1000 || len(top) > mostCounted {
		t.Errorf("got %v of %d, want the one that was refused often", got, len(top))
	}
}

// A report is as it was, and never too large: what has the least to tell is left out.
func TestReplicaReport_Pack(t *testing.T) {
	fill := func(routes int) replicaReport {
		r := replicaReport{Ready: "ok", Routes: map[string]routeReport{}}
		for i := range routes {
			route := routeReport{Took: map[int]uint32{3: uint32(i), 50: 7}, Most: []callerCount{{fmt.Sprintf("%08x", i*7919), "limited", i}}}
			for s := range route.Steps {
				route.Steps[s] = counted{Forwarded: i*s%977 + 1, Limited: i}
			}
			r.Routes[fmt.Sprint("route-", i)] = route
		}
		return r
	}
	small := fill(3)
	got, err := unpackReport(fill(3).pack(cluster.MaxReport))
	a, _ := json.Marshal(small)
	if b, _ := json.Marshal(got); err != nil || string(a) != string(b) {
		t.Errorf("got %s and %v, want %s", b, err, a)
	}
	packed := fill(2000).pack(cluster.MaxReport)
	got, err = unpackReport(packed)
	if _, most := got.Routes["route-1999"]; err != nil || len(packed) > cluster.MaxReport || len(got.Routes) < 50 || !most {
		t.Errorf("got %d bytes with %d routes and %v, want those with most refusals in at most %d", len(packed), len(got.Routes), err, cluster.MaxReport)
	}
	if _, err := unpackReport(packed[:len(packed)/2]); err == nil {
		t.Error("half a report is read")
	}
	t.Logf("2000 busy routes: %d bytes for %d", len(packed), len(got.Routes))
}
