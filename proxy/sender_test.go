package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestConnectionThatTheUpstreamEndsIsNotUsedAgain: nothing is lost, not even
// a request that is written while the connection ends, if it may be repeated.
func TestConnectionThatTheUpstreamEndsIsNotUsedAgain(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for name, tt := range map[string]struct {
		answer string
		end    func(*bufio.Reader)
	}{
		"at once":                {answer, func(*bufio.Reader) {}},
		"after the next request": {answer, func(r *bufio.Reader) { _, _ = http.ReadRequest(r) }},
		"with surplus bytes":     {answer + answer, func(r *bufio.Reader) { _, _ = r.Peek(1) }},
	} {
		t.Run(name, func(t *testing.T) {
			var connections atomic.Int64
			r := newRig(t, nil, upstreamURL(t, listen(t, func(conn net.Conn, r *bufio.Reader, _ *http.Request) {
				connections.Add(1)
				_, _ = io.WriteString(conn, tt.answer)
				tt.end(r)
			})))
			const requests = 20
			for range requests {
				wantOutcome(t, r.do(request(http.MethodGet, "/hook", "")), "200")
			}
			if got := connections.Load(); got != requests {
				t.Errorf("got %d connections for %d requests", got, requests)
			}
		})
	}
}

// TestBodiesOfAnySize go to a plain upstream, directly or not.
func TestBodiesOfAnySize(t *testing.T) {
	handler, arrivals := records()
	r := newRig(t, nil, upstreamURL(t, serve(t, handler).URL))
	r.options.MaxBody = 8 << 20 // more than sockets hold
	for _, size := range []int{0, 1, 4 << 10, 16 << 10, 16<<10 + 1, 1 << 20, 8 << 20} {
		body := strings.Repeat("b", size)
		wantOutcome(t, r.do(post(body)), "200")
		if got := next(t, arrivals).body; got != body {
			t.Errorf("got %d bytes, want %d", len(got), size)
		}
	}
}

// TestAnswersOfAnySize come whole, and their connections are used again.
func TestAnswersOfAnySize(t *testing.T) {
	var connections atomic.Int64
	r := newRig(t, nil, upstreamURL(t, listen(t, func(conn net.Conn, r *bufio.Reader, first *http.Request) {
		connections.Add(1)
		for req := first; req != nil; req, _ = http.ReadRequest(r) {
			var size int
			_, _ = fmt.Sscanf(req.URL.RawQuery, "%d", &size)
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("b", size))
		}
	})))
	for _, size := range []int{0, 1, 4 << 10, 1 << 20, 2} {
		res := r.do(request(http.MethodGet, fmt.Sprintf("/hook?%d", size), ""))
		if got := len(text(t, res)); got != size {
			t.Errorf("got %d bytes, want %d", got, size)
		}
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("got %d connections, want one", got)
	}
}

// TestNothingIsLeftOfAnotherRequest fails if what is used again, to send requests and
// to tell of them, has something of the one before.
func TestNothingIsLeftOfAnotherRequest(t *testing.T) {
	handler, arrivals := records()
	r := newRig(t, nil, upstreamURL(t, serve(t, handler).URL), hold(0), limits(limit(t, "all", "1000/s")))
	bare := func() (got string) {
		res := r.do(request(http.MethodGet, "/hook", ""))
		wantOutcome(t, res, "200")
		a, e := next(t, arrivals), next(t, r.events)
		a.header = strings.ReplaceAll(a.header, e.ID, "ID")
		e.Started, e.Asked, e.ID, e.Duration, e.Verdict, e.Upstream, e.Decisions = time.Time{}, time.Time{}, "", 0, 0, 0, nil
		return fmt.Sprintf("%s %q %+v", a.header, a.body, e)
	}
	want := bare()
	for range 20 {
		rich := post("body", "Authorization", "secret", "X-Request-Id", "other", "X-Forwarded-For", "192.0.2.1", "Te", "trailers", "Prefer", "wait=1")
		wantOutcome(t, r.do(rich), "200")
		next(t, arrivals)
		next(t, r.events)
		wantOutcome(t, r.do(request("TRACE", "/hook", "")), "bad-method")
		next(t, r.events)
		if got := bare(); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
}
