package upstream

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// newTransport returns the connections of one route, of those protocols.
func newTransport(u *URL, o Options, protocols *http.Protocols) *transport {
	dial := u.dialer(o)
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &upstreamConn{Conn: conn}, nil
		},
		TLSClientConfig:     o.tlsConfig("", "h2", "http/1.1"),
		TLSHandshakeTimeout: dialTimeout,
		// A burst of any size leaves its connections for the next one.
		MaxIdleConns:        0,
		MaxIdleConnsPerHost: 4096,
		IdleConnTimeout:     o.Idle,
		DisableKeepAlives:   o.Idle == 0,
		// Only bodies that stream are announced by Expect.
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // or the Transport asks for gzip and decodes it
		Protocols:             protocols,
	}
	if o.proxies(u) {
		t.Proxy = http.ProxyFromEnvironment
	}
	sender := &transport{RoundTripper: t, url: u, options: o, h2c: protocols.UnencryptedHTTP2()}
	if protocols.UnencryptedHTTP2() || protocols.HTTP2() {
		sender.pool = speakHTTP2(t, o)
	} else {
		t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	return sender
}

// protocols are those that u may speak.
func (u *URL) protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(u.h2c)
	p.SetHTTP1(!u.h2c)
	p.SetHTTP2(!u.h2c)
	return p
}

func http1Only() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

// transport sends by an http.RoundTripper: bodies of any size, by any protocol.
type transport struct {
	http.RoundTripper
	url     *URL
	options Options
	h2c     bool       // it speaks HTTP/2 without TLS
	proxied bool       // requests go to another proxy, which is told the whole URL
	pool    *http2Pool // nil for none
}

// closeIdle closes the connections that are not in use.
func (t *transport) closeIdle() {
	if c, ok := t.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// retire closes the connections that are not in use, and each other one when it
// is not any more.
func (t *transport) retire() {
	t.closeIdle()
	if t.pool != nil {
		t.pool.retire()
	}
}

// send is [Client.Send]. What is refused unseen is sent once more.
func (t *transport) send(life *Life, req *Request) (*Answer, error) {
	a := &attempt{options: t.options, watch: watch{life: life}, informer: informer{tell: req.Informed}, hints: hints{to: req.Informed}}
	defer a.over()
	ctx := httptrace.WithClientTrace(life.Context(), a.trace(t.h2c))
	for sends := 1; ; sends++ {
		res, err := t.RoundTrip(a.request(t.url.verbatim(req.Target, t.proxied), req).WithContext(ctx))
		switch {
		case a.foreign.Load():
			if err == nil {
				_ = res.Body.Close()
			}
			err = errForeign
		case err == nil && checked(req, res):
			a.rest(answering)
			return a.answer(res), nil
		case err == nil:
			_ = res.Body.Close()
			err = errAnswer
		case life.Cause() == nil && refusedUnseen(err):
			if sends == 1 && (req.Stream == nil || !a.bodyRead.Load()) {
				continue
			}
			a.rest(answering)
			return nil, &Failure{Kind: Refused, Fault: "destination_unavailable"}
		}
		a.rest(answering)
		return nil, failure(life, err, a.sent.Load())
	}
}

// attempt is a request on its way through a Transport.
type attempt struct {
	options Options
	watch
	sent     atomic.Bool // something of it may have been written
	bodyRead atomic.Bool // something of the body was read
	foreign  atomic.Bool // the answer was there before the request
	stop     func()      // ends a wait for the client's body; nil where it is held
	conn     *upstreamConn

	mu sync.Mutex // guards informer against the Transport, which may be late
	informer
	hints hints // that pass by themselves
	ended bool
}

// over ends what the client is told of informational answers, and what the
// connection may do to its body.
func (a *attempt) over() {
	if a.conn != nil {
		a.conn.ends.CompareAndSwap(a, nil)
	}
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	a.hints.end()
}

// trace keeps account of what may have been sent. Another connection is asked
// for only where nothing was written on the first, or to repeat a request that
// may be.
func (a *attempt) trace(h2c bool) *httptrace.ClientTrace {
	var conn *upstreamConn
	offered := 0
	return &httptrace.ClientTrace{
		GetConn: func(string) {
			if a.sent.Swap(false) || offered == 0 {
				a.rest(sending)
				offered = 0
			}
			// An upstream may take no request on any connection, and close each.
			if offered++; offered > maxConnections {
				a.life.End(errFull)
			}
		},
		GotConn: func(info httptrace.GotConnInfo) {
			a.sent.Store(true)
			offered = 0
			if conn = http1Conn(info.Conn, h2c); conn != nil {
				conn.begin(a)
			}
			a.conn = conn
			a.await(sending, a.options.Timeout, errTimeout)
		},
		WroteRequest: func(httptrace.WroteRequestInfo) { a.await(sending, a.options.Timeout, errTimeout) },
		GotFirstResponseByte: func() {
			if conn != nil && !conn.read.Load() {
				a.foreign.Store(true)
				_ = conn.Close()
			}
		},
		Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
			a.mu.Lock()
			defer a.mu.Unlock()
			if conn == nil && a.tell != nil { // others share the connection
				a.tell = &a.hints
			}
			if !a.ended && !a.inform(status, http.Header(header)) {
				return errAnswer
			}
			return nil
		},
	}
}

// request is req as net/http has it.
func (a *attempt) request(to *url.URL, req *Request) *http.Request {
	out := &http.Request{
		Method: req.Method, URL: to, Host: req.Host, Header: req.Header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if req.Held == nil && req.Stream == nil {
		return out
	}
	open := func() (io.ReadCloser, error) {
		switch {
		case req.Held != nil && req.Length >= 0 && req.Length <= oneWrite:
			return req.Held.Open(), nil // net/http knows its type, and writes it together with the header
		case req.Held != nil:
			return &pacedBody{req.Held.Open(), a, true}, nil
		case a.stop == nil:
			a.stop = func() { _ = req.Stream.Close() }
		}
		return &pacedBody{req.Stream, a, false}, nil
	}
	out.Body, _ = open()
	out.ContentLength, out.Trailer = req.Length, req.Trailer
	if req.Held != nil {
		out.GetBody = open
	}
	return out
}

// oneWrite is the longest body that is not paced: the system takes it at once.
const oneWrite = 4 << 10

// pacedBody bounds the time that the upstream takes for each part of a body.
type pacedBody struct {
	io.ReadCloser
	attempt *attempt
	held    bool
}

// Close leaves a body that was not read to another attempt: whoever opened it
// closes it in the end.
func (b *pacedBody) Close() error {
	if !b.held && !b.attempt.bodyRead.Load() {
		return nil
	}
	return b.ReadCloser.Close()
}

func (b *pacedBody) Read(p []byte) (int, error) {
	b.attempt.bodyRead.Store(true)
	b.attempt.rest(sending) // the client has a time of its own
	n, err := b.ReadCloser.Read(p)
	b.pace()
	return n, err
}

// WriteTo spares a body in memory being copied.
func (b *pacedBody) WriteTo(w io.Writer) (int64, error) {
	if held, ok := b.ReadCloser.(io.WriterTo); ok {
		b.attempt.bodyRead.Store(true)
		return held.WriteTo(pacedWriter{w, b})
	}
	return io.Copy(w, struct{ io.Reader }{b})
}

func (b *pacedBody) pace() { b.attempt.await(sending, b.attempt.options.Timeout, errTimeout) }

type pacedWriter struct {
	io.Writer
	body *pacedBody
}

func (w pacedWriter) Write(p []byte) (int, error) {
	w.body.pace()
	return w.Writer.Write(p)
}

// answer is what has come.
func (a *attempt) answer(res *http.Response) *Answer {
	answer := &Answer{Response: res, Whole: res.Body == http.NoBody}
	if res.StatusCode != http.StatusSwitchingProtocols && !answer.Whole {
		res.Body = &answerBody{ReadCloser: res.Body, life: a.life, watch: &a.watch, idle: a.options.AnswerIdle}
	}
	return answer
}

// answerBody is the body of an answer, of which each part has a time.
type answerBody struct {
	io.ReadCloser
	life  *Life
	watch *watch
	idle  time.Duration
}

func (b *answerBody) Read(p []byte) (int, error) {
	b.watch.await(answering, b.idle, errIdle)
	n, err := b.ReadCloser.Read(p)
	b.watch.rest(answering)
	if err != nil && err != io.EOF {
		err = cutFailure(b.life)
	}
	return n, err
}

// verbatim is u with a target in place of its own, so that net/http sends it to
// the byte. Only for one that begins with two slashes it escapes characters that
// should have been escaped.
func (u *URL) verbatim(target string, proxied bool) *url.URL {
	path, query, asked := strings.Cut(target, "?")
	v := &url.URL{Scheme: u.url.Scheme, Host: u.url.Host, RawQuery: query, ForceQuery: asked && query == ""}
	switch {
	case proxied:
		v.Opaque = "//" + u.url.Host + path // as another proxy wants it
	case strings.HasPrefix(path, "//"):
		v.Path, _ = url.PathUnescape(path)
		v.RawPath = path
		if v.EscapedPath() != path {
			v.RawPath = escapeOdd(path)
			v.Path, _ = url.PathUnescape(v.RawPath)
		}
	default:
		v.Opaque = path
	}
	return v
}
