package cluster

import (
	"context"
	"time"
)

// turn is an ask's that finds out whether a budget goes on to refuse, while others
// wait for what it is told: many come in the moment in which a refusal is over, and
// but one or two of them can be admitted. The zero turn is nobody's.
type turn struct {
	key    string // of the budget
	charge int
	over   chan struct{} // closed when it is
}

// turnsLast is for how long after a budget has refused its asks take turns.
const turnsLast = time.Second

// turnOf returns the turn of ask, or what is closed when another's is over. Asks
// that may wait take none, since all of them can get a place, and none those of keys.
func (k *known) turnOf(ask Ask) (t turn, others <-chan struct{}) {
	if ask.Wait > 0 || ask.Key != nil {
		return turn{}, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	k.asking.Expire(now)
	if k.asking.Len() == 0 {
		return turn{}, nil
	}
	for i, c := range ask.Charges {
		key := c.rateKey(ask.Tag)
		until, asking, _ := k.asking.Get(key)
		switch {
		case until <= now:
		case asking != nil:
			return turn{}, asking
		default:
			t = turn{key, i, make(chan struct{})}
			k.asking.Set(key, until, t.over)
			return t, nil
		}
	}
	return turn{}, nil
}

// takeTurnsLocked lets asks of a budget take turns that refuses for longer than it
// takes to find out, twice: then none of what it admits is lost meanwhile.
func (k *known) takeTurnsLocked(key string, refuses, took, now time.Duration) {
	if refuses >= 2*took {
		_, asking, _ := k.asking.Get(key)
		k.asking.Set(key, now+refuses+turnsLast, asking)
	}
}

// endTurn lets the next one ask, or all at once, unless v, which took a time, says
// that the budget refuses or has admitted the last for a while. Without a verdict
// that is not known.
func (k *known) endTurn(t turn, v Verdict, took time.Duration) {
	if t.over == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	defer close(t.over)
	until, asking, ok := k.asking.Get(t.key)
	if !ok || asking != t.over {
		return
	}
	goesOn := v.Outcome == Limited
	if v.Outcome == Admitted {
		d := v.Decisions[t.charge]
		goesOn = d.Remaining == 0 && d.NextAfter >= 2*took
	}
	if !goesOn {
		until = 0
	}
	k.asking.Set(t.key, until, nil)
}

// awaitTurn waits for another's turn, and reports whether it is over before ctx is.
func awaitTurn(ctx context.Context, others <-chan struct{}) bool {
	select {
	case <-others:
		return true
	case <-ctx.Done():
		return false
	}
}
