package proxy

import "net/http"

// Reason says why a request got an answer of our own. It is a closed list: it
// is the reason member of the reply, and a label of logs and metrics.
type Reason string

// The reasons.
const (
	ReasonDuplicate       Reason = "duplicate"      // an equal request is in flight
	ReasonHeld            Reason = "held"           // an equal request has just succeeded, or may have
	ReasonLimited         Reason = "limited"        // a budget is spent
	ReasonBusy            Reason = "busy"           // all slots of a concurrency limit are taken
	ReasonCoolingDown     Reason = "cooling-down"   // the upstream has asked for a pause
	ReasonPaused          Reason = "paused"         // an operator has paused the route
	ReasonUndecided       Reason = "undecided"      // the store gave no answer
	ReasonUnknownRoute    Reason = "unknown-route"  // no route of that name
	ReasonBadRequest      Reason = "bad-request"    // it cannot be read, or not in one way only
	ReasonBadPath         Reason = "bad-path"       // the path leads above the registered one
	ReasonBadMethod       Reason = "bad-method"     // CONNECT and TRACE
	ReasonLoop            Reason = "loop"           // it has come round to us
	ReasonBodyTooLarge    Reason = "body-too-large" // more than is read to compare requests
	ReasonNoMemory        Reason = "no-memory"      // all bodies together are too large
	ReasonTooManyInFlight Reason = "too-many-in-flight"
	ReasonAmbiguousField  Reason = "ambiguous-field"  // the field that says whose budget it is comes in several lines
	ReasonBadKey          Reason = "bad-key"          // of its idempotency key: malformed, two, too long, or missing
	ReasonNotShareable    Reason = "not-shareable"    // an equal request was in flight, and its answer is for it alone
	ReasonKeyReused       Reason = "key-reused"       // it is that of a request that said something else
	ReasonNotKept         Reason = "answer-not-kept"  // the request of its key was answered, which is not to be had again
	ReasonOutcomeUnknown  Reason = "outcome-unknown"  // the request of its key was sent, and nobody knows what has become of it
	ReasonUpstreamRefused Reason = "upstream-refused" // no connection, or no HTTP on it
	ReasonUpstreamTimeout Reason = "upstream-timeout" // no answer in time
	ReasonUpstreamClosed  Reason = "upstream-closed"  // the connection was cut before an answer
	ReasonDraining        Reason = "draining"         // this replica ended before an answer
	ReasonInternal        Reason = "internal"         // a mistake of ours
	ReasonClientGone      Reason = "client-gone"      // it left; who only half left reads it
)

// StatusClientGone is what a request is recorded with whose client left before
// it was answered. nginx made the number known.
const StatusClientGone = 499

const (
	typeQuotaExceeded   = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	typeReducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
	typeOurs            = "urn:throttle-proxy:problem:" // and the reason
)

// about is what a reason means on the wire. Whether the request was sent is told
// with each of its answers, and not by the reason.
type about struct {
	status      int
	title       string
	detail      string // a sentence, after which comes whether the request was sent
	proxyStatus string // error type of RFC 9209, where nothing more exact is known
	grpc        int    // status code of gRPC
	again       bool   // a request that was not sent may well be sent again, as it is
}

var reasons = map[Reason]about{
	ReasonDuplicate:       {409, "Duplicate request", "An equal request is in flight.", "http_request_denied", 10, false},
	ReasonHeld:            {409, "Duplicate request", "An equal request has just succeeded, or its outcome is unknown and the upstream may have acted on it.", "http_request_denied", 10, false},
	ReasonLimited:         {429, "Too many requests", "The budget is spent.", "http_request_denied", 8, true},
	ReasonBusy:            {429, "Too many at once", "As many requests as may be are under way.", "http_request_denied", 8, true},
	ReasonCoolingDown:     {429, "Too many requests", "The upstream has asked for a pause, which is not over.", "http_request_denied", 8, true},
	ReasonPaused:          {503, "Paused", "An operator has paused this route.", "http_request_denied", 14, true},
	ReasonUndecided:       {503, "Undecided", "Whether this request may go on could not be decided.", "proxy_internal_error", 14, true},
	ReasonUnknownRoute:    {404, "Unknown route", "", "http_request_error", 12, false},
	ReasonBadRequest:      {400, "Bad request", "The request cannot be read in one way only.", "http_request_error", 3, false},
	ReasonBadPath:         {400, "Bad path", "The path leads above the registered one.", "http_request_error", 3, false},
	ReasonLoop:            {508, "Loop", "The request has passed through a proxy of this name before, and would come round again.", "proxy_loop_detected", 9, false},
	ReasonAmbiguousField:  {400, "Ambiguous field", "", "http_request_error", 3, false},
	ReasonBodyTooLarge:    {413, "Body too large", "The body is larger than is read to tell equal requests apart.", "http_request_error", 8, false},
	ReasonBadMethod:       {405, "Bad method", "CONNECT and TRACE are not forwarded: within a tunnel nothing could be compared or counted. Ask for http:// URLs by this proxy (http_proxy, not https_proxy), or for a route whose URL is https.", "http_request_error", 12, false},
	ReasonNoMemory:        {503, "No memory", "The bodies of all requests together are too large.", "connection_limit_reached", 14, true},
	ReasonTooManyInFlight: {503, "Too many in flight", "This replica has as many exchanges as it may have.", "connection_limit_reached", 14, true},
	ReasonBadKey:          {400, "Bad idempotency key", "", "http_request_error", 3, false},
	ReasonNotShareable:    {409, "Not shareable", "An equal request was in flight, and its answer is for its own client alone.", "http_request_denied", 10, false},
	ReasonKeyReused:       {422, "Idempotency key reused", "The key is that of a request that said something else, or came with other credentials. Send a new request with a key of its own.", "http_request_denied", 9, false},
	ReasonNotKept:         {409, "Answer not kept", "The request of this key was sent and answered, and its answer could not be kept.", "http_request_denied", 9, false},
	ReasonOutcomeUnknown:  {409, "Outcome unknown", "The request of this key was sent, and what has become of it is not known: the upstream may have acted on it.", "http_request_denied", 9, false},
	ReasonUpstreamRefused: {502, "Upstream refused", "The upstream could not be reached, or did not speak HTTP.", "destination_unavailable", 14, true},
	ReasonUpstreamTimeout: {504, "Upstream timeout", "The upstream did not answer in time.", "http_response_timeout", 4, true},
	ReasonDraining:        {503, "Draining", "This replica has ended before the upstream answered.", "connection_terminated", 14, true},
	ReasonInternal:        {500, "Internal error", "This proxy has made a mistake, which is in its log.", "proxy_internal_error", 13, false},
	ReasonClientGone:      {StatusClientGone, "Client gone", "The client left, or broke off its request, before it was answered.", "connection_terminated", 1, true},
	ReasonUpstreamClosed:  {499, "Upstream closed", "The upstream cut the connection before answering.", "connection_terminated", 14, true},
}

// OfDuplicate reports whether a request is refused for another: one that is equal to
// it, or has its key.
func (r Reason) OfDuplicate() bool {
	switch r {
	case ReasonDuplicate, ReasonHeld, ReasonNotShareable, ReasonKeyReused, ReasonNotKept, ReasonOutcomeUnknown:
		return true
	}
	return false
}

// problemType returns the type member of RFC 9457.
func (r Reason) problemType(status int) string {
	switch status {
	case http.StatusTooManyRequests:
		return typeQuotaExceeded
	case http.StatusServiceUnavailable:
		return typeReducedCapacity
	}
	return typeOurs + string(r)
}
