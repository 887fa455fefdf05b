package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

const (
	pingAfter   = 10 * time.Second // of silence on a connection with streams
	pingTimeout = 5 * time.Second
)

// speakHTTP2 lets t speak HTTP/2 where the upstream does, without sending
// anything again by itself: net/http's own HTTP/2 sends a request up to eight
// times, and also one that the upstream has reset for a fault in it.
func speakHTTP2(t *http.Transport, o Options) {
	h2 := &http2.Transport{
		DisableCompression: true,
		ReadIdleTimeout:    pingAfter,
		PingTimeout:        pingTimeout,
		WriteByteTimeout:   o.Timeout,
		IdleConnTimeout:    t.IdleConnTimeout,
	}
	t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{
		"h2": func(_ string, conn *tls.Conn) http.RoundTripper { return newHTTP2Conn(h2, conn) },
		// By this name, and in this wrapping, net/http hands over connections
		// without TLS.
		"unencrypted_http2": func(_ string, conn *tls.Conn) http.RoundTripper {
			inner, ok := conn.NetConn().(interface{ UnencryptedNetConn() net.Conn })
			if !ok {
				return unusable{errNotSpoken}
			}
			return newHTTP2Conn(h2, inner.UnencryptedNetConn())
		},
	}
	t.TLSClientConfig = &tls.Config{RootCAs: o.RootCAs, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}
}

// http2Conn is a connection on which requests are sent by HTTP/2.
type http2Conn struct {
	*http2.ClientConn
	conn net.Conn
}

func newHTTP2Conn(h2 *http2.Transport, conn net.Conn) http.RoundTripper {
	cc, err := h2.NewClientConn(conn)
	if err != nil {
		_ = conn.Close()
		return unusable{err}
	}
	return http2Conn{cc, conn}
}

// RoundTrip sends req, once. A connection on which an answer did not come in time
// may be dead, and is left to those who wait on it already.
func (c http2Conn) RoundTrip(req *http.Request) (*http.Response, error) {
	if !c.ReserveNewRequest() {
		return nil, errNoCachedConn{}
	}
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: c.conn})
	}
	res, err := c.ClientConn.RoundTrip(req)
	if context.Cause(req.Context()) == errTimeout {
		c.SetDoNotReuse()
	}
	return res, err
}

// errNoCachedConn tells net/http's Transport, by its method, to use another
// connection.
type errNoCachedConn struct{}

func (errNoCachedConn) Error() string             { return "no more requests on this connection" }
func (errNoCachedConn) IsHTTP2NoCachedConnError() {}

// unusable is a connection that did not come to be.
type unusable struct{ err error }

func (u unusable) RoundTrip(*http.Request) (*http.Response, error) { return nil, u.err }

// refusedUnseen reports whether err says that the upstream has not looked at the
// request, and will not: it may be sent again (RFC 9113 8.7).
func refusedUnseen(err error) bool {
	if stream := (http2.StreamError{}); errors.As(err, &stream) {
		return stream.Code == http2.ErrCodeRefusedStream
	}
	// http2 has no types for these: the stream is beyond those of a GOAWAY, or the
	// connection ended before it could begin.
	text := err.Error()
	return strings.Contains(text, "graceful shutdown GOAWAY") || strings.Contains(text, "client conn not usable") ||
		strings.Contains(text, "client conn is closed")
}
