package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http/httpguts"
)

const (
	// directBody is the longest body that is sent directly. It fits into the
	// socket's buffer, so that no answer has to be read meanwhile.
	directBody = 16 << 10

	directIdle      = 90 * time.Second // longest that an unused connection stays open
	directSweep     = 5 * time.Second  // longest that one does which the upstream has closed
	maxAnswerHeader = 10 << 20         // bytes, as http.Transport has it
)

var (
	errAnswerHeader = errors.New("the header of the answer is too large")
	errUnasked      = errors.New("an answer that switches to a protocol not asked for")
)

// direct sends requests to one upstream by HTTP/1.1 without TLS, on the
// goroutine that asks. An http.Transport has two more for each connection, and
// hands every request and every answer over between them: half the cost of
// forwarding a small one. What direct does not speak it leaves to a Transport:
// TLS, HTTP/2, other proxies, upgrades, and bodies that are not in memory.
type direct struct {
	*http.Transport
	address string
	host    string        // field of requests
	timeout time.Duration // from the request until the answer begins

	mu    sync.Mutex
	idle  []*directConn // the last used last
	sweep *time.Timer   // of idle; nil if none is
	open  map[*directConn]struct{}
	ended bool // no connection is to be opened any more
}

// progress is told how a request gets on.
type progress interface {
	connecting()                           // nothing has been written yet, or it may be written again
	connected()                            // and from here on something may have been
	inform(status int, header http.Header) // of an informational answer
}

// newTransport returns the connections of one route.
func newTransport(r Route) http.RoundTripper {
	t := newHTTPTransport(r)
	via, err := http.ProxyFromEnvironment(&http.Request{URL: r.Upstream.url})
	if !canLook || err != nil || via != nil || r.Upstream.h2c || r.Upstream.url.Scheme != "http" {
		return t
	}
	_, host, port := r.Upstream.Address()
	address, err := httpguts.PunycodeHostPort(net.JoinHostPort(host, port))
	if err != nil {
		return t
	}
	// As net/http has it: with the port only where it was written.
	field, err := httpguts.PunycodeHostPort(r.Upstream.url.Host)
	if err != nil || strings.Contains(field, "%") { // a zone, which is not for the upstream
		return t
	}
	return &direct{Transport: t, address: address, host: field, timeout: r.Timeout, open: map[*directConn]struct{}{}}
}

// speaks reports whether req is sent directly.
func (d *direct) speaks(req *http.Request) bool {
	if req.Body != nil && (req.GetBody == nil || req.ContentLength < 0 || req.ContentLength > directBody) {
		return false
	}
	return req.Header["Upgrade"] == nil && req.Header["Expect"] == nil
}

// send sends req, which it speaks, and reads the header of its answer. It
// sends it again only where nothing was written of it, or where it is safe to
// repeat and the upstream has closed a connection that was idle.
func (d *direct) send(ctx context.Context, req *http.Request, p progress) (*http.Response, error) {
	for {
		p.connecting()
		c, reused, err := d.take(ctx)
		if err != nil {
			return nil, err
		}
		p.connected()
		res, err := c.roundTrip(ctx, req, p)
		if err == nil {
			return res, nil
		}
		if cancelled := context.Cause(ctx); cancelled != nil {
			return nil, cancelled
		}
		safe := req.Method == http.MethodGet || req.Method == http.MethodHead || req.Method == http.MethodOptions
		if !reused || c.written > 0 && !(safe && c.read == 0 && isClosed(err)) {
			return nil, err
		}
		if req.Body != nil {
			_ = req.Body.Close()
			req.Body, _ = req.GetBody() // a reader of what is in memory
		}
	}
}

// take returns a connection for one request.
func (d *direct) take(ctx context.Context) (c *directConn, reused bool, err error) {
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
		if c.silent() {
			return c, true, nil
		}
		_ = c.Close()
	}
	conn, err := d.DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, false, err
	}
	c = newDirectConn(d, conn)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		_ = conn.Close()
		return nil, false, net.ErrClosed
	}
	d.open[c] = struct{}{}
	return c, false, nil
}

// cut closes all connections, whatever they are used for, and opens no more.
func (d *direct) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	for c := range d.open {
		_ = c.Conn.Close() // its user notices
	}
}

// put keeps a connection for the next request.
func (d *direct) put(c *directConn) {
	c.since = time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle = append(d.idle, c)
	if d.sweep == nil {
		d.sweep = time.AfterFunc(directSweep, func() { d.closeIdle(directIdle) })
	}
}

// closeIdle closes connections that nobody reads: those idle for so long, and
// those that the upstream has closed.
func (d *direct) closeIdle(after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle = slices.DeleteFunc(d.idle, func(c *directConn) bool {
		if time.Since(c.since) < after && c.silent() {
			return false
		}
		_ = c.closeLocked()
		return true
	})
	if len(d.idle) > 0 {
		d.sweep.Reset(directSweep)
	} else {
		d.sweep = nil
	}
}

// CloseIdleConnections closes those that are not in use.
func (d *direct) CloseIdleConnections() {
	d.closeIdle(0)
	d.Transport.CloseIdleConnections()
}

// directConn is a connection of a direct.
type directConn struct {
	lazyConn
	direct  *direct
	raw     syscall.RawConn // nil if there is none
	r       *bufio.Reader
	w       *bufio.Writer
	since   time.Time // when it became idle
	read    int64     // bytes since the last request began
	most    int64     // of them that are read
	written int64
}

func newDirectConn(d *direct, conn net.Conn) *directConn {
	if c, ok := conn.(*upstreamConn); ok {
		conn = c.Conn
	}
	c := &directConn{direct: d, lazyConn: lazyConn{Conn: conn, writeIdle: d.timeout}}
	if s, ok := conn.(syscall.Conn); ok {
		c.raw, _ = s.SyscallConn()
	}
	c.r, c.w = bufio.NewReader(c), bufio.NewWriter(c)
	return c
}

// Close may be called again.
func (c *directConn) Close() error {
	c.direct.mu.Lock()
	defer c.direct.mu.Unlock()
	return c.closeLocked()
}

func (c *directConn) closeLocked() error {
	delete(c.direct.open, c)
	return c.Conn.Close()
}

func (c *directConn) Read(p []byte) (int, error) {
	if c.read >= c.most {
		return 0, errAnswerHeader
	}
	n, err := c.lazyConn.Read(p)
	c.read += int64(n)
	return n, err
}

func (c *directConn) Write(p []byte) (int, error) {
	n, err := c.lazyConn.Write(p)
	c.written += int64(n)
	return n, err
}

// silent reports whether nothing has come since the last answer: neither the
// end of the connection, nor bytes that would be taken for the next answer.
func (c *directConn) silent() bool {
	if c.raw == nil {
		return true // a write will tell
	}
	silent := false
	err := c.raw.Control(func(fd uintptr) { silent = nothingToRead(fd) })
	return err == nil && silent
}

// roundTrip sends req. If it fails the connection is closed.
func (c *directConn) roundTrip(ctx context.Context, req *http.Request, p progress) (*http.Response, error) {
	body := &answerOf{c: c}
	if ctx.Done() != nil {
		body.uncancel = context.AfterFunc(ctx, func() { _ = c.Close() })
	}
	c.read, c.most, c.written = 0, maxAnswerHeader, 0
	res, err := c.exchange(req, p)
	if err != nil {
		body.end(false)
		return nil, err
	}
	c.most = 1<<63 - 1
	_ = c.SetReadDeadline(time.Time{}) // whoever reads the body sees to its pauses
	if res.Body == http.NoBody {
		body.end(!res.Close)
		return res, nil
	}
	body.ReadCloser, body.reusable = res.Body, !res.Close
	res.Body = body
	return res, nil
}

func (c *directConn) exchange(req *http.Request, p progress) (*http.Response, error) {
	if err := c.writeRequest(req); err != nil {
		return nil, err
	}
	_ = c.SetReadDeadline(time.Now().Add(c.direct.timeout))
	for {
		res, err := http.ReadResponse(c.r, req)
		switch {
		case err != nil:
			return nil, err
		case res.StatusCode == http.StatusSwitchingProtocols:
			return nil, errUnasked
		case res.StatusCode >= 200:
			return res, nil
		}
		p.inform(res.StatusCode, res.Header)
		c.read = 0
	}
}

// writeRequest writes what [http.Request.Write] would, but for the order of
// fields, which has no meaning. What is written was valid when it was read, from
// the client or at the start.
func (c *directConn) writeRequest(req *http.Request) error {
	host := req.Host
	if host == "" {
		host = c.direct.host
	}
	w := c.w // which keeps the first error
	for _, s := range [...]string{req.Method, " ", req.URL.RequestURI(), " HTTP/1.1\r\nHost: ", host, "\r\n"} {
		_, _ = w.WriteString(s)
	}
	for name, values := range req.Header {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			continue // said otherwise, or not at all
		}
		for _, value := range values {
			if name != "User-Agent" || value != "" {
				writeField(w, name, value)
			}
		}
	}
	switch {
	case req.Body != nil:
		writeField(w, "Content-Length", strconv.FormatInt(req.ContentLength, 10))
	case req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch:
		writeField(w, "Content-Length", "0")
	}
	_, _ = w.WriteString("\r\n")
	if req.Body != nil {
		_, _ = io.Copy(w, req.Body) // from memory
	}
	return w.Flush()
}

func writeField(w *bufio.Writer, name, value string) {
	_, _ = w.WriteString(name)
	_, _ = w.WriteString(": ")
	_, _ = w.WriteString(value)
	_, _ = w.WriteString("\r\n")
}

// answerOf is the body of an answer. When it has been read its connection is
// free; closed before that, also while it is read, it closes the connection.
type answerOf struct {
	io.ReadCloser
	c        *directConn
	reusable bool
	uncancel func() bool // nil if the request cannot be cancelled
	ended    atomic.Bool
}

func (b *answerOf) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end(err == io.EOF && b.reusable)
	}
	return n, err
}

func (b *answerOf) Close() error {
	b.end(false)
	return nil
}

// end gives the connection back or closes it. Calls after the first do
// nothing: the connection may be another request's by then.
func (b *answerOf) end(reusable bool) {
	if b.ended.Swap(true) {
		return
	}
	cancelled := b.uncancel != nil && !b.uncancel()
	if reusable && !cancelled && b.c.r.Buffered() == 0 {
		b.c.direct.put(b.c)
	} else {
		_ = b.c.Close()
	}
}
