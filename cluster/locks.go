package cluster

import (
	"container/heap"
	"time"
)

// locks are those that a replica knows of: of exchanges in flight, and of those
// that are over, the holds that have not ended. It is not safe for concurrent
// use.
type locks struct {
	known    map[lockID]*Lock
	inFlight []*Lock // in no order
	held     holds
}

// holds implements [heap.Interface]: the first is the first to end.
type holds []*Lock

// get returns the lock of an id, or nil if there is none.
func (l *locks) get(id lockID, now time.Duration) *Lock {
	lock := l.known[id]
	if lock == nil || lock.held && lock.until <= now {
		return nil
	}
	return lock
}

// add makes lock known as in flight. There is no other of its id.
func (l *locks) add(lock *Lock) {
	if over := l.known[lock.id]; over != nil {
		heap.Remove(&l.held, over.index) // which nobody has expired yet
	}
	l.known[lock.id] = lock
	lock.index = len(l.inFlight)
	l.inFlight = append(l.inFlight, lock)
}

// end ends the flight of lock, and holds it until an instant unless that is 0.
// Beyond Capacity it forgets the hold that would end first.
func (l *locks) end(lock *Lock, until time.Duration) {
	last := len(l.inFlight) - 1
	moved := l.inFlight[last]
	l.inFlight[lock.index], moved.index = moved, lock.index
	l.inFlight[last] = nil
	l.inFlight = l.inFlight[:last]
	if until == 0 {
		delete(l.known, lock.id)
		return
	}
	lock.held, lock.until = true, until
	heap.Push(&l.held, lock)
	if len(l.held) > Capacity {
		l.forget()
	}
}

// expire forgets holds that have ended, a few at a time so that no single call
// is slow. Called once for each end, it keeps up.
func (l *locks) expire(now time.Duration) {
	const few = 4
	for range few {
		if len(l.held) == 0 || l.held[0].until > now {
			return
		}
		l.forget()
	}
}

// forget forgets the hold that ends first.
func (l *locks) forget() { delete(l.known, heap.Pop(&l.held).(*Lock).id) }

func (h holds) Len() int           { return len(h) }
func (h holds) Less(i, j int) bool { return h[i].until < h[j].until }
func (h holds) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *holds) Push(x any) {
	lock := x.(*Lock)
	lock.index = len(*h)
	*h = append(*h, lock)
}
func (h *holds) Pop() any {
	last := len(*h) - 1
	lock := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return lock
}
