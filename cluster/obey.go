package cluster

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"throttle-proxy/limiter"
)

// limitID is what a limit is known by.
type limitID struct{ tag, name string }

// control is what a replica obeys of what operators have changed. It is not
// changed once it is there.
type control struct {
	controls
	limits map[limitID]setControl
	pauses map[string]setControl // by route
	freed  map[freedLock]bool    // locks that count as free, whoever has them

	offset time.Duration // what the store's clock is ahead of that of what is known
	next   time.Duration // when something of it ends; by the latter clock, 0 for never
}

// freedLock is a lock by its holder's request.
type freedLock struct{ tag, requestID string }

// compile returns what is left of c at an instant on the clock of what is known, by
// which the store's is ahead by an offset.
func (c controls) compile(now, offset time.Duration) *control {
	k := &control{controls: c, limits: map[limitID]setControl{}, pauses: map[string]setControl{}, freed: map[freedLock]bool{}, offset: offset}
	isOver := func(until int64) bool {
		end := time.Duration(until)*time.Microsecond - offset
		if until != 0 && end > now && (k.next == 0 || end < k.next) {
			k.next = end
		}
		return until != 0 && end <= now
	}
	for _, s := range c.Set {
		switch {
		case isOver(s.Until):
		case s.Deed == SetLimit:
			k.limits[limitID{s.Tag, s.Limit}] = s
		case s.Deed == SetPause:
			k.pauses[s.Route] = s
		}
	}
	for _, d := range c.Done {
		if !isOver(d.Until) && d.Deed == FreeLock {
			k.freed[freedLock{d.Tag, d.RequestID}] = true
		}
	}
	return k
}

// left returns for how long s stays, at an instant on the clock of what is known; 0
// if it has no end.
func (k *control) left(s setControl, now time.Duration) time.Duration {
	if s.Until == 0 {
		return 0
	}
	return max(time.Microsecond, time.Duration(s.Until)*time.Microsecond-k.offset-now)
}

// controlAt returns what operators have changed, at an instant; nil if that is
// nothing. What ends takes with it what is known by it.
func (k *known) controlAtLocked(now time.Duration) *control {
	c := k.control.Load()
	if c == nil || c.next == 0 || now < c.next {
		return c
	}
	c = c.compile(now, c.offset)
	k.control.Store(c)
	k.forgetLocked()
	return c
}

// forgetLocked forgets what was known of budgets that may have changed: each is
// asked again.
func (k *known) forgetLocked() {
	k.denials, k.spread = limiter.NewDenials(Capacity), limiter.NewSpread(Capacity)
	k.unlocked = limiter.NewDeadlines[freeLock, struct{}](Capacity)
	for w := range k.waiting.all {
		w.stir()
	}
}

// controlled returns ask with the limits that operators have set, and reports
// whether there are any.
func (k *known) controlled(ask Ask) (as Ask, changed bool) {
	if k.control.Load() == nil {
		return ask, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.controlledLocked(ask, k.now())
}

func (k *known) controlledLocked(ask Ask, now time.Duration) (as Ask, changed bool) {
	c := k.controlAtLocked(now)
	if c == nil || len(c.limits) == 0 {
		return ask, false
	}
	for i, charge := range ask.Charges {
		set, ok := c.limits[limitID{ask.Tag, charge.Name}]
		if !ok {
			continue
		}
		if !changed {
			ask.Charges, changed = slices.Clone(ask.Charges), true
		}
		ask.Charges[i].Limit = set.Rate
	}
	return ask, changed
}

// under is v with the limits of ask, if operators have changed any.
func (v Verdict) under(ask Ask, changed bool) Verdict {
	if changed {
		for _, c := range ask.Charges {
			v.Limits = append(v.Limits, c.Limit)
		}
	}
	return v
}

// pausedLocked returns the verdict on ask if an operator has paused its route.
func (k *known) pausedLocked(ask Ask, now time.Duration) (v Verdict, refused bool) {
	c := k.controlAtLocked(now)
	if c == nil {
		return Verdict{}, false
	}
	set, refused := c.pauses[ask.Route]
	if !refused {
		return Verdict{}, false
	}
	return Verdict{Outcome: Paused, Wait: c.left(set, now), Message: set.Message}, true
}

// obey obeys c from now on: offset is what the store's clock is ahead. It returns
// the locks that are free by that, and the orders that are to be told of: those that
// came since the start, or else the last one, which explains what holds.
func (k *known) obey(c controls, offset time.Duration) (freed []*lock, given []givenOrder) {
	k.mu.Lock()
	defer k.mu.Unlock()
	was := k.control.Load()
	now := k.now()
	k.control.Store(c.compile(now, offset))
	k.forgetLocked()
	for _, d := range c.Done {
		if d.Deed == FreeLock && (was == nil || d.Version > was.Version) {
			freed = append(freed, k.freeLocked(d.Tag, d.RequestID)...)
		}
	}
	for i, g := range c.Last {
		if was != nil && g.Version <= was.Version {
			continue
		}
		isNew := time.Duration(g.At)*time.Microsecond-offset > 0
		if isNew && slices.Contains(Deeds, g.Deed) {
			k.followed[g.Deed]++
		}
		if isNew || i == len(c.Last)-1 {
			given = append(given, g)
		}
	}
	return freed, given
}

// freeLocked lets go of the locks that a request has, and returns them. It goes
// on without.
func (k *known) freeLocked(tag, requestID string) (freed []*lock) {
	for id, lock := range k.locks.known {
		if id.tag != tag || lock.requestID() != requestID {
			continue
		}
		freed = append(freed, lock)
		lock.freed.Store(true)
		if lock.held() {
			delete(k.locks.known, id) // its queue finds it gone
		} else {
			k.locks.end(lock, 0, 0)
		}
	}
	return freed
}

// version is that of what is obeyed.
func (k *known) version() uint64 {
	if c := k.control.Load(); c != nil {
		return c.Version
	}
	return 0
}

// given returns the last orders, the latest first, and how many were followed since
// the start.
func (k *known) given() (last []GivenOrder, followed map[Deed]uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.control.Load(); c != nil {
		for _, g := range slices.Backward(c.Last) {
			last = append(last, GivenOrder{g.Deed, g.Text, g.By, max(0, k.now()+c.offset-time.Duration(g.At)*time.Microsecond)})
		}
	}
	return last, maps.Clone(k.followed)
}

// changed returns what operators have changed, and still holds.
func (k *known) changed() (changed []Changed) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	c := k.controlAtLocked(now)
	if c == nil {
		return nil
	}
	for _, s := range c.limits {
		changed = append(changed, Changed{Deed: SetLimit, Route: s.Route, Tag: s.Tag, Limit: s.Limit, Rate: s.Rate, Left: c.left(s, now), By: s.By})
	}
	for _, s := range c.pauses {
		changed = append(changed, Changed{Deed: SetPause, Route: s.Route, Message: s.Message, Left: c.left(s, now), By: s.By})
	}
	slices.SortFunc(changed, func(a, b Changed) int {
		return cmp.Or(cmp.Compare(a.Deed, b.Deed), cmp.Compare(a.Tag, b.Tag), cmp.Compare(a.Limit, b.Limit), cmp.Compare(a.Route, b.Route))
	})
	return changed
}
