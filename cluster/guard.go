package cluster

import (
	"context"
	"fmt"
	"time"

	"throttle-proxy/limiter"
)

// answer is what guard.lua said of an ask.
type answer struct {
	Verdict
	at      time.Duration    // by the store's clock, since 1970
	late    bool             // nobody waited for it any more: nothing was decided
	after   time.Duration    // until the request may be sent, if it is queued
	left    []coolDown       // of each of the ask's cool-downs, its end counted from now, for CoolingDown
	charged []Charge         // those that were, and
	stored  []stored         // of each what was
	was     []limiter.Former // of each charge, if one of them was another limit's
}

// ask asks the store until the deadline of ctx, which is end, and says when it
// did. The grant is what the ask wants.
//
// The store is told until when somebody waits, by its own clock, and does
// nothing for an ask that comes later: what timed out is neither locked nor
// charged once a store that stood still goes on. Where only its clock is another
// than was thought, as after a failover, it is asked once more.
func (r *Redis) ask(ctx context.Context, end time.Duration, part *part, ask Ask, g *Grant) (a answer, asked time.Duration, err error) {
	for range 2 {
		asked = r.known.now()
		a, err = r.askOnce(ctx, part.clock.at(end), ask, g)
		if err != nil {
			return answer{}, asked, err
		}
		now := r.known.now()
		part.clock.set(a.at, now, r.options.Timeout)
		a.instant = now + a.after // by the time of the receipt, so that it errs late
		if !a.late {
			return a, asked, nil
		}
	}
	return answer{}, asked, errLate
}

// errLate is why the answer of a store is of no use that came to an ask only
// when nobody waited any more.
var errLate = fmt.Errorf("the store has found the ask too late: %w", context.DeadlineExceeded)

// askOnce runs the guard script, which does nothing after deadline, by the
// store's clock; 0 is none.
func (r *Redis) askOnce(ctx context.Context, deadline time.Duration, ask Ask, g *Grant) (answer, error) {
	a := newAsker(ask, g, deadline)
	var err error
	switch {
	case ask.isPlain():
		err = r.together(ctx, plainGuardScript, a)
	case ask.Key == nil:
		err = r.together(ctx, guardScript, a)
	default:
		r.send(ctx, guardScript, []*asker{a}) // the answer may be a long one
	}
	if err != nil {
		return answer{}, err
	}
	return a.answer()
}

// isPlain reports whether the plain guard can decide a.
func (a *Ask) isPlain() bool {
	return a.Wait == 0 && len(a.Slots)+len(a.Candidates) == 0 && a.Sharing == Unshared && a.Key == nil
}

// writeKeys writes the keys of a group of asks that are alike, as guard.lua takes
// them.
func (r *Redis) writeKeys(c *command, group []*asker) {
	ask := group[0]
	for _, name := range ask.Pauses {
		c.beginKey()
		c.text = appendPauseKey(c.text, ask.Tag, name)
		c.endKey()
	}
	for _, slot := range ask.Slots {
		c.beginKey()
		c.text = slot.appendKey(c.text, ask.Tag)
		c.endKey()
	}
	for _, charges := range [...][]Charge{ask.Charges, ask.Candidates} {
		for _, charge := range charges {
			c.beginKey()
			c.text = charge.appendKey(c.text, ask.Tag)
			c.endKey()
		}
	}
	if ask.Key != nil {
		c.beginKey()
		c.text = appendKeptKey(c.text, ask.Tag, ask.lock.hash)
		c.endKey()
	}
	for _, a := range group {
		if a.lock != nil {
			c.beginKey()
			c.text = a.lock.appendKey(c.text)
			c.endKey()
		}
	}
}

// writeArgs writes the arguments of a group of asks that are alike, as guard takes
// them. ttl is that of their locks and slots.
func (r *Redis) writeArgs(c *command, group []*asker, ttl time.Duration, guard *script) {
	ask := group[0]
	c.number(ask.deadline.Microseconds())
	c.count(ask.lock != nil)
	c.number(ttl.Milliseconds())
	c.number(int64(len(ask.Pauses)))
	c.number(ask.LongestPause.Milliseconds())
	c.number(int64(len(ask.Charges)))
	c.number(int64(len(group)))
	if guard == guardScript {
		ask.writeWhole(c)
	}
	for _, charges := range [...][]Charge{ask.Charges, ask.Candidates} {
		for _, charge := range charges {
			for _, arg := range r.limitArgs(charge.Limit, charge.Wait) {
				c.arg(arg)
			}
		}
	}
	for _, a := range group {
		if a.lock != nil {
			c.arg(a.lock.value)
		}
	}
}

// writeWhole writes what the plain guard knows nothing of.
func (a *asker) writeWhole(c *command) {
	c.number(a.Wait.Microseconds())
	c.number(int64(len(a.Candidates)))
	switch {
	case a.Sharing == Unshared:
		c.arg("")
	case a.Sharing == Joined && a.Arrived == 0:
		c.arg("join")
	default:
		c.number(a.Arrived.Microseconds())
	}
	c.count(a.Key != nil)
	if a.Key != nil {
		c.arg(a.Key.contentHash())
		c.number(millis(a.Key.Keep))
	} else {
		c.arg("")
		c.number(0)
	}
	c.number(int64(len(a.Slots)))
	c.arg(a.token)
	for _, slot := range a.Slots {
		c.number(int64(slot.Most))
	}
}

// readAnswer reads what guard.lua answered.
func readAnswer(ask Ask, reply []any) (a answer, err error) {
	const admitted, duplicate, limited, coolingDown, late, busy, waiting, kept = 1, 2, 3, 4, 5, 6, 7, 8
	if len(reply) < 2 {
		return answer{}, errReply(reply)
	}
	outcome, _ := reply[0].(int64)
	micros, ok := reply[1].(int64)
	if !ok || micros <= 0 {
		return answer{}, errReply(reply)
	}
	a.at = time.Duration(micros) * time.Microsecond
	switch about := reply[2:]; {
	case outcome == late && len(about) == 0:
		a.late = true
		return a, nil
	case outcome == coolingDown && len(about) == 2*len(ask.Pauses):
		a.Outcome, a.left = CoolingDown, make([]coolDown, len(ask.Pauses))
		for i := range a.left {
			left, _ := about[2*i].(int64)
			status, _ := about[2*i+1].(int64)
			a.left[i] = coolDown{time.Duration(left) * time.Millisecond, int(status)}
			a.coolsDown(a.left[i], 0)
		}
		return a, nil
	case outcome == duplicate && len(about) == 1:
		value, _ := about[0].(string)
		a.Verdict = heldBy(value, a.at)
		return a, nil
	case outcome == kept && len(about) == 1 && ask.Key != nil:
		value, _ := about[0].(string)
		a.Verdict = ask.Key.kept(value, a.at)
		return a, nil
	case outcome == busy && len(about) == len(ask.Slots):
		a.Outcome = Busy
		if err := a.readUsed(about); err != nil {
			return a, err
		}
		for i, slot := range ask.Slots {
			if a.Used[i] >= slot.Most {
				a.place = i
				return a, nil
			}
		}
		return answer{}, errReply(reply)
	case outcome == limited && len(about) == len(ask.Charges):
		a.Outcome = Limited
		return a, a.readBudgets(ask, about, -1)
	case outcome == admitted && len(about) == len(ask.Slots)+len(ask.Charges)+len(ask.Candidates):
		a.Outcome = Admitted
		if err := a.readUsed(about[:len(ask.Slots)]); err != nil {
			return a, err
		}
		about = about[len(ask.Slots):]
		if err := a.readCandidates(ask, about[len(ask.Charges):]); err != nil {
			return a, err
		}
		return a, a.readBudgets(ask, about[:len(ask.Charges)], -1)
	case outcome == waiting && len(about) == 1+len(ask.Charges)+len(ask.Candidates):
		which, _ := about[0].(int64)
		if which < 1 || int(which) > len(ask.Charges) {
			return answer{}, errReply(reply)
		}
		a.Outcome, a.place = queued, int(which)-1
		about = about[1:]
		if err := a.readCandidates(ask, about[len(ask.Charges):]); err != nil {
			return a, err
		}
		return a, a.readBudgets(ask, about[:len(ask.Charges)], a.place)
	}
	return answer{}, errReply(reply)
}

// readUsed reads how many slots of each kind are taken.
func (a *answer) readUsed(replies []any) error {
	for _, reply := range replies {
		n, ok := reply.(int64)
		if !ok || n < 0 {
			return errReply(replies)
		}
		a.Used = append(a.Used, int(n))
	}
	return nil
}

// readCandidates reads what each candidate replied.
func (a *answer) readCandidates(ask Ask, replies []any) error {
	for i, c := range ask.Candidates {
		if replies[i] == nil { // its key is no budget
			a.Candidates = append(a.Candidates, limiter.Decision{})
			continue
		}
		budget, err := c.Limit.ReadReply(replies[i], false)
		if err != nil {
			return err
		}
		a.Candidates = append(a.Candidates, budget.Decision)
	}
	return nil
}

// readBudgets reads what each budget replied. place is that in which the request
// waits, or -1.
func (a *answer) readBudgets(ask Ask, replies []any, place int) error {
	a.Decisions = make([]limiter.Decision, len(replies))
	switch a.Outcome {
	case Admitted:
		a.charged, a.stored = ask.Charges, make([]stored, len(replies))
	case queued:
		a.charged, a.stored = ask.Charges[place:place+1], make([]stored, 1)
	}
	for i, c := range ask.Charges {
		var budget limiter.Reply
		var after time.Duration
		var err error
		if i == place {
			budget, after, err = c.Limit.ReadReserved(replies[i])
			a.after = after
			a.stored[0] = stored{budget.TAT, budget.Decision.ResetAfter + after}
		} else {
			budget, err = c.Limit.ReadReply(replies[i], a.Outcome == Admitted)
		}
		if err != nil {
			return err
		}
		a.Decisions[i] = budget.Decision
		if a.Outcome == Admitted {
			a.stored[i] = stored{budget.TAT, budget.Decision.ResetAfter}
		}
		if budget.Was != (limiter.Former{}) {
			if a.was == nil {
				a.was = make([]limiter.Former, len(replies))
			}
			a.was[i] = budget.Was
		}
	}
	return nil
}

// heldBy is the verdict on an ask whose lock has a value, at an instant of the
// store's clock.
func heldBy(value string, at time.Duration) Verdict {
	holder, held := parseHolder(value, at)
	if held {
		return Verdict{Outcome: Held, Holder: holder, value: value}
	}
	return Verdict{Outcome: Duplicate, Holder: holder, value: value}
}

func errReply(reply []any) error {
	return fmt.Errorf("unexpected answer of a script: %v", reply)
}

// limitWait is a limit, and the longest that requests wait for it.
type limitWait struct {
	limiter.Limit
	wait time.Duration
}

func (r *Redis) limitArgs(l limiter.Limit, wait time.Duration) []string {
	key := limitWait{l, wait}
	if args, ok := r.args.Load(key); ok {
		return args.([]string)
	}
	args := l.ScriptArgs(wait)
	r.args.Store(key, args)
	return args
}
