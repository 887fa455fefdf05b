package proxy

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/http/httpguts"

	"throttle-proxy/proxy/upstream"
)

// copyBuffers lends the buffers that answers are copied with.
var copyBuffers = bufferPool{&sync.Pool{New: func() any { return new([lentChunk]byte) }}}

type bufferPool struct{ *sync.Pool }

func (p bufferPool) Get() []byte  { return p.Pool.Get().(*[lentChunk]byte)[:] }
func (p bufferPool) Put(b []byte) { p.Pool.Put((*[lentChunk]byte)(b)) }

// request makes the upstream's request out of the client's. It is a part of x.
func (x *exchange) request() *upstream.Request {
	out := &x.out
	out.Method, out.Target, out.Informed = x.in.Method, x.target, x
	x.fillHeader(out)
	switch {
	case x.body.isHeld():
		x.sendHeld(out)
	case x.in.ContentLength != 0 && x.in.Body != nil:
		x.sendStream(out)
	}
	return out
}

// fillHeader says what the client said, but what belongs to its connection; who
// it is; and what the route says in its place.
func (x *exchange) fillHeader(out *upstream.Request) {
	h, in := out.Header, x.in.Header
	for name, values := range in {
		if !slices.Contains(notSent, name) && !isForwarded(name) {
			h[name] = values
		}
	}
	removeNamed(h, in["Connection"])
	if httpguts.HeaderValuesContainsToken(in["Te"], "trailers") {
		h.Set("Te", "trailers")
	}
	if isUpgrade(x.in) {
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", in.Get("Upgrade"))
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nothing // or net/http sends its own
	}
	if x.route.PassHost {
		out.Host = x.in.Host
	}
	if authorization := x.route.Upstream.Authorization(); authorization != "" {
		h.Set("Authorization", authorization)
	}
	x.said = [...]string{x.in.Host, x.id}
	x.setForwarded(h)
	if h.Get("X-Request-Id") == "" {
		h["X-Request-Id"] = x.said[1:]
	}
	if x.trace != nil {
		x.trace.Sending(h)
	}
	for _, field := range x.route.SetHeaders {
		if field.Name == "Host" {
			out.Host = field.Value
		} else {
			h.Set(field.Name, field.Value)
		}
	}
	// A Transport resends a request that carries an idempotency key even after it
	// was written. It looks for the canonical names only, and HTTP field names
	// have no case.
	for _, name := range [...]string{"Idempotency-Key", "X-Idempotency-Key"} {
		if values, ok := h[name]; ok {
			delete(h, name)
			h[strings.ToLower(name)] = values
		}
	}
}

var nothing = []string{""}

// sendHeld lets a body in memory be sent, on another connection again where
// nothing was written on the first.
func (x *exchange) sendHeld(out *upstream.Request) {
	delete(out.Header, "Expect") // the client has been told to go on
	out.Length = x.body.held.size
	if out.Trailer = allowedTrailers(x.in.Trailer); len(out.Trailer) > 0 {
		out.Length = -1 // only chunks can be followed by trailers
	} else if out.Length == 0 {
		return
	}
	out.Held = x.body.held
}

// sendStream lets a body pass as it comes, with its trailers after it.
func (x *exchange) sendStream(out *upstream.Request) {
	body := &trailedBody{ReadCloser: x.body.stream()}
	if out.Length = x.in.ContentLength; out.Length < 0 {
		// net/http fills the client's trailers in when it has read the body, and
		// a Transport sends what is there when it has.
		if out.Trailer = allowedTrailers(x.in.Trailer); out.Trailer == nil {
			out.Trailer = http.Header{}
		}
		body.atEnd = func() {
			for name, values := range allowedTrailers(x.in.Trailer) {
				out.Trailer[name] = values
			}
		}
	}
	out.Stream = body
}

// trailedBody calls atEnd, unless it is nil, when the body has been read.
type trailedBody struct {
	io.ReadCloser
	atEnd func()
}

func (b *trailedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF && b.atEnd != nil {
		b.atEnd()
		b.atEnd = nil
	}
	return n, err
}
