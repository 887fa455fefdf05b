package proxy

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
)

// exchange is one request on its way. It is also the http.ResponseWriter that
// the client's answer goes through, and the http.RoundTripper that its request
// leaves by.
type exchange struct {
	proxy  *Proxy
	route  *route
	client http.ResponseWriter
	in     *http.Request
	id     string
	event  Event

	target    *url.URL
	body      *heldBody // of a fingerprinted request, read whole; nil of any other
	grant     *cluster.Grant
	decisions []limiter.Decision // of the route's limits, if admitted

	held      int64              // bytes of body, counted by the proxy
	counted   bool               // as in flight
	cancel    context.CancelFunc // ends the exchange with the upstream
	outlives  bool               // the client's leaving does not, until the upstream's header has arrived
	uncut     func() bool        // stops the proxy's end from ending it
	unwatch   func() bool        // stops the client's leaving from ending it
	broken    bool               // the upstream's body ended midway
	idle      atomic.Bool        // because it stopped
	forwarded time.Time          // when it was sent on; zero if it was not
	cutShort  atomic.Bool        // the client's body ended midway
	bodyRead  atomic.Bool        // the client's body was read to its end
	reading   sync.Mutex         // guards ended against deadlines of the client's body
	ended     bool               // the handler is about to return
	foreign   atomic.Bool        // the answer was there before the request
	sent      bool               // bytes may have reached the upstream
	answered  bool               // the upstream's header has arrived
	success   bool               // with a 2xx
	left      int64              // bytes of the upstream's body still to come; -1 if unknown
	gone      bool               // the client had left by the time the upstream answered
}

// serve is the order of decisions.
func (x *exchange) serve() {
	rt, name, rest := x.proxy.route(x.in)
	if rt == nil {
		x.event.Nearest = x.proxy.nearest(name)
		x.refuseUnknownRoute(name)
		return
	}
	x.route, x.event.Route = rt, rt.Name
	if x.in.Method == http.MethodConnect || x.in.Method == http.MethodTrace {
		x.client.Header().Set("Connection", "close")
		x.refuse(ReasonBadMethod)
		return
	}
	if climbs(rest) {
		x.refuse(ReasonBadPath)
		return
	}
	x.target = rt.Upstream.target(rest, x.in.URL.RawQuery)
	ask := x.ask()
	compared := rt.dedupes(x.in)
	if !compared && !rt.Shadow { // of others it may be a duplicate, which only their bodies tell
		if v, known := x.proxy.options.Cluster.Refusal(ask); known {
			x.refuseVerdict(v) // before the body is read
			return
		}
	}
	if compared {
		err := x.readBody()
		switch reason := bodyReason(err); {
		case err == nil:
			ask.Fingerprint = rt.fingerprint(x.in, x.target, x.body)
		case reason == "":
			x.clientGone()
			return
		case rt.Shadow:
			x.event.Shadowed = reason
			x.streamsOn()
		default:
			x.closeAfter()
			x.refuse(reason)
			return
		}
	}
	if !x.admit(ask) {
		return
	}
	x.forward()
}

// ask returns what the request needs, but for the lock.
func (x *exchange) ask() cluster.Ask {
	ask := cluster.Ask{
		Tag:           x.route.tag,
		Pauses:        x.pauses(),
		Charges:       x.route.charges,
		RequestID:     x.id,
		WhenUndecided: x.route.WhenUndecided,
	}
	copied := false
	for i, l := range x.route.Limits {
		if l.By == (By{}) {
			continue
		}
		if !copied {
			ask.Charges, copied = append([]cluster.Charge(nil), ask.Charges...), true
		}
		if l.By.Client {
			ask.Charges[i].Caller = digest(x.proxy.options.Trust.client(x.in))
		} else {
			ask.Charges[i].Caller = digest(x.in.Header[http.CanonicalHeaderKey(l.By.Header)]...)
		}
	}
	return ask
}

// admit gets the verdict on ask, and answers the request unless it may go on.
func (x *exchange) admit(ask cluster.Ask) bool {
	x.counted = true
	if x.proxy.inFlight.Add(1) > x.proxy.options.MaxInFlight {
		x.refuse(ReasonTooManyInFlight)
		return false
	}
	asked := time.Now()
	v, err := x.proxy.options.Cluster.Admit(x.in.Context(), ask)
	x.event.Verdict = time.Since(asked)
	x.event.Degraded, x.event.StoreFault = v.Degraded, v.Fault
	switch {
	case err != nil && x.route.Shadow:
		x.event.Shadowed = ReasonUndecided
	case err != nil:
		x.refuse(ReasonUndecided)
		return false
	case v.Outcome == cluster.Admitted:
		x.grant = v.Grant
		if !v.Degraded { // of a share nobody is told: it ends with the outage
			x.decisions = v.Decisions
		}
		x.event.Decisions = x.decisions
	case x.route.Shadow:
		x.event.Shadowed = x.recordRefusal(v)
	default:
		x.refuseVerdict(v)
		return false
	}
	return true
}

// settle ends what was granted by what has become of the exchange so far: a success,
// and an outcome that nobody knows, are held; a request that was never sent,
// and one that the upstream refused, may be repeated. Calls after the first do
// nothing.
func (x *exchange) settle() {
	switch {
	case !x.sent:
		x.grant.Unsent()
	case x.success || !x.answered:
		x.grant.Release(x.route.Hold)
	default:
		x.grant.Release(0)
	}
}

// finish ends whatever has not ended yet, and tells of the request.
func (x *exchange) finish() {
	if x.unread() {
		// net/http reads on, so that the client gets to reading the answer.
		_ = http.NewResponseController(x.client).SetReadDeadline(time.Now().Add(x.proxy.options.BodyTimeout))
	}
	x.reading.Lock()
	x.ended = true
	x.reading.Unlock()
	x.settle()
	if !x.forwarded.IsZero() {
		ended := x.answered && x.left == 0
		if x.gone || !ended && x.in.Context().Err() != nil {
			x.event.ClientGone, x.event.Status = true, StatusClientGone
			x.event.UpstreamWentOn = x.answered
		}
	}
	if x.counted {
		x.proxy.inFlight.Add(-1)
	}
	if x.body != nil {
		x.body.done()
	}
	x.proxy.bodies.give(x.held)
	switch {
	case x.idle.Load():
		x.event.Fault = "connection_read_timeout"
	case x.broken && !x.event.ClientGone && x.proxy.cut.Err() == nil:
		x.event.Fault = "http_response_incomplete"
	}
	x.event.Duration = time.Since(x.event.Started)
	if x.proxy.options.Observe != nil {
		x.proxy.options.Observe(&x.event)
	}
}

// clientGone ends a request whose client left before it could be answered, or
// whose body could not be read.
func (x *exchange) clientGone() {
	x.event.Reason, x.event.Status, x.event.ClientGone = ReasonClientGone, StatusClientGone, true
	// Nothing that follows on this connection can be the client's next request.
	x.client.Header().Set("Connection", "close")
	x.client.WriteHeader(http.StatusBadRequest)
}

// unread reports whether the client may still be sending its body. One that
// has stopped does not count.
func (x *exchange) unread() bool {
	return x.in.ContentLength != 0 && !x.bodyRead.Load() && !x.cutShort.Load()
}

// closeAfter lets the answer out before the rest of the client's body has come
// in, for which net/http would wait, and keeps that rest from being read as
// another request.
func (x *exchange) closeAfter() {
	if x.in.ProtoMajor == 1 {
		x.client.Header().Set("Connection", "close")
	}
}
