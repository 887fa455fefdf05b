package cluster

import (
	"iter"
	"math"
	"time"

	"throttle-proxy/limiter"
)

// pauseID is what a cool-down is known by.
type pauseID struct{ tag, name string }

// pauses are the cool-downs that a replica knows of, by their ends. It is not
// safe for concurrent use.
//
// There are as many callers' as clients like, so that beyond Capacity those are
// forgotten that end first. Of those that all callers are under there is one a
// route, and none is forgotten: they are the ones that asks name first.
type pauses struct {
	routes       map[pauseID]bool // named first by some ask
	ofAll, ofOne *limiter.Deadlines[pauseID]
}

func newPauses() pauses {
	return pauses{make(map[pauseID]bool), limiter.NewDeadlines[pauseID](math.MaxInt), limiter.NewDeadlines[pauseID](Capacity)}
}

// note takes note of the cool-down that all who ask for the route are under.
func (p *pauses) note(ask Ask) {
	if len(ask.Pauses) == 0 {
		return
	}
	if id := (pauseID{ask.Tag, ask.Pauses[0]}); !p.routes[id] {
		p.routes[id] = true
	}
}

// until returns the end of a cool-down, which may have passed; 0 if it is not
// known.
func (p *pauses) until(id pauseID) time.Duration {
	all, _ := p.ofAll.Get(id)
	one, _ := p.ofOne.Get(id)
	return max(all, one)
}

// extend lets a cool-down last until an instant, if it does not last longer.
func (p *pauses) extend(id pauseID, until time.Duration) {
	if until <= p.until(id) {
		return
	}
	if p.routes[id] {
		p.ofAll.Set(id, until)
	} else {
		p.ofOne.Set(id, until)
	}
}

// expire forgets cool-downs that are over, and reports whether any is left.
func (p *pauses) expire(now time.Duration) (left bool) {
	p.ofAll.Expire(now)
	p.ofOne.Expire(now)
	return p.ofAll.Len()+p.ofOne.Len() > 0
}

// all yields every cool-down, in no order.
func (p *pauses) all() iter.Seq2[pauseID, time.Duration] {
	return func(yield func(pauseID, time.Duration) bool) {
		for _, some := range []*limiter.Deadlines[pauseID]{p.ofAll, p.ofOne} {
			for id, until := range some.All() {
				if !yield(id, until) {
					return
				}
			}
		}
	}
}

// cooling returns the cool-downs that are known. Whoever asks for a verdict
// meanwhile does not wait for more than a piece of it; those that come and go
// may be among them.
func (k *known) cooling() map[pauseID]time.Duration {
	const piece = 256
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make(map[pauseID]time.Duration)
	for id, until := range k.pauses.all() {
		if all[id] = until; len(all)%piece == 0 { // a map may change between two steps over it
			k.mu.Unlock()
			k.mu.Lock()
		}
	}
	return all
}

// isCallers reports whether a cool-down is one caller's.
func (k *known) isCallers(id pauseID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return id.name != "" && !k.pauses.routes[id]
}

// pausing is a cool-down that the store is to be told of.
type pausing struct {
	pauseID
	until time.Duration
}

func (r *Redis) pausing(id pauseID, until time.Duration) *task {
	class := coolings.ofCallers(r.known.isCallers(id))
	return &task{class: class, tag: id.tag, script: pauseScript, what: pausing{id, until}, forget: until}
}

func (p pausing) appendKey(b []byte) []byte { return appendPauseKey(b, p.tag, p.name) }

func (p pausing) args(c *command, now time.Duration) { c.number(millis(p.until - now)) }
