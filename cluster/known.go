package cluster

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"throttle-proxy/limiter"
)

// Capacity is how many budgets, holds, refusals and cool-downs one replica
// remembers, of each. Beyond it a replica forgets the budget nearest to full, and
// of the others the one nearest to its end. Locks of requests in flight are not
// counted: whoever bounds the requests bounds them.
const Capacity = 100_000

// known is what a replica knows by itself: its own locks and slots, until when
// budgets that have refused go on to refuse, and cool-downs. Most of it is certain, as
// cool-downs are only ever extended and the instant of GCRA only ever moves on.
// But a budget in a store can be given back to by another replica, raised or
// deleted: its refusal is believed for a while, and then it is asked again.
type known struct {
	replica  string
	start    time.Time     // epoch of every instant of a replica; carries a monotonic clock
	believed time.Duration // for how long a refusal is, at most
	alone    bool          // nothing but it decides: its clock is the one, and it keeps answers

	mu       sync.Mutex // also of the budgets by which this replica decides alone
	locks    locks
	kept     keptKeys
	slots    slots
	waiting  waiting
	drained  time.Duration                             // when the process ends; 0 while it is not known
	denials  *limiter.Denials                          // by a budget's key
	asking   *limiter.Deadlines[string, chan struct{}] // likewise: until when its asks take turns, and what is closed when that of the one that asks now is over, or nil
	spread   *limiter.Spread                           // likewise
	pauses   pauses
	unlocked *limiter.Deadlines[freeLock, struct{}] // see isUnlocked

	control  atomic.Pointer[control] // what operators have changed; nil for nothing. Stored with mu held.
	followed map[Deed]uint64         // orders since the start
}

func newKnown(replica string) *known {
	return &known{
		replica:  replica,
		start:    time.Now(),
		believed: math.MaxInt64,
		locks:    locks{known: make(map[lockID]*lock)},
		kept:     newKeptKeys(),
		slots:    newSlots(),
		waiting:  newWaiting(),
		denials:  limiter.NewDenials(Capacity),
		asking:   limiter.NewDeadlines[string, chan struct{}](Capacity),
		spread:   limiter.NewSpread(Capacity),
		pauses:   newPauses(),
		unlocked: limiter.NewDeadlines[freeLock, struct{}](Capacity),
		followed: make(map[Deed]uint64),
	}
}

func (k *known) now() time.Duration { return time.Since(k.start) }

// decideLocked is the verdict by what this replica knows, by slots, which are the
// ask's as far as they are there, and by budgets, which may be its shares of the
// fleet's, or nil for none. What it spends is added to spent. Unless it refuses, the
// ask has what it wants by [known.grantLocked]: most grants are never made, where
// much is refused.
func (k *known) decideLocked(ask Ask, slots []Slot, spent *spentHere, now time.Duration) Verdict {
	if v, refused := k.kept.verdict(ask, now); refused {
		return v
	}
	if v, refused := k.duplicateLocked(ask, now); refused {
		return v
	}
	if v, refused := k.coolingLocked(ask, now); refused {
		return v
	}
	v := Verdict{Outcome: Admitted}
	if full := k.slots.full(ask.Tag, slots); full >= 0 {
		v.Outcome, v.place, v.Used = Busy, full, k.slots.usedOf(ask)
	} else if spent.budgets != nil {
		admitted := false
		if v.Decisions, spent.tats, admitted = spent.budgets.Take(now, spent.charges); !admitted {
			var place limiter.Reservation
			if ask.Wait > 0 {
				place, admitted = spent.budgets.Reserve(now, spent.charges, ask.Wait)
			}
			if !admitted {
				return Verdict{Outcome: Limited, Decisions: v.Decisions}
			}
			v.queue(place, now)
			spent.charges, spent.tats = spent.charges[place.Charge:place.Charge+1], []time.Duration{place.TAT}
		}
	}
	return v
}

// grantLocked is v, which does not refuse ask, with its grant, which may be nil, and
// has spent what was spent for it.
func (k *known) grantLocked(ask Ask, v Verdict, g *Grant, spent spentHere, now time.Duration) Verdict {
	if g == nil {
		return v
	}
	v.Grant, g.local = g, &spent
	k.addLocked(g.lock, now)
	if v.Outcome == Admitted && g.taken != nil {
		k.slots.add(g.taken)
		v.Used = k.slots.usedOf(ask)
	}
	return v
}

// queue makes v that of a request with a place in a budget, taken at an instant.
func (v *Verdict) queue(place limiter.Reservation, now time.Duration) {
	v.Outcome, v.place, v.instant = queued, place.Charge, now+place.After
	v.Decisions[place.Charge] = place.Decision
}

// refusal returns the verdict on ask if it is known to be a refusal.
func (k *known) refusal(ask Ask) (v Verdict, refused bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if v, refused := k.duplicateLocked(ask, now); refused {
		return v, true
	}
	if ask.Key != nil { // whose answer may be kept, whatever else would refuse it
		return k.pausedLocked(ask, now)
	}
	if v, refused := k.coolingLocked(ask, now); refused {
		return v, true
	}
	// One that waits takes its lock from the store first, if it wants one.
	if full := k.slots.full(ask.Tag, ask.Slots); full >= 0 && (ask.Wait == 0 || ask.Fingerprint == nil) {
		return Verdict{Outcome: Busy, place: full}, true
	}
	return k.limitedLocked(ask, now)
}

func (k *known) duplicateLocked(ask Ask, now time.Duration) (v Verdict, refused bool) {
	k.locks.expire(now)
	if ask.Fingerprint == nil {
		return Verdict{}, false
	}
	id := lockID{ask.Tag, *ask.Fingerprint}
	lock := k.locks.get(id, now)
	if lock == nil && ask.Arrived > 0 {
		if lock = k.locks.mark(id, now); lock != nil && lock.started <= ask.Arrived {
			lock = nil
		}
	}
	if lock == nil {
		return Verdict{}, false
	}
	v = Verdict{value: lock.value, Outcome: Duplicate, Holder: Holder{RequestID: lock.requestID(), Replica: k.replica, Age: now - lock.admitted}}
	switch {
	case ask.Key != nil && lock.key != nil && lock.key.Content != ask.Key.Content:
		return Verdict{Outcome: KeyReused}, true
	case lock.held() && lock.key != nil:
		v.Outcome = OutcomeUnknown
	case lock.held() && !lock.passed:
		v.Outcome = Held
	}
	arrived := ask.Arrived
	if k.alone {
		arrived = cmp.Or(arrived, now, 1)
	}
	v.followLocked(ask, lock, arrived)
	return v, true
}

func (k *known) coolingLocked(ask Ask, now time.Duration) (v Verdict, refused bool) {
	k.pauses.note(ask)
	if v, paused := k.pausedLocked(ask, now); paused {
		return v, true
	}
	if !k.pauses.expire(now) {
		return Verdict{}, false
	}
	for _, name := range ask.Pauses {
		if p := k.pauses.get(pauseID{ask.Tag, name}); p.until > now {
			v.Outcome, refused = CoolingDown, true
			v.coolsDown(p, now)
		}
	}
	return v, refused
}

// giveBack gives back what a grant has spent here, but for its slots, which are
// free once [known.freed] is told so.
func (k *known) giveBack(g *Grant) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if g.local != nil {
		g.local.giveBackLocked()
	}
	if g.lock != nil {
		k.endLocked(g.lock, 0)
	}
	k.slots.end(g.taken)
}

// freed frees the slots of an exchange that has ended, for those that wait for
// them.
func (k *known) freed(t *taken) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.slots.free(t)
}

// pause remembers a cool-down, and only ever extends one.
func (k *known) pause(tag, name string, d time.Duration, status int) coolDown {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := coolDown{k.now() + d, status}
	k.coolLocked(pauseID{tag, name}, p)
	return p
}

// coolLocked extends a cool-down, and has those look that wait and are under it.
func (k *known) coolLocked(id pauseID, by coolDown) {
	if !k.pauses.extend(id, by) {
		return
	}
	for w := range k.waiting.under[id] {
		w.stir()
	}
}

// cool remembers the cool-downs that a store told of when it was asked: what is
// left of each of the ask's, 0 for none.
func (k *known) cool(ask Ask, left []coolDown, asked time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, p := range left {
		if p.until > 0 {
			k.coolLocked(pauseID{ask.Tag, ask.Pauses[i]}, coolDown{asked + p.until, p.status})
		}
	}
	now := k.now()
	k.foundUnlockedLocked(ask, k.allRefusedLocked(ask, now), now) // the store looks for it first
}

// add makes what a store has granted known as in flight, unless ask is a duplicate
// by what this replica knows. The slots are granted only to what may be sent.
func (k *known) add(ask Ask, g *Grant, slots bool) (v Verdict, refused bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if g.lock != nil {
		if v, refused := k.duplicateLocked(ask, now); refused {
			return v, true
		}
		k.addLocked(g.lock, now)
	}
	if slots && g.taken != nil {
		k.slots.add(g.taken)
	}
	return Verdict{}, false
}

// addLocked makes lock, which may be nil, known as in flight.
func (k *known) addLocked(lock *lock, now time.Duration) {
	if lock == nil {
		return
	}
	lock.admitted = now
	if k.alone {
		lock.started = max(now, 1) // 0 is not known
	}
	k.locks.add(lock)
}

// release ends g's exchange and begins the hold of its lock. Its slots are free
// once [known.freed] is told so.
func (k *known) release(g *Grant, hold time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if g.key != nil {
		k.keepKeyLocked(g)
		hold = min(hold, g.key.Keep)
	}
	k.endLocked(g.lock, hold)
	k.slots.end(g.taken)
}

func (k *known) endLocked(lock *lock, hold time.Duration) {
	if lock == nil {
		return
	}
	lock.flight.endLocked()
	if k.locks.known[lock.id] != lock {
		return // it was never added
	}
	if lock.flight != nil {
		hold = k.keepLocked(lock, hold)
	}
	k.locks.end(lock, k.now(), hold)
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
