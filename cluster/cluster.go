// Package cluster answers one question: what do the replicas agree on?
//
// A request asks for everything it needs at once, an in-flight lock and one
// request from each of its budgets, and gets one [Verdict]: either all of it
// is granted, or nothing is taken. What refuses is looked at in one order
// everywhere: its idempotency key, its lock, cool-downs, slots, budgets. [Memory] decides for a single process and
// [Redis] for a fleet, also while its store is away. Both are safe for
// concurrent use.
package cluster

import (
	"crypto/sha256"
	"errors"
	"time"

	"throttle-proxy/limiter"
)

// ErrUndecided is wrapped by the error of an ask to which the store gave no
// answer in time. What it asked for may or may not have been taken; what was
// is given back as soon as the store answers again.
var ErrUndecided = errors.New("undecided")

// Fingerprint identifies the requests that are equal to each other.
type Fingerprint [sha256.Size]byte

// Ask is what one request needs before it may go on.
type Ask struct {
	Route       string        // its name, by which operators pause it
	Tag         string        // the route's name, or its pool's: what all keys of an ask have in common
	Pauses      []string      // names of the cool-downs that it must not be under, within the tag; the first is that of every equal ask
	OneCaller   bool          // equal asks are of one caller: all of Pauses are theirs in common
	Fingerprint *Fingerprint  // of the lock to take, within the tag; nil for none
	Slots       []Slot        // one to take of each kind
	Charges     []Charge      // budgets to spend one request from, each from another
	Candidates  []Charge      // budgets that refuse nobody: each is spent from if the ask is admitted and it allows that
	Wait        time.Duration // longest that it waits for its budgets and slots; 0 to be refused at once

	// LongestPause is how long a cool-down lasts at most, since it was begun or
	// extended, whatever a store says of it; 0 for no bound.
	LongestPause time.Duration

	RequestID string // told to duplicates as their holder's; without spaces

	WhenUndecided WhenUndecided

	Sharing Sharing       // of the answer, by equal asks; needs a fingerprint
	Arrived time.Duration // when one that asks again came, as its first verdict says; 0 in its first ask

	// Key is the request's idempotency key, of which the Fingerprint is; nil for none.
	// What an ask with one shares is that alone. Without the store it is not decided,
	// but for Open.
	Key *Key

	patience time.Duration // longest that the whole of it waited, of which this is what is left; 0 if it is the whole
}

// needsNothing reports whether the ask is admitted whatever the others do.
func (a Ask) needsNothing() bool {
	return a.Fingerprint == nil && len(a.Charges)+len(a.Pauses)+len(a.Slots)+len(a.Candidates) == 0
}

// Charge is one request to be spent from a budget.
type Charge struct {
	Name   string // of the limit, unique within the tag
	Caller string // whose budget it is, as a digest; empty where all callers share it
	Limit  limiter.Limit
	Wait   time.Duration // longest that any request waits for it
}

// WhenUndecided says what becomes of an ask to which the store gives no answer.
type WhenUndecided string

// The values of a WhenUndecided.
const (
	Local  WhenUndecided = "local"  // this replica decides by its own locks and its share of each budget
	Open   WhenUndecided = "open"   // it goes on, unless this replica has an equal one in flight
	Closed WhenUndecided = "closed" // it does not; also the meaning of the zero value
)

// Outcome says what a verdict is.
type Outcome int

// The outcomes of an ask. All but Admitted are refusals.
const (
	Admitted    Outcome = iota + 1
	CoolingDown         // the upstream has asked for a pause
	Duplicate           // an equal request is in flight
	Held                // an equal request has just succeeded, or may have
	Limited             // at least one budget refuses
	Busy                // all slots of a kind are taken
	Paused              // an operator has paused the route

	Replayed       // the answer to its key is kept
	KeyReused      // its key is that of a request that says something else
	NotKept        // its key's request was answered, and the answer may not be kept
	OutcomeUnknown // its key's request was sent, and nobody knows what has become of it

	queued // has a place in a budget, to be sent at a later instant; never told outside
)

// Verdict is the one answer to an [Ask].
type Verdict struct {
	Outcome   Outcome
	Grant     *Grant             // of an admitted ask, to be ended; nil if it wants nothing
	Holder    Holder             // whose lock stands in the way, for Duplicate and Held
	Flight    *Flight            // to follow for its answer, for Duplicate and Held of an ask that shares; nil if there is none to be had
	Answer    []byte             // as [Grant.Keep] was given it, for Replayed; it must not be changed
	Age       time.Duration      // of the answer
	Arrived   time.Duration      // when an ask that shares came, by the clock that decides, or what it then met had begun; 0 without the store
	Wait      time.Duration      // until the pause is over, for CoolingDown, and for Paused, of which 0 is not known; for Limited, until the caller is to come back: see [limiter.Spread]
	Message   string             // an operator's, for Paused
	Limits    []limiter.Limit    // by which it was decided, one for each charge, if operators have changed any; else nil
	Status    int                // with which the upstream asked for the pause, for CoolingDown
	Decisions []limiter.Decision // one for each charge if Admitted or Limited, else nil; some may be unknown
	Used      []int              // how many slots of each kind are taken, by its own too, if Admitted or Busy; nil if not known
	Waited    time.Duration      // for its budgets and slots

	// Candidates are the decisions of each of the ask's, if Admitted; nil without
	// the store.
	Candidates []limiter.Decision

	Degraded bool   // decided without the store
	Fault    string // why, by [FaultOf]
	Share    int    // the number of replicas by which each budget was divided, if so decided under [Local]

	value   string        // of the lock, for Duplicate and Held by the store
	place   int           // of the charge that was spent, if queued; of slots that are all taken, if Busy
	instant time.Duration // when it may be sent, on the clock of what is known, if queued
}

// Holder is the request that has a lock, as far as it is known.
type Holder struct {
	RequestID string
	Replica   string
	Age       time.Duration // since it was admitted
}
