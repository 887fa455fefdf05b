package cluster

import (
	"context"
	"fmt"
	"throttle-proxy/limiter"
	"time"
)

// ask runs the guard script. lock may be nil. waits are what is left of each of
// the ask's cool-downs, where it is under one.
func (r *Redis) ask(ctx context.Context, ask Ask, lock *Lock) (v Verdict, waits []time.Duration, err error) {
	c := newCommand(r.options.Prefix)
	defer c.done()
	for _, name := range ask.Pauses {
		c.beginKey()
		c.text = appendPauseKey(c.text, ask.Tag, name)
		c.endKey()
	}
	value := ""
	if lock != nil {
		c.beginKey()
		c.text = lock.appendKey(c.text)
		c.endKey()
		value = lock.value
	}
	for _, charge := range ask.Charges {
		c.beginKey()
		c.text = charge.appendKey(c.text, ask.Tag)
		c.endKey()
	}
	c.arg(value)
	c.number(r.options.LockTTL.Milliseconds())
	c.number(int64(len(ask.Pauses)))
	for _, charge := range ask.Charges {
		for _, arg := range r.limitArgs(charge.Limit) {
			c.arg(arg)
		}
	}
	reply, err := r.conn.Load().once(ctx, r.guard, c).Slice()
	if err != nil {
		return Verdict{}, nil, err
	}
	return readReply(ask, reply)
}

// readReply reads what guard.lua answered.
func readReply(ask Ask, reply []any) (v Verdict, waits []time.Duration, err error) {
	const admitted, duplicate, limited, coolingDown = 1, 2, 3, 4
	if len(reply) == 0 {
		return Verdict{}, nil, errReply(reply)
	}
	switch outcome, _ := reply[0].(int64); {
	case outcome == coolingDown && len(reply) == 1+len(ask.Pauses):
		v.Outcome, waits = CoolingDown, make([]time.Duration, len(ask.Pauses))
		for i := range waits {
			left, _ := reply[1+i].(int64)
			waits[i] = time.Duration(left) * time.Millisecond
			v.Wait = max(v.Wait, waits[i])
		}
		return v, waits, nil
	case outcome == duplicate && len(reply) == 3:
		value, _ := reply[1].(string)
		micros, _ := reply[2].(string)
		now, err := time.ParseDuration(micros + "us")
		if err != nil {
			return Verdict{}, nil, errReply(reply)
		}
		holder, held := parseHolder(value, now)
		if held {
			return Verdict{Outcome: Held, Holder: holder}, nil, nil
		}
		return Verdict{Outcome: Duplicate, Holder: holder}, nil, nil
	case (outcome == admitted || outcome == limited) && len(reply) == 1+len(ask.Charges):
		v := Verdict{Outcome: Admitted, Decisions: make([]limiter.Decision, len(ask.Charges))}
		if outcome == limited {
			v.Outcome = Limited
		}
		for i, c := range ask.Charges {
			budget, err := c.Limit.ReadReply(reply[1+i], outcome == admitted)
			if err != nil {
				return Verdict{}, nil, err
			}
			v.Decisions[i] = budget.Decision
		}
		return v, nil, nil
	}
	return Verdict{}, nil, errReply(reply)
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
