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
	succeeded                // the upstream has answered 2xx, or 303: what came of it is elsewhere (RFC 9110 15.4.4)
	declined                 // or otherwise
)

func outcomeOf(status int) outcome {
	if status >= 200 && status < 300 || status == http.StatusSeeOther {
		return succeeded
	}
	return declined
}

// answered reports whether the header of an answer has arrived.
func (o outcome) answered() bool { return o >= succeeded }

// holdAfter returns how long equal requests stay refused after an exchange: a
// request that was never sent, and one that the upstream declined, may be
// repeated.
func (rt *route) holdAfter(o outcome) time.Duration {
	if o == unknown || o == succeeded {
		return rt.Hold
	}
	return 0
}

// settle ends what was granted by what has become of the exchange so far. Calls
// after the first do nothing.
func (x *exchange) settle() {
	if x.outcome == unsent {
		x.grant.Unsent()
	} else {
		x.grant.Release(x.route.holdAfter(x.outcome))
	}
}
