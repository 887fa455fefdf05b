package cluster

import (
	"context"
	"testing"
	"time"
)

// leaves is a context that ends with the test, or when it is told.
func leaves(t *testing.T) (context.Context, context.CancelFunc) {
	ctx, leave := context.WithCancel(t.Context())
	t.Cleanup(leave)
	return ctx, leave
}

// admitLater asks in the background, and returns where the answer will be.
func admitLater(ctx context.Context, r replica, a Ask) <-chan reply {
	done := make(chan reply, 1)
	go func() {
		v, err := r.Admit(ctx, a)
		done <- reply{Verdict: v, err: err}
	}()
	return done
}

// turnBehaviours are who goes first of those that wait, and what becomes of them.
var turnBehaviours = map[string]func(t *testing.T, fleet []replica){
	"One that waits for its budget keeps nobody from a slot": func(t *testing.T, fleet []replica) {
		slow := charge("slow", "1/h,burst=1")
		admit(t, fleet[0], unlocked(slow))
		held := admit(t, fleet[0], slotted(unlocked(), 1)).Grant
		ctx, leave := leaves(t)
		first := admitLater(ctx, fleet[0], patient(slotted(request("first", slow), 1), 2*time.Hour))
		waitsHere(t, fleet[0], 1)
		second := admitLater(t.Context(), fleet[0], patient(slotted(unlocked(), 1), time.Minute))
		waitsHere(t, fleet[0], 2)
		held.Release(0)
		if got := <-second; got.err != nil || got.Outcome != Admitted {
			t.Errorf("got %+v, want it admitted", got)
		}
		leave()
		<-first
	},
	"Nobody overtakes those that wait for a slot": func(t *testing.T, fleet []replica) {
		held := admit(t, fleet[0], slotted(unlocked(), 1)).Grant
		waits := admitLater(t.Context(), fleet[0], patient(slotted(unlocked(), 1), time.Minute))
		waitsHere(t, fleet[0], 1)
		held.Release(0)
		expect(t, fleet[0], Busy, slotted(request("a"), 1))
		expect(t, fleet[0], Busy, patient(slotted(request("b"), 1), time.Millisecond))
		got := <-waits
		if got.err != nil || got.Outcome != Admitted {
			t.Errorf("got %+v, want it admitted", got)
		}
		got.Grant.Release(0)
		admit(t, fleet[0], slotted(request("a"), 1))
	},
	"A cool-down refuses only those whose place comes before its end": func(t *testing.T, fleet []replica) {
		limit := charge("limit", "1/2s,burst=1")
		admit(t, fleet[0], unlocked(limit))
		var all []<-chan reply
		for i := range 2 {
			all = append(all, admitLater(t.Context(), fleet[0], patient(under(unlocked(limit), ""), time.Hour)))
			waitsHere(t, fleet[0], 1+i)
		}
		paused := time.Now()
		fleet[0].Pause("slack", "", 3*time.Second, 429)
		if got := <-all[0]; got.err != nil || got.Outcome != CoolingDown {
			t.Errorf("got %+v, want a cool-down", got)
		}
		if got := <-all[1]; got.err != nil || got.Outcome != Admitted || time.Since(paused) < 3*time.Second {
			t.Errorf("got %+v after %v, want it admitted after the cool-down", got, time.Since(paused))
		}
	},
	"A candidate is charged also by what has waited for a slot": func(t *testing.T, fleet []replica) {
		held := admit(t, fleet[0], slotted(unlocked(), 1)).Grant
		waits := admitLater(t.Context(), fleet[0], patient(candidate(slotted(request("a"), 1), charge("candidate", "1/h")), time.Minute))
		waitsHere(t, fleet[0], 1)
		held.Release(0)
		got := <-waits
		if got.Outcome != Admitted || len(got.Candidates) != 1 || !got.Candidates[0].Allowed {
			t.Fatalf("got %+v, want it admitted by the candidate", got)
		}
		if v := admit(t, fleet[1], candidate(unlocked(), charge("candidate", "1/h"))); v.Candidates[0].Allowed {
			t.Error("the candidate was not charged")
		}
	},
	"What is refused after it has waited is told when it would be let wait": func(t *testing.T, fleet []replica) {
		slow, wide := charge("slow", "1/s,burst=1"), charge("wide", "1/h,burst=1")
		for _, c := range []Charge{slow, wide} {
			admit(t, fleet[0], unlocked(c))
		}
		slow.Wait, wide.Wait = time.Hour, time.Hour
		a := unlocked(slow, wide)
		a.Wait = 30 * time.Minute
		v := expect(t, fleet[0], Limited, a)
		if told := v.Wait; told > v.Decisions[1].NextAfter-a.Wait+2*time.Second {
			t.Errorf("told %v, want %v less than %v", told, a.Wait, v.Decisions[1].NextAfter)
		}
	},
}
