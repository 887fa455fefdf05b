package limiter

import "time"

// Decision is the answer of one budget to one request, rounded to
// microseconds. The zero Decision means that nothing is known of the budget.
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

// take is GCRA, as a function of a key's state and the time. Both instants
// count from one epoch, whichever. It returns the TAT after the request, and
// whether the request is admitted: if not, the state stays what it was.
func (l Limit) take(tat, now time.Duration) (next time.Duration, ok bool) {
	next = max(tat, now) + l.interval()
	return next, next-l.offset() <= now
}

// decision derives every figure of a Decision from the time until the budget
// is full again, for budgets in memory and in Redis alike: redis_rate's own
// Remaining comes from floating point and can be one too low.
func (l Limit) decision(allowed bool, resetAfter time.Duration) Decision {
	// What follows is right to half a microsecond, which is what rounding took.
	const rounding = time.Microsecond / 2
	d := Decision{Allowed: allowed, ResetAfter: max(0, resetAfter).Round(time.Microsecond)}
	interval := l.interval()
	if allowed {
		free := l.offset() - d.ResetAfter + rounding
		d.Remaining = int(min(max(0, free/interval), time.Duration(l.Burst)))
	}
	if d.Remaining < l.Burst {
		d.NextAfter = (d.ResetAfter - interval*time.Duration(l.Burst-d.Remaining-1)).Round(time.Microsecond)
		d.NextAfter = max(d.NextAfter, time.Microsecond)
	}
	return d
}
