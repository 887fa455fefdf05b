package cluster

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// As many as a machine with time to spare is asked for:
//
//	go test -v -run SubscriptionsAreKilled ./cluster -flights 10000 -flights.at-once 1000
var (
	manyFlights   = flag.Int("flights", 2000, "how many flights are followed while subscriptions are killed")
	flightsAtOnce = flag.Int("flights.at-once", 100, "how many of them at the same time")
)

// topologies are the forms of a Redis in which answers travel.
var topologies = map[string]func(*testing.T) store{
	"one server": func(t *testing.T) store {
		s := startRedis(t)
		return store{url: s.URL(), servers: []*redistest.Server{s}}
	},
	"Sentinel": func(t *testing.T) store {
		skipIfShort(t)
		s := redistest.StartSentinels(t, 1)
		return store{url: s.URL(), servers: s.Data}
	},
	"Cluster": func(t *testing.T) store {
		skipIfShort(t)
		c := redistest.StartCluster(t)
		return store{url: c.URL(), servers: c.Nodes}
	},
}

// killSubscriptions kills all that listen to a store, again and again until the test
// ends, and counts them.
func killSubscriptions(t *testing.T, s store) (killed *atomic.Int64) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var killing sync.WaitGroup
	killed = new(atomic.Int64)
	for _, server := range s.servers {
		client := server.Client()
		killing.Go(func() {
			for ctx.Err() == nil {
				n, _ := client.Do(ctx, "client", "kill", "type", "pubsub").Int64()
				killed.Add(n)
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	t.Cleanup(func() {
		stop()
		killing.Wait()
	})
	return killed
}

// No lock lasts an hour here: whoever is told nothing follows for too long.
func TestRedis_FollowersWhoseSubscriptionsAreKilledGetTheirOwnAnswer(t *testing.T) {
	for name, start := range topologies {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			leader, follower := fleetOf(t, s.url, time.Hour)
			other := join(t, s.url, Options{LockTTL: time.Hour, Self: Replica{ID: "replica-2"}})
			killed := killSubscriptions(t, s)
			took := make([]time.Duration, *manyFlights) // until all who follow have it
			places := make(chan struct{}, *flightsAtOnce)
			var all sync.WaitGroup
			began := time.Now()
			for i := range took {
				places <- struct{}{}
				all.Go(func() {
					defer func() { <-places }()
					body := fmt.Sprint("flight-", i)
					g := admit(t, leader, shared(body)).Grant
					var following sync.WaitGroup
					for _, r := range []*Redis{leader, follower, follower, other} {
						v := expect(t, r, Duplicate, shared(body))
						following.Go(func() { wantEnding(t, v, Answered, body) })
					}
					g.Share([]byte(body))
					ended := time.Now()
					g.Release(0)
					following.Wait()
					took[i] = time.Since(ended)
				})
			}
			all.Wait()
			slices.Sort(took)
			t.Logf("%d flights with 4 followers each in %s, %d subscriptions killed; answered within %s at the median, %s of 99%%, %s at most",
				len(took), time.Since(began).Round(time.Millisecond), killed.Load(), took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
			if killed.Load() == 0 {
				t.Error("no subscription was killed")
			}
		})
	}
}
