package integration

import (
	"fmt"
	"net/http"
	"slices"
	"time"
)

// What is told by exchanges that are equal: law 1, holds, the order of reasons,
// and pauses.

// exchange is a call with the request that it is for.
type exchange struct {
	*request
	*call
}

// exchanges returns those that a lock is for, by what makes them equal, in the
// order of their arrival.
func (h *history) exchanges() map[string][]exchange {
	equal := map[string][]exchange{}
	for i := range h.requests {
		r := &h.requests[i]
		for _, c := range r.calls {
			if r.route != "free" && r.route != "few" {
				equal[r.equal()] = append(equal[r.equal()], exchange{r, c})
			}
		}
	}
	for _, all := range equal {
		slices.SortFunc(all, func(a, b exchange) int { return a.start.Compare(b.start) })
	}
	return equal
}

// Law 1: at most one exchange per fingerprint, while the store keeps its data
// and holders renew in time. By a clock that steps forward they do not, if the
// step is longer than a lock has to live, which is two thirds of the TTL at
// least; the lock is taken again when it is next renewed. A step back ends none.
func (h *history) overlaps() (violations []string, explained map[string]int) {
	explained = map[string]int{}
	for _, all := range h.exchanges() {
		var live []exchange
		for _, e := range all {
			if !e.end.After(e.start) {
				continue // its client had left before it arrived
			}
			live = slices.DeleteFunc(live, func(before exchange) bool { return !before.end.After(e.start) })
			for _, before := range live {
				if why := h.explain(before, e); why != "" {
					explained[why]++
				} else {
					violations = append(violations, fmt.Sprintf("law 1: %s was in flight for %s when %s arrived, for %s", before, e.start.Sub(before.start), e, e.equal()))
				}
			}
			live = append(live, e)
		}
	}
	return violations, explained
}

func (e exchange) String() string {
	return fmt.Sprintf("request %s by process %d at %s (alone: %t)", e.request.nonce, e.process, e.start.Format("05.000"), e.alone)
}

// explain says which fault lets two exchanges overlap, if one does. None lets
// two of one process: it knows its own.
func (h *history) explain(a, b exchange) string {
	late := ""
	if a.cut && h.gone(a.request, b.start) {
		late = "over, which was seen late"
	}
	if a.process >= 0 && a.process == b.process {
		return late
	}
	sent := a.sent
	if b.sent.Before(sent) {
		sent = b.sent
	}
	if !slices.Contains(h.closed, a.route) && (a.decidedAlone() || b.decidedAlone()) {
		return "decided without the store"
	}
	why := late
	for _, f := range h.faults {
		long := f.end.Sub(f.begin) >= h.ttl/2 // a lock lives on for two thirds of the TTL at least
		switch {
		case !f.overlaps(sent, b.start):
		case f.kind.loses:
			return "store lost the lock"
		case f.step > 0 && f.step+h.besides(f) >= h.ttl/2:
			return "store's clock stepped beyond the lock's end"
		case f.kind.pauses && long && (f.replica == a.replica || f.replica == b.replica):
			return "replica paused for longer than the TTL"
		case f.kind.store && long:
			why = "store away for longer than the TTL"
		}
	}
	return why
}

// besides returns for how long something else may have kept holders from
// renewing while f was on.
func (h *history) besides(f fault) (d time.Duration) {
	for _, other := range h.faults {
		if other.step == 0 && other.overlaps(f.begin, f.end) {
			d += other.end.Sub(other.begin)
		}
	}
	return d
}

// gone reports whether the client of a request had left, or its replica was
// killed, before a moment.
func (h *history) gone(r *request, before time.Time) bool {
	return r.abort > 0 && r.err != nil && r.answered.Before(before) || slices.ContainsFunc(h.faults, func(f fault) bool {
		return f.kind.kills && f.replica == r.replica && f.begin.After(r.sent) && f.begin.Before(before)
	})
}

// decidedAlone reports whether a request was, or may have been, decided by one
// replica without the store.
func (r *request) decidedAlone() bool { return r.alone || r.process < 0 }

// No more of the route "few" are in flight at once than it has slots, while the
// store keeps its data and its clock's pace and holders renew in time. What is
// decided without the store is by each replica's share, beside what it had granted.
func (h *history) crowds() (violations []string) {
	var all []exchange
	for i := range h.requests {
		for _, c := range h.requests[i].calls {
			if h.requests[i].route == "few" && c.end.After(c.start) {
				all = append(all, exchange{&h.requests[i], c})
			}
		}
	}
	slices.SortFunc(all, func(a, b exchange) int { return a.start.Compare(b.start) })
	var live []exchange
	for _, e := range all {
		live = slices.DeleteFunc(live, func(before exchange) bool {
			return !before.end.After(e.start) || before.cut && h.gone(before.request, e.start)
		})
		if live = append(live, e); len(live) > h.few && !h.excusesCrowd(live) {
			violations = append(violations, fmt.Sprintf("slots: %d were in flight when %s arrived, want at most %d", len(live), e, h.few))
		}
	}
	return violations
}

// excusesCrowd reports whether there was a reason for which more exchanges may be in
// flight than there are slots.
func (h *history) excusesCrowd(live []exchange) bool {
	if slices.ContainsFunc(live, func(e exchange) bool { return e.decidedAlone() }) {
		return true
	}
	first, last := live[0].sent, live[len(live)-1].start
	return slices.ContainsFunc(h.faults, func(f fault) bool {
		return f.overlaps(first, last) && (f.kind.loses || f.step != 0 || (f.kind.pauses || f.kind.store) && f.end.Sub(f.begin) >= h.ttl/2)
	})
}

// clocks is by how much the test's and the store's may differ.
const clocks = 20 * time.Millisecond

// A success is not repeated within its hold.
func (h *history) repeatedTooSoon() (violations []string) {
	if len(h.faults) > 0 {
		return nil
	}
	for _, all := range h.exchanges() {
		for i := 1; i < len(all); i++ {
			a, b := all[i-1], all[i]
			if a.route == "held" && a.answer.String() == "200" && b.start.Sub(a.end) < h.hold-clocks {
				violations = append(violations, fmt.Sprintf("hold: %s arrived %s after the success of %s", b, b.start.Sub(a.end), a))
			}
		}
	}
	return violations
}

// A duplicate is a duplicate first: what equals a request that is in flight or
// held is told so, whatever is spent or cooling down. Told to come back, it
// would be sent a second time. A replica that knows of a refusal looks for the
// lock where it knows of others, and can: it cannot while it takes the store to be
// away, which it may for a while after a fault that it found late.
func (h *history) misledDuplicates() (violations []string) {
	equal := h.exchanges()
	for i := range h.requests {
		r := &h.requests[i]
		if r.answer.status != http.StatusTooManyRequests || r.answer.Reason == "" || r.away {
			continue // not ours, or by a replica that cannot look
		}
		if slices.ContainsFunc(h.faults, func(f fault) bool {
			return (f.kind.store || f.kind.estranges()) && f.overlaps(r.sent, r.answered)
		}) {
			continue
		}
		told := exchange{r, &call{start: r.answered}}
		for _, e := range equal[r.equal()] {
			if !e.start.Before(r.sent) {
				break
			}
			until := e.end
			if e.route == "held" && e.answer.String() == "200" && !h.troubled(e.end, r.answered) {
				until = until.Add(h.hold - clocks)
			}
			if r.answered.Before(until) && h.explain(e, told) == "" {
				violations = append(violations, fmt.Sprintf("order: request %s of route %s, sent at %s, was told %s by process %d at %s, while %s was in flight or held until %s; since then:%s",
					r.nonce, r.route, r.sent.Format("05.000"), r.answer, r.process, r.answered.Format("05.000"), e, until.Format("05.000"), h.faultsWithin(e.start, r.answered)))
			}
		}
	}
	return violations
}

// faultsWithin tells of what was wrong between two moments.
func (h *history) faultsWithin(from, to time.Time) (all string) {
	for _, f := range h.faults {
		if f.overlaps(from, to) {
			all += fmt.Sprintf(" %s from %s to %s (replica %d);", f.kind.name, f.begin.Format("05.000"), f.end.Format("05.000"), f.replica)
		}
	}
	return all
}

// A pause that the upstream asked for is kept by all replicas, while nothing
// keeps them from telling each other.
func (h *history) disturbed() (violations []string) {
	var sent []exchange // on the route whose upstream asks for pauses
	for i := range h.requests {
		if r := &h.requests[i]; r.route == "rests" && len(r.calls) > 0 {
			sent = append(sent, exchange{r, r.calls[0]})
		}
	}
	for _, asked := range sent {
		if asked.does != asksToPause || asked.answer.String() != "429" || asked.away {
			continue // or its replica tells the others when the store is back
		}
		until := asked.end.Add(h.pause - clocks)
		for _, e := range sent {
			if e.sent.After(asked.answered) && e.start.Before(until) && !e.alone && !h.troubled(asked.sent, e.start) {
				violations = append(violations, fmt.Sprintf("pause: %s arrived %s after the upstream had asked for a pause in answer to %s; since a second before:%s",
					e, e.start.Sub(asked.end), asked, h.faultsWithin(asked.sent.Add(-time.Second), e.start)))
			}
		}
	}
	return violations
}

// troubled reports whether any fault was on between two moments.
func (h *history) troubled(from, to time.Time) bool {
	return slices.ContainsFunc(h.faults, func(f fault) bool { return f.overlaps(from, to) })
}
