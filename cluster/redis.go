package cluster

import (
	"context"
	_ "embed"
	"fmt"
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
	//go:embed pause.lua
	pauseSource string
	//go:embed charge.lua
	chargeSource string
	//go:embed heartbeat.lua
	heartbeatSource string

	renewScript     = newScript(renewSource)
	releaseScript   = newScript(releaseSource)
	pauseScript     = newScript(pauseSource)
	chargeScript    = newScript(prelude + chargeSource)
	heartbeatScript = newScript(heartbeatSource)

	prelude, errPrelude = limiter.Prelude()
)

// Options configure a [Redis]. All of them are required, but for Observe.
type Options struct {
	// Connect returns a new client, as [NewClient] does. It is called once at
	// the start, and again to find a store that was away.
	Connect func() (redis.UniversalClient, error)
	Prefix  string        // first part of every key
	Self    Replica       // this replica, as the others are to know it
	LockTTL time.Duration // a lock is gone at most this long after its replica died
	Timeout time.Duration // longest that Admit, Pause and Release wait for the store
	// Pipeline sends asks together where there are more than a few at once.
	Pipeline bool
	// Replicas is the number of replicas while it is not known how many live.
	Replicas int

	// Observe is called at each change. It must not block.
	Observe func(Change)
}

// Redis lets the replicas that share a Redis decide together, by its clock.
// What this replica knows by itself it answers without asking: see
// [Memory.Refusal]. What is to be done while the Redis gives no answer each ask
// says itself.
type Redis struct {
	options   Options
	local     *Memory
	guard     *script
	args      sync.Map // limiter.Limit → []string, its arguments of a script
	conn      atomic.Pointer[connection]
	parts     parts
	deadlines deadlines // of asks
	fleet     fleet
	counts    counts
	policy    string // maxmemory-policy, as last seen by the run loop

	queue    queue
	returned chan struct{} // a part of the store answers again
	stop     chan struct{}
	stopped  sync.WaitGroup
}

// NewRedis returns a Redis and starts its run loop, which [Redis.Close] ends.
// The store need not answer yet.
func NewRedis(o Options) (*Redis, error) {
	if errPrelude != nil {
		return nil, errPrelude
	}
	conn, err := o.connect()
	if err != nil {
		return nil, err
	}
	if o.Observe == nil {
		o.Observe = func(Change) {}
	}
	r := &Redis{
		options:   o,
		local:     NewMemory(o.Self.ID),
		guard:     newScript(prelude + guardSource),
		deadlines: deadlines{timeout: o.Timeout},
		queue:     queue{wake: make(chan struct{}, 1)},
		returned:  make(chan struct{}),
		stop:      make(chan struct{}),
	}
	if _, isCluster := conn.client.(*redis.ClusterClient); !isCluster {
		r.parts.whole = newPart("")
	}
	r.conn.Store(conn)
	r.stopped.Go(r.run)
	return r, nil
}

// Admit decides ask in at most one trip to the store, and within its timeout.
// Without an answer, and at once while the store is known to be away, the
// verdict is what the ask says, or else an error that wraps [ErrUndecided]; the
// verdict's Fault then says why.
//
// The trip is not cut short when the context is done: a client that leaves in
// the middle of it would otherwise cost the connection, and the answer.
func (r *Redis) Admit(_ context.Context, ask Ask) (Verdict, error) {
	if v, known := r.local.Refusal(ask); known {
		return v, nil
	}
	if ask.needsNothing() {
		return Verdict{Outcome: Admitted}, nil // which says nothing of the store
	}
	lock := newStoredLock(ask, r.options.Self.ID, r)
	part := r.parts.of(ask.Tag)
	if part.away.Load() {
		return r.undecided(ask, lock, part, errAway)
	}
	if lock != nil {
		lock.stored.Store(true)
	}
	asked := r.local.now()
	v, waits, err := r.ask(r.deadlines.context(asked), ask, lock)
	r.record(part, err)
	if err != nil {
		return r.undecided(ask, lock, part, err)
	}
	switch {
	case v.Outcome == CoolingDown:
		r.local.cool(ask, waits, asked)
	case v.Outcome == Limited:
		r.local.deny(ask, v.Decisions, asked)
	case v.Outcome == Admitted && lock != nil:
		if refusal, known := r.local.add(ask, lock); known {
			// An equal ask that got no answer has gone on meanwhile.
			r.queue.add(r.ending(lock, 0))
			return refusal, nil
		}
		v.Lock = lock
	}
	return v, nil
}

// undecided is the verdict on an ask to which the store gave no answer because
// of err.
func (r *Redis) undecided(ask Ask, lock *Lock, part *part, err error) (Verdict, error) {
	v := Verdict{Degraded: true, Fault: FaultOf(err)}
	switch ask.WhenUndecided {
	case Local, Open:
		var share int
		fault := v.Fault
		if v, share = r.decideAlone(ask, lock, part, fault); ask.WhenUndecided == Local {
			v.Share = share
		}
		v.Degraded, v.Fault, err = true, fault, nil
		if !part.suspect.Load() { // or it is charged when the store answers
			r.queue.add(r.owed(part)...)
		}
	default:
		err = fmt.Errorf("%w: %w", ErrUndecided, err)
	}
	if lock != nil && lock.stored.Load() {
		// The store may have granted the lock, or be about to.
		lock.doubtful.Store(true)
		if v.Lock == nil {
			r.queue.add(r.ending(lock, 0))
		}
	}
	return v, err
}

// decideAlone decides ask by what this replica knows. Whatever it admits is
// owed to the store's budgets.
func (r *Redis) decideAlone(ask Ask, lock *Lock, part *part, fault string) (v Verdict, share int) {
	charges := ask.charges()
	r.local.mu.Lock()
	defer r.local.mu.Unlock()
	now := r.local.now()
	alone := part.alone(now, r.fleet.live(r.options.Replicas), fault)
	var budgets *limiter.Budgets
	shares := charges
	if ask.WhenUndecided == Local {
		budgets, shares = alone.budgets, make([]limiter.Charge, len(charges))
		for i, c := range charges {
			shares[i] = limiter.Charge{Key: c.Key, Limit: c.Limit.Share(alone.replicas), ByCaller: c.ByCaller}
		}
	}
	if v = r.local.decideLocked(ask, lock, budgets, shares, now); v.Outcome == Admitted {
		part.debts.Add(now, charges, alone.replicas)
	}
	return v, alone.replicas
}

// Refusal returns the verdict on ask if this replica knows by itself that it
// is a refusal, as [Memory.Refusal] does.
func (r *Redis) Refusal(ask Ask) (v Verdict, known bool) { return r.local.Refusal(ask) }

// Pause lets no ask that names the cool-down be admitted for d from now on, on
// any replica. It only ever extends one, and waits until the store has been
// told, or for its timeout.
func (r *Redis) Pause(tag, name string, d time.Duration) {
	r.local.Pause(tag, name, d)
	until := r.local.now() + d
	r.tell(&task{
		tag:    tag,
		script: pauseScript,
		what:   pausing{tag, name, until},
		forget: until,
	})
}

// Close gives back what is queued for it, waits for the run loop to end and
// closes the client. Locks in flight must have been released before.
func (r *Redis) Close() error {
	close(r.stop)
	r.stopped.Wait()
	return r.conn.Load().close()
}

func (r *Redis) redis() redis.UniversalClient { return r.conn.Load().client }

// ask runs the guard script. lock may be nil. waits are what is left of each of
// the ask's cool-downs, where it is under one.
func (r *Redis) ask(ctx context.Context, ask Ask, lock *Lock) (v Verdict, waits []time.Duration, err error) {
	c := newCommand(r.options.Prefix)
	defer c.done()
	for _, name := range ask.Pauses {
		c.beginKey()
		c.text = appendPauseKey(c.text, ask.Tag, name)
		c.endKey()
	}
	value := ""
	if lock != nil {
		c.beginKey()
		c.text = lock.appendKey(c.text)
		c.endKey()
		value = lock.value
	}
	for _, charge := range ask.Charges {
		c.beginKey()
		c.text = charge.appendKey(c.text, ask.Tag)
		c.endKey()
	}
	c.arg(value)
	c.number(r.options.LockTTL.Milliseconds())
	c.number(int64(len(ask.Pauses)))
	for _, charge := range ask.Charges {
		for _, arg := range r.limitArgs(charge.Limit) {
			c.arg(arg)
		}
	}
	reply, err := r.conn.Load().once(ctx, r.guard, c).Slice()
	if err != nil {
		return Verdict{}, nil, err
	}
	return readReply(ask, reply)
}

// readReply reads what guard.lua answered.
func readReply(ask Ask, reply []any) (v Verdict, waits []time.Duration, err error) {
	const admitted, duplicate, limited, coolingDown = 1, 2, 3, 4
	if len(reply) == 0 {
		return Verdict{}, nil, errReply(reply)
	}
	switch outcome, _ := reply[0].(int64); {
	case outcome == coolingDown && len(reply) == 1+len(ask.Pauses):
		v.Outcome, waits = CoolingDown, make([]time.Duration, len(ask.Pauses))
		for i := range waits {
			left, _ := reply[1+i].(int64)
			waits[i] = time.Duration(left) * time.Millisecond
			v.Wait = max(v.Wait, waits[i])
		}
		return v, waits, nil
	case outcome == duplicate && len(reply) == 3:
		value, _ := reply[1].(string)
		micros, _ := reply[2].(string)
		now, err := time.ParseDuration(micros + "us")
		if err != nil {
			return Verdict{}, nil, errReply(reply)
		}
		holder, held := parseHolder(value, now)
		if held {
			return Verdict{Outcome: Held, Holder: holder}, nil, nil
		}
		return Verdict{Outcome: Duplicate, Holder: holder}, nil, nil
	case (outcome == admitted || outcome == limited) && len(reply) == 1+len(ask.Charges):
		v := Verdict{Outcome: Admitted, Decisions: make([]limiter.Decision, len(ask.Charges))}
		if outcome == limited {
			v.Outcome = Limited
		}
		for i, c := range ask.Charges {
			budget, err := c.Limit.ReadReply(reply[1+i], outcome == admitted)
			if err != nil {
				return Verdict{}, nil, err
			}
			v.Decisions[i] = budget.Decision
		}
		return v, nil, nil
	}
	return Verdict{}, nil, errReply(reply)
}

func errReply(reply []any) error {
	return fmt.Errorf("unexpected answer of a script: %v", reply)
}

func (r *Redis) limitArgs(l limiter.Limit) []string {
	if args, ok := r.args.Load(l); ok {
		return args.([]string)
	}
	args := l.ScriptArgs(0)
	r.args.Store(l, args)
	return args
}

func (r *Redis) key(suffix string) string {
	return r.options.Prefix + ":" + keyFormat + ":" + suffix
}
