package integration

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
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
	other               bool          // it says something else under the same key
}

// scene is a number of operations with faults, or without.
type scene struct {
	operations int
	faults     []plannedFault
	length     time.Duration // of the faults
}

const (
	mark        = "CANARY" // in all that is secret
	historySize = 3        // replicas

	// With faults of the store, what takes longer than this is decided alone;
	// without, nothing is.
	historyTimeout = 300 * time.Millisecond
	historyTTL     = 3 * time.Second
	historyHold    = 100 * time.Millisecond
	historyPause   = 300 * time.Millisecond // of the second that the upstream asks for
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
	{"changed", 15, 12, 1, true},
	{"rests", 10, 4, 1, true}, // its upstream asks for pauses
	{"kept", 10, 10, 1, true},
	{"gone", 5, 10, 1, true},   // nobody listens there
	{"paced", 15, 8, 1, true},  // waits for its budget
	{"few", 15, 12, 1, true},   // at once, and no lock
	{"shared", 15, 4, 1, true}, // duplicates get the answer
	{"twice", 10, 6, 1, true},  // also a while later
	{"newest", 15, 4, 1, true}, // of an exchange that began after they came
	{"keyed", 15, 60, 1, false},
}

// historyFew is how many of the route "few" there are at once.
const historyFew = 3

var historyLimits = []limit{
	{route: "limited", perSecond: 20, burst: 10, byTenant: true},
	{route: "limited", perSecond: 40, burst: 20},
	{route: "free", perSecond: 100, burst: 20},
	{route: "shut", perSecond: 50, burst: 20},
	{route: "rests", perSecond: 30, burst: 10},
	{route: "paced", perSecond: 20, burst: 2, wait: time.Second},
}

// changedLimits are those of the route "changed": a replica has one of them at
// a time.
var changedLimits = []limit{
	{route: "changed", perSecond: 4, burst: 6},
	{route: "changed", perSecond: 1, burst: 10},
	{route: "changed", perSecond: 8, burst: 2},
}

// widest is what replicas with different limits may admit together: by the
// larger burst and the faster rate.
func widest(limits []limit) limit {
	all := limits[0]
	for _, l := range limits {
		all.perSecond, all.burst = max(all.perSecond, l.perSecond), max(all.burst, l.burst)
	}
	return all
}

// purse is a budget of the routes "kept" and "gone" together, of which nothing
// is earned back within a test.
const purse = 100_000

// historyFlags returns the command line that all replicas have in common.
func historyFlags(u *upstream, gone, mode string) (words []string) {
	for _, r := range historyRoutes {
		host := strings.Replace(u.URL, "http://", "http://user:"+mark+"@", 1)
		if r.name == "gone" {
			host = "http://" + gone
		}
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
	words = append(words, "--pool", "purse=kept,gone", "--rate", fmt.Sprintf("purse=%d/8760h", purse), "--max-cool-down", historyPause.String())
	words = append(words, "--wait", "paced=1s", "--concurrency", fmt.Sprint("few=", historyFew), "--dedupe", "few=off", "--wait", "few=50ms")
	words = append(words, "--rate", "off", "--dedupe", "free=off", "--client-gone", "leave=cancel",
		"--hold", "0s,unknown=0s", "--hold", fmt.Sprintf("held=%s,unknown=%[1]s", historyHold), "--replicas", fmt.Sprint(historySize))
	words = append(words, "--on-duplicate", "shared=join", "--on-duplicate", "twice=join", "--on-duplicate", "newest=fresh",
		"--hold", fmt.Sprintf("twice=%s,unknown=%[1]s", historyHold), "--idempotency", "keyed=1h")
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
		f, length := draw(random, kinds, replica)
		s.faults, s.length = append(s.faults, f), max(s.length, length)
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
	o.other = o.route == "keyed" && random.IntN(10) == 0
	if o.route == "rests" && random.IntN(8) == 0 {
		o.does = asksToPause
	}
	if random.IntN(8) == 0 {
		o.abort = time.Duration(1 + random.Int64N(int64(40*time.Millisecond)))
	}
	return o
}
