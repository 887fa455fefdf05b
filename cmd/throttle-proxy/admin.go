package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"throttle-proxy/cluster"
)

// admin is what operators ask a replica, on a listener of its own.
type admin struct {
	config  *config
	self    cluster.Replica
	store   store
	replica *replica
	metrics *metrics
}

// adminWrite is the longest that an answer to an operator may take: pprof's, which
// last as long as they are asked to, must be shorter.
const adminWrite = 5 * time.Minute

// listenAdmin takes the address of --admin. A unix socket that a killed process
// has left is in the way, and not looked at: it is the operator's path.
func (c *config) listenAdmin() (net.Listener, error) {
	listener, err := net.Listen(c.adminNetwork, c.adminAddress)
	if err != nil {
		return nil, fmt.Errorf("--admin: cannot listen: %w%s", cause(err), toListen(err))
	}
	return listener, nil
}

// server answers operators. It logs panics of its handlers.
func (a *admin) server() *http.Server {
	return &http.Server{
		Handler:           recovering(a.handler(), a.replica.panics),
		ReadHeaderTimeout: a.config.headerTimeout,
		ReadTimeout:       a.config.bodyIdle,
		WriteTimeout:      adminWrite,
		IdleTimeout:       idleTimeout,
		ErrorLog:          log.New(io.Discard, "", 0), // what clients send is not for the log
	}
}

func (a *admin) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics.registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /-/status", a.status)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", http.NotFound) // flags can hold secrets
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/", a.replica.health.wrap(http.NotFoundHandler()))
	return mux
}

// maxLocks is how many locks a status lists, the oldest.
const maxLocks = 100

// status is a replica in JSON. It has nothing of clients and of upstreams.
type status struct {
	Replica   string            `json:"replica"`
	ID        string            `json:"id"`
	Version   string            `json:"version"`
	Started   time.Time         `json:"started"`
	Ready     string            `json:"ready"`
	InFlight  int64             `json:"in_flight"`
	Routes    map[string]string `json:"routes"` // what each does, in words
	Store     statusStore       `json:"store"`
	Replicas  *statusReplicas   `json:"replicas,omitempty"` // without a store there is this one
	Budgets   []statusBudget    `json:"budgets"`
	CoolDowns []statusCoolDown  `json:"cool_downs"`
	Locks     statusLocks       `json:"locks"`
	Slots     []statusSlots     `json:"slots"`
	Waiting   int               `json:"waiting"` // requests, for their budgets or for slots
}

type statusSlots struct {
	Limit  string `json:"limit"`
	Of     string `json:"of"` // the route or pool
	Caller bool   `json:"caller"`
	Used   int    `json:"used"` // by this replica
	Most   int    `json:"most"` // over all replicas
}

type statusStore struct {
	Address string       `json:"address"` // without credentials; "memory" without a store
	Breaker string       `json:"breaker"` // "closed", or "open" while it, or a part of it, is not asked
	Away    []statusAway `json:"away,omitempty"`
	Policy  string       `json:"when_undecided,omitempty"`
}

type statusAway struct {
	Routes  string  `json:"routes,omitempty"` // empty for all
	Seconds float64 `json:"seconds"`
	Fault   string  `json:"fault"`
}

type statusReplicas struct {
	Live  int          `json:"live"`
	Peers []statusPeer `json:"peers"`
}

type statusPeer struct {
	Name        string               `json:"name"`
	ID          string               `json:"id"`
	Version     string               `json:"version"`
	Started     time.Time            `json:"started"`
	Differences []cluster.Difference `json:"differences,omitempty"`
}

type statusBudget struct {
	Limit     string `json:"limit"`
	Of        string `json:"of"` // the route or pool
	Rate      string `json:"rate"`
	Remaining int    `json:"remaining"` // as this replica last saw it
}

type statusCoolDown struct {
	Of      string  `json:"of"` // the route or pool
	Caller  bool    `json:"caller"`
	Seconds float64 `json:"seconds"`
}

type statusLocks struct {
	Held   int          `json:"held"`
	Oldest []statusLock `json:"oldest"`
}

type statusLock struct {
	Of        string  `json:"of"` // the route or pool
	RequestID string  `json:"request_id"`
	Seconds   float64 `json:"age_seconds"`
}

func (a *admin) status(w http.ResponseWriter, _ *http.Request) {
	s := a.store.Status()
	_, ready := a.replica.health.ready()
	out := status{
		Replica: a.config.replica, ID: a.self.ID, Version: a.self.Version, Started: a.self.Started,
		Ready: ready, InFlight: a.replica.proxy.InFlight(), Routes: map[string]string{},
		Store: statusStore{Address: "memory", Breaker: "closed"},
		Locks: statusLocks{Held: len(s.Locks)}, Slots: []statusSlots{}, Waiting: s.Waiting,
	}
	for _, r := range a.config.routes {
		out.Routes[r.Name] = a.config.describeLimits(r) + "; " + describeDedupe(r) + describeCoolDown(r)
	}
	if a.config.endpoint != nil {
		out.Store.Address, out.Store.Policy = a.config.redisAddress, a.config.whenUndecided()
		out.Replicas = &statusReplicas{Live: s.Live}
		for _, p := range s.Peers {
			out.Replicas.Peers = append(out.Replicas.Peers, statusPeer{p.Name, p.ID, p.Version, p.Started, p.Differences})
		}
	}
	for _, away := range s.Away {
		out.Store.Breaker = "open"
		out.Store.Away = append(out.Store.Away, statusAway{away.Tag, time.Since(away.Since).Seconds(), away.Fault})
	}
	for _, b := range a.metrics.budgets.all {
		out.Budgets = append(out.Budgets, statusBudget{b.Name, b.Tag, b.limit.String(), b.remaining()})
	}
	for _, p := range s.Pauses {
		out.CoolDowns = append(out.CoolDowns, statusCoolDown{p.Tag, p.Caller, p.Left.Seconds()})
	}
	for _, l := range s.Locks[:min(len(s.Locks), maxLocks)] {
		out.Locks.Oldest = append(out.Locks.Oldest, statusLock{l.Tag, l.RequestID, l.Age.Seconds()})
	}
	for _, l := range s.Slots[:min(len(s.Slots), maxLocks)] {
		out.Slots = append(out.Slots, statusSlots{l.Limit, l.Tag, l.Caller, l.Used, l.Most})
	}
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(out) // the operator has left
}
