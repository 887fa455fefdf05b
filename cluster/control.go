package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"throttle-proxy/limiter"
)

// Deed is what an operator can do.
type Deed string

// The deeds.
const (
	SetLimit   Deed = "limit"   // put another limit in place of the configured one
	SetPause   Deed = "pause"   // refuse all requests of a route
	TakeBack   Deed = "restore" // take back limits and the pause of a route
	FillBudget Deed = "reset"   // have nothing spent of a budget
	FreeLock   Deed = "unlock"  // let equal requests pass
)

// Deeds are all of them.
var Deeds = []Deed{SetLimit, SetPause, TakeBack, FillBudget, FreeLock}

// Order is a deed of an operator, for all replicas.
type Order struct {
	Deed      Deed
	Route     string        // to pause, or to take back; of a limit, whose it is
	Tag       string        // of the limits or of the lock
	Limits    []string      // names: of the one to be set, or of those to be taken back or filled
	Rate      limiter.Limit // to be set
	Caller    string        // whose budget is filled, as a digest; empty for that which all share
	RequestID string        // of the lock's holder
	For       time.Duration // how long a limit or a pause stays; 0 until it is taken back
	Message   string        // told to who is refused by a pause

	Text string // the order in the operator's words, for logs
	By   string // whose it is, likewise
}

// Receipt says what has become of an [Order].
type Receipt struct {
	Version uint64   // of what is changed, after the order
	Holds   []string // names of the replicas on which it does
	Missing []string // of those that did not say so in time
	Freed   int      // locks
}

// Changed is something that operators have changed, while it holds.
type Changed struct {
	Deed    Deed          // SetLimit or SetPause
	Tag     string        // of a limit
	Limit   string        // its name
	Rate    limiter.Limit // which it is now
	Route   string        // that is paused; or whose limit it is, which may be a pool
	Message string
	Left    time.Duration // until it ends by itself; 0 if it does not
	By      string
}

// GivenOrder is an order as operators are told of it.
type GivenOrder struct {
	Deed     Deed
	Text, By string
	Ago      time.Duration
}

// tombstone is how long what was done once is remembered, for replicas that were
// away and for locks that nobody renews.
const tombstone = time.Minute

// controls are what operators have changed, as the replicas share it. Instants are
// in microseconds by the store's clock.
type controls struct {
	Version uint64       `json:"-"`
	Set     []setControl `json:"set,omitempty"`  // holds until it ends
	Done    []deedDone   `json:"done,omitempty"` // was done once, the oldest first
	Last    []givenOrder `json:"last,omitempty"` // orders, the oldest first
}

// givenOrder is what operators are told of an order.
type givenOrder struct {
	Version uint64 `json:"version"` // with which it was given
	Deed    Deed   `json:"deed"`
	Text    string `json:"text"`
	By      string `json:"by"`
	At      int64  `json:"at"`
}

type setControl struct {
	Deed    Deed          `json:"deed"`
	Route   string        `json:"route,omitempty"`
	Tag     string        `json:"tag,omitempty"`
	Limit   string        `json:"limit,omitempty"`
	Rate    limiter.Limit `json:"rate,omitzero"`
	Until   int64         `json:"until,omitempty"` // 0 for no end
	Message string        `json:"message,omitempty"`
	By      string        `json:"by"`
}

// replaces reports whether c is set in place of other.
func (c setControl) replaces(other setControl) bool {
	return c.Deed == other.Deed && c.Tag == other.Tag && c.Limit == other.Limit && (c.Deed == SetLimit || c.Route == other.Route)
}

type deedDone struct {
	Version   uint64   `json:"version"` // with which it was done
	Deed      Deed     `json:"deed"`
	Tag       string   `json:"tag"`
	Limits    []string `json:"limits,omitempty"`
	Caller    string   `json:"caller,omitempty"`
	RequestID string   `json:"request_id,omitempty"`
	Until     int64    `json:"until"` // is forgotten then
}

// errUnreadable is of what is in the store, which may be of another version.
var errUnreadable = errors.New("it cannot be read")

// maxDigits is how long a version can be, so that Lua's numbers hold it.
const maxDigits = 15

// parseControls reads 'VERSION JSON'. The error wraps [errUnreadable]; the version is
// there if it could be read.
func parseControls(text string) (c controls, err error) {
	if text == "" {
		return c, nil
	}
	number, rest, _ := strings.Cut(text, " ")
	version, err := strconv.ParseUint(number, 10, 63)
	switch {
	case err != nil:
		return controls{}, fmt.Errorf("%w: %w", errUnreadable, err)
	case len(number) > maxDigits:
		return controls{}, errUnreadable
	}
	if err := json.Unmarshal([]byte(rest), &c); err != nil {
		return controls{Version: version}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	c.Version = version
	c.Set = slices.DeleteFunc(c.Set, func(s setControl) bool { return s.Deed == SetLimit && s.Rate.Validate() != nil })
	return c, nil
}

// String is what [parseControls] reads.
func (c controls) String() string {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err) // it has nothing that JSON does not
	}
	return strconv.FormatUint(c.Version, 10) + " " + string(text)
}

const (
	maxSet  = 10_000 // limits and pauses: more than routes have
	maxDone = 256    // the oldest are forgotten, which all replicas have done by then
	maxLast = 20     // likewise
)

var errTooManyChanges = errors.New("too much has been changed by hand: restore some of it")

// with returns c after an order, at an instant of the store's clock.
func (c controls) with(o Order, at time.Duration) (controls, error) {
	now := at.Microseconds()
	next := controls{Version: c.Version + 1}
	next.Last = append(slices.Clone(c.Last), givenOrder{next.Version, o.Deed, o.Text, o.By, now})
	next.Last = next.Last[max(0, len(next.Last)-maxLast):]
	for _, s := range c.Set {
		taken := o.Deed == TakeBack && (s.Deed == SetPause && s.Route == o.Route || s.Deed == SetLimit && s.Tag == o.Tag && slices.Contains(o.Limits, s.Limit))
		if !taken && (s.Until == 0 || s.Until > now) {
			next.Set = append(next.Set, s)
		}
	}
	for _, d := range c.Done {
		if d.Until > now {
			next.Done = append(next.Done, d)
		}
	}
	set := setControl{Deed: o.Deed, Message: o.Message, By: o.By}
	if o.For > 0 {
		set.Until = (at + o.For).Microseconds()
	}
	switch o.Deed {
	case SetLimit:
		set.Route, set.Tag, set.Limit, set.Rate = o.Route, o.Tag, o.Limits[0], o.Rate
	case SetPause:
		set.Route = o.Route
	case FillBudget, FreeLock:
		next.Done = append(next.Done, deedDone{next.Version, o.Deed, o.Tag, o.Limits, o.Caller, o.RequestID, (at + tombstone).Microseconds()})
		next.Done = next.Done[max(0, len(next.Done)-maxDone):]
		return next, nil
	default:
		return next, nil
	}
	next.Set = append(slices.DeleteFunc(next.Set, set.replaces), set)
	if len(next.Set) > maxSet {
		return c, errTooManyChanges
	}
	return next, nil
}
