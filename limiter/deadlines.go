package limiter

import (
	"container/heap"
	"iter"
	"time"
)

// Deadlines remembers an instant and a value for each of a bounded number of keys,
// and forgets the earliest first, but never the one just set. Instants are durations
// since an epoch of the owner's choosing. It is not safe for concurrent use.
type Deadlines[K comparable, V any] struct{ line *timeline[K, V] }

// NewDeadlines returns Deadlines that remember at most capacity keys.
func NewDeadlines[K comparable, V any](capacity int) *Deadlines[K, V] {
	return &Deadlines[K, V]{newTimeline[K, V](capacity)}
}

// Get returns what is remembered for key; the instant may have passed.
func (d *Deadlines[K, V]) Get(key K) (at time.Duration, value V, ok bool) {
	m := d.line.get(key)
	if m == nil {
		return 0, value, false
	}
	return m.at, m.value, true
}

// Set remembers at and value for key. Where that is one key too many it forgets the
// earliest of the others.
func (d *Deadlines[K, V]) Set(key K, at time.Duration, value V) {
	d.line.begin()
	d.line.set(d.line.get(key), key, at, value)
}

// Expire forgets the keys whose instant is not after now, a few at a time so
// that no single call is slow. Called once for each Set, it keeps up.
func (d *Deadlines[K, V]) Expire(now time.Duration) { d.line.expire(now) }

// All yields every key and its instant, in no order.
func (d *Deadlines[K, V]) All() iter.Seq2[K, time.Duration] { return d.line.all() }

// Len returns how many keys are remembered.
func (d *Deadlines[K, V]) Len() int { return len(d.line.byKey) }

// timeline is Deadlines with several keys to a turn.
type timeline[K comparable, V any] struct {
	capacity int
	turn     uint64
	byKey    map[K]*moment[K, V]
	earliest moments[K, V]
}

type moment[K comparable, V any] struct {
	key   K
	at    time.Duration
	value V
	turn  uint64 // in which it was last set or kept
	index int    // in the heap
}

func newTimeline[K comparable, V any](capacity int) *timeline[K, V] {
	return &timeline[K, V]{capacity: capacity, byKey: make(map[K]*moment[K, V])}
}

// get returns what is remembered for key, or nil.
func (t *timeline[K, V]) get(key K) *moment[K, V] { return t.byKey[key] }

// begin begins a turn. What is set or kept from here on is not forgotten by set
// before the next.
func (t *timeline[K, V]) begin() { t.turn++ }

// keep keeps m, which may be nil.
func (t *timeline[K, V]) keep(m *moment[K, V]) {
	if m != nil {
		m.turn = t.turn
	}
}

// set remembers at and value for key. m is what [timeline.get] has returned for
// it, and nothing was set since, or it was kept.
func (t *timeline[K, V]) set(m *moment[K, V], key K, at time.Duration, value V) {
	if m != nil {
		m.at, m.value, m.turn = at, value, t.turn
		heap.Fix(&t.earliest, m.index)
		return
	}
	m = &moment[K, V]{key: key, at: at, value: value, turn: t.turn}
	t.byKey[key] = m
	heap.Push(&t.earliest, m)
	if len(t.byKey) > t.capacity {
		t.makeRoom()
	}
}

// makeRoom forgets the earliest that was neither set nor kept in this turn.
func (t *timeline[K, V]) makeRoom() {
	var spared []*moment[K, V]
	for len(t.earliest) > 0 {
		m := heap.Pop(&t.earliest).(*moment[K, V])
		if m.turn != t.turn {
			delete(t.byKey, m.key)
			break
		}
		spared = append(spared, m)
	}
	for _, m := range spared {
		heap.Push(&t.earliest, m)
	}
}

func (t *timeline[K, V]) expire(now time.Duration) {
	const few = 4
	for range few {
		if len(t.earliest) == 0 || t.earliest[0].at > now {
			return
		}
		delete(t.byKey, heap.Pop(&t.earliest).(*moment[K, V]).key)
	}
}

func (t *timeline[K, V]) all() iter.Seq2[K, time.Duration] {
	return func(yield func(K, time.Duration) bool) {
		for key, m := range t.byKey {
			if !yield(key, m.at) {
				return
			}
		}
	}
}

// moments implements [heap.Interface].
type moments[K comparable, V any] []*moment[K, V]

func (h moments[K, V]) Len() int           { return len(h) }
func (h moments[K, V]) Less(i, j int) bool { return h[i].at < h[j].at }
func (h moments[K, V]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *moments[K, V]) Push(x any) {
	m := x.(*moment[K, V])
	m.index = len(*h)
	*h = append(*h, m)
}
func (h *moments[K, V]) Pop() any {
	last := len(*h) - 1
	m := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return m
}
