package cluster

import (
	"cmp"
	"context"
	"sync"
	"time"

	"throttle-proxy/limiter"
)

// Memory is a cluster of one: the locks and budgets of this process. It needs
// no lock TTL, since nothing in it outlives its holders.
type Memory struct {
	known   *known
	budgets *limiter.Budgets // guarded by the mutex of what is known

	ordering sync.Mutex // held while an order is followed
}

// NewMemory returns an empty Memory. replica names this process to the
// callers that it refuses; it should tell them nothing.
func NewMemory(replica string) *Memory {
	known := newKnown(replica)
	known.alone = true
	return &Memory{known: known, budgets: limiter.NewBudgets(Capacity)}
}

// Admit decides ask. It returns when the request may be sent, or is refused, which
// takes at most ask.Wait. The error is nil, or why ctx has ended while it waited.
func (m *Memory) Admit(ctx context.Context, ask Ask) (Verdict, error) {
	began := m.known.now()
	v, err := m.decide(m.known.behind(ask))
	if v.waits(ask) {
		v, err = m.known.await(ctx, ask, v, began, m.decide)
	}
	return v.under(m.known.controlled(ask)), err
}

func (m *Memory) decide(ask Ask) (Verdict, error) {
	m.known.mu.Lock()
	defer m.known.mu.Unlock()
	now := m.known.now()
	ask, _ = m.known.controlledLocked(ask, now)
	spent := spentHere{budgets: m.budgets, charges: ask.charges()}
	v := m.known.decideLocked(ask, ask.Slots, &spent, now)
	if v.Outcome == Admitted || v.waits(ask) {
		v = m.known.grantLocked(ask, v, newGrant(ask, m), spent, now)
	}
	switch v.Outcome {
	case Limited:
		m.known.denyLocked(ask, v.Decisions, now)
	case Admitted, queued:
		for _, c := range ask.candidates() {
			decisions, _, _ := m.budgets.Take(now, []limiter.Charge{c})
			v.Candidates = append(v.Candidates, decisions...)
		}
	}
	if ask.Sharing != Unshared {
		v.Arrived = cmp.Or(ask.Arrived, now, 1)
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
	ask, changed := m.known.controlled(ask)
	v, refused = m.known.refusal(ask)
	return m.known.told(ask, v.under(ask, changed), limiter.Alone), refused && !v.waits(ask)
}

// Pause lets no ask that names the cool-down be admitted for d from now on: its
// upstream has asked for that with a status. It only ever extends one.
func (m *Memory) Pause(tag, name string, d time.Duration, status int) {
	m.known.pause(tag, name, d, status)
}

// Drain refuses requests that would wait for longer than until the process ends,
// after left.
func (m *Memory) Drain(left time.Duration) { m.known.drain(left) }

func (m *Memory) release(g *Grant, hold time.Duration) {
	m.known.release(g, hold)
	m.known.freed(g.taken)
}

func (m *Memory) giveBack(g *Grant) {
	m.known.giveBack(g)
	m.known.freed(g.taken)
	m.known.askAgain(g)
}

func (m *Memory) unshareable(g *Grant) { m.known.unshareable(g) }

// Status returns what this replica has in flight.
func (m *Memory) Status() Status { return m.known.status() }
