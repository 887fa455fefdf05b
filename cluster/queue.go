package cluster

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// task is something that the store is told, until it answers or it no longer
// matters. All tasks may be told twice: the second time does no harm.
type task struct {
	tag    string
	script *script
	what   subject
	forget time.Duration // from when on it no longer matters
	// It is told once more if there was nothing to do, and this is set: a store
	// that stood still may find what it was asked only after it was told of the
	// end. nil where that does not matter.
	doubtful *atomic.Bool
	tried    chan struct{} // closed once the store has been told, or has failed to answer; may be nil
}

// subject is what a script is told about: a key, and arguments for it.
type subject interface {
	appendKey(b []byte) []byte // after the store's own prefix
	args(c *command, now time.Duration)
}

func (t *task) settle() {
	if t.tried != nil {
		close(t.tried)
		t.tried = nil
	}
}

// queue holds the tasks that the run loop has not taken yet.
type queue struct {
	wake chan struct{} // has one element while tasks may be there

	mu       sync.Mutex
	tasks    []*task
	arriving bool // a wake-up is due
}

// add queues tasks. Those that somebody waits for are told at once, the others
// a moment later, with what has come in meanwhile.
func (q *queue) add(tasks ...*task) {
	if len(tasks) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tasks = append(q.tasks, tasks...)
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
	n = min(n, len(q.tasks))
	taken := q.tasks[:n:n]
	if q.tasks = q.tasks[n:]; len(q.tasks) > 0 {
		q.wakeUp()
	}
	return taken
}

// tell queues t, and waits until the store has been told or has had its time.
// It does not wait for one that is away.
func (r *Redis) tell(t *task) {
	tried := make(chan struct{})
	t.tried = tried // the run loop's from here on
	r.queue.add(t)
	if r.parts.of(t.tag).away() {
		return
	}
	timeout := time.NewTimer(r.options.Timeout)
	defer timeout.Stop()
	select {
	case <-tried:
	case <-timeout.C:
	}
}

// pausing is a cool-down.
type pausing struct {
	tag, name string
	until     time.Duration
}

func (p pausing) appendKey(b []byte) []byte { return appendPauseKey(b, p.tag, p.name) }

func (p pausing) args(c *command, now time.Duration) { c.number(millis(p.until - now)) }

// millis rounds up: a hold is kept for its last fraction of a millisecond too.
func millis(d time.Duration) int64 {
	return (max(0, d) + time.Millisecond - 1).Milliseconds()
}
