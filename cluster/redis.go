package cluster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/limiter"
)

var (
	//go:embed guard.lua
	guardSource string
	//go:embed renew.lua
	renewSource string
	//go:embed release.lua
	releaseSource string

	renewScript   = redis.NewScript(renewSource)
	releaseScript = redis.NewScript(releaseSource)
)

// Change is something that happened to the store, or was found in it.
type Change int

// The changes that an observer is told of.
const (
	StoreAway Change = iota + 1 // the store did not answer; err says why
	StoreBack                   // it answers again
	LockLost                    // a lock was another's when it was to be renewed
)

// Options configure a [Redis]. All of them are required, but for Observe.
type Options struct {
	Client  redis.UniversalClient // as made by [NewClient]; closed by [Redis.Close]
	Prefix  string                // first part of every key
	Replica string                // names this replica to the callers that it refuses; without spaces
	LockTTL time.Duration         // a lock is gone at most this long after its replica died
	Timeout time.Duration         // longest that Admit and Release wait for the store

	// Observe is called at each change. It must not block.
	Observe func(change Change, err error)
}

// Redis lets the replicas that share a Redis decide together, by its clock.
// What this replica knows by itself it answers without asking: see
// [Memory.Refusal].
type Redis struct {
	options Options
	local   *Memory
	guard   *redis.Script
	args    sync.Map // limiter.Limit → []any, redis_rate's arguments
	away    atomic.Bool

	queue queue
	stop  chan struct{}
	done  chan struct{}
}

// NewRedis returns a Redis and starts its run loop, which [Redis.Close] ends.
// The store need not answer yet.
func NewRedis(o Options) (*Redis, error) {
	script, err := limiter.Script()
	if err != nil {
		return nil, err
	}
	if o.Observe == nil {
		o.Observe = func(Change, error) {}
	}
	r := &Redis{
		options: o,
		local:   NewMemory(o.Replica),
		guard:   redis.NewScript(strings.Replace(guardSource, "--[[redis_rate]]", script, 1)),
		queue:   queue{wake: make(chan struct{}, 1)},
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	go r.run()
	return r, nil
}

// Admit decides ask in at most one trip to the store, and within its timeout.
// The error wraps [ErrUndecided] and says why.
//
// The trip is not cut short when ctx is done: a client that leaves in the
// middle of it would otherwise cost the connection, and the answer.
func (r *Redis) Admit(ctx context.Context, ask Ask) (Verdict, error) {
	if v, known := r.local.Refusal(ask); known {
		return v, nil
	}
	if ask.Fingerprint == nil && len(ask.Charges) == 0 {
		return Verdict{Outcome: Admitted}, nil // which says nothing of the store
	}
	lock := newLock(ask, r.options.Replica, r)
	asked := r.local.now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.options.Timeout)
	defer cancel()
	v, err := r.ask(ctx, ask, lock)
	r.observe(err)
	if err != nil {
		if lock != nil {
			now := r.local.now()
			r.queue.add(&ending{lock: lock, until: now, forget: now + r.options.LockTTL, doubtful: true})
		}
		return Verdict{}, fmt.Errorf("%w: %w", ErrUndecided, err)
	}
	switch {
	case v.Outcome == Limited:
		r.local.deny(ask, v.Decisions, asked)
	case v.Outcome == Admitted && lock != nil:
		r.local.add(lock)
		v.Lock = lock
	}
	return v, nil
}

// Refusal returns the verdict on ask if this replica knows by itself that it
// is a refusal, as [Memory.Refusal] does.
func (r *Redis) Refusal(ask Ask) (v Verdict, known bool) { return r.local.Refusal(ask) }

// Close gives back what is queued for it, waits for the run loop to end and
// closes the client. Locks in flight must have been released before.
func (r *Redis) Close() error {
	close(r.stop)
	<-r.done
	return r.options.Client.Close()
}

// ask runs the guard script. lock may be nil.
func (r *Redis) ask(ctx context.Context, ask Ask, lock *Lock) (Verdict, error) {
	keys := make([]string, 0, 1+len(ask.Charges))
	args := make([]any, 0, 2+4*len(ask.Charges))
	value := ""
	if lock != nil {
		keys = append(keys, r.key(lock.lockKey()))
		value = lock.value()
	}
	args = append(args, value, r.options.LockTTL.Milliseconds())
	for _, c := range ask.Charges {
		limitArgs, err := r.limitArgs(c.Limit)
		if err != nil {
			return Verdict{}, err
		}
		keys = append(keys, r.key(c.rateKey(ask.Tag)))
		args = append(args, limitArgs...)
	}
	reply, err := r.guard.Run(ctx, once{r.options.Client}, keys, args...).Slice()
	if err != nil {
		return Verdict{}, err
	}
	return readReply(ask, reply)
}

// readReply reads what guard.lua answered.
func readReply(ask Ask, reply []any) (Verdict, error) {
	const admitted, duplicate, limited = 1, 2, 3
	unexpected := fmt.Errorf("unexpected answer of the guard script: %v", reply)
	if len(reply) == 0 {
		return Verdict{}, unexpected
	}
	switch outcome, _ := reply[0].(int64); {
	case outcome == duplicate && len(reply) == 3:
		value, _ := reply[1].(string)
		micros, _ := reply[2].(string)
		now, err := time.ParseDuration(micros + "us")
		if err != nil {
			return Verdict{}, unexpected
		}
		holder, held := parseHolder(value, now)
		if held {
			return Verdict{Outcome: Held, Holder: holder}, nil
		}
		return Verdict{Outcome: Duplicate, Holder: holder}, nil
	case (outcome == admitted || outcome == limited) && len(reply) == 1+len(ask.Charges):
		v := Verdict{Outcome: Admitted, Decisions: make([]limiter.Decision, len(ask.Charges))}
		if outcome == limited {
			v.Outcome = Limited
		}
		for i, c := range ask.Charges {
			decision, err := c.Limit.ReadReply(reply[1+i], outcome == admitted)
			if err != nil {
				return Verdict{}, err
			}
			v.Decisions[i] = decision
		}
		return v, nil
	}
	return Verdict{}, unexpected
}

func (r *Redis) limitArgs(l limiter.Limit) ([]any, error) {
	if args, ok := r.args.Load(l); ok {
		return args.([]any), nil
	}
	args, err := l.ScriptArgs()
	if err == nil {
		r.args.Store(l, args)
	}
	return args, err
}

func (r *Redis) key(suffix string) string {
	return r.options.Prefix + ":" + keyFormat + ":" + suffix
}

// observe tells of the store's going away and coming back.
func (r *Redis) observe(err error) {
	if away := err != nil; r.away.Load() != away && r.away.CompareAndSwap(!away, away) {
		if away {
			r.options.Observe(StoreAway, err)
		} else {
			r.options.Observe(StoreBack, nil)
		}
	}
}

// release ends lock's exchange. Without a hold it waits until the store has
// been told, so that a client which repeats its request after the answer is
// not refused for a lock that is about to go.
func (r *Redis) release(lock *Lock, hold time.Duration) {
	r.local.release(lock, hold)
	e := &ending{
		lock:   lock,
		until:  r.local.now() + hold,
		forget: r.local.now() + max(hold, r.options.LockTTL),
	}
	if hold > 0 {
		r.queue.add(e)
		return
	}
	tried := make(chan struct{})
	e.tried = tried // the run loop's from here on
	r.queue.add(e)
	timeout := time.NewTimer(r.options.Timeout)
	defer timeout.Stop()
	select {
	case <-tried:
	case <-timeout.C:
	}
}

// ending is a lock that is to be released or turned into a hold.
type ending struct {
	lock   *Lock
	until  time.Duration // end of the hold
	forget time.Duration // from then on the store has let go of the lock by itself
	// It may be the store's without our knowing: a store that stood still may
	// find what it was asked only after it was told of the end.
	doubtful bool
	tried    chan struct{} // closed once the store has been told, or has failed to answer; may be nil
}

func (e *ending) settle() {
	if e.tried != nil {
		close(e.tried)
		e.tried = nil
	}
}

// queue holds the endings that the run loop has not taken yet.
type queue struct {
	wake chan struct{} // has one element while endings may be there

	mu      sync.Mutex
	endings []*ending
}

func (q *queue) add(endings ...*ending) {
	q.mu.Lock()
	q.endings = append(q.endings, endings...)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns up to n endings, and leaves a wake-up for the rest.
func (q *queue) take(n int) []*ending {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.endings))
	taken := q.endings[:n:n]
	if q.endings = q.endings[n:]; len(q.endings) > 0 {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
	return taken
}

const (
	batchSize  = 256                    // commands in one pipeline
	retryAfter = 100 * time.Millisecond // pause before a store that failed is told again
)

// run is the one loop that talks to the store other than to ask: it renews
// the locks in flight and tells of those that have ended.
func (r *Redis) run() {
	defer close(r.done)
	r.load()
	renewal := time.NewTicker(r.options.LockTTL / 3)
	defer renewal.Stop()
	var again <-chan time.Time // set while something failed and is to be tried again
	var failed []*ending
	renewed := true
	for {
		select {
		case <-r.queue.wake:
			failed = append(failed, r.end(r.queue.take(batchSize))...)
		case <-renewal.C:
			if r.away.Load() {
				r.load() // there may be no ask that would find it back
			}
			renewed = r.renew()
		case <-again:
			again = nil
			if !renewed {
				renewed = r.renew()
			}
			r.queue.add(failed...)
			failed = nil
		case <-r.stop:
			r.end(append(failed, r.queue.take(math.MaxInt)...))
			return
		}
		if again == nil && (len(failed) > 0 || !renewed) {
			again = time.After(retryAfter)
		}
	}
}

// load sends the scripts ahead of the first ask, so that it finds them, and
// tells whether the store answers.
func (r *Redis) load() {
	ctx, cancel := context.WithTimeout(context.Background(), r.options.Timeout)
	defer cancel()
	for _, script := range []*redis.Script{r.guard, renewScript, releaseScript} {
		if err := script.Load(ctx, r.options.Client).Err(); err != nil {
			r.observe(err)
			return
		}
	}
	r.observe(nil)
}

// end tells the store of endings, and returns those that are to be told again.
func (r *Redis) end(endings []*ending) (failed []*ending) {
	now := r.local.now()
	calls := make([]call, len(endings))
	for i, e := range endings {
		hold := max(0, e.until-now)
		// A hold is kept for its last fraction of a millisecond too.
		millis := (hold + time.Millisecond - 1).Milliseconds()
		calls[i] = call{script: releaseScript, lock: e.lock, args: []any{e.lock.token, strconv.FormatInt(millis, 10)}}
	}
	r.pipeline(calls)
	for i, e := range endings {
		e.settle()
		again := calls[i].err != nil
		if !again && calls[i].result == 0 && e.doubtful {
			again, e.doubtful = true, false
		}
		if again && now < e.forget {
			failed = append(failed, e)
		}
	}
	return failed
}

// renew renews every lock in flight, and reports whether the store answered. A
// lost one is asked for on: it is taken again when the other's has ended.
func (r *Redis) renew() bool {
	locks := r.local.inFlight()
	calls := make([]call, len(locks))
	for i, lock := range locks {
		calls[i] = call{script: renewScript, lock: lock, args: []any{lock.token, r.options.LockTTL.Milliseconds(), lock.value()}}
	}
	r.pipeline(calls)
	answered := true
	for _, c := range calls {
		switch {
		case c.err != nil:
			answered = false
		case c.result == 0 && !c.lock.lost:
			c.lock.lost = true
			r.options.Observe(LockLost, nil)
		case c.result == 1:
			c.lock.lost = false
		}
	}
	return answered
}

// call is one script run on one lock.
type call struct {
	script *redis.Script
	lock   *Lock
	args   []any
	result int64
	err    error
}

// pipeline runs calls in batches. All of them may be run twice: none does
// anything the second time. After a batch to which nothing was answered the
// rest is not tried.
func (r *Redis) pipeline(calls []call) {
	away := false
	for batch := range slices.Chunk(calls, batchSize) {
		if away {
			for i := range batch {
				batch[i].err = errNotTried
			}
			continue
		}
		r.batch(batch)
		if slices.ContainsFunc(batch, func(c call) bool { return redis.HasErrorPrefix(c.err, "NOSCRIPT") }) {
			r.load()
			r.batch(batch)
		}
		away = !slices.ContainsFunc(batch, func(c call) bool { return c.err == nil })
		if away {
			r.observe(batch[0].err)
		}
	}
}

func (r *Redis) batch(calls []call) {
	ctx, cancel := context.WithTimeout(context.Background(), r.options.Timeout)
	defer cancel()
	pipe := r.options.Client.Pipeline()
	replies := make([]*redis.Cmd, len(calls))
	for i, c := range calls {
		replies[i] = c.script.EvalSha(ctx, pipe, []string{r.key(c.lock.lockKey())}, c.args...)
	}
	_, _ = pipe.Exec(ctx) // each reply has its own error
	for i := range calls {
		calls[i].result, calls[i].err = replies[i].Int64()
	}
}

var errNotTried = errors.New("not tried: the store did not answer")

// once is a Redis that is asked each script at most once. Charging a budget is
// not idempotent, and go-redis resends a command whose answer was lost: a
// plain client obeys MaxRetries, a cluster client only the command itself.
type once struct{ redis.UniversalClient }

func (o once) EvalSha(ctx context.Context, sha1 string, keys []string, args ...any) *redis.Cmd {
	return o.eval(ctx, "evalsha", sha1, keys, args)
}

func (o once) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return o.eval(ctx, "eval", script, keys, args)
}

func (o once) eval(ctx context.Context, name, script string, keys []string, args []any) *redis.Cmd {
	all := make([]any, 0, 3+len(keys)+len(args))
	all = append(all, name, script, len(keys))
	for _, key := range keys {
		all = append(all, key)
	}
	cmd := redis.NewCmd(ctx, append(all, args...)...)
	cmd.SetFirstKeyPos(3)
	_ = o.Process(ctx, noRetry{cmd}) // cmd has the error
	return cmd
}

type noRetry struct{ *redis.Cmd }

func (noRetry) NoRetry() bool { return true }
