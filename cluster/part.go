package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"throttle-proxy/limiter"
)

const (
	failuresRunning = 5 // after so many trips without an answer the store is away,
	failuresOfTrips = 10
	recentTrips     = 20 // or after failuresOfTrips of so many
)

// state is where a part of the store is in its life.
type state int32

const (
	asked    state = iota // it answers
	suspect               // it gave no answer: it is asked on, and looked for
	away                  // from here on it is not asked, and each replica decides alone
	found                 // it has answered a probe, and is told what was admitted without it
	settling              // it has been told; the other replicas are doing the same
)

// event is what moves a part on.
type event int

const (
	answered event = iota // an ask got an answer
	reached               // a probe did
	failed                // an ask or a probe got none
	broke                 // nor did this one, and it is one too many
	charged               // it has been told of what was admitted without it
)

// after is the life of a part, as a whole. What does not move it leaves it where
// it is.
func (s state) after(e event) state {
	switch {
	case s == asked && e == failed:
		return suspect
	case s == suspect && (e == answered || e == reached):
		return asked
	case s <= suspect && e == broke:
		return away
	case s == away && e == reached:
		return found
	case s == found && e == charged:
		return settling
	case s == settling && e == reached:
		return asked
	case s > away && e == failed:
		return away
	}
	return s
}

// part is what fails as one: the whole store, or a master of a Redis Cluster.
type part struct {
	tags  tags         // of a master
	is    atomic.Int32 // its state; written by [Redis.move] alone
	clock clock
	cut   atomic.Int64 // the last cut that counted, on the clock of what is known

	// Two breakers, since one counts either way. Neither lets an ask through to
	// see whether the store is back: that is [Redis.probe]'s, so that no request
	// pays for it.
	running, ratio circuitbreaker.CircuitBreaker[any]

	mu        sync.Mutex    // held while the state changes
	probing   bool          // a goroutine looks for it
	since     time.Time     // since when it is away; zero if it is not
	err       error         // why
	lasted    time.Duration // its outages until now, but for the one under way
	postponed backlog       // for when it answers again
	unpaused  bool          // it has not been told of some cool-down

	// Guarded by the mutex of what is known.
	solo  *solo // nil until needed
	debts *limiter.Debts
}

func newPart() *part {
	// Only a probe closes them again.
	const never = 100 * 365 * 24 * time.Hour
	return &part{
		running: circuitbreaker.NewBuilder[any]().WithFailureThreshold(failuresRunning).WithDelay(never).Build(),
		ratio:   circuitbreaker.NewBuilder[any]().WithFailureThresholdRatio(failuresOfTrips, recentTrips).WithDelay(never).Build(),
		debts:   limiter.NewDebts(Capacity),
	}
}

func (p *part) state() state { return state(p.is.Load()) }

// away reports whether p is not asked.
func (p *part) away() bool { return p.state() >= away }

// broken reports whether p has failed too often.
func (p *part) broken() bool { return p.running.IsOpen() || p.ratio.IsOpen() }

// move is what alone moves p. err is why it has failed. It returns p's state
// before and after.
func (r *Redis) move(p *part, e event, err error) (from, to state) {
	p.mu.Lock()
	if e == broke && !p.broken() {
		e = failed // an ask from before the store came back
	}
	from = p.state()
	to = from.after(e)
	p.is.Store(int32(to))
	look := to != asked && !p.probing
	p.probing = p.probing || look
	var change Change
	switch {
	case from < away && to == away:
		p.since, p.err = time.Now(), err
		change = Change{Kind: StoreAway, Tag: p.tags.String(), Err: err}
	case from > away && to == asked:
		p.running.Close()
		p.ratio.Close()
		change = Change{Kind: StoreBack, Tag: p.tags.String(), Lasted: time.Since(p.since)}
		p.lasted += change.Lasted
		p.since, p.err = time.Time{}, nil
	}
	if change.Kind != 0 {
		r.changes.tell(change)
	}
	p.mu.Unlock()
	if look {
		r.stopped.Go(func() { r.probe(p) })
	}
	if from != asked && to == asked {
		if from > away {
			r.known.mu.Lock()
			p.solo = nil
			r.known.mu.Unlock()
		}
		r.queue.add(r.kept(p)...)
	}
	return from, to
}

// record is note, of a trip of this replica's own, or of one ask: its fault is counted
// too. Those of asks that went together each counts by itself.
func (r *Redis) record(p *part, err error) {
	r.countFault(err)
	r.note(p, err)
}

// countFault counts why an ask was not answered; nil if it was.
func (r *Redis) countFault(err error) {
	if err != nil {
		r.counts.fault(FaultOf(r.because(err)))
	}
}

// doubt takes note of an ask of p that got no answer: its trip counts by itself, and may
// not be over yet. Until p is found to answer, what is admitted without it is kept to be
// charged then: a store that stands still would be told twice.
func (r *Redis) doubt(p *part, err error) {
	r.countFault(err)
	if err = r.because(err); !ofOneKey(FaultOf(err)) && !p.away() && !r.parts.bare(p) {
		r.move(p, failed, err)
	}
}

// note takes note of whether a trip to p was answered: once, however many asks were
// together in it, since all of them fare alike. err is nil, or why it was not. Once p is
// away only probes count: what ends then is from before, as it is where p has nothing of
// ours any more.
func (r *Redis) note(p *part, err error) {
	if err == nil {
		state := p.state()
		if state >= away {
			return
		}
		p.running.RecordSuccess()
		p.ratio.RecordSuccess()
		if state == suspect {
			r.move(p, answered, nil)
		}
		return
	}
	err = r.because(err)
	fault := FaultOf(err)
	if ofOneKey(fault) || p.away() || r.parts.bare(p) {
		return
	}
	if fault != faultClosed || p.cutAnew(r.known.now(), r.options.Timeout/5) {
		p.running.RecordFailure()
		p.ratio.RecordFailure()
	}
	if p.broken() {
		r.move(p, broke, err)
	} else {
		r.move(p, failed, err)
	}
}

// because adds to err, where it is that an ask has got no connection in its time,
// why none could be made.
func (r *Redis) because(err error) error {
	if !errors.Is(err, context.DeadlineExceeded) || r.options.Dialled == nil {
		return err
	}
	if _, cause := r.options.Dialled(); cause != nil {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// cutAnew reports whether a cut is the first for a while. Asks that share a
// connection fail together when it is cut, which says no more of the store than
// one does.
func (p *part) cutAnew(now, while time.Duration) bool {
	last := p.cut.Load()
	return (last == 0 || now-time.Duration(last) >= while) && p.cut.CompareAndSwap(last, int64(now))
}

// errAway is why a store that is known to be away is not asked.
var errAway = errors.New("the store is away")
