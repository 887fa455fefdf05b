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
	ReasonCoolingDown     Reason = "cooling-down"   // the upstream has asked for a pause
	ReasonUndecided       Reason = "undecided"      // the store gave no answer
	ReasonUnknownRoute    Reason = "unknown-route"  // no route of that name
	ReasonBadRequest      Reason = "bad-request"    // it cannot be read, or not in one way only
	ReasonBadPath         Reason = "bad-path"       // the path leads above the registered one
	ReasonBadMethod       Reason = "bad-method"     // CONNECT and TRACE
	ReasonLoop            Reason = "loop"           // it has come round to us
	ReasonBodyTooLarge    Reason = "body-too-large" // more than is read to compare requests
	ReasonNoMemory        Reason = "no-memory"      // all bodies together are too large
	ReasonTooManyInFlight Reason = "too-many-in-flight"
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

// about is what a reason means on the wire.
type about struct {
	status      int
	title       string
	detail      string
	proxyStatus string // error type of RFC 9209, where nothing more exact is known
	grpc        int    // status code of gRPC
}

var reasons = map[Reason]about{
	ReasonDuplicate:       {409, "Duplicate request", "An equal request is in flight. This one was not sent.", "http_request_denied", 10},
	ReasonHeld:            {409, "Duplicate request", "An equal request has just succeeded, or may have. This one was not sent.", "http_request_denied", 10},
	ReasonLimited:         {429, "Too many requests", "The budget is spent. This request was not sent.", "http_request_denied", 8},
	ReasonCoolingDown:     {429, "Too many requests", "The upstream has asked for a pause, which is not over. This request was not sent.", "http_request_denied", 8},
	ReasonUndecided:       {503, "Undecided", "Whether this request may go on could not be decided. It was not sent.", "proxy_internal_error", 14},
	ReasonUnknownRoute:    {404, "Unknown route", "", "http_request_error", 12},
	ReasonBadRequest:      {400, "Bad request", "The request cannot be read in one way only. It was not sent.", "http_request_error", 3},
	ReasonBadPath:         {400, "Bad path", "The path leads above the registered one. This request was not sent.", "http_request_error", 3},
	ReasonLoop:            {508, "Loop", "The request has passed through a proxy of this name before, and would come round again. This request was not sent.", "proxy_loop_detected", 9},
	ReasonBodyTooLarge:    {413, "Body too large", "The body is larger than is read to tell equal requests apart. This request was not sent.", "http_request_error", 8},
	ReasonBadMethod:       {405, "Bad method", "CONNECT and TRACE are not forwarded: within a tunnel nothing could be compared or counted. Ask for http:// URLs by this proxy (http_proxy, not https_proxy), or for a route whose URL is https.", "http_request_error", 12},
	ReasonNoMemory:        {503, "No memory", "The bodies of all requests together are too large. This request was not sent.", "connection_limit_reached", 14},
	ReasonTooManyInFlight: {503, "Too many in flight", "This replica has as many exchanges as it may have. This request was not sent.", "connection_limit_reached", 14},
	ReasonUpstreamRefused: {502, "Upstream refused", "The upstream could not be reached, or did not speak HTTP.", "destination_unavailable", 14},
	ReasonUpstreamTimeout: {504, "Upstream timeout", "The upstream did not answer in time.", "http_response_timeout", 4},
	ReasonDraining:        {503, "Draining", "This replica has ended before the upstream answered. The upstream may have acted on the request.", "connection_terminated", 14},
	ReasonInternal:        {500, "Internal error", "This proxy has made a mistake, which is in its log. The upstream may have acted on the request.", "proxy_internal_error", 13},
	ReasonClientGone:      {StatusClientGone, "Client gone", "The client left, or broke off its request, before it was answered. The upstream may have acted on the request.", "connection_terminated", 1},
	ReasonUpstreamClosed:  {499, "Upstream closed", "The upstream cut the connection before answering. It may have acted on the request.", "connection_terminated", 14},
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
