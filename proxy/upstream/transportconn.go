package upstream

import (
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
)

// upstreamConn is a connection to an upstream which knows what has happened on
// it since a request got it.
type upstreamConn struct {
	net.Conn
	read   atomic.Bool // something
	wrote  atomic.Bool // something
	closed atomic.Bool
	ends   atomic.Pointer[attempt] // whose body is not asked for any more when it is closed
}

// begin lets it be a's, whose use of it ends with the answer.
func (c *upstreamConn) begin(a *attempt) {
	c.read.Store(false)
	c.wrote.Store(false)
	c.ends.Store(a)
}

// Close ends a wait for the client's next part of a body, too.
func (c *upstreamConn) Close() error {
	c.closed.Store(true)
	if a := c.ends.Swap(nil); a != nil && a.stop != nil {
		go a.stop() // it may wait for a read that it ends
	}
	return c.Conn.Close()
}

func (c *upstreamConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.read.Store(true)
	}
	return n, err
}

// Write keeps to itself that an upstream which has got a part of a request takes
// no more of it: what it has said before that, maybe an answer, is read next, or
// else the end of the connection.
func (c *upstreamConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil && c.wrote.Load() && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
		return len(p), nil
	}
	if n > 0 {
		c.wrote.Store(true)
	}
	return n, err
}

// CloseWrite ends one half of a tunnel.
func (c *upstreamConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// http1Conn returns the upstreamConn below conn, or nil where several requests
// share it.
func http1Conn(conn net.Conn, h2c bool) *upstreamConn {
	if secure, ok := conn.(*tls.Conn); ok {
		if secure.ConnectionState().NegotiatedProtocol == "h2" {
			return nil
		}
		conn = secure.NetConn()
	}
	c, ok := conn.(*upstreamConn)
	if !ok || h2c {
		return nil
	}
	return c
}
