package main

import (
	"cmp"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"throttle-proxy/limiter"
	"throttle-proxy/proxy"
)

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
	full time.Time     // when all of it is there again, as last seen
	set  limiter.Limit // by an operator, likewise; zero for the configured one
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
			limit.full, limit.set = time.Now().Add(d.ResetAfter), limiter.Limit{}
			if e.Changed != nil {
				limit.set = e.Changed[i]
			}
			limit.mu.Unlock()
		}
	}
}

func (b *budget) remaining() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return cmp.Or(b.set, b.limit).Remaining(time.Until(b.full))
}

// spent returns those that are not full, but at most so many.
func (b *budgets) spent(most int) (spent []fleetBudget) {
	for _, budget := range b.all {
		limit := budget.now()
		if left := budget.remaining(); left < limit.Burst && len(spent) < most {
			spent = append(spent, fleetBudget{budget.Name, budget.Tag, limit.String(), left, limit.Burst})
		}
	}
	return spent
}

// now is the limit by which it was decided last.
func (b *budget) now() limiter.Limit {
	b.mu.Lock()
	defer b.mu.Unlock()
	return cmp.Or(b.set, b.limit)
}

// Describe implements [prometheus.Collector].
func (b *budgets) Describe(descs chan<- *prometheus.Desc) { descs <- b.remaining }

// Collect implements [prometheus.Collector].
func (b *budgets) Collect(values chan<- prometheus.Metric) {
	for _, limit := range b.all {
		values <- prometheus.MustNewConstMetric(b.remaining, prometheus.GaugeValue, float64(limit.remaining()), limit.Name, limit.Tag)
	}
}
