package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// patient is ask of a request that waits at most d.
func patient(a Ask, d time.Duration) Ask {
	a.Wait = d
	for i := range a.Charges {
		a.Charges[i].Wait = max(d, a.Charges[i].Wait)
	}
	return a
}

// reply is a verdict, and when it came.
type reply struct {
	Verdict
	err     error
	at      time.Duration // since the first ask
	replica int
}

// atOnce asks n times, on all replicas, and returns the answers in their order.
func atOnce(t *testing.T, fleet []replica, n int, ask func(i int) Ask) (all []reply) {
	t.Helper()
	var mu sync.Mutex
	var group sync.WaitGroup
	began := time.Now()
	for i := range n {
		group.Go(func() {
			v, err := fleet[i%len(fleet)].Admit(t.Context(), ask(i))
			mu.Lock()
			defer mu.Unlock()
			all = append(all, reply{v, err, time.Since(began), i % len(fleet)})
		})
	}
	group.Wait()
	slices.SortFunc(all, func(a, b reply) int { return cmp.Compare(a.at, b.at) })
	return all
}

// count returns how many answers have an outcome.
func count(all []reply, outcome Outcome) (n int) {
	for _, a := range all {
		if a.err == nil && a.Outcome == outcome {
			n++
		}
	}
	return n
}

// waitsHere returns once n requests wait on r.
func waitsHere(t *testing.T, r replica, n int) {
	t.Helper()
	eventually(t, "they wait", func() bool { return r.(interface{ Status() Status }).Status().Waiting == n })
}

// waitBehaviours are how requests wait for their budgets.
var waitBehaviours = map[string]func(t *testing.T, fleet []replica){
	"Those that wait go one after the other, none before its instant": func(t *testing.T, fleet []replica) {
		limit := charge("limit", "10/s,burst=1")
		all := atOnce(t, fleet, 20, func(i int) Ask { return patient(unlocked(limit), 30*time.Second) })
		if got := count(all, Admitted); got != 20 {
			t.Fatalf("got %d admitted, want all 20: %+v", got, all)
		}
		for i, a := range all {
			if earliest := time.Duration(i) * 100 * time.Millisecond; a.at < earliest {
				t.Errorf("number %d came after %v, want no earlier than %v", i, a.at, earliest)
			}
			if a.Waited > a.at || i == 19 && a.Waited < time.Second {
				t.Errorf("number %d waited %v of %v", i, a.Waited, a.at)
			}
		}
	},
	"What would wait for too long is refused, and told the truth": func(t *testing.T, fleet []replica) {
		limit := charge("limit", "1/m,burst=1")
		admit(t, fleet[0], patient(unlocked(limit), time.Second))
		for _, r := range fleet {
			for range 2 { // asked, and known
				v := expect(t, r, Limited, patient(unlocked(limit), 50*time.Second))
				if next := v.Decisions[0].NextAfter; next > time.Minute || next < 50*time.Second || v.Decisions[0].Allowed {
					t.Errorf("got %+v, want a refusal for a minute", v.Decisions)
				}
			}
		}
		// One that waits for longer would still have a place.
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error)
		go func() {
			_, err := fleet[1].Admit(ctx, patient(unlocked(limit), 2*time.Minute))
			done <- err
		}()
		waitsHere(t, fleet[1], 1)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's", err)
		}
		waitsHere(t, fleet[1], 0)
	},
	"An equal request is a duplicate of one that waits": func(t *testing.T, fleet []replica) {
		limit := charge("limit", "1/m,burst=1")
		admit(t, fleet[0], unlocked(limit))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			_, _ = fleet[0].Admit(ctx, patient(request("a", limit), 2*time.Minute))
			close(done)
		}()
		waitsHere(t, fleet[0], 1)
		for _, r := range fleet {
			expect(t, r, Duplicate, patient(request("a", limit), 2*time.Minute))
		}
		cancel()
		<-done
		// It has given back its lock, and its place, which was the last.
		for i := range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, err := fleet[1+i].Admit(ctx, patient(request("a", limit), time.Minute))
			if cancel(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want that it waits", err)
			}
		}
	},
	"A place is taken in the last budget alone, the others at its instant": func(t *testing.T, fleet []replica) {
		slow, shared := charge("slow", "5/s,burst=1"), charge("shared", "2/h")
		admit(t, fleet[0], unlocked(slow))
		done := make(chan reply)
		go func() {
			v, err := fleet[0].Admit(t.Context(), patient(unlocked(slow, shared), 10*time.Second))
			done <- reply{Verdict: v, err: err}
		}()
		// Others do not lose by it that it waits.
		admit(t, fleet[1], unlocked(shared))
		got := <-done
		if got.err != nil || got.Outcome != Admitted || len(got.Decisions) != 2 || !got.Decisions[0].Allowed || got.Decisions[1].Remaining != 0 {
			t.Fatalf("got %+v, want it admitted by both", got)
		}
		expect(t, fleet[2], Limited, unlocked(shared))
		// The other is spent at its instant: the place is lost.
		v := expect(t, fleet[1], Limited, patient(unlocked(slow, shared), time.Second))
		if !v.Decisions[1].Refused() {
			t.Errorf("got %+v, want the shared one to refuse", v.Decisions)
		}
	},
	"A cool-down that begins refuses those that wait": func(t *testing.T, fleet []replica) {
		limit := charge("limit", "1/m,burst=1")
		admit(t, fleet[0], unlocked(limit))
		done := make(chan reply, 3)
		for _, r := range fleet {
			go func() {
				v, err := r.Admit(t.Context(), patient(under(unlocked(limit), ""), time.Hour))
				done <- reply{Verdict: v, err: err}
			}()
			if _, alone := fleet[0].(*Redis); alone {
				waitsHere(t, r, 1)
			}
		}
		if _, isRedis := fleet[0].(*Redis); !isRedis {
			waitsHere(t, fleet[0], 3)
		}
		fleet[0].Pause("slack", "", time.Hour, 429)
		for range fleet {
			if got := <-done; got.err != nil || got.Outcome != CoolingDown || got.Wait <= 0 {
				t.Errorf("got %+v, want a cool-down", got)
			}
		}
	},
	"A drain refuses at once what would wait beyond it": func(t *testing.T, fleet []replica) {
		limit := charge("limit", "1/s,burst=1")
		admit(t, fleet[0], unlocked(limit))
		done := make(chan reply, 8)
		for range cap(done) {
			go func() {
				v, err := fleet[0].Admit(t.Context(), patient(unlocked(limit), time.Hour))
				done <- reply{Verdict: v, err: err}
			}()
		}
		waitsHere(t, fleet[0], 8)
		fleet[0].(interface{ Drain(time.Duration) }).Drain(4 * time.Second)
		var all []reply
		for range cap(done) {
			all = append(all, <-done)
		}
		// How many are due in time depends on when they came.
		if admitted, limited := count(all, Admitted), count(all, Limited); admitted+limited != 8 || admitted < 1 || limited < 3 {
			t.Errorf("got %d admitted, %d limited, want both", admitted, limited)
		}
		for _, a := range all[:3] {
			if a.Outcome != Limited || !a.Decisions[0].Refused() || a.Decisions[0].NextAfter <= 0 {
				t.Errorf("got %+v, want the refusals first, with when it would have been", a)
			}
		}
	},
	"A candidate refuses nobody, and is charged what it would admit": func(t *testing.T, fleet []replica) {
		limit := charge("limit", "3/h")
		for i := range 3 {
			a := request(fmt.Sprint("a", i), limit)
			a.Candidates = []Charge{charge("candidate", "1/h"), charge("other", "2/h")}
			v := admit(t, fleet[i], a)
			if len(v.Candidates) != 2 || v.Candidates[0].Allowed != (i < 1) || v.Candidates[1].Allowed != (i < 2) {
				t.Errorf("number %d: got %+v", i, v.Candidates)
			}
		}
		a := unlocked(limit)
		a.Candidates = []Charge{charge("unused", "1/h")}
		expect(t, fleet[0], Limited, a)
		a.Charges = nil
		if v := admit(t, fleet[1], a); len(v.Candidates) != 1 || !v.Candidates[0].Allowed {
			t.Errorf("got %+v, want what was refused not charged", v.Candidates)
		}
	},
}

// slotBehaviours are how concurrency is limited.
var slotBehaviours = map[string]func(t *testing.T, fleet []replica){
	"No more at once than there are slots, over all replicas": func(t *testing.T, fleet []replica) {
		for _, a := range []Ask{slotted(unlocked(), 2), slotted(request("a"), 2)} {
			next := func() Ask {
				if a.Fingerprint != nil {
					a = slotted(request(fmt.Sprint("next ", requests.Add(1))), 2)
				}
				return a
			}
			first := admit(t, fleet[0], next())
			second := admit(t, fleet[1], next())
			if first.Used[0] != 1 || second.Used[0] != 2 {
				t.Errorf("got %v and %v used, want 1 and 2", first.Used, second.Used)
			}
			for _, r := range fleet {
				for range 2 {
					expect(t, r, Busy, next())
				}
			}
			first.Grant.Release(time.Minute)
			third := admit(t, fleet[2], next())
			expect(t, fleet[0], Busy, next())
			second.Grant.Unsent()
			third.Grant.Release(0)
			admit(t, fleet[1], next()).Grant.Release(0)
		}
	},
	"Callers have slots of their own": func(t *testing.T, fleet []replica) {
		alice, bob := slotted(unlocked(), 1), slotted(unlocked(), 1)
		alice.Slots[0].Caller, bob.Slots[0].Caller = "alice", "bob"
		admit(t, fleet[0], alice)
		admit(t, fleet[1], bob)
		expect(t, fleet[2], Busy, alice)
		expect(t, fleet[0], Busy, bob)
		both := slotted(unlocked(), 5)
		both.Slots = append(both.Slots, alice.Slots...)
		expect(t, fleet[1], Busy, both)
		both.Slots = both.Slots[:1]
		if v := admit(t, fleet[1], both); v.Used[0] != 1 {
			t.Errorf("got %v used, want what was refused not taken", v.Used)
		}
	},
	"A busy route charges nothing and locks nothing": func(t *testing.T, fleet []replica) {
		limit := charge("limit", "2/h")
		a := slotted(request("a", limit), 1)
		first := admit(t, fleet[0], a).Grant
		expect(t, fleet[1], Busy, slotted(request("b", limit), 1))
		expect(t, fleet[2], Duplicate, slotted(request("a", limit), 1))
		first.Release(0)
		admit(t, fleet[2], slotted(request("b", limit), 1)).Grant.Release(0)
		expect(t, fleet[0], Limited, slotted(request("c", limit), 1))
		// What is limited has no slot.
		admit(t, fleet[1], slotted(unlocked(), 1))
	},
	"Those that wait for slots get them, each when one is free": func(t *testing.T, fleet []replica) {
		first := admit(t, fleet[0], slotted(unlocked(), 1)).Grant
		var mu sync.Mutex
		var most, now, done int
		var group sync.WaitGroup
		for i := range 9 {
			group.Go(func() {
				v, err := fleet[i%3].Admit(t.Context(), patient(slotted(request(fmt.Sprint("w", i)), 1), time.Minute))
				if err != nil || v.Outcome != Admitted {
					t.Errorf("got %+v, %v, want it admitted", v, err)
					return
				}
				mu.Lock()
				now++
				most, done = max(most, now), done+1
				mu.Unlock()
				time.Sleep(time.Millisecond)
				mu.Lock()
				now--
				mu.Unlock()
				v.Grant.Release(0)
			})
		}
		eventually(t, "they wait", func() bool {
			return ask(t, fleet[1], slotted(request("w1"), 1)).Outcome == Duplicate && ask(t, fleet[1], slotted(request("w8"), 1)).Outcome == Duplicate
		})
		if done > 0 {
			t.Errorf("%d were admitted while it was busy", done)
		}
		first.Release(0)
		group.Wait()
		if most != 1 || done != 9 {
			t.Errorf("got %d at once, %d in all, want 1 and 9", most, done)
		}
	},
	"Who waits for a slot in vain is refused, and leaves nothing": func(t *testing.T, fleet []replica) {
		held := admit(t, fleet[0], slotted(unlocked(), 1)).Grant
		for _, r := range fleet {
			v := expect(t, r, Busy, patient(slotted(request("a"), 1), 250*time.Millisecond))
			if v.Waited < 250*time.Millisecond {
				t.Errorf("waited %v, want 250 ms", v.Waited)
			}
		}
		waitsHere(t, fleet[0], 0)
		held.Release(0)
		admit(t, fleet[1], slotted(request("a"), 1))
	},
	"A slot is taken at the instant of the place, and not held until then": func(t *testing.T, fleet []replica) {
		limit := charge("limit", "5/s,burst=1")
		admit(t, fleet[0], unlocked(limit))
		done := make(chan Verdict)
		go func() { done <- ask(t, fleet[0], patient(slotted(unlocked(limit), 1), time.Minute)) }()
		waitsHere(t, fleet[0], 1)
		other := admit(t, fleet[1], slotted(unlocked(), 1)).Grant
		other.Release(0)
		v := <-done
		if v.Outcome != Admitted || v.Used[0] != 1 || !v.Decisions[0].Allowed {
			t.Fatalf("got %+v, want it admitted", v)
		}
		expect(t, fleet[1], Busy, slotted(unlocked(), 1))
		v.Grant.Release(0)
		admit(t, fleet[1], slotted(unlocked(), 1))
	},
}

// slotted is ask of a request that needs one of so many slots.
func slotted(a Ask, most int) Ask {
	a.Slots = []Slot{{Name: "at-once", Most: most}}
	return a
}
