package cluster

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// stops are ways in which a store stands still, and finds later what it was sent.
var stops = map[string]struct {
	begin, end func(t *testing.T, server *redistest.Server, client *redis.Client)
}{
	"the process": {
		func(_ *testing.T, server *redistest.Server, _ *redis.Client) { server.Pause() },
		func(_ *testing.T, server *redistest.Server, _ *redis.Client) { server.Resume() },
	},
	"its clients": {
		func(t *testing.T, _ *redistest.Server, client *redis.Client) {
			must(t, client.Do(t.Context(), "client", "pause", (4*storeTimeout).Milliseconds(), "all"))
		},
		func(t *testing.T, _ *redistest.Server, client *redis.Client) {
			must(t, client.Ping(t.Context())) // is answered when it is over
		},
	},
}

// A request that was refused, or went on by its policy, because the store stood
// still is neither locked nor charged once that goes on.
func TestRedis_WhatTimedOutIsNeitherLockedNorCharged(t *testing.T) {
	for how, stop := range stops {
		for _, policy := range []WhenUndecided{Closed, Local, Open} {
			t.Run(how+" "+string(policy), func(t *testing.T) {
				t.Parallel()
				server := startRedis(t)
				plain := redis.NewClient(&redis.Options{Addr: server.Addr, ReadTimeout: time.Minute})
				defer plain.Close()
				r := join(t, server.URL(), Options{Timeout: storeTimeout})
				other := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
				hundred := charge("hundred", "100/h")
				// With connections to spare, and knowing the store's clock.
				concurrently(t, 30, func(i int) Outcome { return ask(t, r, request(fmt.Sprint("before", i), hundred)).Outcome })
				spent := 100 - 1 - admit(t, other, unlocked(hundred)).Decisions[0].Remaining + 1
				before := lateAsks(t, []*redistest.Server{server})

				stop.begin(t, server, plain)
				var asking sync.WaitGroup
				var mu sync.Mutex
				admitted := 0
				for i := range 30 {
					asking.Go(func() {
						v, err := r.Admit(t.Context(), by(policy, request(fmt.Sprint("during", i), hundred)))
						mu.Lock()
						defer mu.Unlock()
						if v.Outcome == Admitted {
							admitted++
						} else if policy == Closed && !errors.Is(err, ErrUndecided) {
							t.Errorf("got %+v, %v, want undecided", v, err)
						}
						v.Grant.Release(0)
					})
				}
				asking.Wait()
				stop.end(t, server, plain)
				if policy == Closed && admitted > 0 || policy == Open && admitted != 30 {
					t.Errorf("got %d admitted of 30", admitted)
				}
				eventually(t, "what was sent is found", func() bool { return lateAsks(t, []*redistest.Server{server}) > before })
				// What went on by its policy is charged once, with what was charged before.
				eventually(t, "charged for what went on", func() bool {
					return 100-admit(t, other, unlocked(hundred)).Decisions[0].Remaining >= spent+admitted+1
				})
				// Nothing else is: charges come in the order in which they were queued.
				if policy == Closed {
					if got := 100 - admit(t, other, unlocked(hundred)).Decisions[0].Remaining; got != spent+2 {
						t.Errorf("got %d charged, want %d", got, spent+2)
					}
				}
				for i := range 30 {
					admit(t, other, request(fmt.Sprint("during", i))).Grant.Release(0)
				}
			})
		}
	}
}

// The clock of a store can be another than a replica has thought: the store has
// been replaced by one, or its clock was set.
func TestRedis_AnotherClockCostsNoVerdict(t *testing.T) {
	for _, skew := range []time.Duration{time.Hour, -time.Hour} {
		server, skewed := startRedis(t), redistest.StartSkewed(t, skew)
		host := redistest.NewLink(t, server.Addr)
		r := join(t, host.URL(), Options{})
		two := charge("two", "2/h")
		admit(t, r, request("a", two)).Grant.Release(0)
		part := r.partOf("slack")
		offset := part.clock.at(0)
		// As if what was known came from the other.
		client := skewed.Client()
		now := must(t, client.Time(t.Context()))
		part.clock.set(time.Duration(now.UnixMicro())*time.Microsecond, r.known.now(), r.options.Timeout)
		if admit(t, r, request("a", two)).Decisions[0].Remaining != 0 {
			t.Errorf("%v: not charged once", skew)
		}
		if got := part.clock.at(0) - offset; got.Abs() > time.Minute {
			t.Errorf("%v: still off by %v", skew, got)
		}
		if s := r.Status(); len(s.Faults) > 0 {
			t.Errorf("%v: got faults %v, want none", skew, s.Faults)
		}
	}
}

// A network can hold back what it was given: a renewal then arrives when the end
// of its lock has been told.
func TestRedis_RenewalThatComesLateUndoesNoEnd(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{})
	renew := func(l *lock, sent time.Duration) {
		t.Helper()
		c := newCommand(r.options.Prefix)
		defer c.done()
		c.beginKey()
		c.text = l.appendKey(c.text)
		c.endKey()
		r.renewal(l).args(c, sent)
		if err := r.conn.Load().once(t.Context(), renewScript, c).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for sent, ago := range map[string]time.Duration{"just now": 0, "long ago": 2 * r.options.Timeout} {
		held := request("held, renewed " + sent)
		lock := admit(t, r, held).Grant
		lock.Release(time.Hour)
		eventually(t, "held", func() bool { return strings.HasSuffix(client.Get(t.Context(), lockKey(held)).Val(), heldMark) })
		renew(lock.lock, r.known.now()-ago)
		if left := must(t, client.PTTL(t.Context(), lockKey(held))); left < 50*time.Minute {
			t.Errorf("%s: got a hold of %v, want what is left of an hour", sent, left)
		}
	}
	gone := request("gone")
	lock := admit(t, r, gone).Grant
	lock.Release(0)
	renew(lock.lock, r.known.now()-2*r.options.Timeout)
	if must(t, client.Exists(t.Context(), lockKey(gone))) > 0 {
		t.Error("got a lock that nobody has")
	}
}

// A renewal that came too late is no answer, and is tried again.
func TestRedis_RenewalThatComesLateIsTriedAgain(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{LockTTL: time.Hour}) // renewed by this test alone
	a := request("a")
	lock := admit(t, r, a).Grant
	must(t, client.PExpire(t.Context(), lockKey(a), time.Minute))
	renewal := r.renewal(lock.lock)
	renewal.timeout = -time.Minute
	calls := []call{{part: r.partOf("slack"), tag: "slack", script: renewScript, what: renewal}}
	r.pipeline(calls)
	if FaultOf(calls[0].err) != "timeout" {
		t.Errorf("got %d, %v, want no answer in time", calls[0].result, calls[0].err)
	}
	if left := must(t, client.PTTL(t.Context(), lockKey(a))); left > time.Minute {
		t.Errorf("got %v left, want it as it was", left)
	}
	if !r.renew() || must(t, client.PTTL(t.Context(), lockKey(a))) < 50*time.Minute {
		t.Error("not renewed by the next one")
	}
}
