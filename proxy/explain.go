package proxy

import (
	"fmt"
	"net/http"
	"strings"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy/upstream"
)

// Explanation is what would become of a request. It has no secret: of fields and
// bodies it tells whether they are compared, and not what is in them.
type Explanation struct {
	Route    string
	Compared []string // what an equal request has in common with it; nil if it is not compared
	Ask      cluster.Ask
	Reason   Reason      // why it would be refused whatever others do; empty if it would not be
	Shares   OnDuplicate // what it gets as a duplicate in place of a refusal: Join or Fresh; else empty
	cluster.Weighed
}

// Explain tells what would become of r, which was not sent, and its body. It takes
// nothing, of budgets neither. The error is that of the store, which gave no answer.
func (p *Proxy) Explain(r *http.Request, body []byte) (e Explanation, err error) {
	x := &exchange{proxy: p, in: r, id: newID()}
	client, _ := p.options.Trust.client(r)
	x.event.Client, x.looked = client, true
	m := p.match(r)
	rt := m.route.now()
	if rt == nil {
		e.Reason = ReasonUnknownRoute
		return e, nil
	}
	x.route, x.labels, x.prefix = rt, m.labels, m.prefix
	e.Route = rt.Name
	if e.Reason = x.unfit(m, body); e.Reason != "" {
		return e, nil
	}
	x.target = rt.Upstream.Target(m.rest, m.query)
	e.Ask = x.ask()
	key, complaint := rt.key(r)
	if rt.Shadow {
		key, complaint = "", ""
	}
	if complaint != "" {
		e.Reason = ReasonBadKey
		return e, nil
	}
	if key != "" || rt.dedupes(r) {
		held := new(heldBody).begin()
		for len(body) > 0 {
			n := copy(held.space(int64(len(body))), body)
			held.grow(n)
			body = body[n:]
		}
		if key != "" {
			x.body.held = held
			x.askByKey(&e.Ask, key)
			e.Compared = []string{"route " + rt.Name, "idempotency key"}
		} else {
			e.Ask.Fingerprint = rt.fingerprint(r, x.compared(), held)
			e.Compared = x.comparison(m, held)
			if rt.sharing() != cluster.Unshared {
				e.Shares = rt.OnDuplicate
			}
		}
	}
	e.Weighed, err = p.options.Cluster.Weigh(e.Ask)
	return e, err
}

// unfit returns why a request is refused whatever others do; empty if it is not.
func (x *exchange) unfit(m match, body []byte) Reason {
	switch {
	case x.in.Method == http.MethodConnect, x.in.Method == http.MethodTrace:
		return ReasonBadMethod
	case upstream.Climbs(m.rest):
		return ReasonBadPath
	case x.route.ambiguous(x.in.Header) != "" && !x.route.Shadow:
		return ReasonAmbiguousField
	case x.route.dedupes(x.in) && int64(len(body)) > x.proxy.options.MaxBody:
		return ReasonBodyTooLarge
	}
	return ""
}

// comparison says what goes into the fingerprint, in its order.
func (x *exchange) comparison(m match, body *heldBody) []string {
	parts := []string{"route " + x.route.Name, "method " + x.in.Method}
	if x.route.PassHost || x.labels != "" {
		parts = append(parts, "host")
	}
	parts = append(parts, fmt.Sprintf("path and query (%d bytes)", len(m.rest)+len(m.query)))
	for _, name := range x.route.headers {
		sent := " (not sent)"
		if strings.Join(fieldOf(x.in, name), "") != "" {
			sent = " (sent)"
		}
		parts = append(parts, name+sent)
	}
	what := fmt.Sprintf("body (%d bytes)", body.size)
	if _, boundary := formOf(x.in.Header); boundary != "" {
		what = "body (the parts of a form)"
	} else if _, ok := x.route.json.of(x.in.Header, body); ok {
		what = "body (of its JSON " + strings.Join(x.route.DedupeJSON, " ") + ")"
	}
	return append(parts, what)
}
