package cluster

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"throttle-proxy/limiter"
)

const (
	failuresRunning = 5 // after so many asks without an answer the store is away,
	failuresOfAsks  = 10
	recentAsks      = 20 // or after failuresOfAsks of so many

	probeInterval = 150 * time.Millisecond // on average, and half as long at least
	probeExpiry   = time.Second

	// settling is for how long a replica that has found the store again goes on
	// to decide alone: by then the others have found it too, and have charged it
	// for what they have admitted, which would otherwise be admitted twice.
	settling = 2 * probeInterval
)

// part is what fails as one: the whole store, or in a Redis Cluster, of which
// one master can be away, the slot of one tag.
type part struct {
	tag     string       // empty for the whole store
	suspect atomic.Bool  // the last ask got no answer
	away    atomic.Bool  // it is not asked
	probing atomic.Bool  // one goroutine looks for it
	cut     atomic.Int64 // the last cut that counted, on the clock of the Redis' Memory

	// Two breakers, since one counts either way. Neither lets an ask through to
	// see whether the store is back: that is [Redis.probe]'s, so that no request
	// pays for it.
	running, ratio circuitbreaker.CircuitBreaker[any]

	changing sync.Mutex // held while it goes away or comes back, and is told to

	mu     sync.Mutex
	since  time.Time     // since when it is away; zero if it is not
	err    error         // why
	lasted time.Duration // its outages until now, but for the one under way

	// Guarded by the mutex of the Redis' Memory.
	solo   *solo            // nil while the store answers
	beside *limiter.Budgets // for asks that meet a key of a wrong type; nil until needed
	debts  *limiter.Debts
}

// solo is how this replica decides while the store gives no answer.
type solo struct {
	replicas int              // that share each budget
	budgets  *limiter.Budgets // this replica's shares
}

func newPart(tag string) *part {
	// Only a probe closes them again.
	const never = 100 * 365 * 24 * time.Hour
	return &part{
		tag:     tag,
		running: circuitbreaker.NewBuilder[any]().WithFailureThreshold(failuresRunning).WithDelay(never).Build(),
		ratio:   circuitbreaker.NewBuilder[any]().WithFailureThresholdRatio(failuresOfAsks, recentAsks).WithDelay(never).Build(),
		debts:   limiter.NewDebts(Capacity),
	}
}

// alone returns how to decide without the store, which has not answered because
// of fault. Its budgets begin empty, so that an outage hands out no burst.
func (p *part) alone(now time.Duration, replicas int, fault string) *solo {
	if fault == faultWrongType {
		if p.beside == nil {
			p.beside = limiter.NewEmptyBudgets(Capacity, now)
		}
		return &solo{replicas, p.beside}
	}
	if p.solo != nil {
		return p.solo
	}
	begun := &solo{replicas, limiter.NewEmptyBudgets(Capacity, now)}
	// Where the store has answered another ask meanwhile, nothing ends what
	// begins here: the next outage would find all that it has saved up.
	if p.suspect.Load() {
		p.solo = begun
	}
	return begun
}

// parts are the parts of one store.
type parts struct {
	whole *part    // nil if each tag has its own
	byTag sync.Map // tag → *part
}

func (p *parts) of(tag string) *part {
	if p.whole != nil {
		return p.whole
	}
	if known, ok := p.byTag.Load(tag); ok {
		return known.(*part)
	}
	known, _ := p.byTag.LoadOrStore(tag, newPart(tag))
	return known.(*part)
}

func (p *parts) all() iter.Seq[*part] {
	return func(yield func(*part) bool) {
		if p.whole != nil {
			yield(p.whole)
			return
		}
		p.byTag.Range(func(_, known any) bool { return yield(known.(*part)) })
	}
}

// record takes note of whether p has answered. err is nil, or why it has not.
func (r *Redis) record(p *part, err error) {
	if err == nil {
		if p.away.Load() {
			return // an ask from before; the probe tells
		}
		p.running.RecordSuccess()
		p.ratio.RecordSuccess()
		if p.suspect.Load() {
			r.well(p)
		}
		return
	}
	fault := FaultOf(err)
	r.counts.fault(fault)
	if fault == faultWrongType {
		return // of one key; the store is well
	}
	if fault != faultClosed || p.cutAnew(r.local.now(), r.options.Timeout/5) {
		p.running.RecordFailure()
		p.ratio.RecordFailure()
	}
	p.suspect.Store(true)
	if p.probing.CompareAndSwap(false, true) {
		r.stopped.Go(func() { r.probe(p) })
	}
	if p.running.IsOpen() || p.ratio.IsOpen() {
		r.gone(p, err)
	}
}

// cutAnew reports whether a cut is the first for a while. Asks that share a
// connection fail together when it is cut, which says no more of the store than
// one does.
func (p *part) cutAnew(now, while time.Duration) bool {
	last := p.cut.Load()
	return (last == 0 || now-time.Duration(last) >= while) && p.cut.CompareAndSwap(last, int64(now))
}

// gone begins an outage of p, if none is under way.
func (r *Redis) gone(p *part, err error) {
	p.changing.Lock()
	defer p.changing.Unlock()
	if p.running.IsClosed() && p.ratio.IsClosed() || p.away.Load() {
		return
	}
	p.mu.Lock()
	p.since, p.err = time.Now(), err
	p.mu.Unlock()
	p.away.Store(true)
	r.options.Observe(Change{Kind: StoreAway, Tag: p.tag, Err: err})
}

// well ends the suspicion that p is away.
func (r *Redis) well(p *part) {
	p.suspect.Store(false)
	r.local.mu.Lock()
	p.solo = nil
	r.local.mu.Unlock()
	r.queue.add(r.owed(p)...)
}

// probe looks for a part of the store that has failed to answer, until it does.
func (r *Redis) probe(p *part) {
	for found := false; p.suspect.Load() || !p.rest(); {
		// Replicas that lost the store together do not come back together.
		pause := probeInterval/2 + rand.N(probeInterval)
		if found {
			pause = settling
		}
		select {
		case <-r.stop:
			return
		case <-time.After(pause):
		}
		wasAway := p.away.Load()
		err := r.reach(p, wasAway && !found)
		switch {
		case err != nil || !wasAway:
			found = false
			r.record(p, err)
		case !found:
			found = true
			r.charge(p)
		default:
			found = false
			r.back(p)
		}
	}
}

// rest ends the probing, and reports whether nobody has asked for it meanwhile.
func (p *part) rest() bool {
	p.probing.Store(false)
	return !p.suspect.Load() || !p.probing.CompareAndSwap(false, true)
}

// back ends an outage of p.
func (r *Redis) back(p *part) {
	r.charge(p) // before anybody asks
	r.restore(p)
	select {
	case r.returned <- struct{}{}:
	case <-r.stop:
	}
}

// charge tells p of what was admitted without it.
func (r *Redis) charge(p *part) { r.queue.add(r.perform(r.owed(p), true)...) }

// restore lets p be asked again.
func (r *Redis) restore(p *part) {
	p.changing.Lock()
	defer p.changing.Unlock()
	p.running.Close()
	p.ratio.Close()
	p.mu.Lock()
	lasted := time.Since(p.since)
	p.lasted += lasted
	p.since, p.err = time.Time{}, nil
	p.mu.Unlock()
	p.away.Store(false)
	r.well(p)
	r.options.Observe(Change{Kind: StoreBack, Tag: p.tag, Lasted: lasted})
}

// reach writes to p: a store that can only be read is of no use. Where anew, it
// does so by a new client, which then takes the place of the old one: that one
// may believe for a second on that there is nothing to connect to. A client of
// Sentinel stays, since it learns by failing which sentinels answer.
func (r *Redis) reach(p *part, anew bool) error {
	conn := r.conn.Load()
	anew = anew && !conn.sentinel()
	if anew {
		var err error
		if conn, err = r.options.connect(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.options.Timeout)
	defer cancel()
	key := "probe"
	if p.tag != "" {
		key = "{" + p.tag + "}:probe"
	}
	err := conn.client.Set(ctx, r.key(key), r.options.Self.ID, probeExpiry).Err()
	switch {
	case !anew:
	case err != nil:
		_ = conn.close()
	default:
		old := r.conn.Swap(conn)
		r.stopped.Go(func() {
			select {
			case <-r.stop:
			case <-time.After(r.options.Timeout): // whoever waits for an answer of it has had it by then
			}
			_ = old.close()
		})
	}
	return err
}

// errAway is why a store that is known to be away is not asked.
var errAway = errors.New("the store is away")

// Away returns since when a part of the store, or all of it, is away. ok is
// false if none is.
func (r *Redis) Away() (since time.Time, ok bool) {
	for p := range r.parts.all() {
		p.mu.Lock()
		if !p.since.IsZero() && (!ok || p.since.Before(since)) {
			since, ok = p.since, true
		}
		p.mu.Unlock()
	}
	return since, ok
}
