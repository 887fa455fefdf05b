package cluster

import (
	"sync/atomic"
	"time"

	"throttle-proxy/limiter"
)

// Grant is what an admitted ask was granted: its lock, if it wanted one, its slots,
// and its places in the budgets. It ends by the first call of Release or Unsent; later
// ones do nothing. A nil *Grant is valid and grants nothing.
//
// Neither depends on the request's context: a client that has left is a reason
// to end a grant.
type Grant struct {
	owner  granter
	ended  atomic.Bool
	lock   *lock   // nil where none was wanted
	taken  *taken  // nil where no slots were wanted
	flight *flight // nil where nobody may follow it
	key    *keyed  // nil where it has no idempotency key
	later  *Grant  // what it was granted when it had waited; nil if nothing

	// What was spent, until it ends: in the store, or where local is set, here.
	tag     string
	charges []Charge
	stored  []stored
	local   *spentHere
}

// granter is what a Grant was granted by.
type granter interface {
	release(g *Grant, hold time.Duration)
	unshareable(g *Grant)
	giveBack(g *Grant)
}

// stored is a request that a budget in the store was charged.
type stored struct {
	tat    string // that the charge wrote; empty where another wrote its own at the same instant, after it
	resets time.Duration
}

// spentHere is what was spent of budgets of this replica's own. Its fields are
// guarded by the mutex of what is known.
type spentHere struct {
	charges []limiter.Charge
	budgets *limiter.Budgets // nil if none of them decided
	tats    []time.Duration
	owes    *owes // of a Redis alone
}

// owes is what is owed to the budgets of a store for what was spent here.
type owes struct {
	debts    *limiter.Debts
	charges  []limiter.Charge
	tats     []time.Duration
	replicas int
}

// newGrant returns what ask wants, or nil if that is nothing.
func newGrant(ask Ask, owner granter) *Grant {
	switch {
	case ask.Fingerprint != nil:
		g := &struct { // in one piece of memory
			Grant
			of lock
		}{Grant: Grant{owner: owner, tag: ask.Tag, charges: ask.Charges, taken: newTaken(ask)}}
		g.of.id, g.of.value = lockID{ask.Tag, *ask.Fingerprint}, ask.RequestID
		switch {
		case ask.Key != nil:
			g.key = &keyed{Key: *ask.Key}
			g.of.key = &g.key.Key
		case ask.Sharing != Unshared:
			g.flight, g.of.isFlight = newFlight(ask), true
			g.of.flight = g.flight
		}
		g.lock = &g.of
		return &g.Grant
	case len(ask.Charges)+len(ask.Slots) > 0:
		return &Grant{owner: owner, tag: ask.Tag, charges: ask.Charges, taken: newTaken(ask)}
	}
	return nil
}

// Locked reports whether equal requests are refused until the grant ends.
func (g *Grant) Locked() bool { return g != nil && g.lock != nil }

// lost reports whether the lock was another's when it was last renewed.
func (g *Grant) lost() bool { return g.Locked() && g.lock.lost.Load() }

// and returns g with what the same ask was granted later.
func (g *Grant) and(later *Grant) *Grant {
	if g == nil {
		return later
	}
	last := g
	for last.later != nil {
		last = last.later
	}
	last.later = later
	return g
}

// Release ends the exchange. Equal requests stay refused for hold; with hold 0
// the lock is gone when Release returns, and so are the slots with any, or the
// store has been given its timeout to answer.
func (g *Grant) Release(hold time.Duration) {
	if g == nil || !g.ended.CompareAndSwap(false, true) {
		return
	}
	g.forget()
	g.key.lose()
	if g.Shared() {
		g.flight.lose()
	}
	if g.lock != nil || g.taken != nil {
		g.owner.release(g, hold)
	}
	g.later.Release(hold)
}

// Unsent ends a request that never reached its upstream. The lock and slots are
// gone when Unsent returns, and so are the requests that the budgets were charged, each
// where no other has been charged after it; or the store has been given its
// timeout to answer.
func (g *Grant) Unsent() {
	if g == nil || !g.ended.CompareAndSwap(false, true) {
		return
	}
	g.owner.giveBack(g)
	g.forget()
	g.later.Unsent()
}

// forget lets go of what a lock that is held has no more use for.
func (g *Grant) forget() { g.charges, g.stored, g.local = nil, nil, nil }

// giveBackLocked gives back what was spent here.
func (s *spentHere) giveBackLocked() {
	for i, tat := range s.tats {
		s.budgets.Refund(s.charges[i], tat)
	}
	if s.owes == nil {
		return
	}
	for i, tat := range s.owes.tats {
		s.owes.debts.Refund(s.owes.charges[i], s.owes.replicas, tat)
	}
}

// refunds are the tasks to give back what the store has charged for g. None is
// told twice: the second time it may be another's request that it gives back.
func (r *Redis) refunds(g *Grant) (tasks []*task) {
	now := r.known.now()
	for i, s := range g.stored {
		if s.tat == "" { // another was charged after it
			continue
		}
		tasks = append(tasks, &task{
			class:  sums.ofCallers(g.charges[i].Caller != ""),
			tag:    g.tag,
			script: refundScript,
			what:   refund{g.charges[i], g.tag, s.tat},
			forget: now + s.resets,
			once:   true,
		})
	}
	return tasks
}

// refund is a request of a budget.
type refund struct {
	Charge
	tag, tat string
}

func (r refund) appendKey(b []byte) []byte        { return r.Charge.appendKey(b, r.tag) }
func (r refund) args(c *command, _ time.Duration) { c.arg(r.tat) }
