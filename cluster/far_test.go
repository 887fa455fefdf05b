package cluster

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// slowly is by how much longer all takes here than with a store that is 80 ms away
// and the default timeout, 100 ms: of what is left of that a busy machine takes all.
const slowly = 4

const farTimeout = slowly * 100 * time.Millisecond

// A store whose round trips take four fifths of the timeout is asked within it: what
// a connection needs before its first command must not be taken from that.
func TestRedis_StoreThatIsFarIsEnforced(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	server, files := redistest.StartTLS(t)
	clear := redistest.Start(t)
	for name, addr := range map[string]*redistest.Server{"clear": clear, "TLS": server, "from a fiftieth to more than the timeout": clear} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			link := redistest.NewLink(t, addr.Addr)
			link.Delay(slowly * 40 * time.Millisecond)
			const n = 12
			const jitter = "from a fiftieth to more than the timeout"
			if name == jitter {
				t.Cleanup(vary(link))
			}
			url := link.URL()
			var tlsFiles TLSFiles
			if addr == server {
				url, tlsFiles = "rediss://"+link.Addr, TLSFiles{CA: files.CA, Cert: files.Cert, Key: files.Key, ServerName: "127.0.0.1"}
			}
			told := newChanges()
			e, err := NewEndpoint(func() (string, error) { return url, nil }, tlsFiles, farTimeout)
			if err != nil {
				t.Fatal(err)
			}
			options := Options{Prefix: strings.ReplaceAll(name, " ", "-"), Timeout: farTimeout, Connect: e.Connect, Dialled: e.Dialled, Observe: told.observe}
			var fleet []*Redis
			for i := range 2 {
				options.Self.ID = fmt.Sprint("replica-", i)
				fleet = append(fleet, join(t, url, options))
				<-fleet[i].Started()
			}
			undecided := n
			for round := 0; round < 5 && undecided > n/4; round++ { // likewise, below
				undecided = concurrently(t, n/2, func(int) Outcome {
					v := ask(t, fleet[0], by(Open, unlocked(charge("many", "1000/h"))))
					if v.Degraded {
						return 0
					}
					return v.Outcome
				})[0]
			}
			if undecided > n/4 {
				t.Errorf("%d of %d asks at the same time were not decided", undecided, n/2)
			}
			refused := 0
			for round := range 5 { // a busy machine delays more than the link does
				refused = 0
				for i := range n {
					equal := func() Ask { return by(Open, request(fmt.Sprint(round, " ", i))) }
					ask(t, fleet[0], equal())
					if ask(t, fleet[1], equal()).Outcome == Duplicate {
						refused++
					}
				}
				if refused >= n/2 {
					break
				}
			}
			trip, _ := e.Dialled()
			t.Logf("%d of %d duplicates refused, a trip is %s, faults: %v and %v", refused, n, trip, fleet[0].Status().Faults, fleet[1].Status().Faults)
			if refused < n/2 {
				t.Errorf("%d of %d duplicates were refused, want nearly all", refused, n)
			}
			if name == jitter {
				return
			}
			if change := told.next(t, StoreFar); change.Trip < 2*slowly*40*time.Millisecond {
				t.Errorf("got a trip of %s, want the link's", change.Trip)
			}
		})
	}
}

// vary delays each way by another time, up to three fifths of the timeout, until it
// is told to stop.
func vary(link *redistest.Link) (stop func()) {
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticks := time.NewTicker(slowly * 20 * time.Millisecond)
		defer ticks.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticks.C:
				link.Delay(slowly * time.Duration(1+rand.IntN(60)) * time.Millisecond)
			}
		}
	}()
	return func() {
		close(done)
		<-stopped
	}
}
