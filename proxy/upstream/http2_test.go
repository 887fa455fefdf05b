package upstream

//lint:file-ignore SA1019 http2.Server serves a connection that a test has made by itself, which http.Server does not.

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// piped is an upstream of HTTP/2 in a bubble.
type piped struct {
	*Client
	transport *http.Transport
	made      atomic.Int64 // connections
}

// newPiped returns a piped whose connections serve gets, with the number of each
// from 1 on, once dialled has returned; nil is for at once.
func newPiped(t *testing.T, dialled func(n int64), serve func(n int64, conn net.Conn)) *piped {
	t.Helper()
	u := mustParse(t, "h2c://upstream.example")
	p := &piped{transport: newTransport(u, patient, u.protocols()).RoundTripper.(*http.Transport)}
	p.transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
		n := p.made.Add(1)
		if dialled != nil {
			dialled(n)
		}
		near, far := net.Pipe()
		t.Cleanup(func() { _ = near.Close() })
		go func() {
			defer far.Close()
			serve(n, far)
		}()
		return &upstreamConn{Conn: near}, nil
	}
	p.Client = Over(p.transport, u, patient)
	return p
}

// answers lets s answer each request on a connection with 200, after a while.
func answers(s *http2.Server, conn net.Conn) {
	s.ServeConn(conn, &http2.ServeConnOpts{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		time.Sleep(time.Second)
	})})
}

// TestUnusedHTTP2ConnectionThatIsClosed costs later requests nothing. It comes of
// two requests at once, of which the second goes by the connection of the first.
func TestUnusedHTTP2ConnectionThatIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, func(n int64) { time.Sleep(time.Duration(n) * time.Minute / 4) }, func(n int64, conn net.Conn) {
			answers(&http2.Server{IdleTimeout: time.Duration(3-n) * time.Hour / 2}, conn)
		})
		var burst sync.WaitGroup
		for range 2 {
			burst.Go(func() { wantOutcome(t, send(t, p.Client, held(http.MethodPost, "/", "body")), "200") })
		}
		burst.Wait()
		if got := p.made.Load(); got != 2 {
			t.Fatalf("got %d connections, want 2", got)
		}
		time.Sleep(45 * time.Minute) // the second one is closed by now
		for range 5 {
			wantOutcome(t, send(t, p.Client, held(http.MethodPost, "/", "body")), "200")
		}
	})
}

// TestHTTP2ConnectionThatNeverWas is not kept: the next request makes another.
func TestHTTP2ConnectionThatNeverWas(t *testing.T) {
	for name, ends := range map[string]func(net.Conn){
		"closed at once":           func(net.Conn) {},
		"closed after the preface": func(conn net.Conn) { _, _ = io.ReadFull(conn, make([]byte, len(http2.ClientPreface))) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const closed = 5
				p := newPiped(t, nil, func(n int64, conn net.Conn) {
					if n <= closed {
						ends(conn)
					} else {
						answers(&http2.Server{}, conn)
					}
				})
				for i := 0; p.made.Load() <= closed; i++ {
					got := send(t, p.Client, held(http.MethodPost, "/", "body"))
					if i > closed {
						t.Fatalf("after %d requests there were %d connections, and the last request %s", i, p.made.Load(), got)
					}
				}
				for range 5 {
					wantOutcome(t, send(t, p.Client, held(http.MethodPost, "/", "body")), "200")
				}
				if got := p.made.Load(); got != closed+1 {
					t.Errorf("got %d connections, want %d", got, closed+1)
				}
			})
		})
	}
}

// TestHTTP2ConnectionsOfOneRequestEach are used again, rather than made anew for
// each request.
func TestHTTP2ConnectionsOfOneRequestEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, nil, func(_ int64, conn net.Conn) { answers(&http2.Server{MaxConcurrentStreams: 1}, conn) })
		const atOnce, each = 3, 100
		var clients sync.WaitGroup
		for range atOnce {
			clients.Go(func() {
				for range each {
					wantOutcome(t, send(t, p.Client, held(http.MethodPost, "/", "body")), "200")
				}
			})
		}
		clients.Wait()
		if got := p.made.Load(); got > each/4 {
			t.Errorf("got %d connections for %d requests, %d at once", got, atOnce*each, atOnce)
		}
	})
}

// TestHTTP2BurstOverFullConnections makes more of them, and no request fails.
func TestHTTP2BurstOverFullConnections(t *testing.T) {
	for _, limit := range []uint32{1, 10, 100} {
		t.Run(fmt.Sprint(limit, " at once on each"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPiped(t, nil, func(_ int64, conn net.Conn) { answers(&http2.Server{MaxConcurrentStreams: limit}, conn) })
				const atOnce = 80
				var burst sync.WaitGroup
				for range atOnce {
					burst.Go(func() { wantOutcome(t, send(t, p.Client, held(http.MethodPost, "/", "body")), "200") })
				}
				burst.Wait()
				if got := p.made.Load(); got > 10*atOnce {
					t.Errorf("got %d connections for %d requests", got, atOnce)
				}
			})
		})
	}
}

// TestHTTP2ConnectionsThatTakeNoRequest are not made without end, and nothing was
// sent on them.
func TestHTTP2ConnectionsThatTakeNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, nil, func(_ int64, conn net.Conn) {
			r := bufio.NewReader(conn)
			_, _ = io.ReadFull(r, make([]byte, len(http2.ClientPreface)))
			framer := http2.NewFramer(conn, r)
			_ = framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
			for {
				frame, err := framer.ReadFrame()
				if err != nil {
					return
				}
				if ping, ok := frame.(*http2.PingFrame); ok {
					data := ping.Data
					go func() { _ = framer.WritePing(true, data) }() // a pipe holds nothing
				}
			}
		})
		for range 2 {
			before := p.made.Load()
			wantOutcome(t, send(t, p.Client, held(http.MethodPost, "/", "body")), "refused: connection_limit_reached")
			if got := p.made.Load() - before; got < 1 || got > maxConnections {
				t.Errorf("got %d connections for one request, want %d at most", got, maxConnections)
			}
		}
	})
}
