package proxy

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
)

// order has the rig's cluster follow an operator.
func order(t *testing.T, r *rig, o cluster.Order) {
	t.Helper()
	if _, err := r.options.Cluster.(*cluster.Memory).Control(o); err != nil {
		t.Fatal(err)
	}
}

func TestPausedRouteIsRefused(t *testing.T) {
	for name, shadow := range map[string]bool{"as it is": false, "also in shadow mode": true} {
		bubble(t, name, func(t *testing.T) {
			r := newRig(t, newGate(t), func(r *Route) { r.Shadow = shadow })
			r.start(post("same"))
			synctest.Wait()
			order(t, r, cluster.Order{Deed: cluster.SetPause, Route: "hook"})
			if !shadow {
				wantOutcome(t, r.do(post("same")), "duplicate") // first: after a pause it would be sent twice
			}
			for _, req := range []*http.Request{post("other"), request(http.MethodGet, "/hook", "")} {
				res := r.do(req)
				wantOutcome(t, res, "paused")
				wantFields(t, res, map[string]string{"Retry-After": "", "X-Should-Retry": "false"})
			}
			order(t, r, cluster.Order{Deed: cluster.TakeBack, Route: "hook"})
			order(t, r, cluster.Order{Deed: cluster.SetPause, Route: "hook", For: 90 * time.Second})
			wantFields(t, r.do(post("other")), map[string]string{"Retry-After": "90", "X-Should-Retry": "true"})
			time.Sleep(90 * time.Second)
			r.over(answers(ok, ""))
			wantOutcome(t, r.do(post("other")), "200")
		})
	}
}

func TestHeadersTellTheLimitThatAnOperatorHasSet(t *testing.T) {
	bubble(t, "limit", func(t *testing.T) {
		r := newRig(t, answers(ok, ""), limits(limit(t, "hook", "100/m")))
		wantFields(t, r.do(post("1")), map[string]string{"RateLimit-Policy": `"hook";q=100;w=60`})
		order(t, r, cluster.Order{Deed: cluster.SetLimit, Tag: "hook", Limits: []string{"hook"}, Rate: limiter.Limit{Rate: 2, Period: time.Second, Burst: 2}})
		wantFields(t, r.do(post("2")), map[string]string{"RateLimit-Policy": `"hook";q=2;w=1`, "RateLimit": `"hook";r=0;t=1`})
		res := r.do(post("3"))
		wantOutcome(t, res, "limited")
		wantFields(t, res, map[string]string{"RateLimit-Policy": `"hook";q=2;w=1`})
		order(t, r, cluster.Order{Deed: cluster.TakeBack, Route: "hook", Tag: "hook", Limits: []string{"hook"}})
		wantFields(t, r.do(post("4")), map[string]string{"RateLimit-Policy": `"hook";q=100;w=60`})
	})
}
