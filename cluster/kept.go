package cluster

import (
	"container/list"
	"time"
)

// keptKeys are the idempotency keys whose exchanges are over, of a replica without a
// store: what one with a store keeps there. It is not safe for concurrent use.
//
// They are at most Capacity, and their answers maxAnswers bytes. Beyond that an
// answer is remembered as one that is not kept, and the key that would end first is
// forgotten.
type keptKeys struct {
	known   map[lockID]*list.Element     // of a line
	lines   map[time.Duration]*list.List // by how long they are kept, so that the first ends first: as many as routes have different times
	answers int64                        // bytes
}

// keptKey is a key whose exchange is over.
type keptKey struct {
	id      lockID
	key     Key
	outcome Outcome
	answer  []byte        // for Replayed
	at      time.Duration // of the answer
	until   time.Duration
}

func newKeptKeys() keptKeys {
	return keptKeys{known: make(map[lockID]*list.Element), lines: make(map[time.Duration]*list.List)}
}

// verdict returns that on ask if its key is known.
func (k *keptKeys) verdict(ask Ask, now time.Duration) (v Verdict, refused bool) {
	if ask.Key == nil {
		return Verdict{}, false
	}
	k.expire(now)
	e := k.known[lockID{ask.Tag, *ask.Fingerprint}]
	if e == nil {
		return Verdict{}, false
	}
	switch kept := e.Value.(*keptKey); {
	case kept.until <= now:
		return Verdict{}, false
	case kept.key.Content != ask.Key.Content:
		return Verdict{Outcome: KeyReused}, true
	case kept.outcome == Replayed:
		return Verdict{Outcome: Replayed, Answer: kept.answer, Age: now - kept.at}, true
	default:
		return Verdict{Outcome: kept.outcome}, true
	}
}

func (k *keptKeys) add(kept *keptKey) {
	k.remove(k.known[kept.id])
	if k.answers+int64(len(kept.answer)) > maxAnswers {
		kept.outcome, kept.answer = NotKept, nil
	}
	line := k.lines[kept.key.Keep]
	if line == nil {
		line = list.New()
		k.lines[kept.key.Keep] = line
	}
	k.known[kept.id] = line.PushBack(kept)
	k.answers += int64(len(kept.answer))
	if len(k.known) > Capacity {
		k.remove(k.soonest())
	}
}

// remove forgets one of a line, which may be nil.
func (k *keptKeys) remove(e *list.Element) {
	if e == nil {
		return
	}
	kept := e.Value.(*keptKey)
	k.answers -= int64(len(kept.answer))
	delete(k.known, kept.id)
	k.lines[kept.key.Keep].Remove(e)
}

// soonest returns what ends before all others, or nil if there is nothing.
func (k *keptKeys) soonest() (soonest *list.Element) {
	for _, line := range k.lines {
		if first := line.Front(); first != nil && (soonest == nil || first.Value.(*keptKey).until < soonest.Value.(*keptKey).until) {
			soonest = first
		}
	}
	return soonest
}

// expire forgets keys that have ended, a few at a time so that no single call is
// slow. Called once for each end, it keeps up.
func (k *keptKeys) expire(now time.Duration) {
	const few = 4
	for range few {
		e := k.soonest()
		if e == nil || e.Value.(*keptKey).until > now {
			return
		}
		k.remove(e)
	}
}

// keepKeyLocked keeps what has become of g's key, where there is no store to do so.
func (k *known) keepKeyLocked(g *Grant) {
	if !k.alone || g.key.state == keyFree {
		return
	}
	now := k.now()
	kept := &keptKey{id: g.lock.id, key: g.key.Key, outcome: OutcomeUnknown, at: now, until: now + g.key.Keep}
	switch answer := g.key.answer.Load(); {
	case answer != nil:
		kept.outcome, kept.answer = Replayed, *answer
	case g.key.state == keyNoted:
		kept.outcome = NotKept
	}
	k.kept.add(kept)
}

// loseKeyLocked keeps that what becomes of lock's exchange is not known: an operator
// has freed it. It may yet end.
func (k *known) loseKeyLocked(lock *lock) {
	if k.alone && lock.key != nil {
		now := k.now()
		k.kept.add(&keptKey{id: lock.id, key: *lock.key, outcome: OutcomeUnknown, at: now, until: now + lock.key.Keep})
	}
}
