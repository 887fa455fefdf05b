package integration

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// A limit that is changed, by a restart or on one replica beside another: what
// was spent stays spent, in requests. A raise waits at most one new interval, a
// cut at most the old limit's full refill, and what is told is what it takes.
func TestChangedLimitsForgiveNothingAndHoldNothingAgainst(t *testing.T) {
	t.Parallel()
	for _, change := range []struct {
		from, to string
		longest  time.Duration
	}{
		{"1/10s", "10/s,burst=20", 100 * time.Millisecond},
		{"1/m", "1/s,burst=10", time.Second},
		{"100/h", "1000/h,burst=100", 3600 * time.Millisecond},
		{"10/s,burst=20", "1/10s", 2 * time.Second},
		{"100/h", "100/d", time.Hour},
	} {
		for _, beside := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s to %s, beside %t", change.from, change.to, beside), func(t *testing.T) {
				t.Parallel()
				u := newUpstream(t)
				server := redistest.Start(t)
				start := func(rate string) *replica {
					return startReplicas(t, server.URL(), 1, "--register", "hook="+u.URL, "--rate", rate, "--hold", "0s,unknown=0s")[0]
				}
				old := start(change.from)
				spend(t, old.url+"/hook")
				if !beside {
					old.end(t)
				}
				changed := start(change.to)
				// What is earned while it starts may be spent.
				body, limited := spend(t, changed.url+"/hook")
				seconds, err := strconv.Atoi(limited.header.Get("Retry-After"))
				if most := int((change.longest + time.Second - 1) / time.Second); err != nil || seconds < 1 || seconds > most {
					t.Errorf("Retry-After: got %q, want 1 to %d", limited.header.Get("Retry-After"), most)
				}
				if change.longest > 10*time.Second || t.Failed() {
					return
				}
				time.Sleep(time.Duration(seconds) * time.Second) // as the client is told to
				expect(t, "after Retry-After", post(t, changed.url+"/hook", body), "200")
			})
		}
	}
}
