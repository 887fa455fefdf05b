package limiter

import (
	"math"
	"time"
)

// Decision is the answer of one budget to one request, in whole microseconds.
// The zero Decision means that nothing is known of the budget.
type Decision struct {
	Allowed    bool          // the request may be spent
	Remaining  int           // requests that would be admitted right now
	NextAfter  time.Duration // until one more than Remaining; after a refusal, until the next is admitted; 0 when full
	ResetAfter time.Duration // until the whole burst is there again
}

// Known reports whether d says anything at all.
func (d Decision) Known() bool { return d != Decision{} }

// Refused reports whether d is a refusal, which an unknown budget's is not.
func (d Decision) Refused() bool { return !d.Allowed && d.Known() }

// budget is the state of one key: its TAT, on whichever clock, and the emission
// interval of the limit that wrote it. What a budget remembers is requests: how
// far the TAT lies ahead, divided by that interval.
type budget struct{ tat, interval time.Duration }

// spend is GCRA, as a function of a budget's state and the time: what becomes of
// it with one request asked for, and whether that is allowed.
//
// A refusal changes a budget only where l earns faster than the limit that wrote
// it: then the rest is waited for at l's pace. A slower one leaves it at the
// faster pace. If refusals could slow a budget down, replicas with two limits
// that refuse in turn would hand out bursts without end; if none could speed it
// up, a raise would wait for what the old limit takes.
func (l Limit) spend(b budget, now time.Duration) (next budget, allowed bool) {
	interval := l.interval()
	owed := rescale(b.tat-now, b.interval, interval)
	switch {
	case owed <= interval*time.Duration(l.Burst-1):
		return budget{now + owed + interval, interval}, true
	case interval < b.interval:
		return budget{now + owed, interval}, false
	}
	return b, false
}

// reserve is spend for a request that waits until l allows it, where l does not
// allow it now: it takes the place at the first instant at which it would be
// allowed if none came before, so that whoever waits goes in the order of asking,
// paced by l. after is until then.
func (l Limit) reserve(b budget, now time.Duration) (next budget, after time.Duration) {
	interval := l.interval()
	owed := rescale(b.tat-now, b.interval, interval)
	return budget{now + owed + interval, interval}, owed - interval*time.Duration(l.Burst-1)
}

// rescale returns for a time under one emission interval the one under another
// that takes as many requests.
//
// It is computed as budget.lua does, to the last bit, so that a budget in Redis
// is one in memory. Rounding is up, so that nothing spent is forgotten, and
// never makes more of a number of requests than that number takes.
func rescale(ahead, from, to time.Duration) time.Duration {
	switch {
	case ahead <= 0:
		return 0
	case from == to:
		return ahead
	}
	owed := math.Ceil(float64(ahead) / float64(from) * float64(to))
	return time.Duration(min(owed, 1<<62)) // which no limit allows, and no sum overflows with
}

// settle returns what becomes of b, and what is told of it, once l has allowed
// or refused a request, which makes it next, and all limits of the request
// together have admitted it or not. What only this one allowed is not charged.
func (l Limit) settle(b, next budget, now time.Duration, allowed, admitted bool) (budget, Decision) {
	if allowed == admitted {
		b = next
	}
	return b, l.decision(allowed, b.tat-now, b.interval)
}

// decision derives every figure of a Decision from the time until the budget
// is full again, for budgets in memory and in Redis alike. interval is that by
// which the budget earns, which is another limit's where l has not charged it.
func (l Limit) decision(allowed bool, resetAfter, interval time.Duration) Decision {
	// Callers reckon in whole microseconds: half of one is nothing to them.
	const rounding = time.Microsecond / 2
	resetAfter = max(0, resetAfter)
	d := Decision{Allowed: allowed, ResetAfter: resetAfter.Round(time.Microsecond)}
	if allowed {
		spent := max(0, resetAfter-rounding+interval-1) / interval
		d.Remaining = max(0, l.Burst-int(spent))
	}
	if d.Remaining < l.Burst {
		next := resetAfter - interval*time.Duration(l.Burst-d.Remaining-1)
		d.NextAfter = max(time.Microsecond, roundUp(next))
	}
	return d
}

// reserved is the decision on a request that waits for a time, after which ahead,
// its budget's time until it is full, has become less by that.
func (l Limit) reserved(ahead, after time.Duration) Decision {
	return l.decision(true, ahead-after, l.interval())
}

// roundUp rounds to microseconds: who waits for as long is admitted.
func roundUp(d time.Duration) time.Duration {
	return (d + time.Microsecond - 1).Truncate(time.Microsecond)
}
