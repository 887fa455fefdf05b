package cluster

import (
	"iter"
	"math"
	"time"

	"throttle-proxy/limiter"
)

// pauseID is what a cool-down is known by.
type pauseID struct{ tag, name string }

// coolDown is a cool-down, as it is known.
type coolDown struct {
	until  time.Duration // which may have passed; 0 if it is not known
	status int           // with which the upstream has asked for it
}

// coolsDown makes v tell of p at an instant, if it lasts longer than what v tells of.
func (v *Verdict) coolsDown(p coolDown, now time.Duration) {
	if wait := p.until - now; wait > v.Wait {
		v.Wait, v.Status = wait, p.status
	}
}

// pauses are the cool-downs that a replica knows of, by their ends. It is not
// safe for concurrent use.
//
// There are as many callers' as clients like, so that beyond Capacity those are
// forgotten that end first. Of those that all callers are under there is one a
// route, and none is forgotten: they are the ones that asks name first.
type pauses struct {
	routes       map[pauseID]bool                 // named first by some ask
	ofAll, ofOne *limiter.Deadlines[pauseID, int] // with their status
}

func newPauses() pauses {
	return pauses{make(map[pauseID]bool), limiter.NewDeadlines[pauseID, int](math.MaxInt), limiter.NewDeadlines[pauseID, int](Capacity)}
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

// get returns a cool-down; the zero one if it is not known.
func (p *pauses) get(id pauseID) coolDown {
	all, status, _ := p.ofAll.Get(id)
	if one, ofOne, _ := p.ofOne.Get(id); one > all {
		return coolDown{one, ofOne}
	}
	return coolDown{all, status}
}

// extend lets a cool-down last as long as its extension, and reports whether it
// did not already.
func (p *pauses) extend(id pauseID, by coolDown) (extended bool) {
	if by.until <= p.get(id).until {
		return false
	}
	if p.routes[id] {
		p.ofAll.Set(id, by.until, by.status)
	} else {
		p.ofOne.Set(id, by.until, by.status)
	}
	return true
}

// expire forgets cool-downs that are over, and reports whether any is left.
func (p *pauses) expire(now time.Duration) (left bool) {
	p.ofAll.Expire(now)
	p.ofOne.Expire(now)
	return p.ofAll.Len()+p.ofOne.Len() > 0
}

// all yields every cool-down, in no order.
func (p *pauses) all() iter.Seq2[pauseID, coolDown] {
	return func(yield func(pauseID, coolDown) bool) {
		for _, some := range []*limiter.Deadlines[pauseID, int]{p.ofAll, p.ofOne} {
			for id := range some.All() {
				if !yield(id, p.get(id)) {
					return
				}
			}
		}
	}
}

// cooling returns the cool-downs that are known. Whoever asks for a verdict
// meanwhile does not wait for more than a piece of it; those that come and go
// may be among them.
func (k *known) cooling() map[pauseID]coolDown {
	const piece = 256
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make(map[pauseID]coolDown)
	for id, p := range k.pauses.all() {
		if all[id] = p; len(all)%piece == 0 { // a map may change between two steps over it
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
	coolDown
}

func (r *Redis) pausing(id pauseID, p coolDown) *task {
	class := coolings.ofCallers(r.known.isCallers(id))
	return &task{class: class, tag: id.tag, script: pauseScript, what: pausing{id, p}, forget: p.until}
}

func (p pausing) appendKey(b []byte) []byte { return appendPauseKey(b, p.tag, p.name) }

func (p pausing) args(c *command, now time.Duration) {
	c.number(millis(p.until - now))
	c.number(int64(p.status))
}
