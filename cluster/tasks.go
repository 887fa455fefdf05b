package cluster

import (
	"context"
	"errors"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/limiter"
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
	if r.parts.of(t.tag).away.Load() {
		return
	}
	timeout := time.NewTimer(r.options.Timeout)
	defer timeout.Stop()
	select {
	case <-tried:
	case <-timeout.C:
	}
}

// release ends lock's exchange. Without a hold it waits until the store has
// been told, so that a client which repeats its request after the answer is
// not refused for a lock that is about to go.
func (r *Redis) release(lock *Lock, hold time.Duration) {
	r.local.release(lock, hold)
	switch {
	case !lock.stored.Load():
	case hold > 0:
		r.queue.add(r.ending(lock, hold))
	default:
		r.tell(r.ending(lock, 0))
	}
}

// ending is the task to release lock, or to turn it into a hold.
func (r *Redis) ending(lock *Lock, hold time.Duration) *task {
	now := r.local.now()
	return &task{
		tag:      lock.id.tag,
		script:   releaseScript,
		what:     ending{lock, now + hold},
		forget:   now + max(hold, r.options.LockTTL),
		doubtful: &lock.doubtful,
	}
}

// ending is the end of a lock, and of its hold.
type ending struct {
	*Lock
	until time.Duration
}

func (e ending) args(c *command, now time.Duration) {
	c.arg(e.token())
	c.number(millis(e.until - now))
}

// renewal keeps a lock for another TTL.
type renewal struct {
	*Lock
	ttl time.Duration
}

func (r renewal) args(c *command, _ time.Duration) {
	c.arg(r.token())
	c.number(r.ttl.Milliseconds())
	c.arg(r.value)
}

// pausing is a cool-down.
type pausing struct {
	tag, name string
	until     time.Duration
}

func (p pausing) appendKey(b []byte) []byte { return appendPauseKey(b, p.tag, p.name) }

func (p pausing) args(c *command, now time.Duration) { c.number(millis(p.until - now)) }

// charging is the task to charge what was spent while the store was away.
func (r *Redis) charging(tag string, d limiter.Debt) *task {
	return &task{tag: tag, script: chargeScript, what: debt{d, r.limitArgs(d.Limit)}, forget: d.End}
}

// debt is what is owed to a budget of the store.
type debt struct {
	limiter.Debt
	limit []string // its arguments of a script
}

func (d debt) appendKey(b []byte) []byte { return append(b, d.Key...) }

func (d debt) args(c *command, _ time.Duration) {
	for _, arg := range d.limit {
		c.arg(arg)
	}
	c.arg(strconv.FormatFloat(d.Requests, 'g', -1, 64))
}

// millis rounds up: a hold is kept for its last fraction of a millisecond too.
func millis(d time.Duration) int64 {
	return (max(0, d) + time.Millisecond - 1).Milliseconds()
}

const (
	batchSize  = 256                    // keys in one pipeline
	groupSize  = 64                     // keys in one run of a script, for which everybody else waits
	gather     = 5 * time.Millisecond   // for tasks that nobody waits for
	retryAfter = 100 * time.Millisecond // pause before a store that failed is told again
)

// run is the one loop that talks to the store other than to ask and to look
// whether it is back: it renews the locks in flight, tells of those that have
// ended, and says that this replica lives.
func (r *Redis) run() {
	r.load()
	r.beat()
	r.warn()
	renewal := time.NewTicker(r.options.LockTTL / 3)
	defer renewal.Stop()
	heartbeat := time.NewTicker(beatInterval)
	defer heartbeat.Stop()
	var again <-chan time.Time // set while something failed and is to be tried again
	var failed []*task
	renewed := true
	for {
		select {
		case <-r.queue.wake:
			failed = append(failed, r.perform(r.queue.take(batchSize), false)...)
		case <-renewal.C:
			renewed = r.renew()
		case <-heartbeat.C:
			r.beat()
		case <-r.returned:
			r.load()
			renewed = r.renew() // takes the locks of what was admitted meanwhile
			failed = r.perform(failed, false)
			r.beat()
			r.warn()
		case <-again:
			again = nil
			if !renewed {
				renewed = r.renew()
			}
			failed = r.perform(failed, false)
		case <-r.stop:
			r.perform(append(failed, r.queue.take(math.MaxInt)...), false)
			r.leave()
			return
		}
		if again == nil && (len(failed) > 0 || !renewed) {
			again = time.After(retryAfter)
		}
	}
}

// load sends the scripts ahead of the first ask, so that it finds them. Where
// that fails they are sent when they are asked for.
func (r *Redis) load() {
	ctx, cancel := context.WithTimeout(context.Background(), r.options.Timeout)
	defer cancel()
	for _, script := range []*script{r.guard, renewScript, releaseScript, pauseScript, chargeScript, heartbeatScript} {
		if script.Load(ctx, r.redis()).Err() != nil {
			return
		}
	}
}

// perform tells the store of tasks, and returns those that are to be told again,
// among them all of a part that is away, unless these are told anyway.
func (r *Redis) perform(tasks []*task, anyway bool) (again []*task) {
	now := r.local.now()
	calls := make([]call, 0, len(tasks))
	told := make([]*task, 0, len(tasks))
	for _, t := range tasks {
		c := call{part: r.parts.of(t.tag), tag: t.tag, script: t.script, what: t.what}
		switch {
		case now >= t.forget:
			t.settle()
			continue
		case anyway:
			c.part = nil
		case c.part.away.Load():
			t.settle()
			again = append(again, t)
			continue
		}
		calls, told = append(calls, c), append(told, t)
	}
	r.pipeline(calls)
	for i, t := range told {
		t.settle()
		err := calls[i].err
		// What has another type is not ours, and stays as it is.
		repeat := err != nil && FaultOf(err) != faultWrongType
		if err == nil && calls[i].result == 0 && t.doubtful != nil {
			repeat = t.doubtful.Swap(false)
		}
		if repeat {
			again = append(again, t)
		}
	}
	return again
}

// owed returns the tasks to charge what was admitted without p.
func (r *Redis) owed(p *part) (tasks []*task) {
	r.local.mu.Lock()
	debts := p.debts.Take(r.local.now())
	r.local.mu.Unlock()
	for _, d := range debts {
		tasks = append(tasks, r.charging(p.tag, d))
	}
	return tasks
}

// renew renews every lock in flight, and reports whether the store answered. A
// lost one is asked for on: it is taken again when the other's has ended.
func (r *Redis) renew() bool {
	locks := r.local.toRenew(func(tag string) bool { return !r.parts.of(tag).away.Load() })
	calls := make([]call, len(locks))
	for i, lock := range locks {
		calls[i] = call{
			part:   r.parts.of(lock.id.tag),
			tag:    lock.id.tag,
			script: renewScript,
			what:   renewal{lock, r.options.LockTTL},
		}
	}
	r.pipeline(calls)
	answered := true
	for i, c := range calls {
		lock := locks[i]
		switch {
		case errors.Is(c.err, errAway): // renewed when it is back
		case c.err != nil:
			lock.doubtful.Store(true)
			answered = answered && FaultOf(c.err) == faultWrongType
		case c.result == 0 && !lock.lost:
			lock.lost = true
			r.counts.lost.Add(1)
			r.options.Observe(Change{Kind: LockLost, Tag: lock.id.tag})
		case c.result == 1:
			lock.lost = false
			r.counts.renewed.Add(1)
		}
	}
	return answered
}

// call is a script's run for one key.
type call struct {
	part   *part // nil to call it even if it is away
	tag    string
	script *script
	what   subject
	result int64
	err    error
}

// pipeline runs calls in batches, but for those of a part that is away. After a
// batch to which nothing was answered the rest is not tried.
func (r *Redis) pipeline(calls []call) {
	var reached []*call
	for i := range calls {
		if c := &calls[i]; c.part != nil && c.part.away.Load() {
			c.err = errAway
		} else {
			reached = append(reached, c)
		}
	}
	var away error
	for batch := range slices.Chunk(reached, batchSize) {
		if away != nil {
			for _, c := range batch {
				c.err = away
			}
			continue
		}
		r.batch(batch, groupSize)
		if missing := failedBy(batch, func(err error) bool { return redis.HasErrorPrefix(err, "NOSCRIPT") }); len(missing) > 0 {
			r.load()
			r.batch(missing, groupSize)
		}
		// Keys of a slot that is moving can be in two places: only one at a time is
		// found.
		if divided := failedBy(batch, func(err error) bool { return FaultOf(err) == faultMoved }); len(divided) > 0 {
			r.batch(divided, 1)
		}
		if !slices.ContainsFunc(batch, func(c *call) bool { return c.err == nil || FaultOf(c.err) == faultWrongType }) {
			away = batch[0].err
			if batch[0].part != nil {
				r.record(batch[0].part, away)
			}
		}
	}
}

// failedBy returns the calls that have failed by such an error.
func failedBy(calls []*call, such func(error) bool) []*call {
	return slices.DeleteFunc(slices.Clone(calls), func(c *call) bool { return !such(c.err) })
}

// batch runs calls in one pipeline, up to size of one script and tag together.
func (r *Redis) batch(calls []*call, size int) {
	ctx, cancel := context.WithTimeout(context.Background(), r.options.Timeout)
	defer cancel()
	now := r.local.now()
	pipe := r.redis().Pipeline()
	groups := grouped(calls, size)
	replies := make([]*redis.Cmd, len(groups))
	for i, group := range groups {
		c := newCommand(r.options.Prefix)
		for _, call := range group {
			c.beginKey()
			c.text = call.what.appendKey(c.text)
			c.endKey()
		}
		for _, call := range group {
			call.what.args(c, now)
		}
		replies[i] = c.cmd(ctx, evalSHA, &group[0].script.hash)
		_ = pipe.Process(ctx, replies[i]) // queues it
		c.done()
	}
	_, _ = pipe.Exec(ctx) // each reply has its own error
	for i, group := range groups {
		results, err := replies[i].Slice()
		if err == nil && len(results) != len(group) {
			err = errReply(results)
		}
		for j, call := range group {
			call.result, call.err = 0, err
			if err == nil {
				call.result, _ = results[j].(int64)
				call.err, _ = results[j].(error)
			}
		}
	}
}

// grouped returns calls by script and tag, in groups of at most size.
func grouped(calls []*call, size int) (groups [][]*call) {
	type kind struct {
		script *script
		tag    string
	}
	open := map[kind]int{} // the last group of each kind
	for _, c := range calls {
		k := kind{c.script, c.tag}
		i, ok := open[k]
		if !ok || len(groups[i]) == size {
			i = len(groups)
			open[k], groups = i, append(groups, nil)
		}
		groups[i] = append(groups[i], c)
	}
	return groups
}
