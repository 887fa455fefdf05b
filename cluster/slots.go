package cluster

import (
	"crypto/rand"
	"sync/atomic"
	"time"
)

// Slot is one of the exchanges that a concurrency limit allows at once, over all
// replicas.
type Slot struct {
	Name   string // of the limit, unique within the tag among those of slots
	Caller string // whose slots they are, as a digest; empty where all callers share them
	Most   int    // how many there are, at least 1
}

// appendKey appends the key of all slots of s's kind.
func (s Slot) appendKey(b []byte, tag string) []byte {
	b = append(append(appendTag(b, tag), ":slots:"...), s.Name...)
	if s.Caller != "" {
		b = append(append(b, ':'), s.Caller...)
	}
	return b
}

func (s Slot) key(tag string) string { return string(s.appendKey(nil, tag)) }

// share is what one of n replicas that cannot ask each other has of s: a part
// rounded down, but at least one.
func (s Slot) share(n int) Slot {
	s.Most = max(1, s.Most/n)
	return s
}

// taken is the slots of one exchange, one of each kind. In a store each is the
// member token of a set, which expires unless it is renewed.
type taken struct {
	tag    string
	slots  []Slot
	token  string
	stored atomic.Bool // the store may have them

	// Guarded by known.mu.
	index int32 // among those in flight
	over  bool  // or were never in flight
}

func newTaken(ask Ask) *taken {
	if len(ask.Slots) == 0 {
		return nil
	}
	return &taken{tag: ask.Tag, slots: ask.Slots, token: rand.Text(), over: true}
}

// slots are those that exchanges of this replica have. Guarded by known.mu.
type slots struct {
	used     map[string]int // by key
	inFlight []*taken       // in no order
	turns    map[string][]*waiter
}

func newSlots() slots {
	return slots{used: make(map[string]int), turns: make(map[string][]*waiter)}
}

func (s *slots) add(t *taken) {
	t.index, t.over = int32(len(s.inFlight)), false
	s.inFlight = append(s.inFlight, t)
	for _, slot := range t.slots {
		s.used[slot.key(t.tag)]++
	}
}

// end ends the exchange of t, and has those asked again that wait for its slots.
func (s *slots) end(t *taken) {
	if t.over {
		return
	}
	t.over = true
	last := len(s.inFlight) - 1
	moved := s.inFlight[last]
	s.inFlight[t.index], moved.index = moved, t.index
	s.inFlight[last] = nil
	s.inFlight = s.inFlight[:last]
	for _, slot := range t.slots {
		key := slot.key(t.tag)
		if s.used[key]--; s.used[key] == 0 {
			delete(s.used, key)
		}
		if turns := s.turns[key]; len(turns) > 0 {
			turns[0].stir()
		}
	}
}

// full returns the first kind of slots of which this replica has taken as many as
// there are, or "".
func (s *slots) full(tag string, wanted []Slot) (key string) {
	for _, slot := range wanted {
		if key := slot.key(tag); s.used[key] >= slot.Most {
			return key
		}
	}
	return ""
}

// queue has w wait for slots of a kind, after those that do. It does nothing if w
// is one of them.
func (s *slots) queue(w *waiter, key string) {
	if w.turn != key {
		s.leave(w)
		w.turn, s.turns[key] = key, append(s.turns[key], w)
	}
}

// isNext reports whether w is the one that asks for those that wait.
func (s *slots) isNext(w *waiter) bool { return w.turn != "" && s.turns[w.turn][0] == w }

// leave has w wait for no slots, and the next one ask if it was w's turn.
func (s *slots) leave(w *waiter) {
	turns := s.turns[w.turn]
	for i := range turns {
		if turns[i] != w {
			continue
		}
		turns = append(turns[:i:i], turns[i+1:]...)
		if s.turns[w.turn] = turns; len(turns) == 0 {
			delete(s.turns, w.turn)
		} else if i == 0 {
			turns[0].stir()
		}
		break
	}
	w.turn = ""
}

// freeing are the tasks to free t's slots in the store.
func (r *Redis) freeing(t *taken) (tasks []*task) {
	if t == nil || !t.stored.Load() {
		return nil
	}
	forget := r.known.now() + r.options.LockTTL
	for _, slot := range t.slots {
		tasks = append(tasks, &task{class: endings, tag: t.tag, script: freeSlotsScript, what: freedSlot{slot, t}, forget: forget})
	}
	return tasks
}

// freedSlot is a slot whose exchange is over.
type freedSlot struct {
	Slot
	of *taken
}

func (f freedSlot) appendKey(b []byte) []byte        { return f.Slot.appendKey(b, f.of.tag) }
func (f freedSlot) args(c *command, _ time.Duration) { c.arg(f.of.token) }

// renewedSlot is a slot that is kept for another TTL.
type renewedSlot struct {
	freedSlot
	ttl, timeout time.Duration
	clock        *clock // of the part of the store that has it
}

func (s renewedSlot) args(c *command, now time.Duration) {
	c.arg(s.of.token)
	c.number(s.ttl.Milliseconds())
	c.number(int64(s.Most))
	c.number(s.clock.at(now + s.timeout).Microseconds())
}

// slotsInFlight returns the slots whose exchanges are under way, each of which the
// store may have from here on.
func (k *known) slotsInFlight() []*taken {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range k.slots.inFlight {
		t.stored.Store(true)
	}
	return append([]*taken(nil), k.slots.inFlight...)
}

// renewSlots renews all slots whose exchanges are under way, and reports whether
// the store answered.
func (r *Redis) renewSlots() (answered bool) {
	all := r.known.slotsInFlight()
	var calls []call
	for _, t := range all {
		p := r.partOf(t.tag)
		for _, slot := range t.slots {
			what := renewedSlot{freedSlot{slot, t}, r.options.LockTTL, r.options.Timeout, &p.clock}
			calls = append(calls, call{part: p, tag: t.tag, script: renewSlotsScript, what: what})
		}
	}
	r.pipeline(calls)
	answered = true
	for _, c := range calls {
		switch {
		case c.err == nil && c.result == 0:
			r.counts.slotsLost.Add(1)
		case c.err != nil && c.err != errAway && FaultOf(c.err) != faultWrongType:
			answered = false
		}
	}
	// One that has ended meanwhile may have been taken again after it was freed.
	var again []*task
	r.known.mu.Lock()
	for _, t := range all {
		if t.over {
			again = append(again, r.freeing(t)...)
		}
	}
	r.known.mu.Unlock()
	r.queue.add(again...)
	return answered
}

// usedOf returns how many slots of each of the ask's kinds this replica has taken.
func (s *slots) usedOf(ask Ask) (used []int) {
	for _, slot := range ask.Slots {
		used = append(used, s.used[slot.key(ask.Tag)])
	}
	return used
}

// slotStatus returns what slots exchanges have, and how many requests wait.
func (k *known) slotStatus() (all []SlotStatus, waiting int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	seen := make(map[string]bool, len(k.slots.used))
	for _, t := range k.slots.inFlight {
		for _, slot := range t.slots {
			key := slot.key(t.tag)
			if seen[key] {
				continue
			}
			seen[key] = true
			all = append(all, SlotStatus{Tag: t.tag, Limit: slot.Name, Caller: slot.Caller != "", Used: k.slots.used[key], Most: slot.Most})
		}
	}
	return all, len(k.waiting)
}
