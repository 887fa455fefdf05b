package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// asker is an ask on its way to the store. It is still read when whoever asks has
// given it up: so it has nothing that changes from then on, as a Grant does.
type asker struct {
	Ask
	lock     *lock         // that it wants, of which nothing is read but what it is asked for by; nil for none
	token    string        // of the slots that it wants
	deadline time.Duration // until when somebody waits for it, by the store's clock; 0 where that is not known

	reply any   // once its batch is over, of the guard, or the value of its lock, which may be nil; unless
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

// together has s decide a, or its lock looked for where s is nil, with others of its tag,
// until the deadline of ctx. The error is why a has no reply.
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
	if d.script == nil {
		r.lookFor(b.ctx, b.asks)
	} else {
		r.send(b.ctx, d.script, b.asks)
	}
	close(b.over)
	return d.next(b, r.pace(), r.known.now())
}

// send runs s for asks of one tag, and sets the reply or the error of each. What
// becomes of the first of them tells how the trip went, where there is one: not without
// time for it.
func (r *Redis) send(ctx context.Context, s *script, asks []*asker) {
	if isTooLate(ctx, asks) {
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
	r.note(r.partOf(asks[0].Tag), asks[0].failure())
}

// isTooLate reports whether there is no time left for asks, and tells them so.
func isTooLate(ctx context.Context, asks []*asker) bool {
	if ctx.Err() == nil {
		return false
	}
	for _, a := range asks {
		a.err = errUnasked
	}
	return true
}

// lookFor looks for the locks of asks of one tag, and sets the value or the error of each.
// That the store can be read says nothing of whether it is of use; that it cannot does.
func (r *Redis) lookFor(ctx context.Context, asks []*asker) {
	if isTooLate(ctx, asks) {
		return
	}
	pipe := r.conn.Load().client.Pipeline()
	looks := make([]*redis.Cmd, len(asks))
	for i, a := range asks {
		looks[i] = redis.NewCmd(ctx, "get", r.key(string(a.lock.appendKey(nil))))
		_ = pipe.Process(ctx, noRetry{looks[i]})
	}
	_, _ = pipe.Exec(ctx) // each has its error
	for i, a := range asks {
		if a.reply, a.err = looks[i].Result(); a.err == redis.Nil {
			a.err = nil
		}
	}
	if err := asks[0].err; err != nil {
		r.note(r.partOf(asks[0].Tag), err)
	}
}

// groups returns asks in groups of those that are alike, where s is the plain guard:
// the other takes each by itself.
func (s *script) groups(asks []*asker) (groups [][]*asker) {
	for _, a := range asks {
		i := -1
		if s == plainGuardScript {
			i = slices.IndexFunc(groups, func(group []*asker) bool { return group[0].alike(a) })
		}
		if i < 0 {
			i, groups = len(groups), append(groups, nil)
		}
		groups[i] = append(groups[i], a)
	}
	return groups
}
