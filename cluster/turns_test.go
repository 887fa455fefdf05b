package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

const slotsKey = "throttle:2:{slack}:slots:at-once"

// A slot is not renewed once its exchange has ended, though this replica counts it
// until the store has been told: renewed after that, it would be there for a TTL.
func TestKnown_SlotsThatEndAreNotRenewed(t *testing.T) {
	k := newKnown("replica")
	a := slotted(unlocked(), 1)
	g := newGrant(a, nil)
	k.add(a, g, true)
	if got := len(k.slotsInFlight()); got != 1 {
		t.Fatalf("got %d to renew, want 1", got)
	}
	k.release(g, 0)
	if got := len(k.slotsInFlight()); got != 0 || !g.taken.over {
		t.Errorf("got %d to renew after the end, want 0", got)
	}
	if _, refused := k.refusal(a); !refused {
		t.Error("the slot is free before the store was told")
	}
	k.freed(g.taken)
	if _, refused := k.refusal(a); refused {
		t.Error("the slot is not free")
	}
}

// A cool-down wakes nobody who is not under it, and none twice.
func TestKnown_PauseStirsThoseUnderIt(t *testing.T) {
	k := newKnown("replica")
	one, other := &waiter{ask: under(unlocked(), "", "one"), wake: make(chan struct{}, 1)}, &waiter{ask: under(unlocked(), "", "other"), wake: make(chan struct{}, 1)}
	k.waiting.add(one)
	k.waiting.add(other)
	k.pause("slack", "one", time.Minute, 429)
	if len(one.wake) != 1 || len(other.wake) != 0 {
		t.Errorf("got %d and %d woken, want the first", len(one.wake), len(other.wake))
	}
	<-one.wake
	k.pause("slack", "one", time.Second, 429)
	if len(one.wake) != 0 {
		t.Error("woken by a cool-down that extends none")
	}
	k.waiting.remove(one)
	k.waiting.remove(other)
	if len(k.waiting.all)+len(k.waiting.under) > 0 {
		t.Errorf("got %+v left, want nothing", k.waiting)
	}
}

// Those that wait for slots ask one after the other: now and then where none of
// this replica's own ends, and as many at once as end.
func TestSlots_Turns(t *testing.T) {
	s := newSlots()
	slot := slotted(unlocked(), 9).Slots[0]
	key := slot.key("slack")
	w := make([]*waiter, 4)
	for i := range w {
		w[i] = &waiter{wake: make(chan struct{}, 1)}
		s.queue(w[i], key, 0)
	}
	asks := func(now time.Duration) (which []int) {
		for i := range w {
			if w[i].turn != "" && !w[i].asks && s.mayAsk(w[i], slot, now) <= now {
				which = append(which, i)
			}
		}
		return which
	}
	check := func(step string, now time.Duration, want ...int) {
		t.Helper()
		if got := asks(now); !slices.Equal(got, want) {
			t.Errorf("%s: got %v asking, want %v", step, got, want)
		}
	}
	check("too early", slotAskedAgain-1)
	check("in time", slotAskedAgain, 0)
	s.leave(w[0])
	check("another's slot was free, and more may be", slotAskedAgain, 1)
	s.queue(w[1], key, slotAskedAgain)
	check("it was not", slotAskedAgain+1)
	s.turns[key].call()
	s.turns[key].call()
	check("two have ended", slotAskedAgain+1, 1, 2)
	s.turns[key].call() // goes to the third, who is cancelled before it asks
	s.queue(w[1], key, 0)
	s.leave(w[3])
	check("a call that was not used", slotAskedAgain+1, 1)
	s.used[key] = slot.Most
	s.queue(w[1], key, 0)
	check("all are this replica's own", time.Hour)
	s.leave(w[1])
	s.leave(w[2])
	if len(s.turns) > 0 {
		t.Errorf("got %v left, want nothing", s.turns)
	}
}

// A slot that was free for a request which then waits for its budget is for the next.
func TestKnown_SlotThatWasNotTakenIsForTheNext(t *testing.T) {
	k := newKnown("replica")
	a := slotted(unlocked(charge("slow", "1/h")), 1)
	key := a.Slots[0].key(a.Tag)
	w := [2]*waiter{}
	for i := range w {
		w[i] = &waiter{ask: a, wake: make(chan struct{}, 1)}
		k.slots.queue(w[i], key, 0)
	}
	k.slots.turns[key].call()
	if when := k.slots.mayAsk(w[0], a.Slots[0], 1); when > 1 {
		t.Fatalf("the first asks in %v, want at once", when)
	}
	k.look(w[0], Verdict{Outcome: queued, instant: time.Hour}, 2*time.Hour, 1)
	if !w[1].called {
		t.Error("the next was not called")
	}
}

// While this replica has taken all slots itself, none of another's can end: it does
// not ask.
func TestRedis_TripsOfRequestsThatWaitForSlots(t *testing.T) {
	server := startRedis(t)
	var m meter
	r := join(t, server.URL(), Options{Connect: m.connect(t, server.URL())})
	held := admit(t, r, slotted(unlocked(), 1)).Grant
	m.reset()
	ctx, cancel := context.WithTimeout(t.Context(), 5*slotAskedAgain)
	defer cancel()
	var all []<-chan reply
	for range 10 {
		all = append(all, admitLater(ctx, r, patient(slotted(unlocked(), 1), time.Minute)))
	}
	for _, done := range all {
		if got := <-done; !errors.Is(got.err, context.DeadlineExceeded) {
			t.Errorf("got %+v, want that it waits", got)
		}
	}
	if scripts, _ := m.read(); scripts > 0 {
		t.Errorf("got %d trips while they waited, want none", scripts)
	}
	held.Release(0)
	// What ends lets one ask, and only one.
	held = admit(t, r, slotted(unlocked(), 1)).Grant
	done := admitLater(t.Context(), r, patient(slotted(unlocked(), 1), time.Minute))
	waitsHere(t, r, 1)
	m.reset()
	held.Release(0)
	if got := <-done; got.Outcome != Admitted {
		t.Errorf("got %+v, want it admitted", got)
	}
	if scripts, _ := m.read(); scripts != 2 { // one frees it
		t.Errorf("got %d trips for an end and an admission, want 2", scripts)
	}
}

// A request that waits is not sent where another replica has its lock by then.
func TestRedis_LockThatIsLostWhileItsRequestWaits(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{LockTTL: slotsLast})
	limit := charge("limit", "1/2s,burst=1")
	admit(t, r, unlocked(limit))
	a := request("a", limit)
	done := admitLater(t.Context(), r, patient(a, time.Minute))
	waitsHere(t, r, 1)
	key, value := lockKey(a), "1 another replica-1 id 1"
	client.Set(t.Context(), key, value, time.Minute)
	if got := <-done; got.err != nil || got.Outcome != Duplicate {
		t.Errorf("got %+v, want a duplicate", got)
	}
	if got := client.Get(t.Context(), key).Val(); got != value {
		t.Errorf("got %q, want the other's lock untouched", got)
	}
}

// Replicas whose locks have another TTL, as while they are restarted with one, do
// not take each other's slots; what is from before the clock was set back is gone.
func TestRedis_SlotsOfReplicasWithAnotherTTL(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	long := join(t, server.URL(), Options{LockTTL: time.Hour})
	short := join(t, server.URL(), Options{LockTTL: time.Second, Self: Replica{ID: "replica-1"}})
	held := admit(t, long, slotted(unlocked(), 1)).Grant
	expect(t, short, Busy, slotted(unlocked(), 1))
	held.Release(0)
	later := float64(time.Now().Add(time.Minute).UnixMicro())
	server.Client().ZAdd(t.Context(), slotsKey, redis.Z{Score: later, Member: "1000-left"}, redis.Z{Score: later, Member: "unknown"})
	admit(t, short, slotted(unlocked(), 1)).Grant.Release(0)
}

// A candidate refuses nobody, also where somebody else has its key.
func TestRedis_CandidateWhoseKeyIsNoBudget(t *testing.T) {
	server := startRedis(t)
	r := join(t, server.URL(), Options{})
	limit := charge("limit", "10/h")
	server.Client().LPush(t.Context(), "throttle:2:{slack}:rate:candidate", "x")
	a := candidate(by(Closed, unlocked(limit)), charge("candidate", "1/h"))
	v := admit(t, r, a)
	if len(v.Candidates) != 1 || v.Candidates[0].Known() || v.Decisions[0].Remaining != 9 {
		t.Errorf("got %+v, want it admitted, and nothing known of the candidate", v)
	}
}

// Those that have a place when the store goes away are part of what is admitted
// without it: a share is not for others until they are sent.
func TestRedis_PlacesAreOfTheShare(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r := join(t, server.URL(), Options{Timeout: 2 * time.Second})
	limit := charge("limit", "1/m,burst=1")
	limit.Wait = time.Hour
	admit(t, r, unlocked(limit))
	ctx, leave := leaves(t)
	const places = 5
	for range places {
		admitLater(ctx, r, patient(by(Local, request(fmt.Sprint(requests.Add(1)), limit)), time.Hour))
	}
	waitsHere(t, r, places)
	server.Kill()
	lose(t, r)
	v := degraded(t, r, Limited, by(Local, unlocked(limit)))
	if next := v.Decisions[0].NextAfter; next < places*time.Minute {
		t.Errorf("got the next after %v, want it after those that wait", next)
	}
	leave()
}

// Places that were taken while the store was away are charged when it is back, and
// what comes then is after them.
func TestRedis_PlacesTakenAloneAreCharged(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	told := newChanges()
	r := join(t, link.URL(), Options{Timeout: 2 * time.Second, Observe: told.observe})
	limit := charge("limit", "1/m,burst=2")
	limit.Wait = time.Hour
	admit(t, r, unlocked(limit))
	link.Refuse()
	link.Cut()
	lose(t, r)
	ctx, leave := leaves(t)
	const places = 6
	for range places {
		admitLater(ctx, r, patient(by(Local, unlocked(limit)), time.Hour))
	}
	waitsHere(t, r, places)
	link.Heal()
	told.next(t, StoreAway)
	told.next(t, StoreBack)
	other := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}, Observe: told.observe})
	eventually(t, "charged", func() bool {
		v := ask(t, other, unlocked(limit))
		return v.Outcome == Limited && v.Decisions[0].NextAfter > (places-1)*time.Minute
	})
	leave()
}

// The time that a request has waited is told also where it was all for nothing.
func TestRedis_WhoHasWaitedForAStoreThatIsGone(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	r := join(t, server.URL(), Options{Timeout: 2 * time.Second})
	slow, other := charge("slow", "1/s,burst=1"), charge("other", "10/h")
	admit(t, r, unlocked(slow))
	done := admitLater(t.Context(), r, patient(by(Closed, request("a", slow, other)), time.Minute))
	waitsHere(t, r, 1)
	server.Kill()
	if got := <-done; !errors.Is(got.err, ErrUndecided) || got.Waited < 100*time.Millisecond {
		t.Errorf("got %+v, want it undecided, and how long it has waited", got)
	}
	if s := r.Status(); s.Waiting+len(s.Locks) > 0 {
		t.Errorf("got %+v, want nothing left", s)
	}
}
