package proxy

import (
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

// hopByHop are the fields that belong to one connection (RFC 9110 7.6.1),
// beside those that Connection names.
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func removeHopByHop(h http.Header) {
	for _, field := range h["Connection"] {
		for name := range strings.SplitSeq(field, ",") {
			h.Del(textproto.TrimString(name))
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// neverTrailers are fields that frame, route or authenticate a message, or say
// how to read it: in a trailer they come after all that has been decided
// (RFC 9110 6.5.1).
var neverTrailers = func() map[string]bool {
	names := map[string]bool{}
	for _, name := range append([]string{
		"Age", "Authorization", "Cache-Control", "Content-Encoding", "Content-Length", "Content-Range", "Content-Type",
		"Cookie", "Date", "Expect", "Expires", "Forwarded", "Host", "Http2-Settings", "Location", "Max-Forwards", "Pragma",
		"Range", "Retry-After", "Set-Cookie", "Vary", "Via", "Warning", "Www-Authenticate",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "X-Request-Id",
	}, hopByHop...) {
		names[name] = true
	}
	return names
}()

// allowedTrailers returns those of trailers that may pass.
func allowedTrailers(trailers http.Header) http.Header {
	allowed := http.Header{}
	for name, values := range trailers {
		if !neverTrailers[http.CanonicalHeaderKey(name)] {
			allowed[name] = values
		}
	}
	return allowed
}

// setForwarded tells the upstream whom the request comes from. ReverseProxy
// has taken out what the client said of that; where the client is a trusted
// proxy, it is believed and extended.
func (x *exchange) setForwarded(out http.Header) {
	in, trust := x.in, x.proxy.options.Trust
	out.Del("X-Real-Ip")
	out.Del("X-Forwarded-Prefix")
	if !x.route.Forwarded {
		return
	}
	hops := []string{}
	out.Set("X-Forwarded-Host", in.Host)
	out.Set("X-Forwarded-Proto", "http")
	if in.TLS != nil {
		out.Set("X-Forwarded-Proto", "https")
	}
	if trust.believes(in) {
		hops = append(hops, in.Header["X-Forwarded-For"]...)
		for _, name := range [...]string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
			if values, ok := in.Header[name]; ok {
				out[name] = values
			}
		}
	}
	if addr, ok := peer(in); ok {
		hops = append(hops, addr.String())
	}
	if len(hops) > 0 {
		out.Set("X-Forwarded-For", strings.Join(hops, ", "))
	}
	out.Add("Via", strconv.Itoa(in.ProtoMajor)+"."+strconv.Itoa(in.ProtoMinor)+" throttle-proxy")
}
