package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errBodyTooLarge = errors.New("body too large")
	errNoMemory     = errors.New("no memory for the body")
)

// bodyReason is why a request is refused whose body was not read whole, though
// it was there; empty if it was not.
func bodyReason(err error) Reason {
	switch err {
	case errBodyTooLarge:
		return ReasonBodyTooLarge
	case errNoMemory:
		return ReasonNoMemory
	}
	return ""
}

// streamsOn lets a body pass as it comes of which a part is in memory already.
func (x *exchange) streamsOn() {
	read := x.body.reader()
	x.body.done()
	x.body = nil
	x.in.Body = rejoined{io.MultiReader(read, x.in.Body), read, x.in.Body}
}

// rejoined is a body of which a part has been read already.
type rejoined struct {
	io.Reader
	read io.Closer
	rest io.Closer
}

func (r rejoined) Close() error {
	_ = r.read.Close() // from memory
	return r.rest.Close()
}

// bodies counts the bytes of all bodies that are held in memory.
type bodies struct {
	held  atomic.Int64
	limit int64
}

// take reports whether n more bytes may be held, and counts them.
func (b *bodies) take(n int) bool {
	if b.held.Add(int64(n)) <= b.limit {
		return true
	}
	b.give(int64(n))
	return false
}

func (b *bodies) give(n int64) { b.held.Add(-n) }

// readBody reads the whole body of a request that is to be fingerprinted, or
// fails before it has read more than the limit. x.body then has what was read.
// Memory is taken and counted as bytes arrive, whatever the client has
// announced.
func (x *exchange) readBody() error {
	r, limit := x.in, x.proxy.options.MaxBody
	x.body = newHeldBody()
	if r.ContentLength > limit {
		return errBodyTooLarge
	}
	announced := limit + 1 // one more than fits, to see that it does not
	if r.ContentLength >= 0 {
		announced = r.ContentLength
	}
	in := x.idleReader(r.Body)
	for x.body.size < announced {
		n, err := in.Read(x.body.space(announced - x.body.size))
		if x.body.grow(n); !x.proxy.bodies.take(n) {
			return errNoMemory
		}
		x.held += int64(n)
		switch {
		case x.body.size > limit:
			return errBodyTooLarge
		case err == io.EOF && (r.ContentLength < 0 || x.body.size == announced):
			in.done()
			return nil
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
	in.done()
	return nil
}

// idleReader reads the client's body, and fails where nothing of it arrives
// for the body timeout.
type idleReader struct {
	io.ReadCloser
	x       *exchange
	control *http.ResponseController
	timeout time.Duration
	until   time.Time
	mu      sync.Mutex // held by Read
	closed  atomic.Bool
}

func (x *exchange) idleReader(body io.ReadCloser) *idleReader {
	return &idleReader{ReadCloser: body, x: x, control: http.NewResponseController(x.client), timeout: x.proxy.options.BodyTimeout}
}

func (r *idleReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// The Transport reads once more after the last byte of a body whose length
	// is known, and closes the connection if that fails. By then the answer may
	// be under way, and net/http's server have closed the body.
	if r.x.bodyRead.Load() {
		return 0, io.EOF
	}
	// Setting a deadline is not free: it is moved once it is a tenth used up.
	if now := time.Now(); r.until.Sub(now) < r.timeout-r.timeout/10 {
		r.until = now.Add(r.timeout)
		r.setDeadline(r.until)
	}
	if r.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := r.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		r.done()
	case err != nil:
		// The deadline stays: net/http reads on before it closes the connection,
		// and would wait for the rest without end.
		r.x.cutShort.Store(!r.closed.Load())
	}
	return n, err
}

// Close ends a Read that waits for the client, where the exchange ends before
// the client's body does: net/http's own Close would wait for it.
func (r *idleReader) Close() error {
	if r.closed.Swap(true) || r.x.bodyRead.Load() {
		return nil
	}
	r.setDeadline(time.Unix(1, 0))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.x.bodyRead.Load() {
		r.setDeadline(time.Time{})
	}
	return nil
}

// done takes the deadline away: what is read from the connection next is not
// of this body.
func (r *idleReader) done() {
	r.x.bodyRead.Store(true)
	if !r.until.IsZero() {
		r.until = time.Time{}
		r.setDeadline(r.until)
	}
}

// setDeadline does nothing once the handler has ended, when the Transport may
// still be reading: the connection is then no longer this request's, and an
// HTTP/2 stream no longer there.
func (r *idleReader) setDeadline(until time.Time) {
	r.x.reading.Lock()
	defer r.x.reading.Unlock()
	if !r.x.ended {
		_ = r.control.SetReadDeadline(until) // a ResponseWriter without deadlines has none to miss
	}
}

// streamBody lets a body that is not fingerprinted pass as it comes, with its
// trailers after it.
func (x *exchange) streamBody(out *http.Request) {
	in := x.idleReader(x.in.Body)
	body := &trailedBody{Reader: in, Closer: in}
	if out.ContentLength = x.in.ContentLength; out.ContentLength < 0 {
		// net/http fills the client's trailers in when it has read the body, and
		// the Transport sends what is there when it has.
		if out.Trailer = allowedTrailers(x.in.Trailer); out.Trailer == nil {
			out.Trailer = http.Header{}
		}
		body.atEnd = func() {
			for name, values := range allowedTrailers(x.in.Trailer) {
				out.Trailer[name] = values
			}
		}
	}
	out.Body = body
}

// trailedBody calls atEnd, unless it is nil, when the body has been read.
type trailedBody struct {
	io.Reader
	io.Closer
	atEnd func()
}

func (b *trailedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF && b.atEnd != nil {
		b.atEnd()
		b.atEnd = nil
	}
	return n, err
}

// answerBody is the upstream's body on its way to the client. One that stops
// midway is cut.
type answerBody struct {
	io.ReadCloser
	x    *exchange
	res  *http.Response
	idle *time.Timer // nil if nothing is to come
}

// answerBody takes whole to mean that all of the body is here.
func (x *exchange) answerBody(res *http.Response, whole bool) *answerBody {
	b := &answerBody{ReadCloser: res.Body, x: x, res: res}
	if !whole {
		b.idle = time.AfterFunc(x.route.AnswerIdle, x.cutIdle)
	}
	return b
}

// arrived reports whether all of an answer's body is here.
func arrived(res *http.Response) bool {
	b, ok := res.Body.(*answerOf)
	return res.Body == http.NoBody || ok && res.ContentLength >= 0 && res.ContentLength <= int64(b.c.r.Buffered())
}

func (b *answerBody) Read(p []byte) (int, error) {
	if b.idle != nil {
		b.idle.Reset(b.x.route.AnswerIdle)
	}
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	b.stop()
	if err == io.EOF {
		b.res.Trailer = allowedTrailers(b.res.Trailer)
	} else {
		b.x.broken = true
	}
	return n, err
}

func (b *answerBody) Close() error {
	b.stop()
	return b.ReadCloser.Close()
}

func (b *answerBody) stop() {
	if b.idle != nil {
		b.idle.Stop()
	}
}
