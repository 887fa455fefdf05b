package proxy

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
	"throttle-proxy/proxy/wire"
)

// problem is the body of every answer of our own: RFC 9457, and the members
// that this proxy adds.
type problem struct {
	Type      string   `json:"type"`
	Title     string   `json:"title"`
	Status    int      `json:"status"`
	Detail    string   `json:"detail"`
	Route     string   `json:"route,omitempty"`
	Reason    Reason   `json:"reason"`
	RequestID string   `json:"request_id"`
	Holder    *holder  `json:"holder,omitempty"`
	Violated  []string `json:"violated-policies,omitempty"`
	Degraded  bool     `json:"degraded,omitempty"`
	Share     string   `json:"share,omitempty"` // of each budget
}

// holder is what a duplicate is told of the request that it repeats.
type holder struct {
	RequestID string  `json:"request_id"`
	Replica   string  `json:"replica"`
	Age       float64 `json:"age"` // seconds
}

// refuse answers the request by what the reason alone says.
func (x *exchange) refuse(reason Reason) { x.refuseAs(reason, 0) }

// refuseAs is refuse with another status than the reason's own, unless it is 0.
func (x *exchange) refuseAs(reason Reason, status int) {
	about := reasons[reason]
	if status == 0 {
		status = about.status
	}
	switch reason {
	case ReasonClientGone, ReasonBadRequest, ReasonTooManyInFlight:
		// What follows on this connection is not the client's next request, or is
		// not waited for.
		x.client.closes = true
	}
	x.event.Reason, x.event.ClientGone = reason, reason == ReasonClientGone
	x.reply(status, about, problem{Detail: about.detail}, "")
}

// refuseWire answers a request that cannot be read.
func (x *exchange) refuseWire(why *wire.Refusal) {
	x.event.Reason, x.client.closes = ReasonBadRequest, true
	about := reasons[ReasonBadRequest]
	about.title = http.StatusText(why.Status)
	x.reply(why.Status, about, problem{Detail: why.Detail + " The request was not sent."}, "")
}

// refuseUnknownRoute answers a request for a route that there is none of. It
// lists none either: a route's name may be all that protects it.
func (x *exchange) refuseUnknownRoute(name string) {
	x.event.Reason = ReasonUnknownRoute
	about := reasons[ReasonUnknownRoute]
	const longest = 63 // of a route's name
	if len(name) > longest {
		name = name[:longest] + "…"
	}
	detail := "Use /NAME: no route " + strconv.Quote(name)
	if len(x.proxy.hosts.exact)+len(x.proxy.hosts.wild) > 0 || !strings.HasPrefix(x.in.RequestURI, "/") {
		detail += ", and none whose --host this request names"
	}
	x.reply(about.status, about, problem{Detail: detail}, "")
}

// refuseVerdict answers a request that the cluster refused.
func (x *exchange) refuseVerdict(v cluster.Verdict) {
	reason := x.recordRefusal(v)
	x.event.Reason = reason
	about := reasons[reason]
	p := problem{Detail: about.detail, Degraded: v.Degraded}
	switch v.Outcome {
	case cluster.CoolingDown:
		x.reply(about.status, about, p, strconv.Itoa(wholeSeconds(v.Wait)))
		return
	case cluster.Limited:
		p.Violated = x.event.Limits
		if v.Degraded {
			p.Detail = "This replica's share of the budget is spent, and the store of the whole is away. This request was not sent."
			p.Share = "1/" + strconv.Itoa(v.Share)
		} else {
			x.addRateLimit(v.Decisions)
			x.event.Decisions = v.Decisions
		}
		var wait time.Duration
		for _, d := range v.Decisions {
			if d.Refused() {
				wait = max(wait, d.NextAfter)
			}
		}
		x.reply(about.status, about, p, strconv.Itoa(wholeSeconds(wait)))
		return
	}
	if v.Holder != (cluster.Holder{}) {
		p.Holder = &holder{v.Holder.RequestID, v.Holder.Replica, math.Round(v.Holder.Age.Seconds()*1000) / 1000}
	}
	// Some SDKs retry a 409 by themselves, unless they are told not to.
	h := x.client.Header()
	h["X-Should-Retry"], h["Stripe-Should-Retry"] = no, no
	x.reply(x.route.DuplicateStatus, about, p, "")
}

// recordRefusal notes why v refuses in the event, and returns the reason.
func (x *exchange) recordRefusal(v cluster.Verdict) Reason {
	x.event.Holder = v.Holder
	switch v.Outcome {
	case cluster.CoolingDown:
		return ReasonCoolingDown
	case cluster.Duplicate:
		return ReasonDuplicate
	case cluster.Held:
		return ReasonHeld
	}
	for i, d := range v.Decisions {
		if d.Refused() {
			x.event.Limits = append(x.event.Limits, x.route.Limits[i].Name)
		}
	}
	return ReasonLimited
}

// reply sends an answer of our own.
func (x *exchange) reply(status int, about about, p problem, retryAfter string) {
	x.event.Status = status
	if (status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests) && retryAfter == "" {
		retryAfter = "1"
	}
	x.addRateLimit(x.decisions) // of a request that was admitted
	h := x.client.Header()
	h["Cache-Control"], h["X-Content-Type-Options"] = noStore, noSniff
	cause := about.proxyStatus
	if x.event.Fault != "" {
		cause = x.event.Fault
	}
	h.Set("Proxy-Status", "throttle-proxy; error="+cause)
	if retryAfter != "" {
		h.Set("Retry-After", retryAfter)
	}
	if isGRPC(x.in.Header) {
		// gRPC tells errors in these fields; a call without messages ends here.
		h.Set("Content-Type", x.in.Header.Get("Content-Type"))
		h.Set("Grpc-Status", strconv.Itoa(about.grpc))
		h.Set("Grpc-Message", string(x.event.Reason))
		x.client.begin(http.StatusOK)
		return
	}
	p.Type, p.Title, p.Status = x.event.Reason.problemType(status), about.title, status
	p.Route, p.Reason, p.RequestID = x.event.Route, x.event.Reason, x.event.RequestID
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and numbers only
	}
	body = append(body, '\n')
	h["Content-Type"] = problemJSON
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.client.begin(status)
	_, _ = x.client.Write(body) // a client that has left needs no answer
}

// addRateLimit tells the client of the route's budgets, after what the
// upstream tells of its own (draft-ietf-httpapi-ratelimit-headers-10).
func (x *exchange) addRateLimit(decisions []limiter.Decision) {
	items := make([]byte, 0, 128)
	for i, d := range decisions {
		if !d.Known() {
			continue
		}
		if len(items) > 0 {
			items = append(items, ", "...)
		}
		items = append(items, x.route.items[i]...)
		items = append(items, ";r="...)
		items = strconv.AppendInt(items, int64(d.Remaining), 10)
		if d.NextAfter > 0 {
			items = append(items, ";t="...)
			items = strconv.AppendInt(items, int64(wholeSeconds(d.NextAfter)), 10)
		}
	}
	if len(items) > 0 {
		addSpelt(x.client.Header(), "RateLimit-Policy", "Ratelimit-Policy", x.route.policy)
		addSpelt(x.client.Header(), "RateLimit", "Ratelimit", []string{string(items)})
	}
}

// Values that many answers have in common. Nobody changes what is in them.
var no, noStore, noSniff, problemJSON = []string{"false"}, []string{"no-store"}, []string{"nosniff"}, []string{"application/problem+json"}

// addSpelt adds values to a field and sends it in the spelling of its RFC,
// which is not canonical, as net/http would give it.
func addSpelt(h http.Header, name, canonical string, values []string) {
	if own, ok := h[canonical]; ok {
		values = append(own, values...)
		delete(h, canonical)
	}
	h[name] = values
}

// wholeSeconds rounds up: a client that comes back earlier is refused again.
func wholeSeconds(d time.Duration) int {
	return int((d + time.Second - 1) / time.Second)
}
