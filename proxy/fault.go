package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"

	"throttle-proxy/proxy/upstream"
	"throttle-proxy/proxy/wire"
)

// fail answers a request to which the upstream gave no answer because of err.
func (x *exchange) fail(err error) {
	failure := new(upstream.Failure)
	if !errors.As(err, &failure) {
		panic(err) // every error of a sender is one
	}
	if !failure.Sent {
		x.outcome = unsent
	}
	reason, status := x.failed(failure)
	if reason != ReasonClientGone && reason != ReasonBadRequest {
		x.event.Fault = failure.Fault
	}
	x.shareFailure(reason, status)
	x.settle()
	x.refuseAs(reason, status)
}

// failed says what a failure means to the client: a reason, and the status where
// it is not the reason's own.
func (x *exchange) failed(f *upstream.Failure) (reason Reason, status int) {
	switch cause := x.life.Cause(); {
	case x.body.cut.Load():
		return x.bodyFault(x.body.err)
	case cause == errClientLeft && !x.body.read.Load() && wire.Mistake(x.in) != nil:
		// The mistake has ended the connection before who reads the body came to it.
		return x.bodyFault(nil)
	case cause == errClientLeft:
		return ReasonClientGone, 0
	case cause == errCut:
		return ReasonDraining, 0
	}
	switch f.Kind {
	case upstream.TimedOut:
		return ReasonUpstreamTimeout, 0
	case upstream.Closed:
		// The upstream knows how long the caller waits, and may be the first to
		// end a call whose time is over.
		if timeout, ok := grpcTimeout(x.in.Header); ok && x.event.Upstream >= timeout {
			f.Fault = "http_response_timeout"
			return ReasonUpstreamTimeout, 0
		}
		return ReasonUpstreamClosed, x.route.ClosedStatus
	}
	return ReasonUpstreamRefused, 0
}

// bodyFault says the same of the client's body, which has not come whole.
func (x *exchange) bodyFault(err error) (reason Reason, status int) {
	var broken *net.OpError
	mistake := wire.Mistake(x.in)
	switch {
	case mistake != nil:
		return ReasonBadRequest, mistake.Status
	case err == errBodyTooLarge:
		return ReasonBodyTooLarge, 0
	case err == errNoMemory:
		return ReasonNoMemory, 0
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ReasonBadRequest, http.StatusRequestTimeout
	case x.in.Context().Err() != nil, errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &broken):
		return ReasonClientGone, 0
	}
	return ReasonBadRequest, 0 // a mistake that only net/http finds
}

// refuseBody answers a request whose body was not read whole because of err.
func (x *exchange) refuseBody(err error) { x.refuseAs(x.bodyFault(err)) }
