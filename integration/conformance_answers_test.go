package integration

import (
	"fmt"
	"slices"
	"strings"
)

var (
	garbled     = want{back: "502 upstream-refused http_protocol_error"}
	streamsOn   = but{streamed, "that the connection ends can be seen before what came on it", want{back: garbled.back, or: "499 upstream-closed connection_terminated"}}
	onlyToHTTP1 = leave("said in bytes of HTTP/1", toHTTP2)
	onlyToHTTP2 = leave("said in frames of HTTP/2", toHTTP1)
)

const okText = "200\nContent-Length: 2\n\nok"

// answerRows are what comes back of answers.
func answerRows() []row {
	return slices.Concat(statusRows(), sayRows, rawRows())
}

// statusRows are of statuses that any client and upstream may have a meaning
// for, and of those that are none.
func statusRows() (rows []row) {
	for _, status := range []int{200, 201, 202, 203, 206, 207, 226, 299, 300, 301, 399, 400, 401, 404, 407, 408, 409, 413, 417, 421, 425, 429, 431, 451, 499, 500, 501, 502, 503, 504, 511, 599, 600, 700, 999} {
		rows = append(rows, row{name: fmt.Sprint("status ", status), sends: "POST /x\n\nbody", says: fmt.Sprintf("%d\nContent-Length: 2\n\nok", status)})
	}
	for _, status := range []string{"099", "000", "001", "1000", "20000", "-10", "+20", "2 0", "abc"} {
		rows = append(rows, row{name: "status " + status, sends: "POST /x\n\nbody", says: status + "\nContent-Length: 2\n\nok", want: garbled, but: []but{streamsOn}})
	}
	return append(rows,
		row{name: "status 204", says: "204\nX-A: 1\n\n"},
		row{name: "status 204 to a POST", sends: "POST /x\n\nbody", says: "204\n\n"},
		row{name: "status 205", says: "205\nContent-Length: 0\n\n"},
		row{name: "status 304", says: "304\nEtag: \"e\"\nContent-Type: text/html\n\n"},
		row{name: "status 304 with a length", says: "304\nContent-Length: 5\nContent-Type: text/html\n\n"},
		row{name: "101 that nobody asked for", says: "101\nConnection: Upgrade\nUpgrade: what\n\n", want: garbled},
		row{name: "101 that nobody asked for, to a POST", sends: "POST /x\n\nbody", says: "101\nConnection: Upgrade\nUpgrade: websocket\n\n", want: garbled, but: []but{streamsOn}},
	)
}

// inform returns n informational answers, and a final one behind them.
func inform(n int, text string) string { return strings.Repeat(text+"\n\n", n) + okText }

var sayRows = []row{
	{name: "102", says: inform(1, "102\nX-A: 1")},
	{name: "103", says: inform(1, "103\nLink: </a>")},
	{name: "103 to a POST", sends: "POST /x\n\nbody", says: inform(1, "103\nLink: </a>")},
	{name: "199", says: inform(1, "199\nX-A: 1")},
	{name: "100 that nobody asked for", says: inform(1, "100"), want: want{back: okText}},
	{name: "three 103", says: inform(3, "103\nLink: </a>\nLink: </b>")},
	{name: "102 and 103", says: "102\n\n" + inform(1, "103\nX-A: 1")},
	{name: "64 informational answers", says: inform(64, "103\nX-A: 1")},
	{name: "65 informational answers", says: inform(65, "103\nX-A: 1"), want: garbled},
	{name: "65 informational answers to a POST", sends: "POST /x\n\nbody", says: inform(65, "102"), want: garbled, but: []but{streamsOn}},
	{name: "103 without hop-by-hop", says: inform(1, "103\nLink: </a>\nConnection: X-Hop\nX-Hop: 1\nKeep-Alive: timeout=5\nProxy-Authenticate: x"),
		want: want{back: inform(1, "103\nLink: </a>")}, but: []but{onlyToHTTP1}},

	{name: "HEAD of what has a length", sends: "HEAD /x", says: "200\nContent-Length: 500\nContent-Type: a/b\n\n"},
	{name: "HEAD of what has none", sends: "HEAD /x", says: "200\nContent-Type: a/b\n\n"},
	{name: "HEAD and 404", sends: "HEAD /x", says: "404\nContent-Length: 5\n\n"},
	{name: "not even a type is invented", says: "200\nContent-Length: 2\n\n<p"},
	{name: "empty", says: "200\nContent-Length: 0\n\n"},
	{name: "no length", says: "200\n\nok"},
	{name: "no length and nothing", says: "200\n\n", but: []but{{toHTTP2, "an end in the header is a length of 0", want{or: "200\nContent-Length: 0\n\n"}}}},
	{name: "no length, to a POST", sends: "POST /x\n\nbody", says: "404\n\nok"},
	{name: "256 KiB", says: "200\nContent-Length: 262144\n\n" + strings.Repeat("x", 256<<10)},
	{name: "256 KiB and a byte, without a length", sends: "POST /x\n\nbody", says: "200\n\n" + strings.Repeat("x", 256<<10+1)},
	{name: "300 KB", says: "200\nContent-Length: 300000\n\n" + strings.Repeat("x", 300_000)},
	{name: "300 KB without a length", sends: "POST /x\n\nbody", says: "200\n\n" + strings.Repeat("x", 300_000)},
	{name: "trailers, less forbidden ones in an answer", says: "200\nTrailer: X-Sum, Authorization\n\nok\n--\nX-Sum: 1\nAuthorization: evil",
		want: want{back: "200\n\nok\n--\nX-Sum: 1"}},
	{name: "forbidden trailers alone in an answer", says: "200\nTrailer: Authorization\n\nok\n--\nAuthorization: evil", want: want{back: "200\n\nok"}},
	{name: "forbidden trailers alone, unannounced", says: "200\n\nok\n--\nAuthorization: evil", want: want{back: "200\n\nok"}},
	{name: "trailers that are announced and do not come", says: "200\nTrailer: X-Sum\n\nok"},
	{name: "trailers unannounced in an answer", sends: "POST /x\n\nbody", says: "200\n\nok\n--\nX-Sum: 1\nX-Other: 2"},
	{name: "trailers and nothing else", says: "200\nTrailer: X-Sum\n\n\n--\nX-Sum: 1", want: want{back: "200\n\n\n--\nX-Sum: 1"}},
	{name: "gzip", says: "200\nContent-Encoding: gzip\nContent-Length: 2\n\n\x1f\x8b"},
	{name: "fields of an answer are kept", says: "200\nContent-Length: 2\nServer: s\nEtag: \"e\"\nX-A: 1\nX-A: 2\nX-B:\nX-C: \xe4\nCache-Control: no-cache\nContent-Type: text/html; charset=x\nWww-Authenticate: Basic\nX-Request-Id: u\nAlt-Svc: a\n\nok"},
	{name: "odd and legal fields of an answer", says: "200\nContent-Length: 2\nX-A:\nX-A: 1\nX-A:\nx_b: \"a, b\\\"\", ;\tc\n!#$%&'*+-.^_`|~9z: \xff\xfe\nVary: *\nContent-Type:\n\nok"},
	{name: "what caches and proxies say of an answer", says: "200\nContent-Length: 2\nAge: 5\nCache-Status: far; hit\nCache-Status: near; fwd=miss\nIdempotent-Replayed: false\nVia: 1.1 far\nVia: 1.0 near\nExpires: 0\nWarning: 199 - \"x\"\n\nok"},
	{name: "hop-by-hop of an answer", says: "200\nContent-Length: 2\nConnection:\nConnection: X-Hop\nKeep-Alive: timeout=5\nProxy-Authenticate: x\nX-Hop: 1\nX-Kept: 2\n\nok",
		want: want{back: "200\nContent-Length: 2\nX-Kept: 2\n\nok"}, but: []but{onlyToHTTP1}},
	{name: "cookies", says: "200\nContent-Length: 2\nSet-Cookie: a=1; Domain=upstream; Path=/x\nSet-Cookie: b=2\n\nok"},
	{name: "a day of the upstream's", says: "200\nContent-Length: 2\nDate: Thu, 01 Jan 1970 00:00:00 GMT\n\nok"},

	{name: "a wish for a pause passes as it came", route: "eager", sends: "POST /x\n\nbody",
		says: "429\nContent-Length: 2\nContent-Type: application/json\nRetry-After: 1.5\nRetry-After: 2, 5\nX-RateLimit-Remaining: 0\nX-RateLimit-Reset-After: 0.5\n\n{}"},

	{name: "redirect below", says: "302\nContent-Length: 0\nLocation: ORIGIN/CANARY/a%2Fb?c#d\n\n",
		want: want{back: "302\nContent-Length: 0\nLocation: /ROUTE/a%2Fb?c#d\n\n"}},
	{name: "redirect to a path below", sends: "POST /x\n\nbody", says: "307\nContent-Length: 0\nLocation: /CANARY/x\n\n",
		want: want{back: "307\nContent-Length: 0\nLocation: /ROUTE/x\n\n"}},
	{name: "redirect beside", says: "302\nContent-Length: 0\nLocation: ORIGIN/CANARYS\n\n"},
	{name: "redirect elsewhere", says: "301\nContent-Length: 0\nLocation: https://example.com/CANARY\n\n"},
	{name: "other places", says: "201\nContent-Length: 0\nContent-Location: /CANARY/x\nRefresh: 5; url=ORIGIN/CANARY/y\n\n",
		want: want{back: "201\nContent-Length: 0\nContent-Location: /ROUTE/x\nRefresh: 5; url=/ROUTE/y\n\n"}},
	{name: "redirects however odd", says: "302\nContent-Length: 0\nLocation: /x/../CANARY/x\nContent-Location: /%43ANARY/./x\nRefresh: 5; '\\CANARY\\y'\n\n",
		want: want{back: "302\nContent-Length: 0\nLocation: /ROUTE/x\nContent-Location: /ROUTE/x\nRefresh: 5; '/ROUTE/y'\n\n"}},
	{name: "cookies below", says: "200\nContent-Length: 2\nSet-Cookie: a=1; Path=/CANARY/x; Secure\nSet-Cookie: b=2; path=/CANARY\nSet-Cookie: __Host-c=3; Path=/\n\nok",
		want: want{back: "200\nContent-Length: 2\nSet-Cookie: a=1; Path=/ROUTE/x; Secure\nSet-Cookie: b=2; path=/ROUTE\nSet-Cookie: __Host-c=3; Path=/\n\nok"}},
	{name: "by a host", route: "hosted", sends: "POST /x//y%2F?z\n\nbody"},
	{name: "by a host, places", route: "hosted", sends: "GET /x", says: "302\nContent-Length: 0\nLocation: ORIGIN/CANARY/x\nLink: </y>, </CANARY/y>\nSet-Cookie: a=1; Path=/x\n\n",
		want: want{back: "302\nContent-Length: 0\nLocation: /x\nLink: </y>, </y>\nSet-Cookie: a=1; Path=/x\n\n"}},
	{name: "a link below", says: "200\nContent-Length: 2\nLink: <ORIGIN/CANARY/y?z>; rel=\"next\"\n\nok",
		want: want{back: "200\nContent-Length: 2\nLink: </ROUTE/y?z>; rel=\"next\"\n\nok"}},
	{name: "several links", says: "200\nContent-Length: 2\nLink: </CANARY/y>; rel=next, <https://example.com/a,b>; rel=\"x, y\"\nLink: <ORIGIN/CANARY>; rel=self\n\nok",
		want: want{back: "200\nContent-Length: 2\nLink: </ROUTE/y>; rel=next, <https://example.com/a,b>; rel=\"x, y\"\nLink: </ROUTE>; rel=self\n\nok"}},
	{name: "a link that is hinted at", says: inform(1, "103\nLink: <ORIGIN/CANARY/style.css>; rel=preload"),
		want: want{back: inform(1, "103\nLink: </ROUTE/style.css>; rel=preload")}},

	{name: "cut, of a length", says: "200\nContent-Length: 10\n\nhalf✂"},
	{name: "cut, of a length, with nothing", says: "200\nContent-Length: 10\n\n✂", want: want{or: "nothing"}},
	{name: "cut, without a length", says: "200\n\nhalf✂"},
	{name: "cut, without a length, to a POST", sends: "POST /x\n\nbody", says: "200\n\nhalf✂"},
	{name: "cut, without a length, with nothing", says: "200\n\n✂"},
	{name: "stops, of a length", route: "idle", says: "200\nContent-Length: 10\n\nhalf…"},
	{name: "stops, without a length", route: "idle", sends: "POST /x\n\nbody", says: "200\n\nhalf…"},
}

// rawRows are answers as only bytes tell them.
func rawRows() (rows []row) {
	const head = "HTTP/1.1 200 OK\n"
	say := func(text string) func(*turn) {
		return func(c *turn) {
			c.read()
			c.raw(crlf(text))
			c.close()
		}
	}
	for name, text := range map[string]string{
		"no HTTP":               "what was the question?\n\n",
		"no status":             "HTTP/1.1 \n\n",
		"two lengths":           head + "Content-Length: 1\nContent-Length: 2\n\nok",
		"odd length":            head + "Content-Length: -1\n\nok",
		"odd coding":            head + "Transfer-Encoding: rot13\n\nok",
		"no colon":              head + "what\n\nok",
		"other HTTP":            "HTTP/9.9 what\n\n",
		"the beginning of TLS":  "\x16\x03\x01\x02\x00\x01\n\n",
		"the beginning of what": "PRI * HTTP/2.0\n\nSM\n\n",
	} {
		rows = append(rows, row{name: "garbage: " + name, sends: "POST /x\n\nbody", does: say(text), want: garbled, but: []but{onlyToHTTP1, streamsOn}})
	}
	for name, text := range map[string]string{
		"within a chunk":   head + "Date: d\nTransfer-Encoding: chunked\n\n4\nhalf\n5\nha",
		"between chunks":   head + "Date: d\nTransfer-Encoding: chunked\n\n4\nhalf\n",
		"within trailers":  head + "Date: d\nTrailer: X\nTransfer-Encoding: chunked\n\n4\nhalf\n0\nX: ",
		"by no chunk size": head + "Date: d\nTransfer-Encoding: chunked\n\n4\nhalf\nwhat\n",
	} {
		rows = append(rows, row{name: "cut " + name, sends: "POST /x\n\nbody", does: say(text), want: want{back: "200\n\nhalf✂", or: "200\n\nhalfha✂"}, but: []but{onlyToHTTP1}})
	}
	ends := func(text string) func(*turn) {
		return func(c *turn) {
			c.read()
			c.raw(crlf(text))
		}
	}
	return append(rows,
		row{name: "to the connection's end", does: say("HTTP/1.0 200 OK\nDate: d\n\nok"), want: want{back: "200\n\nok"}, but: []but{onlyToHTTP1}},
		row{name: "of HTTP/1.0, with a length", does: say("HTTP/1.0 200 OK\nDate: d\nContent-Length: 2\n\nok"), want: want{back: okText}, but: []but{onlyToHTTP1}},
		row{name: "upstream's last answer on a connection", says: "200\nContent-Length: 2\nConnection: close\n\nok"},
		row{name: "a second answer that nobody asked for", want: want{back: okText}, but: []but{onlyToHTTP1},
			does: ends(head + "Date: d\nContent-Length: 2\n\nok" + head + "Content-Length: 6\n\nCANARY")},
		row{name: "a second answer to a POST", sends: "POST /x\n\nbody", want: want{back: okText}, but: []but{onlyToHTTP1},
			does: ends(head + "Date: d\nContent-Length: 2\n\nok" + head + "Content-Length: 6\n\nCANARY")},
		row{name: "a body behind 204", want: want{back: "204\n\n"}, but: []but{onlyToHTTP1},
			does: ends("HTTP/1.1 204 No Content\nDate: d\n\n" + head + "Content-Length: 6\n\nCANARY")},
		row{name: "a body behind the answer to HEAD", sends: "HEAD", want: want{back: "200\nContent-Length: 6\n\n"}, but: []but{onlyToHTTP1},
			does: ends(head + "Date: d\nContent-Length: 6\n\nCANARY")},
		row{name: "chunks with extensions", want: want{back: "200\n\nok"}, but: []but{onlyToHTTP1},
			does: ends(head + "Date: d\nTransfer-Encoding: chunked\n\n1;a=b\no\n1\nk\n0;c\n\n")},
	)
}
