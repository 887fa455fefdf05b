package cluster

import (
	"time"

	"throttle-proxy/limiter"
)

func (k *known) limitedLocked(ask Ask, now time.Duration) (v Verdict, refused bool) {
	k.denials.Expire(now)
	if k.denials.Len() == 0 {
		return Verdict{}, false
	}
	for i, c := range ask.Charges {
		if next, ok := k.denials.Next(c.rateKey(ask.Tag), now); ok && next-now > ask.Wait {
			if !refused {
				v, refused = Verdict{Outcome: Limited, Decisions: make([]limiter.Decision, len(ask.Charges))}, true
			}
			v.Decisions[i] = limiter.Decision{NextAfter: next - now}
		}
	}
	return v, refused
}

// told is v, on ask, with what its caller is told to wait if it is limited. place
// is this replica's among those that decide by the same budgets. To be called once
// for each verdict that somebody is told: the next one is told to come later.
func (k *known) told(ask Ask, v Verdict, place limiter.Place) Verdict {
	if v.Outcome != Limited {
		return v
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.toldLocked(ask, v, place)
}

func (k *known) toldLocked(ask Ask, v Verdict, place limiter.Place) Verdict {
	if v.Outcome != Limited {
		return v
	}
	now := k.now()
	for i, d := range v.Decisions {
		if !d.Refused() {
			continue
		}
		c := ask.Charges[i]
		limit := c.Limit.Share(max(1, v.Share))
		// Who may wait is told when it would be let wait.
		next := now + max(time.Microsecond, d.NextAfter-max(ask.Wait, ask.patience))
		v.Wait = max(v.Wait, k.spread.Wait(c.rateKey(ask.Tag), limit, place, now, next))
	}
	return v
}

// deny remembers the refusals of budgets that were asked at an instant, and that
// the ask's lock was not taken, which they were asked after.
func (k *known) deny(ask Ask, decisions []limiter.Decision, asked time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.denyLocked(ask, decisions, asked)
	now := k.now()
	for i, d := range decisions {
		if d.Refused() {
			k.takeTurnsLocked(ask.Charges[i].rateKey(ask.Tag), d.NextAfter, now-asked, now)
		}
	}
	k.foundUnlockedLocked(ask, k.allRefusedLocked(ask, now), now)
}

func (k *known) denyLocked(ask Ask, decisions []limiter.Decision, asked time.Duration) {
	for i, d := range decisions {
		if !d.Allowed {
			k.denials.Set(ask.Charges[i].rateKey(ask.Tag), asked+d.NextAfter, asked+min(d.NextAfter, k.believed))
		}
	}
}

// askAgain has the budgets of a grant asked again, which are given back to.
func (k *known) askAgain(g *Grant) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	for _, c := range g.charges {
		key := c.rateKey(g.tag)
		if _, denied := k.denials.Next(key, now); denied {
			k.denials.Set(key, now, now)
		}
	}
}
