package cluster

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	probeInterval = 150 * time.Millisecond // on average, and half as long at least
	probeExpiry   = time.Second

	// settleTime is for how long a replica that has found the store again goes on
	// to decide alone: by then the others have found it too, and have charged it
	// for what they have admitted, which would otherwise be admitted twice.
	settleTime = 2 * probeInterval
)

// probe looks for a part of the store that has failed to answer, until it does.
func (r *Redis) probe(p *part) {
	for p.missed() {
		// Replicas that lost the store together do not come back together.
		pause := probeInterval/2 + rand.N(probeInterval)
		if p.state() == settling {
			pause = settleTime
		}
		select {
		case <-r.stop:
			return
		case <-time.After(pause):
		}
		err := r.reach(p)
		if !p.away() {
			r.record(p, err)
			continue
		}
		if err != nil {
			r.counts.fault(FaultOf(err))
			r.move(p, failed, err)
			continue
		}
		if p.state() == settling {
			r.charge(p) // before anybody asks
		}
		switch from, to := r.move(p, answered, nil); {
		case to == found:
			r.charge(p)
			r.move(p, charged, nil)
		case from == settling:
			select {
			case r.returned <- struct{}{}:
			case <-r.stop:
			}
		}
	}
}

// missed reports whether p is still to be looked for.
func (p *part) missed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.probing = p.state() != asked
	return p.probing
}

// charge tells p of what was admitted without it.
func (r *Redis) charge(p *part) { r.queue.add(r.perform(r.owed(p), true)...) }

// reach writes to p: a store that can only be read is of no use. Where it is
// away, it does so by a new client, which then takes the place of the old one: that one
// may believe for a second on that there is nothing to connect to. A client of
// Sentinel stays, since it learns by failing which sentinels answer.
func (r *Redis) reach(p *part) error {
	conn := r.conn.Load()
	anew := p.state() == away && !conn.sentinel()
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
