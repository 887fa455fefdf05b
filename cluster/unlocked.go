package cluster

import (
	"math"
	"time"
)

// freeLock is a lock that was found to be free, and until when something refused
// all who want it.
type freeLock struct {
	lockID
	refused time.Duration
}

// isUnlocked reports whether the lock of ask is known not to be taken anywhere, and
// until when all equal asks are refused. It cannot be taken for as long as what
// refuses them all is what did so when the lock was looked for: a budget that all
// callers share, or the cool-down of all of them. But another replica may have
// given back to that budget, or have begun with another limit: so it is known for
// no longer than replicas take to know of each other.
func (k *known) isUnlocked(ask Ask) (unlocked bool, refused time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	refused = k.allRefusedLocked(ask, now)
	until, _, ok := k.unlocked.Get(freeLock{lockID{ask.Tag, *ask.Fingerprint}, refused})
	return ok && until > now, refused
}

// foundUnlocked remembers that the lock of ask was not taken when it was looked
// for. refused is until when all equal asks were refused before that: what refuses
// them since may have begun after somebody took it.
func (k *known) foundUnlocked(ask Ask, refused time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.foundUnlockedLocked(ask, refused, k.now())
}

func (k *known) foundUnlockedLocked(ask Ask, refused, now time.Duration) {
	k.unlocked.Expire(now)
	if ask.Fingerprint != nil && refused > now {
		k.unlocked.Set(freeLock{lockID{ask.Tag, *ask.Fingerprint}, refused}, min(refused, now+beatInterval), struct{}{})
	}
}

// allRefusedLocked returns until when all asks that are equal to ask are refused,
// by what is known; 0 if they are not. It changes with what refuses them.
func (k *known) allRefusedLocked(ask Ask, now time.Duration) (until time.Duration) {
	if _, paused := k.pausedLocked(ask, now); paused {
		return math.MaxInt64
	}
	for i, name := range ask.Pauses {
		if i == 0 || ask.OneCaller {
			until = max(until, k.pauses.get(pauseID{ask.Tag, name}).until)
		}
	}
	for _, c := range ask.Charges {
		if c.Caller == "" {
			next, _ := k.denials.Next(c.rateKey(ask.Tag), now)
			until = max(until, next)
		}
	}
	return until
}
