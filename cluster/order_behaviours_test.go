package cluster

import (
	"testing"
	"time"
)

// orderBehaviours are in which order it refuses, and what a replica knows by itself.
var orderBehaviours = map[string]func(t *testing.T, fleet []replica){
	"A duplicate is a duplicate first, whatever is spent and cooling down": func(t *testing.T, fleet []replica) {
		knowEachOther(t, fleet)
		one := charge("one", "1/h")
		lock := admit(t, fleet[0], under(request("a", one), "")).Grant
		for _, r := range fleet {
			expect(t, r, Duplicate, under(request("a", one), ""))
			expect(t, r, Limited, under(request("b", one), "")) // known from here on
			expect(t, r, Duplicate, under(request("a", one), ""))
		}
		fleet[1].Pause("slack", "", time.Minute, 429)
		for _, r := range fleet {
			v := expect(t, r, Duplicate, under(request("a", one), ""))
			if v.Holder.Replica != "replica-0" || v.Holder.Age < 0 || v.Holder.Age > time.Minute {
				t.Errorf("got holder %+v, want replica-0", v.Holder)
			}
			for range 2 {
				expect(t, r, CoolingDown, under(request("b"), ""))
				expect(t, r, Duplicate, under(request("a", one), ""))
			}
		}
		lock.Release(time.Hour)
		for _, r := range fleet {
			eventually(t, "held", func() bool { return ask(t, r, under(request("a", one), "")).Outcome == Held })
		}
	},
	"A cool-down comes before a limit": func(t *testing.T, fleet []replica) {
		one := charge("one", "1/h")
		admit(t, fleet[0], request("a", one))
		fleet[1].Pause("slack", "", time.Minute, 429)
		for _, r := range fleet {
			expect(t, r, CoolingDown, under(request("b", one), ""))
			expect(t, r, Limited, request("b", one))
			expect(t, r, CoolingDown, under(request("b", one), ""))
		}
	},
	"A lock that is taken after its budget refused is found": func(t *testing.T, fleet []replica) {
		// The refusal is remembered, and that the lock was free, until it ends.
		knowEachOther(t, fleet)
		limit := charge("limit", "5/s,burst=1")
		for range 5 {
			admitted := 0
			for i := range 3 {
				if v := ask(t, fleet[i], request("a", limit)); v.Outcome == Admitted {
					admitted++
				} else if v.Outcome == Limited {
					time.Sleep(v.Decisions[0].NextAfter)
				}
			}
			if admitted > 1 {
				t.Fatalf("%d of three equal asks were admitted", admitted)
			}
			if v := ask(t, fleet[0], request("other", limit)); v.Outcome == Admitted {
				v.Grant.Release(0)
			}
			eventually(t, "admitted once", func() bool {
				v := ask(t, fleet[0], request("a", limit))
				return v.Outcome == Duplicate || v.Outcome == Admitted
			})
			for _, r := range fleet {
				expect(t, r, Duplicate, request("a", limit))
			}
		}
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
		lock := admit(t, r, request("a", one, two)).Grant
		if v, known := r.Refusal(request("a")); !known || v.Outcome != Duplicate || v.Holder.RequestID == "" {
			t.Errorf("in flight: got %+v, %t, want a duplicate", v, known)
		}
		lock.Release(time.Minute)
		if v, known := r.Refusal(request("a")); !known || v.Outcome != Held || v.Holder.RequestID == "" {
			t.Errorf("on hold: got %+v, %t, want held", v, known)
		}
		if r, ok := r.(*Redis); ok {
			believeLong(r)
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
		admit(t, r, request("a")).Grant.Release(50 * time.Millisecond)
		eventually(t, "limited", func() bool { return ask(t, r, unlocked(limit)).Outcome == Limited })
		eventually(t, "nothing known", func() bool {
			_, known := r.Refusal(request("a", limit))
			return !known
		})
	},
}
