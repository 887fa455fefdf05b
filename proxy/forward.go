package proxy

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// dialTimeout is the longest that a connection to an upstream may take.
const dialTimeout = 10 * time.Second

// newHTTPTransport returns the connections of one route. Each route has its
// own, since its timeout is a property of them.
func newHTTPTransport(r Route) *http.Transport {
	dialer := &net.Dialer{Timeout: min(dialTimeout, r.Timeout)}
	protocols := new(http.Protocols)
	if r.Upstream.h2c {
		protocols.SetUnencryptedHTTP2(true)
	} else {
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(true)
	}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &upstreamConn{Conn: conn}, nil
		},
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: r.Timeout,
		// A burst of any size leaves its connections for the next one.
		MaxIdleConns:        0,
		MaxIdleConnsPerHost: 4096,
		IdleConnTimeout:     90 * time.Second,
		// Only bodies that stream are announced by Expect (see sendBody).
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // or the Transport asks for gzip and decodes it
		Protocols:             protocols,
	}
}

// forward sends the request on and copies the answer back.
func (x *exchange) forward() {
	ctx := x.in.Context()
	if x.outlives = x.grant.Locked() && x.route.ClientGone == Finish; x.outlives {
		ctx = context.WithoutCancel(ctx)
	}
	out := x.outgoing()
	if out.Body != nil {
		// The Transport may read on after its answer.
		defer out.Body.Close()
	}
	defer func() {
		if x.unwatch != nil {
			x.unwatch()
		}
		if x.uncut != nil {
			x.uncut()
		}
		if x.cancel != nil {
			x.cancel()
		}
	}()
	x.forwarded = time.Now()
	if isUpgrade(x.in.Header) {
		x.tunnel(ctx, out)
	} else if res, err := x.send(ctx, out); err != nil {
		x.fail(nil, nil, err)
	} else {
		x.answer(res)
	}
	x.settle()
}

// send returns the upstream's answer, which x.cancel ends.
func (x *exchange) send(ctx context.Context, out *http.Request) (res *http.Response, err error) {
	if d, ok := x.route.transport.(*direct); ok && d.speaks(out) {
		res, err = d.send(ctx, out, x)
		outgoingHeaders.Put(out.Header)
		if err != nil {
			return nil, err
		}
		body := res.Body
		x.cancel = func() { _ = body.Close() }
		return res, x.begin(res)
	}
	var informing sync.Mutex // against the Transport, which may be late
	over := false
	ctx, x.cancel = context.WithCancel(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
			informing.Lock()
			defer informing.Unlock()
			if !over {
				x.inform(status, http.Header(header))
			}
			return nil
		},
	}))
	x.uncut = context.AfterFunc(x.proxy.cut, x.cancel)
	res, err = x.RoundTrip(out.WithContext(ctx))
	informing.Lock()
	over = true
	informing.Unlock()
	if err != nil {
		return nil, err
	}
	return res, x.begin(res)
}

// inform passes an informational answer on.
func (x *exchange) inform(status int, header http.Header) {
	h := x.client.Header()
	maps.Copy(h, header)
	x.WriteHeader(status)
	clear(h)
}

// connecting and connected keep account of what may have been sent. Another
// connection is asked for only where nothing was written on the first, or to
// repeat a request that may be.

func (x *exchange) connecting() { x.sent = false }
func (x *exchange) connected()  { x.sent = true }

// answer copies an answer to the client.
func (x *exchange) answer(res *http.Response) {
	header := x.client.Header()
	removeHopByHop(res.Header)
	for name, values := range res.Header {
		if header[name] != nil {
			values = append(header[name], values...)
		}
		header[name] = values
	}
	announced := len(res.Trailer)
	for name := range res.Trailer {
		header.Add("Trailer", name)
	}
	x.WriteHeader(res.StatusCode)
	if res.ContentLength < 0 {
		x.flush() // the first part may come late
	}
	buffer := copyBuffers.Get()
	defer copyBuffers.Put(buffer)
	for {
		n, err := res.Body.Read(buffer)
		if n > 0 {
			if _, err := x.Write(buffer[:n]); err != nil {
				panic(http.ErrAbortHandler)
			}
		}
		if err == io.EOF {
			break
		} else if err != nil {
			panic(http.ErrAbortHandler) // the client must not take a part for the whole
		}
	}
	if len(res.Trailer) == 0 {
		return
	}
	x.flush() // trailers follow chunks only
	prefix := http.TrailerPrefix
	if len(res.Trailer) == announced {
		prefix = ""
	}
	for name, values := range res.Trailer {
		header[prefix+name] = append(header[prefix+name], values...)
	}
}

// tunnel leaves a request for another protocol to httputil.
func (x *exchange) tunnel(ctx context.Context, out *http.Request) {
	// Without a Done channel ReverseProxy would ask the connection whether the
	// client has left.
	ctx, x.cancel = context.WithCancel(ctx)
	defer x.cancel()
	defer context.AfterFunc(x.proxy.cut, x.cancel)()
	(&httputil.ReverseProxy{
		Rewrite:        func(pr *httputil.ProxyRequest) { pr.Out = out.WithContext(ctx) },
		Transport:      x,
		ModifyResponse: x.begin,
		ErrorHandler:   x.fail,
		BufferPool:     copyBuffers,
		ErrorLog:       discard, // its messages can hold the upstream's URL; fail has what matters
	}).ServeHTTP(x, x.in.WithContext(ctx))
}

var discard = log.New(io.Discard, "", 0)

// copyBuffers lends the buffers that answers are copied with.
var copyBuffers = bufferPool{&sync.Pool{New: func() any { return new([lentChunk]byte) }}}

type bufferPool struct{ *sync.Pool }

func (p bufferPool) Get() []byte  { return p.Pool.Get().(*[lentChunk]byte)[:] }
func (p bufferPool) Put(b []byte) { p.Pool.Put((*[lentChunk]byte)(b)) }

// outgoingHeaders lends maps to requests that are written when they have been
// sent. Others keep theirs.
var outgoingHeaders = sync.Pool{New: func() any { return http.Header{} }}

// outgoing makes the upstream's request out of the client's.
func (x *exchange) outgoing() *http.Request {
	in := x.in
	h := outgoingHeaders.Get().(http.Header)
	clear(h)
	for name, values := range in.Header {
		if !slices.Contains(notSent, name) && !isForwarded(name) {
			h[name] = values
		}
	}
	removeNamed(h, in.Header["Connection"])
	if httpguts.HeaderValuesContainsToken(in.Header["Te"], "trailers") {
		h.Set("Te", "trailers")
	}
	if isUpgrade(in.Header) {
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", in.Header.Get("Upgrade"))
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nothing // or net/http sends its own
	}
	// The Transport resends a request that carries an idempotency key even
	// after it was written. It looks for the canonical names only, and HTTP
	// field names have no case.
	for _, name := range [...]string{"Idempotency-Key", "X-Idempotency-Key"} {
		if values, ok := h[name]; ok {
			delete(h, name)
			h[strings.ToLower(name)] = values
		}
	}
	if user := x.route.Upstream.url.User; user != nil {
		password, _ := user.Password()
		h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	x.setForwarded(h)
	h.Set("X-Request-Id", x.event.RequestID)
	out := &http.Request{
		Method: in.Method, URL: x.target, Header: h,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if x.body != nil {
		x.sendBody(out)
	} else if in.ContentLength != 0 && in.Body != nil {
		x.streamBody(out)
	}
	for _, field := range x.route.SetHeaders {
		if field.Name == "Host" {
			out.Host = field.Value
		} else {
			h.Set(field.Name, field.Value)
		}
	}
	return out
}

var nothing = []string{""}

// sendBody gives the Transport the body in memory as a plain reader, whose
// length and type it knows: it then writes header and body at once, and can
// begin again on another connection where nothing was written on the first.
func (x *exchange) sendBody(out *http.Request) {
	delete(out.Header, "Expect") // the client has been told to go on
	out.ContentLength = x.body.size
	if out.Trailer = allowedTrailers(x.in.Trailer); len(out.Trailer) > 0 {
		out.ContentLength = -1 // only chunks can be followed by trailers
	} else if x.body.size == 0 {
		return
	}
	out.GetBody = func() (io.ReadCloser, error) {
		return x.body.reader(), nil
	}
	out.Body, _ = out.GetBody()
}

// RoundTrip sends the request by the route's transport.
func (x *exchange) RoundTrip(out *http.Request) (*http.Response, error) {
	// The trace is made for this request, and says nothing of connections. A
	// trace beside it would have to be merged by reflection.
	if trace := httptrace.ContextClientTrace(out.Context()); trace != nil && trace.GotConn == nil {
		trace.GetConn = func(string) { x.connecting() }
		var conn *upstreamConn
		trace.GotConn = func(info httptrace.GotConnInfo) {
			x.connected()
			if conn = x.route.http1Conn(info.Conn); conn != nil {
				conn.read.Store(false)
			}
		}
		trace.GotFirstResponseByte = func() {
			if conn != nil && !conn.read.Load() {
				x.foreign.Store(true)
				_ = conn.Close()
			}
		}
	}
	res, err := x.route.transport.RoundTrip(out)
	if x.foreign.Load() {
		if err == nil {
			_ = res.Body.Close()
		}
		return nil, errForeign
	}
	return res, err
}

// errForeign is why an answer is not passed on that was there before its
// request: the upstream said more than one answer to an earlier request, which
// must not become another client's. net/http looks for that only after it has
// given the connection away.
var errForeign = errors.New("an answer that was there before the request")

// upstreamConn is a connection to an upstream which knows whether anything was
// read since a request got it.
type upstreamConn struct {
	net.Conn
	read atomic.Bool
}

func (c *upstreamConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.read.Store(true)
	}
	return n, err
}

// CloseWrite ends one half of a tunnel.
func (c *upstreamConn) CloseWrite() error { return closeWrite(c.Conn) }

// http1Conn returns the upstreamConn below conn, or nil where several requests
// share it.
func (rt *route) http1Conn(conn net.Conn) *upstreamConn {
	if secure, ok := conn.(*tls.Conn); ok {
		if secure.ConnectionState().NegotiatedProtocol == "h2" {
			return nil
		}
		conn = secure.NetConn()
	}
	c, ok := conn.(*upstreamConn)
	if !ok || rt.Upstream.h2c {
		return nil
	}
	return c
}

// begin takes note of the upstream's header.
func (x *exchange) begin(res *http.Response) error {
	x.event.Upstream = time.Since(x.forwarded)
	x.answered, x.success = true, res.StatusCode >= 200 && res.StatusCode < 300
	x.coolDown(res)
	x.left = res.ContentLength
	if x.in.Method == http.MethodHead || res.StatusCode == http.StatusNoContent || res.StatusCode == http.StatusNotModified {
		x.left = 0
	}
	if _, ok := res.Header["Content-Type"]; !ok {
		x.client.Header()["Content-Type"] = nil // or net/http guesses one
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		// ReverseProxy writes this one to the connection by itself.
		x.event.Status = res.StatusCode
		x.addRateLimit(x.decisions)
		return nil
	}
	x.mapLocations(res.Header)
	res.Trailer = allowedTrailers(res.Trailer)
	whole := arrived(res)
	res.Body = x.answerBody(res, whole)
	if x.outlives {
		// From here on the client's leaving ends the exchange. One that has left
		// already may have closed only its own half of the connection: it is
		// answered, and if it is gone the write fails.
		if x.gone = x.in.Context().Err() != nil; !x.gone && !whole {
			x.unwatch = context.AfterFunc(x.in.Context(), x.cancel)
		}
	}
	return nil
}

// cutIdle ends an exchange whose answer has stopped midway.
func (x *exchange) cutIdle() {
	x.idle.Store(true)
	x.cancel()
}

// fail answers a request to which the upstream gave no answer.
func (x *exchange) fail(_ http.ResponseWriter, _ *http.Request, err error) {
	x.event.Upstream = time.Since(x.forwarded)
	x.settle()
	if x.cutShort.Load() || errors.Is(err, context.Canceled) && x.in.Context().Err() != nil {
		x.clientGone()
		return
	}
	if x.proxy.cut.Err() != nil {
		x.closeAfter()
		x.refuse(ReasonDraining)
		return
	}
	reason, fault := x.classify(err)
	if timeout, ok := grpcTimeout(x.in.Header); ok && x.event.Upstream >= timeout && reason == ReasonUpstreamClosed {
		// The upstream knows how long the caller waits, and may be the first to
		// end a call whose time is over.
		reason, fault = ReasonUpstreamTimeout, "http_response_timeout"
	}
	x.event.Fault = fault
	x.refuse(reason)
}

// Header returns the client's header map.
func (x *exchange) Header() http.Header { return x.client.Header() }

// WriteHeader sends a header to the client; if it is final, with our fields.
func (x *exchange) WriteHeader(status int) {
	if status >= 200 {
		if x.unread() {
			x.closeAfter()
		}
		x.event.Status = status
		x.addRateLimit(x.decisions)
		if x.left == 0 {
			x.settle() // there is no later part
		}
	} else {
		removeHopByHop(x.client.Header())
	}
	x.client.WriteHeader(status)
}

// Write sends a part of the body to the client. Before the last part of an
// answer whose length is known the lock is released: a client that repeats
// its request as soon as it has its answer is not a duplicate. The end of any
// other answer is sent by the server after [exchange.forward].
func (x *exchange) Write(p []byte) (int, error) {
	if x.left > 0 {
		if x.left -= int64(len(p)); x.left <= 0 {
			x.settle()
		}
	}
	n, err := x.client.Write(p)
	if x.left != 0 && err == nil {
		x.flush() // more is to come, maybe late: what is there is not kept waiting for it
	}
	return n, err
}

// flush sends what was written.
func (x *exchange) flush() {
	_ = http.NewResponseController(x.client).Flush() // the next write tells
}

// Unwrap lets http.ResponseController reach the connection.
func (x *exchange) Unwrap() http.ResponseWriter { return x.client }
