package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

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
		"--register", "hook=" + p.upstream.URL, "--rate", "hook=3/d,by=header:X-Caller", "--hold", "0s,unknown=0s",
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
