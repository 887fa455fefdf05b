package cluster

import "sync/atomic"

// epochs tell whether asks are still under way that began before something was
// changed, which each looks at only after it has entered. The zero value is of no
// asks.
type epochs struct {
	now   atomic.Uint32
	under [2]atomic.Int64 // asks, by whether they entered in an even epoch or an odd one
}

// enter counts an ask, until leave is called with what it returns.
func (e *epochs) enter() (epoch uint32) {
	for {
		epoch = e.now.Load()
		e.under[epoch%2].Add(1)
		if e.now.Load() == epoch {
			return epoch
		}
		e.under[epoch%2].Add(-1) // it has ended meanwhile, and may be waited for
	}
}

func (e *epochs) leave(epoch uint32) { e.under[epoch%2].Add(-1) }

// end ends the epoch. The one before must be over.
func (e *epochs) end() { e.now.Add(1) }

// over reports whether nothing is under way that began before the last end.
func (e *epochs) over() bool { return e.under[(e.now.Load()+1)%2].Load() == 0 }
