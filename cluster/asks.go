package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// asker is an ask on its way to the store. It is still read when whoever asks has
// given it up: so it has nothing that changes from then on, as a Grant does.
type asker struct {
	Ask
	lock     *lock         // that it wants, of which nothing is read but what it is asked for by; nil for none
	token    string        // of the slots that it wants
	deadline time.Duration // until when somebody waits for it, by the store's clock; 0 where that is not known

	reply any   // of the script, once its batch is over, unless
	err   error // says why there is none
}

// newAsker returns what asks for what g is to be granted, which may be nil.
func newAsker(ask Ask, g *Grant, deadline time.Duration) *asker {
	a := &asker{Ask: ask, deadline: deadline}
	if g != nil {
		a.lock = g.lock
		if g.taken != nil {
			a.token = g.taken.token
		}
	}
	return a
}

// alike reports whether a and b, which are of one tag, differ in their locks alone.
func (a *asker) alike(b *asker) bool {
	return a.deadline == b.deadline && (a.lock == nil) == (b.lock == nil) && a.LongestPause == b.LongestPause &&
		slices.Equal(a.Pauses, b.Pauses) && slices.Equal(a.Charges, b.Charges)
}

// failure is why a guard has not decided a; nil if it has.
func (a *asker) failure() error {
	if a.err != nil {
		return a.err
	}
	switch reply := a.reply.(type) {
	case []any:
		return nil
	case string:
		return keyError(reply)
	}
	return errReply([]any{a.reply})
}

// answer is what a guard said of a.
func (a *asker) answer() (answer, error) {
	if err := a.failure(); err != nil {
		return answer{}, err
	}
	return readAnswer(a.Ask, a.reply.([]any))
}

// deskID is what the asks of a desk have in common: one script can decide them.
type deskID struct {
	tag    string
	script *script
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
	script *script // a guard, which decides them, or heldScript

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

// together has s run for a, with others of its tag, until the deadline of ctx. The
// error is why a has no reply.
func (r *Redis) together(ctx context.Context, s *script, a *asker) error {
	id := deskID{a.Tag, s}
	found, ok := r.desks.Load(id)
	if !ok {
		found, _ = r.desks.LoadOrStore(id, &desk{script: s})
	}
	d := found.(*desk)
	b, first, goes := d.enter(ctx, a, r.pace(), r.known.now())
	if goes {
		if next := r.runBatch(d, b); next != nil {
			r.stopped.Go(func() { r.runBatches(d, next) })
		}
		return a.err
	}
	return r.await(ctx, d, b, a, first)
}

// await waits until b, of which a is one, is over, or ctx. The first of b sees to it that
// it goes, whatever else is under way.
func (r *Redis) await(ctx context.Context, d *desk, b *batch, a *asker, first bool) error {
	var late <-chan time.Time
	if first {
		timer := time.NewTimer(r.pace().lateAfter)
		defer timer.Stop()
		late = timer.C
	}
	for {
		select {
		case <-b.over:
			return a.err
		case <-late:
			r.hasten(d, b)
		case <-ctx.Done():
			if !d.withdraw(b, a) {
				select {
				case <-b.over: // in the same moment
					return a.err
				default:
					return ctx.Err() // it may still be sent, and answered
				}
			}
			if first {
				r.hasten(d, b) // nobody else does
			}
			return errUnasked
		}
	}
}

// hasten runs b unless that is under way, or of nobody. It has time that whoever calls
// may not have.
func (r *Redis) hasten(d *desk, b *batch) {
	if d.hasten(b, r.known.now()) {
		r.stopped.Go(func() { r.runBatches(d, b) })
	}
}

// errUnasked is why there is no answer to an ask that was never sent.
var errUnasked = fmt.Errorf("the store was not asked in time: %w", context.DeadlineExceeded)

// runBatches runs b, and what has gathered until that is over, until nothing has.
func (r *Redis) runBatches(d *desk, b *batch) {
	for b != nil {
		b = r.runBatch(d, b)
	}
}

// runBatch asks the store for a batch, in one round trip, and returns the one that goes
// then, or nil.
func (r *Redis) runBatch(d *desk, b *batch) (next *batch) {
	r.send(b.ctx, d.script, b.asks)
	close(b.over)
	return d.next(b, r.pace(), r.known.now())
}

// send runs s for asks of one tag, and sets the reply or the error of each. What
// becomes of the first of them tells how the trip went, where there is one: not without
// time for it.
func (r *Redis) send(ctx context.Context, s *script, asks []*asker) {
	if ctx.Err() != nil {
		for _, a := range asks {
			a.err = errUnasked
		}
		return
	}
	groups := s.groups(asks)
	c := newCommand(r.options.Prefix)
	defer c.done()
	for _, group := range groups {
		r.writeKeys(c, group)
	}
	for _, group := range groups {
		r.writeArgs(c, group, r.options.LockTTL, s)
	}
	replies, err := r.conn.Load().once(ctx, s, c).Slice()
	if err == nil && len(replies) != len(asks) {
		err = errReply(replies)
	}
	if len(asks) > 1 && FaultOf(err) == faultMoved { // not run: their slot moves, and not all their keys are in one place
		var each sync.WaitGroup
		for _, a := range asks {
			each.Go(func() { r.send(ctx, s, []*asker{a}) })
		}
		each.Wait()
		return
	}
	for _, group := range groups {
		for _, a := range group {
			if a.err = err; err == nil {
				a.reply, replies = replies[0], replies[1:]
			}
		}
	}
	if first := asks[0]; s != heldScript || first.err != nil { // a store that can only be read is of no use
		r.note(r.partOf(first.Tag), first.failure())
	}
}

// groups returns asks in groups of those that are alike; but the guard that decides any
// ask takes each by itself.
func (s *script) groups(asks []*asker) (groups [][]*asker) {
	for _, a := range asks {
		i := -1
		if s != guardScript {
			i = slices.IndexFunc(groups, func(group []*asker) bool { return group[0].alike(a) })
		}
		if i < 0 {
			i, groups = len(groups), append(groups, nil)
		}
		groups[i] = append(groups[i], a)
	}
	return groups
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
