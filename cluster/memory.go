package cluster

import (
	"context"
	"sync"
	"time"

	"throttle-proxy/limiter"
)

// Capacity is how many budgets, holds, refusals and cool-downs one replica
// remembers, of each. Beyond it a Memory forgets the budget nearest to full, and
// of the others the one nearest to its end. Locks of requests in flight are not
// counted: whoever bounds the requests bounds them.
const Capacity = 100_000

// Memory is a cluster of one: the locks and budgets of this process. It needs
// no lock TTL, since nothing in it outlives its holders.
type Memory struct {
	replica string
	start   time.Time // epoch of every instant below; carries a monotonic clock

	mu      sync.Mutex
	locks   locks
	budgets *limiter.Budgets
	denials *limiter.Deadlines[string] // until when a budget that has refused goes on to refuse
	pauses  *limiter.Deadlines[string] // ends of cool-downs
}

// NewMemory returns an empty Memory. replica names this process to the
// callers that it refuses; it should tell them nothing.
func NewMemory(replica string) *Memory {
	return &Memory{
		replica: replica,
		start:   time.Now(),
		locks:   locks{known: make(map[lockID]*Lock)},
		budgets: limiter.NewBudgets(Capacity),
		denials: limiter.NewDeadlines[string](Capacity),
		pauses:  limiter.NewDeadlines[string](Capacity),
	}
}

// Admit decides ask. The error is always nil.
func (m *Memory) Admit(_ context.Context, ask Ask) (Verdict, error) {
	charges := ask.charges()
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	v := m.decideLocked(ask, newLock(ask, m), m.budgets, charges, now)
	if v.Outcome == Limited {
		m.denyLocked(charges, v.Decisions, now)
	}
	return v, nil
}

// decideLocked is the verdict by what this replica knows, with budgets that may
// be its shares of the fleet's, or nil for none. The lock becomes the ask's if
// it is admitted, and may be nil.
func (m *Memory) decideLocked(ask Ask, lock *Lock, budgets *limiter.Budgets, charges []limiter.Charge, now time.Duration) Verdict {
	if v, known := m.knownLocked(ask, now); known {
		return v
	}
	v := Verdict{Outcome: Admitted, Lock: lock}
	if budgets != nil {
		admitted := false
		if v.Decisions, _, admitted = budgets.Take(now, charges); !admitted {
			return Verdict{Outcome: Limited, Decisions: v.Decisions}
		}
	}
	m.addLocked(lock, now)
	return v
}

// Refusal returns the verdict on ask if this replica knows by itself that it
// is a refusal: one under a cool-down, a duplicate of a request of its own, or
// one that a budget refuses which has refused before, and whose next request is
// not yet due. That is certain, since cool-downs are only ever extended and the
// instant of GCRA only ever moves on. It takes nothing, and is cheap enough to
// call before the request's body is read, with the Fingerprint still nil. Of
// budgets that have not refused it says nothing.
func (m *Memory) Refusal(ask Ask) (v Verdict, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if v, known := m.knownLocked(ask, now); known {
		return v, true
	}
	m.denials.Expire(now)
	if m.denials.Len() == 0 {
		return Verdict{}, false
	}
	for i, c := range ask.Charges {
		if until, ok := m.denials.Get(c.rateKey(ask.Tag)); ok && until > now {
			if !known {
				v, known = Verdict{Outcome: Limited, Decisions: make([]limiter.Decision, len(ask.Charges))}, true
			}
			v.Decisions[i] = limiter.Decision{NextAfter: until - now}
		}
	}
	return v, known
}

// Pause lets no ask that names the cool-down be admitted for d from now on. It
// only ever extends one.
func (m *Memory) Pause(tag, name string, d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pauseLocked(pauseKey(tag, name), m.now()+d)
}

func (m *Memory) pauseLocked(key string, until time.Duration) {
	if known, ok := m.pauses.Get(key); !ok || until > known {
		m.pauses.Set(key, until)
	}
}

// knownLocked returns the verdict on an ask that is under a cool-down or a
// duplicate.
func (m *Memory) knownLocked(ask Ask, now time.Duration) (v Verdict, known bool) {
	m.pauses.Expire(now)
	if m.pauses.Len() > 0 {
		for _, name := range ask.Pauses {
			if until, ok := m.pauses.Get(pauseKey(ask.Tag, name)); ok && until > now {
				v.Outcome, v.Wait, known = CoolingDown, max(v.Wait, until-now), true
			}
		}
		if known {
			return v, true
		}
	}
	return m.duplicateLocked(ask, now)
}

func (m *Memory) duplicateLocked(ask Ask, now time.Duration) (v Verdict, known bool) {
	m.locks.expire(now)
	if ask.Fingerprint == nil {
		return Verdict{}, false
	}
	lock := m.locks.get(lockID{ask.Tag, *ask.Fingerprint}, now)
	if lock == nil {
		return Verdict{}, false
	}
	v = Verdict{Outcome: Duplicate, Holder: Holder{RequestID: lock.requestID(), Replica: m.replica, Age: now - lock.admitted}}
	if lock.held() {
		v.Outcome = Held
	}
	return v, true
}

// deny remembers the refusals of a store that was asked at an instant.
func (m *Memory) deny(ask Ask, decisions []limiter.Decision, asked time.Duration) {
	charges := ask.charges()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.denyLocked(charges, decisions, asked)
}

func (m *Memory) denyLocked(charges []limiter.Charge, decisions []limiter.Decision, asked time.Duration) {
	for i, d := range decisions {
		if !d.Allowed {
			m.denials.Set(charges[i].Key, asked+d.NextAfter)
		}
	}
}

// add makes lock, which a store has granted, known as in flight, unless ask is
// a duplicate by what this replica knows.
func (m *Memory) add(ask Ask, lock *Lock) (v Verdict, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if v, known := m.duplicateLocked(ask, now); known {
		return v, true
	}
	m.addLocked(lock, now)
	return Verdict{}, false
}

// cool remembers the cool-downs that a store told of when it was asked: one
// wait for each of the ask's, 0 for none.
func (m *Memory) cool(ask Ask, waits []time.Duration, asked time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, wait := range waits {
		if wait > 0 {
			m.pauseLocked(pauseKey(ask.Tag, ask.Pauses[i]), asked+wait)
		}
	}
}

// addLocked makes lock, which may be nil, known as in flight.
func (m *Memory) addLocked(lock *Lock, now time.Duration) {
	if lock == nil {
		return
	}
	lock.admitted = now
	m.locks.add(lock)
}

// release ends lock's exchange and begins its hold.
func (m *Memory) release(lock *Lock, hold time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks.known[lock.id] == lock { // or it was never added
		m.locks.end(lock, m.now(), hold)
	}
}

// toRenew returns the locks whose exchanges are under way, of tags that can be
// reached. The store may have each from here on, so that its end must be told.
func (m *Memory) toRenew(reached func(tag string) bool) []*Lock {
	m.mu.Lock()
	defer m.mu.Unlock()
	locks := make([]*Lock, 0, len(m.locks.inFlight))
	for _, lock := range m.locks.inFlight {
		if reached(lock.id.tag) {
			lock.stored.Store(true)
			locks = append(locks, lock)
		}
	}
	return locks
}

func (m *Memory) now() time.Duration { return time.Since(m.start) }
