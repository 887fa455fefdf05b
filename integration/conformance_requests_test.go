package integration

import "strings"

// Where rows differ.

func http10(l *lane) bool   { return l.client.version == "1.0" }
func http11(l *lane) bool   { return l.client.version == "1.1" }
func http2s(l *lane) bool   { return l.client.http2() }
func toHTTP1(l *lane) bool  { return !l.upstream.http2 }
func toHTTP2(l *lane) bool  { return l.upstream.http2 }
func streamed(l *lane) bool { return l.streams }
func both(in, and func(*lane) bool) func(*lane) bool {
	return func(l *lane) bool { return in(l) && and(l) }
}
func not(in func(*lane) bool) func(*lane) bool { return func(l *lane) bool { return !in(l) } }

// leave leaves cells out.
func leave(why string, in func(*lane) bool) but { return but{in: in, why: why} }

var (
	noChunks       = leave("HTTP/1.0 has no chunks", http10)
	noConnection   = leave("HTTP/2 has no Connection: such a request is malformed, which h2spec looks at", http2s)
	noExpect       = leave("HTTP/1.0 expects nothing", http10)
	bounded        = but{http2s, "net/http's HTTP/2 has a bound of its own, and ends the connection or answers itself", want{arrives: "nothing", back: "431", or: "nothing"}}
	refusedByHTTP2 = but{http2s, "malformed to HTTP/2 itself, which resets the stream", want{arrives: "nothing", back: "nothing", or: "400 bad-request"}}
)

var refused = want{arrives: "nothing", back: "400 bad-request"}
var twoLines = want{arrives: "nothing", back: "400 ambiguous-field"}
var climbing = want{arrives: "nothing", back: "400 bad-path"}

// requestRows are what arrives of methods, fields and bodies.
var requestRows = []row{
	{name: "nothing is invented"},
	{name: "HEAD", sends: "HEAD", says: "200\nContent-Length: 5\n\n"},
	{name: "OPTIONS", sends: "OPTIONS /x"},
	{name: "DELETE", sends: "DELETE /x"},
	{name: "odd method", sends: "M-SEARCH /x"},
	{name: "method in lower case", sends: "get /x"},
	{name: "method of all that a token has", sends: "A1!#$%&'*+-.^_`|~z /x"},
	{name: "TRACE", sends: "TRACE /x", want: want{arrives: "nothing", back: "405 bad-method"}},
	{name: "CONNECT", sends: "CONNECT /x", want: want{arrives: "nothing", back: "405 bad-method"},
		but: []but{{http2s, "HTTP/2's has no path", want{arrives: "nothing", back: "nothing"}}}},
	{name: "a request line as a method", sends: "DELETE /internal HTTP/1.1\t/x", want: refused},
	{name: "a method that is no token", sends: "GE(T /x", want: refused},
	{name: "a method beyond ASCII", sends: "G\xc3\x89T /x", want: refused},
	{name: "no method", sends: "\t/x", want: refused, but: []but{refusedByHTTP2}},

	{name: "body", sends: "POST /x\n\nbody"},
	{name: "PUT", sends: "PUT /x\nContent-Type: text/plain\n\nbody"},
	{name: "PATCH", sends: "PATCH /x\n\nbody"},
	{name: "GET with a body", sends: "GET /x\n\nbody"},
	{name: "POST without one", sends: "POST /x"},
	{name: "chunks", sends: "POST /x\nTransfer-Encoding: chunked\n\nbody", but: []but{noChunks}},
	{name: "no chunk but the last", sends: "POST /x\nTransfer-Encoding: chunked\n\n", but: []but{noChunks}},
	{name: "any byte in a body", sends: "POST /x\n\n\x00\xff\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"},
	{name: "trailers", sends: "POST /x\nTransfer-Encoding: chunked\nTrailer: X-Sum\n\nbody\n--\nX-Sum: 1", but: []but{noChunks}},
	{name: "trailers unannounced", sends: "POST /x\nTransfer-Encoding: chunked\n\nbody\n--\nX-Sum: 1",
		want: want{arrives: "POST /x\n\nbody\n--\nX-Sum: 1"}, but: []but{noChunks,
			{http2s, "net/http's HTTP/2 server has only those that were announced", want{arrives: "POST /x\n\nbody"}}}},
	{name: "trailers, less forbidden ones",
		sends: "POST /x\nTransfer-Encoding: chunked\nTrailer: X-Sum, Host, Authorization, Cookie, X-Forwarded-For, Via, X-Request-Id\n\nbody\n--\nX-Sum: 1\nHost: evil\nAuthorization: evil\nCookie: evil\nX-Forwarded-For: evil\nVia: evil\nX-Request-Id: evil",
		want:  want{arrives: "POST /x\n\nbody\n--\nX-Sum: 1"}, but: []but{noChunks,
			leave("net/http's HTTP/2 resets a stream that has such trailers", http2s)}},
	{name: "a body that is expected", sends: "POST /x\nExpect: 100-continue\n\nbody", but: []but{noExpect}},
	{name: "chunks that are expected", sends: "POST /x\nExpect: 100-continue\nTransfer-Encoding: chunked\n\nbody", but: []but{noExpect}},
	{name: "POST and an empty line more", sends: "POST /x\n\nbody", after: "\r\n", but: []but{leave("HTTP/2 has no lines", http2s)}},
	{name: "a client that has said all, to a slow upstream", half: true,
		does: func(c *turn) { c.read(); <-c.cell.halfClosed; c.say("200\nContent-Length: 2\n\nok") },
		but: []but{leave("of HTTP/2 each request ends its half", http2s),
			{streamed, "without a lock the client's end may end it", want{arrives: "perhaps", or: "499 client-gone"}}}},
	{name: "a client that has said all, to a silent upstream", half: true, route: "brief",
		does: func(c *turn) { c.read(); c.silence() }, want: want{back: "504 upstream-timeout"},
		but: []but{leave("of HTTP/2 each request ends its half", http2s),
			{streamed, "without a lock the client's end may end it", want{arrives: "perhaps", back: "499 client-gone", or: "504 upstream-timeout"}}}},

	{name: "what the client says is kept",
		sends: "POST /x\nUser-Agent: a\nAccept-Encoding: br\nAuthorization: b\nCookie: c=1\nX-A: 1\nX-A: 2\nX-B:\nX-C: \xe4\nX_D: e\nAccept: */*\nIdempotency-Key: k\nX-Idempotency-Key: l\nRange: bytes=0-1\n\nbody"},
	{name: "cookies in two lines", sends: "GET\nCookie: a=1\nCookie: b=2",
		but: []but{{both(http2s, toHTTP1), "HTTP/2 divides what is one field (RFC 9113 8.2.3)", want{arrives: "GET\nCookie: a=1; b=2"}}}},
	{name: "hop-by-hop",
		sends: "GET\nConnection:\nConnection: X-Hop, x-other\nConnection: keep-alive, X-Third\nX-Hop: 1\nX-Other: 2\nX-Third: 3\nKeep-Alive: timeout=5\nProxy-Connection: x\nProxy-Authorization: Basic x\nTE: gzip",
		want:  want{arrives: "GET"}, but: []but{noConnection}},
	{name: "credentials for a proxy", sends: "GET\nProxy-Authorization: Basic x", want: want{arrives: "GET"}},
	{name: "Connection cannot name our fields",
		sends: "GET\nConnection: keep-alive, X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, Via",
		want:  want{arrives: "GET"}, but: []but{noConnection}},
	{name: "spoofed origin",
		sends: "GET\nX-Forwarded-For: 192.0.2.1\nX-Forwarded-Proto: gopher\nX-Forwarded-Host: evil\nX-Real-IP: 192.0.2.1\nForwarded: for=192.0.2.1",
		want:  want{arrives: "GET"}},
	{name: "trailers are welcome", sends: "GET\nTE: trailers"},
	{name: "h2c is not asked for",
		sends: "GET\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
		want:  want{arrives: "GET"}, but: []but{noConnection}},
	{name: "HTTP/1.0 knows no other protocol",
		sends: "GET\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
		want:  want{arrives: "GET\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="},
		but:   []but{leave("others do: see the tests of tunnels", not(http10))}},

	{name: "request id", sends: "GET\nX-Request-Id: {3F25}"},
	{name: "request id of a load balancer", sends: "GET\nX-Request-Id: Root=1-x;Parent=y"},
	{name: "request id with spaces and more", sends: "GET\nX-Request-Id: a b, \"c\" \xc3\xa4"},
	{name: "two request ids", sends: "GET\nX-Request-Id: a\nX-Request-Id: b"},
	{name: "no request id", sends: "GET\nX-Request-Id: -", want: want{arrives: "GET\nX-Request-Id: OURS"}},
	{name: "no request id, with a body", sends: "POST\nX-Request-Id: -\n\nbody", want: want{arrives: "POST\nX-Request-Id: OURS\n\nbody"}},

	{name: "Host with a port", sends: "GET\nHost: gateway:1234"},
	{name: "Host of IPv6", sends: "GET\nHost: [::1]:80"},
	{name: "no Host", sends: "GET\nHost: -", but: []but{{http11, "HTTP/1.1 must have one", refused}}},
	{name: "path in Host", sends: "GET\nHost: a/b", want: refused, but: []but{refusedByHTTP2}},
	{name: "userinfo in Host", sends: "GET\nHost: u@a", want: refused, but: []but{refusedByHTTP2}},
	{name: "query in Host", sends: "GET\nHost: a?b", want: refused, but: []but{refusedByHTTP2}},
	{name: "space in Host", sends: "GET\nHost: a b", want: refused, but: []but{refusedByHTTP2}},
	{name: "NUL in a field", sends: "GET\nX-A: a\x00b", want: refused, but: []but{refusedByHTTP2}},
	{name: "CR in a field", sends: "GET\nX-A: a\rb", want: refused, but: []but{refusedByHTTP2}},
	{name: "a field without a name", sends: "GET\n: a", want: refused, but: []but{leave("HTTP/2 has them in front", http2s)}},
	{name: "a name that is none", sends: "GET\nX(A: a", want: refused, but: []but{refusedByHTTP2}},
	{name: "fields of 60 KiB", sends: "GET\nX-Much: " + strings.Repeat("x", 60<<10)},
	{name: "fields of 80 KiB", sends: "GET\nX-Much: " + strings.Repeat("x", 80<<10),
		want: want{arrives: "nothing", back: "431 bad-request"},
		but:  []but{bounded}},
	{name: "a target of 80 KiB", sends: "GET /" + strings.Repeat("x", 80<<10),
		want: want{arrives: "nothing", back: "431 bad-request"},
		but:  []but{bounded}},
	{name: "a budget's field in two lines", route: "tenants", sends: "GET\nX-Tenant: a\nX-Tenant: b", want: twoLines},
	{name: "a budget's field in two lines, with a body", route: "tenants", sends: "POST /x\nX-Tenant: a\nx-tenant: a\n\nbody", want: twoLines},
	{name: "an idempotency key that the route sets", route: "keyed", sends: "POST /x\nIdempotency-Key: mine\n\nbody",
		want: want{arrives: "POST /x\nIdempotency-Key: fixed\n\nbody"}},
}

// targetRows are targets to the byte.
var targetRows = []row{
	{name: "path", sends: "GET /a/b"},
	{name: "slash", sends: "GET /"},
	{name: "query", sends: "GET ?a=b"},
	{name: "a query that is empty", sends: "GET /a?"},
	{name: "semicolon", sends: "GET /a?x=1;y=2"},
	{name: "bad escapes in the query", sends: "GET ?a=%zz&b=%&%=&&c"},
	{name: "question marks", sends: "GET /a?b?c=d?"},
	{name: "escapes in the path", sends: "GET /a%2Fb//c%2f/%41%0d%0a"},
	{name: "dots that stay below", sends: "GET /a/../b/./c"},
	{name: "sub-delimiters", sends: "GET /-._~!$&'()*+,;=:@/x?-._~!$&'()*+,;=:@/?"},
	{name: "raw UTF-8 in the path", sends: "GET /\xc3\xa9/\xf0\x9f\x8d\xb5"},
	{name: "raw UTF-8 in the query", sends: "GET /a?q=\xc3\xa9"},
	{name: "raw bytes that are no UTF-8", sends: "GET /a\xe9b?q=\xff"},
	{name: "characters beside the standard in the path", sends: "GET /a/{x}|^`\"<>/b"},
	{name: "characters beside the standard in the query", sends: "GET /a?{x}|^`\"<>\\[]"},
	{name: "brackets in the path", sends: "GET /a[1]"},
	{name: "a backslash in the path", sends: "GET /a\\b"},
	{name: "them all, with a body", sends: "POST /\xc3\xa9{}|^`\"<>\\%2F//;?\xc3\xa9{}|^`\"<>\\;%zz\n\nbody"},
	{name: "an escape beside them", sends: "GET /%7B{%C3\xc3\xa9"},
	{name: "space in the path", sends: "GET\t/a b", want: refused},
	{name: "space in the query", sends: "GET\t?a b", want: refused},
	{name: "a protocol in the path", sends: "GET\t/a HTTP/1.1", want: refused},
	{name: "fragment", sends: "GET /a#b", want: refused},
	{name: "fragment behind a query", sends: "GET /a?b#c", want: refused},
	{name: "bad escape in the path", sends: "GET /a%zz", want: refused, but: []but{refusedByHTTP2}},
	{name: "control character in the path", sends: "GET /a\x01b", want: refused, but: []but{refusedByHTTP2}},
	{name: "control character in the query", sends: "GET ?a\x01b", want: refused, but: []but{refusedByHTTP2}},
	{name: "DEL in the path", sends: "GET /a\x7fb", want: refused, but: []but{refusedByHTTP2}},
	{name: "absolute form", sends: "GET http://gateway/ROUTE/x?y", want: want{arrives: "GET /x?y"},
		but: []but{leave("HTTP/2 has no absolute form", http2s)}},
	{name: "climbing", sends: "GET /../x", want: climbing},
	{name: "climbing by escapes", sends: "GET /%2e%2e/x", want: climbing},
	{name: "climbing by an escaped slash", sends: "GET /a/..%2f../x", want: climbing},
	{name: "climbing by an escaped backslash", sends: "GET /..%5cx", want: climbing},
	{name: "climbing by a raw backslash", sends: "GET /..\\x", want: climbing},
	{name: "climbing with parameters", sends: "GET /..;a=b/x", want: climbing},

	{name: "root", outside: true, want: nowhere, sends: "GET /"},
	{name: "unknown route", outside: true, want: nowhere, sends: "POST /nowhere\n\nbody"},
	{name: "two slashes first", outside: true, want: nowhere, sends: "GET //hook"},
	{name: "an escape in the route", outside: true, want: nowhere, sends: "GET /%68ook"},
	{name: "an escaped slash behind the route", outside: true, want: nowhere, sends: "GET /hook%2fx"},
	{name: "no slash first", outside: true, sends: "GET hook", want: refused, but: []but{refusedByHTTP2}},
	{name: "no target", outside: true, sends: "GET\t", want: refused, but: []but{refusedByHTTP2}},
	{name: "CONNECT to a place", outside: true, sends: "CONNECT gateway:443", want: want{arrives: "nothing", back: "404 unknown-route", or: "405 bad-method"},
		but: []but{leave("HTTP/2 has no target for it", http2s)}},
	{name: "CONNECT to a route", outside: true, sends: "CONNECT hook:443", want: want{arrives: "nothing", back: "404 unknown-route", or: "405 bad-method"},
		but: []but{leave("HTTP/2 has no target for it", http2s)}},
	{name: "GET of the server as a whole", outside: true, sends: "GET *", want: want{arrives: "nothing", back: "404 unknown-route", or: "400 bad-request"}},
	{name: "the server as a whole", outside: true, sends: "OPTIONS *", want: want{arrives: "nothing", back: "404 unknown-route", or: "400 bad-request"}},
}

var nowhere = want{arrives: "nothing", back: "404 unknown-route"}
