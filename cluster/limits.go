package cluster

import (
	"fmt"

	"throttle-proxy/limiter"
)

// limitChange is another limit under which a budget was found.
type limitChange struct {
	tag, name string
	was       limiter.Former
	is        limiter.Limit
}

// tellLimitChanges tells of the limits of ask that were others when their budgets
// were charged last: was is nil, or what each was. Each change is told once.
func (r *Redis) tellLimitChanges(ask Ask, was []limiter.Former) {
	for i, was := range was {
		was, known := was.Before(ask.Charges[i].Limit, ask.Charges[i].Wait)
		if !known {
			continue
		}
		change := limitChange{ask.Tag, ask.Charges[i].Name, was, ask.Charges[i].Limit}
		if _, known := r.changed.LoadOrStore(change, true); known {
			continue
		}
		rate := change.is
		if rate.Burst = rate.Rate; rate.Strict { // which is how none is named
			rate.Burst = 1
		}
		told := r.changes.tell(Change{
			Kind:  LimitChanged,
			Tag:   change.tag,
			Limit: change.name,
			Is:    fmt.Sprintf("%s burst %d", rate, change.is.Burst),
			Was:   was.String(),
		})
		if !told {
			r.changed.Delete(change) // or it never would be
		}
	}
}
