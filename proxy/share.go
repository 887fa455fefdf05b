package proxy

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy/upstream"
)

// OnDuplicate says what a duplicate of a request in flight gets.
type OnDuplicate string

// The values of an OnDuplicate.
const (
	Refuse OnDuplicate = "refuse" // nothing but that it is one; so does the zero value
	Join   OnDuplicate = "join"   // the answer to the request that it meets, also while that is held if it may change something
	Fresh  OnDuplicate = "fresh"  // the answer of an exchange that began after it came
)

func (d OnDuplicate) shares() bool { return d == Join || d == Fresh }

// sharedFields are the request's fields that are compared besides, where answers are
// shared: an upstream may answer by them.
var sharedFields = []string{
	"Accept", "Accept-Encoding", "Accept-Language", "Origin", "Range",
	"If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since",
}

// aloneTime is for how long a route refuses its duplicates at once, after an answer
// that was not for them.
const aloneTime = time.Minute

// sharing is what the route's requests want of equal ones now.
func (rt *route) sharing() cluster.Sharing {
	switch {
	case rt.Shadow, !rt.OnDuplicate.shares(), rt.alone.Load() > time.Now().UnixNano():
		return cluster.Unshared
	case rt.OnDuplicate == Fresh:
		return cluster.Fresh
	}
	return cluster.Joined
}

// shareNothing has the route refuse its duplicates at once for a while.
func (rt *route) shareNothing() { rt.alone.Store(time.Now().Add(aloneTime).UnixNano()) }

// shareNothing tells who follows the exchange that its answer is not for them.
func (x *exchange) shareNothing() {
	if x.grant.Shared() {
		x.route.now().shareNothing()
		x.grant.Unshareable()
	}
}

// records reports whether an answer is recorded, by what its header says of it.
func (x *exchange) records(a *upstream.Answer) bool {
	switch {
	case x.record == nil, a.ContentLength > maxKept && x.in.Method != http.MethodHead, len(allowedTrailers(a.Trailer)) > 0, a.StatusCode == http.StatusSwitchingProtocols:
		return false
	case x.grant.Shared():
		return x.route.maySee(x.in, a.Header)
	}
	return !freesKey(a.StatusCode)
}

// maySee reports whether who sends an equal request may have the answer to r that
// begins with a header. Answers to what may change something are no matter of caches;
// others are shared as those share them (RFC 9111).
func (rt *route) maySee(r *http.Request, header http.Header) bool {
	kind, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	if strings.EqualFold(strings.TrimSpace(kind), "text/event-stream") {
		return false
	}
	if changes(r.Method) {
		return true
	}
	known := len(r.Header["Authorization"])+len(r.Header["Cookie"]) > 0
	for directive := range members(header["Cache-Control"]) {
		name, _, _ := strings.Cut(directive, "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "no-store":
			return false
		case "private":
			if !known {
				return false
			}
		}
	}
	for name := range members(header["Vary"]) {
		if !slices.Contains(rt.headers, http.CanonicalHeaderKey(name)) { // as * is not
			return false
		}
	}
	return true
}

// members are those of a field that is a list.
func members(values []string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, value := range values {
			for member := range strings.SplitSeq(value, ",") {
				if member = strings.TrimSpace(member); member != "" && !yield(member) {
					return
				}
			}
		}
	}
}

// isLeadersAlone reports whether a field of an answer is for its own client alone.
func isLeadersAlone(name string) bool { return name == "Set-Cookie" || name == "Set-Cookie2" }
