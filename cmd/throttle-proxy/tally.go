package main

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"

	"throttle-proxy/proxy"
)

// What became of requests over the last minutes is counted in steps of time, for
// the status of the fleet and its page.
const (
	stepTime    = 5 * time.Second
	tallySteps  = 60 // kept, besides the one that has not ended
	minuteSteps = int(time.Minute / stepTime)

	perOctave = 4 // classes of durations: each is 19 % longer than the one before
	octaves   = 21
	shortest  = 0.05 // ms
)

// tally counts the requests of all routes. It takes no memory for routes without
// requests.
type tally struct {
	routes map[string]*routeTally
}

func newTally(c *config) *tally {
	t := &tally{routes: make(map[string]*routeTally, len(c.routes))}
	for _, r := range c.routes {
		t.routes[r.Name] = &routeTally{}
	}
	return t
}

// observe counts a request. It is called concurrently.
func (t *tally) observe(e *proxy.Event) {
	if r := t.routes[e.Route]; r != nil {
		r.observe(e, time.Now())
	}
}

// counted is how many requests ended how.
type counted struct {
	Forwarded  int `json:"forwarded"`  // or shared or kept for it, and answered by the upstream, but not with 5xx
	Limited    int `json:"limited"`    // refused by a limit, a cool-down or a pause
	Duplicates int `json:"duplicates"` // refused as such
	Errors     int `json:"errors"`     // 5xx, the upstream's and ours, and where it cut the connection
	Other      int `json:"other"`      // what could not be read, and clients that left
}

func (c *counted) add(other counted) {
	c.Forwarded += other.Forwarded
	c.Limited += other.Limited
	c.Duplicates += other.Duplicates
	c.Errors += other.Errors
	c.Other += other.Other
}

// count counts a request that ended so.
func (c *counted) count(e *proxy.Event) {
	switch e.Reason {
	case proxy.ReasonLimited, proxy.ReasonBusy, proxy.ReasonCoolingDown, proxy.ReasonPaused:
		c.Limited++
	case "":
		if e.Status >= 500 {
			c.Errors++
		} else {
			c.Forwarded++
		}
	case proxy.ReasonUpstreamClosed:
		c.Errors++
	default:
		switch {
		case e.Reason.OfDuplicate():
			c.Duplicates++
		case e.Status >= 500:
			c.Errors++
		default:
			c.Other++
		}
	}
}

// routeTally counts the requests of one route.
type routeTally struct {
	mu     sync.Mutex
	recent *recent       // nil before the first request
	most   [2]topCallers // of this period, and of the one before
	since  time.Time     // when this period began
}

// recent are steps of time by their number, modulo.
type recent struct {
	steps   [tallySteps + 1]step
	minutes [minuteSteps + 1]minuteStep
}

// step is what ended within one step of time.
type step struct {
	number int64 // since 1970; where it is another, so is the step
	counted
}

// minuteStep is what is kept for a minute alone.
type minuteStep struct {
	number         int64
	paused, waited int
	took           [perOctave * octaves]uint32 // until the upstream's header, by class
}

func numberOf(t time.Time) int64 { return t.UnixNano() / int64(stepTime) }

// observe counts a request that ended now.
func (r *routeTally) observe(e *proxy.Event, now time.Time) {
	number := numberOf(now)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.recent == nil {
		r.recent = &recent{}
	}
	s := &r.recent.steps[number%int64(len(r.recent.steps))]
	if s.number != number {
		*s = step{number: number}
	}
	s.count(e)
	m := &r.recent.minutes[number%int64(len(r.recent.minutes))]
	if m.number != number {
		*m = minuteStep{number: number}
	}
	if e.Reason == proxy.ReasonPaused || e.Reason == proxy.ReasonCoolingDown {
		m.paused++
	}
	if e.Waited > 0 {
		m.waited++
	}
	if e.Upstream > 0 && e.Reason == "" {
		m.took[classOf(e.Upstream)]++
	}
	if e.Caller != "" && (e.Reason == proxy.ReasonLimited || e.Reason == proxy.ReasonBusy || e.Reason.OfDuplicate()) {
		r.turn(now)
		r.most[0].count(callerOf{e.Caller, string(e.Reason)})
	}
}

// turn begins another period where one has ended; with r.mu held.
func (r *routeTally) turn(now time.Time) {
	const period = tallySteps * stepTime / 2
	switch since := now.Sub(r.since); {
	case since > 2*period:
		r.most, r.since = [2]topCallers{}, now
	case since > period:
		r.most, r.since = [2]topCallers{nil, r.most[0]}, r.since.Add(period)
	}
}

// routeReport is what became of a route's requests on one replica.
type routeReport struct {
	Steps  packedSteps    `json:"steps"`
	Paused int            `json:"paused,omitempty"` // of the last minute, likewise below
	Waited int            `json:"waited,omitempty"`
	Took   map[int]uint32 `json:"took,omitempty"` // by class
	Most   []callerCount  `json:"most,omitempty"`
}

// report returns what ended before now; ok is false if that is nothing.
func (r *routeTally) report(now time.Time) (report routeReport, ok bool) {
	last := numberOf(now) - 1
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.recent == nil {
		return report, false
	}
	for i := range report.Steps {
		number := last - int64(tallySteps-1-i)
		if s := &r.recent.steps[number%int64(len(r.recent.steps))]; s.number == number {
			report.Steps[i], ok = s.counted, true
		}
	}
	report.Took = map[int]uint32{}
	for number := last; number > last-int64(minuteSteps); number-- {
		m := &r.recent.minutes[number%int64(len(r.recent.minutes))]
		if m.number != number {
			continue
		}
		report.Paused += m.paused
		report.Waited += m.waited
		for class, n := range m.took {
			if n > 0 {
				report.Took[class] += n
			}
		}
	}
	r.turn(now)
	report.Most = merge(r.most[0], r.most[1])
	return report, ok
}

// classOf returns the class of a duration.
func classOf(d time.Duration) int {
	ms := float64(d) / float64(time.Millisecond)
	class := math.Ceil(perOctave * math.Log2(max(ms, shortest)/shortest))
	return min(int(class), perOctave*octaves-1)
}

// quantile returns what a share of requests did not exceed, in milliseconds, to
// within a class; 0 of none.
func quantile(took map[int]uint32, share float64) float64 {
	all := 0.0
	for _, n := range took {
		all += float64(n)
	}
	sum := 0.0
	for class := range perOctave * octaves {
		if sum += float64(took[class]); sum > 0 && sum >= share*all {
			return math.Round(1000*shortest*math.Exp2(float64(class)/perOctave)) / 1000
		}
	}
	return 0
}

// callerOf is a caller that is refused for a reason.
type callerOf struct{ Caller, Reason string }

// topCallers counts those that are refused most. Of more than it has room for it
// forgets the one with the fewest, and takes the next for having had as many, so that
// who is refused often is never missed.
type topCallers map[callerOf]int

const (
	mostCounted  = 32
	mostReported = 5
)

func (t *topCallers) count(c callerOf) {
	if *t == nil {
		*t = make(topCallers)
	}
	n, known := (*t)[c]
	if !known && len(*t) >= mostCounted {
		var fewest callerOf
		for other, count := range *t {
			if n == 0 || count < n {
				fewest, n = other, count
			}
		}
		delete(*t, fewest)
	}
	(*t)[c] = n + 1
}

type callerCount struct {
	Caller  string `json:"caller"`
	Reason  string `json:"reason"`
	Refused int    `json:"refused"`
}

// merge returns the first of all.
func merge(all ...topCallers) (most []callerCount) {
	sums := topCallers{}
	for _, some := range all {
		for c, n := range some {
			sums[c] += n
		}
	}
	for c, n := range sums {
		most = append(most, callerCount{c.Caller, c.Reason, n})
	}
	slices.SortFunc(most, func(a, b callerCount) int {
		return cmp.Or(cmp.Compare(b.Refused, a.Refused), cmp.Compare(a.Caller, b.Caller), cmp.Compare(a.Reason, b.Reason))
	})
	return most[:min(len(most), mostReported)]
}
