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

// Keys are written after the store's own prefix. The braces are Redis Cluster's
// hash tag: all keys of one ask share a slot.

// appendKey appends the key of c's budget.
func (c Charge) appendKey(b []byte, tag string) []byte {
	b = append(append(appendTag(b, tag), ":rate:"...), c.Name...)
	if c.Caller != "" {
		b = append(append(b, ':'), c.Caller...)
	}
	return b
}

// appendPauseKey appends a cool-down's key. The empty name is the whole tag's.
func appendPauseKey(b []byte, tag, name string) []byte {
	b = append(appendTag(b, tag), ":cool"...)
	if name != "" {
		b = append(append(b, ':'), name...)
	}
	return b
}

// appendKey appends the lock's key.
func (l *Lock) appendKey(b []byte) []byte {
	return hex.AppendEncode(append(appendTag(b, l.id.tag), ":lock:"...), l.id.fingerprint[:])
}

func appendTag(b []byte, tag string) []byte {
	return append(append(append(b, '{'), tag...), '}')
}

func (c Charge) rateKey(tag string) string { return string(c.appendKey(nil, tag)) }

func pauseKey(tag, name string) string { return string(appendPauseKey(nil, tag, name)) }

func (a Ask) charges() []limiter.Charge {
	charges := make([]limiter.Charge, len(a.Charges))
	for i, c := range a.Charges {
		charges[i] = limiter.Charge{Key: c.rateKey(a.Tag), Limit: c.Limit, ByCaller: c.Caller != ""}
	}
	return charges
}

// newLock returns the lock that ask wants, or nil.
func newLock(ask Ask, owner interface{ release(*Lock, time.Duration) }) *Lock {
	if ask.Fingerprint == nil {
		return nil
	}
	return &Lock{id: lockID{ask.Tag, *ask.Fingerprint}, value: ask.RequestID, owner: owner}
}

// newStoredLock returns the lock that ask wants of a store, or nil. replica is
// without spaces.
func newStoredLock(ask Ask, replica string, owner interface{ release(*Lock, time.Duration) }) *Lock {
	lock := newLock(ask, owner)
	if lock != nil {
		lock.value = keyFormat + " " + rand.Text() + " " + replica + " " + ask.RequestID
	}
	return lock
}

// requestID is that of the request which has the lock.
func (l *Lock) requestID() string { return l.value[strings.LastIndexByte(l.value, ' ')+1:] }

// held reports whether the exchange is over.
func (l *Lock) held() bool { return l.until > 0 }

// token is the random part of the value, of at least 128 bits.
func (l *Lock) token() string {
	_, rest, _ := strings.Cut(l.value, " ")
	token, _, _ := strings.Cut(rest, " ")
	return token
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
