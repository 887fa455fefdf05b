package cluster

import "time"

// observer tells of changes, in their order, on a goroutine of its own: whoever
// finds one waits for nobody. Where changes come faster than they are taken,
// more than a thousand at once, the last are dropped.
type observer struct {
	changes chan Change
	closing chan struct{}
	closed  chan struct{}
}

func newObserver() observer {
	return observer{make(chan Change, 1000), make(chan struct{}), make(chan struct{})}
}

// tell tells of change, and reports whether that was not dropped.
func (o *observer) tell(change Change) (told bool) {
	select {
	case o.changes <- change:
		return true
	default:
		return false
	}
}

// run calls observe for each change until the observer is closed, and then for
// those that are left.
func (o *observer) run(observe func(Change)) {
	defer close(o.closed)
	for {
		select {
		case change := <-o.changes:
			observe(change)
		case <-o.closing:
			for len(o.changes) > 0 {
				observe(<-o.changes)
			}
			return
		}
	}
}

// close waits until all has been told, or for patience.
func (o *observer) close(patience time.Duration) {
	close(o.closing)
	select {
	case <-o.closed:
	case <-time.After(patience):
	}
}
