package cluster

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"throttle-proxy/limiter"
)

// undecided is the verdict on an ask to which the store gave no answer because
// of err. The grant is what the ask wants.
func (r *Redis) undecided(ask Ask, g *Grant, part *part, err error) (Verdict, error) {
	v := Verdict{Degraded: true, Fault: FaultOf(err)}
	when := ask.WhenUndecided
	if ask.Key != nil && when == Local {
		when = Closed // what this replica knows of a key is not enough
	}
	switch when {
	case Local, Open:
		var share int
		fault := v.Fault
		if v, share = r.decideAlone(ask, g, part); ask.WhenUndecided == Local {
			v.Share = share
		}
		v.Degraded, v.Fault, err = true, fault, nil
		v = r.known.told(ask, v, limiter.Alone)
		if part.state() == asked { // or it is charged when the store answers
			r.queue.add(r.owed(part)...)
		}
	default:
		err = fmt.Errorf("%w: %w", ErrUndecided, err)
	}
	// The store may have granted what it was asked for, or be about to.
	if g.Locked() && g.lock.stored.Load() {
		g.lock.doubtful.Store(true)
		if v.Grant == nil {
			r.queue.add(r.endingOf(g, 0))
		}
	}
	if v.Outcome != Admitted && g != nil {
		r.queue.add(r.freeing(g.taken)...)
		g.taken = nil // of what waits it is asked for later
	}
	return v, err
}

// decideAlone decides ask by what this replica knows. Whatever it admits is
// owed to the store's budgets.
func (r *Redis) decideAlone(ask Ask, g *Grant, part *part) (v Verdict, share int) {
	charges := ask.charges()
	r.known.mu.Lock()
	defer r.known.mu.Unlock()
	now := r.known.now()
	alone, began := part.alone(now, r.fleet.live(r.options.Replicas), charges)
	if began {
		r.spendPlacesLocked(part, alone, now)
	}
	spent := spentHere{owes: &owes{debts: part.debts, charges: charges, replicas: alone.replicas}}
	var slots []Slot
	if ask.WhenUndecided == Local {
		for _, slot := range ask.Slots {
			slots = append(slots, slot.share(alone.replicas))
		}
		spent.budgets, spent.charges = alone.budgets, make([]limiter.Charge, len(charges))
		for i, c := range charges {
			spent.charges[i] = alone.share(c)
		}
	}
	v = r.known.decideLocked(ask, slots, &spent, now)
	switch v.Outcome {
	case Admitted:
		spent.owes.tats = part.debts.Add(now, charges, alone.replicas)
	case queued: // the others are owed when they are spent
		spent.owes.charges = charges[v.place : v.place+1]
		spent.owes.tats = part.debts.Add(now, spent.owes.charges, alone.replicas)
	default:
		spent.owes = nil
	}
	if v.Outcome == Admitted || v.waits(ask) {
		v = r.known.grantLocked(ask, v, g, spent, now)
	}
	return v, alone.replicas
}

// solo is how this replica decides while the store gives no answer.
type solo struct {
	replicas int              // that share each budget
	budgets  *limiter.Budgets // this replica's shares
	used     time.Duration    // for the last time
	away     bool             // the store was away then
}

// soloIdle is for how long a replica's shares last unused while the store answers
// other asks, and maybe theirs too.
const soloIdle = time.Second

// share is c of a replica's share.
func (s *solo) share(c limiter.Charge) limiter.Charge {
	c.Limit = c.Limit.Share(s.replicas)
	return c
}

// spendPlacesLocked spends from the shares of s, which have just begun, what those
// will use here that wait for a place in a budget of p: sent while it is away, they
// are part of what is admitted without it.
func (r *Redis) spendPlacesLocked(p *part, s *solo, now time.Duration) {
	for w := range r.known.waiting.all {
		if w.place >= 0 && r.partOf(w.ask.Tag) == p {
			charges := chargesOf(w.ask.Tag, w.ask.Charges[w.place:w.place+1])
			s.budgets.Reserve(now, []limiter.Charge{s.share(charges[0])}, math.MaxInt64)
		}
	}
}

// alone returns how to decide an ask of charges without the store, and whether
// that begins now. Its budgets
// begin empty, so that an outage hands out no burst, and last for as long as it is
// away. Where only some asks get no answer, as for one key or from a store that
// fails now and then, they last while such asks follow each other: within
// soloIdle, or by the time in which a share earns two requests. Else the next to
// come would find all that was saved up since.
func (p *part) alone(now time.Duration, replicas int, charges []limiter.Charge) (s *solo, began bool) {
	away := p.away()
	if p.solo != nil {
		idle := soloIdle
		for _, c := range charges {
			share := c.Limit.Share(p.solo.replicas)
			idle = max(idle, 2*(share.Period/time.Duration(share.Rate)))
		}
		if now-p.solo.used > idle && !(away && p.solo.away) {
			p.solo = nil
		}
	}
	if began = p.solo == nil; began {
		p.solo = &solo{replicas: replicas, budgets: limiter.NewEmptyBudgets(Capacity, now)}
	}
	p.solo.used, p.solo.away = now, away
	return p.solo, began
}

// owed returns the tasks to charge what was admitted without p.
func (r *Redis) owed(p *part) (tasks []*task) {
	r.known.mu.Lock()
	debts := p.debts.Take(r.known.now())
	r.known.mu.Unlock()
	for _, d := range debts {
		tasks = append(tasks, r.charging(d))
	}
	return tasks
}

// charging is the task to charge what was spent while the store was away.
func (r *Redis) charging(d limiter.Debt) *task {
	return &task{class: sums.ofCallers(d.ByCaller), tag: tagOf(d.Key), script: chargeScript, what: debt{d, r.limitArgs(d.Limit, d.Wait)}, forget: d.End}
}

// debt is what is owed to a budget of the store.
type debt struct {
	limiter.Debt
	limit []string // its arguments of a script
}

func (d debt) appendKey(b []byte) []byte { return append(b, d.Key...) }

func (d debt) args(c *command, _ time.Duration) {
	for _, arg := range d.limit {
		c.arg(arg)
	}
	c.arg(strconv.FormatFloat(d.Requests, 'g', -1, 64))
}
