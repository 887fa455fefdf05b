package proxy

import (
	"net/http"
	"strconv"
	"strings"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
	"throttle-proxy/proxy/wire"
)

// refuse answers the request by what the reason alone says.
func (x *exchange) refuse(reason Reason) { x.refuseAs(reason, 0) }

// refuseAs is refuse with another status than the reason's own, unless it is 0.
func (x *exchange) refuseAs(reason Reason, status int) {
	switch reason {
	case ReasonClientGone, ReasonBadRequest, ReasonTooManyInFlight:
		// What follows on this connection is not the client's next request, or is
		// not waited for.
		x.client.closes = true
	}
	x.event.ClientGone = reason == ReasonClientGone
	x.reply(problem{reason: reason, status: status})
}

// refuseWire answers a request that cannot be read.
func (x *exchange) refuseWire(why *wire.Refusal) {
	x.client.closes = true
	x.reply(problem{reason: ReasonBadRequest, status: why.Status, title: http.StatusText(why.Status), detail: why.Detail + wasNotSent})
}

// refuseUnknownRoute answers a request for a route that there is none of. It
// lists none either: a route's name may be all that protects it.
func (x *exchange) refuseUnknownRoute(name string) {
	const longest = 63 // of a route's name
	if len(name) > longest {
		name = name[:longest] + "…"
	}
	whatNameIs := ". NAME is what the replica was started with, as in --register NAME=URL"
	detail := "Use /NAME: this path names no route"
	if name != "" {
		detail = "Use /NAME: no route " + strconv.Quote(name)
		whatNameIs += "; its log says which is nearest"
	}
	if len(x.proxy.hosts.exact)+len(x.proxy.hosts.wild) > 0 || !strings.HasPrefix(x.in.RequestURI, "/") {
		detail += ", and no --host for the host of this request"
	}
	x.reply(problem{reason: ReasonUnknownRoute, detail: detail + whatNameIs + "."})
}

// refuseVerdict answers a request that the cluster refused.
func (x *exchange) refuseVerdict(v cluster.Verdict) {
	p := problem{reason: x.recordRefusal(v), holder: v.Holder, degraded: v.Degraded}
	x.event.Changed = v.Limits
	switch p.reason {
	case ReasonPaused:
		p.wait, p.openEnd = v.Wait, v.Wait == 0
		if v.Message != "" {
			p.detail = "An operator has paused this route: " + strings.TrimSuffix(v.Message, ".") + "." + wasNotSent
		}
	case ReasonDuplicate, ReasonHeld:
		p.status = x.route.DuplicateStatus
	case ReasonCoolingDown:
		p.wait = v.Wait
		if v.Status == http.StatusServiceUnavailable { // as which the upstream said it
			p.status, p.title = v.Status, "Service unavailable"
		}
	case ReasonBusy:
		p.violated = x.event.Limits
		if !v.Degraded {
			x.addRateLimit(nil, v.Used)
		}
	case ReasonLimited:
		p.wait, p.violated = v.Wait, x.event.Limits
		if v.Degraded {
			p.detail = "This replica's share of the budget is spent, and the store of the whole is away." + wasNotSent
			p.share = v.Share
		} else {
			x.addRateLimit(v.Decisions, nil)
			x.event.Decisions = v.Decisions
		}
	}
	x.reply(p)
}

// recordRefusal notes why v refuses in the event, and returns the reason.
func (x *exchange) recordRefusal(v cluster.Verdict) Reason {
	x.event.Holder = v.Holder
	switch v.Outcome {
	case cluster.CoolingDown:
		return ReasonCoolingDown
	case cluster.Paused:
		return ReasonPaused
	case cluster.Duplicate:
		return ReasonDuplicate
	case cluster.Held:
		return ReasonHeld
	case cluster.KeyReused:
		return ReasonKeyReused
	case cluster.NotKept:
		return ReasonNotKept
	case cluster.OutcomeUnknown:
		return ReasonOutcomeUnknown
	case cluster.Busy:
		for i, c := range x.route.Concurrency {
			if v.Used == nil || v.Used[i] >= c.Most {
				x.event.Limits = append(x.event.Limits, c.Name)
			}
		}
		return ReasonBusy
	}
	for i, d := range v.Decisions {
		if d.Refused() {
			x.event.Limits = append(x.event.Limits, x.route.Limits[i].Name)
		}
	}
	return ReasonLimited
}

// reply sends an answer of our own. Whether the request was sent is the outcome's
// to know.
func (x *exchange) reply(p problem) {
	p.route, p.requestID = x.event.Route, x.id
	p.sent, p.cause = p.sent || x.outcome != unsent, x.event.Fault
	x.addRateLimit(x.decisions, x.used) // of a request that was admitted
	status, body := p.answer(x.client.Header(), x.in, &x.numbers)
	x.event.Reason, x.event.Status = p.reason, p.status
	x.client.begin(status)
	if len(body) > 0 {
		_, _ = x.client.Write(body) // a client that has left needs no answer
	}
	p.done()
}

// addRateLimit tells the client of the route's budgets, after what the
// upstream tells of its own (draft-ietf-httpapi-ratelimit-headers-10).
// used are the slots of its concurrency limits.
func (x *exchange) addRateLimit(decisions []limiter.Decision, used []int) {
	items := make([]byte, 0, 128)
	item := func(i, remaining int) {
		if len(items) > 0 {
			items = append(items, ", "...)
		}
		items = append(items, x.route.items[i]...)
		items = append(items, ";r="...)
		items = strconv.AppendInt(items, int64(remaining), 10)
	}
	for i, d := range decisions {
		if !d.Known() {
			continue
		}
		item(i, d.Remaining)
		if d.NextAfter > 0 {
			items = append(items, ";t="...)
			items = strconv.AppendInt(items, int64(wholeSeconds(d.NextAfter)), 10)
		}
	}
	for i, n := range used {
		item(len(x.route.Limits)+i, max(0, x.route.Concurrency[i].Most-n))
	}
	if len(items) > 0 {
		x.budgets[0] = string(items)
		addSpelt(x.client.Header(), "RateLimit-Policy", "Ratelimit-Policy", x.route.policyUnder(x.event.Changed))
		addSpelt(x.client.Header(), "RateLimit", "Ratelimit", x.budgets[:])
	}
}

// addSpelt adds values to a field and sends it in the spelling of its RFC,
// which is not canonical, as net/http would give it.
func addSpelt(h http.Header, name, canonical string, values []string) {
	if own, ok := h[canonical]; ok {
		values = append(own, values...)
		delete(h, canonical)
	}
	h[name] = values
}
