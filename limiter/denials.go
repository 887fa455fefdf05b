package limiter

import "time"

// Denials remembers of a bounded number of budgets that have refused when each
// admits the next, and until when that is to be believed. Instants are durations
// since an epoch of the owner's choosing. It forgets first what is believed for
// the shortest time, but never what was just set. It is not safe for concurrent
// use.
type Denials struct {
	line *timeline[string, time.Duration]
}

// NewDenials returns Denials of at most capacity budgets.
func NewDenials(capacity int) *Denials {
	return &Denials{newTimeline[string, time.Duration](capacity)}
}

// Set remembers that the budget of key refuses until next, which is believed until
// an instant, and no longer than it refuses.
func (d *Denials) Set(key string, next, believed time.Duration) {
	d.line.begin()
	d.line.set(d.line.get(key), key, min(next, believed), next)
}

// Next returns when the budget of key admits the next. ok is false if it is not
// known to refuse now.
func (d *Denials) Next(key string, now time.Duration) (next time.Duration, ok bool) {
	m := d.line.get(key)
	if m == nil || m.at <= now {
		return 0, false
	}
	return m.value, true
}

// Expire forgets what is not to be believed any more, a few at a time so that no
// single call is slow. Called once for each Set, it keeps up.
func (d *Denials) Expire(now time.Duration) { d.line.expire(now) }

// Len returns how many budgets are remembered.
func (d *Denials) Len() int { return len(d.line.byKey) }
