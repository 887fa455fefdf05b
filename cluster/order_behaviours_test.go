package cluster

import (
	"testing"
	"time"
)

// orderBehaviours are in which order it refuses, and what a replica knows by itself.
var orderBehaviours = map[string]func(t *testing.T, fleet []replica){
	"A cool-down comes before a duplicate, and that before a limit": func(t *testing.T, fleet []replica) {
		one := charge("one", "1/h")
		admit(t, fleet[0], request("a", one))
		for _, r := range fleet {
			expect(t, r, Duplicate, under(request("a", one), ""))
		}
		fleet[1].Pause("slack", "", time.Minute)
		for _, r := range fleet[1:] { // the first knows by itself that it is a duplicate
			expect(t, r, CoolingDown, under(request("a", one), ""))
		}
		expect(t, fleet[0], CoolingDown, under(request("b", one), ""))
	},
	"A replica knows its own refusals without asking": func(t *testing.T, fleet []replica) {
		r := fleet[0]
		one, two := charge("one", "1/h"), charge("two", "2/h")
		unknown := func(a Ask) {
			t.Helper()
			if v, known := r.Refusal(a); known {
				t.Errorf("got %+v, want nothing known", v)
			}
		}
		for range 3 {
			unknown(request("a", one, two))
		}
		lock := admit(t, r, request("a", one, two)).Lock
		if v, known := r.Refusal(request("a")); !known || v.Outcome != Duplicate || v.Holder.RequestID == "" {
			t.Errorf("in flight: got %+v, %t, want a duplicate", v, known)
		}
		lock.Release(time.Minute)
		if v, known := r.Refusal(request("a")); !known || v.Outcome != Held || v.Holder.RequestID == "" {
			t.Errorf("on hold: got %+v, %t, want held", v, known)
		}
		expect(t, r, Limited, request("b", one, two))
		// Before the body is read there is no fingerprint.
		v, known := r.Refusal(unlocked(one, two))
		if !known || v.Outcome != Limited || !v.Decisions[0].Refused() || v.Decisions[0].NextAfter <= 0 || v.Decisions[1].Refused() {
			t.Errorf("limited: got %+v, %t, want the first to refuse", v, known)
		}
		unknown(request("c", two))
		admit(t, r, request("c", two))
	},
	"What a replica knows by itself ends in time": func(t *testing.T, fleet []replica) {
		r := fleet[0]
		limit := charge("limit", "20/s,burst=1")
		admit(t, r, request("a")).Lock.Release(50 * time.Millisecond)
		eventually(t, "limited", func() bool { return ask(t, r, unlocked(limit)).Outcome == Limited })
		eventually(t, "nothing known", func() bool {
			_, known := r.Refusal(request("a", limit))
			return !known
		})
	},
}
