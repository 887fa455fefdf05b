package cluster

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
	"time"

	"throttle-proxy/limiter"
)

// keyFormat is the version of the layout of keys and values in the store. It
// is part of every key, so that replicas of two versions never misread each
// other.
const keyFormat = "1"

// heldMark is appended to a lock's value once its exchange is over.
const heldMark = " held"

// rateKey is the part of a budget's key after the store's own prefix. The
// braces are Redis Cluster's hash tag: all keys of one ask share a slot.
func (c Charge) rateKey(tag string) string {
	key := "{" + tag + "}:rate:" + c.Name
	if c.Caller != "" {
		key += ":" + c.Caller
	}
	return key
}

// pauseKey is the part of a cool-down's key after the store's own prefix. The
// empty name is the whole tag's.
func pauseKey(tag, name string) string {
	key := "{" + tag + "}:cool"
	if name != "" {
		key += ":" + name
	}
	return key
}

func (a Ask) charges() []limiter.Charge {
	charges := make([]limiter.Charge, len(a.Charges))
	for i, c := range a.Charges {
		charges[i] = limiter.Charge{Key: c.rateKey(a.Tag), Limit: c.Limit}
	}
	return charges
}

// newLock returns the lock that ask wants, or nil.
func newLock(ask Ask, owner interface{ release(*Lock, time.Duration) }) *Lock {
	if ask.Fingerprint == nil {
		return nil
	}
	return &Lock{id: lockID{ask.Tag, *ask.Fingerprint}, requestID: ask.RequestID, owner: owner}
}

// newStoredLock returns the lock that ask wants of a store, or nil. replica is
// without spaces.
func newStoredLock(ask Ask, replica string, owner interface{ release(*Lock, time.Duration) }) *Lock {
	lock := newLock(ask, owner)
	if lock != nil {
		lock.value = keyFormat + " " + rand.Text() + " " + replica + " " + ask.RequestID
		lock.requestID = lock.value[len(lock.value)-len(ask.RequestID):] // one string to keep, not two
	}
	return lock
}

// token is the random part of the value, of at least 128 bits.
func (l *Lock) token() string {
	_, rest, _ := strings.Cut(l.value, " ")
	token, _, _ := strings.Cut(rest, " ")
	return token
}

// lockKey is the part of the lock's key after the store's own prefix.
func (l *Lock) lockKey() string {
	return "{" + l.id.tag + "}:lock:" + hex.EncodeToString(l.id.fingerprint[:])
}

// parseHolder reads a lock's value. What another version wrote, or nobody of
// ours, is a lock all the same, of an unknown holder.
func parseHolder(value string, now time.Duration) (h Holder, held bool) {
	fields := strings.Fields(strings.TrimSuffix(value, heldMark))
	if len(fields) < 5 || fields[0] != keyFormat {
		return Holder{}, false
	}
	h = Holder{Replica: fields[2], RequestID: fields[3]}
	if started, err := time.ParseDuration(fields[4] + "us"); err == nil {
		h.Age = max(0, now-started)
	}
	return h, strings.HasSuffix(value, heldMark)
}
