package cluster

import (
	_ "embed"
	"encoding/hex"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

//go:embed endkey.lua
var endKeySource string

var endKeyScript = newScript(endKeySource)

// Key is an idempotency key, by which its caller says that requests are one, and
// how long the answer to it is kept. Who sends it is known by the key and never by
// credentials, which clients refresh between attempts: the [Fingerprint] of its ask
// is that of the route and the key. So one that says something else under a key
// that is in flight is refused, too.
type Key struct {
	Content Fingerprint   // of what the request says, with its credentials
	Keep    time.Duration // from the end of the exchange; of one that does not end, from its admission
}

// What a key's exchange has come to, as a store keeps it: in a value of
// '1 HASH STATE TOKEN', behind which comes the sealed answer.
const (
	keyFree   = "free"     // nothing was sent, or what came of it is not final: it is as if there had been none
	keyFlight = "flight"   // it is under way, or if its lock is gone nobody knows what has become of it
	keyNoted  = "not-kept" // it was answered, and the answer may not be kept
	keyAnswer = "answer"
)

// keyed is the idempotency key of a grant.
type keyed struct {
	Key
	state  string                 // of which "" is that nothing was said: it has not been sent
	answer atomic.Pointer[[]byte] // nil if it may not be kept, or could not be for too long
	letGo  func()                 // of an answer that was told; nil if there is none
}

// Keep says that the exchange of g's key was answered, and what its repeats get. An
// answer that is nil may not be kept: they are refused. It must be called before the
// grant is released, and not be changed from here on. Without it, what has become of
// the exchange is unknown, and so it is told for the key's whole time.
func (g *Grant) Keep(answer []byte) {
	if g == nil || g.key == nil || g.ended.Load() {
		return
	}
	g.key.state = keyNoted
	if answer != nil {
		g.key.state = keyAnswer
		g.key.answer.Store(&answer)
	}
}

// FreeKey says that a repeat of g's request is to be sent, though it was answered. It
// must be called before the grant is released.
func (g *Grant) FreeKey() {
	if g != nil && g.key != nil && !g.ended.Load() {
		g.key.state = keyFree
	}
}

// lose is for an exchange that has ended, and of which nobody has said how.
func (k *keyed) lose() {
	if k != nil && k.state == "" {
		k.state = keyFlight
	}
}

// appendKeptKey appends the key of a kept key. hash is by which a store knows the
// fingerprint of its ask.
func appendKeptKey(b []byte, tag string, hash [32]byte) []byte {
	return hex.AppendEncode(append(appendTag(b, tag), ":key:"...), hash[:])
}

// contentHash is by what a store knows what a request with the key says.
func (k Key) contentHash() string {
	hash := k.Content.hash()
	return hex.EncodeToString(hash[:])
}

// kept is the verdict on an ask whose key a store keeps, by its value there. An empty
// one is that of a request that says something else. What cannot be read was written
// by nobody of ours, or for somebody else.
func (k Key) kept(value string, now time.Duration) Verdict {
	if value == "" {
		return Verdict{Outcome: KeyReused}
	}
	fields := strings.SplitN(value, " ", 5)
	if len(fields) < 4 || fields[0] != valueFormat {
		return Verdict{Outcome: OutcomeUnknown}
	}
	switch state, token := fields[2], fields[3]; {
	case state == keyAnswer && len(fields) == 5:
		answer, at, err := k.Content.open([]byte(fields[4]), token)
		if err != nil {
			return Verdict{Outcome: NotKept}
		}
		v := Verdict{Outcome: Replayed, Answer: answer}
		if at > 0 { // or its clock was not known
			v.Age = max(0, now-at)
		}
		return v
	case state == keyNoted:
		return Verdict{Outcome: NotKept}
	}
	return Verdict{Outcome: OutcomeUnknown}
}

// endingKey is the task to end the lock of a grant with a key, and to say what has
// become of that. It is told for as long as the key is known, since what is not told
// is an unknown outcome for its repeats; but an answer is kept for that only for a
// while.
func (r *Redis) endingKey(g *Grant) *task {
	r.holdAnswer(g.key)
	now := r.known.now()
	return &task{
		class:  endings,
		tag:    g.lock.id.tag,
		script: endKeyScript,
		what:   keyEnding{g.lock, g.key, &r.partOf(g.lock.id.tag).clock},
		forget: now + max(g.key.Keep, r.options.LockTTL),
		lock:   g.lock,
	}
}

// answerUntold is for how long an answer waits to be told to a store. Later, and of
// more than maxAnswers bytes of such, the store is told that it is not kept.
const answerUntold = time.Minute

func (r *Redis) holdAnswer(k *keyed) {
	answer := k.answer.Load()
	if answer == nil {
		return
	}
	size := int64(len(*answer))
	if r.untold.Add(size) > maxAnswers {
		r.untold.Add(-size)
		k.answer.Store(nil)
		return
	}
	letGo := sync.OnceFunc(func() {
		k.answer.Store(nil)
		r.untold.Add(-size)
	})
	patience := time.AfterFunc(answerUntold, letGo)
	k.letGo = func() {
		patience.Stop()
		letGo()
	}
}

// keyEnding is the end of an exchange that had a key.
type keyEnding struct {
	*lock
	key   *keyed
	clock *clock
}

// bytes is how long the answer is that goes with it.
func (e keyEnding) bytes() int {
	if answer := e.key.answer.Load(); answer != nil {
		return len(*answer)
	}
	return 0
}

func (e keyEnding) args(c *command, now time.Duration) {
	c.arg(e.token())
	c.beginKey()
	c.text = appendKeptKey(c.text, e.id.tag, e.hash)
	c.endArg()
	c.arg(e.key.contentHash())
	c.number(millis(e.key.Keep))
	state, answer := e.key.state, e.key.answer.Load()
	switch {
	case state == "":
		state = keyFree
	case state == keyAnswer && answer == nil:
		state = keyNoted
	}
	c.arg(state)
	if state == keyAnswer {
		c.text = e.key.Content.appendSealed(c.text, *answer, e.clock.at(now), e.token())
	}
	c.endArg()
}
