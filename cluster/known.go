package cluster

import (
	"slices"
	"sync"
	"time"

	"throttle-proxy/limiter"
)

// Capacity is how many budgets, holds, refusals and cool-downs one replica
// remembers, of each. Beyond it a replica forgets the budget nearest to full, and
// of the others the one nearest to its end. Locks of requests in flight are not
// counted: whoever bounds the requests bounds them.
const Capacity = 100_000

// known is what a replica knows by itself: its own locks, until when budgets
// that have refused go on to refuse, and cool-downs. All of it is certain, as
// cool-downs are only ever extended and the instant of GCRA only ever moves on.
type known struct {
	replica string
	start   time.Time // epoch of every instant of a replica; carries a monotonic clock

	mu      sync.Mutex // also of the budgets by which this replica decides alone
	locks   locks
	denials *limiter.Deadlines[string] // by a budget's key
	pauses  *limiter.Deadlines[string] // by a cool-down's
}

func newKnown(replica string) *known {
	return &known{
		replica: replica,
		start:   time.Now(),
		locks:   locks{known: make(map[lockID]*Lock)},
		denials: limiter.NewDeadlines[string](Capacity),
		pauses:  limiter.NewDeadlines[string](Capacity),
	}
}

func (k *known) now() time.Duration { return time.Since(k.start) }

// decideLocked is the verdict by what this replica knows and by budgets, which
// may be its shares of the fleet's, or nil for none. The lock becomes the ask's
// if it is admitted, and may be nil.
func (k *known) decideLocked(ask Ask, lock *Lock, budgets *limiter.Budgets, charges []limiter.Charge, now time.Duration) Verdict {
	if v, refused := k.coolingOrDuplicateLocked(ask, now); refused {
		return v
	}
	v := Verdict{Outcome: Admitted, Lock: lock}
	if budgets != nil {
		admitted := false
		if v.Decisions, _, admitted = budgets.Take(now, charges); !admitted {
			return Verdict{Outcome: Limited, Decisions: v.Decisions}
		}
	}
	k.addLocked(lock, now)
	return v
}

// refusal returns the verdict on ask if it is known to be a refusal.
func (k *known) refusal(ask Ask) (v Verdict, refused bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if v, refused := k.coolingOrDuplicateLocked(ask, now); refused {
		return v, true
	}
	return k.limitedLocked(ask, now)
}

func (k *known) coolingOrDuplicateLocked(ask Ask, now time.Duration) (v Verdict, refused bool) {
	if v, refused := k.coolingLocked(ask, now); refused {
		return v, true
	}
	return k.duplicateLocked(ask, now)
}

func (k *known) coolingLocked(ask Ask, now time.Duration) (v Verdict, refused bool) {
	k.pauses.Expire(now)
	if k.pauses.Len() == 0 {
		return Verdict{}, false
	}
	for _, name := range ask.Pauses {
		if until, ok := k.pauses.Get(pauseKey(ask.Tag, name)); ok && until > now {
			v.Outcome, v.Wait, refused = CoolingDown, max(v.Wait, until-now), true
		}
	}
	return v, refused
}

func (k *known) duplicateLocked(ask Ask, now time.Duration) (v Verdict, refused bool) {
	k.locks.expire(now)
	if ask.Fingerprint == nil {
		return Verdict{}, false
	}
	lock := k.locks.get(lockID{ask.Tag, *ask.Fingerprint}, now)
	if lock == nil {
		return Verdict{}, false
	}
	v = Verdict{Outcome: Duplicate, Holder: Holder{RequestID: lock.requestID(), Replica: k.replica, Age: now - lock.admitted}}
	if lock.held() {
		v.Outcome = Held
	}
	return v, true
}

func (k *known) limitedLocked(ask Ask, now time.Duration) (v Verdict, refused bool) {
	k.denials.Expire(now)
	if k.denials.Len() == 0 {
		return Verdict{}, false
	}
	for i, c := range ask.Charges {
		if until, ok := k.denials.Get(c.rateKey(ask.Tag)); ok && until > now {
			if !refused {
				v, refused = Verdict{Outcome: Limited, Decisions: make([]limiter.Decision, len(ask.Charges))}, true
			}
			v.Decisions[i] = limiter.Decision{NextAfter: until - now}
		}
	}
	return v, refused
}

// deny remembers the refusals of budgets that were asked at an instant.
func (k *known) deny(ask Ask, decisions []limiter.Decision, asked time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.denyLocked(ask, decisions, asked)
}

func (k *known) denyLocked(ask Ask, decisions []limiter.Decision, asked time.Duration) {
	for i, d := range decisions {
		if !d.Allowed {
			k.denials.Set(ask.Charges[i].rateKey(ask.Tag), asked+d.NextAfter)
		}
	}
}

// pause remembers a cool-down, and only ever extends one.
func (k *known) pause(tag, name string, d time.Duration) (until time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	until = k.now() + d
	k.pauseLocked(pauseKey(tag, name), until)
	return until
}

func (k *known) pauseLocked(key string, until time.Duration) {
	if before, ok := k.pauses.Get(key); !ok || until > before {
		k.pauses.Set(key, until)
	}
}

// cool remembers the cool-downs that a store told of when it was asked: one
// wait for each of the ask's, 0 for none.
func (k *known) cool(ask Ask, waits []time.Duration, asked time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, wait := range waits {
		if wait > 0 {
			k.pauseLocked(pauseKey(ask.Tag, ask.Pauses[i]), asked+wait)
		}
	}
}

// add makes lock, which a store has granted, known as in flight, unless ask is
// a duplicate by what this replica knows.
func (k *known) add(ask Ask, lock *Lock) (v Verdict, refused bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if v, refused := k.duplicateLocked(ask, now); refused {
		return v, true
	}
	k.addLocked(lock, now)
	return Verdict{}, false
}

// addLocked makes lock, which may be nil, known as in flight.
func (k *known) addLocked(lock *Lock, now time.Duration) {
	if lock == nil {
		return
	}
	lock.admitted = now
	k.locks.add(lock)
}

// release ends lock's exchange and begins its hold.
func (k *known) release(lock *Lock, hold time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.locks.known[lock.id] == lock { // or it was never added
		k.locks.end(lock, k.now(), hold)
	}
}

// inFlight returns the locks whose exchanges are under way.
func (k *known) inFlight() []*Lock {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.locks.inFlight)
}

// renewing marks those of locks that are still in flight, and returns them. The
// store may have each from here on, so that its end must be told, and not before
// it has been renewed.
func (k *known) renewing(locks []*Lock) []*Lock {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.DeleteFunc(locks, func(lock *Lock) bool {
		flies := k.locks.known[lock.id] == lock && !lock.held()
		if flies {
			lock.stored.Store(true)
			lock.renewing.Store(true)
		}
		return !flies
	})
}
