package cluster

import (
	"context"
	"sync"
	"time"

	"throttle-proxy/limiter"
)

// Capacity is how many budgets, and how many holds, one replica remembers.
// Beyond it a Memory forgets the budget nearest to full and the hold nearest
// to its end. Locks of requests in flight are not counted: whoever bounds the
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
		return Verdict{Outcome: Limited, Decisions: decisions}, nil
	}
	lock := newLock(ask, m.replica, m)
	m.addLocked(lock, now)
	return Verdict{Outcome: Admitted, Lock: lock, Decisions: decisions}, nil
}

// Refusal returns the verdict on ask if it is known to be a refusal. It takes
// nothing, and is cheap enough to call before the request's body is read,
// with the Fingerprint still nil.
func (m *Memory) Refusal(ask Ask) (v Verdict, known bool) {
	charges := ask.charges()
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if v, known := m.duplicateLocked(ask, now); known {
		return v, true
	}
	if decisions := m.budgets.Refusals(now, charges); decisions != nil {
		return Verdict{Outcome: Limited, Decisions: decisions}, true
	}
	return Verdict{}, false
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

// learn takes over an answer of the store, which was asked at an instant, so
// that the refusals which follow from it are known here.
func (m *Memory) learn(ask Ask, decisions []limiter.Decision, asked time.Duration) {
	charges := ask.charges()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.budgets.Learn(asked, charges, decisions)
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
