package cluster

import (
	"context"
	"errors"
	"slices"
	"time"
)

// run is the loop that renews the locks in flight and says that this replica
// lives.
func (r *Redis) run() {
	defer close(r.ran)
	r.load()
	r.reconnectIfFar()
	r.beat() // who is known to live is waited for when operators change something
	close(r.started)
	r.warn()
	renewal := time.NewTicker(r.options.LockTTL / 3)
	defer renewal.Stop()
	heartbeat := time.NewTicker(beatInterval)
	defer heartbeat.Stop()
	var again <-chan time.Time // set while something failed and is to be tried again
	for renewed := true; ; {
		select {
		case <-renewal.C:
			renewed = r.renewAll()
		case <-heartbeat.C:
			r.beat()
			r.lookForPauses()
		case <-r.ordered:
			r.beat()
		case <-r.settled:
			r.settle()
		case <-r.returned:
			r.load()
			renewed = r.renewAll() // takes what was admitted meanwhile has
			r.beat()
			r.warn()
		case <-again:
			again = nil
			renewed = renewed || r.renewAll()
		case <-r.stop:
			return
		}
		if again == nil && !renewed {
			again = time.After(retryAfter)
		}
	}
}

// reconnectIfFar lets asks be sent as to a store that is far, if it has turned out
// to be that.
func (r *Redis) reconnectIfFar() {
	if r.options.Dialled == nil {
		return
	}
	if trip, _ := r.options.Dialled(); !isFar(trip, r.options.Timeout) {
		return
	}
	conn, err := r.options.connect()
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.options.patience())
	defer cancel()
	conn.warm(ctx)
	r.use(conn)
}

// load sends the scripts ahead of the first ask, so that it finds them. Where
// that fails they are sent when they are asked for.
func (r *Redis) load() {
	ctx, cancel := context.WithTimeout(context.Background(), r.options.patience())
	defer cancel()
	for _, script := range []*script{plainGuardScript, guardScript, renewScript, releaseScript, landScript, unshareScript, endKeyScript, pauseScript, chargeScript, refundScript, heartbeatScript, controlScript, renewSlotsScript, freeSlotsScript} {
		if script.Load(ctx, r.redis()).Err() != nil {
			return
		}
	}
	r.conn.Load().warm(ctx)
}

// renewAll renews the locks and slots of all exchanges under way, and reports
// whether the store answered.
func (r *Redis) renewAll() (answered bool) {
	locks, slots := r.renew(), r.renewSlots()
	return locks && slots
}

// renew renews every lock in flight, and reports whether the store answered. A
// lost one is asked for on: it is taken again when the other's has ended.
func (r *Redis) renew() (answered bool) {
	byPart := make(map[*part][]*lock)
	for _, lock := range r.known.inFlight() {
		p := r.partOf(lock.id.tag)
		byPart[p] = append(byPart[p], lock)
	}
	answered = true
	for p, locks := range byPart {
		for batch := range slices.Chunk(locks, batchSize) {
			if p.away() {
				break // renewed when it is back
			}
			batch = r.known.renewing(batch)
			failed := r.renewBatch(p, batch)
			answered = answered && failed == 0
			if failed > 0 && failed == len(batch) {
				break
			}
		}
	}
	return answered
}

// renewBatch renews locks of p that are marked as being renewed, and returns how
// many were not answered. Some may have ended by now: told of that before the
// renewal, the store would take them again.
func (r *Redis) renewBatch(p *part, locks []*lock) (failed int) {
	calls := make([]call, len(locks))
	for i, lock := range locks {
		calls[i] = call{
			part:   p,
			tag:    lock.id.tag,
			script: renewScript,
			what:   r.renewal(lock),
		}
	}
	r.pipeline(calls)
	for i, c := range calls {
		lock := locks[i]
		switch {
		case errors.Is(c.err, errAway): // renewed when it is back
		case c.err != nil:
			lock.doubtful.Store(true)
			if FaultOf(c.err) != faultWrongType {
				failed++
			}
		case c.result == 0 && lock.lost.CompareAndSwap(false, true):
			r.counts.lost.Add(1)
			r.changes.tell(Change{Kind: LockLost, Tag: lock.id.tag})
		case c.result == 1:
			lock.lost.Store(false)
			r.counts.renewed.Add(1)
		}
		lock.renewing.Store(false)
	}
	r.queue.unpark()
	return failed
}
