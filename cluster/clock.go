package cluster

import (
	"sync/atomic"
	"time"
)

// clock is that of a part of the store, as far as its replies have told. The
// zero value knows nothing.
type clock struct{ best atomic.Pointer[reading] } // nil while nothing is known

// reading is what a reply has told.
type reading struct {
	offset   time.Duration // to the clock of what is known
	received time.Duration
}

// drift is by how much two clocks part in a time, at most: a thousandth, which is
// twice as fast as those of computers are corrected.
const drift = 1000

// set takes note of the store's time in a reply that was received at an instant,
// and for which nobody would have waited for longer than a timeout.
//
// The store's clock has gone on since the reply: what is computed from it errs
// early, by as long as the reply took. So the reply that took the shortest tells
// best, and is kept, while a later one is not behind it by as much as a reply can
// take: then the clock has been set back.
func (c *clock) set(store, received, timeout time.Duration) {
	offset := store - received
	best := c.best.Load()
	if best != nil {
		if behind := best.offset - offset; behind > (received-best.received)/drift && behind < timeout {
			return
		}
	}
	c.best.CompareAndSwap(best, &reading{offset, received}) // or another has come in this moment
}

// at returns the store's time at an instant, or 0 if it is not known.
func (c *clock) at(instant time.Duration) time.Duration {
	best := c.best.Load()
	if best == nil {
		return 0
	}
	return instant + best.offset
}
