package limiter

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestDeadlines compares random operations with a plain map.
func TestDeadlines(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0))
		capacity := 1 + random.IntN(20)
		d, want := NewDeadlines[int](capacity), map[int]time.Duration{}
		// gone removes what d says that it forgot, which must be the earliest.
		gone := func(key int) {
			t.Helper()
			at, ok := want[key]
			if earliest := slices.Min(slices.Collect(maps.Values(want))); !ok || at != earliest {
				t.Fatalf("seed %d: forgot %d of %v, want one of %v", seed, key, at, earliest)
			}
			delete(want, key)
		}
		for range 500 {
			key, at := random.IntN(40), below(random, time.Minute)
			switch random.IntN(5) {
			case 0:
				d.Delete(key)
				delete(want, key)
			case 1:
				for _, key := range d.Expire(at / 10) {
					if want[key] > at/10 {
						t.Fatalf("seed %d: %v expired at %v", seed, want[key], at/10)
					}
					gone(key)
				}
			default:
				forgotten, forgot := d.Set(key, at)
				want[key] = at
				if forgot != (len(want) > capacity) {
					t.Fatalf("seed %d: %d of %d keys: got forgot %t", seed, len(want), capacity, forgot)
				}
				if forgot {
					gone(forgotten)
				}
			}
			for key := range 40 {
				at, ok := d.Get(key)
				if wantAt, wantOK := want[key]; at != wantAt || ok != wantOK {
					t.Fatalf("seed %d: %d: got %v %t, want %v %t", seed, key, at, ok, wantAt, wantOK)
				}
			}
			if d.Len() != len(want) {
				t.Fatalf("seed %d: got %d keys, want %d", seed, d.Len(), len(want))
			}
		}
		// What has passed is expired a few at a time, and in the end all of it.
		for d.Len() > 0 {
			expired := d.Expire(time.Minute)
			if len(expired) == 0 || len(expired) > 4 {
				t.Fatalf("seed %d: %d of %d expired at once", seed, len(expired), d.Len())
			}
			for _, key := range expired {
				gone(key)
			}
		}
	}
}
