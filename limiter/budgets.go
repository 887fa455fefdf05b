package limiter

import "time"

// Charge is one request to be spent from the budget that Key names.
type Charge struct {
	Key   string
	Limit Limit
}

// Budgets holds budgets in memory. Instants are durations since an epoch of
// the owner's choosing, on a clock that never steps back. It is not safe for
// concurrent use: its owner decides several budgets, and more, under one mutex.
//
// Memory is bounded as a trade-off: beyond its capacity the budget that is
// nearest to full is forgotten, which grants its key at most what that key
// had spent of it.
type Budgets struct {
	tats       *Deadlines[string]
	beganEmpty bool
	began      time.Duration // where no request could be spent yet, if beganEmpty
}

// NewBudgets returns Budgets that remember at most capacity keys.
func NewBudgets(capacity int) *Budgets {
	return &Budgets{tats: NewDeadlines[string](capacity)}
}

// NewEmptyBudgets returns Budgets that remember at most capacity keys, each of
// which had nothing left to spend at an instant.
func NewEmptyBudgets(capacity int, at time.Duration) *Budgets {
	return &Budgets{tats: NewDeadlines[string](capacity), beganEmpty: true, began: at}
}

// Take spends one request from every charge's budget, or from none where one
// of them refuses, and reports which it was. decisions has one element for
// each charge; where not all admit, they are the budgets as they stay.
func (b *Budgets) Take(now time.Duration, charges []Charge) (decisions []Decision, admitted bool) {
	b.tats.Expire(now)
	decisions, admitted = make([]Decision, len(charges)), true
	for i, c := range charges {
		tat := b.tat(c, now)
		next, ok := c.Limit.take(tat, now)
		if ok {
			tat = next
		}
		admitted = admitted && ok
		decisions[i] = c.Limit.decision(ok, tat-now, float64(c.Limit.interval()))
	}
	for i, c := range charges {
		tat := b.tat(c, now)
		switch {
		case admitted:
			next, _ := c.Limit.take(tat, now)
			b.tats.Set(c.Key, next)
		case decisions[i].Allowed:
			decisions[i] = c.Limit.decision(true, tat-now, float64(c.Limit.interval()))
		}
	}
	return decisions, admitted
}

func (b *Budgets) tat(c Charge, now time.Duration) time.Duration {
	if tat, ok := b.tats.Get(c.Key); ok {
		return max(tat, now)
	}
	if b.beganEmpty {
		return max(b.began+c.Limit.offset(), now)
	}
	return now
}
