package integration

import (
	"context"
	"fmt"
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

// historyRun plays a plan, and records what happens.
type historyRun struct {
	t         *testing.T
	plan      *plan
	history   history
	upstream  *upstream
	store     *storeUnderTest
	words     []string
	urls      []string   // by replica + 1: the first is the load balancer's
	gone      string     // an address at which nobody listens
	replicas  []*replica // that run
	changed   []int      // which of changedLimits each has
	processes []*process // all that ever did
}

func newHistoryRun(t *testing.T, p *plan) *historyRun {
	h := &historyRun{
		t: t, plan: p, upstream: pausing(t, http.StatusTooManyRequests, "Retry-After: 1"), store: storeUnderTestOn(t, redistest.StartSkewed(t, 0)),
		urls: []string{""}, gone: net.JoinHostPort("127.99.99.99", redistest.FreePort(t)), changed: make([]int, historySize),
	}
	h.upstream.signs = true
	h.words = append(h.words, "THROTTLE_PROXY_REDIS="+h.store.link.URL(), "THROTTLE_PROXY_STORE_TIMEOUT=5s", "THROTTLE_PROXY_LOCK_TTL=10m")
	h.words = append(h.words, historyFlags(h.upstream, h.gone, p.mode)...)
	for i := range historySize {
		h.replicas = append(h.replicas, nil)
		h.start(i, net.JoinHostPort("127.0.0.1", redistest.FreePort(t)))
		h.urls = append(h.urls, h.replicas[i].url)
	}
	h.urls[0] = startBalancer(t, h.replicas)
	h.history = history{
		limits: append(slices.Clone(historyLimits), widest(changedLimits)), hold: historyHold, pause: historyPause,
		replicas: historySize, ttl: historyTTL, few: historyFew,
	}
	for _, r := range historyRoutes {
		if !r.decidesAlone {
			h.history.closed = append(h.history.closed, r.name)
		}
	}
	return h
}

func (h *historyRun) start(i int, addr string) {
	h.t.Helper()
	l := changedLimits[h.changed[i]]
	r := startReplicaOn(h.t, addr, append(slices.Clone(h.words), "--rate", fmt.Sprintf("%s=%g/s,burst=%d", l.route, l.perSecond, l.burst))...)
	h.t.Cleanup(func() { _ = r.cmd.Process.Signal(syscall.SIGCONT) })
	h.replicas[i], h.processes = r, append(h.processes, r.process)
}

func (h *historyRun) restart(i int) { h.start(i, h.replicas[i].addr) }

// play plays the plan, checks the laws, and says in a line what happened.
func (h *historyRun) play() string {
	h.t.Helper()
	began := time.Now()
	h.perform()
	took := time.Since(began)
	h.expectNoLock()
	h.expectNoChargeWithoutASend()
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
			f.kind.begin(h, f)
		}
		close(scenes[i].open)
		time.Sleep(s.length)
		for _, f := range s.faults {
			f.kind.end(h, f)
		}
		healed := time.Now()
		for _, r := range h.replicas {
			eventually(h.t, "the replica decides with the store", func() bool { return strings.HasPrefix(r.ready(h.t), "ok") })
		}
		if slices.ContainsFunc(s.faults, func(f plannedFault) bool { return f.kind.estranges() }) {
			h.awaitBeats()
		}
		for _, f := range s.faults {
			h.history.faults = append(h.history.faults, fault{f.kind, f.replica, f.step(), begin, healed, time.Now()})
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
	fields := []string{o.does, nonceField + ": " + nonce, "X-Request-Id: " + nonce, lingerField + ": " + o.linger.String(),
		tenantField + ": " + o.tenant, "X-Api-Key: " + mark}
	body := o.body
	if o.route == "keyed" {
		fields = append(fields, fmt.Sprintf("Idempotency-Key: \"%d %s\"", h.plan.seed, o.body))
		if o.other {
			body += " other"
		}
	}
	sent := time.Now()
	a, err := try(ctx, from, http.MethodPost, h.urls[o.replica+1]+"/"+o.route+"/rest?query="+mark, body, fields...)
	h.history.requests[i] = request{operation: o, nonce: nonce, sent: sent, answered: time.Now(), answer: a, err: err, process: -1}
}

// expectNoLock fails the test if a lock is left behind, in the store or in a
// replica, or a key would stay.
func (h *historyRun) expectNoLock() {
	h.t.Helper()
	eventually(h.t, "no lock is left behind", func() bool {
		return !slices.ContainsFunc(h.store.keys("throttle:*:lock:*"), func(key string) bool {
			return !strings.HasSuffix(h.store.redis.Get(h.t.Context(), key).Val(), " done") // which refuses nobody
		})
	})
	eventually(h.t, "no slot is left behind", func() bool { return len(h.store.keys("throttle:*:slots:*")) == 0 })
	h.store.expectExpiries()
	h.expectNoSecretInKeys()
	for _, r := range historyRoutes {
		want := http.StatusOK
		if r.name == "gone" {
			want = http.StatusBadGateway
		}
		for body := range r.bodies {
			for i := range h.replicas {
				eventually(h.t, "an equal request is admitted by every replica", func() bool {
					return h.post(i, r.name, fmt.Sprint(mark, body)).status == want
				})
			}
		}
	}
}

// post sends a request that is not of the history.
func (h *historyRun) post(replica int, route, body string) answer {
	h.t.Helper()
	return post(h.t, h.replicas[replica].url+"/"+route+"/rest?query="+mark, body, tenantField+": "+mark+"0", "X-Api-Key: "+mark)
}

// expectNoChargeWithoutASend fails the test if a budget is charged for what was
// not sent, while nothing else is charged, or, in a history in which the store
// keeps its data, has not been charged for what was.
func (h *historyRun) expectNoChargeWithoutASend() {
	h.t.Helper()
	probe := func() (spent, sent int) {
		h.t.Helper()
		var a answer
		eventually(h.t, "the store decides", func() bool {
			a = h.post(0, "kept", fmt.Sprint("probe ", nonces.Load()))
			return a.header.Get("RateLimit") != ""
		})
		for _, c := range h.upstream.all() {
			if strings.HasPrefix(c.target, "/kept") {
				sent++
			}
		}
		return purse - a.remaining(h.t, "purse"), sent
	}
	spent, sent := probe()
	if h.plan.mode == "none" && spent < sent-1 { // one may have been earned
		h.t.Errorf("charges: %d requests were sent, %d are charged", sent, spent)
	}
	for i := range 10 {
		eventually(h.t, "nobody listens", func() bool {
			return h.post(i%historySize, "gone", fmt.Sprint("unsent ", nonces.Load())).String() == "502 upstream-refused"
		})
	}
	if spentNow, sentNow := probe(); spentNow-spent != sentNow-sent {
		h.t.Errorf("charges: %d more of a budget are spent after ten requests that could not be sent and %d that were", spentNow-spent, sentNow-sent)
	}
}

// awaitBeats returns once all replicas know of each other.
func (h *historyRun) awaitBeats() {
	h.t.Helper()
	for range 3 { // as in [fleet.awaitBeats]
		before := beats(h.t.Context(), h.store.redis)
		eventually(h.t, "all replicas have another heartbeat", func() bool {
			again := 0
			for id, at := range beats(h.t.Context(), h.store.redis) {
				if before[id] != at {
					again++
				}
			}
			return again >= historySize
		})
	}
}

var loggedRequest = regexp.MustCompile(`msg=request .* client_request_id=(\S+)(.* degraded=true)?`)

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
		away := outagesOf(p.stderr.String())
		for line := range strings.Lines(p.stderr.String()) {
			match := loggedRequest.FindStringSubmatch(line)
			if match == nil || byNonce[match[1]] == nil {
				continue
			}
			r := byNonce[match[1]]
			r.process, r.alone = i, match[2] != ""
			r.away = slices.ContainsFunc(away, func(o stretch) bool { return o.from.Before(r.answered) && r.sent.Before(o.to) })
			r.logged++
			r.line = strings.TrimSpace(line)
		}
	}
}

// stretch is one of time.
type stretch struct{ from, to time.Time }

var loggedOutage = regexp.MustCompile(`(?m)^time=(\S+) .*msg="store (away|back)"`)

// outagesOf returns when a replica took the store to be away, by its log.
func outagesOf(log string) (all []stretch) {
	for _, match := range loggedOutage.FindAllStringSubmatch(log, -1) {
		at, err := time.Parse(time.RFC3339, match[1])
		switch {
		case err != nil:
			panic(err) // the log's own format
		case match[2] == "away":
			all = append(all, stretch{at, time.Now()})
		case len(all) > 0:
			all[len(all)-1].to = at.Add(time.Millisecond) // to which the log's times are cut
		}
	}
	return all
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
