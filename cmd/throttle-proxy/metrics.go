package main

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

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
	refused   *prometheus.CounterVec
	degraded  *prometheus.CounterVec
	shadowed  *prometheus.CounterVec
	tried     *prometheus.CounterVec
	waited    *prometheus.HistogramVec
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

// newMetrics returns the metrics of r, which decides by store and logs to lines.
func newMetrics(c *config, r *replica, store store, lines *logWriter) *metrics {
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
		refused:   counter("limit_refusals_total", "Requests that a limit has refused, be it a budget or one of concurrency; one that several refuse counts for each.", "route", "limit"),
		degraded:  counter("degraded_requests_total", "Requests decided, or left undecided, without the store, by why it gave no answer.", "route", "fault"),
		shadowed:  counter("shadowed_refusals_total", "Requests that shadow mode has let through.", "route", "reason"),
		tried:     counter("candidate_refusals_total", "Requests that were admitted, and that a candidate limit would have refused.", "route", "limit"),
		waited:    histogram("wait_duration_seconds", "For how long requests have waited for their budgets and for slots, of those that did."),
		coolDowns: counter("cool_downs_total", "Answers of the upstream that began or extended a cool-down.", "route"),
		budgets:   newBudgets(c),
	}
	// What is not there before it counts cannot be seen to begin.
	for _, r := range c.routes {
		m.coolDowns.WithLabelValues(r.Name)
		for _, l := range r.Limits {
			m.refused.WithLabelValues(r.Name, l.Name)
		}
		for _, l := range r.Concurrency {
			m.refused.WithLabelValues(r.Name, l.Name)
		}
		for _, l := range r.Candidates {
			m.tried.WithLabelValues(r.Name, l.Name)
		}
	}
	m.registry.MustRegister(m.requests, m.durations, m.verdicts, m.upstreams, m.refused, m.degraded, m.shadowed, m.tried, m.waited, m.coolDowns, m.budgets,
		newStoreCollector(c, store), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, labels prometheus.Labels, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help, ConstLabels: labels}, value))
	}
	total := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, value))
	}
	gauge("in_flight", "Exchanges under way.", nil, func() float64 { return float64(r.proxy.InFlight()) })
	gauge("body_memory_bytes", "Bytes of clients' bodies that are held to compare requests.", nil, func() float64 { return float64(r.proxy.BodyMemory()) })
	gauge("build_info", "Always 1; the version is a label.", prometheus.Labels{"version": buildName()}, func() float64 { return 1 })
	total("panics_total", "Mistakes of the proxy's that ended the handling of a request.", func() float64 { return float64(r.panics.seen.Load()) })
	total("log_lines_dropped_total", "Lines of the log that are lost, since they were not read in time.", func() float64 { return float64(lines.dropped.Load()) })
	total("trace_spans_dropped_total", "Spans that the collector never got, since it did not take them in time.", r.traces.dropped)
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
	observe(of.duration, e.Duration, e)
	if e.Verdict > 0 {
		observe(of.verdict, e.Verdict, e)
	}
	if e.Upstream > 0 {
		observe(of.upstream, e.Upstream, e)
	}
	if e.Degraded {
		m.degraded.WithLabelValues(e.Route, e.StoreFault).Inc()
	}
	if e.Reason == proxy.ReasonLimited || e.Reason == proxy.ReasonBusy {
		for _, name := range e.Limits {
			m.refused.WithLabelValues(e.Route, name).Inc()
		}
	}
	for _, name := range e.Candidates {
		m.tried.WithLabelValues(e.Route, name).Inc()
	}
	if e.Waited > 0 {
		m.waited.WithLabelValues(e.Route).Observe(e.Waited.Seconds())
	}
	if e.Shadowed != "" {
		m.shadowed.WithLabelValues(e.Route, string(e.Shadowed)).Inc()
	}
	if e.CoolDown > 0 {
		m.coolDowns.WithLabelValues(e.Route).Inc()
	}
	m.budgets.observe(e)
}

// observe counts how long something of e took, with e's trace as an example if that
// is kept.
func observe(in prometheus.Observer, took time.Duration, e *proxy.Event) {
	if e.TraceKept {
		in.(prometheus.ExemplarObserver).ObserveWithExemplar(took.Seconds(), prometheus.Labels{"trace_id": e.TraceID})
	} else {
		in.Observe(took.Seconds())
	}
}

// methodClass keeps methods, which clients make up, to a closed list.
func methodClass(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return "read"
	}
	return "write"
}
