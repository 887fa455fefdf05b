package cluster

import (
	"context"
	"time"

	"throttle-proxy/limiter"
)

// Memory is a cluster of one: the locks and budgets of this process. It needs
// no lock TTL, since nothing in it outlives its holders.
type Memory struct {
	known   *known
	budgets *limiter.Budgets // guarded by the mutex of what is known
}

// NewMemory returns an empty Memory. replica names this process to the
// callers that it refuses; it should tell them nothing.
func NewMemory(replica string) *Memory {
	return &Memory{known: newKnown(replica), budgets: limiter.NewBudgets(Capacity)}
}

// Admit decides ask. The error is always nil.
func (m *Memory) Admit(_ context.Context, ask Ask) (Verdict, error) {
	g := newGrant(ask, m)
	spent := &spentHere{budgets: m.budgets, charges: ask.charges()}
	m.known.mu.Lock()
	defer m.known.mu.Unlock()
	now := m.known.now()
	v := m.known.decideLocked(ask, g, spent, now)
	if v.Outcome == Limited {
		m.known.denyLocked(ask, v.Decisions, now)
	}
	return m.known.toldLocked(ask, v, limiter.Alone), nil
}

// Refusal returns the verdict on ask if this replica knows by itself that it
// is a refusal: a duplicate of a request of its own, one under a cool-down, or
// one that a budget refuses which has refused before, and whose next request is
// not yet due. It takes nothing, and is cheap enough to call before the request's
// body is read, with the Fingerprint still nil. Of budgets that have not refused
// it says nothing.
func (m *Memory) Refusal(ask Ask) (v Verdict, refused bool) {
	v, refused = m.known.refusal(ask)
	return m.known.told(ask, v, limiter.Alone), refused
}

// Pause lets no ask that names the cool-down be admitted for d from now on: its
// upstream has asked for that with a status. It only ever extends one.
func (m *Memory) Pause(tag, name string, d time.Duration, status int) {
	m.known.pause(tag, name, d, status)
}

func (m *Memory) release(lock *lock, hold time.Duration) { m.known.release(lock, hold) }

func (m *Memory) giveBack(g *Grant) {
	m.known.giveBack(g)
	m.known.askAgain(g)
}

// Status returns what this replica has in flight.
func (m *Memory) Status() Status { return m.known.status() }
