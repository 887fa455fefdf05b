package proxy

import (
	"net/netip"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
)

// Event is the record of one finished request. It has no part of its path, but
// for what may be a route's name misspelt, nor of its query, fields or body, nor
// of the upstream's URL.
type Event struct {
	Route           string // empty if unknown
	Method          string
	ID              string     // made by this replica: what its client is told, and duplicates of their holder
	ClientRequestID string     // the client's X-Request-Id, if it sent a valid one
	TraceID         string     // of the trace that it is a part of; empty without one
	TraceKept       bool       // and what this replica tells of it is kept
	Client          netip.Addr // whom it comes from, by [Trust]; not valid for a unix socket

	// Caller is the beginning of the digest by which the limit that refused, or
	// else the first with a budget for each caller, or else the cool-down of the
	// caller's credentials knows who asked. It is empty where nothing tells
	// callers apart.
	Caller string

	Status   int    // of the answer, or [StatusClientGone]
	Reason   Reason // why the answer is ours; empty if it is the upstream's
	Shadowed Reason // why the request would have been refused, but for shadow mode
	Holder   cluster.Holder
	Limits   []string // names of the limits that refused
	Replayed bool     // the answer is the one that was kept under the request's key
	Joined   bool     // the answer is that of an equal request, which it has waited for, or whose hold it is
	Fault    string   // what was wrong with the upstream, by the error types of RFC 9209
	Unknown  string   // the name of a route that there is none of; empty if it may be a secret
	Nearest  string   // the route most like it, or the only one

	Candidates []string // names of the candidates that would have refused it

	// Decisions are those of the route's limits, by the store; nil where it did
	// not decide, and unknown for some limits of a refusal.
	Decisions  []limiter.Decision
	Changed    []limiter.Limit // the limits that they are of, if operators have changed any; else nil
	Degraded   bool            // decided, or not, without the store
	StoreFault string          // why, by [cluster.FaultOf]
	CoolDown   time.Duration   // for which the upstream has asked; 0 if it has not

	Started        time.Time
	Asked          time.Time // when the ask for its verdict began; zero if none was needed
	Duration       time.Duration
	Verdict        time.Duration // from the ask to its answer, but for what it waited; 0 if none was needed
	Waited         time.Duration // for its budgets and slots
	Upstream       time.Duration // until the upstream's header had arrived; 0 if none was asked
	ClientGone     bool          // the client left before its answer had ended
	UpstreamWentOn bool          // and the exchange with the upstream went on to its answer's header

	Panic any    // what the handler panicked with; nil if it did not
	Stack []byte // where
}
