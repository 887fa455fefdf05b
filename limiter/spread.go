package limiter

import "time"

// Spread remembers when those were told to come back whom budgets have refused,
// so that they are told successive instants. Told the same one, all but a few
// would be refused again. It is not safe for concurrent use.
//
// It reckons as if everybody came when told, after a whole number of seconds,
// which is all that Retry-After can say: the budget admits each of them. What it
// remembers of a budget is one instant: when that admits one more after all of
// them. Beyond a capacity of budgets it forgets the earliest of these.
type Spread struct{ next *Deadlines[string, struct{}] }

// NewSpread returns a Spread of at most capacity budgets.
func NewSpread(capacity int) *Spread {
	return &Spread{NewDeadlines[string, struct{}](capacity)}
}

// Place is one replica's among several that tell callers of the same budgets
// without asking each other: each takes every Replicas-th turn.
type Place struct {
	Replicas int // at least 1
	Rank     int // from 0
}

// Alone is the place of a replica that shares its budgets with none.
var Alone = Place{Replicas: 1}

const (
	// tellable is what a Retry-After can tell apart.
	tellable = time.Second
	// roomy is how long a budget fills that leaves room to spread callers until
	// it is full, in tellable instants, and longestSpread is how far they are
	// spread where there is no such room.
	roomy, longestSpread = 2 * tellable, 20 * time.Second
)

// Wait returns for how long a caller is to wait whom the budget of key refuses,
// under l and until next. It is never less than until next, and never more than
// until the budget is full, or longestSpread where that is too soon for all: then
// the first instants are told again.
func (s *Spread) Wait(key string, l Limit, p Place, now, next time.Duration) time.Duration {
	s.next.Expire(now)
	full := next - now + l.offset() - l.interval()
	if l.offset() < roomy {
		full = max(full, longestSpread)
	}
	told, _, _ := s.next.Get(key)
	others := 0 // whose turn is after this one
	if told > next {
		told = l.afterOthers(told, now, full, p.Rank)
		others = p.Replicas - 1 - p.Rank
	}
	if told <= next || told-now > full {
		told, others = next, 0
	}
	s.next.Set(key, l.afterOthers(l.after(told, now), now, full, others), struct{}{})
	return told - now
}

// after returns when a budget that admits one at an instant admits one more, after
// a caller who is told now to come then.
func (l Limit) after(instant, now time.Duration) time.Duration {
	comes := now + (instant - now + tellable - 1).Truncate(tellable)
	return max(instant, comes-(l.offset()-l.interval())) + l.interval()
}

// afterOthers is after for n callers of other replicas, as far as it matters.
func (l Limit) afterOthers(instant, now, longest time.Duration, n int) time.Duration {
	for i := 0; i < n && instant-now <= longest; i++ {
		instant = l.after(instant, now)
	}
	return instant
}
