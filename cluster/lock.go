package cluster

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// lockID is what a lock is known by.
type lockID struct {
	tag         string
	fingerprint Fingerprint
}

// lock is the in-flight lock of an admitted request. Its life, who moves it on,
// and under what:
//
//	from       to         by                                           under
//	-          asked      Admit, which gives it a token                nobody else knows it
//	asked      in flight  known.add after the store's grant, or        known.mu
//	                      known.decideLocked without the store
//	asked      given up   Admit, at a refusal or without an answer:    queue
//	                      an ending is queued if the store may have it
//	in flight  held       Grant.Release with a hold                    Grant.ended, then known.mu
//	in flight  gone       Grant.Release without one, Grant.Unsent      Grant.ended, then known.mu
//	held       gone       known, when the hold is over                 known.mu
//	in flight, held
//	           gone       known.freeLocked, by an operator's order     known.mu
//
// The store's copy follows. It is taken by the guard, renewed by [Redis.renew]
// while the lock is in flight (and taken again where it was missing, or lost
// while it is another's), and deleted or made a hold by an ending, which is told
// until the store answers or the TTL has passed, and never while a renewal is
// under way, which would undo it. One that comes later is found late by the store.
type lock struct {
	id       lockID
	hash     [sha256.Size]byte // by which a store knows the fingerprint
	value    string            // what a store keeps under the lock's key, to which it adds its own time; without one its last word, the request's id
	admitted time.Duration     // on the clock of who knows it; set before it is known
	started  time.Duration     // of a flight, by the clock that decides, likewise; 0 if it was decided without that

	isFlight bool // it may be followed
	key      *Key // of its request; nil for none

	stored   atomic.Bool // the store may have it
	doubtful atomic.Bool // the store may get to take it only after it was told of the end
	renewing atomic.Bool // the store is being asked to renew it
	freed    atomic.Bool // by an operator: its exchange goes on without, and leaves no hold
	lost     atomic.Bool // found another's; written by the run loop alone

	// Guarded by known.mu.
	flight *flight // nil if nobody may follow it, or its answer is not kept

	until  time.Duration // the end of its hold; 0 while the exchange is under way
	passed bool          // it has no hold, and refuses nobody: it is known for its flight's answer
	next   *lock         // to end, if it is held
	index  int32         // among those in flight
}

// A lock's value begins with the version of its form. What is appended to it
// once its exchange is over ends it.
const (
	valueFormat = "1"
	heldMark    = " held"
)

// hash is by what a store knows f, which itself never leaves the process: who
// can read the store learns nothing of it.
func (f Fingerprint) hash() [sha256.Size]byte {
	var b [1 + sha256.Size]byte
	b[0] = 1
	copy(b[1:], f[:])
	return sha256.Sum256(b[:])
}

// appendKey appends the lock's key.
func (l *lock) appendKey(b []byte) []byte { return appendLockKey(b, l.id.tag, l.hash) }

func appendLockKey(b []byte, tag string, hash [sha256.Size]byte) []byte {
	return hex.AppendEncode(append(appendTag(b, tag), ":lock:"...), hash[:])
}

// toStore gives the lock what a store is to keep. replica is without spaces.
func (l *lock) toStore(replica string) {
	l.hash = l.id.fingerprint.hash()
	token := rand.Text()
	if l.isFlight {
		token = sharedToken + token
	}
	l.value = valueFormat + " " + token + " " + replica + " " + l.value
}

// requestID is that of the request which has the lock.
func (l *lock) requestID() string { return l.value[strings.LastIndexByte(l.value, ' ')+1:] }

// held reports whether the exchange is over.
func (l *lock) held() bool { return l.until > 0 }

// token is the random part of the value, of at least 128 bits.
func (l *lock) token() string {
	_, rest, _ := strings.Cut(l.value, " ")
	token, _, _ := strings.Cut(rest, " ")
	return token
}

// parseHolder reads a lock's value. What another version wrote, or nobody of
// ours, is a lock all the same, of an unknown holder.
func parseHolder(value string, now time.Duration) (h Holder, held bool) {
	fields := strings.Fields(value)
	if len(fields) < 5 || fields[0] != valueFormat {
		return Holder{}, false
	}
	h = Holder{Replica: fields[2], RequestID: fields[3]}
	if started, err := time.ParseDuration(fields[4] + "us"); err == nil && started > 0 {
		h.Age = max(0, now-started)
	}
	return h, strings.HasSuffix(value, heldMark)
}

// release ends g's exchange. Without a hold it waits until the store has been told,
// so that a client which repeats its request after the answer is not refused for a
// lock that is about to go, and with slots in any case. Of a hold it is told also
// where it never had the lock.
func (r *Redis) release(g *Grant, hold time.Duration) {
	r.known.release(g, hold)
	awaited := r.freeing(g.taken)
	switch {
	case g.key != nil: // whose repeats get what is told now
		awaited = append(awaited, r.endingKey(g))
	case g.lock == nil, g.lock.freed.Load():
	case hold > 0:
		r.queue.add(r.endingOf(g, hold))
	case g.lock.stored.Load():
		awaited = append(awaited, r.endingOf(g, 0))
	}
	r.tell(awaited...)
	r.known.freed(g.taken)
}

// endingOf is the task to release the lock of g, or to turn it into a hold.
func (r *Redis) endingOf(g *Grant, hold time.Duration) *task {
	switch {
	case g.key != nil:
		return r.endingKey(g)
	case g.Shared():
		return r.landing(g, hold)
	}
	return r.ending(g.lock, hold)
}

// ending is the task to release lock, or to turn it into a hold.
func (r *Redis) ending(lock *lock, hold time.Duration) *task {
	now := r.known.now()
	return &task{
		class:  endings,
		tag:    lock.id.tag,
		script: releaseScript,
		what:   ending{lock, now + hold},
		forget: now + max(hold, r.options.LockTTL),
		lock:   lock,
	}
}

// ending is the end of a lock, and of its hold.
type ending struct {
	*lock
	until time.Duration
}

func (e ending) args(c *command, now time.Duration) {
	c.arg(e.token())
	hold := millis(e.until - now)
	c.number(hold)
	if hold > 0 {
		c.arg(e.value)
	} else {
		c.arg("")
	}
}

// valueBy is the lock's value; of a flight with when it began, by a clock of the store.
// Taken anew, it is no fresher than it was: where that is not known, it is from 0.
func (l *lock) valueBy(store *clock) string {
	if !l.isFlight {
		return l.value
	}
	started := l.started
	if started == 0 {
		started = store.at(l.admitted) // which errs early
	}
	return l.value + " " + strconv.FormatInt(started.Microseconds(), 10)
}

// renewal keeps a lock for another TTL.
type renewal struct {
	*lock
	ttl, timeout time.Duration
	clock        *clock // of the part of the store that has it
}

func (r *Redis) renewal(lock *lock) renewal {
	return renewal{lock, r.options.LockTTL, r.options.Timeout, &r.partOf(lock.id.tag).clock}
}

// args says until when the renewal is waited for. One that the store finds later
// would undo what it was told meanwhile: it would take a lock again that is gone,
// or cut a hold short.
func (r renewal) args(c *command, now time.Duration) {
	c.arg(r.token())
	c.number(r.ttl.Milliseconds())
	c.arg(r.valueBy(r.clock))
	c.number(r.clock.at(now + r.timeout).Microseconds())
	if r.key == nil {
		c.arg("")
		c.arg("")
		c.arg("")
		return
	}
	c.beginKey()
	c.text = appendKeptKey(c.text, r.id.tag, r.hash)
	c.endArg()
	c.arg(valueFormat + " " + r.key.contentHash() + " " + keyFlight + " " + r.token())
	c.number(millis(r.key.Keep))
}
