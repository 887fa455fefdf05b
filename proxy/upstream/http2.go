package upstream

//lint:file-ignore SA1019 What net/http has in place of http2.Transport, its ClientConn, makes its connections itself. Here net/http's Transport has made them, and found out what the upstream speaks.

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

const (
	pingAfter   = 10 * time.Second // of silence on a connection with streams
	pingTimeout = 5 * time.Second
	settleTime  = time.Second // longest that a new connection is waited for to say how many requests it takes

	// maxConnections is how many connections one request is offered, each of which
	// others have filled or the upstream has closed, until it is given up.
	maxConnections = 100
)

// speakHTTP2 lets t speak HTTP/2 where the upstream does, without sending
// anything again by itself: net/http's own HTTP/2 sends a request up to eight
// times, and also one that the upstream has reset for a fault in it.
func speakHTTP2(t *http.Transport, o Options) *http2Pool {
	pool := &http2Pool{single: o.Idle == 0, transport: &http2.Transport{
		DisableCompression: true,
		ReadIdleTimeout:    pingAfter,
		PingTimeout:        pingTimeout,
		WriteByteTimeout:   o.Timeout,
		IdleConnTimeout:    t.IdleConnTimeout,
	}}
	t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{
		"h2": func(_ string, conn *tls.Conn) http.RoundTripper { return pool.add(conn, conn.NetConn()) },
		// By this name, and in this wrapping, net/http hands over connections
		// without TLS.
		"unencrypted_http2": func(_ string, conn *tls.Conn) http.RoundTripper {
			inner, ok := conn.NetConn().(interface{ UnencryptedNetConn() net.Conn })
			if !ok {
				return unusable{errNotSpoken}
			}
			return pool.add(inner.UnencryptedNetConn(), inner.UnencryptedNetConn())
		},
	}
	return pool
}

// http2Pool has the connections to an upstream that speak HTTP/2. net/http, which
// makes them, forgets one for good that is full for a moment.
type http2Pool struct {
	transport *http2.Transport
	single    bool // each connection takes one request

	mu      sync.Mutex
	retired bool         // each takes those that it has
	conns   []*http2Conn // the last made last
}

// http2Conn is a connection on which requests are sent by HTTP/2.
type http2Conn struct {
	*http2.ClientConn
	conn  net.Conn
	under *upstreamConn // which knows whether it is closed; nil where another has made it
	pool  *http2Pool
	used  bool // it has taken a request; the pool's mutex guards it
}

// add takes a connection in, of which under is what carries it, when its upstream
// has said how many requests it takes: too many would be reset, maybe as mistakes.
func (p *http2Pool) add(conn, under net.Conn) http.RoundTripper {
	cc, err := p.transport.NewClientConn(conn)
	if err != nil {
		_ = conn.Close()
		return unusable{err}
	}
	// Its settings come before the answer. Where that does not come, the first
	// request tells.
	settle, cancel := context.WithTimeout(context.Background(), settleTime)
	_ = cc.Ping(settle)
	cancel()
	if !cc.CanTakeNewRequest() {
		_ = conn.Close()
		return unusable{errFull}
	}
	c := &http2Conn{ClientConn: cc, conn: conn, pool: p}
	c.under, _ = under.(*upstreamConn)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
	return c
}

// reserve returns a connection on which one more request may be sent, or nil if
// there is none.
func (p *http2Pool) reserve() *http2Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	// http2 itself takes one that was closed before its first request for usable.
	p.conns = slices.DeleteFunc(p.conns, func(c *http2Conn) bool { return c.under != nil && c.under.closed.Load() })
	for _, c := range p.conns {
		if !(p.single && c.used) && c.ReserveNewRequest() {
			c.used = true
			return c
		}
	}
	return nil
}

// retire lets every connection end with the requests that it has. One that has
// promised to take another ends when it has taken it: see RoundTrip.
func (p *http2Pool) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = true
	for _, c := range p.conns {
		if c.State().StreamsReserved == 0 {
			c.leave()
		}
	}
}

// leaves reports whether connections end with the requests that they have.
func (p *http2Pool) leaves() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.single || p.retired
}

// leave lets c take no more requests, and closes it after the last one.
func (c *http2Conn) leave() {
	c.SetDoNotReuse()
	if s := c.State(); s.StreamsActive+s.StreamsReserved+s.StreamsPending == 0 {
		_ = c.Close() // http2 does it only where a request ends from now on
	}
}

// RoundTrip sends req, once, on a connection of the pool. One on which an answer
// did not come in time may be dead, and is left to those who wait on it already.
func (c *http2Conn) RoundTrip(req *http.Request) (*http.Response, error) {
	on := c.pool.reserve()
	if on == nil {
		return nil, errNoCachedConn{}
	}
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: on.conn})
	}
	res, err := on.ClientConn.RoundTrip(req)
	if context.Cause(req.Context()) == errTimeout {
		on.SetDoNotReuse()
	}
	if c.pool.leaves() {
		on.leave()
	}
	return res, err
}

// errNoCachedConn tells net/http's Transport, by its method, to make another
// connection.
type errNoCachedConn struct{}

func (errNoCachedConn) Error() string             { return "no more requests on these connections" }
func (errNoCachedConn) IsHTTP2NoCachedConnError() {}

// unusable is a connection that did not come to be. net/http does not keep what
// has the method RoundTripErr.
type unusable struct{ err error }

func (u unusable) RoundTrip(*http.Request) (*http.Response, error) { return nil, u.err }
func (u unusable) RoundTripErr() error                             { return u.err }

// refusedUnseen reports whether err says that the upstream has not looked at the
// request, and will not: it may be sent again (RFC 9113 8.7).
func refusedUnseen(err error) bool {
	if stream := (http2.StreamError{}); errors.As(err, &stream) {
		return stream.Code == http2.ErrCodeRefusedStream
	}
	// http2 has no types for these: the stream is beyond those of a GOAWAY, or the
	// connection ended before it could begin.
	text := err.Error()
	for _, unseen := range [...]string{"graceful shutdown GOAWAY", "client conn not usable", "client conn is closed", "client conn could not be established"} {
		if strings.Contains(text, unseen) {
			return true
		}
	}
	return false
}
