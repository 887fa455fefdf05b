package proxy

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"throttle-proxy/cluster"
)

// ask returns what the request needs, but for the lock.
func (x *exchange) ask() cluster.Ask {
	ask := cluster.Ask{
		Route:         x.route.Name,
		Tag:           x.route.tag,
		Pauses:        x.pauses(),
		LongestPause:  x.route.CoolDown.Longest,
		OneCaller:     x.route.alike,
		Charges:       x.charges(x.route.charges, x.route.Limits),
		Candidates:    x.charges(x.route.candidates, x.route.Candidates),
		Slots:         x.slots(),
		Wait:          x.patience(),
		RequestID:     x.id,
		WhenUndecided: x.route.WhenUndecided,
	}
	if isPreflight(x.in) {
		ask.Charges, ask.Candidates = nil, nil
	}
	return ask
}

// charges returns those of limits with their callers.
func (x *exchange) charges(of []cluster.Charge, limits []Limit) []cluster.Charge {
	copied := false
	for i, l := range limits {
		if l.By == (By{}) {
			continue
		}
		if !copied {
			of, copied = slices.Clone(of), true
		}
		of[i].Caller = x.caller(l.By)
	}
	return of
}

// slots returns what the request needs of the route's concurrency limits.
func (x *exchange) slots() []cluster.Slot {
	of, copied := x.route.slots, false
	for i, c := range x.route.Concurrency {
		if c.By == (By{}) {
			continue
		}
		if !copied {
			of, copied = slices.Clone(of), true
		}
		of[i].Caller = x.caller(c.By)
	}
	return of
}

// patience returns the longest that the request waits for its budgets and slots:
// the route's, unless its client says that it waits less. That is Prefer: wait=N,
// in seconds (RFC 7240 section 4.3), and the deadline of gRPC. In shadow nothing
// waits: what would is reported as refused.
func (x *exchange) patience() time.Duration {
	longest := x.route.Wait
	if longest == 0 || x.route.Shadow { // which holds nobody up
		return 0
	}
	if d, ok := preferredWait(x.in.Header); ok {
		longest = min(longest, d)
	}
	if d, ok := grpcTimeout(x.in.Header); ok {
		longest = min(longest, d)
	}
	return longest
}

// shareWaits gives each charge the longest that requests of any route wait for its
// budget: those of a pool share some.
func (p *Proxy) shareWaits() {
	type budget struct{ tag, name string }
	longest := make(map[budget]time.Duration)
	for _, rt := range p.routes {
		for _, c := range rt.charges {
			of := budget{rt.tag, c.Name}
			longest[of] = max(longest[of], rt.Wait)
		}
	}
	for _, rt := range p.routes {
		for i := range rt.charges {
			rt.charges[i].Wait = longest[budget{rt.tag, rt.charges[i].Name}]
		}
	}
}

// preferredWait reads wait=N of the Prefer fields. The first one counts.
func preferredWait(h http.Header) (time.Duration, bool) {
	for _, field := range h["Prefer"] {
		for preference := range strings.SplitSeq(field, ",") {
			preference, _, _ = strings.Cut(preference, ";")
			name, value, _ := strings.Cut(preference, "=")
			if !strings.EqualFold(strings.TrimSpace(name), "wait") {
				continue
			}
			n, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(value), `"`), 10, 31)
			return time.Duration(n) * time.Second, err == nil
		}
	}
	return 0, false
}

// recordCandidates notes which of the route's candidates would have refused.
func (x *exchange) recordCandidates(v cluster.Verdict) {
	for i, d := range v.Candidates {
		if d.Refused() {
			x.event.Candidates = append(x.event.Candidates, x.route.Candidates[i].Name)
		}
	}
}
