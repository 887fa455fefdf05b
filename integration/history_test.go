package integration

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// Random histories: what clients, upstreams, replicas and the store do is drawn
// from a seed, and the laws are checked against what was recorded. A seed
// determines what is done and in which order it begins, not how it interleaves.

var (
	historySeed   = flag.Uint64("history.seed", 0, "seed of the first random history; 0 for any")
	historyRuns   = flag.Uint64("history.runs", 1, "number of histories, of seeds that follow each other")
	historyOps    = flag.Int("history.ops", 2000, "requests in a random history")
	historyFaults = flag.String("history.faults", "", "none, replicas, store or all; empty for one history of none and one of all")
)

// Fails if any law of the design is broken.
func TestHistory(t *testing.T) {
	t.Parallel()
	modes := []string{*historyFaults}
	if *historyFaults == "" {
		modes = []string{"none", "all"}
	}
	seed := *historySeed
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	var table strings.Builder
	for i := range *historyRuns {
		for _, mode := range modes {
			t.Run(fmt.Sprintf("%s/%d", mode, seed+i), func(t *testing.T) {
				t.Cleanup(func() {
					if t.Failed() {
						t.Logf("go test -race -run '^TestHistory$' ./integration -history.seed=%d -history.ops=%d -history.faults=%s",
							seed+i, *historyOps, mode)
					}
				})
				fmt.Fprintln(&table, newHistoryRun(t, newPlan(seed+i, *historyOps, mode)).play())
			})
		}
	}
	t.Logf("what happened:\n%s", table.String())
}

// plan is what a seed determines.
type plan struct {
	seed       uint64
	mode       string
	workers    int
	operations []operation
	scenes     []scene
}

// operation is one request, and what becomes of it.
type operation struct {
	route, tenant, body string
	does                string        // one of the fields for the upstream
	linger              time.Duration // if it lingers
	abort               time.Duration // after which the client leaves; 0 for never
	wait                time.Duration // before it is sent
	replica             int           // to which it is sent; -1 for the load balancer
}

// scene is a number of operations with faults, or without.
type scene struct {
	operations int
	faults     []plannedFault
	length     time.Duration // of the faults
}

type plannedFault struct {
	kind    faultKind
	replica int // -1 for the store
}

const (
	mark        = "CANARY" // in all that is secret
	historySize = 3        // replicas

	// With faults of the store, what takes longer than this is decided alone;
	// without, nothing is.
	historyTimeout = 300 * time.Millisecond
	historyTTL     = 3 * time.Second
	historyHold    = 100 * time.Millisecond
)

// historyRoutes are the routes, each as often as it is asked for.
var historyRoutes = []struct {
	name         string
	often        int
	bodies       int // that there are: few, so that requests are equal often
	tenants      int
	decidesAlone bool // without the store
}{
	{"hook", 30, 6, 1, true},
	{"held", 15, 4, 1, true},
	{"limited", 20, 12, 3, true},
	{"free", 10, 3, 1, true},   // no lock
	{"leave", 10, 3, 1, true},  // the client's leaving ends the exchange
	{"shut", 15, 10, 1, false}, // nothing goes on without the store
}

var historyLimits = []limit{
	{route: "limited", perSecond: 20, burst: 10, byTenant: true},
	{route: "limited", perSecond: 40, burst: 20},
	{route: "free", perSecond: 100, burst: 20},
	{route: "shut", perSecond: 50, burst: 20},
}

// flags returns the replicas' command line.
func historyFlags(u *upstream, mode string) (words []string) {
	host := strings.Replace(u.URL, "http://", "http://user:"+mark+"@", 1)
	for _, r := range historyRoutes {
		words = append(words, "--register", r.name+"="+host+"/"+r.name+"?token="+mark)
		if !r.decidesAlone {
			words = append(words, "--when-undecided", r.name+"=closed")
		}
	}
	for i, l := range historyLimits {
		rate := fmt.Sprintf("%s=%g/s,burst=%d,name=limit-%d", l.route, l.perSecond, l.burst, i)
		if l.byTenant {
			rate += ",by=header:" + tenantField
		}
		words = append(words, "--rate", rate)
	}
	words = append(words, "--rate", "off", "--dedupe", "free=off", "--client-gone", "leave=cancel",
		"--hold", "0s", "--hold", "held="+historyHold.String(), "--replicas", fmt.Sprint(historySize))
	if mode != "none" {
		words = append(words, "--lock-ttl", historyTTL.String(), "--store-timeout", historyTimeout.String())
	}
	return words
}

func newPlan(seed uint64, operations int, mode string) *plan {
	random := rand.New(rand.NewPCG(seed, 0))
	p := &plan{seed: seed, mode: mode, workers: 64}
	if mode == "none" {
		p.scenes = []scene{{operations: operations}}
	} else {
		p.workers = 128 // some of them wait for a replica that stands still
		for left := operations; left > 0; {
			s := scene{operations: min(left, 150+random.IntN(200))}
			if len(p.scenes)%2 == 1 {
				s.operations = min(left, 60+random.IntN(90))
				s.draw(random, mode)
			}
			p.scenes = append(p.scenes, s)
			left -= s.operations
		}
	}
	for _, s := range p.scenes {
		for range s.operations {
			p.operations = append(p.operations, newOperation(random, mode, s))
		}
	}
	return p
}

// draw draws the scene's faults.
func (s *scene) draw(random *rand.Rand, mode string) {
	add := func(kinds []faultKind, replica int) {
		kind := kinds[random.IntN(len(kinds))]
		s.faults = append(s.faults, plannedFault{kind, replica})
		length := kind.least
		if kind.most > kind.least {
			length += time.Duration(random.Int64N(int64(kind.most - kind.least)))
		}
		s.length = max(s.length, length)
	}
	which := random.IntN(5)
	if mode == "store" || mode == "all" && which < 4 {
		add(storeFaults, -1)
	}
	if mode == "replicas" || mode == "all" && which > 2 { // a fifth of them at once
		add(replicaFaults, random.IntN(historySize))
	}
}

func newOperation(random *rand.Rand, mode string, s scene) operation {
	o := operation{replica: random.IntN(historySize), wait: time.Duration(random.Int64N(int64(20*time.Millisecond + s.length)))}
	if (mode == "none" || mode == "store") && random.IntN(4) == 0 {
		o.replica = -1
	}
	all := 0
	for _, r := range historyRoutes {
		all += r.often
	}
	at := random.IntN(all)
	for _, r := range historyRoutes {
		if at -= r.often; at < 0 {
			o.route, o.body, o.tenant = r.name, fmt.Sprint(mark, random.IntN(r.bodies)), fmt.Sprint(mark, random.IntN(r.tenants))
			break
		}
	}
	switch n := random.IntN(100); {
	case n < 35:
		o.does = plain
	case n < 40:
		o.does = chunks
	case n < 65:
		o.does = dawdles
	case n < 73:
		o.does = fails
	case n < 79:
		o.does = cuts
	case n < 85:
		o.does = cutsBody
	default:
		o.does, o.linger = lingers, time.Duration(random.Int64N(int64(100*time.Millisecond)))
		if mode != "none" && n >= 97 {
			o.linger = time.Duration(random.Int64N(int64(historyTTL * 3 / 2)))
		}
	}
	if random.IntN(8) == 0 {
		o.abort = time.Duration(1 + random.Int64N(int64(40*time.Millisecond)))
	}
	return o
}

// faultKind is something that can go wrong.
type faultKind struct {
	name        string
	store       bool // may keep replicas from asking the store
	all         bool // keeps all of them from it, from begin to end
	loses       bool // the store loses its data
	pauses      bool // a replica stands still
	kills       bool // a replica is killed
	least, most time.Duration
	begin, end  func(h *historyRun, replica int)
}

func nothing(*historyRun, int) {}

func heal(h *historyRun, _ int) { h.store.link.Heal() }

var (
	stops = faultKind{name: "store stops", store: true, all: true, least: 50 * time.Millisecond, most: 1500 * time.Millisecond,
		begin: func(h *historyRun, _ int) { h.store.server.Pause() },
		end:   func(h *historyRun, _ int) { h.store.server.Resume() }}
	stopsLong = faultKind{name: "store stops", store: true, all: true, least: historyTTL, most: historyTTL * 5 / 4, begin: stops.begin, end: stops.end}
	restarts  = faultKind{name: "store restarts empty", store: true, all: true, loses: true, most: time.Second,
		begin: func(h *historyRun, _ int) { h.store.server.Kill() },
		end:   func(h *historyRun, _ int) { h.store.server.Restart() }}
	refuses = faultKind{name: "link refuses", store: true, all: true, most: time.Second, end: heal,
		begin: func(h *historyRun, _ int) { h.store.link.Refuse(); h.store.link.Cut() }}
	cutsLink = faultKind{name: "link is cut", store: true, end: nothing,
		begin: func(h *historyRun, _ int) { h.store.link.Cut() }}
	cutsRequests = faultKind{name: "link cuts requests", store: true, most: time.Second, end: heal,
		begin: func(h *historyRun, _ int) { h.store.link.CutRequests(20, "") }}
	cutsAnswers = faultKind{name: "link cuts answers", store: true, most: time.Second, end: heal,
		begin: func(h *historyRun, _ int) { h.store.link.CutRequests(1<<20, "") }}
	losesAnswers = faultKind{name: "link loses answers", store: true, least: 100 * time.Millisecond, most: time.Second, end: heal,
		begin: func(h *historyRun, _ int) { h.store.link.LoseAnswers(3, "") }}
	silences = faultKind{name: "link is silent", store: true, all: true, most: time.Second,
		begin: func(h *historyRun, _ int) { h.store.link.Silence() },
		end:   func(h *historyRun, _ int) { h.store.link.Heal(); h.store.link.Cut() }}
	slows = faultKind{name: "link is slow", store: true, most: time.Second, end: heal,
		begin: func(h *historyRun, _ int) { h.store.link.Delay(historyTimeout / 20) }}
	delays = faultKind{name: "link is too slow", store: true, most: time.Second, end: heal,
		begin: func(h *historyRun, _ int) { h.store.link.Delay(historyTimeout) }}
	forgetsScripts = faultKind{name: "scripts flushed", end: nothing, most: 100 * time.Millisecond,
		begin: func(h *historyRun, _ int) { h.store.do("script", "flush") }}
	forgetsAll = faultKind{name: "all flushed", loses: true, end: nothing, most: 100 * time.Millisecond,
		begin: func(h *historyRun, _ int) { h.store.do("flushall") }}
	storeFaults = []faultKind{stops, stops, stopsLong, restarts, restarts, refuses, cutsLink, cutsRequests, cutsAnswers,
		losesAnswers, losesAnswers, silences, slows, delays, forgetsScripts, forgetsAll, forgetsAll}

	pauses = faultKind{name: "replica pauses", pauses: true, least: 50 * time.Millisecond, most: historyTTL / 3,
		begin: func(h *historyRun, replica int) { h.replicas[replica].signal(h.t, syscall.SIGSTOP) },
		end:   func(h *historyRun, replica int) { h.replicas[replica].signal(h.t, syscall.SIGCONT) }}
	pausesLong = faultKind{name: "replica pauses", pauses: true, least: historyTTL * 11 / 10, most: historyTTL * 5 / 4, begin: pauses.begin, end: pauses.end}
	kills      = faultKind{name: "replica is killed", kills: true, most: 500 * time.Millisecond,
		begin: (*historyRun).kill, end: (*historyRun).restart}
	replicaFaults = []faultKind{pauses, pauses, pausesLong, kills, kills, kills}
)

// historyRun plays a plan, and records what happens.
type historyRun struct {
	t         *testing.T
	plan      *plan
	history   history
	upstream  *upstream
	store     *storeUnderTest
	words     []string
	urls      []string   // by replica + 1: the first is the load balancer's
	replicas  []*replica // that run
	processes []*process // all that ever did
}

func newHistoryRun(t *testing.T, p *plan) *historyRun {
	h := &historyRun{t: t, plan: p, upstream: newUpstream(t), store: startStoreUnderTest(t), urls: []string{""}}
	h.words = append(h.words, "THROTTLE_PROXY_REDIS="+h.store.link.URL(), "THROTTLE_PROXY_STORE_TIMEOUT=5s", "THROTTLE_PROXY_LOCK_TTL=10m")
	h.words = append(h.words, historyFlags(h.upstream, p.mode)...)
	for i := range historySize {
		h.replicas = append(h.replicas, nil)
		h.start(i, net.JoinHostPort("127.0.0.1", redistest.FreePort(t)))
		h.urls = append(h.urls, h.replicas[i].url)
	}
	h.urls[0] = startBalancer(t, h.replicas)
	h.history = history{limits: historyLimits, hold: historyHold, replicas: historySize, ttl: historyTTL}
	for _, r := range historyRoutes {
		if !r.decidesAlone {
			h.history.closed = append(h.history.closed, r.name)
		}
	}
	return h
}

func (h *historyRun) start(i int, addr string) {
	h.t.Helper()
	r := startReplicaOn(h.t, addr, h.words...)
	h.t.Cleanup(func() { _ = r.cmd.Process.Signal(syscall.SIGCONT) })
	h.replicas[i], h.processes = r, append(h.processes, r.process)
}

func (h *historyRun) kill(i int) {
	h.replicas[i].signal(h.t, syscall.SIGKILL)
	h.replicas[i].wait(h.t)
}

func (h *historyRun) restart(i int) { h.start(i, h.replicas[i].addr) }

// play plays the plan, checks the laws, and says in a line what happened.
func (h *historyRun) play() string {
	h.t.Helper()
	began := time.Now()
	h.perform()
	took := time.Since(began)
	h.expectNoLock()
	for _, r := range h.replicas {
		r.end(h.t)
	}
	h.read()
	h.expectSecrets()
	violations, explained := h.history.check()
	const some = 20
	for i, v := range violations {
		if i == some {
			h.t.Errorf("and %d more", len(violations)-some)
			break
		}
		h.t.Error(v)
	}
	return h.summary(took, explained, violations)
}

// perform sends all requests, and makes the faults meanwhile.
func (h *historyRun) perform() {
	h.t.Helper()
	h.history.requests = make([]request, len(h.plan.operations))
	scenes := make([]struct {
		open  chan struct{}
		begun sync.WaitGroup
	}, len(h.plan.scenes))
	var sceneOf []int
	for i, s := range h.plan.scenes {
		scenes[i].open = make(chan struct{})
		scenes[i].begun.Add(s.operations)
		sceneOf = append(sceneOf, slices.Repeat([]int{i}, s.operations)...)
	}
	var next atomic.Int64
	var working sync.WaitGroup
	ctx := h.t.Context()
	for range h.plan.workers {
		working.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(sceneOf); i = int(next.Add(1)) - 1 {
				select {
				case <-scenes[sceneOf[i]].open:
				case <-ctx.Done():
					return
				}
				scenes[sceneOf[i]].begun.Done()
				h.send(ctx, i)
			}
		})
	}
	for i, s := range h.plan.scenes {
		if len(s.faults) == 0 {
			close(scenes[i].open)
			scenes[i].begun.Wait()
			continue
		}
		begin := time.Now()
		for _, f := range s.faults {
			f.kind.begin(h, f.replica)
		}
		close(scenes[i].open)
		time.Sleep(s.length)
		for _, f := range s.faults {
			f.kind.end(h, f.replica)
		}
		healed := time.Now()
		for _, r := range h.replicas {
			eventually(h.t, "the replica decides with the store", func() bool { return strings.HasPrefix(r.ready(h.t), "ok") })
		}
		for _, f := range s.faults {
			h.history.faults = append(h.history.faults, fault{f.kind, f.replica, begin, healed, time.Now()})
		}
		h.expectNoSecretInKeys()
	}
	working.Wait()
}

// leaving is the client of requests that are cancelled.
var leaving = newClient(nil)

// send sends the request of an operation.
func (h *historyRun) send(ctx context.Context, i int) {
	o := h.plan.operations[i]
	time.Sleep(o.wait)
	from := client
	if o.abort > 0 {
		// net/http can end another request with one that is cancelled, where it has
		// just given its connection to that.
		from = leaving
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.abort)
		defer cancel()
	}
	nonce := fmt.Sprintf("%d-%d", h.plan.seed, i)
	sent := time.Now()
	a, err := try(ctx, from, http.MethodPost, h.urls[o.replica+1]+"/"+o.route+"/rest?query="+mark, o.body, o.does,
		nonceField+": "+nonce, "X-Request-Id: "+nonce, lingerField+": "+o.linger.String(), tenantField+": "+o.tenant, "X-Api-Key: "+mark)
	h.history.requests[i] = request{operation: o, nonce: nonce, sent: sent, answered: time.Now(), answer: a, err: err, process: -1}
}

// expectNoLock fails the test if a lock is left behind, in the store or in a
// replica, or a key would stay.
func (h *historyRun) expectNoLock() {
	h.t.Helper()
	eventually(h.t, "no lock is left behind", func() bool { return len(h.store.keys("throttle:1:*:lock:*")) == 0 })
	h.store.expectExpiries()
	h.expectNoSecretInKeys()
	for _, r := range historyRoutes {
		for body := range r.bodies {
			for _, replica := range h.replicas {
				eventually(h.t, "an equal request is admitted by every replica", func() bool {
					a := post(h.t, replica.url+"/"+r.name+"/rest?query="+mark, fmt.Sprint(mark, body), tenantField+": "+mark+"0", "X-Api-Key: "+mark)
					return a.status == http.StatusOK
				})
			}
		}
	}
}

var loggedRequest = regexp.MustCompile(`msg=request .* request_id=(\S+)(.* degraded=true)?`)

// read completes the history by what the upstream and the replicas have
// recorded.
func (h *historyRun) read() {
	byNonce := map[string]*request{}
	for i := range h.history.requests {
		byNonce[h.history.requests[i].nonce] = &h.history.requests[i]
	}
	for _, c := range h.upstream.all() {
		if r := byNonce[c.nonce]; r != nil {
			r.calls = append(r.calls, c)
		}
	}
	for i, p := range h.processes {
		for line := range strings.Lines(p.stderr.String()) {
			match := loggedRequest.FindStringSubmatch(line)
			if match == nil || byNonce[match[1]] == nil {
				continue
			}
			r := byNonce[match[1]]
			r.process, r.alone = i, match[2] != ""
			r.logged++
			r.line = strings.TrimSpace(line)
		}
	}
}

// Law 7.
func (h *historyRun) expectSecrets() {
	h.t.Helper()
	for _, p := range h.processes {
		for _, text := range []string{p.stdout.String(), p.stderr.String()} {
			if i := strings.Index(text, mark); i >= 0 {
				h.t.Errorf("law 7: a secret in the log: %s", text[max(0, i-500):min(len(text), i+100)])
			}
		}
	}
	for _, r := range h.history.requests {
		if r.answer.Reason != "" && strings.Contains(r.answer.body, mark) {
			h.t.Errorf("law 7: a secret in an answer: %s", r.answer.body)
		}
	}
}

func (h *historyRun) expectNoSecretInKeys() {
	h.t.Helper()
	for _, key := range h.store.keys("*") {
		if text := key + " " + h.store.redis.Get(h.t.Context(), key).Val(); strings.Contains(text, mark) {
			h.t.Errorf("law 7: a secret in the store: %s", text)
		}
	}
}

// summary says in lines what happened.
func (h *historyRun) summary(took time.Duration, explained map[string]int, violations []string) string {
	var admitted, aborted, unfinished, alone int
	answers := map[string]int{}
	for _, r := range h.history.requests {
		admitted += len(r.calls)
		switch {
		case r.abort > 0 && r.err != nil:
			aborted++
		case r.err != nil:
			unfinished++
		default:
			answers[r.answer.String()]++
		}
		if r.alone && len(r.calls) > 0 {
			alone++
		}
	}
	faults := map[string]int{}
	for _, f := range h.history.faults {
		faults[f.kind.name]++
	}
	law := map[string]int{}
	for _, v := range violations {
		name, _, _ := strings.Cut(v, ":")
		law[name]++
	}
	var s strings.Builder
	fmt.Fprintf(&s, "seed %d, faults %s: %d requests in %s\n", h.plan.seed, h.plan.mode, len(h.history.requests), took.Round(100*time.Millisecond))
	fmt.Fprintf(&s, "  reached the upstream %d, %d of them decided without the store; clients left %d; cut %d\n", admitted, alone, aborted, unfinished)
	fmt.Fprintf(&s, "  answers %v\n", answers)
	fmt.Fprintf(&s, "  faults %v\n", faults)
	fmt.Fprintf(&s, "  overlaps %d unexplained, explained %v; over-admissions %d; violations %v", law["law 1"], explained, law["law 2"], law)
	return s.String()
}
