package integration

import (
	"fmt"
	"slices"
	"time"
)

// Law 9: one answer, one execution.

// sharing are the routes on which a duplicate gets the answer of another request.
var sharing = []string{"shared", "twice", "newest"}

// An answer is the request's own, or that of the exchange that it met or has begun
// after it came, with its key or equal to it: never another's, and never an older one.
func (h *history) misplacedAnswers() (violations []string) {
	byNonce := map[string]*request{}
	for i := range h.requests {
		byNonce[h.requests[i].nonce] = &h.requests[i]
	}
	for i := range h.requests {
		r := &h.requests[i]
		violate := func(why string, a ...any) {
			violations = append(violations, fmt.Sprintf("law 9: request %s (%s) was answered %s: %s", r.nonce, r.equal(), r.answer, fmt.Sprintf(why, a...)))
		}
		if r.err != nil {
			continue
		}
		if r.sharesFailure() && !slices.ContainsFunc(h.requests, func(e request) bool {
			return e.does == cuts && e.equal() == r.equal() && len(e.calls) == 1 && e.calls[0].start.Before(r.answered) &&
				(!e.calls[0].end.Add(h.holdOf(r)).Before(r.sent) || e.err != nil || e.answered.Add(h.holdOf(r)).After(r.sent) || h.troubled(e.sent, r.answered))
		}) {
			violate("no equal exchange was cut meanwhile")
		}
		name := r.answer.header.Get(servedField)
		if name == "" || name == r.nonce {
			continue
		}
		s := byNonce[name]
		switch {
		case s == nil || len(s.calls) == 0:
			violate("by %s, which never arrived", name)
			continue
		case s.equal() != r.equal() || s.other != r.other:
			violate("it is that of %s, which is not equal (%s)", name, s.equal())
			continue
		case len(r.calls) > 0:
			violate("it is that of %s, and was sent itself", name)
		case r.answer.String() != answersTo[s.does]:
			violate("%s was to be answered %s", name, answersTo[s.does])
		}
		late, began := s.calls[0].end, s.calls[0].start
		if s.answered.After(late) {
			late = s.answered // what its client waited for was not over yet
		}
		switch r.route {
		case "newest":
			stepped := slices.ContainsFunc(h.faults, func(f fault) bool { return f.step != 0 && f.overlaps(s.sent, r.answered) })
			if !began.After(r.sent) && !stepped {
				violate("it is that of %s, which had begun %s before", name, r.sent.Sub(began))
			}
		case "twice", "shared":
			late = late.Add(h.holdOf(r))
			if r.sent.After(late.Add(clocks)) && s.err == nil && !h.troubled(s.sent, r.answered) {
				violate("it is that of %s, which was over %s before", name, r.sent.Sub(late))
			}
		case "keyed":
			if r.answer.header.Get("Idempotent-Replayed") != "true" {
				violate("it is that of %s, and does not say so", name)
			}
		default:
			violate("it is that of %s", name)
		}
	}
	return violations
}

// holdOf is for how long answers on the route of r are those of its duplicates yet.
func (h *history) holdOf(r *request) time.Duration {
	if r.route == "twice" {
		return h.hold
	}
	return 0
}

// sharesFailure reports whether a request was not sent itself, and was told what
// has become of another.
func (r *request) sharesFailure() bool {
	return slices.Contains(sharing, r.route) && len(r.calls) == 0 && r.answer.String() == answersTo[cuts]
}

// sharesAnswer reports whether a request has the answer to another.
func (r *request) sharesAnswer() bool {
	served := r.answer.header.Get(servedField)
	return served != "" && served != r.nonce || r.sharesFailure()
}

// What has a key is sent once, whatever it says, until an answer that frees the key.
func (h *history) repeatedKeys() (violations []string) {
	byKey := map[string][]exchange{}
	for i := range h.requests {
		r := &h.requests[i]
		for _, c := range r.calls {
			if r.route == "keyed" {
				byKey[r.body] = append(byKey[r.body], exchange{r, c})
			}
		}
	}
	for _, all := range byKey {
		slices.SortFunc(all, func(a, b exchange) int { return a.start.Compare(b.start) })
		for i := 1; i < len(all); i++ {
			before, e := all[i-1], all[i]
			lost := slices.ContainsFunc(h.faults, func(f fault) bool { return f.kind.loses && f.overlaps(before.sent, e.start) })
			if !lost && (before.does != fails || e.start.Before(before.end)) {
				violations = append(violations, fmt.Sprintf("law 9: %s was sent after %s (%s) with its key", e, before, before.does))
			}
		}
	}
	return violations
}
