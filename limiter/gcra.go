package limiter

import "time"

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

// take is GCRA, as a function of a key's state and the time. Both instants
// count from one epoch, whichever. It returns the TAT after the request, and
// whether the request is admitted: if not, the state stays what it was.
func (l Limit) take(tat, now time.Duration) (next time.Duration, ok bool) {
	next = max(tat, now) + l.interval()
	return next, next-l.offset() <= now
}

// decision derives every figure of a Decision from the time until the budget
// is full again, for budgets in memory and in Redis alike: redis_rate's own
// Remaining comes from floating point and can be one too low. interval is the
// emission interval that the budget is counted by, in nanoseconds: whole ones
// in memory, a fraction in Redis.
func (l Limit) decision(allowed bool, resetAfter time.Duration, interval float64) Decision {
	// A store's answer is right to half a microsecond.
	const rounding = time.Microsecond / 2
	d := Decision{Allowed: allowed, ResetAfter: max(0, resetAfter).Round(time.Microsecond)}
	reset, burst := float64(max(0, resetAfter)), float64(l.Burst)
	if allowed {
		d.Remaining = int(min(max(0, (interval*burst-reset+float64(rounding))/interval), burst))
	}
	if d.Remaining < l.Burst {
		next := reset - interval*(burst-float64(d.Remaining)-1)
		d.NextAfter = max(time.Microsecond, roundUp(time.Duration(next)))
	}
	return d
}

// roundUp rounds to microseconds: who waits for as long is admitted.
func roundUp(d time.Duration) time.Duration {
	return (d + time.Microsecond - 1).Truncate(time.Microsecond)
}
