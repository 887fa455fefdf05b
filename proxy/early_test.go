package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const halfPost = "POST /hook HTTP/1.1\r\nHost: gateway\r\nContent-Length: 1000\r\n\r\nhalf"

// TestEarlyAnswerToAStreamedBody ends its connection, or leaves it to the next
// request.
func TestEarlyAnswerToAStreamedBody(t *testing.T) {
	up := listen(t, func(conn net.Conn, r *bufio.Reader, first *http.Request) {
		for req := first; req != nil; req, _ = http.ReadRequest(r) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			_, _ = io.Copy(io.Discard, req.Body)
		}
	})
	conn := dial(t, serve(t, newRig(t, nil, upstreamURL(t, up), dedupe(DedupeOff))), halfPost)
	res := conn.response(t, http.MethodPost)
	wantOutcome(t, res, "200")
	if !res.Close {
		_, _ = io.WriteString(conn, strings.Repeat("x", 996)+"GET /hook HTTP/1.1\r\nHost: gateway\r\n\r\n")
		wantOutcome(t, conn.response(t, http.MethodGet), "200")
	}
}

// TestUpstreamThatClosesWhileTheClientPauses in its body: the client is answered
// at once.
func TestUpstreamThatClosesWhileTheClientPauses(t *testing.T) {
	up := listen(t, func(net.Conn, *bufio.Reader, *http.Request) {})
	r := newRig(t, nil, upstreamURL(t, up), dedupe(DedupeOff))
	conn := dial(t, serve(t, r), halfPost)
	wantOutcome(t, conn.response(t, http.MethodPost), string(ReasonUpstreamClosed))
	if e := next(t, r.events); e.Reason != ReasonUpstreamClosed {
		t.Errorf("got reason %s, want %s", e.Reason, ReasonUpstreamClosed)
	}
}

// TestNoInformationalAnswerBeforeTheClientGoesOn: a client that waits for a 100 gets
// that first.
func TestNoInformationalAnswerBeforeTheClientGoesOn(t *testing.T) {
	up := listen(t, func(conn net.Conn, _ *bufio.Reader, first *http.Request) {
		_, _ = io.WriteString(conn, strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 20)+"HTTP/1.1 100 Continue\r\n\r\n")
		_, _ = io.Copy(io.Discard, first.Body)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	r := newRig(t, nil, upstreamURL(t, up), dedupe(DedupeOff))
	conn := dial(t, serve(t, r), "POST /hook HTTP/1.1\r\nHost: gateway\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	if got := conn.response(t, http.MethodPost).StatusCode; got != http.StatusContinue {
		t.Errorf("got %d first, want 100", got)
	}
	_, _ = io.WriteString(conn, "body")
	wantOutcome(t, conn.response(t, http.MethodPost), "200")
}

// piped returns the client's end of a connection that r serves, in a bubble.
func piped(t *testing.T, r *rig, says string) *connection {
	t.Helper()
	near, far := net.Pipe()
	l := &onePipe{conns: make(chan net.Conn, 1)}
	l.conns <- far
	s, done := &http.Server{Handler: r}, make(chan bool)
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = near.Close(); close(l.conns); _ = s.Close(); <-done })
	_ = near.SetDeadline(time.Now().Add(time.Hour))
	if _, err := io.WriteString(near, says); err != nil {
		t.Fatal(err)
	}
	return &connection{near, bufio.NewReader(near)}
}

type onePipe struct {
	net.Listener
	conns chan net.Conn
}

func (l *onePipe) Accept() (net.Conn, error) {
	if conn, ok := <-l.conns; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (l *onePipe) Close() error   { return nil }
func (l *onePipe) Addr() net.Addr { return &net.TCPAddr{} }

// TestAnswerThatBreaksOffIsCutAtOnce although the client still sends.
func TestAnswerThatBreaksOffIsCutAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, roundTrip(func(req *http.Request) (*http.Response, error) {
			connected(req)
			res := answer(ok, "")
			res.ContentLength, res.Body = 100, io.NopCloser(io.MultiReader(strings.NewReader("ab"), broken))
			return res, nil
		}), dedupe(DedupeOff))
		conn, begun := piped(t, r, halfPost), time.Now()
		_, err := io.ReadAll(conn.response(t, http.MethodPost).Body)
		if took := time.Since(begun); err != io.ErrUnexpectedEOF || took > 0 {
			t.Errorf("got %v after %s, want %v at once", err, took, io.ErrUnexpectedEOF)
		}
	})
}

// TestRestOfABodyThatIsForgottenIsNoEnd to whoever sends it on.
func TestRestOfABodyThatIsForgottenIsNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent, goOn := make(chan error, 1), make(chan bool)
		r := newRig(t, roundTrip(func(req *http.Request) (*http.Response, error) {
			connected(req)
			_, _ = io.ReadFull(req.Body, make([]byte, 4))
			go func() {
				<-goOn // in a write that the upstream takes slowly
				_, err := io.Copy(io.Discard, req.Body)
				sent <- err
			}()
			res := answer(ok, "ok")
			res.Header.Set("Content-Length", "2")
			return res, nil
		}), dedupe(DedupeOff))
		conn := piped(t, r, "POST /hook HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhead\r\n")
		wantOutcome(t, conn.response(t, http.MethodPost), "200")
		_, _ = io.WriteString(conn, "4\r\ntail\r\n0\r\n\r\n")
		close(goOn)
		if err := <-sent; err == nil {
			t.Error("the sender takes a part of the body for all of it")
		}
	})
}
