package cluster

import (
	"crypto/rand"
	"math"
	"slices"
	"strconv"
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
// rounded down, but at least one of some.
func (s Slot) share(n int) Slot {
	s.Most = max(min(1, s.Most), s.Most/n)
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
	over  bool  // it is not among them: it was not yet, or is no longer
	used  bool  // this replica counts them
}

func newTaken(ask Ask) *taken {
	if len(ask.Slots) == 0 {
		return nil
	}
	return &taken{tag: ask.Tag, slots: ask.Slots, over: true}
}

// toStore gives the slots what a store is to know them by: a token that tells, in
// milliseconds, for how long each renewal is, at most.
func (t *taken) toStore(ttl time.Duration) {
	t.token = strconv.FormatInt(ttl.Milliseconds(), 10) + "-" + rand.Text()
	t.stored.Store(true)
}

// slots are those that exchanges of this replica have, and who waits for some.
// Guarded by known.mu.
type slots struct {
	used     map[string]int // by key
	inFlight []*taken       // in no order
	turns    map[string]*turns
}

// turns are those that wait for slots of a kind, in the order in which they came.
type turns struct {
	waiters []*waiter
	asked   time.Duration // when one of them has asked for the last time
}

func newSlots() slots {
	return slots{used: make(map[string]int), turns: make(map[string]*turns)}
}

func (s *slots) add(t *taken) {
	t.index, t.over, t.used = int32(len(s.inFlight)), false, true
	s.inFlight = append(s.inFlight, t)
	for _, slot := range t.slots {
		s.used[slot.key(t.tag)]++
	}
}

// end ends the exchange of t, whose slots are renewed no longer.
func (s *slots) end(t *taken) {
	if t == nil || t.over {
		return
	}
	t.over = true
	last := len(s.inFlight) - 1
	moved := s.inFlight[last]
	s.inFlight[t.index], moved.index = moved, t.index
	s.inFlight[last] = nil
	s.inFlight = s.inFlight[:last]
}

// free frees the slots of t, whose exchange has ended, and calls those that wait
// for them.
func (s *slots) free(t *taken) {
	if t == nil || !t.used {
		return
	}
	t.used = false
	for _, slot := range t.slots {
		key := slot.key(t.tag)
		if s.used[key]--; s.used[key] == 0 {
			delete(s.used, key)
		}
		s.turns[key].call()
	}
}

// full returns which of the slots that are wanted is the first of which this
// replica has taken as many as there are, or -1.
func (s *slots) full(tag string, wanted []Slot) (which int) {
	return slices.IndexFunc(wanted, func(slot Slot) bool { return s.used[slot.key(tag)] >= slot.Most })
}

// behind returns what ask wants where others already wait for the same: none of
// those slots, so that it waits after them.
func (k *known) behind(ask Ask) Ask {
	if len(ask.Slots) == 0 {
		return ask
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.slots.turns) == 0 {
		return ask
	}
	copied := false
	for i, slot := range ask.Slots {
		if k.slots.turns[slot.key(ask.Tag)] == nil {
			continue
		}
		if !copied {
			ask.Slots, copied = slices.Clone(ask.Slots), true
		}
		ask.Slots[i].Most = 0
	}
	return ask
}

// queue has w wait for slots of a kind, after those that do. It does nothing if w
// is one of them.
func (s *slots) queue(w *waiter, key string, now time.Duration) {
	if w.turn == key {
		w.asks = false
		return
	}
	s.leave(w)
	t := s.turns[key]
	if t == nil {
		t = &turns{asked: now}
		s.turns[key] = t
	}
	w.turn, t.waiters = key, append(t.waiters, w)
}

// leave has w wait for no slots, and passes on what it has not used: a call, or what
// it has asked for.
func (s *slots) leave(w *waiter) {
	t := s.turns[w.turn]
	if t == nil {
		return
	}
	i := slices.Index(t.waiters, w)
	t.waiters = slices.Delete(t.waiters, i, i+1)
	switch {
	case len(t.waiters) == 0:
		delete(s.turns, w.turn)
	case w.called || w.asks && w.spare:
		t.call()
	case i == 0:
		t.waiters[0].stir() // it is the one that asks now and then
	}
	w.turn, w.called, w.asks = "", false, false
}

// call lets the first of those that wait and do not ask yet ask whether a slot is
// free.
func (t *turns) call() {
	if t == nil {
		return
	}
	i := max(0, slices.IndexFunc(t.waiters, func(w *waiter) bool { return !w.called && !w.asks }))
	t.waiters[i].called = true
	t.waiters[i].stir()
}

// mayAsk returns when w is to ask for slots again. It is to ask now where it was
// called, and now and then if it is the first, unless this replica has taken all
// that there are: then one of its own has to end.
func (s *slots) mayAsk(w *waiter, slot Slot, now time.Duration) (when time.Duration) {
	t := s.turns[w.turn]
	when = math.MaxInt64
	if t.waiters[0] == w && s.used[w.turn] < slot.Most {
		when = t.asked + s.askedAgain()
	}
	if !w.called && now < when {
		return when
	}
	t.asked, w.called, w.asks, w.spare = now, false, true, !w.called
	return now
}

const (
	// slotAskedAgain is how long the first of those that wait for a slot waits for
	// one of this replica's own to end, before it asks whether another's has.
	slotAskedAgain = 100 * time.Millisecond
	// slotsAsked is how many kinds of slots a replica asks for as often; where it
	// waits for more, it asks less often for each.
	slotsAsked = 50
)

func (s *slots) askedAgain() time.Duration {
	return slotAskedAgain * time.Duration(max(slotsAsked, len(s.turns))) / slotsAsked
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
	return slices.Clone(k.slots.inFlight)
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
	inFlight, waiting := slices.Clone(k.slots.inFlight), len(k.waiting.all)
	k.mu.Unlock()
	which := make(map[string]int) // of all, by key
	for _, t := range inFlight {
		for _, slot := range t.slots {
			key := slot.key(t.tag)
			i, ok := which[key]
			if !ok {
				i = len(all)
				all = append(all, SlotStatus{Tag: t.tag, Limit: slot.Name, Caller: slot.Caller != ""})
				which[key] = i
			}
			all[i].Used++
			all[i].Most = slot.Most
		}
	}
	return all, waiting
}
