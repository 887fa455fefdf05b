package proxy

import (
	"net/http"
	"time"
)

// outcome is what has become of an exchange. How long equal requests stay
// refused follows from it.
type outcome int

// The outcomes.
const (
	unsent    outcome = iota // nothing of the request has reached the upstream
	unknown                  // something may have, and there is no answer: the upstream may have acted
	succeeded                // the upstream has answered 2xx, or 303 to tell where to look
	lost                     // the same, but not all of it has reached the client
	declined                 // the upstream has answered otherwise
)

func outcomeOf(status int) outcome {
	if isSuccess(status) || status == http.StatusSeeOther {
		return succeeded
	}
	return declined
}

// Hold is how long equal requests stay refused after an exchange.
type Hold struct {
	Success time.Duration // of which the client has the whole answer
	Unknown time.Duration // where the upstream may have acted, and the client does not know: it may well try again by itself
}

// answered reports whether the header of an answer has arrived.
func (o outcome) answered() bool { return o >= succeeded }

// after returns how long equal requests stay refused after an exchange: a request
// that was never sent, and one that the upstream declined, may be repeated.
func (h Hold) after(o outcome) time.Duration {
	switch o {
	case succeeded:
		return h.Success
	case unknown, lost:
		return h.Unknown
	}
	return 0
}

// lose notes that the client may not get all of its answer.
func (x *exchange) lose() {
	if x.outcome == succeeded {
		x.outcome = lost
	}
}

// settle ends what was granted by what has become of the exchange so far. Calls
// after the first do nothing.
func (x *exchange) settle() {
	if x.settled.Swap(true) {
		return
	}
	x.keep()
	switch {
	case x.outcome == unsent:
		x.grant.Unsent()
	case x.record != nil && x.outcome.answered() && !x.grant.Shared():
		x.grant.Release(0) // its repeats are known by their key
	case x.route.OnDuplicate.shares() && !changes(x.in.Method):
		x.grant.Release(0) // the next one begins a new flight
	default:
		x.grant.Release(x.route.Hold.after(x.outcome))
	}
}
