package cluster

import (
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/limiter"
)

// waiter is a request that waits for its budgets or slots.
type waiter struct {
	ask  Ask
	wake chan struct{} // has one element when something has changed for it
	turn string        // the key of the slots it waits for, or ""; guarded by known.mu
}

// stir has w look at what has changed.
func (w *waiter) stir() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// slotAskedAgain is how long the first of those that wait for a slot waits for one of
// this replica's own to end, before it asks whether another's has.
const slotAskedAgain = 100 * time.Millisecond

// waits reports whether v is a verdict of a request that waits: it has its lock,
// and maybe a place, but may not be sent yet.
func (v Verdict) waits(ask Ask) bool {
	return v.Outcome == queued || v.Outcome == Busy && ask.Wait > 0
}

// await lets the request of ask wait, which began at an instant with the verdict
// first, until it is admitted or refused. decide decides what is left of the ask.
// It holds no slot meanwhile. The error is why ctx has ended, or decide's.
func (k *known) await(ctx context.Context, ask Ask, first Verdict, began time.Duration, decide func(Ask) (Verdict, error)) (Verdict, error) {
	w := &waiter{ask: ask, wake: make(chan struct{}, 1)}
	k.mu.Lock()
	k.waiting[w] = struct{}{}
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.slots.leave(w)
		delete(k.waiting, w)
	}()

	grant := first.Grant
	left := ask // of which a part has been granted
	left.Fingerprint, left.Candidates = nil, nil
	which := make([]int, len(ask.Charges)) // of ask's charges are left's
	for i := range which {
		which[i] = i
	}
	all := Verdict{Decisions: make([]limiter.Decision, len(ask.Charges)), Candidates: first.Candidates}
	v := first
	for {
		refusal, err := k.sleep(ctx, w, v, began+ask.Wait)
		if err != nil || refusal.Outcome != 0 {
			grant.Unsent()
			return all.refused(refusal, which, k.now()-began), err
		}
		if v.Outcome == queued {
			all.Decisions[which[v.place]] = v.Decisions[v.place]
			left.Charges = slices.Delete(slices.Clone(left.Charges), v.place, v.place+1)
			which = slices.Delete(which, v.place, v.place+1)
		}
		if len(left.Charges) == 0 && len(left.Slots) == 0 {
			all.Outcome, all.Grant, all.Waited = Admitted, grant, k.now()-began
			all.Degraded, all.Fault, all.Share = v.Degraded, v.Fault, v.Share
			return all, nil
		}
		left.Wait = max(0, began+ask.Wait-k.now())
		if v, err = decide(left); err != nil {
			grant.Unsent()
			return v, err
		}
		if v.Outcome == Admitted || v.Outcome == queued {
			grant = grant.and(v.Grant)
		}
		if v.waits(left) {
			continue
		}
		if v.Outcome != Admitted {
			grant.Unsent()
			return all.refused(v, which, k.now()-began), nil
		}
		for i, d := range v.Decisions {
			all.Decisions[which[i]] = d
		}
		v.Decisions, v.Candidates, v.Waited, v.Grant = all.Decisions, all.Candidates, k.now()-began, grant
		return v, nil
	}
}

// refused is the verdict on the whole of an ask of which all is known until now,
// where a part of it is refused: which says of its charges which they are.
func (all Verdict) refused(part Verdict, which []int, waited time.Duration) Verdict {
	if part.Decisions != nil {
		for i, d := range part.Decisions {
			all.Decisions[which[i]] = d
		}
		part.Decisions = all.Decisions
	}
	part.Waited = waited
	return part
}

// sleep returns when the request of w, whose verdict is v, may go on: at the
// instant of its place, or when it is its turn to ask for slots again. The refusal
// is why it may not; its outcome is 0 if it may. The error is why ctx has ended.
func (k *known) sleep(ctx context.Context, w *waiter, v Verdict, until time.Duration) (refusal Verdict, err error) {
	asked := k.now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for stirred := false; ; {
		now := k.now()
		refusal, wake := k.look(w, v, until, now)
		switch {
		case refusal.Outcome != 0:
			return refusal, nil
		case v.Outcome == queued && now >= wake:
			return Verdict{}, nil
		case v.Outcome == Busy && k.mayAsk(w) && (stirred || now >= asked+slotAskedAgain):
			return Verdict{}, nil
		}
		timer.Reset(wake - now)
		select {
		case <-ctx.Done():
			return Verdict{}, context.Cause(ctx)
		case <-w.wake:
			stirred = true
		case <-timer.C:
		}
	}
}

// look returns why the request of w is not to wait any longer, if it is not, and
// when to look again, unless w is stirred before.
func (k *known) look(w *waiter, v Verdict, until, now time.Duration) (refusal Verdict, wake time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if refusal, cooling := k.coolingLocked(w.ask, now); cooling {
		return refusal, 0
	}
	if v.Outcome == queued {
		if k.drained > 0 && v.instant > k.drained {
			refusal = Verdict{Outcome: Limited, Decisions: slices.Clone(v.Decisions)}
			refusal.Decisions[v.place] = limiter.Decision{NextAfter: v.instant - now}
		}
		return refusal, v.instant
	}
	if k.drained > 0 {
		until = min(until, k.drained)
	}
	if now >= until {
		return Verdict{Outcome: Busy, Used: v.Used}, 0
	}
	k.slots.queue(w, w.ask.Slots[v.full(w.ask)].key(w.ask.Tag))
	if k.slots.isNext(w) {
		until = min(until, now+slotAskedAgain)
	}
	return refusal, until
}

// full returns the first of the ask's slots of which v says that all are taken.
func (v Verdict) full(ask Ask) int {
	for i, used := range v.Used {
		if used >= ask.Slots[i].Most {
			return i
		}
	}
	return 0 // by this replica's share
}

// mayAsk reports whether it is w that asks for those that wait for the same slots.
func (k *known) mayAsk(w *waiter) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.slots.isNext(w)
}

// stirLocked has all that wait look whether they still may.
func (k *known) stirLocked() {
	for w := range k.waiting {
		w.stir()
	}
}

// drain refuses what would wait for longer than until the process ends, after left.
func (k *known) drain(left time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drained = k.now() + left
	k.stirLocked()
}

// waitedFor returns the asks of requests that wait, by their tags, one for each
// cool-down that they would be under: of at most so many.
func (k *known) waitedFor(most int) map[string][]Ask {
	k.mu.Lock()
	defer k.mu.Unlock()
	seen := make(map[pauseID]bool)
	byTag := make(map[string][]Ask)
	for w := range k.waiting {
		for _, name := range w.ask.Pauses {
			id := pauseID{w.ask.Tag, name}
			if len(seen) < most && !seen[id] {
				seen[id] = true
				byTag[id.tag] = append(byTag[id.tag], Ask{Tag: id.tag, Pauses: []string{name}, LongestPause: w.ask.LongestPause})
			}
		}
	}
	return byTag
}

// lookForPauses asks for the cool-downs that other replicas have met while
// requests wait here. What is not answered is asked for again.
func (r *Redis) lookForPauses() {
	byTag := r.known.waitedFor(batchSize)
	if len(byTag) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.options.Timeout)
	defer cancel()
	asked := r.known.now()
	pipe := r.redis().Pipeline()
	replies := make(map[string]*redis.Cmd)
	for tag, asks := range byTag {
		if r.partOf(tag).away() {
			continue
		}
		c := newCommand(r.options.Prefix)
		for _, ask := range asks {
			c.beginKey()
			c.text = appendPauseKey(c.text, tag, ask.Pauses[0])
			c.endKey()
		}
		for _, ask := range asks {
			c.number(ask.LongestPause.Milliseconds())
		}
		replies[tag] = c.cmd(ctx, eval, &lookScript.source)
		_ = pipe.Process(ctx, noRetry{replies[tag]}) // queues it
		c.done()
	}
	_, _ = pipe.Exec(ctx)
	for tag, reply := range replies {
		values, err := reply.Int64Slice()
		if err != nil || len(values) != 2*len(byTag[tag]) {
			continue
		}
		for i, ask := range byTag[tag] {
			left := coolDown{time.Duration(values[2*i]) * time.Millisecond, int(values[2*i+1])}
			r.known.cool(ask, []coolDown{left}, asked)
		}
	}
}
