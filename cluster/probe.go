package cluster

import (
	"context"
	"math/rand/v2"
	"time"

	"throttle-proxy/limiter"
)

const (
	probeInterval = 150 * time.Millisecond // on average, and half as long at least
	probeExpiry   = probeInterval / 3      // of what it writes

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
			r.warnOfDistance()
			r.counts.fault(FaultOf(err))
			r.move(p, failed, err)
			continue
		}
		if p.state() == settling {
			r.charge(p) // before anybody asks
		}
		switch from, to := r.move(p, reached, nil); {
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

// reach asks p as a request does: a store that can only be read, or that refuses
// a script what it needs, is of no use. Where it is away, it does so by a new
// client, which then takes the place of the old one: that one may believe for a
// second on that there is nothing to connect to, and stays with a master that is
// none any more. Connecting has its own time, for which no request waits; the ask
// has that of any, so that a store is not found which is too far to be asked.
func (r *Redis) reach(p *part) error {
	conn := r.conn.Load()
	anew := p.state() == away
	if anew {
		var err error
		if conn, err = r.options.connect(); err != nil {
			return err
		}
	}
	err := r.tryAsk(conn, p)
	switch {
	case !anew:
	case err != nil:
		_ = conn.close()
	default:
		r.use(conn)
	}
	return err
}

// use lets all asks from now on be of conn.
func (r *Redis) use(conn *connection) {
	old := r.conn.Swap(conn)
	r.stopped.Go(func() {
		select {
		case <-r.stop:
		case <-time.After(r.options.Timeout): // whoever waits for an answer of it has had it by then
		}
		_ = old.close()
	})
}

// follow asks another master from now on, which the sentinels have named. Whether
// it answers or not, the old one is not asked any more: it may be a master on,
// and decide without the other replicas. A store that is away is looked for
// anyway.
func (r *Redis) follow() {
	p := r.parts.whole
	if p == nil || p.away() {
		return
	}
	conn, err := r.options.connect()
	if err != nil {
		return
	}
	r.record(p, r.tryAsk(conn, p)) // it is connected to, before anybody waits for that
	r.use(conn)
	r.changes.tell(Change{Kind: StoreMoved})
	select {
	case r.returned <- struct{}{}: // for the locks that it may not have
	case <-r.stop:
	}
}

// tryAsk runs the guard for keys of its own, which are gone before the next
// probe.
func (r *Redis) tryAsk(conn *connection, p *part) error {
	tag := p.tags.first()
	if tag == "" {
		tag = "probe" // of the whole, or of a master that has nothing of ours any more
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.options.patience())
	defer cancel()
	c := newCommand(r.options.Prefix)
	defer c.done()
	for _, name := range []string{":probe:cool:", ":probe:rate:", ":probe:lock:"} {
		c.beginKey()
		c.text = append(append(appendTag(c.text, tag), name...), r.options.Self.ID...)
		c.endKey()
	}
	everyTime := limiter.Limit{Rate: limiter.MaxPerSecond, Period: time.Second, Burst: limiter.MaxPerSecond}
	a := &asker{Ask: Ask{Pauses: []string{""}, Charges: []Charge{{Limit: everyTime}}}}
	a.lock = &lock{value: valueFormat + " probe " + r.options.Self.ID + " probe"}
	r.writeArgs(c, []*asker{a}, probeExpiry, plainGuardScript)
	replies, err := conn.once(ctx, plainGuardScript, c).Slice()
	if err != nil {
		return err
	}
	if conn != r.conn.Load() {
		conn.warm(ctx)
	}
	if len(replies) != 1 {
		return errReply(replies)
	}
	a.reply = replies[0]
	answer, err := a.answer()
	if err == nil {
		p.clock.set(answer.at, r.known.now(), r.options.Timeout)
	}
	return err
}
