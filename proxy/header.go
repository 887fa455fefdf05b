package proxy

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// hopByHop are the fields that belong to one connection (RFC 9110 7.6.1),
// beside those that Connection names.
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// notSent are the client's fields that the upstream never gets as they are.
var notSent = append([]string{"Http2-Settings", "Forwarded", "X-Real-Ip"}, hopByHop...)

func removeHopByHop(h http.Header) {
	removeNamed(h, h["Connection"])
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// removeNamed removes the fields that the values of Connection name.
func removeNamed(h http.Header, connection []string) {
	for _, field := range connection {
		for name := range strings.SplitSeq(field, ",") {
			h.Del(textproto.TrimString(name))
		}
	}
}

// allowedTrailers returns those of trailers that may pass: none that frames,
// routes or authenticates a message, for in a trailer it comes after all that
// has been decided (RFC 9110 6.5.1).
func allowedTrailers(trailers http.Header) http.Header {
	if len(trailers) == 0 {
		return nil
	}
	allowed := http.Header{}
	for name, values := range trailers {
		switch canonical := http.CanonicalHeaderKey(name); {
		case !httpguts.ValidTrailerHeader(canonical), isForwarded(canonical):
		case slices.Contains([]string{"Cookie", "Forwarded", "Http2-Settings", "Upgrade", "Via", "X-Real-Ip", "X-Request-Id"}, canonical):
		default:
			allowed[name] = values
		}
	}
	return allowed
}

func isForwarded(name string) bool { return strings.HasPrefix(name, "X-Forwarded-") }

// ourName is what we are called in Via (RFC 9110 7.6.3).
const ourName = "throttle-proxy"

// maxOurs is how many proxies of this name may stand one behind the other.
const maxOurs = 8

// comesRound reports whether a request has been here before. Where clients name
// the host one proxy of our name is enough to tell; elsewhere they may be others.
func (x *exchange) comesRound() bool {
	ours := 0
	for _, via := range x.in.Header["Via"] {
		for hop := range strings.SplitSeq(via, ",") {
			_, by, _ := strings.Cut(strings.TrimSpace(hop), " ")
			name, _, _ := strings.Cut(strings.TrimSpace(by), " ")
			if strings.EqualFold(name, ourName) {
				ours++
			}
		}
	}
	return ours >= maxOurs || ours > 0 && x.route.hosts != nil
}

// setForwarded tells the upstream whom the request comes from. What the client
// said of that is not in out; where the client is a trusted proxy, it is
// believed and extended. Where a client names the host, Via is always told: it
// is how a loop ends.
func (x *exchange) setForwarded(out http.Header) {
	in, trust := x.in, x.proxy.options.Trust
	if !x.route.Forwarded {
		if x.route.hosts != nil {
			addVia(out, in)
		}
		return
	}
	if in.Host != "" {
		out["X-Forwarded-Host"] = x.said[:1:1]
	}
	out["X-Forwarded-Proto"] = schemeHTTP
	if in.TLS != nil {
		out["X-Forwarded-Proto"] = schemeHTTPS
	}
	if x.prefix != "" {
		out["X-Forwarded-Prefix"] = x.route.prefix
	}
	hops := x.hops[:0]
	from := peer(in)
	switch by := trust.of(from); {
	case by == nil:
	case by.Header == forwardedField: // X-Forwarded-* is not its own
		_, hops = by.hops(in.Header)
	default:
		for name, values := range in.Header {
			if isForwarded(name) {
				out[name] = values
			}
		}
		if before := in.Header.Get("X-Forwarded-Prefix"); before != "" && x.prefix != "" {
			out.Set("X-Forwarded-Prefix", strings.TrimSuffix(before, "/")+x.prefix)
		}
		hops = slices.Clone(out["X-Forwarded-For"])
	}
	if from.IsValid() {
		hops = append(hops, from.String())
	}
	switch len(hops) {
	case 0:
	case 1:
		out["X-Forwarded-For"] = hops
	default:
		out.Set("X-Forwarded-For", strings.Join(hops, ", "))
	}
	addVia(out, in)
}

// Values that nobody changes.
var schemeHTTP, schemeHTTPS = []string{"http"}, []string{"https"}

// addVia names this proxy behind those that the request has passed.
func addVia(out http.Header, in *http.Request) {
	if out["Via"] == nil {
		out["Via"] = via(in)
	} else {
		out.Add("Via", via(in)[0])
	}
}

// via is how this proxy names itself in Via, behind the protocol that it was
// spoken to in. Nobody changes what is returned.
func via(in *http.Request) []string {
	switch {
	case in.ProtoMajor > 1:
		return via20
	case in.ProtoMinor == 0:
		return via10
	}
	return via11
}

var via10, via11, via20 = []string{"1.0 " + ourName}, []string{"1.1 " + ourName}, []string{"2.0 " + ourName}
