package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// Law 5: a lock is gone when its exchange and its hold are over, at most one
// TTL after its replica died, and not before.

func TestLockOfAKilledReplicaEndsWithItsTTL(t *testing.T) {
	t.Parallel()
	const ttl = 5 * time.Second
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--rate", "off", "--lock-ttl", ttl.String(), "--store-timeout", "500ms")
	holder, other := f.replicas[0], f.replicas[1]
	// Its client is cut off with it.
	cut := u.await(t, func() answer {
		return decided(func() answer {
			a, _ := try(t.Context(), client, http.MethodPost, holder.url+"/hook", "hello", blocks)
			return a
		})
	})
	holder.signal(t, syscall.SIGKILL)
	holder.wait(t)
	if a := <-cut; a.status != 0 {
		t.Errorf("answered %v by a replica that is dead", a)
	}

	killed := time.Now()
	left := time.Duration(0)
	for key := range f.locks(t) {
		left = f.redis.PTTL(t.Context(), key).Val()
	}
	if left <= 0 || left > ttl {
		t.Fatalf("the lock has %s to live, want up to %s", left, ttl)
	}
	refused := 0
	u.open()
	eventually(t, "the lock is gone", func() bool {
		a := post(t, other.url+"/hook", "hello")
		if a.String() == "409 duplicate" {
			refused++
		}
		return a.String() == "200"
	})
	if refused == 0 {
		t.Error("no request was refused before")
	}
	calls := u.all()
	if len(calls) != 2 {
		t.Fatalf("%d requests reached the upstream, want 2", len(calls))
	}
	const clocks = 20 * time.Millisecond // the test's and the store's
	if after := calls[1].start.Sub(killed); after < left-clocks {
		t.Errorf("admitted %s after the lock had %s to live", after, left)
	}
}

// Fails if locks are not renewed.
func TestExchangeLongerThanTheTTLKeepsItsLock(t *testing.T) {
	t.Parallel()
	const ttl = 5 * time.Second // renewed several times before it ends, also on a busy machine
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--rate", "off", "--lock-ttl", ttl.String(), "--store-timeout", "500ms", "--when-undecided", "closed")
	first := u.occupy(t, f.replicas[0].url+"/hook", "hello")
	began := time.Now()
	eventually(t, "a duplicate is refused late in the exchange", func() bool {
		a := post(t, f.replicas[1].url+"/hook", "hello")
		if a.status == http.StatusOK {
			t.Fatalf("admitted %s after the first", time.Since(began))
		}
		return a.status == http.StatusConflict && time.Since(began) > ttl*5/4
	})
	u.open()
	expect(t, "the first", <-first, "200")
}

// However an exchange ends, its lock ends with it, or becomes a hold where the
// upstream has acted, or may have. Fails if any way out of the proxy misses
// its release: a lock that is left behind would outlive the test.
func TestEveryEndOfAnExchangeEndsItsLock(t *testing.T) {
	t.Parallel()
	ends := []struct {
		name string
		end  func(t *testing.T, u *upstream, url string)
		hold string // that counts; empty for none
	}{
		{"success", answered("/hook", "200", plain), "success"},
		{"success in chunks", answered("/hook", "200", chunks), "success"},
		{"empty success", answered("/hook", "204", empties), "success"},
		{"error of the upstream", answered("/hook", "500", fails), ""},
		{"cut before the answer", answered("/hook", "499 upstream-closed", cuts), "unknown"},
		{"no HTTP", answered("/hook", "502 upstream-refused", babbles), "unknown"},
		{"no upstream", answered("/gone", "502 upstream-refused", plain), ""},
		{"no answer in time", answered("/slow", "504 upstream-timeout", blocks), "unknown"},
		{"body too large", func(t *testing.T, _ *upstream, url string) {
			expect(t, "request", post(t, url+"/hook", strings.Repeat("x", 2<<10)), "413 body-too-large")
		}, ""},
		{"cut in the answer", func(t *testing.T, _ *upstream, url string) {
			if a, err := try(t.Context(), client, http.MethodPost, url+"/hook", t.Name(), cutsBody); err == nil {
				t.Errorf("a cut answer arrived as a whole one: %v %q", a, a.body)
			}
		}, "unknown"},
		{"client gone, exchange cancelled", func(t *testing.T, u *upstream, url string) {
			enter(t, u, url+"/leave")()
		}, "unknown"},
		{"client gone, exchange finished", func(t *testing.T, u *upstream, url string) { // the last: it opens the upstream
			enter(t, u, url+"/hook")()
			expect(t, "while the exchange goes on", post(t, url+"/hook", t.Name()), "409 duplicate")
			u.open()
		}, "unknown"},
	}
	const long, short = 2 * time.Hour, time.Hour
	for _, hold := range []map[string]time.Duration{{"success": 0, "unknown": 0}, {"success": long, "unknown": short}, {"success": 0, "unknown": short}, {"success": long, "unknown": 0}} {
		flag := fmt.Sprintf("%s,unknown=%s", hold["success"], hold["unknown"])
		t.Run("hold "+flag, func(t *testing.T) {
			u := newUpstream(t)
			defer u.open()
			f := startFleet(t, 1, "--register", "hook="+u.URL, "--register", "slow="+u.URL, "--register", "leave="+u.URL,
				"--register", "gone=http://127.0.0.1:"+redistest.FreePort(t), "--rate", "off", "--hold", flag,
				"--timeout", "slow=200ms", "--client-gone", "leave=cancel", "--max-body", "1KiB")
			want := map[time.Duration]int{long: 0, short: 0} // holds, by the time that they have to live
			for _, e := range ends {
				t.Run(e.name, func(t *testing.T) {
					e.end(t, u, f.replicas[0].url)
					if d := hold[e.hold]; d > 0 {
						want[d]++
					}
					eventually(t, "the lock has ended", func() bool {
						got := map[time.Duration]int{long: 0, short: 0}
						for key, value := range f.locks(t) {
							left := f.redis.PTTL(t.Context(), key).Val()
							if !strings.HasSuffix(value, " held") || left <= 0 || left > long {
								return false
							}
							if left > short {
								left = long
							} else {
								left = short
							}
							got[left]++
						}
						return maps.Equal(got, want)
					})
				})
			}
		})
	}
}

// answered returns an end of an exchange by an answer.
func answered(route, want, field string) func(*testing.T, *upstream, string) {
	return func(t *testing.T, _ *upstream, url string) {
		expect(t, "request", post(t, url+route, t.Name(), field), want)
	}
}

// enter posts a request, and returns once the upstream has it.
func enter(t *testing.T, u *upstream, url string) (hangUp func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	u.await(t, func() answer {
		a, err := try(ctx, client, http.MethodPost, url, t.Name(), blocks)
		left <- err
		return a
	})
	return func() {
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want to have left", err)
		}
	}
}

// Fails if a lock is released or renewed by its key alone.
func TestLockOfAnotherIsNotTouched(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--rate", "off", "--hold", "0s,unknown=0s", "--client-gone", "cancel")
	hangUp := enter(t, u, f.replicas[0].url+"/hook")
	f.redis.FlushAll(t.Context()) // the store has lost the lock, as in a failover
	second := u.occupy(t, f.replicas[1].url+"/hook", t.Name())
	locks, asked := f.locks(t), f.asked(t)
	hangUp()
	eventually(t, "the store is told of the first's end", func() bool { return f.asked(t) > asked })
	if now := f.locks(t); len(now) != 1 || !maps.Equal(now, locks) {
		t.Errorf("locks: got %v, want %v", now, locks)
	}
	u.open()
	expect(t, "the second", <-second, "200")
	if now := f.locks(t); len(now) != 0 {
		t.Errorf("locks: %v", now)
	}
}

// Fails if a renewal only extends what is there.
func TestLockThatTheStoreLostIsTakenAgain(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--rate", "off", "--hold", "0s,unknown=0s", "--lock-ttl", "5s", "--store-timeout", "500ms")
	first := u.occupy(t, f.replicas[0].url+"/hook", "hello")
	f.redis.FlushAll(t.Context())
	eventually(t, "the lock is there again", func() bool { return len(f.locks(t)) == 1 })
	expect(t, "an equal request", decided(func() answer { return post(t, f.replicas[1].url+"/hook", "hello") }), "409 duplicate")
	u.open()
	expect(t, "the first", <-first, "200")
	eventually(t, "the lock has ended", func() bool { return len(f.locks(t)) == 0 })
}
