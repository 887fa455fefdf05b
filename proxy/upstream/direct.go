package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

const (
	// bufferedBody is the longest body that is written before the answer is read:
	// it fits into the socket's buffer. A longer one is written while it is read.
	bufferedBody = 16 << 10

	// lateWrite is how long an answer that has ended waits for the rest of its
	// request to be written, before that costs the connection.
	lateWrite = 50 * time.Millisecond

	sweepInterval = 5 * time.Second // longest that an idle connection stays open which the upstream has closed

	// maxHandshakes is how many TLS handshakes with one upstream are under way at
	// once: one takes a millisecond of CPU, and a burst would begin thousands.
	maxHandshakes = 32
)

// direct sends requests whose body is in memory to one upstream by HTTP/1.1, on
// the goroutine that asks, but for the bodies of large ones. An http.Transport has
// two more for each connection, and hands every request and every answer over
// between them: half the cost of forwarding a small one. It also looks at a
// connection before it uses it again, which costs no client an error where the
// upstream has closed it.
type direct struct {
	options Options
	dial    dialFunc
	address string
	host    string      // field of requests
	tls     *tls.Config // nil without TLS

	handshakes chan struct{} // has an element for each that is under way
	unable     atomic.Bool   // the upstream does not speak HTTP/1.1
	plain      atomic.Bool   // it speaks it, though TLS does not say so

	mu      sync.Mutex
	retired bool          // none becomes idle any more
	idle    []*directConn // the last used last
	sweep   *time.Timer   // of idle; nil if none is
}

// newDirect returns a direct for u, or nil where requests need another sender:
// for HTTP/2 without TLS, and where a socket cannot be looked at.
func newDirect(u *URL, o Options) *direct {
	if !canLook || u.h2c {
		return nil
	}
	address, name, err := u.address()
	if err != nil {
		return nil
	}
	// As net/http has it: with the port only where it was written.
	field, err := httpguts.PunycodeHostPort(u.url.Host)
	if err != nil || strings.Contains(field, "%") { // a zone, which is not for the upstream
		return nil
	}
	d := &direct{options: o, dial: u.dialer(o), address: address, host: field, handshakes: make(chan struct{}, maxHandshakes)}
	if u.url.Scheme == "https" {
		d.tls = o.tlsConfig(name, "http/1.1")
		d.tls.DynamicRecordSizingDisabled = true // a record is a system call
		d.tls.ClientSessionCache = tls.NewLRUClientSessionCache(maxHandshakes)
	}
	return d
}

// speaks reports whether req is sent directly.
func (d *direct) speaks(req *Request) bool {
	if req.Stream != nil || req.Length < 0 {
		return false
	}
	isGRPC := strings.HasPrefix(req.Header.Get("Content-Type"), "application/grpc") // which is HTTP/2's
	return !isGRPC && req.Header["Upgrade"] == nil && req.Header["Expect"] == nil && !d.unable.Load()
}

// send is [Client.Send]. It returns errNotSpoken, and has sent nothing, where the
// upstream speaks only HTTP/2.
func (d *direct) send(life *Life, req *Request) (*Answer, error) {
	for {
		c, reused, err := d.take(life)
		if err == errNotSpoken {
			d.unable.Store(true)
			return nil, err
		} else if err != nil {
			return nil, failure(life, err, false)
		}
		answer, err := c.roundTrip(life, req)
		if err == nil {
			return answer, nil
		}
		safe := req.Held == nil && (req.Method == http.MethodGet || req.Method == http.MethodHead || req.Method == http.MethodOptions)
		unsent := c.written == 0 || safe && c.read == 0 && isClosed(err)
		if !reused || !unsent || life.Cause() != nil {
			return nil, failure(life, err, c.written > 0)
		}
	}
}

// take returns a connection for one request.
func (d *direct) take(life *Life) (c *directConn, reused bool, err error) {
	for {
		d.mu.Lock()
		last := len(d.idle) - 1
		if last < 0 {
			d.mu.Unlock()
			break
		}
		c, d.idle[last] = d.idle[last], nil
		d.idle = d.idle[:last]
		d.mu.Unlock()
		if time.Since(c.since) < d.options.Idle && c.silent() {
			return c, true, nil
		}
		_ = c.Close()
	}
	ctx := life.Context()
	conn, err := d.dial(ctx, "tcp", d.address)
	if err != nil {
		return nil, false, err
	}
	if c, err = d.newConn(ctx, conn); err != nil {
		_ = conn.Close()
	}
	return c, false, err
}

// newConn returns conn ready for requests, by TLS if the upstream has it.
func (d *direct) newConn(ctx context.Context, conn net.Conn) (*directConn, error) {
	look := newLookConn(conn)
	if d.tls == nil {
		return newDirectConn(d, look, look), nil
	}
	secure, err := d.handshake(ctx, look, d.tls)
	if err == nil && secure.ConnectionState().NegotiatedProtocol == "" && !d.plain.Load() {
		err = d.learn(ctx)
	}
	if err != nil {
		return nil, err
	}
	return newDirectConn(d, secure, look), nil
}

// learn finds out why an upstream has not said that it speaks HTTP/1.1: because
// it says nothing to such questions, or because it speaks only HTTP/2, which some
// servers do not say either.
func (d *direct) learn(ctx context.Context) error {
	conn, err := d.dial(ctx, "tcp", d.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	both := d.tls.Clone()
	both.NextProtos = []string{"h2", "http/1.1"}
	secure, err := d.handshake(ctx, conn, both)
	switch {
	case err != nil:
		return err
	case secure.ConnectionState().NegotiatedProtocol == "h2":
		return errNotSpoken
	}
	d.plain.Store(true)
	return nil
}

func (d *direct) handshake(ctx context.Context, conn net.Conn, config *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	select {
	case d.handshakes <- struct{}{}:
		defer func() { <-d.handshakes }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	secure := tls.Client(conn, config)
	err := secure.HandshakeContext(ctx)
	// crypto/tls has no type for the alerts of the other side.
	if err != nil && strings.Contains(err.Error(), "no application protocol") {
		err = errNotSpoken
	}
	return secure, err
}

// put keeps a connection for the next request, if there may be one.
func (d *direct) put(c *directConn) {
	c.since = time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.retired || d.options.Idle == 0 {
		_ = c.Close()
		return
	}
	d.idle = append(d.idle, c)
	if d.sweep == nil {
		d.sweep = time.AfterFunc(sweepInterval, func() { d.closeIdle(d.options.Idle) })
	}
}

// retire closes the connections that are idle, and those to be.
func (d *direct) retire() {
	d.mu.Lock()
	d.retired = true
	d.mu.Unlock()
	d.closeIdle(0)
}

// closeIdle closes connections that nobody reads: those idle for so long, and
// those that the upstream has closed.
func (d *direct) closeIdle(after time.Duration) {
	var ended []*directConn
	d.mu.Lock()
	d.idle = slices.DeleteFunc(d.idle, func(c *directConn) bool {
		keep := time.Since(c.since) < after && c.silent()
		if !keep {
			ended = append(ended, c)
		}
		return !keep
	})
	if len(d.idle) > 0 {
		d.sweep.Reset(sweepInterval)
	} else if d.sweep != nil {
		d.sweep.Stop()
		d.sweep = nil
	}
	d.mu.Unlock()
	for _, c := range ended {
		_ = c.Conn.Close() // which may have a last word
	}
}
