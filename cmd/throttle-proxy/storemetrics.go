package main

import (
	"cmp"
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
)

// store is what is asked of the store from outside of requests.
type store interface {
	proxy.Cluster
	Status() cluster.Status
	// Reports returns what the other replicas report, by their ids.
	Reports(ctx context.Context) (map[string][]byte, error)
	// Drain refuses requests that would wait for longer than until the process ends,
	// after left.
	Drain(left time.Duration)
	// Control has an operator's order followed by all replicas.
	Control(cluster.Order) (cluster.Receipt, error)
}

// storeCollector reads a store's status when Prometheus does.
type storeCollector struct {
	store  store
	shared bool // by replicas
	limits map[slotsOf]float64
}

// slotsOf is a concurrency limit, by its name and the route or pool that has it.
type slotsOf struct{ name, tag string }

func newStoreCollector(c *config, store store) *storeCollector {
	limits := map[slotsOf]float64{}
	for _, r := range c.routes {
		for _, l := range r.Concurrency {
			limits[slotsOf{l.Name, cmp.Or(r.Pool, r.Name)}] = float64(l.Most)
		}
	}
	return &storeCollector{store: store, shared: c.endpoint != nil, limits: limits}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

var (
	locksHeld    = describe("locks_held", "Locks of exchanges under way.")
	locksRenewed = describe("locks_renewed_total", "Renewals of locks in the store.")
	locksLost    = describe("locks_lost_total", "Locks that were another's when they were to be renewed.")
	waitingNow   = describe("waiting", "Requests that wait for their budgets or for slots.")
	slotsUsed    = describe("slots_used", "Slots of concurrency limits that exchanges of this replica have; those of all callers together.", "limit", "of")
	slotsMost    = describe("slots", "Slots of concurrency limits over all replicas; where one goes by caller, those of each.", "limit", "of")
	slotsLost    = describe("slots_lost_total", "Slots that could not be renewed, since others had taken all.")
	byHand       = describe("changed_by_hand", "Limits and pauses that operators have set, and that hold.", "what", "of")
	cooling      = describe("cool_downs", "Cool-downs that this replica knows of.")
	storeUp      = describe("store_up", "1 while all of the store is asked, 0 while the breaker of it, or of a part, is open.")
	storeFaults  = describe("store_faults_total", "Asks and other calls that the store did not answer, or by an error.", "fault")
	storeAway    = describe("degraded_seconds_total", "Time for which the store, or a part of it, was away.")
	replicasLive = describe("replicas", "Replicas that live, with this one, as the store last told; 0 while it has not.")
	differing    = describe("replicas_differing", "Other replicas whose routes differ from this one's.")
)

// Describe implements [prometheus.Collector].
func (c *storeCollector) Describe(descs chan<- *prometheus.Desc) {
	all := []*prometheus.Desc{locksHeld, cooling, waitingNow, slotsUsed, slotsMost, byHand}
	if c.shared {
		all = append(all, slotsLost, locksRenewed, locksLost, storeUp, storeFaults, storeAway, replicasLive, differing)
	}
	for _, desc := range all {
		descs <- desc
	}
}

// Collect implements [prometheus.Collector].
func (c *storeCollector) Collect(values chan<- prometheus.Metric) {
	s := c.store.Status()
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		values <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	counter := func(desc *prometheus.Desc, v float64, labels ...string) {
		values <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, v, labels...)
	}
	gauge(locksHeld, float64(len(s.Locks)))
	gauge(cooling, float64(len(s.Pauses)))
	gauge(waitingNow, float64(s.Waiting))
	used := map[slotsOf]int{}
	for _, slots := range s.Slots {
		used[slotsOf{slots.Limit, slots.Tag}] += slots.Used
	}
	for of, most := range c.limits {
		gauge(slotsMost, most, of.name, of.tag)
		gauge(slotsUsed, float64(used[of]), of.name, of.tag)
	}
	type change struct{ what, of string }
	changes := map[change]int{}
	for _, changed := range s.Changed {
		changes[change{string(changed.Deed), cmp.Or(changed.Tag, changed.Route)}]++
	}
	for of, n := range changes {
		values <- prometheus.MustNewConstMetric(byHand, prometheus.GaugeValue, float64(n), of.what, of.of)
	}
	if !c.shared {
		return
	}
	up, differ := 1.0, 0
	if len(s.Away) > 0 {
		up = 0
	}
	for _, peer := range s.Peers {
		if len(peer.Differences) > 0 {
			differ++
		}
	}
	gauge(storeUp, up)
	gauge(replicasLive, float64(s.Live))
	gauge(differing, float64(differ))
	counter(locksRenewed, float64(s.Renewed))
	counter(locksLost, float64(s.Lost))
	counter(slotsLost, float64(s.SlotsLost))
	counter(storeAway, s.Degraded.Seconds())
	for fault, n := range s.Faults {
		counter(storeFaults, float64(n), fault)
	}
}
