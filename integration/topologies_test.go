package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// Every way in which a fleet can share a Redis, and what happens to a fleet
// whose Redis changes under load.

// topology is a Redis in one of its forms.
type topology struct {
	words []string            // that lead a replica to it
	data  []*redistest.Server // that keep keys
}

var topologies = map[string]func(*testing.T) topology{
	"single": func(t *testing.T) topology {
		s := redistest.Start(t)
		return topology{[]string{"--redis", s.URL()}, []*redistest.Server{s}}
	},
	"password": func(t *testing.T) topology {
		s := redistest.Start(t, "--requirepass", "s3cret")
		return topology{[]string{"--redis", "redis://:s3cret@" + s.Addr}, []*redistest.Server{s}}
	},
	"ACL user": func(t *testing.T) topology {
		s := redistest.Start(t, append([]string{"--requirepass", "another"},
			redistest.ACLUser("proxy", "s3cret", documentedRules(t, basicRules))...)...)
		return topology{[]string{"--redis", "redis://proxy:s3cret@" + s.Addr}, []*redistest.Server{s}}
	},
	"TLS with a client certificate": func(t *testing.T) topology {
		s, files := redistest.StartTLS(t)
		return topology{
			[]string{"--redis", s.URL(), "--redis-tls", fmt.Sprintf("ca=%s,cert=%s,key=%s", files.CA, files.Cert, files.Key)},
			[]*redistest.Server{s},
		}
	},
	"unix socket": func(t *testing.T) topology {
		s := redistest.StartUnix(t)
		return topology{[]string{"--redis", s.URL()}, []*redistest.Server{s}}
	},
	"Sentinel": func(t *testing.T) topology {
		s := redistest.StartSentinels(t, 1)
		return topology{[]string{"--redis", s.URL()}, s.Data}
	},
	"Cluster": func(t *testing.T) topology {
		c := redistest.StartCluster(t)
		return topology{[]string{"--redis", c.URL()}, c.Nodes}
	},
}

func TestFleetOnEveryTopology(t *testing.T) {
	t.Parallel()
	for name, start := range topologies {
		t.Run(name, func(t *testing.T) {
			top := start(t)
			p := startPair(t, top.words...)
			if why := p.disagreement(t); why != "" {
				t.Errorf("the replicas do not decide together: %s", why)
			}
			p.finish(t)
			eventually(t, "no lock is left", func() bool { return len(locksIn(t, top.data)) == 0 })
		})
	}
}

// change is what happens to a Redis under load.
type change struct {
	words []string
	begin func()
	over  func(*testing.T)    // returns once another server has taken over
	left  []*redistest.Server // that keep keys then
}

var changes = map[string]func(*testing.T) change{
	"Sentinel, master killed": func(t *testing.T) change {
		s := redistest.StartSentinels(t, 1)
		return failover(s, s.URL(), s.Data[0].Kill, s.Data[0].Restart)
	},
	"Sentinel, master paused": func(t *testing.T) change {
		s := redistest.StartSentinels(t, 1)
		return failover(s, s.URL(), s.Data[0].Pause, s.Data[0].Resume)
	},
	"Sentinel, master and the sentinel that was asked paused": func(t *testing.T) change {
		s := redistest.StartSentinels(t, 1)
		// A client that knows one sentinel asks it, and is told of the others.
		url := strings.Replace(s.URL(), ","+s.Nodes[1].Addr+","+s.Nodes[2].Addr, "", 1)
		pause := func() {
			s.Data[0].Pause()
			s.Nodes[0].Pause()
		}
		return failover(s, url, pause, func() {})
	},
	"Cluster, master killed": func(t *testing.T) change {
		c := redistest.StartReplicatedCluster(t)
		i := c.Owner("{hook}")
		master, replica := c.Nodes[i], c.Replicas[i].Client()
		return change{
			words: []string{"--redis", c.URL()},
			begin: master.Kill,
			over: func(t *testing.T) {
				eventually(t, "the replica is a master", func() bool {
					return strings.Contains(replica.Info(t.Context(), "replication").Val(), "role:master")
				})
				master.Restart()
			},
			left: c.Replicas,
		}
	},
	"Cluster, slot moved": func(t *testing.T) change {
		c := redistest.StartCluster(t)
		i := c.Owner("{hook}")
		from, to := c.Nodes[i], c.Nodes[(i+1)%3]
		return change{
			words: []string{"--redis", c.URL()},
			begin: func() {
				c.MoveSlot("{hook}", from, to)
				c.MoveSlot("{hook}", to, from)
				c.MoveSlot("{hook}", from, to)
			},
			over: func(*testing.T) {},
			left: c.Nodes,
		}
	},
}

func failover(s *redistest.Sentinels, url string, begin, end func()) change {
	return change{
		words: []string{"--redis", url},
		begin: begin,
		over: func(t *testing.T) {
			eventually(t, "the replica is the master", func() bool { return s.Master(s.Nodes[1]) == s.Data[1] })
			end()
		},
		left: s.Data[1:],
	}
}

// Fails if a fleet whose Redis fails over, or moves what it keeps, answers 500,
// sends a request twice, needs a restart to decide together again, or loses
// the lock of what was in flight all the while.
func TestFleetWhoseRedisChangesUnderLoad(t *testing.T) {
	t.Parallel()
	for name, start := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t)
			p := startPair(t, append(c.words, "--store-timeout", "500ms", "--lock-ttl", "5s")...)
			if why := p.disagreement(t); why != "" {
				t.Fatalf("before: the replicas do not decide together: %s", why)
			}
			load := p.startLoad(t)
			load.awaitAdmitted(t, 200)
			c.begin()
			c.over(t)
			eventually(t, "the replicas decide together again", func() bool {
				why := p.disagreement(t)
				if why != "" {
					t.Log("not yet: ", why)
				}
				return why == ""
			})
			load.awaitAdmitted(t, 200)
			kinds := count(load.stop())
			for kind := range kinds {
				if !slices.Contains([]string{"200", "409 duplicate", "409 held", "429 limited", "503 undecided"}, kind) {
					t.Errorf("meanwhile: %d × %s", kinds[kind], kind)
				}
			}
			eventually(t, "what is in flight has its lock, and nothing else", func() bool {
				return len(locksIn(t, c.left)) == len(p.inFlight)
			})
			p.finish(t)
			eventually(t, "no lock is left", func() bool { return len(locksIn(t, c.left)) == 0 })
			p.expectOnce(t)
		})
	}
}

// Fails if a key lacks its fleet's prefix.
func TestFleetsWithDifferentPrefixesShareNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var pairs []*pair
	for _, prefix := range []string{"one", "two"} {
		pairs = append(pairs, startPair(t, "--redis", server.URL(), "--redis-prefix", prefix))
	}
	for i, p := range pairs { // with the same callers and bodies
		if why := p.disagreement(t); why != "" {
			t.Errorf("fleet %d: the replicas do not decide together: %s", i, why)
		}
	}
	for _, p := range pairs {
		p.finish(t)
	}
	budgets := 0
	for _, key := range server.Client().Keys(t.Context(), "*").Val() {
		if !strings.HasPrefix(key, "one:") && !strings.HasPrefix(key, "two:") {
			t.Errorf("a key of no fleet: %s", key)
		}
		if strings.Contains(key, ":rate:") {
			budgets++
		}
	}
	if budgets != 2 {
		t.Errorf("%d budgets, want one of each fleet", budgets)
	}
}

const years = 8 * 365 * 24 * time.Hour

// Fails if a decision depends on any wall clock but Redis', or on how late it
// is by that.
func TestWallClocksThatDisagree(t *testing.T) {
	t.Parallel()
	redisAt := func(skew time.Duration) func(*testing.T) *pair {
		return func(t *testing.T) *pair {
			return startPair(t, "--redis", redistest.StartSkewed(t, skew).URL())
		}
	}
	for name, start := range map[string]func(*testing.T) *pair{
		"Redis years behind": redisAt(-years),
		"Redis years ahead":  redisAt(years),
		"a replica years ahead": func(t *testing.T) *pair {
			return startPairBuilt(t, buildAhead, "--redis", redistest.Start(t).URL())
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t)
			if why := p.disagreement(t); why != "" {
				t.Errorf("the replicas do not decide together: %s", why)
			}
			p.expectAges(t)
			p.expectPace(t)
			p.expectHold(t)
			p.finish(t)
		})
	}
}

// buildAhead builds the binary for a replica whose wall clock is years ahead.
// It has no C library whose clock could be replaced, so the standard library's
// is.
var buildAhead = sync.OnceValues(func() (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src/time/time.go")
	source, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	const now = "sec, nsec, mono := runtimeNow()\n"
	if !strings.Contains(string(source), now) {
		return "", errors.New("package time tells the time in another way")
	}
	changed := strings.Replace(string(source), now, now+fmt.Sprintf("\tsec += %d\n", int64(years.Seconds())), 1)
	replaced, overlay := filepath.Join(buildDir, "time.go"), filepath.Join(buildDir, "overlay.json")
	files, _ := json.Marshal(map[string]any{"Replace": map[string]string{original: replaced}})
	for path, content := range map[string][]byte{replaced: []byte(changed), overlay: files} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return "", err
		}
	}
	path := filepath.Join(buildDir, "throttle-proxy-ahead")
	out, err := exec.Command("go", "build", "-overlay", overlay, "-o", path, "throttle-proxy/cmd/throttle-proxy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})
