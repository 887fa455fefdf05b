package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// lockBehaviours are what a fleet owes of locks and holds.
var lockBehaviours = map[string]func(t *testing.T, fleet []replica){
	"An equal ask is a duplicate that is told its holder": func(t *testing.T, fleet []replica) {
		first := request("a")
		from := time.Now()
		admit(t, fleet[0], first)
		const apart = 20 * time.Millisecond
		time.Sleep(apart)
		for _, r := range fleet {
			v := expect(t, r, Duplicate, request("a"))
			if v.Holder.RequestID != first.RequestID || v.Holder.Replica != "replica-0" {
				t.Errorf("got holder %+v, want request %s of replica-0", v.Holder, first.RequestID)
			}
			// Age is on the store's clock, which need not agree to the millisecond.
			if age, most := v.Holder.Age, time.Since(from)+apart/4; age < apart*3/4 || age > most {
				t.Errorf("got age %v, want %v to %v", age, apart, most)
			}
		}
	},
	"Other fingerprints and other tags do not collide": func(t *testing.T, fleet []replica) {
		admit(t, fleet[0], request("a"))
		admit(t, fleet[0], request("b"))
		other := request("a")
		other.Tag = "other"
		admit(t, fleet[0], other)
		expect(t, fleet[1], Duplicate, other)
		expect(t, fleet[1], Duplicate, request("a"))
	},
	"Without a fingerprint there is no lock": func(t *testing.T, fleet []replica) {
		for _, ask := range []Ask{unlocked(), unlocked(charge("hour", "10/h"))} {
			for _, r := range fleet {
				v := admit(t, r, ask)
				if v.Grant.Locked() {
					t.Errorf("got %+v, want no lock", v.Grant)
				}
				v.Grant.Release(0)
			}
		}
	},
	"A lock released without a hold is free when Release returns": func(t *testing.T, fleet []replica) {
		for i := range 30 {
			admit(t, fleet[i%3], request("a")).Grant.Release(0)
		}
	},
	"An ask does not depend on its request's context": func(t *testing.T, fleet []replica) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if v, err := fleet[0].Admit(ctx, request("a")); err != nil || v.Outcome != Admitted {
			t.Errorf("got %+v, %v, want an admission", v, err)
		}
	},
	"A hold refuses on every replica": func(t *testing.T, fleet []replica) {
		first := request("a")
		admit(t, fleet[0], first).Grant.Release(time.Minute)
		expect(t, fleet[0], Held, request("a"))
		for _, r := range fleet {
			// A hold is off the critical path: the others may still see the lock.
			var v Verdict
			eventually(t, "held", func() bool {
				v = ask(t, r, request("a"))
				if v.Outcome != Duplicate && v.Outcome != Held {
					t.Fatalf("got %+v, want a duplicate", v)
				}
				return v.Outcome == Held
			})
			if v.Holder.RequestID != first.RequestID || v.Holder.Replica != "replica-0" {
				t.Errorf("got holder %+v, want request %s of replica-0", v.Holder, first.RequestID)
			}
		}
	},
	"After its hold a lock is free": func(t *testing.T, fleet []replica) {
		const hold = 100 * time.Millisecond
		for _, r := range fleet {
			lock := admit(t, fleet[0], request("a")).Grant
			from := time.Now()
			lock.Release(hold)
			var next Verdict
			eventually(t, "free after the hold", func() bool {
				next = ask(t, r, request("a"))
				return next.Outcome == Admitted
			})
			// Redis counts in milliseconds, and may begin within one.
			if held := time.Since(from); held < hold-5*time.Millisecond {
				t.Errorf("free after %v, want at least %v", held, hold)
			}
			next.Grant.Release(0)
		}
	},
	"A lock taken again after its hold stands": func(t *testing.T, fleet []replica) {
		// Ends of holds are swept a few at a time, the earliest first: of the last
		// ones only after the locks have been taken again.
		const many = 30
		for i := range many {
			admit(t, fleet[0], request(fmt.Sprint(i))).Grant.Release(time.Duration(50+i) * time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond)
		for i := many - 1; i >= 0; i-- {
			eventually(t, "free after the hold", func() bool { return ask(t, fleet[0], request(fmt.Sprint(i))).Outcome == Admitted })
		}
		for range 10 {
			for i := range many {
				expect(t, fleet[i%3], Duplicate, request(fmt.Sprint(i)))
			}
		}
	},
	"A lock's second release does not touch its successor": func(t *testing.T, fleet []replica) {
		old := admit(t, fleet[0], request("a")).Grant
		old.Release(0)
		successor := admit(t, fleet[1], request("a")).Grant
		for _, hold := range []time.Duration{0, time.Minute} {
			old.Release(hold)
			expect(t, fleet[0], Duplicate, request("a"))
		}
		successor.Release(0)
		admit(t, fleet[2], request("a"))
	},
	"Of concurrent equal asks one is admitted": func(t *testing.T, fleet []replica) {
		const all = 50
		for round := range 5 {
			body := fmt.Sprint(round)
			if got := concurrently(t, all, func(i int) Outcome { return ask(t, fleet[i%3], request(body)).Outcome }); got[Admitted] != 1 || got[Duplicate] != all-1 {
				t.Errorf("got %v, want one admitted and %d duplicates", got, all-1)
			}
		}
	},
}
