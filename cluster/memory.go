package cluster

import (
	"context"
	"sync"
	"time"

	"throttle-proxy/limiter"
)

// Capacity is how many budgets, holds and refusals one replica remembers, of
// each. Beyond it a Memory forgets the budget nearest to full, and the hold
// and the refusal nearest to their ends. Locks of requests in flight are not counted: whoever bounds the
// requests bounds them.
const Capacity = 100_000

// Memory is a cluster of one: the locks and budgets of this process. It needs
// no lock TTL, since nothing in it outlives its holders.
type Memory struct {
	replica string
	start   time.Time // epoch of every instant below; carries a monotonic clock

	mu      sync.Mutex
	locks   map[Fingerprint]*Lock // in flight and on hold
	holds   *limiter.Deadlines[Fingerprint]
	budgets *limiter.Budgets
	denials *limiter.Deadlines[string] // until when a budget that has refused goes on to refuse
}

// NewMemory returns an empty Memory. replica names this process to the
// callers that it refuses; it should tell them nothing.
func NewMemory(replica string) *Memory {
	return &Memory{
		replica: replica,
		start:   time.Now(),
		locks:   make(map[Fingerprint]*Lock),
		holds:   limiter.NewDeadlines[Fingerprint](Capacity),
		budgets: limiter.NewBudgets(Capacity),
		denials: limiter.NewDeadlines[string](Capacity),
	}
}

// Admit decides ask. The error is always nil.
func (m *Memory) Admit(_ context.Context, ask Ask) (Verdict, error) {
	charges := ask.charges()
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if v, known := m.duplicateLocked(ask, now); known {
		return v, nil
	}
	decisions, admitted := m.budgets.Take(now, charges)
	if !admitted {
		m.denyLocked(charges, decisions, now)
		return Verdict{Outcome: Limited, Decisions: decisions}, nil
	}
	lock := newLock(ask, m.replica, m)
	m.addLocked(lock, now)
	return Verdict{Outcome: Admitted, Lock: lock, Decisions: decisions}, nil
}

// Refusal returns the verdict on ask if this replica knows by itself that it
// is a refusal: a duplicate of a request of its own, or one that a budget
// refuses which has refused before, and whose next request is not yet due.
// That is certain, since the instant of GCRA only ever moves on. It takes
// nothing, and is cheap enough to call before the request's body is read,
// with the Fingerprint still nil. Of budgets that have not refused it says
// nothing.
func (m *Memory) Refusal(ask Ask) (v Verdict, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if v, known := m.duplicateLocked(ask, now); known {
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

func (m *Memory) duplicateLocked(ask Ask, now time.Duration) (v Verdict, known bool) {
	for _, fingerprint := range m.holds.Expire(now) {
		delete(m.locks, fingerprint)
	}
	if ask.Fingerprint == nil {
		return Verdict{}, false
	}
	lock, ok := m.locks[*ask.Fingerprint]
	if !ok {
		return Verdict{}, false
	}
	v = Verdict{Outcome: Duplicate, Holder: Holder{RequestID: lock.requestID, Replica: lock.replica, Age: now - lock.admitted}}
	if lock.held {
		if until, _ := m.holds.Get(*ask.Fingerprint); until <= now {
			return Verdict{}, false
		}
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

func (m *Memory) add(lock *Lock) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.addLocked(lock, m.now())
}

// addLocked makes lock, which may be nil, known as in flight.
func (m *Memory) addLocked(lock *Lock, now time.Duration) {
	if lock == nil {
		return
	}
	m.holds.Delete(lock.fingerprint)
	lock.admitted = now
	m.locks[lock.fingerprint] = lock
}

// release ends lock's exchange and begins its hold.
func (m *Memory) release(lock *Lock, hold time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks[lock.fingerprint] != lock {
		return // another's by now
	}
	if hold <= 0 {
		delete(m.locks, lock.fingerprint)
		return
	}
	lock.held = true
	if forgotten, forgot := m.holds.Set(lock.fingerprint, m.now()+hold); forgot {
		delete(m.locks, forgotten)
	}
}

// inFlight returns the locks whose exchanges are under way.
func (m *Memory) inFlight() []*Lock {
	m.mu.Lock()
	defer m.mu.Unlock()
	var locks []*Lock
	for _, lock := range m.locks {
		if !lock.held {
			locks = append(locks, lock)
		}
	}
	return locks
}

func (m *Memory) now() time.Duration { return time.Since(m.start) }
