//go:build unix

package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// deadConn is a connection that dies while it is idle, unnoticed until somebody
// writes.
type deadConn struct {
	net.Conn
	dead atomic.Bool
}

func (c *deadConn) Write(p []byte) (int, error) {
	if c.dead.Load() {
		return 0, syscall.EPIPE
	}
	return c.Conn.Write(p)
}

func TestUnsentRequestIsSentAgain(t *testing.T) {
	for name, tt := range map[string]struct {
		restarts bool // a new connection can be made
		want     string
	}{
		"on a new connection":      {true, "200 second"},
		"if the upstream is there": {false, "refused: connection_refused"},
	} {
		t.Run(name, func(t *testing.T) {
			up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
			t.Cleanup(up.Close)
			c := New(mustParse(t, up.URL), patient)
			t.Cleanup(c.CloseIdleConnections)
			var first *deadConn
			c.current.Load().direct.dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				if first != nil && !tt.restarts {
					return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
				}
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				if first == nil {
					first = &deadConn{Conn: conn}
					return first, err
				}
				return conn, err
			}
			wantOutcome(t, send(t, c, held(http.MethodPost, "/", "first")), "200 first")
			first.dead.Store(true)
			wantOutcome(t, send(t, c, held(http.MethodPost, "/", "second")), tt.want)
		})
	}
}

// secure returns a Client of an upstream over TLS whose connections talk gets,
// each ended when it returns, and how many there were.
func secure(t *testing.T, protocols []string, talk func(conn *tls.Conn, r *bufio.Reader)) (*Client, *atomic.Int64) {
	t.Helper()
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS()
	t.Cleanup(certified.Close)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: certified.TLS.Certificates, NextProtos: protocols})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	made := new(atomic.Int64)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			made.Add(1)
			go func() {
				defer conn.Close()
				talk(conn.(*tls.Conn), bufio.NewReader(conn))
			}()
		}
	}()
	o := patient
	o.TLS = &tls.Config{RootCAs: certified.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	c := New(mustParse(t, "https://"+l.Addr().String()), o)
	t.Cleanup(c.CloseIdleConnections)
	return c, made
}

// echo answers a request by its body, and reports whether there was one.
func echo(conn io.Writer, r *bufio.Reader, more string) bool {
	req, err := http.ReadRequest(r)
	if err != nil {
		return false
	}
	body, _ := io.ReadAll(req.Body)
	_, err = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s%s", len(body), body, more)
	return err == nil
}

// awaitWord returns when the upstream has said something on an idle connection.
func awaitWord(t *testing.T, c *Client) {
	t.Helper()
	c.current.Load().direct.mu.Lock()
	defer c.current.Load().direct.mu.Unlock()
	for _, idle := range c.current.Load().direct.idle {
		_ = idle.SetReadDeadline(time.Now().Add(20 * time.Second))
		err := idle.look.raw.Read(func(fd uintptr) bool {
			var b [1]byte
			_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
			return err != syscall.EAGAIN
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

const unasked = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nunasked"

// TestSmallRequestsOverTLS get their own answers, once, whatever the upstream does
// to a connection between them.
func TestSmallRequestsOverTLS(t *testing.T) {
	const requests = 40
	for name, tt := range map[string]struct {
		protocols   []string
		more        string               // behind each answer
		then        func(conn *tls.Conn) // after it has been read; nil for nothing
		connections int64
	}{
		"reused, beside session tickets": {[]string{"http/1.1"}, "", nil, 1},
		"reused, by who knows no ALPN":   {nil, "", nil, 2}, // one of them to find that out
		"closed while it is idle":        {[]string{"http/1.1"}, "", func(conn *tls.Conn) { _ = conn.Close() }, requests},
		"unasked bytes with the answer":  {[]string{"http/1.1"}, unasked, nil, requests},
		"unasked bytes while it is idle": {[]string{"http/1.1"}, "", func(conn *tls.Conn) { _, _ = io.WriteString(conn, unasked) }, requests},
	} {
		t.Run(name, func(t *testing.T) {
			goOn := make(chan bool, requests)
			c, made := secure(t, tt.protocols, func(conn *tls.Conn, r *bufio.Reader) {
				for echo(conn, r, tt.more) {
					if tt.then != nil {
						<-goOn
						tt.then(conn)
					}
				}
			})
			for i := range requests {
				wantOutcome(t, send(t, c, held(http.MethodPost, "/", fmt.Sprint("request ", i))), fmt.Sprint("200 request ", i))
				if tt.then != nil {
					goOn <- true
					awaitWord(t, c)
				}
			}
			if got := made.Load(); got != tt.connections {
				t.Errorf("got %d connections for %d requests, want %d", got, requests, tt.connections)
			}
		})
	}
}

// TestEarlyRefusalOverTLS reaches the caller although the connection is closed on
// the rest of the request.
func TestEarlyRefusalOverTLS(t *testing.T) {
	c, _ := secure(t, []string{"http/1.1"}, func(conn *tls.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		}
	})
	for _, size := range []int{bufferedBody, bufferedBody + 1} {
		for range 40 {
			wantOutcome(t, send(t, c, held(http.MethodPost, "/", strings.Repeat("b", size))), "413")
		}
	}
}

// TestLargeBodies are written while their answer is awaited: what the upstream
// says before it has read one is the answer, each part has a time of its own, and
// an exchange that ends leaves no writer behind.
func TestLargeBodies(t *testing.T) {
	const (
		size = 1 << 20
		ok   = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
		no   = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno"
	)
	for name, tt := range map[string]struct {
		talk        func(conn net.Conn, body io.Reader, ended <-chan bool)
		want        string
		connections int // for two such requests
	}{
		"all is read":         {func(conn net.Conn, body io.Reader, _ <-chan bool) { take(body, size, 0); say(conn, ok) }, "200 ok", 1},
		"answered, then read": {func(conn net.Conn, body io.Reader, _ <-chan bool) { say(conn, ok); take(body, size, 0) }, "200 ok", 1},
		"slowly read":         {func(conn net.Conn, body io.Reader, _ <-chan bool) { take(body, size, patient.Timeout/2); say(conn, ok) }, "200 ok", 1},
		"refused unread":      {func(conn net.Conn, _ io.Reader, ended <-chan bool) { say(conn, no); <-ended }, "413 no", 2},
		"refused within":      {func(conn net.Conn, body io.Reader, ended <-chan bool) { take(body, size/2, 0); say(conn, no); <-ended }, "413 no", 2},
		"closed within":       {func(conn net.Conn, body io.Reader, _ <-chan bool) { take(body, size/2, 0); _ = conn.Close() }, "closed: connection_terminated, sent", 2},
		"closed unread":       {func(conn net.Conn, _ io.Reader, _ <-chan bool) { _ = conn.Close() }, "closed: connection_terminated, sent", 2},
		"never read":          {func(conn net.Conn, _ io.Reader, ended <-chan bool) { <-ended }, "timed out: http_response_timeout, sent", 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := New(mustParse(t, "http://upstream.test"), patient)
				connections, ended := 0, make(chan bool)
				c.current.Load().direct.dial = func(context.Context, string, string) (net.Conn, error) {
					connections++
					ours, theirs := net.Pipe()
					go func() {
						defer theirs.Close()
						r := bufio.NewReader(theirs)
						for req, err := http.ReadRequest(r); err == nil; req, err = http.ReadRequest(r) {
							tt.talk(theirs, req.Body, ended)
						}
					}()
					return ours, nil
				}
				req := held(http.MethodPost, "/", strings.Repeat("b", size))
				open := 0 // bodies, which nobody reads any more when the exchange has ended
				req.Held = inParts{req.Held, &open}
				for range 2 {
					wantOutcome(t, send(t, c, req), tt.want)
					if open != 0 {
						t.Error("the body is still written")
					}
				}
				if connections != tt.connections {
					t.Errorf("got %d connections, want %d", connections, tt.connections)
				}
				close(ended)
				c.CloseIdleConnections()
			})
		})
	}
}

// inParts is a body that is not written at once.
type inParts struct {
	Held
	open *int // of its readers
}

func (p inParts) Open() io.ReadCloser {
	*p.open++
	return inPart{p.Held.Open(), p.open}
}

type inPart struct {
	io.Reader
	open *int
}

func (p inPart) Close() error {
	*p.open--
	return nil
}

// take reads so much of a body, and pauses four times meanwhile.
func take(body io.Reader, size int64, pause time.Duration) {
	for range 4 {
		_, _ = io.CopyN(io.Discard, body, size/4)
		time.Sleep(pause)
	}
}

func say(conn net.Conn, answer string) { _, _ = io.WriteString(conn, answer) }

func TestUpstreamOfHTTP2AloneOverTLS(t *testing.T) {
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }))
	up.EnableHTTP2, up.TLS = true, &tls.Config{NextProtos: []string{"h2"}}
	up.StartTLS()
	t.Cleanup(up.Close)
	o := patient
	o.TLS = &tls.Config{RootCAs: up.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	c := New(mustParse(t, up.URL), o)
	for range 2 {
		wantOutcome(t, send(t, c, held(http.MethodPost, "/", "body")), "200 HTTP/2.0")
	}
}

// TestEndWhileAPartIsTaken: an upstream that is late may take a part of the body at
// that very moment. The connection is closed then, which waits for who writes to it.
func TestEndWhileAPartIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	look, life := newLookConn(conn), new(Life)
	c := newDirectConn(&direct{options: patient}, look, look)
	life.takes(c.cut)
	c.watch.begin(life)
	written := make(chan error)
	go func() {
		written <- look.writeParts([][]byte{[]byte("a "), []byte("part")}, func(n int) {
			c.watch.await(sending, 0, errTimeout)
			waitFor(t, "the connection is closed", func() bool { return look.raw.Control(func(uintptr) {}) != nil })
			c.moved(n)
		})
	}()
	select {
	case <-written:
	case <-time.After(20 * time.Second):
		t.Fatal("who writes and who closes wait for each other")
	}
	if got := life.Cause(); got != errTimeout {
		t.Errorf("got the end by %v, want %v", got, errTimeout)
	}
}
