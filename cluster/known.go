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
// cool-downs are only ever extended and the instant of GCRA only ever moves on,
// but where another replica gives back a request that was never sent: then a
// budget can have one to spend before this replica asks it again.
type known struct {
	replica string
	start   time.Time // epoch of every instant of a replica; carries a monotonic clock

	mu       sync.Mutex // also of the budgets by which this replica decides alone
	locks    locks
	denials  *limiter.Deadlines[string] // by a budget's key
	pauses   pauses
	unlocked *limiter.Deadlines[freeLock] // see isUnlocked
}

func newKnown(replica string) *known {
	return &known{
		replica:  replica,
		start:    time.Now(),
		locks:    locks{known: make(map[lockID]*lock)},
		denials:  limiter.NewDeadlines[string](Capacity),
		pauses:   newPauses(),
		unlocked: limiter.NewDeadlines[freeLock](Capacity),
	}
}

func (k *known) now() time.Duration { return time.Since(k.start) }

// decideLocked is the verdict by what this replica knows and by budgets, which
// may be its shares of the fleet's, or nil for none. The grant becomes the ask's
// if it is admitted, and may be nil; what it spends is added to spent.
func (k *known) decideLocked(ask Ask, g *Grant, spent *spentHere, now time.Duration) Verdict {
	if v, refused := k.duplicateLocked(ask, now); refused {
		return v
	}
	if v, refused := k.coolingLocked(ask, now); refused {
		return v
	}
	v := Verdict{Outcome: Admitted, Grant: g}
	if spent.budgets != nil {
		admitted := false
		if v.Decisions, spent.tats, admitted = spent.budgets.Take(now, spent.charges); !admitted {
			return Verdict{Outcome: Limited, Decisions: v.Decisions}
		}
	}
	if g != nil {
		g.local = spent
		k.addLocked(g.lock, now)
	}
	return v
}

// refusal returns the verdict on ask if it is known to be a refusal.
func (k *known) refusal(ask Ask) (v Verdict, refused bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if v, refused := k.duplicateLocked(ask, now); refused {
		return v, true
	}
	if v, refused := k.coolingLocked(ask, now); refused {
		return v, true
	}
	return k.limitedLocked(ask, now)
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

func (k *known) coolingLocked(ask Ask, now time.Duration) (v Verdict, refused bool) {
	k.pauses.note(ask)
	if !k.pauses.expire(now) {
		return Verdict{}, false
	}
	for _, name := range ask.Pauses {
		if until := k.pauses.until(pauseID{ask.Tag, name}); until > now {
			v.Outcome, v.Wait, refused = CoolingDown, max(v.Wait, until-now), true
		}
	}
	return v, refused
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

// freeLock is a lock that was found to be free, and until when something refused
// all who want it.
type freeLock struct {
	lockID
	refused time.Duration
}

// isUnlocked reports whether the lock of ask is known not to be taken anywhere.
// It cannot be for as long as what refuses all equal asks is what did so when the
// lock was looked for: a budget that all callers share, or the cool-down of all of
// them. But another replica may have given back to that budget, or have begun
// with another limit: so it is known for no longer than replicas take to know of
// each other.
func (k *known) isUnlocked(ask Ask) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	k.unlocked.Expire(now)
	until, ok := k.unlocked.Get(freeLock{lockID{ask.Tag, *ask.Fingerprint}, k.allRefusedLocked(ask)})
	return ok && until > now
}

// foundUnlocked remembers that the lock of ask, which is refused, is not taken.
func (k *known) foundUnlocked(ask Ask) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.foundUnlockedLocked(ask)
}

func (k *known) foundUnlockedLocked(ask Ask) {
	if ask.Fingerprint == nil {
		return
	}
	if refused := k.allRefusedLocked(ask); refused > 0 {
		k.unlocked.Set(freeLock{lockID{ask.Tag, *ask.Fingerprint}, refused}, min(refused, k.now()+beatInterval))
	}
}

// allRefusedLocked returns until when all asks that are equal to ask are refused,
// by what is known; 0 if they are not. It changes with what refuses them.
func (k *known) allRefusedLocked(ask Ask) (until time.Duration) {
	if len(ask.Pauses) > 0 {
		until = k.pauses.until(pauseID{ask.Tag, ask.Pauses[0]})
	}
	for _, c := range ask.Charges {
		if c.Caller == "" {
			denied, _ := k.denials.Get(c.rateKey(ask.Tag))
			until = max(until, denied)
		}
	}
	return until
}

// deny remembers the refusals of budgets that were asked at an instant, and that
// the ask's lock was not taken, which they were asked after.
func (k *known) deny(ask Ask, decisions []limiter.Decision, asked time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.denyLocked(ask, decisions, asked)
	k.foundUnlockedLocked(ask)
}

func (k *known) denyLocked(ask Ask, decisions []limiter.Decision, asked time.Duration) {
	for i, d := range decisions {
		if !d.Allowed {
			k.denials.Set(ask.Charges[i].rateKey(ask.Tag), asked+d.NextAfter)
		}
	}
}

// askAgain has the budgets of a grant asked again, which are given back to.
func (k *known) askAgain(g *Grant) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	for _, c := range g.charges {
		if key := c.rateKey(g.tag); k.denied(key, now) {
			k.denials.Set(key, now)
		}
	}
}

// giveBack gives back what a grant has spent here.
func (k *known) giveBack(g *Grant) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if g.local != nil {
		g.local.giveBackLocked()
	}
	if g.lock != nil {
		k.endLocked(g.lock, 0)
	}
}

func (k *known) denied(key string, now time.Duration) bool {
	until, ok := k.denials.Get(key)
	return ok && until > now
}

// pause remembers a cool-down, and only ever extends one.
func (k *known) pause(tag, name string, d time.Duration) (until time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	until = k.now() + d
	k.pauses.extend(pauseID{tag, name}, until)
	return until
}

// cool remembers the cool-downs that a store told of when it was asked: one
// wait for each of the ask's, 0 for none.
func (k *known) cool(ask Ask, waits []time.Duration, asked time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, wait := range waits {
		if wait > 0 {
			k.pauses.extend(pauseID{ask.Tag, ask.Pauses[i]}, asked+wait)
		}
	}
	k.foundUnlockedLocked(ask) // the store looks for it first
}

// add makes lock, which a store has granted, known as in flight, unless ask is
// a duplicate by what this replica knows.
func (k *known) add(ask Ask, lock *lock) (v Verdict, refused bool) {
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
func (k *known) addLocked(lock *lock, now time.Duration) {
	if lock == nil {
		return
	}
	lock.admitted = now
	k.locks.add(lock)
}

// release ends lock's exchange and begins its hold.
func (k *known) release(lock *lock, hold time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.endLocked(lock, hold)
}

func (k *known) endLocked(lock *lock, hold time.Duration) {
	if k.locks.known[lock.id] == lock { // or it was never added
		k.locks.end(lock, k.now(), hold)
	}
}

// longestHold returns the longest that any lock has had.
func (k *known) longestHold() (longest time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, q := range k.locks.holds {
		longest = max(longest, q.length)
	}
	return longest
}

// inFlight returns the locks whose exchanges are under way.
func (k *known) inFlight() []*lock {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.locks.inFlight)
}

// renewing marks those of locks that are still in flight, and returns them. The
// store may have each from here on, so that its end must be told, and not before
// it has been renewed.
func (k *known) renewing(locks []*lock) []*lock {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.DeleteFunc(locks, func(lock *lock) bool {
		flies := k.locks.known[lock.id] == lock && !lock.held()
		if flies {
			lock.stored.Store(true)
			lock.renewing.Store(true)
		}
		return !flies
	})
}
