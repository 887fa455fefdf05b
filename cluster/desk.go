package cluster

import (
	"context"
	"slices"
	"sync"
	"time"
)

// deskID is what the asks of a desk have in common: one script can decide them, or one
// trip look for their locks.
type deskID struct {
	tag    string
	script *script // nil for the latter
}

// batch is asks of one desk that the store decides in one script. What it reads and
// writes for all of them it reads and writes once: that is most of what an ask costs
// it.
type batch struct {
	ctx   context.Context // of the ask that has most time left
	asks  []*asker
	began time.Duration // when it went, on the clock of all others
	over  chan struct{} // closed when all of them have a reply, or an error
}

// desk gathers asks. A few batches may be under way at once; whoever comes meanwhile
// goes with the next. So nobody waits where few ask, and where many do they wait for
// one another, for part of a round trip; for those that get no answer not for long. It
// is safe for concurrent use.
type desk struct {
	script *script // the guard that decides them; nil where only their locks are looked for

	mu       sync.Mutex
	underWay []*batch
	waiting  []*batch
}

// pace is how many batches of a desk may be under way at a time. To those that are late
// no answer may ever come: they do not count.
type pace struct {
	most      int
	lateAfter time.Duration
}

// enter returns the batch with which a goes, whether it is the first of that, and
// whether that is to be run at once, by the caller.
func (d *desk) enter(ctx context.Context, a *asker, p pace, now time.Duration) (b *batch, first, goes bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.waiting)
	if n > 0 && len(d.waiting[n-1].asks) < groupSize {
		b = d.waiting[n-1]
		b.asks = append(b.asks, a)
		// Who waited for a turn, or asks again, has less time than who came before.
		if deadlineOf(b.ctx).Before(deadlineOf(ctx)) {
			b.ctx = ctx
		}
		return b, false, false
	}
	b = &batch{ctx: ctx, asks: []*asker{a}, over: make(chan struct{})}
	d.waiting = append(d.waiting, b)
	return b, true, n == 0 && d.goLocked(p, now) == b
}

// goLocked returns the batch that goes next, if one may.
func (d *desk) goLocked(p pace, now time.Duration) *batch {
	onTime := 0
	for _, b := range d.underWay {
		if now-b.began < p.lateAfter {
			onTime++
		}
	}
	if onTime >= p.most || len(d.waiting) == 0 {
		return nil
	}
	b := d.waiting[0]
	d.beginLocked(b, now)
	return b
}

// beginLocked moves b from those that wait to those that are under way, and reports
// whether it waited.
func (d *desk) beginLocked(b *batch, now time.Duration) bool {
	i := slices.Index(d.waiting, b)
	if i < 0 {
		return false
	}
	d.waiting = slices.Delete(d.waiting, i, i+1)
	b.began = now
	d.underWay = append(d.underWay, b)
	return true
}

// next returns the batch to run when one is over, or nil.
func (d *desk) next(over *batch, p pace, now time.Duration) *batch {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.Index(d.underWay, over)
	d.underWay = slices.Delete(d.underWay, i, i+1)
	return d.goLocked(p, now)
}

// hasten reports whether the caller is to run b, which has waited for as long as makes
// others late: whatever else is under way.
func (d *desk) hasten(b *batch, now time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.beginLocked(b, now)
}

func deadlineOf(ctx context.Context) time.Time {
	end, _ := ctx.Deadline()
	return end
}

// withdraw takes a out of b, and reports whether it could: it cannot where b is under
// way already.
func (d *desk) withdraw(b *batch, a *asker) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := slices.Index(d.waiting, b)
	if i < 0 {
		return false
	}
	b.asks = slices.DeleteFunc(b.asks, func(other *asker) bool { return other == a })
	if len(b.asks) == 0 {
		d.waiting = slices.Delete(d.waiting, i, i+1)
	}
	return true
}

// pace is that of all desks, as far as is known how long a trip to the store takes: by
// when its client is made there has been none.
func (r *Redis) pace() pace {
	var trip time.Duration
	if r.options.Dialled != nil {
		trip, _ = r.options.Dialled()
	}
	return pace{batchesAtOnce(trip), max(r.options.Timeout/5, 2*trip)}
}

// batchesAtOnce is how many batches of a tag may be under way to a store that is a trip
// away: the more of them the less asks wait for one another, and the fewer go together.
func batchesAtOnce(trip time.Duration) int {
	const apart = 250 * time.Microsecond // they follow each other by, on average
	return min(2+int(trip/apart), farBatches)
}
