package proxy

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
	"throttle-proxy/proxy/upstream"
	"throttle-proxy/proxy/wire"
)

// exchange is one request on its way.
type exchange struct {
	proxy  *Proxy
	route  *route
	in     *http.Request
	body   clientBody
	client client
	id     string
	event  Event
	trace  Trace // nil if nobody follows it

	nonsense *nonsense   // what a trusted proxy said in place of the client's address
	looked   bool        // whether the operator was to be warned of it
	asked    cluster.Ask // but for the lock

	prefix    string           // in front of the upstream's paths, for the client; empty by a host route
	labels    string           // what stands for the * of the route's URL; empty for none
	to        *upstream.URL    // where the request goes
	target    string           // path and query that the upstream gets
	out       upstream.Request // what it gets, with a header that is lent
	said      [2]string        // values of fields in that: the client's Host, and id
	hops      [1]string        // likewise: the client's address
	budgets   [1]string        // of what the client gets: RateLimit
	numbers   [3]string        // likewise, of an answer of our own: see [problem.answer]
	grant     *cluster.Grant
	decisions []limiter.Decision // of the route's limits, if admitted
	used      []int              // slots of each of its concurrency limits, likewise
	counted   bool               // as in flight
	record    *record            // of the answer to a request with a key, or with followers; nil of any other
	until     time.Time          // until when it follows others; zero if it has not
	followed  cluster.EndingKind // how that ended for which it asked once more; 0 if it has not

	life    *upstream.Life // of what is sent on; nil if nothing is
	sent    time.Time      // when it was sent on; zero if it was not
	outcome outcome
	settled atomic.Bool
	gone    bool // the client had left by the time the upstream answered
	pinned  bool // somebody may look at it when its request has ended
}

// serve is the order of decisions.
func (x *exchange) serve() {
	if why := x.refused(); why != nil {
		x.refuseWire(why)
		return
	}
	m := x.proxy.match(x.in)
	rt := m.route.now()
	if rt != nil {
		x.route, x.event.Route = rt, rt.Name
		x.prefix, x.labels, x.to = m.prefix, m.labels, rt.Upstream
	}
	switch {
	case x.in.Method == http.MethodConnect, x.in.Method == http.MethodTrace:
		x.client.closes = true
		x.refuse(ReasonBadMethod)
		return
	case rt == nil:
		x.event.Unknown, x.event.Nearest = tellable(m.name), x.proxy.nearest(m.name)
		x.refuseUnknownRoute(m.name)
		return
	case x.comesRound():
		x.refuse(ReasonLoop)
		return
	case upstream.Climbs(m.rest):
		x.refuse(ReasonBadPath)
		return
	}
	x.target = rt.Upstream.Target(m.rest, m.query)
	if name := rt.ambiguous(x.in.Header); name != "" {
		if !rt.Shadow {
			x.refuseAmbiguous(name)
			return
		}
		x.event.Shadowed = ReasonAmbiguousField
	}
	key, complaint := rt.key(x.in)
	if rt.Shadow {
		key = ""
	}
	if complaint != "" {
		if !rt.Shadow {
			x.refuseKey(complaint)
			return
		}
		x.event.Shadowed = ReasonBadKey
	}
	ask := x.ask()
	x.asked = ask
	compared := key != "" || rt.dedupes(x.in)
	if !compared && !rt.Shadow { // any other may be a duplicate first, which only its body tells
		if v, known := x.proxy.options.Cluster.Refusal(ask); known {
			x.refuseVerdict(v) // before the body is read
			return
		}
	}
	switch {
	case compared:
		if err := x.body.hold(x.proxy.options.MaxBody); err != nil && !x.streamsOn(err) {
			x.refuseBody(err)
			return
		}
		switch {
		case key != "":
			x.askByKey(&ask, key)
		case x.body.isHeld():
			ask.Fingerprint = rt.fingerprint(x.in, x.compared(), x.body.held)
			ask.Sharing = rt.sharing()
		}
	case ask.Wait > 0 && x.body.hidesClient():
		if err := x.body.hold(reusable); err != nil && err != errNoMemory {
			x.refuseBody(err)
			return
		}
	}
	if x.admit(ask) {
		x.forward()
	}
}

// compared is what equal requests have in common of where they go.
func (x *exchange) compared() string {
	switch {
	case x.route.OnDuplicate.shares() && !x.route.PassHost && x.labels == "":
		return x.prefix + " " + x.target // an answer that is shared names places as its client does
	case x.route.PassHost:
		return hostOf(x.in.Host) + x.target
	case x.labels != "":
		return x.labels + x.target
	}
	return x.target
}

// refused returns why a request cannot be read, or nil.
func (x *exchange) refused() *wire.Refusal {
	if why := wire.Refused(x.in); why != nil {
		return why
	}
	return wire.Check(x.in)
}

// streamsOn reports whether a body that cannot be held passes as it comes.
func (x *exchange) streamsOn(err error) bool {
	reason, _ := x.bodyFault(err)
	if !x.route.Shadow || err != errBodyTooLarge && err != errNoMemory {
		return false
	}
	x.event.Shadowed = reason
	return true
}

// admit counts the request, gets the verdict on ask, and answers the request unless
// it may go on.
func (x *exchange) admit(ask cluster.Ask) bool {
	x.counted = true
	if x.proxy.inFlight.Add(1) > x.proxy.options.MaxInFlight {
		x.refuse(ReasonTooManyInFlight)
		return false
	}
	return x.judge(ask)
}

// judge is admit of a request that is counted.
func (x *exchange) judge(ask cluster.Ask) bool {
	ctx := x.in.Context()
	if ask.Wait > 0 {
		waits, end := context.WithCancelCause(x.proxy.cut)
		defer end(nil)
		defer context.AfterFunc(ctx, func() { end(errClientLeft) })()
		ctx = waits
	}
	x.event.Asked = time.Now()
	v, err := x.proxy.options.Cluster.Admit(ctx, ask)
	x.event.Waited = v.Waited
	x.event.Verdict = time.Since(x.event.Asked) - v.Waited
	x.event.Degraded, x.event.StoreFault = v.Degraded, v.Fault
	x.event.Changed = v.Limits
	switch {
	case errors.Is(err, errClientLeft):
		x.refuse(ReasonClientGone)
		return false
	case errors.Is(err, errCut):
		x.refuse(ReasonDraining)
		return false
	case v.Outcome == cluster.Paused: // also in shadow mode: somebody wants it now
		x.refuseVerdict(v)
		return false
	case err != nil && x.route.Shadow:
		x.event.Shadowed = ReasonUndecided
	case err != nil:
		x.refuse(ReasonUndecided)
		return false
	case v.Outcome == cluster.Replayed:
		x.replay(v)
		return false
	case v.Outcome == cluster.Admitted:
		x.grant = v.Grant
		if ask.Key != nil || v.Grant.Shared() {
			x.record = newRecord(&x.proxy.bodies)
		}
		if !v.Degraded { // of a share nobody is told: it ends with the outage
			x.decisions, x.used = v.Decisions, v.Used
		}
		x.event.Decisions = x.decisions
		x.recordCandidates(v)
	case x.route.Shadow:
		x.event.Shadowed = x.recordRefusal(v)
	case x.followed == cluster.Unshareable && v.Outcome == cluster.Duplicate:
		x.refuseUnshared(v.Holder) // another goes in its place, whose answer is likely to be as little for it
		return false
	case v.Flight != nil:
		return x.follow(ask, v)
	default:
		x.refuseVerdict(v)
		return false
	}
	return true
}

// Why an exchange is ended, beside what the upstream does.
var (
	errClientLeft = errors.New("the client left")
	errCut        = errors.New("the replica ends")
)

// forward sends the request on and passes the answer back.
func (x *exchange) forward() {
	x.life = x.proxy.lives.begin()
	defer x.proxy.lives.over(x.life)
	// The client's leaving does not end an exchange that has a lock, until the
	// upstream's header has arrived.
	outlives := x.grant.Locked() && x.route.ClientGone == Finish
	if !outlives {
		defer x.endWithClient()()
	}
	if x.proxy.options.Sent != nil {
		x.proxy.options.Sent(&x.event)
	}
	sender := x.route.sender
	if x.route.hosts != nil {
		client := x.route.hosts.At(x.labels)
		sender, x.to = client, client.URL()
	}
	request := x.request()
	defer x.body.Close() // a Transport may read on after its answer
	x.sent, x.outcome = time.Now(), unknown
	x.pinned = true
	answer, err := sender.Send(x.life, request)
	x.pinned = !request.Over
	x.event.Upstream = time.Since(x.sent)
	if err != nil {
		x.fail(err)
		return
	}
	defer func() { _ = answer.Body.Close() }() // which may be another by then
	x.outcome = outcomeOf(answer.StatusCode)
	x.coolDown(answer)
	if outlives {
		// One that has left already may have closed only its own half of the
		// connection: it is answered, and if it is gone the write fails.
		if x.gone = x.in.Context().Err() != nil; x.gone {
			x.lose()
		} else if !answer.Whole && !x.records(answer) { // which is for others, too
			defer x.endWithClient()()
		}
	}
	if answer.StatusCode == http.StatusSwitchingProtocols {
		x.tunnel(answer)
	} else {
		x.deliver(answer)
	}
	x.settle()
}

// survive answers a request in which something panicked. The panic that cuts an
// answer passes.
func (x *exchange) survive() {
	cause := recover()
	switch {
	case cause == nil:
		return
	case cause == http.ErrAbortHandler: //nolint:errorlint // it is compared so by net/http too
		panic(cause)
	}
	x.event.Panic, x.event.Stack = cause, debug.Stack()
	x.event.Reason = ReasonInternal
	if x.client.began {
		x.breakOff()
	}
	x.lose()
	clear(x.client.Header())
	x.refuse(ReasonInternal)
}

// finish ends whatever has not ended yet, and tells of the request.
func (x *exchange) finish() {
	if x.route != nil {
		x.settle()
	}
	if !x.sent.IsZero() && (x.gone || !x.client.ended && x.in.Context().Err() != nil) {
		x.event.ClientGone, x.event.Status = true, StatusClientGone
		x.event.UpstreamWentOn = x.outcome.answered()
	}
	x.event.Duration = time.Since(x.event.Started)
	x.event.Caller = x.knownAs()
	defer x.leave()
	if x.trace != nil {
		x.trace.End(&x.event)
	}
	if x.proxy.options.Observe != nil {
		x.proxy.options.Observe(&x.event)
	}
}

// leave gives back what the request has taken, once its client has come to reading
// the answer.
func (x *exchange) leave() {
	// An HTTP/2 client is told to stop.
	unread := x.in.ProtoMajor == 1 && x.client.began && !x.client.cut && x.body.unread()
	whole := !unread || x.linger()
	x.body.finish()
	x.record.done()
	if x.counted {
		x.proxy.inFlight.Add(-1)
	}
	if !whole && !x.client.closes {
		panic(http.ErrAbortHandler) // what follows is no request
	}
	x.giveBack()
}

// linger lets a client that has been answered come to reading that, which counts
// as in flight. It reports whether all of its body has come.
func (x *exchange) linger() (whole bool) {
	if x.event.Reason == ReasonTooManyInFlight {
		_ = x.body.Close() // net/http does not wait for the rest either
		return false
	}
	if !x.counted {
		x.counted = true
		x.proxy.inFlight.Add(1)
	}
	x.client.flush()
	if x.client.closes {
		wire.EndAnswers(x.in)
	}
	return x.body.linger(max(x.proxy.options.MaxBody, reusable))
}
