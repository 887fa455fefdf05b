package cluster

import (
	"testing"
	"time"

	"throttle-proxy/limiter"
)

// What was spent under one limit stays spent under another, in requests, and is
// told once: by a restart, and by two replicas side by side.
func TestRedis_ChangedLimits(t *testing.T) {
	for name, test := range map[string]struct {
		was, is  string
		spent    int
		longest  time.Duration // until the next is admitted
		told, of string
	}{
		"a raise":          {"1/10s", "10/s,burst=20", 1, 0, "10/s burst 20", "6/m burst 1"},
		"a raise, spent":   {"100/h", "1000/h,burst=100", 100, 3600 * time.Millisecond, "1000/h burst 100", "100/h burst 100"},
		"from 1/m":         {"1/m", "1/s,burst=1", 1, time.Second, "1/s burst 1", "1/m burst 1"},
		"days to hours":    {"1000/d", "1000/h", 300, 0, "1000/h burst 1000", "1000/d burst 1000"},
		"a cut":            {"10/m,burst=5", "1/m,burst=5", 3, 0, "1/m burst 5", "10/m burst 5"},
		"a cut, and spent": {"10/m,burst=5", "1/m,burst=2", 5, 24 * time.Second, "1/m burst 2", "10/m burst 5"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRedis(t)
			old := join(t, server.URL(), Options{})
			for range test.spent {
				admit(t, old, unlocked(charge("slack", test.was)))
			}
			told := newChanges()
			r := join(t, server.URL(), Options{Observe: told.observe})
			v := ask(t, r, unlocked(charge("slack", test.is)))
			change := told.next(t, LimitChanged)
			if change.Tag != "slack" || change.Limit != "slack" || change.Is != test.told || change.Was != test.of {
				t.Errorf("got %+v, want %s, was %s", change, test.told, test.of)
			}
			if next := v.Decisions[0].NextAfter; test.longest == 0 && v.Outcome != Admitted || test.longest > 0 && (v.Outcome != Limited || next > test.longest) {
				t.Errorf("got %+v, want the next within %v", v, test.longest)
			}
			// Side by side each finds the other's again.
			ask(t, old, unlocked(charge("slack", test.was)))
			ask(t, join(t, server.URL(), Options{}), unlocked(charge("slack", test.is)))
			ask(t, r, unlocked(charge("slack", test.is)))
			told.none(t)
		})
	}
}

// A change that nobody took was not told.
func TestRedis_ChangedLimitThatWasDroppedIsToldTheNextTime(t *testing.T) {
	r := &Redis{changes: newObserver()}
	for r.changes.tell(Change{Kind: LockLost}) {
	}
	found := func() {
		r.tellLimitChanges(unlocked(charge("slack", "1/s")), []limiter.Former{{Interval: time.Minute, Furthest: 1}})
	}
	found()
	for len(r.changes.changes) > 0 {
		if change := <-r.changes.changes; change.Kind == LimitChanged {
			t.Fatalf("got %+v, want it dropped", change)
		}
	}
	for range 3 {
		found()
	}
	if n := len(r.changes.changes); n != 1 || (<-r.changes.changes).Kind != LimitChanged {
		t.Errorf("got %d changes, want one of a limit", n)
	}
}
