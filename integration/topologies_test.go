package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
			redistest.ACLUser("proxy", "s3cret", documentedRules(t))...)...)
		return topology{[]string{"--redis", "redis://proxy:s3cret@" + s.Addr}, []*redistest.Server{s}}
	},
	"TLS with a client certificate": func(t *testing.T) topology {
		s, files := redistest.StartTLS(t)
		return topology{
			[]string{"--redis", s.URL(), "--redis-ca", files.CA, "--redis-cert", files.Cert, "--redis-key", files.Key},
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

// documentedRules returns what the README says that an ACL user needs.
func documentedRules(t *testing.T) string {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	rules := regexp.MustCompile("`(~throttle:[^`]*)`").FindSubmatch(readme)
	if rules == nil {
		t.Fatal("the README does not say what an ACL user needs")
	}
	return string(rules[1])
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

// pair is two replicas of a fleet that protects one upstream.
type pair struct {
	replicas []*replica
	upstream *upstream
	paced    *upstream // of the route of that name
	asked    int
	inFlight []<-chan answer
}

const (
	callerField = "X-Caller: "
	pacedBurst  = 10
	pacedRate   = 20 // a second
	hold        = time.Second
)

func startPair(t *testing.T, words ...string) *pair {
	t.Helper()
	return startPairBuilt(t, build, words...)
}

// startPairBuilt starts a pair whose first replica is built as told.
func startPairBuilt(t *testing.T, first func() (path string, err error), words ...string) *pair {
	t.Helper()
	p := &pair{upstream: newUpstream(t), paced: newUpstream(t)}
	words = append([]string{
		"THROTTLE_PROXY_STORE_TIMEOUT=5s", "THROTTLE_PROXY_LOCK_TTL=10m",
		"--register", "hook=" + p.upstream.URL, "--rate", "hook=3/d,by=header:X-Caller", "--hold", "0s",
		"--register", "paced=" + p.paced.URL, "--rate", fmt.Sprintf("paced=%d/s,burst=%d", pacedRate, pacedBurst),
		"--register", "held=" + p.upstream.URL, "--rate", "held=off", "--hold", "held=" + hold.String(),
	}, words...)
	p.replicas = []*replica{startBuilt(t, first, "127.0.0.1:0", words...), startReplica(t, words...)}
	t.Cleanup(p.upstream.open) // before the replicas are asked to end
	return p
}

// disagreement returns in what the replicas do not decide together, or nothing.
// It asks as a new caller, for whom a request stays in flight until finish.
func (p *pair) disagreement(t *testing.T) string {
	t.Helper()
	p.asked++
	caller := fmt.Sprint("caller ", p.asked)
	send := func(replica int, body string, fields ...string) answer {
		return post(t, p.replicas[replica].url+"/hook", caller+body, append(fields, callerField+caller)...)
	}
	first := inBackground(func() answer { return send(0, "", blocks) })
	arrived := func() bool {
		return slices.ContainsFunc(p.upstream.all(), func(c *call) bool { return c.body == caller })
	}
	eventually(t, "the first is in flight or answered", func() bool { return len(first) > 0 || arrived() })
	if len(first) > 0 {
		return fmt.Sprint("the first got ", <-first)
	}
	p.inFlight = append(p.inFlight, first)
	for _, ask := range []struct {
		replica int
		body    string
		want    string
	}{
		{1, "", "409 duplicate"},
		{1, ", second", "200"},
		{0, ", third", "200"},
		{1, ", fourth", "429 limited"},
		{0, ", fourth", "429 limited"},
	} {
		if a := send(ask.replica, ask.body); a.String() != ask.want {
			return fmt.Sprintf("%q got %v of replica %d, want %s", ask.body, a, ask.replica, ask.want)
		}
	}
	return ""
}

// expectAges fails the test if a duplicate is told of an age that its holder
// cannot have.
func (p *pair) expectAges(t *testing.T) {
	t.Helper()
	began := time.Now()
	first := p.upstream.occupy(t, p.replicas[0].url+"/held", "aged")
	p.inFlight = append(p.inFlight, first)
	for _, r := range p.replicas {
		a := post(t, r.url+"/held", "aged")
		expect(t, "a duplicate", a, "409 duplicate")
		var told struct{ Holder struct{ Age *float64 } }
		if err := json.Unmarshal([]byte(a.body), &told); err != nil || told.Holder.Age == nil {
			t.Errorf("no age of the holder in %s", a.body)
		} else if most := time.Since(began).Seconds() + 1; *told.Holder.Age < 0 || *told.Holder.Age > most {
			t.Errorf("the holder's age: got %v s, want up to %v", *told.Holder.Age, most)
		}
	}
}

// expectPace fails the test unless a budget is earned back, and no faster than
// it may be over both replicas.
func (p *pair) expectPace(t *testing.T) {
	t.Helper()
	const enough = 4 * pacedBurst
	var answers []answer
	eventually(t, "many requests are admitted", func() bool {
		for _, r := range p.replicas {
			answers = append(answers, post(t, r.url+"/paced", fmt.Sprint(len(answers))))
		}
		return len(p.paced.all()) >= enough
	})
	p.paced.expectLimit(t, answers, pacedBurst, pacedRate)
}

// expectHold fails the test unless equal requests are refused as long after a
// success as they are to be, and then admitted.
func (p *pair) expectHold(t *testing.T) {
	t.Helper()
	send := func(replica int) answer { return post(t, p.replicas[replica].url+"/held", "held") }
	expect(t, "the first", send(0), "200")
	eventually(t, "the hold ends", func() bool { return send(1).String() == "200" })
	var arrived []time.Time
	for _, c := range p.upstream.all() {
		if c.body == "held" {
			arrived = append(arrived, c.start)
		}
	}
	const clocks = 20 * time.Millisecond // the test's and the store's
	if len(arrived) != 2 || arrived[1].Sub(arrived[0]) < hold-clocks {
		t.Errorf("equal requests arrived at %v, want two %s apart", arrived, hold)
	}
}

// load is requests of which no two are equal, each of its own caller, until it
// is stopped.
type load struct {
	working sync.WaitGroup
	stopped chan struct{}
	once    sync.Once

	mu      sync.Mutex
	answers []answer
}

func (p *pair) startLoad(t *testing.T) *load {
	l := &load{stopped: make(chan struct{})}
	var sent atomic.Int64
	for worker := range 6 {
		l.working.Go(func() {
			for {
				select {
				case <-l.stopped:
					return
				case <-time.After(5 * time.Millisecond):
				}
				body := fmt.Sprint("load ", sent.Add(1))
				a := post(t, p.replicas[worker%2].url+"/hook", body, dawdles, callerField+body)
				l.mu.Lock()
				l.answers = append(l.answers, a)
				l.mu.Unlock()
			}
		})
	}
	t.Cleanup(func() { l.stop() })
	return l
}

// awaitAdmitted returns once n more requests have been admitted.
func (l *load) awaitAdmitted(t *testing.T, n int) {
	t.Helper()
	admitted := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return count(l.answers)["200"]
	}
	enough := admitted() + n
	eventually(t, "the load is admitted", func() bool { return admitted() >= enough })
}

// stop returns the answers.
func (l *load) stop() []answer {
	l.once.Do(func() { close(l.stopped) })
	l.working.Wait()
	return l.answers
}

// expectOnce fails the test if a request has reached the upstream twice.
func (p *pair) expectOnce(t *testing.T) {
	t.Helper()
	arrivals := map[string]int{}
	for _, c := range p.upstream.all() {
		if arrivals[c.nonce]++; arrivals[c.nonce] == 2 {
			t.Errorf("%q reached the upstream twice", c.body)
		}
	}
}

// locksIn returns all locks in some servers, by their keys.
func locksIn(t *testing.T, servers []*redistest.Server) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, s := range servers {
		f := fleet{redis: s.Client()}
		maps.Copy(all, f.locks(t))
	}
	return all
}

// finish ends what is in flight.
func (p *pair) finish(t *testing.T) {
	t.Helper()
	p.upstream.open()
	for _, a := range p.inFlight {
		expect(t, "a request that was in flight", <-a, "200")
	}
}
