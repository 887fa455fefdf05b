package cluster

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/limiter"
)

// Options configure a [Redis]. All of them are required, but for Watch, Dialled
// and Observe.
type Options struct {
	// Connect returns a new client, as [Endpoint.Connect] does. It is called once
	// at the start, and again to find a store that was away, or has moved.
	Connect func(life context.Context) (redis.UniversalClient, error)
	// Watch calls moved when the store may be another server from now on, until ctx
	// ends, as [Endpoint.Watch] does; nil where that cannot be.
	Watch func(ctx context.Context, moved func())
	// Dialled returns what is known of connections that were made, or could not be,
	// as [Endpoint.Dialled] does; nil where nothing is.
	Dialled func() (trip time.Duration, err error)

	Prefix  string        // first part of every key
	Self    Replica       // this replica, as the others are to know it
	LockTTL time.Duration // locks and slots are gone at most this long after their replica died
	Timeout time.Duration // longest that Admit, Pause and Release wait for the store
	// Pipeline sends what is asked for more than a few tags at once in one write.
	Pipeline bool
	// Report returns what this replica does, in at most [MaxReport] bytes, for
	// [Redis.Reports] of the others; it is called once a second while somebody looks.
	// It may be nil.
	Report func() []byte
	// Replicas is the number of replicas while it is not known how many live.
	Replicas int

	// Observe is called at each change, for one after the other. Where it takes
	// long, nothing else waits for it, and changes may be dropped.
	Observe func(Change)
}

// Redis lets the replicas that share a Redis decide together, by its clock.
// What this replica knows by itself it answers without asking: see
// [Memory.Refusal]. A budget that refuses is asked again after a second, since
// another replica may have given back to it: one trip a second for each such.
// What is to be done while the Redis gives no answer each ask says itself.
type Redis struct {
	options   Options
	known     *known
	args      sync.Map // limitWait → []string, its arguments of a script
	desks     sync.Map // deskID → *desk, of each tag that was ever asked for
	conn      atomic.Pointer[connection]
	parts     parts
	deadlines deadlines // of asks
	fleet     fleet
	counts    counts
	policy    string        // maxmemory-policy, as last seen by the run loop
	uncounted bool          // the store could not tell who lives; the run loop's
	trip      atomic.Int64  // what the last heartbeat took, as a [time.Duration]
	far       atomic.Bool   // it was told that the store is far
	changed   sync.Map      // changes of limits that were told
	ordered   chan struct{} // has one element when there is an order to be followed

	epochs epochs // between what operators change

	// The run loop's, of what operators have changed.
	follows  string           // what the store is told that this replica follows
	freedNow int              // locks, by the last of it
	unread   string           // what was told of as unreadable
	settled  <-chan time.Time // when to look whether it is; nil if it is
	settleBy time.Duration    // when it is in any case: no ask lasts longer

	watches watches

	untold atomic.Int64 // bytes of kept answers that the store has not been told of yet

	changes  observer
	queue    queue
	returned chan struct{} // a part of the store answers again
	started  chan struct{} // closed when the store has been asked for the first time
	unwatch  context.CancelFunc
	stop     chan struct{}
	ran      chan struct{} // closed when the run loop has ended
	stopped  sync.WaitGroup
}

// NewRedis returns a Redis and starts its loops, which [Redis.Close] ends.
// The store need not answer yet.
func NewRedis(o Options) (*Redis, error) {
	if _, err := limiter.Prelude(); err != nil {
		return nil, err
	}
	conn, err := o.connect()
	if err != nil {
		return nil, err
	}
	r := &Redis{
		options:   o,
		known:     newKnown(o.Self.ID),
		deadlines: deadlines{timeout: o.Timeout},
		queue:     newQueue(),
		changes:   newObserver(),
		returned:  make(chan struct{}),
		ordered:   make(chan struct{}, 1),
		follows:   "0 0",
		started:   make(chan struct{}),
		stop:      make(chan struct{}),
		ran:       make(chan struct{}),
	}
	if _, isCluster := conn.client.(*redis.ClusterClient); !isCluster {
		r.parts.whole = newPart()
	}
	r.known.believed = beatInterval
	r.conn.Store(conn)
	r.stopped.Go(r.run)
	r.stopped.Go(r.tellAll)
	if o.Observe == nil {
		o.Observe = func(Change) {}
	}
	go r.changes.run(o.Observe)
	watching, unwatch := context.WithCancel(context.Background())
	r.unwatch = unwatch
	if o.Watch != nil {
		r.stopped.Go(func() { o.Watch(watching, r.follow) })
	}
	return r, nil
}

// Admit decides ask in at most one trip to the store, and within its timeout; but
// one that waits takes up to ask.Wait, and another trip at each instant at which
// there is more to decide than what it has a place for. The error is why ctx has
// ended while it waited, or wraps ErrUndecided.
// Without an answer, and at once while the store is known to be away, the
// verdict is what the ask says, or else an error that wraps [ErrUndecided]; the
// verdict's Fault then says why.
//
// A refusal that this replica knows by itself takes no trip; but where the ask has
// a fingerprint, its lock may be another's, as long as there has been another:
// that is looked for first, once a second at most where what refuses it refuses
// all that are equal to it, and no replica has another policy.
//
// The trip is not cut short when the context is done: a client that leaves in
// the middle of it would otherwise cost the connection, and the answer.
func (r *Redis) Admit(ctx context.Context, ask Ask) (Verdict, error) {
	began := r.known.now()
	v, err := r.decide(r.known.behind(ask))
	if v.waits(ask) {
		v, err = r.known.await(ctx, ask, v, began, r.decide)
	}
	return v.under(r.known.controlled(ask)), err
}

func (r *Redis) decide(ask Ask) (Verdict, error) {
	defer r.epochs.leave(r.epochs.enter())
	ask, _ = r.known.controlled(ask)
	v, err := r.decideOnce(ask)
	if err == nil && r.unlocked(ask, v) {
		return r.decideOnce(ask)
	}
	return v, err
}

func (r *Redis) decideOnce(ask Ask) (Verdict, error) {
	ctx, end := r.deadlines.context(r.known.now())
	for {
		if v, refused := r.refusal(ask); refused {
			return v, nil
		}
		t, others := r.known.turnOf(ask)
		if others == nil || r.partOf(ask.Tag).away() || !awaitTurn(ctx, others) {
			return r.decideInTurn(ctx, end, ask, t)
		}
	}
}

// refusal is the verdict on ask if this replica needs no more of the store than
// perhaps one look for it, and it is a refusal.
func (r *Redis) refusal(ask Ask) (v Verdict, refused bool) {
	if v, refused := r.known.refusal(ask); refused {
		equal := v.Outcome == Duplicate || v.Outcome == Held
		if !equal && ask.Key == nil {
			v = r.lookElsewhere(ask, v)
		}
		if !r.asksToShare(ask, v, equal) {
			v.Arrived = cmp.Or(ask.Arrived, v.Arrived)
			r.shareIn(ask, &v, ask.Arrived)
			return r.known.told(ask, v, r.fleet.place(r.options.Replicas)), true
		}
	}
	return Verdict{}, false
}

// decideInTurn asks the store until the deadline of ctx, which is end, and ends t.
func (r *Redis) decideInTurn(ctx context.Context, end time.Duration, ask Ask, t turn) (v Verdict, err error) {
	if ask.needsNothing() {
		return Verdict{Outcome: Admitted}, nil // which says nothing of the store
	}
	var told Verdict
	var took time.Duration
	defer func() { r.known.endTurn(t, told, took) }()
	g := newGrant(ask, r)
	if g.Locked() {
		g.lock.toStore(r.options.Self.ID)
	}
	part := r.partOf(ask.Tag)
	if part.away() {
		return r.undecided(ask, g, part, errAway)
	}
	if g.Locked() {
		g.lock.stored.Store(true)
	}
	if g != nil && g.taken != nil {
		g.taken.toStore(r.options.LockTTL)
	}
	a, asked, err := r.ask(ctx, end, part, ask, g)
	if err != nil {
		r.doubt(part, err)
		if g.Locked() && (err == errLate || err == errUnasked) {
			g.lock.stored.Store(false)
		}
		return r.undecided(ask, g, part, err)
	}
	r.tellLimitChanges(ask, a.was)
	v = a.Verdict
	told, took = v, r.known.now()-asked
	if ask.Sharing != Unshared {
		if ask.Arrived == 0 { // what it meets began before, also if the clock was set back since then
			ask.Arrived = max(a.at, startedOf(v.value))
		}
		v.Arrived = ask.Arrived
	}
	switch v.Outcome {
	case Duplicate, Held:
		r.shareIn(ask, &v, v.Arrived)
	case CoolingDown:
		r.known.cool(ask, a.left, asked)
	case Limited:
		r.known.deny(ask, v.Decisions, asked)
		v = r.known.told(ask, v, r.fleet.place(r.options.Replicas))
	case Admitted, queued, Busy:
		if g == nil || v.Outcome == Busy && (ask.Wait == 0 || !g.Locked()) {
			return v, nil
		}
		g.charges, g.stored = a.charged, a.stored
		if g.Shared() {
			g.lock.started = a.at
		}
		if refusal, refused := r.known.add(ask, g, v.Outcome == Admitted); refused {
			// An equal ask that got no answer has gone on meanwhile.
			r.queue.add(slices.Concat(r.refunds(g), r.freeing(g.taken), []*task{r.endingOf(g, 0)})...)
			refusal.Arrived = ask.Arrived
			return refusal, nil
		}
		if v.Outcome != Admitted {
			g.taken = nil
		}
		v.Grant = g
	}
	return v, nil
}

// lookElsewhere is the verdict on an ask that this replica refuses, but would
// call a duplicate if its lock is another's. Where that cannot be found out the
// refusal stands. So it does for an ask that is equal to one of this replica's own
// whose answer has not come yet: that may be a refusal too.
func (r *Redis) lookElsewhere(ask Ask, refusal Verdict) Verdict {
	if ask.Fingerprint == nil || r.isAlone() {
		return refusal
	}
	unlocked, refused := r.known.isUnlocked(ask)
	if unlocked && r.fleet.alike() {
		return refusal
	}
	part := r.partOf(ask.Tag)
	if part.away() {
		return refusal
	}
	ctx, _ := r.deadlines.context(r.known.now())
	a := &asker{Ask: Ask{Tag: ask.Tag}, lock: &lock{id: lockID{ask.Tag, *ask.Fingerprint}, hash: ask.Fingerprint.hash()}}
	if err := r.together(ctx, nil, a); err != nil {
		r.countFault(err)
		return refusal
	}
	if value, held := a.reply.(string); held {
		return heldBy(value, part.clock.at(r.known.now()))
	}
	r.known.foundUnlocked(ask, refused)
	return refusal
}

// isAlone reports whether no lock in the store can be another replica's. Locks and
// holds outlive their replica, and one that is silent may have some.
func (r *Redis) isAlone() bool {
	const least = time.Minute // for holds longer than this replica has had
	return r.fleet.aloneFor(r.known.now()) > max(least, r.options.LockTTL, r.known.longestHold())
}

// giveBack ends the exchange of a request that was never sent. Refusals of its
// budgets are forgotten once the store has been told: until then more can come.
func (r *Redis) giveBack(g *Grant) {
	tasks := r.refunds(g)
	r.known.giveBack(g)
	tasks = append(tasks, r.freeing(g.taken)...)
	if g.lock != nil && g.lock.stored.Load() {
		tasks = append(tasks, r.endingOf(g, 0))
	}
	r.tell(tasks...)
	r.known.freed(g.taken)
	r.known.askAgain(g)
}

// Drain refuses requests that would wait for longer than until the process ends,
// after left.
func (r *Redis) Drain(left time.Duration) { r.known.drain(left) }

// Refusal returns the verdict on ask if this replica knows by itself that it
// is a refusal, as [Memory.Refusal] does.
func (r *Redis) Refusal(ask Ask) (v Verdict, refused bool) {
	ask, changed := r.known.controlled(ask)
	v, refused = r.known.refusal(ask)
	return r.known.told(ask, v.under(ask, changed), r.fleet.place(r.options.Replicas)), refused && !v.waits(ask)
}

// Pause lets no ask that names the cool-down be admitted for d from now on, on
// any replica: its upstream has asked for that with a status. It only ever extends
// one, and waits until the store has been told, or for its timeout.
func (r *Redis) Pause(tag, name string, d time.Duration, status int) {
	id, p := pauseID{tag, name}, r.known.pause(tag, name, d, status)
	r.tell(r.pausing(id, p))
}

// Close gives back what is queued for it, also where the store was away until now,
// waits for the loops to end and closes the client. Locks in flight must have been
// released before. Flights of other replicas are lost for who follows them yet.
func (r *Redis) Close() error {
	close(r.stop)
	r.unwatch()
	r.closeWatches()
	r.stopped.Wait()
	r.perform(r.left(), true)
	r.leave()
	r.stopped.Wait() // whoever looks for a part that has not answered
	r.changes.close(r.options.Timeout)
	return r.conn.Load().close()
}

// Started returns a channel that is closed once the store has been asked for the
// first time, or has had its time to answer: from then on asks find connections.
func (r *Redis) Started() <-chan struct{} { return r.started }

func (r *Redis) redis() redis.UniversalClient { return r.conn.Load().client }

func (r *Redis) key(suffix string) string {
	return r.options.Prefix + ":" + keyFormat + ":" + suffix
}
