package cluster

import (
	"context"
	"errors"
	"math"
	"time"
)

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
	now := r.known.now()
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
		case c.part.away():
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

// renew renews every lock in flight, and reports whether the store answered. A
// lost one is asked for on: it is taken again when the other's has ended.
func (r *Redis) renew() bool {
	locks := r.known.toRenew(func(tag string) bool { return !r.parts.of(tag).away() })
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
