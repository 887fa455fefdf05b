package limiter

import (
	"math"
	"time"
)

// Charge is one request to be spent from the budget that Key names.
type Charge struct {
	Key   string
	Limit Limit

	// ByCaller is true where the budget is one of many, a caller's own, which may
	// be forgotten beyond a capacity. There are only so many others as were
	// configured: none of them is.
	ByCaller bool

	Wait time.Duration // longest that any request waits for it, for [Debt]
}

// Budgets holds budgets in memory. Instants are durations since an epoch of
// the owner's choosing, on a clock that never steps back. It is not safe for
// concurrent use: its owner decides several budgets, and more, under one mutex.
//
// A key may be asked under another limit than before: what was spent stays
// spent, in requests.
//
// Memory is bounded as a trade-off: where another caller comes beyond the
// capacity, the caller's budget that is nearest to full is forgotten, but for
// those that this very request spends from, which grants its key at most what
// that key had spent of it.
type Budgets struct {
	shared, byCaller *timeline[string, time.Duration] // TAT and emission interval
	beganEmpty       bool
	began            time.Duration // where no request could be spent yet, if beganEmpty
}

// NewBudgets returns Budgets that remember at most capacity callers' keys.
func NewBudgets(capacity int) *Budgets {
	return &Budgets{
		shared:   newTimeline[string, time.Duration](math.MaxInt),
		byCaller: newTimeline[string, time.Duration](capacity),
	}
}

// NewEmptyBudgets returns Budgets that remember at most capacity callers' keys,
// each budget of which had nothing left to spend at an instant.
func NewEmptyBudgets(capacity int, at time.Duration) *Budgets {
	b := NewBudgets(capacity)
	b.beganEmpty, b.began = true, at
	return b
}

// Take spends one request from every charge's budget, or from none where one
// of them refuses, and reports which it was. decisions has one element for
// each charge; where not all admit, they are the budgets as they stay. tats,
// nil unless admitted, is for each charge what [Budgets.Refund] takes.
func (b *Budgets) Take(now time.Duration, charges []Charge) (decisions []Decision, tats []time.Duration, admitted bool) {
	b.byCaller.begin()
	decisions, admitted = make([]Decision, len(charges)), true
	asked := make([]known, 0, 4) // on the stack, for as many
	for i := range charges {
		k := b.find(&charges[i], now)
		b.of(&charges[i]).keep(k.moment)
		k.next, decisions[i].Allowed = charges[i].Limit.spend(k.budget, now)
		admitted = admitted && decisions[i].Allowed
		asked = append(asked, k)
	}
	if admitted {
		tats = make([]time.Duration, len(charges))
	}
	for i := range charges {
		c, k := &charges[i], &asked[i]
		var left budget
		left, decisions[i] = c.Limit.settle(k.budget, k.next, now, decisions[i].Allowed, admitted)
		if left != k.budget {
			b.of(c).set(k.moment, c.Key, left.tat, left.interval)
		}
		if admitted {
			tats[i] = left.tat
		}
	}
	b.shared.expire(now)
	b.byCaller.expire(now)
	return decisions, tats, admitted
}

// Reserve is for a request that waits, at most longest, where [Budgets.Take] has
// just refused it: it spends the request from the one budget of those that refuse
// which admits it last, at the instant at which it does. The others are to be
// asked then, since what would be spent of them now, until then nobody could have.
// ok is false, and nothing is spent, where that is too long to wait.
func (b *Budgets) Reserve(now time.Duration, charges []Charge, longest time.Duration) (r Reservation, ok bool) {
	b.byCaller.begin()
	var last known
	r.Charge = -1
	for i := range charges {
		c := &charges[i]
		k := b.find(c, now)
		if _, allowed := c.Limit.spend(k.budget, now); allowed {
			continue
		}
		next, after := c.Limit.reserve(k.budget, now)
		if r.Charge < 0 || after > r.After {
			k.next = next
			last, r.Charge, r.After = k, i, after
		}
	}
	if r.Charge < 0 || roundUp(r.After) > longest {
		return Reservation{}, false
	}
	c := &charges[r.Charge]
	b.of(c).keep(last.moment)
	b.of(c).set(last.moment, c.Key, last.next.tat, last.next.interval)
	r.TAT, r.Decision = last.next.tat, c.Limit.reserved(last.next.tat-now, r.After)
	r.After = roundUp(r.After)
	return r, true
}

// Reservation is a request that was spent from a budget at a later instant.
type Reservation struct {
	Charge   int           // which of those asked for; the others are not spent
	After    time.Duration // until it may be sent, rounded up to microseconds
	TAT      time.Duration // what [Budgets.Refund] takes
	Decision Decision      // of the budget, as of then
}

// Refund gives the request that c has spent back to its budget, if that was the
// last one: tat is what [Budgets.Take] said of c. Otherwise it stays spent. It is
// to be called once at most for each charge.
func (b *Budgets) Refund(c Charge, tat time.Duration) (given bool) {
	budgets := b.of(&c)
	last := budgets.get(c.Key)
	if last == nil || last.at != tat {
		return false
	}
	budgets.set(last, c.Key, tat-last.value, last.value)
	return true
}

// Look tells of each charge's budget whether it would admit one more, and what is
// left of it. It spends nothing.
func (b *Budgets) Look(now time.Duration, charges []Charge) (decisions []Decision) {
	for i := range charges {
		k := b.find(&charges[i], now)
		next, allowed := charges[i].Limit.spend(k.budget, now)
		_, d := charges[i].Limit.settle(k.budget, next, now, allowed, false)
		decisions = append(decisions, d)
	}
	return decisions
}

// Fill has nothing spent of the budget of c's key from now on.
func (b *Budgets) Fill(now time.Duration, c Charge) {
	budgets := b.of(&c)
	if m := budgets.get(c.Key); m != nil {
		budgets.set(m, c.Key, min(m.at, now), m.value)
	}
}

// known is a budget while it is asked, and where it is remembered.
type known struct {
	budget
	next   budget // if the ask is settled as this one decides
	moment *moment[string, time.Duration]
}

func (b *Budgets) find(c *Charge, now time.Duration) known {
	m := b.of(c).get(c.Key)
	if m != nil && m.at > now {
		return known{budget: budget{m.at, m.value}, moment: m}
	}
	full := budget{now, c.Limit.interval()}
	if b.beganEmpty {
		full.tat = max(now, b.began+c.Limit.offset())
	}
	return known{budget: full, moment: m}
}

func (b *Budgets) of(c *Charge) *timeline[string, time.Duration] {
	if c.ByCaller {
		return b.byCaller
	}
	return b.shared
}
