package cluster

import (
	"slices"
	"sync"
	"time"
)

// task is something that the store is told, until it answers or it no longer
// matters. Most may be told twice: the second time does no harm.
type task struct {
	class  class
	tag    string
	script *script
	what   subject
	forget time.Duration // from when on it no longer matters
	lock   *lock         // whose end it is; nil of other tasks
	once   bool          // a second time would do harm: it is told again only if it was not told at all
	tried  chan struct{} // closed once the store has been told, or has failed to answer; nil where nobody waits
}

// class is a kind of work. Where there is too much, the first goes first.
type class int

const (
	awaited  class = iota // what somebody waits for, whatever it is
	endings               // of locks
	coolings              // cool-downs of all who ask for a route
	sums                  // what budgets that all callers share are owed, and get back
	callers               // cool-downs and sums of single callers, of which there are as many as clients like
	classes
)

// ofCallers returns callers where that is whose the work is, or else the class.
func (c class) ofCallers(whose bool) class {
	if whose {
		return callers
	}
	return c
}

// subject is what a script is told about: a key, and arguments for it.
type subject interface {
	appendKey(b []byte) []byte // after the store's own prefix
	args(c *command, now time.Duration)
}

// settle tells who waits for t that it has been tried.
func (t *task) settle() {
	if t.tried != nil {
		close(t.tried)
		t.tried = nil
	}
}

// backlog is tasks by their classes, of each at most Capacity: beyond it the
// oldest are given up, and what they were about ends by itself. The zero value
// is empty.
type backlog [classes][]*task

func (b *backlog) add(t *task) {
	c := t.class
	if t.tried != nil {
		c = awaited
	}
	if len(b[c]) == Capacity {
		b[c][0].settle()
		b[c] = b[c][1:]
	}
	b[c] = append(b[c], t)
}

// take returns up to n tasks in the order of their classes, and reports whether
// there are more.
func (b *backlog) take(n int) (taken []*task, more bool) {
	for c := range b {
		k := min(n-len(taken), len(b[c]))
		taken = append(taken, b[c][:k]...)
		if b[c] = b[c][k:]; len(b[c]) == 0 {
			b[c] = nil
		} else {
			more = true
		}
	}
	return taken, more
}

// queue holds the tasks that nobody tells the store of yet.
type queue struct {
	wake chan struct{} // has one element while tasks may be there

	mu       sync.Mutex
	tasks    backlog
	parked   []*task // ends of locks that are being renewed
	arriving bool    // a wake-up is due
}

func newQueue() queue { return queue{wake: make(chan struct{}, 1)} }

// gather is how long tasks that nobody waits for wait for others.
const gather = 5 * time.Millisecond

// add queues tasks. Those that somebody waits for are told at once, the others
// a moment later, with what has come in meanwhile.
func (q *queue) add(tasks ...*task) {
	if len(tasks) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, t := range tasks {
		q.tasks.add(t)
	}
	switch {
	case slices.ContainsFunc(tasks, func(t *task) bool { return t.tried != nil }):
		q.wakeUp()
	case !q.arriving:
		q.arriving = true
		time.AfterFunc(gather, func() {
			q.mu.Lock()
			q.arriving = false
			q.mu.Unlock()
			q.wakeUp()
		})
	}
}

func (q *queue) wakeUp() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns up to n tasks, and leaves a wake-up for the rest.
func (q *queue) take(n int) []*task {
	q.mu.Lock()
	defer q.mu.Unlock()
	taken, more := q.tasks.take(n)
	if more {
		q.wakeUp()
	}
	return taken
}

// park keeps the ends of locks that are being renewed: told before the renewal
// is done, they would be undone by it.
func (q *queue) park(tasks []*task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.parked = append(q.parked, tasks...)
	q.unparkLocked() // what has been renewed by now
}

// unpark queues what was parked and can be told.
func (q *queue) unpark() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.unparkLocked()
}

func (q *queue) unparkLocked() {
	before := len(q.parked)
	q.parked = slices.DeleteFunc(q.parked, func(t *task) bool {
		if t.lock.renewing.Load() {
			return false
		}
		q.tasks.add(t)
		return true
	})
	if len(q.parked) < before {
		q.wakeUp()
	}
}

// millis rounds up: a hold is kept for its last fraction of a millisecond too.
func millis(d time.Duration) int64 {
	return (max(0, d) + time.Millisecond - 1).Milliseconds()
}
