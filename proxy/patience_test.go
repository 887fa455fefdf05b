package proxy

import (
	"testing"
	"testing/synctest"
	"time"
)

// Shadow refuses nothing, and so it lets nothing wait.
func TestShadowDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, answers(ok, "done"), limits(limit(t, "hook", "1/h,burst=1")), shadow, func(r *Route) { r.Wait = 2 * time.Hour })
		began := time.Now()
		for i := range 3 {
			wantOutcome(t, r.do(post(string(rune('a'+i)))), "200")
			if e := <-r.events; (e.Shadowed == ReasonLimited) != (i > 0) {
				t.Errorf("number %d: got shadowed=%q", i, e.Shadowed)
			}
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("waited %v in shadow", waited)
		}
	})
}

// The routes of a pool wait for a budget that they share each for its own time, and
// say of it the longest.
func TestPoolsBudgetIsWaitedForAsLongAsAnyRouteDoes(t *testing.T) {
	pooled := func(name string, wait time.Duration) Route {
		own, shared := limit(t, name, "1/s"), limit(t, "team", "1/s")
		return Route{Name: name, Upstream: mustParse(t, "http://upstream.example"), Pool: "team", Limits: []Limit{own, shared}, Wait: wait}
	}
	p, err := New([]Route{pooled("patient", time.Minute), pooled("hasty", 0)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]time.Duration{"patient": {time.Minute, time.Minute}, "hasty": {0, time.Minute}} {
		for i, c := range p.routes[name].charges {
			if c.Wait != want[i] {
				t.Errorf("%s: got %v for the budget %s, want %v", name, c.Wait, c.Name, want[i])
			}
		}
	}
}
