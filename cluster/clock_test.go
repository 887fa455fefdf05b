package cluster

import (
	"testing"
	"time"
)

func TestClock(t *testing.T) {
	const (
		ms      = time.Millisecond
		ahead   = 1000 * time.Hour // of the store's clock
		timeout = 100 * ms
	)
	type reply struct{ received, took, set time.Duration } // set is by how much the store's clock was
	for name, test := range map[string]struct {
		replies  []reply
		at, errs time.Duration // early
	}{
		"one reply":                           {[]reply{{0, 3 * ms, 0}}, 0, 3 * ms},
		"long after it":                       {[]reply{{0, 3 * ms, 0}}, time.Hour, 3 * ms},
		"a slower one tells nothing":          {[]reply{{0, 3 * ms, 0}, {50 * ms, 60 * ms, 0}, {100 * ms, 99 * ms, 0}}, time.Second, 3 * ms},
		"a faster one tells more":             {[]reply{{0, 60 * ms, 0}, {50 * ms, 3 * ms, 0}, {100 * ms, 60 * ms, 0}}, time.Second, 3 * ms},
		"as good a one does in time":          {[]reply{{0, 3 * ms, 0}, {2 * time.Second, 5 * ms, 0}}, time.Second, 5 * ms},
		"the clock was set forth":             {[]reply{{0, 3 * ms, 0}, {ms, 60 * ms, time.Hour}}, time.Second, 60 * ms},
		"the clock was set back":              {[]reply{{0, 3 * ms, 0}, {ms, 60 * ms, -time.Hour}}, time.Second, 60 * ms},
		"the clock was set back by a timeout": {[]reply{{0, 3 * ms, 0}, {ms, 3 * ms, -timeout}}, time.Second, 3 * ms},
	} {
		var c clock
		if got := c.at(time.Second); got != 0 {
			t.Errorf("%s: got %v, want an unknown clock", name, got)
		}
		now := ahead
		for _, r := range test.replies {
			now += r.set
			c.set(r.received-r.took+now, r.received, timeout)
		}
		if got, want := c.at(test.at), test.at+now-test.errs; got != want {
			t.Errorf("%s: got %v off, want %v early", name, got-test.at-now, test.errs)
		}
	}
}
