package cluster

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Status is a picture of what a replica knows.
type Status struct {
	Locks   []LockStatus  // of exchanges under way, the oldest first
	Pauses  []PauseStatus // cool-downs, the last to end first
	Slots   []SlotStatus  // those that exchanges of this replica have, by kind
	Waiting int           // requests that wait for budgets or slots
	Changed []Changed     // by operators, while it holds

	// What follows is empty without a store.
	Away    []AwayStatus
	Live    int // replicas, with this one; 0 while it is not known
	Peers   []Peer
	Missing []Missing
	Trip    time.Duration // of the last heartbeat to the store and back; 0 before the first one
	Renewed uint64        // locks, since the start
	Lost    uint64        // likewise
	// SlotsLost is how often a slot could not be renewed, since the store had lost
	// it and others have taken all that there are.
	SlotsLost uint64
	// Degraded is how long the store, or any part of it, was away since the start.
	Degraded time.Duration
	Faults   map[string]uint64 // asks and other calls without an answer since the start, by [FaultOf]
}

// LockStatus is a lock in flight.
type LockStatus struct {
	Tag       string
	RequestID string
	Age       time.Duration
}

// PauseStatus is a cool-down. It does not say whose.
type PauseStatus struct {
	Tag    string
	Caller bool // it is one caller's
	Left   time.Duration
}

// SlotStatus is how many slots of a kind exchanges of this replica have. It does
// not say whose.
type SlotStatus struct {
	Tag, Limit string
	Caller     bool // they are one caller's
	Used, Most int
}

// AwayStatus is a part of the store that does not answer.
type AwayStatus struct {
	Tag   string // of the routes concerned, with commas between them; empty for all
	Since time.Time
	Fault string
}

// status returns what this replica has in flight. Whoever asks for a verdict
// meanwhile does not wait for more than a piece of it.
func (k *known) status() (s Status) {
	now := k.now()
	for _, lock := range k.inFlight() {
		s.Locks = append(s.Locks, LockStatus{Tag: lock.id.tag, RequestID: lock.requestID(), Age: max(0, now-lock.admitted)})
	}
	for id, p := range k.cooling() {
		if p.until > now {
			s.Pauses = append(s.Pauses, PauseStatus{Tag: id.tag, Caller: k.isCallers(id), Left: p.until - now})
		}
	}
	s.Slots, s.Waiting = k.slotStatus()
	s.Changed = k.changed()
	slices.SortFunc(s.Locks, func(a, b LockStatus) int { return cmp.Compare(b.Age, a.Age) })
	slices.SortFunc(s.Pauses, func(a, b PauseStatus) int { return cmp.Compare(b.Left, a.Left) })
	return s
}

// Status returns what this replica has in flight, and knows of the store and of
// the others.
func (r *Redis) Status() Status {
	s := r.known.status()
	for p := range r.parts.all() {
		p.mu.Lock()
		s.Degraded = max(s.Degraded, p.lasted)
		if !p.since.IsZero() {
			s.Degraded = max(s.Degraded, p.lasted+time.Since(p.since))
			s.Away = append(s.Away, AwayStatus{Tag: p.tags.String(), Since: p.since, Fault: FaultOf(p.err)})
		}
		p.mu.Unlock()
	}
	s.Live = r.fleet.live(0)
	r.fleet.mu.Lock()
	s.Peers = slices.SortedFunc(maps.Values(r.fleet.peers), func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	s.Missing = r.fleet.missing(r.known.now())
	r.fleet.mu.Unlock()
	s.Trip = time.Duration(r.trip.Load())
	s.SlotsLost = r.counts.slotsLost.Load()
	s.Renewed, s.Lost = r.counts.renewed.Load(), r.counts.lost.Load()
	r.counts.mu.Lock()
	s.Faults = maps.Clone(r.counts.faults)
	r.counts.mu.Unlock()
	return s
}
