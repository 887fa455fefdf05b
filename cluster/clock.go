package cluster

import (
	"sync/atomic"
	"time"
)

// clock is that of a part of the store, as far as its replies have told. The
// zero value knows nothing.
type clock struct{ offset atomic.Int64 } // to the clock of what is known; 0 while it is not known

// set takes note of the store's time in a reply that was received at an instant.
// The store's clock has gone on since: what is computed from it errs early, and
// by no more than the reply took.
func (c *clock) set(store, received time.Duration) { c.offset.Store(int64(store - received)) }

// at returns the store's time at an instant, or 0 if it is not known.
func (c *clock) at(instant time.Duration) time.Duration {
	offset := c.offset.Load()
	if offset == 0 {
		return 0
	}
	return instant + time.Duration(offset)
}
