package integration

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// What each event of each topology costs three replicas, under equal requests to
// all of them every 50 ms and three times as many as a budget allows.

const (
	steadyBurst = 20
	steadyRate  = 20 // a second
)

// cost is what an event has cost.
type cost struct {
	passed   int           // duplicates that reached the upstream
	apart    time.Duration // from the first to the last of them
	over     float64       // most that was admitted beyond the budget
	degraded time.Duration // from the first to the last answer that was given without the store
	lines    int           // of the log of one replica that say that the store is away
}

func (c cost) String() string {
	return fmt.Sprintf("%d duplicates passed within %s, %.1f over the budget, %s without the store, said in %d lines", c.passed, c.apart.Round(time.Millisecond), max(0, c.over), c.degraded.Round(time.Millisecond), c.lines)
}

// span is from the first to the last of some instants.
type span struct{ first, last time.Time }

func (s *span) add(at time.Time) {
	if s.first.IsZero() || at.Before(s.first) {
		s.first = at
	}
	if at.After(s.last) {
		s.last = at
	}
}

// steady is a load that goes on until it is stopped.
type steady struct {
	upstream, paced *upstream
	replicas        []*replica
	stopped         chan struct{}
	working         sync.WaitGroup

	mu       sync.Mutex
	degraded span
}

func startSteady(t *testing.T, words ...string) *steady {
	t.Helper()
	s := &steady{upstream: newUpstream(t), paced: newUpstream(t), stopped: make(chan struct{})}
	words = append([]string{
		"THROTTLE_PROXY_LOCK_TTL=5s", "THROTTLE_PROXY_STORE_TIMEOUT=250ms", "THROTTLE_PROXY_REPLICAS=3",
		"--register", "hook=" + s.upstream.URL, "--rate", "off", "--hold", "2s",
		"--register", "paced=" + s.paced.URL, "--rate", fmt.Sprintf("paced=%d/s,burst=%d", steadyRate, steadyBurst),
	}, words...)
	for i := range 100 {
		words = append(words, "--register", fmt.Sprintf("other-%d=%s", i, s.upstream.URL))
	}
	for range 3 {
		s.replicas = append(s.replicas, startReplica(t, words...))
	}
	for i, r := range s.replicas {
		s.every(50*time.Millisecond, func(n int) { s.send(http.MethodPost, r.url+"/hook", fmt.Sprint("equal ", n)) })
		s.every(50*time.Millisecond, func(n int) { s.send(http.MethodGet, fmt.Sprintf("%s/paced?%d-%d", r.url, i, n), "") })
	}
	s.every(20*time.Millisecond, func(n int) {
		s.send(http.MethodPut, fmt.Sprintf("%s/other-%d", s.replicas[n%3].url, n/3%100), fmt.Sprint("other ", n))
	})
	t.Cleanup(s.stop)
	eventually(t, "the load is on", func() bool { return len(s.upstream.all()) > 500 })
	return s
}

// every calls do with 0, 1, 2 and so on, and waits for none.
func (s *steady) every(interval time.Duration, do func(n int)) {
	s.working.Go(func() {
		var doing sync.WaitGroup
		defer doing.Wait()
		ticks := time.NewTicker(interval)
		defer ticks.Stop()
		for n := 0; ; n++ {
			select {
			case <-s.stopped:
				return
			case <-ticks.C:
				doing.Go(func() { do(n) })
			}
		}
	})
}

func (s *steady) send(method, url, body string) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return
	}
	req.Header.Set(nonceField, "load")
	began := time.Now()
	res, err := client.Do(req)
	if err != nil {
		return // at the end
	}
	defer res.Body.Close()
	if method == http.MethodGet && res.StatusCode == http.StatusOK && res.Header.Get("RateLimit") == "" {
		s.mu.Lock()
		s.degraded.add(began)
		s.mu.Unlock()
	}
}

func (s *steady) stop() {
	select {
	case <-s.stopped:
	default:
		close(s.stopped)
	}
	s.working.Wait()
}

// cost stops the load, and returns what it has seen.
func (s *steady) cost() (c cost) {
	s.stop()
	seen := map[string]bool{}
	var apart span
	for _, call := range s.upstream.all() {
		if seen[call.body] {
			c.passed++
			apart.add(call.start)
		}
		seen[call.body] = true
	}
	c.apart, c.degraded = apart.last.Sub(apart.first), s.degraded.last.Sub(s.degraded.first)
	for _, r := range s.replicas {
		c.lines = max(c.lines, strings.Count(r.stderr.String(), `msg="store away"`))
	}
	var admitted []time.Time
	for _, call := range s.paced.all() {
		admitted = append(admitted, call.start)
	}
	slices.SortFunc(admitted, time.Time.Compare)
	for i := range admitted {
		for j := i; j < len(admitted); j++ {
			c.over = max(c.over, float64(j-i+1)-steadyBurst-steadyRate*admitted[j].Sub(admitted[i]).Seconds())
		}
	}
	return c
}

// outage is an event, and what it may cost.
type outage struct {
	url    string
	begin  func(*testing.T)
	settle func(*testing.T) // returns once it is over
	lines  int              // most that a replica may say that the store is away
}

var outages = map[string]func(*testing.T) outage{
	"Sentinel, planned": func(t *testing.T) outage {
		s := redistest.StartSentinels(t, 1)
		return outage{
			url: s.URL(),
			begin: func(t *testing.T) {
				sentinel := redis.NewSentinelClient(&redis.Options{Addr: s.Nodes[0].Addr})
				defer sentinel.Close()
				if err := sentinel.Failover(t.Context(), "main").Err(); err != nil {
					t.Fatal(err)
				}
			},
			settle: func(t *testing.T) {
				eventually(t, "all sentinels have another master", func() bool {
					return !slices.ContainsFunc(s.Nodes, func(node *redistest.Server) bool { return s.Master(node) != s.Data[1] })
				})
			},
			lines: 2,
		}
	},
	"Sentinel, killed": func(t *testing.T) outage {
		s := redistest.StartSentinels(t, 1)
		return outage{
			url:   s.URL(),
			begin: func(*testing.T) { s.Data[0].Kill() },
			settle: func(t *testing.T) {
				eventually(t, "another master", func() bool { return s.Master(s.Nodes[1]) == s.Data[1] })
			},
			lines: 4,
		}
	},
	"Cluster, killed": func(t *testing.T) outage {
		c := redistest.StartReplicatedCluster(t)
		i := c.Owner("{hook}")
		return outage{
			url:   c.URL(),
			begin: func(*testing.T) { c.Nodes[i].Kill() },
			settle: func(t *testing.T) {
				replica := c.Replicas[i].Client()
				eventually(t, "the replica is a master", func() bool {
					return strings.Contains(replica.Info(t.Context(), "replication").Val(), "role:master")
				})
			},
			lines: 12, // three masters refuse while one is missing
		}
	},
	"single, restarted": func(t *testing.T) outage {
		s := redistest.Start(t)
		return outage{
			url: s.URL(),
			begin: func(*testing.T) {
				s.Kill()
				s.Restart()
			},
			settle: func(*testing.T) {},
			lines:  4,
		}
	},
}

// Fails if a replica is never well again, or says more of an event than that it
// began and ended. What it costs is what the documentation has.
func TestCostOfEachEventOfEachTopology(t *testing.T) {
	t.Parallel()
	for name, start := range outages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := start(t)
			s := startSteady(t, "--redis", o.url)
			for _, r := range s.replicas {
				eventually(t, "the replica is well", func() bool { return r.ready(t) == "ok\n" })
			}
			o.begin(t)
			o.settle(t)
			for _, r := range s.replicas {
				eventually(t, "the replica is well again", func() bool { return r.ready(t) == "ok\n" })
			}
			body := len(s.upstream.all())
			eventually(t, "the load goes on", func() bool { return len(s.upstream.all()) > body+20 })
			c := s.cost()
			t.Log(name, ": ", c)
			if c.lines > o.lines { // how long it takes is the machine's too
				t.Errorf("%s, want %d lines", c, o.lines)
			}
		})
	}
}
