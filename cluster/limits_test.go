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
		wait     time.Duration // for it, before and after
	}{
		"a raise":          {"1/10s", "10/s,burst=20", 1, 0, "10/s burst 20", "6/m burst 1", 0},
		"a raise, spent":   {"100/h", "1000/h,burst=100", 100, 3600 * time.Millisecond, "1000/h burst 100", "100/h burst 100", 0},
		"from 1/m":         {"1/m", "1/s,burst=1", 1, time.Second, "1/s burst 1", "1/m burst 1", 0},
		"days to hours":    {"1000/d", "1000/h", 300, 0, "1000/h burst 1000", "1000/d burst 1000", 0},
		"a cut":            {"10/m,burst=5", "1/m,burst=5", 3, 0, "1/m burst 5", "10/m burst 5", 0},
		"a cut, and spent": {"10/m,burst=5", "1/m,burst=2", 5, 24 * time.Second, "1/m burst 2", "10/m burst 5", 0},
		"with a wait":      {"10/m,burst=5", "1/m,burst=5", 3, 0, "1/m burst 5", "10/m burst 5", time.Hour},
		"to a strict one":  {"10/m", "10/m,strict", 1, 7 * time.Second, "10/m,strict burst 1", "10/m burst 10", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startRedis(t)
			old := join(t, server.URL(), Options{})
			was, is := charge("slack", test.was), charge("slack", test.is)
			was.Wait, is.Wait = test.wait, test.wait
			for range test.spent {
				admit(t, old, unlocked(was))
			}
			told := newChanges()
			r := join(t, server.URL(), Options{Observe: told.observe})
			v := ask(t, r, unlocked(is))
			change := told.next(t, LimitChanged)
			if change.Tag != "slack" || change.Limit != "slack" || change.Is != test.told || change.Was != test.of {
				t.Errorf("got %+v, want %s, was %s", change, test.told, test.of)
			}
			if next := v.Decisions[0].NextAfter; test.longest == 0 && v.Outcome != Admitted || test.longest > 0 && (v.Outcome != Limited || next > test.longest) {
				t.Errorf("got %+v, want the next within %v", v, test.longest)
			}
			// Side by side each finds the other's again.
			ask(t, old, unlocked(was))
			ask(t, join(t, server.URL(), Options{}), unlocked(is))
			ask(t, r, unlocked(is))
			told.none(t)
		})
	}
}

// A wait is no limit: another is told of none.
func TestRedis_ChangedWaitIsNoChangedLimit(t *testing.T) {
	server := startRedis(t)
	told := newChanges()
	r := join(t, server.URL(), Options{Observe: told.observe})
	for _, wait := range []time.Duration{0, time.Minute, time.Hour} {
		c := charge("slack", "10/m")
		c.Wait = wait
		admit(t, r, unlocked(c))
	}
	told.none(t)
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
