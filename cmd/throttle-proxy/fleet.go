package main

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"time"

	"throttle-proxy/cluster"
)

// fleetStatus is what all replicas do, in JSON: docs/fleet.md says what each field
// means. Names stay, units are in them, and there is no list that is null.
type fleetStatus struct {
	Asked       string          `json:"asked"`
	At          time.Time       `json:"at"`
	Store       fleetStore      `json:"store"`
	Replicas    []fleetReplica  `json:"replicas"`
	StepSeconds float64         `json:"step_seconds"`
	Routes      []fleetRoute    `json:"routes"`
	Budgets     []fleetBudget   `json:"budgets"`
	Callers     []fleetCaller   `json:"callers"`
	Locks       fleetLocks      `json:"locks"`
	Slots       []fleetSlots    `json:"slots"`
	CoolDowns   []fleetCoolDown `json:"cool_downs"`
	Changed     []statusChanged `json:"changed_by_hand"`
}

type fleetStore struct {
	Address   string       `json:"address"`
	TripMS    float64      `json:"trip_ms"`
	Away      []statusAway `json:"away"`
	Meanwhile string       `json:"meanwhile"`
}

// fleetReplica is one replica. What it has not reported is zero.
type fleetReplica struct {
	Name        string               `json:"name"`
	ID          string               `json:"id"`
	Version     string               `json:"version"`
	StartedAt   time.Time            `json:"started_at"`
	State       string               `json:"state"` // what /-/ready says; "silent" or "missing"
	SilentFor   float64              `json:"silent_seconds"`
	Differences []cluster.Difference `json:"differs"`
	TripMS      float64              `json:"trip_ms"`
	Away        []statusAway         `json:"away"`
	InFlight    int64                `json:"in_flight"`
	Waiting     int                  `json:"waiting"`
	LocksHeld   int                  `json:"locks_held"`
}

const (
	stateSilent  = "silent"  // it lives, and has reported nothing
	stateMissing = "missing" // it is heard of no more, and has not said that it ends
)

// fleetRoute is a route on all replicas.
type fleetRoute struct {
	Name       string      `json:"name"`
	Policy     string      `json:"policy"` // in words
	LastMinute fleetMinute `json:"last_minute"`
	Series     fleetSeries `json:"series"`
}

type fleetMinute struct {
	counted
	Paused int     `json:"paused"`
	Waited int     `json:"waited"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
}

// fleetSeries are requests a step, the latest last; empty where there were none.
type fleetSeries struct {
	Forwarded  []int `json:"forwarded"`
	Limited    []int `json:"limited"`
	Duplicates []int `json:"duplicates"`
	Errors     []int `json:"errors"`
}

type fleetBudget struct {
	Limit string `json:"limit"`
	Of    string `json:"of"`
	Rate  string `json:"rate"`
	Left  int    `json:"left"`
	Most  int    `json:"most"`
}

type fleetCaller struct {
	Route string `json:"route"`
	callerCount
}

type fleetLocks struct {
	Held   int         `json:"held"`
	Oldest []fleetLock `json:"oldest"`
}

type fleetLock struct {
	statusLock
	Replica string `json:"replica"`
}

type fleetSlots struct {
	Limit string `json:"limit"`
	Of    string `json:"of"`
	Used  int    `json:"used"`
	Most  int    `json:"most"`
}

type fleetCoolDown struct {
	Of     string  `json:"of"`
	Caller bool    `json:"caller"`
	Left   float64 `json:"left_seconds"`
}

// serveFleet answers with what all replicas do.
func (a *admin) serveFleet(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a.fleet(r.Context())) // or the operator has left
}

// fleet asks all replicas what they do.
func (a *admin) fleet(ctx context.Context) *fleetStatus {
	reports, _ := a.store.Reports(ctx) // of a store that is away this replica tells
	snapshot, own := a.snapshot(), a.report()
	f := &fleetStatus{
		Asked: a.config.replica, At: time.Now().UTC(), StepSeconds: stepTime.Seconds(), Changed: snapshot.Changed,
		Store: fleetStore{Address: snapshot.Store.Address, TripMS: own.TripMS, Away: emptied(own.Away)},
	}
	if len(own.Away) > 0 {
		f.Store.Meanwhile = a.config.meanwhile("")
	}
	sum := newFleetSum()
	self := fleetReplica{Name: a.config.replica, ID: a.self.ID, Version: a.self.Version, StartedAt: a.self.Started}
	self.tell(own)
	sum.add(self.Name, own)
	f.Replicas = append(f.Replicas, self)
	status := a.store.Status()
	for _, p := range status.Peers {
		replica := fleetReplica{Name: cmp.Or(p.Name, p.ID), ID: p.ID, Version: p.Version, StartedAt: p.Started, State: stateSilent, Differences: emptied(p.Differences), Away: []statusAway{}}
		if report, err := unpackReport(reports[p.ID]); err == nil {
			replica.tell(report)
			sum.add(replica.Name, report)
		}
		f.Replicas = append(f.Replicas, replica)
	}
	for _, m := range status.Missing {
		f.Replicas = append(f.Replicas, fleetReplica{
			Name: cmp.Or(m.Name, m.ID), ID: m.ID, Version: m.Version, StartedAt: m.Started, State: stateMissing, SilentFor: m.Silent.Seconds(),
			Differences: []cluster.Difference{}, Away: []statusAway{},
		})
	}
	slices.SortStableFunc(f.Replicas, func(a, b fleetReplica) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	sum.tell(f, snapshot.Routes)
	return f
}

// tell notes what a replica has reported of itself.
func (r *fleetReplica) tell(report replicaReport) {
	r.State, r.TripMS, r.Away = report.Ready, report.TripMS, emptied(report.Away)
	r.InFlight, r.Waiting, r.LocksHeld = report.InFlight, report.Waiting, report.Locks.Held
	r.Differences = emptied(r.Differences)
}

// emptied is list, but never nil.
func emptied[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// sumOf is a limit, or what else there is one of for each route or pool.
type sumOf struct {
	name, of string
	caller   bool
}

// fleetSum adds up what replicas report.
type fleetSum struct {
	routes    map[string]*routeSum
	callers   map[string]topCallers // by route
	budgets   map[sumOf]fleetBudget
	slots     map[sumOf]fleetSlots
	coolDowns map[sumOf]float64 // the longest
	locks     []fleetLock
	held      int
}

// routeSum is a route on all replicas.
type routeSum struct {
	steps          packedSteps
	paused, waited int
	took           map[int]uint32
}

func newFleetSum() *fleetSum {
	return &fleetSum{
		routes: map[string]*routeSum{}, callers: map[string]topCallers{},
		budgets: map[sumOf]fleetBudget{}, slots: map[sumOf]fleetSlots{}, coolDowns: map[sumOf]float64{},
	}
}

// add adds what a replica reports. Of a budget it believes the one that has seen
// the least of it: the others have not seen it for longer.
func (s *fleetSum) add(replica string, r replicaReport) {
	s.held += r.Locks.Held
	for _, l := range r.Locks.Oldest {
		s.locks = append(s.locks, fleetLock{l, replica})
	}
	for _, b := range r.Budgets {
		id := sumOf{name: b.Limit, of: b.Of}
		if known, ok := s.budgets[id]; !ok || b.Left < known.Left {
			s.budgets[id] = b
		}
	}
	for _, l := range r.Slots {
		id := sumOf{name: l.Limit, of: l.Of}
		s.slots[id] = fleetSlots{l.Limit, l.Of, s.slots[id].Used + l.Used, l.Most}
	}
	for _, c := range r.CoolDowns {
		id := sumOf{of: c.Of, caller: c.Caller}
		s.coolDowns[id] = max(s.coolDowns[id], c.Seconds)
	}
	for name, route := range r.Routes {
		sum := s.routes[name]
		if sum == nil {
			sum = &routeSum{took: map[int]uint32{}}
			s.routes[name], s.callers[name] = sum, topCallers{}
		}
		for i, step := range route.Steps {
			sum.steps[i].add(step)
		}
		sum.paused += route.Paused
		sum.waited += route.Waited
		for class, n := range route.Took {
			sum.took[class] += n
		}
		for _, c := range route.Most {
			s.callers[name][callerOf{c.Caller, c.Reason}] += c.Refused
		}
	}
}

// maxCallers is how many callers a status lists, those that are refused most.
const maxCallers = 50

// tell writes the sums.
func (s *fleetSum) tell(f *fleetStatus, policies map[string]string) {
	f.Routes = make([]fleetRoute, 0, len(policies))
	for _, name := range slices.Sorted(maps.Keys(policies)) {
		f.Routes = append(f.Routes, s.routes[name].tell(name, policies[name]))
	}
	f.Callers = []fleetCaller{}
	for route, of := range s.callers {
		for _, c := range merge(of) {
			f.Callers = append(f.Callers, fleetCaller{route, c})
		}
	}
	slices.SortFunc(f.Callers, func(a, b fleetCaller) int {
		return cmp.Or(cmp.Compare(b.Refused, a.Refused), cmp.Compare(a.Route, b.Route), cmp.Compare(a.Caller, b.Caller), cmp.Compare(a.Reason, b.Reason))
	})
	f.Callers = f.Callers[:min(len(f.Callers), maxCallers)]
	f.Budgets = slices.AppendSeq([]fleetBudget{}, maps.Values(s.budgets))
	slices.SortFunc(f.Budgets, func(a, b fleetBudget) int {
		return cmp.Or(cmp.Compare(a.share(), b.share()), cmp.Compare(a.Of, b.Of), cmp.Compare(a.Limit, b.Limit))
	})
	f.Slots = slices.AppendSeq([]fleetSlots{}, maps.Values(s.slots))
	slices.SortFunc(f.Slots, func(a, b fleetSlots) int { return cmp.Or(cmp.Compare(a.Of, b.Of), cmp.Compare(a.Limit, b.Limit)) })
	f.CoolDowns = []fleetCoolDown{}
	for id, left := range s.coolDowns {
		f.CoolDowns = append(f.CoolDowns, fleetCoolDown{id.of, id.caller, left})
	}
	slices.SortFunc(f.CoolDowns, func(a, b fleetCoolDown) int { return cmp.Or(cmp.Compare(b.Left, a.Left), cmp.Compare(a.Of, b.Of)) })
	slices.SortFunc(s.locks, func(a, b fleetLock) int { return cmp.Compare(b.Seconds, a.Seconds) })
	f.Locks = fleetLocks{s.held, emptied(s.locks[:min(len(s.locks), maxLocks)])}
}

// share is how much of a budget is left, of 1.
func (b fleetBudget) share() float64 { return float64(b.Left) / float64(max(1, b.Most)) }

// tell writes what became of a route's requests; s is nil where there were none.
func (s *routeSum) tell(name, policy string) fleetRoute {
	r := fleetRoute{Name: name, Policy: policy, Series: fleetSeries{[]int{}, []int{}, []int{}, []int{}}}
	if s == nil {
		return r
	}
	for i, step := range s.steps {
		r.Series.Forwarded = append(r.Series.Forwarded, step.Forwarded)
		r.Series.Limited = append(r.Series.Limited, step.Limited)
		r.Series.Duplicates = append(r.Series.Duplicates, step.Duplicates)
		r.Series.Errors = append(r.Series.Errors, step.Errors)
		if i >= tallySteps-minuteSteps {
			r.LastMinute.add(step)
		}
	}
	r.LastMinute.Paused, r.LastMinute.Waited = s.paused, s.waited
	r.LastMinute.P50, r.LastMinute.P99 = quantile(s.took, .5), quantile(s.took, .99)
	return r
}
