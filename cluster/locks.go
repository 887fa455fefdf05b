package cluster

import "time"

// locks are those that a replica knows of: of exchanges in flight, and of those
// that are over, the holds that have not ended. It is not safe for concurrent
// use.
type locks struct {
	known    map[lockID]*lock
	inFlight []*lock // in no order
	holds    []*holdQueue
	held     int   // in all queues
	answers  int64 // bytes of those that are kept with them
}

// holdQueue has the holds of one length, so that the first to begin is the first
// to end. There are as many as routes have different ones, which is few.
type holdQueue struct {
	length      time.Duration
	first, last *lock
}

// get returns the lock of an id, or nil if there is none.
func (l *locks) get(id lockID, now time.Duration) *lock {
	lock := l.known[id]
	if lock == nil || lock.held() && (lock.until <= now || lock.passed) {
		return nil
	}
	return lock
}

// mark returns what a flight of an id has left for those who came before it began,
// or nil.
func (l *locks) mark(id lockID, now time.Duration) *lock {
	lock := l.known[id]
	if lock == nil || !lock.passed || lock.until <= now {
		return nil
	}
	return lock
}

// add makes lock known as in flight, in place of one that get does not return.
func (l *locks) add(lock *lock) {
	l.known[lock.id] = lock
	lock.index = int32(len(l.inFlight))
	l.inFlight = append(l.inFlight, lock)
}

// end ends the flight of lock, and holds it for a time unless that is 0. Beyond
// Capacity it forgets the hold that would end first.
func (l *locks) end(lock *lock, now, hold time.Duration) {
	last := len(l.inFlight) - 1
	moved := l.inFlight[last]
	l.inFlight[lock.index], moved.index = moved, lock.index
	l.inFlight[last] = nil
	l.inFlight = l.inFlight[:last]
	if hold <= 0 {
		delete(l.known, lock.id)
		return
	}
	lock.until = now + hold
	q := l.queueOf(hold)
	if q.first == nil {
		q.first = lock
	} else {
		q.last.next = lock
	}
	q.last = lock
	if l.held++; l.held > Capacity {
		l.forget(l.soonest())
	}
}

// queueOf returns that of holds of a length.
func (l *locks) queueOf(length time.Duration) *holdQueue {
	for _, q := range l.holds {
		if q.length == length {
			return q
		}
	}
	q := &holdQueue{length: length}
	l.holds = append(l.holds, q)
	return q
}

// soonest returns the queue whose first hold ends before all others, or nil if
// there is no hold.
func (l *locks) soonest() (soonest *holdQueue) {
	for _, q := range l.holds {
		if q.first != nil && (soonest == nil || q.first.until < soonest.first.until) {
			soonest = q
		}
	}
	return soonest
}

// expire forgets holds that have ended, a few at a time so that no single call
// is slow. Called once for each end, it keeps up.
func (l *locks) expire(now time.Duration) {
	const few = 4
	for range few {
		q := l.soonest()
		if q == nil || q.first.until > now {
			return
		}
		l.forget(q)
	}
}

// forget forgets the first hold of q.
func (l *locks) forget(q *holdQueue) {
	lock := q.first
	q.first, lock.next = lock.next, nil
	l.held--
	if l.known[lock.id] == lock { // or another's by now
		delete(l.known, lock.id)
	}
	if lock.flight != nil {
		l.answers -= int64(len(lock.flight.ending.Answer))
		lock.flight = nil
	}
}
