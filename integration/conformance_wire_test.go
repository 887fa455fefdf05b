package integration

import (
	"cmp"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	postHead    = "POST /hook HTTP/1.1\r\nHost: a\r\n"
	chunkedHead = postHead + "Transfer-Encoding: chunked\r\n\r\n"
	getHead     = "GET /hook HTTP/1.1\r\nHost: a\r\n"
)

// ambiguous are messages that two readers may understand differently.
var ambiguous = map[string]string{
	"two lengths":                postHead + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
	"two different lengths":      postHead + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
	"list of lengths":            postHead + "Content-Length: 5, 5\r\n\r\nhello",
	"signed length":              postHead + "Content-Length: +5\r\n\r\nhello",
	"hexadecimal length":         postHead + "Content-Length: 0x5\r\n\r\nhello",
	"empty length":               postHead + "Content-Length:\r\n\r\n",
	"length past all bounds":     postHead + "Content-Length: 99999999999999999999\r\n\r\n",
	"length and chunks":          postHead + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"chunks and length":          postHead + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	"unknown coding":             postHead + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"coding twice":               postHead + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"coding with vertical tab":   postHead + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n",
	"chunks in HTTP/1.0":         "POST /hook HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"chunk size 0x5":             chunkedHead + "0x5\r\nhello\r\n0\r\n\r\n",
	"signed chunk size":          chunkedHead + "+5\r\nhello\r\n0\r\n\r\n",
	"chunk size with a space":    chunkedHead + "5 \r\nhello\r\n0\r\n\r\n",
	"empty chunk size":           chunkedHead + "\r\nhello\r\n0\r\n\r\n",
	"chunk size past all bounds": chunkedHead + "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
	"bare LF after chunk size":   chunkedHead + "5\nhello\r\n0\r\n\r\n",
	"bare LF in an extension":    chunkedHead + "5;a\nb\r\nhello\r\n0\r\n\r\n",
	"bare LF after a chunk":      chunkedHead + "5\r\nhello\n0\r\n\r\n",
	"chunk longer than its size": chunkedHead + "4\r\nhello\r\n0\r\n\r\n",
	"bare LF in the header":      "GET /hook HTTP/1.1\nHost: a\n\n",
	"bare LF ends the header":    getHead + "\n",
	"bare CR":                    getHead + "X: a\rb\r\n\r\n",
	"NUL":                        getHead + "X: a\x00b\r\n\r\n",
	"folded line":                getHead + "X: a\r\n b\r\n\r\n",
	"folded line with a colon":   getHead + "X: a\r\n\tY: b\r\n\r\n",
	"space before the colon":     getHead + "Content-Length : 5\r\n\r\nhello",
	"no name":                    getHead + ": x\r\n\r\n",
	"no colon":                   getHead + "X\r\n\r\n",
	"two Hosts":                  getHead + "Host: b\r\n\r\n",
	"no Host":                    "GET /hook HTTP/1.1\r\n\r\n",
	"path in Host":               "GET /hook HTTP/1.1\r\nHost: a/b\r\n\r\n",
	"userinfo in Host":           "GET /hook HTTP/1.1\r\nHost: u@a\r\n\r\n",
	"HTTP/0.9":                   "GET /hook\r\n\r\n",
	"HTTP/1.2":                   "GET /hook HTTP/1.2\r\nHost: a\r\n\r\n",
	"HTTP/1.10":                  "GET /hook HTTP/1.10\r\nHost: a\r\n\r\n",
	"HTTP/2.0 by text":           "GET /hook HTTP/2.0\r\nHost: a\r\n\r\n",
	"tab in the request line":    "GET\t/hook HTTP/1.1\r\nHost: a\r\n\r\n",
	"two spaces":                 "GET  /hook HTTP/1.1\r\nHost: a\r\n\r\n",
	"space at the end":           "GET /hook HTTP/1.1 \r\nHost: a\r\n\r\n",
	"fragment":                   "GET /hook#x HTTP/1.1\r\nHost: a\r\n\r\n",
	"odd trailer":                chunkedHead + "0\r\nX : 1\r\n\r\n",
	"bare LF ends the trailer":   chunkedHead + "0\r\nX: 1\r\n\n",
}

// otherwise is what is not answered "400 bad-request".
var otherwise = map[string]string{
	"unknown coding":   "501 bad-request",
	"HTTP/1.2":         "505 bad-request",
	"HTTP/1.10":        "505 bad-request",
	"HTTP/2.0 by text": "505 bad-request",
}

// Nothing that two readers may understand differently reaches the upstream
// whole, and nothing that follows it on its connection is answered.
func TestHTTPNothingIsSmuggled(t *testing.T) {
	t.Parallel()
	whole := make(chan string, 1000)
	for _, secure := range []bool{false, true} {
		w := startWaiter(t, secure, false, func(c *turn) {
			body, _ := c.readToEnd()
			if strings.HasSuffix(body, cut) {
				c.close()
				return
			}
			whole <- c.request.String() + body
			c.say(okText)
		})
		kind := map[bool]string{false: "http11", true: "tls-http11"}[secure]
		names, routes := slices.Sorted(maps.Keys(ambiguous)), w.routes()
		each(len(names)*len(routes), 64, func(i int) {
			name, route, pieces := names[i/len(routes)], routes[i%len(routes)], i%4 < 2
			w.smuggle(t, kind, name, route, pieces)
		})
	}
	if n := len(whole); n > 0 {
		t.Errorf("%d requests reached an upstream whole, the first: %q", n, <-whole)
	}
}

// smuggle sends a message and a follower, which are to be refused in one
// answer.
func (w *waiter) smuggle(t *testing.T, kind, name, route string, pieces bool) {
	input := ambiguous[name]
	c := w.dial(t, kind).(*http1Client)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	text := strings.Replace(input, "/hook", "/"+route, 1) + "GET /" + route + "/follower HTTP/1.1\r\nHost: a\r\n\r\n"
	size := len(text)
	if pieces {
		size = 7
	}
	for ; text != ""; text = text[min(len(text), size):] {
		c.say(text[:min(len(text), size)])
	}
	want := cmp.Or(otherwise[name], "400 bad-request")
	// What streams is on its way to an upstream when its body turns out to be bad.
	streams := strings.HasPrefix(route, "streamed") && strings.HasPrefix(input, chunkedHead)
	// Over HTTP/2 the upstream closes the connection that it shares with others.
	shares := streams && (strings.HasSuffix(route, "h2c") || strings.HasSuffix(route, "tls2"))
	got, err := c.hear(http.MethodPost)
	own := got.own()
	closed := strings.HasPrefix(own, "502 upstream-refused ") || strings.HasPrefix(own, "499 upstream-closed ")
	if !strings.HasPrefix(own, want+" ") && !(streams && errors.Is(err, errNothing)) && !(shares && closed) {
		t.Errorf("%s, %s to %s: got %s (%s), error %v, want %s", name, kind, route, own, got.first, err, want)
	}
	_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite() // or the proxy would read on for a while
	if rest, _ := io.ReadAll(c.in); len(rest) > 0 {
		t.Errorf("%s, %s to %s: and then %q", name, kind, route, rest)
	}
}
