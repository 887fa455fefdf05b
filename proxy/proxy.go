// Package proxy answers one question: how is an HTTP request turned into an
// ask, forwarded, and answered?
//
// The order of decisions is that of [exchange.serve]. The verdict itself is
// the cluster's.
package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy/upstream"
)

// Cluster is what a Proxy needs of the replicas' agreement.
type Cluster interface {
	// Admit decides ask. An error means that the store gave no answer, and that
	// the ask is not to go on without.
	Admit(ctx context.Context, ask cluster.Ask) (cluster.Verdict, error)
	// Refusal returns the verdict on ask where this replica knows by itself
	// that it is a refusal.
	Refusal(ask cluster.Ask) (v cluster.Verdict, known bool)
	// Pause lets no ask that names the cool-down be admitted for d from now on: its
	// upstream has asked for that with a status.
	Pause(tag, name string, d time.Duration, status int)
	// Weigh tells what would decide ask now, and takes nothing.
	Weigh(ask cluster.Ask) (cluster.Weighed, error)
}

// Options configure a [Proxy].
type Options struct {
	Cluster Cluster
	Trust   Trust

	MaxBody     int64         // bytes of one fingerprinted request
	BodyMemory  int64         // bytes of all bodies held, as they are received
	BodyTimeout time.Duration // longest pause in a client's body
	MaxInFlight int64         // exchanges at once

	// Sent, unless it is nil, is called for each request that is about to be sent
	// on, with what its Event has by then, which is valid until it returns. It is
	// called concurrently.
	Sent func(*Event)

	// Trace, unless it is nil, is called for each request when it begins, with an
	// Event that has its method, ids and start, and returns who follows it. The Event
	// is valid until End of that returns. It is called concurrently.
	Trace func(*http.Request, *Event) Trace

	// Observe is called once for each finished request, with an Event that is
	// valid until it returns. It is called concurrently.
	Observe func(*Event)

	// Warn is called with what an operator may have to do something about and no
	// single request shows, once for each route and trusted proxy. It is called
	// concurrently, and may be nil.
	Warn func(text string)
}

// Proxy is the handler of all routes. It is safe for concurrent use.
type Proxy struct {
	options  Options
	routes   map[string]*route
	hosts    hosts
	spelling spelling
	bodies   bodies
	warnings warnings
	inFlight atomic.Int64
	lives    lives           // of all exchanges; they end with Cut
	cut      context.Context // of those that wait, likewise
	end      context.CancelCauseFunc
}

// New returns a Proxy of routes, whose names and hosts must differ.
func New(routes []Route, o Options) (*Proxy, error) {
	p := &Proxy{options: o, routes: make(map[string]*route), hosts: hosts{map[string]*route{}, map[string]*route{}, nil}, spelling: spelling{}, bodies: bodies{limit: o.BodyMemory}, warnings: warnings{tell: o.Warn}}
	p.cut, p.end = context.WithCancelCause(context.Background())
	for _, r := range routes {
		rt, err := newRoute(r)
		if err != nil {
			return nil, err
		}
		if _, taken := p.routes[r.Name]; taken {
			return nil, fmt.Errorf("route %s: registered twice", r.Name)
		}
		p.routes[r.Name] = rt
		if !r.Upstream.Wild() {
			p.spelling.add(r.Name)
		}
		for _, host := range r.Hosts {
			if err := p.hosts.add(host, rt); err != nil {
				return nil, err
			}
		}
	}
	p.shareWaits()
	return p, nil
}

// Cut ends every exchange, also of clients that have left, and of requests to
// come. A request that the upstream has not answered is answered 503; an
// answer that has begun, and a tunnel, ends where it is.
func (p *Proxy) Cut() {
	p.end(errCut)
	p.lives.end(errCut)
}

// InFlight returns how many exchanges are under way.
func (p *Proxy) InFlight() int64 { return p.inFlight.Load() }

// BodyMemory returns how many bytes of bodies are held.
func (p *Proxy) BodyMemory() int64 { return p.bodies.held.Load() }

// ServeHTTP decides and forwards one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := exchanges.Get().(*exchange)
	x.proxy, x.in, x.id = p, r, newID()
	x.event.Method, x.event.Started = r.Method, time.Now()
	x.body = clientBody{in: r, control: *http.NewResponseController(w), pause: p.options.BodyTimeout, all: &p.bodies}
	x.body.read.Store(r.ContentLength == 0 || r.Body == nil)
	x.client = client{ResponseWriter: w, in: r, body: &x.body}
	x.event.ID = x.id
	if id := r.Header.Get("X-Request-Id"); id != "" && validRequestID.MatchString(id) {
		x.event.ClientRequestID = id
	}
	if p.options.Trace != nil {
		x.trace = p.options.Trace(r, &x.event)
	}
	defer x.finish() // also while the panic that cuts an answer passes
	defer x.survive()
	x.event.Client, x.nonsense = p.options.Trust.client(r)
	x.serve()
}

// exchanges lends exchanges, which are large: one for each request is a fifth of
// what all of it would allocate.
var exchanges = sync.Pool{New: func() any { return &exchange{out: upstream.Request{Header: http.Header{}}} }}

// giveBack lets another request have x, and the map of its header, unless somebody may
// still look at it. A map never gets smaller: all later requests would pay for one with
// many fields.
func (x *exchange) giveBack() {
	if x.pinned {
		return
	}
	const usual = 64 // fields at most
	header := x.out.Header
	if len(x.in.Header) > usual {
		header = http.Header{}
	}
	clear(header) // it may have credentials
	*x = exchange{out: upstream.Request{Header: header}}
	exchanges.Put(x)
}

// newID returns a name for a request. It tells requests apart, and keeps
// nothing secret.
func newID() string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" // of [crypto/rand.Text]
	var id [16]byte
	high, low := rand.Uint64(), rand.Uint64()
	for i := range len(id) / 2 {
		id[2*i], id[2*i+1] = alphabet[high%32], alphabet[low%32]
		high, low = high/32, low/32
	}
	return string(id[:])
}

var validRequestID = regexp.MustCompile(`^[A-Za-z0-9._:+/=@-]{1,128}$`)
