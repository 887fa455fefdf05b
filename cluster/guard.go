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
	at     time.Duration    // by the store's clock, since 1970
	late   bool             // nobody waited for it any more: nothing was decided
	left   []coolDown       // of each of the ask's cool-downs, its end counted from now, for CoolingDown
	stored []stored         // of each charge, if Admitted
	was    []limiter.Former // of each charge, if one of them was another limit's
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
		part.clock.set(a.at, r.known.now(), r.options.Timeout)
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
	c := newCommand(r.options.Prefix)
	defer c.done()
	value := ""
	if g.Locked() {
		c.beginKey()
		c.text = g.lock.appendKey(c.text)
		c.endKey()
		value = g.lock.value
	}
	for _, name := range ask.Pauses {
		c.beginKey()
		c.text = appendPauseKey(c.text, ask.Tag, name)
		c.endKey()
	}
	for _, charge := range ask.Charges {
		c.beginKey()
		c.text = charge.appendKey(c.text, ask.Tag)
		c.endKey()
	}
	limits := make([][]string, 0, 4) // on the stack, for as many
	for _, charge := range ask.Charges {
		limits = append(limits, r.limitArgs(charge.Limit))
	}
	guardArgs{deadline: deadline, lock: value, ttl: r.options.LockTTL, pauses: len(ask.Pauses), longest: ask.LongestPause, limits: limits}.write(c)
	reply, err := r.conn.Load().once(ctx, r.guard, c).Slice()
	if err != nil {
		return answer{}, err
	}
	return readAnswer(ask, reply)
}

// guardArgs are the arguments of guard.lua.
type guardArgs struct {
	deadline time.Duration // by the store's clock; 0 for none
	lock     string        // its value; empty for none
	ttl      time.Duration // of the lock
	pauses   int           // how many cool-downs
	longest  time.Duration // of a cool-down; 0 for no bound
	limits   [][]string    // of each its arguments
}

func (a guardArgs) write(c *command) {
	c.number(a.deadline.Microseconds())
	c.number(0) // kept keys
	c.arg(a.lock)
	c.number(a.ttl.Milliseconds())
	c.number(int64(a.pauses))
	c.number(0) // slots
	c.number(a.longest.Milliseconds())
	for _, limit := range a.limits {
		for _, arg := range limit {
			c.arg(arg)
		}
		c.number(0) // the longest wait
	}
}

// readAnswer reads what guard.lua answered.
func readAnswer(ask Ask, reply []any) (a answer, err error) {
	const admitted, duplicate, limited, coolingDown, late = 1, 2, 3, 4, 5
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
	case (outcome == admitted || outcome == limited) && len(about) == len(ask.Charges):
		a.Outcome = Admitted
		if outcome == limited {
			a.Outcome = Limited
		}
		return a, a.readBudgets(ask, about)
	}
	return answer{}, errReply(reply)
}

// readBudgets reads what each budget replied.
func (a *answer) readBudgets(ask Ask, replies []any) error {
	a.Decisions = make([]limiter.Decision, len(replies))
	if a.Outcome == Admitted {
		a.stored = make([]stored, len(replies))
	}
	for i, c := range ask.Charges {
		budget, err := c.Limit.ReadReply(replies[i], a.Outcome == Admitted)
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
		return Verdict{Outcome: Held, Holder: holder}
	}
	return Verdict{Outcome: Duplicate, Holder: holder}
}

func errReply(reply []any) error {
	return fmt.Errorf("unexpected answer of a script: %v", reply)
}

func (r *Redis) limitArgs(l limiter.Limit) []string {
	if args, ok := r.args.Load(l); ok {
		return args.([]string)
	}
	args := l.ScriptArgs(0)
	r.args.Store(l, args)
	return args
}
