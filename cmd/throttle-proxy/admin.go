package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/pprof"
	"strings"
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

// server answers operators, who may change things or only read. It logs panics of
// its handlers.
func (a *admin) server(changes bool) *http.Server {
	handler := a.reading()
	if changes {
		handler = a.changing()
	}
	return &http.Server{
		Handler:           recovering(handler, a.replica.panics),
		ConnContext:       withPeer,
		ReadHeaderTimeout: a.config.headerTimeout,
		ReadTimeout:       a.config.bodyIdle,
		WriteTimeout:      adminWrite,
		IdleTimeout:       idleTimeout,
		ErrorLog:          log.New(io.Discard, "", 0), // what clients send is not for the log
	}
}

// reading answers whoever can connect: it changes nothing, and has no secret.
func (a *admin) reading() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics.registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /-/status", a.status)
	mux.HandleFunc("GET /-/fleet", a.serveFleet)
	mux.HandleFunc("GET /{$}", a.servePage)
	mux.HandleFunc("POST /-/control", refuseChange)
	mux.HandleFunc("POST /-/explain", refuseChange)
	mux.HandleFunc("/debug/pprof/", refuseChange)
	mux.Handle("/", a.replica.health.wrap(http.NotFoundHandler()))
	return mux
}

// changing answers who can open the unix socket: the user of this process. What a
// browser sends for another site changes nothing all the same.
func (a *admin) changing() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", a.reading())
	mux.HandleFunc("POST /-/control", a.control)
	mux.HandleFunc("POST /-/explain", a.explain)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", http.NotFound) // flags can hold secrets
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return http.NewCrossOriginProtection().Handler(mux)
}

// refuseChange answers where only reading is allowed.
func refuseChange(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "this address is for reading: start the replica with --admin unix:/path too, and ask there", http.StatusForbidden)
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
	Changed   []statusChanged   `json:"changed_by_hand"`
}

// statusChanged is what operators have changed, while it holds.
type statusChanged struct {
	What    string  `json:"what"` // "limit" or "pause"
	Of      string  `json:"of"`   // the route or pool
	Limit   string  `json:"limit,omitempty"`
	Rate    string  `json:"rate,omitempty"`
	Message string  `json:"message,omitempty"`
	Left    float64 `json:"seconds_left,omitempty"` // 0 until it is restored
	By      string  `json:"by"`
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

// status answers for all routes, or for the one that ?route= names.
func (a *admin) status(w http.ResponseWriter, r *http.Request) {
	s := a.snapshot()
	if name := r.URL.Query().Get("route"); name != "" {
		_, tag, _, ok := a.config.target(name)
		if !ok {
			writeJSON(w, http.StatusBadRequest, errorAnswer{fmt.Sprintf("there is no route or pool %s here: write one of %s", quote(name), strings.Join(a.config.targets(), ", "))})
			return
		}
		s = s.of(name, tag)
	}
	writeJSON(w, http.StatusOK, s)
}

// snapshot is this replica now.
func (a *admin) snapshot() status {
	s := a.store.Status()
	_, ready := a.replica.health.ready()
	out := status{
		Replica: a.config.replica, ID: a.self.ID, Version: a.self.Version, Started: a.self.Started,
		Ready: ready, InFlight: a.replica.proxy.InFlight(), Routes: map[string]string{},
		Store: statusStore{Address: "memory", Breaker: "closed"},
		Locks: statusLocks{Held: len(s.Locks), Oldest: []statusLock{}}, Slots: []statusSlots{}, Waiting: s.Waiting,
		Budgets: []statusBudget{}, CoolDowns: []statusCoolDown{}, Changed: []statusChanged{},
	}
	for _, c := range s.Changed {
		changed := statusChanged{What: string(c.Deed), Of: cmp.Or(c.Tag, c.Route), Limit: c.Limit, Message: c.Message, Left: c.Left.Seconds(), By: c.By}
		if c.Deed == cluster.SetLimit {
			changed.Rate = c.Rate.String()
		}
		out.Changed = append(out.Changed, changed)
	}
	for _, r := range a.config.routes {
		out.Routes[r.Name] = a.config.describeLimits(r) + "; " + describeDedupe(r) + describeCoolDown(r)
	}
	if a.config.endpoint != nil {
		out.Store.Address, out.Store.Policy = a.config.redisAddress, a.config.whenUndecided()
		out.Replicas = &statusReplicas{Live: s.Live, Peers: []statusPeer{}}
		for _, p := range s.Peers {
			out.Replicas.Peers = append(out.Replicas.Peers, statusPeer{p.Name, p.ID, p.Version, p.Started, p.Differences})
		}
	}
	for _, away := range s.Away {
		out.Store.Breaker = "open"
		out.Store.Away = append(out.Store.Away, statusAway{away.Tag, time.Since(away.Since).Seconds(), away.Fault})
	}
	for _, b := range a.metrics.budgets.all {
		out.Budgets = append(out.Budgets, statusBudget{b.Name, b.Tag, b.now().String(), b.remaining()})
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
	return out
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(value) // the operator has left
}
