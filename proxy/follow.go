package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"throttle-proxy/cluster"
)

// errPatience is why a follower waits no longer.
var errPatience = errors.New("the answer took too long")

// follow waits for the answer of the flight that stands in the request's way by v, and
// answers with it. It reports whether the request may go on itself, where it was
// none to be had and it could ask again.
func (x *exchange) follow(ask cluster.Ask, v cluster.Verdict) (admitted bool) {
	if x.until.IsZero() {
		x.until = time.Now().Add(x.followsFor())
	}
	ask.Arrived = cmp.Or(ask.Arrived, v.Arrived)
	ctx, end := context.WithCancelCause(x.proxy.cut)
	defer end(nil)
	defer context.AfterFunc(x.in.Context(), func() { end(errClientLeft) })()
	ctx, stop := context.WithDeadlineCause(ctx, x.until, errPatience)
	defer stop()
	e, err := v.Flight.Follow(ctx)
	x.event.Holder = e.Holder
	if err == nil && e.Kind == cluster.Unshareable && v.Outcome == cluster.Duplicate {
		x.route.now().shareNothing() // this replica has heard of it by that alone
	}
	safe := !changes(x.in.Method)
	switch {
	case errors.Is(err, errClientLeft):
		x.refuse(ReasonClientGone)
	case errors.Is(err, errCut):
		x.refuse(ReasonDraining)
	case err != nil:
		x.refuseVerdict(v)
	case e.Kind == cluster.Answered:
		x.join(e, v.Outcome == cluster.Held)
	case e.Kind == cluster.Again:
		return x.judge(ask)
	case safe && x.followed == 0: // of all of them one goes, and the others have its answer, or none
		x.followed = e.Kind
		return x.judge(ask)
	case e.Kind == cluster.Lost:
		v.Outcome = cluster.Held // by what nobody knows
		x.refuseVerdict(v)
	default:
		x.refuseUnshared(e.Holder)
	}
	return false
}

// refuseUnshared answers a follower of an exchange whose answer is for its own client.
func (x *exchange) refuseUnshared(holder cluster.Holder) {
	x.reply(problem{reason: ReasonNotShareable, status: x.route.DuplicateStatus, holder: holder})
}

// followsFor is the longest that the request waits for the answer to another.
func (x *exchange) followsFor() time.Duration {
	longest := x.route.Timeout
	if d, ok := preferredWait(x.in.Header); ok {
		longest = min(longest, d)
	}
	return longest
}

// join answers with what a flight has ended with; held says that it had ended before.
func (x *exchange) join(e cluster.Ending, held bool) {
	if f, ok := readFailure(e.Answer); ok {
		x.event.Fault = f.Fault
		x.reply(problem{reason: f.Reason, status: f.Status, sent: f.Sent, holder: e.Holder})
		return
	}
	a, ok := readKept(e.Answer)
	if !ok { // another version's
		x.refuseUnshared(e.Holder)
		return
	}
	x.event.Joined = true
	how := "fwd=miss; collapsed"
	if held {
		how = "hit"
	}
	x.pass(a, how, e.Age)
}

// pass answers with an answer that was recorded, and says how it was come by (RFC 9211).
func (x *exchange) pass(a kept, how string, age time.Duration) {
	header := x.client.Header()
	for name, values := range a.header {
		header[name] = values
	}
	if header["Content-Type"] == nil {
		header["Content-Type"] = nil // or net/http guesses one
	}
	header.Add("Cache-Status", ourName+"; "+how)
	if how == "hit" {
		before, _ := strconv.ParseUint(header.Get("Age"), 10, 31) // 0 for none
		header.Set("Age", strconv.FormatUint(before+uint64(max(0, age)/time.Second), 10))
	}
	x.event.Status = a.status
	x.client.begin(a.status)
	if header["Content-Length"] == nil {
		x.client.flush() // or net/http says how long it is, as the upstream has not
	}
	if len(a.body) > 0 && x.in.Method != http.MethodHead {
		_, _ = x.client.Write(a.body) // a client that has left can come again
	}
	x.client.ended = true
}

// failure is a leader's own, as its followers are told of it.
type failure struct {
	Reason Reason
	Status int    // in place of the reason's; 0 for that
	Fault  string // error type of RFC 9209
	Sent   bool
}

// failureForm begins the form of a failure, where [keptForm] begins that of an
// answer. JSON follows.
const failureForm = 0

// shareFailure lets those that follow the exchange have its failure, unless it is its
// own client's.
func (x *exchange) shareFailure(reason Reason, status int) {
	switch reason {
	case ReasonUpstreamRefused, ReasonUpstreamTimeout, ReasonUpstreamClosed:
		if !x.grant.Shared() {
			return
		}
		text, err := json.Marshal(failure{reason, status, x.event.Fault, x.outcome != unsent})
		if err == nil {
			x.grant.Share(append([]byte{failureForm}, text...))
		}
	}
}

func readFailure(b []byte) (f failure, ok bool) {
	if len(b) == 0 || b[0] != failureForm || json.Unmarshal(b[1:], &f) != nil {
		return failure{}, false
	}
	_, ok = reasons[f.Reason]
	return f, ok
}
