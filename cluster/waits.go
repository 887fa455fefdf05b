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

	// Guarded by known.mu.
	place  int    // of the ask's charges, that in the store's budget of which it has a place to come; -1 for none
	turn   string // the key of the slots it waits for, or ""
	called bool   // to ask for them again
	asks   bool   // for them, just now
	spare  bool   // what it asks for may be free for others too
}

// stir has w look at what has changed.
func (w *waiter) stir() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// waiting are the requests that wait. Guarded by known.mu.
type waiting struct {
	all   map[*waiter]struct{}
	under map[pauseID]map[*waiter]struct{} // by the cool-downs that would refuse them
}

func newWaiting() waiting {
	return waiting{make(map[*waiter]struct{}), make(map[pauseID]map[*waiter]struct{})}
}

func (ws *waiting) add(w *waiter) {
	ws.all[w] = struct{}{}
	for _, name := range w.ask.Pauses {
		id := pauseID{w.ask.Tag, name}
		if ws.under[id] == nil {
			ws.under[id] = make(map[*waiter]struct{})
		}
		ws.under[id][w] = struct{}{}
	}
}

func (ws *waiting) remove(w *waiter) {
	delete(ws.all, w)
	for _, name := range w.ask.Pauses {
		id := pauseID{w.ask.Tag, name}
		if delete(ws.under[id], w); len(ws.under[id]) == 0 {
			delete(ws.under, id)
		}
	}
}

// waits reports whether v is a verdict of a request that waits: it has its lock,
// and maybe a place, but may not be sent yet.
func (v Verdict) waits(ask Ask) bool {
	return v.Outcome == queued || v.Outcome == Busy && ask.Wait > 0
}

// await lets the request of ask wait, which began at an instant with the verdict
// first, until it is admitted or refused. decide decides what is left of the ask.
// It holds no slot meanwhile. The error is why ctx has ended, or decide's.
func (k *known) await(ctx context.Context, ask Ask, first Verdict, began time.Duration, decide func(Ask) (Verdict, error)) (last Verdict, err error) {
	w := &waiter{ask: ask, wake: make(chan struct{}, 1), place: -1}
	k.mu.Lock()
	k.waiting.add(w)
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		w.spare = w.spare || last.Outcome != Admitted
		k.slots.leave(w)
		k.waiting.remove(w)
	}()

	grant := first.Grant
	left := ask // of which a part has been granted
	left.Fingerprint, left.Key, left.patience = nil, nil, ask.Wait
	which := make([]int, len(ask.Charges)) // of ask's charges are left's
	for i := range which {
		which[i] = i
	}
	all := Verdict{Decisions: make([]limiter.Decision, len(ask.Charges))}
	v := first
	for {
		all.learn(v)
		if v.Candidates != nil {
			left.Candidates = nil
		}
		if v.Outcome == queued {
			k.place(w, which[v.place], v)
		}
		refusal, err := k.sleep(ctx, w, v, began+ask.Wait)
		if err == nil && refusal.Outcome == 0 && grant.lost() {
			refusal.Outcome = Duplicate // of whoever has the lock now: this one was not sent
		}
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
			return all, nil
		}
		left.Wait = max(0, began+ask.Wait-k.now())
		if v, err = decide(left); err != nil {
			grant.Unsent()
			v.Waited = k.now() - began
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
		all.learn(v)
		all.Outcome, all.Used, all.Grant, all.Waited = Admitted, v.Used, grant, k.now()-began
		return all, nil
	}
}

// learn adds to all, the verdict on the whole of an ask, what that on a part of it
// says of the store.
func (all *Verdict) learn(part Verdict) {
	if part.Degraded {
		all.Degraded, all.Fault, all.Share = true, part.Fault, part.Share
	}
	if part.Candidates != nil {
		all.Candidates = part.Candidates
	}
}

// place notes in which budget w has a place, by v, if it is the store's.
func (k *known) place(w *waiter, which int, v Verdict) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w.place = which; v.Degraded {
		w.place = -1
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
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		now := k.now()
		refusal, wake := k.look(w, v, until, now)
		if refusal.Outcome != 0 || now >= wake {
			return refusal, nil
		}
		timer.Reset(wake - now)
		select {
		case <-ctx.Done():
		case <-w.wake:
		case <-timer.C:
		}
	}
	return Verdict{}, context.Cause(ctx)
}

// look returns why the request of w is not to wait any longer, if it is not, and
// when it may go on, unless w is stirred before: then it is to look again.
func (k *known) look(w *waiter, v Verdict, until, now time.Duration) (refusal Verdict, wake time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	refusal, cooling := k.coolingLocked(w.ask, now)
	if v.Outcome == queued {
		w.spare = true
		k.slots.leave(w)
		switch {
		case cooling && (v.instant < now+refusal.Wait || refusal.Outcome == Paused && refusal.Wait == 0): // one whose place comes after it has lost nothing
			return refusal, 0
		case k.drained > 0 && v.instant > k.drained:
			refusal = Verdict{Outcome: Limited, Decisions: slices.Clone(v.Decisions)}
			refusal.Decisions[v.place] = limiter.Decision{NextAfter: v.instant - now}
			return refusal, 0
		case now >= v.instant:
			w.place = -1
		}
		return Verdict{}, v.instant
	}
	if k.drained > 0 {
		until = min(until, k.drained)
	}
	slot := w.ask.Slots[v.place]
	switch {
	case cooling:
		return refusal, 0
	case now >= until:
		refusal = Verdict{Outcome: Busy}
		if v.Used != nil && v.Used[v.place] >= slot.Most { // or it was behind others
			refusal.Used = v.Used
		}
		return refusal, 0
	}
	k.slots.queue(w, slot.key(w.ask.Tag), now)
	return Verdict{}, min(until, k.slots.mayAsk(w, slot, now))
}

// drain refuses what would wait for longer than until the process ends, after left:
// what is sent in the last tenth of that would hardly have its answer before.
func (k *known) drain(left time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drained = k.now() + left - left/10
	for w := range k.waiting.all {
		w.stir()
	}
}

// waitedFor returns the asks of requests that wait, by their tags, one for each
// cool-down that they would be under: of at most so many.
func (k *known) waitedFor(most int) map[string][]Ask {
	k.mu.Lock()
	defer k.mu.Unlock()
	byTag := make(map[string][]Ask)
	for id, waiters := range k.waiting.under {
		if most--; most < 0 {
			break
		}
		for w := range waiters {
			byTag[id.tag] = append(byTag[id.tag], Ask{Tag: id.tag, Pauses: []string{id.name}, LongestPause: w.ask.LongestPause})
			break
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
