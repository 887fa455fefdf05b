package cluster

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"throttle-proxy/limiter"
)

// replica is what a behaviour needs of a Memory or a Redis.
type replica interface {
	Admit(context.Context, Ask) (Verdict, error)
	Refusal(Ask) (Verdict, bool)
	Pause(tag, name string, d time.Duration)
}

// behaviours are what a fleet of three owes its callers, whatever decides for
// it. A Memory runs them in a bubble, where sleep takes no time, and plays all
// three replicas itself. No row says that something is fast.
var behaviours = map[string]func(t *testing.T, fleet []replica){
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
				if v.Lock != nil {
					t.Errorf("got %+v, want no lock", v.Lock)
				}
				v.Lock.Release(0)
			}
		}
	},
	"A lock released without a hold is free when Release returns": func(t *testing.T, fleet []replica) {
		for i := range 30 {
			admit(t, fleet[i%3], request("a")).Lock.Release(0)
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
		admit(t, fleet[0], first).Lock.Release(time.Minute)
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
			lock := admit(t, fleet[0], request("a")).Lock
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
			next.Lock.Release(0)
		}
	},
	"A lock taken again after its hold stands": func(t *testing.T, fleet []replica) {
		// Ends of holds are swept a few at a time, the earliest first: of the last
		// ones only after the locks have been taken again.
		const many = 30
		for i := range many {
			admit(t, fleet[0], request(fmt.Sprint(i))).Lock.Release(time.Duration(50+i) * time.Millisecond)
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
		old := admit(t, fleet[0], request("a")).Lock
		old.Release(0)
		successor := admit(t, fleet[1], request("a")).Lock
		for _, hold := range []time.Duration{0, time.Minute} {
			old.Release(hold)
			expect(t, fleet[0], Duplicate, request("a"))
		}
		successor.Release(0)
		admit(t, fleet[2], request("a"))
	},
	"A duplicate spends no budget": func(t *testing.T, fleet []replica) {
		two := charge("two", "2/h")
		lock := admit(t, fleet[0], request("a", two)).Lock
		for _, r := range fleet {
			if v := expect(t, r, Duplicate, request("a", two)); v.Decisions != nil {
				t.Errorf("got %+v, want no decisions", v.Decisions)
			}
		}
		lock.Release(time.Minute)
		for _, r := range fleet {
			eventually(t, "held", func() bool { return ask(t, r, request("a", two)).Outcome == Held })
		}
		admit(t, fleet[0], request("b", two))
	},
	"A limited ask leaves no lock": func(t *testing.T, fleet []replica) {
		one := charge("one", "1/h")
		admit(t, fleet[0], request("a", one))
		for i, r := range fleet {
			body := fmt.Sprint("b", i)
			expect(t, r, Limited, request(body, one))
			for _, r := range fleet {
				admit(t, r, request(body)).Lock.Release(0)
			}
		}
	},
	"A verdict tells of each budget": func(t *testing.T, fleet []replica) {
		five, one := charge("five", "5/h"), charge("one", "1/h,burst=1")
		admitted := admit(t, fleet[0], request("a", five, one))
		limited := expect(t, fleet[1], Limited, request("b", five, one))
		// The ages of budgets on a real store are not known to the second.
		const hour, recent = time.Hour, time.Minute
		near := func(d, want time.Duration) bool { return d <= want && d > want-recent }
		for i, test := range []struct {
			got         limiter.Decision
			allowed     bool
			remaining   int
			next, reset time.Duration
		}{
			{admitted.Decisions[0], true, 4, hour / 5, hour / 5},
			{admitted.Decisions[1], true, 0, hour, hour},
			{limited.Decisions[0], true, 4, hour / 5, hour / 5},
			{limited.Decisions[1], false, 0, hour, hour},
		} {
			d := test.got
			if d.Allowed != test.allowed || d.Remaining != test.remaining || !near(d.NextAfter, test.next) || !near(d.ResetAfter, test.reset) {
				t.Errorf("%d: got %+v, want %+v", i, d, test)
			}
		}
	},
	"Two windows are charged together or not at all": func(t *testing.T, fleet []replica) {
		// Where one refuses, the other stays as it was: also a full one of burst 1,
		// on which a trial charge would leave its trace.
		spent, wide, full := charge("spent", "1/h,burst=1"), charge("wide", "4/h"), charge("full", "1/h,burst=1")
		admit(t, fleet[0], request("a", spent, wide))
		for i, charges := range [][]Charge{{wide, spent}, {spent, full}, {full, spent, wide}} {
			expect(t, fleet[i], Limited, request("b", charges...))
		}
		for i, r := range fleet {
			if got := admit(t, r, request(fmt.Sprint("c", i), wide)).Decisions[0].Remaining; got != 2-i {
				t.Errorf("got %d remaining, want %d", got, 2-i)
			}
		}
		admit(t, fleet[0], request("d", full))
	},
	"Two full windows of burst 1 admit one": func(t *testing.T, fleet []replica) {
		hour, day := charge("hour", "1/h"), charge("day", "1/d")
		admit(t, fleet[0], request("a", hour, day))
		v := expect(t, fleet[1], Limited, request("b", hour, day))
		if !v.Decisions[0].Refused() || !v.Decisions[1].Refused() {
			t.Errorf("got %+v, want two refusals", v.Decisions)
		}
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
	"Concurrent asks are admitted within their budget": func(t *testing.T, fleet []replica) {
		const burst, perSecond = 20, 50
		limit := charge("limit", fmt.Sprintf("%d/s,burst=%d", perSecond, burst))
		from := time.Now()
		got := concurrently(t, 200, func(i int) Outcome { return ask(t, fleet[i%3], request(fmt.Sprint(i), limit)).Outcome })
		// One more, since the store's clock is not ours.
		most := burst + 1 + int(time.Since(from).Seconds()*perSecond)
		if n := got[Admitted]; n < burst || n > most || n+got[Limited] != 200 {
			t.Errorf("got %v, want %d to %d admitted and the rest limited", got, burst, most)
		}
	},
	"NextAfter waited out admits, and a refusal is not charged": func(t *testing.T, fleet []replica) {
		for text, interval := range map[string]time.Duration{
			"10/s,burst=1": 100 * time.Millisecond,
			"20/s,burst=3": 50 * time.Millisecond,
			"3/s,burst=1":  333334 * time.Microsecond,
		} {
			limit := charge(text, text)
			var v Verdict
			eventually(t, "limited", func() bool {
				for i := range 8 {
					ask(t, fleet[i%2], unlocked(limit))
				}
				v = ask(t, fleet[2], unlocked(limit)) // knows nothing by itself, so it is told by the store
				return v.Outcome == Limited
			})
			// Had refusals been charged, it would be longer than one interval.
			next := v.Decisions[0].NextAfter
			if next <= 0 || next > interval {
				t.Errorf("%s: got NextAfter %v, want at most %v", text, next, interval)
			}
			time.Sleep(next)
			admit(t, fleet[0], unlocked(limit))
		}
	},
	"Callers have budgets of their own": func(t *testing.T, fleet []replica) {
		for _, caller := range []string{"alice", "bob", ""} {
			one := charge("one", "1/h")
			one.Caller = caller
			admit(t, fleet[0], request("1"+caller, one))
			expect(t, fleet[1], Limited, request("2"+caller, one))
		}
	},
	"Routes of one pool share a budget, others do not": func(t *testing.T, fleet []replica) {
		one := charge("one", "1/h")
		admit(t, fleet[0], request("first route", one))
		expect(t, fleet[1], Limited, request("second route", one))
		other := request("a route alone", one)
		other.Tag = "alone"
		admit(t, fleet[1], other)
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
	"A pause on one replica pauses all": func(t *testing.T, fleet []replica) {
		fleet[0].Pause("slack", "", time.Minute)
		for _, r := range fleet {
			v := expect(t, r, CoolingDown, under(request("a"), ""))
			if v.Wait <= 0 || v.Wait > time.Minute || v.Degraded {
				t.Errorf("got %+v, want a wait of up to 1m", v)
			}
			admit(t, r, request("a")).Lock.Release(0) // does not ask for it
		}
		// By now each knows by itself, also before the body is read.
		for _, r := range fleet {
			if v, known := r.Refusal(under(unlocked(), "")); !known || v.Outcome != CoolingDown || v.Wait <= 0 || v.Wait > time.Minute {
				t.Errorf("got %+v, %t, want a cool-down", v, known)
			}
			if v, known := r.Refusal(unlocked()); known {
				t.Errorf("got %+v, want nothing known", v)
			}
		}
		other := under(unlocked(), "")
		other.Tag = "other"
		admit(t, fleet[1], other)
	},
	"A caller's pause pauses no other": func(t *testing.T, fleet []replica) {
		fleet[0].Pause("slack", "alice", time.Minute)
		for _, r := range fleet {
			expect(t, r, CoolingDown, under(request("a"), "alice", ""))
			expect(t, r, CoolingDown, under(request("a"), "", "alice"))
			admit(t, r, under(unlocked(), "bob", ""))
			admit(t, r, under(unlocked(), ""))
		}
		fleet[1].Pause("slack", "bob", time.Minute)
		fleet[1].Pause("slack", "", time.Hour)
		for _, r := range fleet {
			for _, names := range [][]string{{"bob", ""}, {"", "bob"}} {
				if v := expect(t, r, CoolingDown, under(unlocked(), names...)); v.Wait <= time.Minute {
					t.Errorf("got %v, want the longer wait", v.Wait)
				}
			}
		}
	},
	"A pause is only ever extended": func(t *testing.T, fleet []replica) {
		for i, r := range fleet {
			name := fmt.Sprint(i)
			r.Pause("slack", name, 10*time.Minute)
			for _, r := range fleet {
				r.Pause("slack", name, time.Millisecond)
				r.Pause("slack", name, 0)
			}
			for _, r := range fleet {
				// Each knows of its own first.
				eventually(t, "paused for 10m", func() bool {
					return expect(t, r, CoolingDown, under(unlocked(), name)).Wait > 5*time.Minute
				})
			}
			r.Pause("slack", name, time.Hour)
			if v := expect(t, r, CoolingDown, under(unlocked(), name)); v.Wait <= 30*time.Minute {
				t.Errorf("got %v, want about 1h", v.Wait)
			}
		}
	},
	"After its pause an ask is admitted": func(t *testing.T, fleet []replica) {
		const pause = 100 * time.Millisecond
		for _, r := range fleet {
			from := time.Now()
			fleet[0].Pause("slack", "", pause)
			eventually(t, "admitted after the pause", func() bool {
				v := ask(t, r, under(unlocked(), ""))
				if v.Outcome == CoolingDown && (v.Wait <= 0 || v.Wait > pause) {
					t.Errorf("got a wait of %v, want up to %v", v.Wait, pause)
				}
				return v.Outcome == Admitted
			})
			if paused := time.Since(from); paused < pause-5*time.Millisecond {
				t.Errorf("admitted after %v, want at least %v", paused, pause)
			}
		}
	},
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
	"A paused ask takes nothing": func(t *testing.T, fleet []replica) {
		two := charge("two", "2/h")
		fleet[0].Pause("slack", "", time.Minute)
		for _, r := range []int{2, 1, 0, 2, 1, 0} {
			expect(t, fleet[r], CoolingDown, under(request("a", two), ""))
		}
		if got := admit(t, fleet[1], request("a", two)).Decisions[0].Remaining; got != 1 {
			t.Errorf("got %d remaining, want 1", got)
		}
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

func TestMemory(t *testing.T) {
	for name, behaves := range behaviours {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := NewMemory("replica-0")
				behaves(t, []replica{m, m, m})
			})
		})
	}
}

// TestMemory_ForgetsWhatIsOver looks inside: nothing else tells whether memory
// is bounded.
func TestMemory_ForgetsWhatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory("replica-0")
		for i := range 1000 {
			limit := charge(fmt.Sprint(i), "1/m")
			admit(t, m, request(fmt.Sprint(i), limit)).Lock.Release(time.Minute)
			expect(t, m, Limited, request("b", limit))
		}
		time.Sleep(time.Minute)
		for range 1000 {
			m.Refusal(request("a"))
			admit(t, m, request("a")).Lock.Release(0)
		}
		if got := []int{len(m.known.locks.known), len(m.known.locks.inFlight), m.known.locks.held, m.known.denials.Len()}; slices.Max(got) > 0 {
			t.Errorf("got %d locks, %d in flight, %d held and %d denials, want none", got[0], got[1], got[2], got[3])
		}
	})
}

func TestMemory_BeyondCapacityForgetsTheHoldNearestToItsEnd(t *testing.T) {
	t.Parallel() // with those that wait
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory("replica-0")
		inFlight := request("in flight")
		admit(t, m, inFlight)
		for i := range Capacity + 2 {
			admit(t, m, request(fmt.Sprint(i))).Lock.Release(time.Hour - time.Duration(i%3)*time.Minute)
			time.Sleep(time.Microsecond)
		}
		for _, i := range []int{0, 1, 3, 4, 6, 8, Capacity - 1, Capacity, Capacity + 1} {
			expect(t, m, Held, request(fmt.Sprint(i)))
		}
		admit(t, m, request("2"))
		admit(t, m, request("5"))
		expect(t, m, Duplicate, inFlight)
	})
}

func TestMemory_AddDoesNotDisplaceAnEqualRequest(t *testing.T) {
	m := NewMemory("replica-0")
	first, second := newLock(request("a"), m), newLock(request("a"), m)
	if v, known := m.known.add(request("a"), first); known {
		t.Fatalf("got %+v, want nothing known", v)
	}
	if v, known := m.known.add(request("a"), second); !known || v.Outcome != Duplicate || v.Holder.RequestID != first.requestID() {
		t.Errorf("got %+v, %t, want a duplicate", v, known)
	}
	second.Release(0)
	expect(t, m, Duplicate, request("a"))
	first.Release(time.Minute)
	if v, known := m.known.add(request("a"), second); !known || v.Outcome != Held {
		t.Errorf("got %+v, %t, want held", v, known)
	}
}

// request asks for the lock of a body, and for charges.
func request(body string, charges ...Charge) Ask {
	fingerprint := Fingerprint(sha256.Sum256([]byte(body)))
	return Ask{Tag: "slack", Fingerprint: &fingerprint, Charges: charges, RequestID: fmt.Sprintf("id-%d", requests.Add(1))}
}

var requests atomic.Int64

// unlocked asks for charges alone.
func unlocked(charges ...Charge) Ask { return Ask{Tag: "slack", Charges: charges} }

// under is ask where cool-downs with the names hold it up.
func under(a Ask, names ...string) Ask {
	a.Pauses = names
	return a
}

func charge(name, limit string) Charge {
	l, err := limiter.Parse(limit)
	if err != nil {
		panic(err)
	}
	return Charge{Name: name, Limit: l}
}

func ask(t *testing.T, r replica, a Ask) Verdict {
	t.Helper()
	v, err := r.Admit(t.Context(), a)
	if err != nil {
		t.Error(err)
	}
	return v
}

func expect(t *testing.T, r replica, want Outcome, a Ask) Verdict {
	t.Helper()
	v := ask(t, r, a)
	if v.Outcome != want || (v.Lock != nil) != (want == Admitted && a.Fingerprint != nil) {
		t.Fatalf("got %+v, want outcome %d", v, want)
	}
	return v
}

func admit(t *testing.T, r replica, a Ask) Verdict {
	t.Helper()
	return expect(t, r, Admitted, a)
}

func undecided(t *testing.T, r replica, a Ask) {
	t.Helper()
	if v, err := r.Admit(t.Context(), a); !errors.Is(err, ErrUndecided) || v.Outcome != 0 {
		t.Fatalf("got %+v, %v, want undecided", v, err)
	}
}

// concurrently counts the outcomes of n asks at the same time.
func concurrently(t *testing.T, n int, ask func(i int) Outcome) map[Outcome]int {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	outcomes := make(map[Outcome]int)
	for i := range n {
		all.Go(func() {
			outcome := ask(i)
			mu.Lock()
			defer mu.Unlock()
			outcomes[outcome]++
		})
	}
	all.Wait()
	return outcomes
}

// eventually returns once condition holds: soon, on a machine with time to spare.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	const patience = 20 * time.Second // shorter than any TTL or hold that must not be what ends the wait
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}
