package cluster

import (
	"errors"
	"time"
)

// retryAfter is the pause before a store that failed is told again.
const retryAfter = 100 * time.Millisecond

// tell queues tasks of one tag, and waits until the store has been told or has
// had its time. It does not wait for one that is away.
func (r *Redis) tell(tasks ...*task) {
	if len(tasks) == 0 {
		return
	}
	tried := make([]chan struct{}, len(tasks))
	for i, t := range tasks {
		tried[i] = make(chan struct{})
		t.tried = tried[i] // the loop's from here on
	}
	r.queue.add(tasks...)
	if r.partOf(tasks[0].tag).away() {
		return
	}
	timeout := time.NewTimer(r.options.Timeout)
	defer timeout.Stop()
	for _, done := range tried {
		select {
		case <-done:
		case <-timeout.C:
			return
		}
	}
}

// tellAll is the loop that tells the store of what has ended and begun. It
// waits for no renewal, but of a lock whose end it is to tell. What is left when
// the run loop has ended is [Redis.Close]'s.
func (r *Redis) tellAll() {
	var again <-chan time.Time // set while something is to be told again
	var failed backlog
	for {
		select {
		case <-r.queue.wake:
			for _, t := range r.perform(r.queue.take(batchSize), false) {
				failed.add(t)
				if again == nil {
					again = time.After(retryAfter)
				}
			}
		case <-again:
			again = nil
			tasks, _ := failed.take(int(classes) * Capacity)
			r.queue.add(tasks...)
		case <-r.ran: // so that nothing is parked any more
			tasks, _ := failed.take(int(classes) * Capacity)
			r.queue.add(tasks...) // for Close
			return
		}
	}
}

// left takes all that the store is to be told, also what is kept for when a part of
// it answers again.
func (r *Redis) left() []*task {
	left := r.queue.take(int(classes) * Capacity)
	for p := range r.parts.all() {
		left = append(left, r.kept(p)...)
	}
	return left
}

// kept takes what p is to be told when it answers again.
func (r *Redis) kept(p *part) []*task {
	p.mu.Lock()
	kept, _ := p.postponed.take(int(classes) * Capacity)
	unpaused := p.unpaused
	p.unpaused = false
	p.mu.Unlock()
	if unpaused {
		for id, pause := range r.known.cooling() {
			if r.partOf(id.tag) == p {
				kept = append(kept, r.pausing(id, pause))
			}
		}
	}
	return append(kept, r.owed(p)...)
}

// perform tells the store of tasks, and returns those that are to be told again.
// Those of a part that is away wait until it answers, unless they are told anyway:
// then nothing more of it is tried after a batch in which it has answered nothing.
func (r *Redis) perform(tasks []*task, anyway bool) (again []*task) {
	now := r.known.now()
	calls := make([]call, 0, len(tasks))
	told := make([]*task, 0, len(tasks))
	var parked []*task
	for _, t := range tasks {
		c := call{part: r.partOf(t.tag), anyway: anyway, tag: t.tag, script: t.script, what: t.what}
		switch {
		case now >= t.forget:
			t.settle()
			continue
		case t.lock != nil && t.lock.renewing.Load():
			parked = append(parked, t)
			continue
		case !anyway && c.part.postpone(t):
			continue
		}
		calls, told = append(calls, c), append(told, t)
	}
	if len(parked) > 0 {
		r.queue.park(parked)
	}
	r.pipeline(calls)
	var wants []*task
	for i, t := range told {
		err := calls[i].err
		if end, is := t.what.(landing); is && err == nil && calls[i].result == wanted {
			end.told = true
			t.what, wants = end, append(wants, t)
			continue
		}
		t.settle()
		// What has another type is not ours, and stays as it is.
		repeat := err != nil && FaultOf(err) != faultWrongType && !(t.once && !errors.Is(err, errAway))
		if err == nil && calls[i].result == 0 && t.lock != nil {
			// A store that stood still may find what it was asked only after it
			// was told of the end.
			repeat = t.lock.doubtful.Swap(false)
		}
		switch end, is := t.what.(keyEnding); {
		case repeat:
			again = append(again, t)
		case is && end.key.letGo != nil:
			end.key.letGo()
		}
	}
	if len(wants) > 0 {
		again = append(again, r.perform(wants, anyway)...)
	}
	return again
}

// postpone keeps t for when p answers again, unless it does.
func (p *part) postpone(t *task) bool {
	if !p.away() {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.away() {
		return false
	}
	t.settle()
	if _, is := t.what.(pausing); is { // it is known here, once
		p.unpaused = true
	} else {
		p.postponed.add(t)
	}
	return true
}
