package integration

import (
	"testing"
)

// What replicas know of each other.

// registered returns the ids of the replicas that have registered themselves,
// with the times of their latest heartbeats.
func (f *fleet) registered(t *testing.T) map[string]float64 {
	t.Helper()
	beats := map[string]float64{}
	members, err := f.redis.ZRangeWithScores(t.Context(), "throttle:1:replicas", 0, -1).Result()
	if err != nil {
		t.Error(err)
	}
	for _, m := range members {
		beats[m.Member.(string)] = m.Score
	}
	return beats
}

// awaitBeats returns once each of n replicas knows that there are n.
func (f *fleet) awaitBeats(t *testing.T, n int) {
	t.Helper()
	for range 3 { // a heartbeat after all were there, one more, and that one's answer was read
		var before map[string]float64
		eventually(t, "all replicas have registered", func() bool {
			before = f.registered(t)
			return len(before) == n
		})
		eventually(t, "each has another heartbeat", func() bool {
			for id, at := range f.registered(t) {
				if at <= before[id] {
					return false
				}
			}
			return true
		})
	}
}
