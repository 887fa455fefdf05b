package integration

import (
	"fmt"
	"slices"
	"time"
)

// Law 2: no more than burst + rate × t is admitted in any interval t, while
// the store keeps its data and its clock's pace: a loss gives each budget its
// burst again, and so does each step of the clock, forward or back; and those that
// have a place from before it keep that. Under
// limits that change it is the larger burst and the faster rate. That
// holds over an outage too, in which replicas all together begin with nothing.
// What some of them admit without the store while others still ask it is on top.
func (h *history) excesses() (violations []string) {
	for _, l := range h.limits {
		stored, alone, both := map[string][]admission{}, map[string][]admission{}, map[string][]admission{}
		for _, r := range h.requests {
			if r.route != l.route || len(r.calls) == 0 || r.process < 0 {
				continue
			}
			caller, a := "", admission{r.sent, r.calls[0].start}
			if l.byTenant {
				caller = r.tenant
			}
			if r.alone {
				alone[caller] = append(alone[caller], a)
			} else {
				stored[caller] = append(stored[caller], a)
			}
			both[caller] = append(both[caller], a)
		}
		violate := func(who, excess string) {
			if excess != "" {
				violations = append(violations, fmt.Sprintf("law 2: %s %s, %g/s burst %d: %s", l.route, who, l.perSecond, l.burst, excess))
			}
		}
		for caller, admissions := range both {
			violate("with and without the store for "+caller, excessOf(admissions, l.burst+h.replicas, l.perSecond, func(from, to time.Time) float64 {
				return h.refilled(l, from, to) + l.perSecond*h.divided(from, to).Seconds()
			}))
		}
		for caller, admissions := range stored {
			violate("by the store for "+caller, excessOf(admissions, l.burst, l.perSecond, func(from, to time.Time) float64 {
				return h.refilled(l, from, to)
			}))
		}
		for caller, admissions := range alone {
			violate("without the store for "+caller, excessOf(admissions, max(h.replicas, l.burst), l.perSecond, nil))
			for _, f := range h.faults {
				if f.kind.store && !h.aloneBefore(f) {
					since := slices.DeleteFunc(slices.Clone(admissions), func(a admission) bool { return a.sent.Before(f.begin) || a.sent.After(f.end) })
					// The moment at which it began counts as one more request.
					since = append(since, admission{f.begin, f.begin})
					violate("without the store, from the fault on, for "+caller, excessOf(since, h.replicas+1, l.perSecond, nil))
				}
			}
		}
	}
	return violations
}

// refilled returns how many requests of l may be admitted between two moments
// since its budgets were full again: a burst each time, and what waited then.
func (h *history) refilled(l limit, from, to time.Time) float64 {
	return float64(h.refills(from, to)) * (float64(l.burst) + l.perSecond*min(l.wait, to.Sub(from)).Seconds())
}

// refills returns how often each budget was full again between two moments.
func (h *history) refills(from, to time.Time) (n int) {
	for _, f := range h.faults {
		if f.kind.refills && f.overlaps(from, to) {
			n++
		}
	}
	return n
}

// divided returns for how long, between two moments, some replicas may have
// asked the store while others could not, or did not get to tell it afterwards
// of what they had admitted.
func (h *history) divided(from, to time.Time) (d time.Duration) {
	for _, f := range h.faults {
		if !f.kind.store || !f.overlaps(from, to) {
			continue
		}
		begin := f.begin
		if f.kind.all && !slices.ContainsFunc(h.faults, func(other fault) bool {
			return (other.kind.pauses || other.kind.kills) && other.overlaps(f.begin, f.end)
		}) {
			begin = f.healed
		}
		d += f.end.Sub(begin)
	}
	return d
}

// aloneBefore reports whether a replica may have been deciding alone when f
// began.
func (h *history) aloneBefore(f fault) bool {
	const while = 5 * time.Second
	return slices.ContainsFunc(h.requests, func(r request) bool {
		return r.alone && r.answered.After(f.begin.Add(-while)) && r.sent.Before(f.begin)
	})
}
