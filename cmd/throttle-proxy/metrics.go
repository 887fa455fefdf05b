package main

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
	"throttle-proxy/proxy"
)

// buckets are those of durations, in seconds: a verdict takes less than the
// first ones, an upstream up to the last.
var buckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// metrics are what a replica tells Prometheus. Labels come from closed lists:
// none has anything of a client or of an upstream's URL.
type metrics struct {
	registry  *prometheus.Registry
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	verdicts  *prometheus.HistogramVec
	upstreams *prometheus.HistogramVec
	degraded  *prometheus.CounterVec
	shadowed  *prometheus.CounterVec
	coolDowns *prometheus.CounterVec
	budgets   *budgets

	kinds sync.Map // kind → *children
}

// kind is what requests have in common that count as the same.
type kind struct {
	route, class, outcome string
	status                int
}

// children are the metrics of one kind, which are dear to look up.
type children struct {
	requests                    prometheus.Counter
	duration, verdict, upstream prometheus.Observer
}

// newMetrics returns the metrics of a replica of p that decides by store.
func newMetrics(c *config, p *proxy.Proxy, store store) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	}
	histogram := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, []string{"route"})
	}
	m := &metrics{
		registry:  prometheus.NewRegistry(),
		requests:  counter("requests_total", "Requests that have ended, by what became of them.", "route", "method_class", "outcome", "status"),
		durations: histogram("request_duration_seconds", "From a request's header to the end of its answer."),
		verdicts:  histogram("verdict_duration_seconds", "From an ask to its verdict, the trip to the store included."),
		upstreams: histogram("upstream_duration_seconds", "From sending a request on until the header of its answer."),
		degraded:  counter("degraded_requests_total", "Requests decided, or left undecided, without the store, by why it gave no answer.", "route", "fault"),
		shadowed:  counter("shadowed_refusals_total", "Requests that shadow mode has let through.", "route", "reason"),
		coolDowns: counter("cool_downs_total", "Answers of the upstream that began or extended a cool-down.", "route"),
		budgets:   newBudgets(c),
	}
	inFlight := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "in_flight", Help: "Exchanges under way.",
	}, func() float64 { return float64(p.InFlight()) })
	bodyMemory := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "body_memory_bytes", Help: "Bytes of clients' bodies that are held to compare requests.",
	}, func() float64 { return float64(p.BodyMemory()) })
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "Always 1; the version is a label.", ConstLabels: prometheus.Labels{"version": version()},
	})
	build.Set(1)
	m.registry.MustRegister(m.requests, m.durations, m.verdicts, m.upstreams, m.degraded, m.shadowed, m.coolDowns, m.budgets, inFlight, bodyMemory, build,
		&storeCollector{store: store, shared: c.connect != nil},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

const namespace = "throttle_proxy"

// observe counts a request. It is called concurrently.
func (m *metrics) observe(e *proxy.Event) {
	k := kind{e.Route, methodClass(e.Method), outcome(e), e.Status}
	known, ok := m.kinds.Load(k)
	if !ok {
		known, _ = m.kinds.LoadOrStore(k, &children{
			requests: m.requests.WithLabelValues(k.route, k.class, k.outcome, strconv.Itoa(k.status)),
			duration: m.durations.WithLabelValues(k.route),
			verdict:  m.verdicts.WithLabelValues(k.route),
			upstream: m.upstreams.WithLabelValues(k.route),
		})
	}
	of := known.(*children)
	of.requests.Inc()
	of.duration.Observe(e.Duration.Seconds())
	if e.Verdict > 0 {
		of.verdict.Observe(e.Verdict.Seconds())
	}
	if e.Upstream > 0 {
		of.upstream.Observe(e.Upstream.Seconds())
	}
	if e.Degraded {
		m.degraded.WithLabelValues(e.Route, e.StoreFault).Inc()
	}
	if e.Shadowed != "" {
		m.shadowed.WithLabelValues(e.Route, string(e.Shadowed)).Inc()
	}
	if e.CoolDown > 0 {
		m.coolDowns.WithLabelValues(e.Route).Inc()
	}
	m.budgets.observe(e)
}

// methodClass keeps methods, which clients make up, to a closed list.
func methodClass(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return "read"
	}
	return "write"
}

// budgets remembers what was last seen of each limit that all callers share.
type budgets struct {
	remaining *prometheus.Desc
	of        map[string][]*budget // a route's, in the order of its limits; nil for those by caller
	all       []*budget
}

type budget struct {
	Name  string
	Tag   string // of the route or pool that has it
	limit limiter.Limit

	mu   sync.Mutex
	full time.Time // when all of it is there again, as last seen
}

func newBudgets(c *config) *budgets {
	b := &budgets{
		remaining: prometheus.NewDesc(namespace+"_budget_remaining", "Requests that a budget would admit now, as this replica last saw it.", []string{"limit", "of"}, nil),
		of:        map[string][]*budget{},
	}
	type id struct{ name, tag string }
	known := map[id]*budget{}
	for _, r := range c.routes {
		tag := r.Name
		if r.Pool != "" {
			tag = r.Pool
		}
		for _, l := range r.Limits {
			if l.By != (proxy.By{}) {
				b.of[r.Name] = append(b.of[r.Name], nil)
				continue
			}
			limit := known[id{l.Name, tag}]
			if limit == nil {
				limit = &budget{Name: l.Name, Tag: tag, limit: l.Limit}
				known[id{l.Name, tag}], b.all = limit, append(b.all, limit)
			}
			b.of[r.Name] = append(b.of[r.Name], limit)
		}
	}
	return b
}

func (b *budgets) observe(e *proxy.Event) {
	for i, d := range e.Decisions {
		if limit := b.of[e.Route][i]; limit != nil && d.Known() && (d.Allowed || d.ResetAfter > 0) {
			limit.mu.Lock()
			limit.full = time.Now().Add(d.ResetAfter)
			limit.mu.Unlock()
		}
	}
}

func (b *budget) remaining() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.limit.Remaining(time.Until(b.full))
}

// Describe implements [prometheus.Collector].
func (b *budgets) Describe(descs chan<- *prometheus.Desc) { descs <- b.remaining }

// Collect implements [prometheus.Collector].
func (b *budgets) Collect(values chan<- prometheus.Metric) {
	for _, limit := range b.all {
		values <- prometheus.MustNewConstMetric(b.remaining, prometheus.GaugeValue, float64(limit.remaining()), limit.Name, limit.Tag)
	}
}

// store is what is asked of the store from outside of requests.
type store interface {
	proxy.Cluster
	Status() cluster.Status
}

// storeCollector reads a store's status when Prometheus does.
type storeCollector struct {
	store  store
	shared bool // by replicas
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

var (
	locksHeld    = describe("locks_held", "Locks of exchanges under way.")
	locksRenewed = describe("locks_renewed_total", "Renewals of locks in the store.")
	locksLost    = describe("locks_lost_total", "Locks that were another's when they were to be renewed.")
	cooling      = describe("cool_downs", "Cool-downs that this replica knows of.")
	storeUp      = describe("store_up", "1 while all of the store is asked, 0 while the breaker of it, or of a part, is open.")
	storeFaults  = describe("store_faults_total", "Asks and other calls that the store did not answer, or by an error.", "fault")
	storeAway    = describe("degraded_seconds_total", "Time for which the store, or a part of it, was away.")
	replicasLive = describe("replicas", "Replicas that live, with this one, as the store last told; 0 while it has not.")
	differing    = describe("replicas_differing", "Other replicas whose routes differ from this one's.")
)

// Describe implements [prometheus.Collector].
func (c *storeCollector) Describe(descs chan<- *prometheus.Desc) {
	all := []*prometheus.Desc{locksHeld, cooling}
	if c.shared {
		all = append(all, locksRenewed, locksLost, storeUp, storeFaults, storeAway, replicasLive, differing)
	}
	for _, desc := range all {
		descs <- desc
	}
}

// Collect implements [prometheus.Collector].
func (c *storeCollector) Collect(values chan<- prometheus.Metric) {
	s := c.store.Status()
	gauge := func(desc *prometheus.Desc, v float64) {
		values <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v)
	}
	counter := func(desc *prometheus.Desc, v float64, labels ...string) {
		values <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, v, labels...)
	}
	gauge(locksHeld, float64(len(s.Locks)))
	gauge(cooling, float64(len(s.Pauses)))
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
	counter(storeAway, s.Degraded.Seconds())
	for fault, n := range s.Faults {
		counter(storeFaults, float64(n), fault)
	}
}
