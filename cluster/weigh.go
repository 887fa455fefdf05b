package cluster

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Weighed is what would decide an ask now. It was given nothing.
type Weighed struct {
	// Verdict is the answer that it would get. Of what follows it has all that is
	// known, also behind what refuses: Holder, Message, Decisions, Used and Limits.
	Verdict
	Lock    string          // names the lock, as its key in a store; empty if it wants none
	Cooling []time.Duration // what is left of each of its cool-downs, 0 if nothing
}

// Weigh tells what would decide ask now, in one trip, and takes nothing. The error
// wraps [ErrStoreAway] if the store gave no answer.
func (r *Redis) Weigh(ask Ask) (Weighed, error) {
	as, changed := r.known.controlled(ask)
	w := Weighed{Lock: as.lockName()}
	c := newCommand(r.options.Prefix)
	defer c.done()
	locks := int64(0)
	if as.Fingerprint != nil {
		locks = 1
		c.beginKey()
		c.text = appendLockKey(c.text, as.Tag, as.Fingerprint.hash())
		c.endKey()
	}
	for _, name := range as.Pauses {
		c.beginKey()
		c.text = appendPauseKey(c.text, as.Tag, name)
		c.endKey()
	}
	for _, slot := range as.Slots {
		c.beginKey()
		c.text = slot.appendKey(c.text, as.Tag)
		c.endKey()
	}
	for _, charge := range as.Charges {
		c.beginKey()
		c.text = charge.appendKey(c.text, as.Tag)
		c.endKey()
	}
	for _, n := range []int64{locks, int64(len(as.Pauses)), int64(len(as.Slots)), as.LongestPause.Milliseconds()} {
		c.number(n)
	}
	for _, charge := range as.Charges {
		for _, arg := range r.limitArgs(charge.Limit, charge.Wait) {
			c.arg(arg)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.options.patience())
	defer cancel()
	reply, err := r.conn.Load().once(ctx, weighScript, c).Slice()
	if err != nil {
		return w, fmt.Errorf("%w: %w", ErrStoreAway, err)
	}
	if err := w.read(as, reply); err != nil {
		return w, err
	}
	r.known.weigh(&w, as)
	if as.Key != nil {
		value, err := r.redis().Get(ctx, r.key(string(appendKeptKey(nil, as.Tag, as.Fingerprint.hash())))).Result()
		switch {
		case err != nil && err != redis.Nil:
			return w, fmt.Errorf("%w: %w", ErrStoreAway, err)
		case value != "":
			w.isKept(*as.Key, value, r.partOf(as.Tag).clock.at(r.known.now()))
		}
	}
	w.Verdict = w.under(as, changed)
	return w, nil
}

// read reads what weigh.lua answered.
func (w *Weighed) read(ask Ask, reply []any) error {
	if len(reply) != 2+len(ask.Pauses)+len(ask.Slots)+len(ask.Charges) {
		return errReply(reply)
	}
	micros, _ := reply[0].(int64)
	if value, _ := reply[1].(string); value != "" {
		w.Verdict = heldBy(value, time.Duration(micros)*time.Microsecond)
	}
	about := reply[2:]
	for range ask.Pauses {
		left, _ := about[0].(int64)
		w.Cooling, about = append(w.Cooling, time.Duration(left)*time.Millisecond), about[1:]
	}
	for range ask.Slots {
		used, _ := about[0].(int64)
		w.Used, about = append(w.Used, int(used)), about[1:]
	}
	for i, c := range ask.Charges {
		budget, err := c.Limit.ReadReply(about[i], false)
		if err != nil {
			return err
		}
		w.Decisions = append(w.Decisions, budget.Decision)
	}
	return nil
}

// Weigh tells what would decide ask now, and takes nothing. The error is nil.
func (m *Memory) Weigh(ask Ask) (Weighed, error) {
	as, changed := m.known.controlled(ask)
	w := Weighed{Lock: as.lockName()}
	m.known.mu.Lock()
	now := m.known.now()
	if v, refused := m.known.duplicateLocked(as, now); refused {
		w.Verdict = v
	}
	for _, name := range as.Pauses {
		w.Cooling = append(w.Cooling, max(0, m.known.pauses.get(pauseID{as.Tag, name}).until-now))
	}
	w.Used = m.known.slots.usedOf(as)
	w.Decisions = m.budgets.Look(now, as.charges())
	kept, isKept := m.known.kept.verdict(as, now)
	m.known.mu.Unlock()
	m.known.weigh(&w, as)
	if isKept && w.Outcome != Paused {
		w.Outcome, w.Age = kept.Outcome, kept.Age
	}
	w.Verdict = w.under(as, changed)
	return w, nil
}

// isKept has w be decided by what the store keeps of a key. One in flight, whose lock
// is there, is a duplicate of what says the same.
func (w *Weighed) isKept(key Key, value string, now time.Duration) {
	fields := strings.SplitN(value, " ", 4)
	switch {
	case w.Outcome == Paused:
	case len(fields) == 4 && fields[1] != key.contentHash():
		w.Outcome = KeyReused
	case len(fields) == 4 && fields[2] == keyFlight && w.Outcome == Duplicate:
	default:
		kept := key.kept(value, now)
		w.Outcome, w.Age = kept.Outcome, kept.Age
	}
}

// lockName names the lock of an ask.
func (a Ask) lockName() string {
	if a.Fingerprint == nil {
		return ""
	}
	hash := a.Fingerprint.hash()
	return "{" + a.Tag + "}:lock:" + hex.EncodeToString(hash[:])
}

// weigh finds the outcome, in the order of every verdict.
func (k *known) weigh(w *Weighed, ask Ask) {
	k.mu.Lock()
	paused, isPaused := k.pausedLocked(ask, k.now())
	k.mu.Unlock()
	w.Message = paused.Message
	switch {
	case w.Outcome != 0: // for an equal one
		return
	case isPaused:
		w.Outcome, w.Wait = Paused, paused.Wait
		return
	}
	w.Outcome = Admitted
	refuse := func(as Outcome, wait time.Duration) {
		if w.Outcome == Admitted || w.Outcome == as {
			w.Outcome, w.Wait = as, max(w.Wait, wait)
		}
	}
	for _, left := range w.Cooling {
		if left > 0 {
			refuse(CoolingDown, left)
		}
	}
	for i, used := range w.Used {
		if used >= ask.Slots[i].Most {
			refuse(Busy, 0)
		}
	}
	for _, d := range w.Decisions {
		if !d.Allowed {
			refuse(Limited, d.NextAfter)
		}
	}
}
