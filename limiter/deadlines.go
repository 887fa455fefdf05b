package limiter

import (
	"container/heap"
	"iter"
	"time"
)

// Deadlines remembers an instant for each of a bounded number of keys, and
// forgets the earliest first. Instants are durations since an epoch of the
// owner's choosing. It is not safe for concurrent use.
type Deadlines[K comparable] struct {
	capacity int
	byKey    map[K]*deadline[K]
	earliest deadlineHeap[K]
}

type deadline[K comparable] struct {
	key   K
	at    time.Duration
	index int // in the heap
}

// NewDeadlines returns Deadlines that remember at most capacity keys.
func NewDeadlines[K comparable](capacity int) *Deadlines[K] {
	return &Deadlines[K]{capacity: capacity, byKey: make(map[K]*deadline[K])}
}

// Get returns the instant remembered for key, which may have passed.
func (d *Deadlines[K]) Get(key K) (at time.Duration, ok bool) {
	e, ok := d.byKey[key]
	if !ok {
		return 0, false
	}
	return e.at, true
}

// Set remembers at for key. Where that is one key too many it forgets the
// earliest.
func (d *Deadlines[K]) Set(key K, at time.Duration) {
	if e, ok := d.byKey[key]; ok {
		e.at = at
		heap.Fix(&d.earliest, e.index)
		return
	}
	e := &deadline[K]{key: key, at: at}
	d.byKey[key] = e
	heap.Push(&d.earliest, e)
	if len(d.byKey) > d.capacity {
		d.forget()
	}
}

// Expire forgets the keys whose instant is not after now, a few at a time so
// that no single call is slow. Called once for each Set, it keeps up.
func (d *Deadlines[K]) Expire(now time.Duration) {
	const few = 4
	for range few {
		if len(d.earliest) == 0 || d.earliest[0].at > now {
			return
		}
		d.forget()
	}
}

// All yields every key and its instant, in no order.
func (d *Deadlines[K]) All() iter.Seq2[K, time.Duration] {
	return func(yield func(K, time.Duration) bool) {
		for key, e := range d.byKey {
			if !yield(key, e.at) {
				return
			}
		}
	}
}

// Len returns how many keys are remembered.
func (d *Deadlines[K]) Len() int { return len(d.byKey) }

// forget forgets the earliest.
func (d *Deadlines[K]) forget() { delete(d.byKey, heap.Pop(&d.earliest).(*deadline[K]).key) }

// deadlineHeap implements [heap.Interface].
type deadlineHeap[K comparable] []*deadline[K]

func (h deadlineHeap[K]) Len() int           { return len(h) }
func (h deadlineHeap[K]) Less(i, j int) bool { return h[i].at < h[j].at }
func (h deadlineHeap[K]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *deadlineHeap[K]) Push(x any) {
	e := x.(*deadline[K])
	e.index = len(*h)
	*h = append(*h, e)
}
func (h *deadlineHeap[K]) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}
