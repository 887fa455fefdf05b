package limiter

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestDeadlines compares random operations with a plain map.
func TestDeadlines(t *testing.T) {
	const none = -1
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0))
		capacity := 1 + random.IntN(20)
		d, want := NewDeadlines[int, int](capacity), map[int]time.Duration{}
		// forgotten removes from want what d has forgotten, which must be the
		// earliest of all but the one just set, and returns how many they were.
		forgotten := func(set int) (n int) {
			t.Helper()
			for _, key := range slices.SortedFunc(maps.Keys(want), func(a, b int) int { return cmp.Compare(want[a], want[b]) }) {
				if _, _, ok := d.Get(key); ok {
					continue
				}
				others := maps.Clone(want)
				delete(others, set)
				if key == set || want[key] != slices.Min(slices.Collect(maps.Values(others))) {
					t.Fatalf("seed %d: forgot %v of %v, having set %d", seed, want[key], want, set)
				}
				delete(want, key)
				n++
			}
			return n
		}
		for range 500 {
			key, at := random.IntN(40), below(random, time.Minute)
			if random.IntN(4) == 0 {
				latest := time.Duration(0)
				before := maps.Clone(want)
				d.Expire(at / 10)
				forgotten(none)
				for key, was := range before {
					if _, ok := want[key]; !ok {
						latest = max(latest, was)
					}
				}
				if latest > at/10 {
					t.Fatalf("seed %d: %v expired at %v", seed, latest, at/10)
				}
			} else {
				d.Set(key, at, -key)
				want[key] = at
				tooMany := max(0, len(want)-capacity)
				if n := forgotten(key); n != tooMany {
					t.Fatalf("seed %d: forgot %d, want %d", seed, n, tooMany)
				}
			}
			for key := range 40 {
				at, value, ok := d.Get(key)
				if wantAt, wantOK := want[key]; at != wantAt || ok != wantOK || ok && value != -key {
					t.Fatalf("seed %d: %d: got %v %d %t, want %v %d %t", seed, key, at, value, ok, wantAt, -key, wantOK)
				}
			}
			if d.Len() != len(want) {
				t.Fatalf("seed %d: got %d keys, want %d", seed, d.Len(), len(want))
			}
		}
		// What has passed is expired a few at a time, and in the end all of it.
		for d.Len() > 0 {
			d.Expire(time.Minute)
			if n := forgotten(none); n == 0 || n > 4 {
				t.Fatalf("seed %d: %d of %d expired at once", seed, n, d.Len())
			}
		}
	}
}
