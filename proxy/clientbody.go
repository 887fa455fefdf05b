package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Why a body is not held.
var (
	errBodyTooLarge = errors.New("body too large")
	errNoMemory     = errors.New("no memory for the body")
)

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

// clientBody is the body of a client's request. Nobody else reads it, or sets a
// deadline for that: it fails where nothing arrives for the longest pause.
type clientBody struct {
	in      *http.Request
	control http.ResponseController
	pause   time.Duration // longest that the client may stop
	all     *bodies       // of which held is a part

	held    *heldBody // what was read into memory; nil if it streams
	room    heldBody  // for it
	counted int64     // bytes that are held, counted in all

	streams bool        // a sender reads it as it comes
	stopped atomic.Bool // nobody asks for it any more
	read    atomic.Bool // to its end, or there is none
	drained bool        // to its end, after it was stopped
	cut     atomic.Bool // the client broke it off, or made a mistake in it
	err     error       // which; set before cut

	reading sync.Mutex // held by Read
	until   time.Time  // the deadline that was set; the reader's

	mu    sync.Mutex // guards ended against deadlines
	ended bool       // the handler is about to return
}

// hold reads the whole body into memory, or fails before it has read more than
// limit. What was read is held either way. Memory is taken and counted as bytes
// arrive, whatever the client has announced.
func (b *clientBody) hold(limit int64) error {
	b.held = b.room.begin()
	length := b.in.ContentLength
	if length > limit {
		return errBodyTooLarge
	}
	announced := limit + 1 // one more than fits, to see that it does not
	if length >= 0 {
		announced = length
	}
	for b.held.size < announced {
		n, err := b.Read(b.held.space(announced - b.held.size))
		if b.held.grow(n); !b.all.take(n) {
			return errNoMemory
		}
		b.counted += int64(n)
		switch {
		case b.held.size > limit:
			return errBodyTooLarge
		case err == io.EOF && (length < 0 || b.held.size == announced):
			return nil
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
	b.done()
	return nil
}

// hidesClient reports whether nobody sees the client leave as long as its body is
// unread, which net/http does not on HTTP/1, and this one is short enough to be
// read for that. What is to follow an upgrade is no body.
func (b *clientBody) hidesClient() bool {
	return b.in.ProtoMajor == 1 && b.in.ContentLength > 0 && b.in.ContentLength <= reusable && b.in.Header["Expect"] == nil && !isUpgrade(b.in)
}

// isHeld reports whether all of it is in memory.
func (b *clientBody) isHeld() bool { return b.held != nil && b.read.Load() }

// stream returns the body as it comes, what was read of it first.
func (b *clientBody) stream() io.ReadCloser {
	b.streams = true
	if b.held == nil {
		return b
	}
	read := b.held.Open()
	return rejoined{io.MultiReader(read, b), read, b}
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

// Read waits for the client, but no longer than it may pause.
func (b *clientBody) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	// A Transport reads once more after the last byte of a body whose length is
	// known, and closes the connection if that fails. By then the answer may be
	// under way, and net/http's server have closed the body.
	if b.read.Load() {
		return 0, io.EOF
	}
	// Setting a deadline is not free: it is moved once it is a tenth used up.
	if now := time.Now(); b.until.Sub(now) < b.pause-b.pause/10 {
		b.until = now.Add(b.pause)
		b.setDeadline(b.until)
	}
	if b.stopped.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.in.Body.Read(p)
	switch {
	case err == io.EOF:
		b.done()
		_ = b.in.Body.Close() // or net/http looks for more of it when it answers
	case err != nil:
		// The deadline stays: net/http reads on before it closes the connection,
		// and would wait for the rest without end.
		if b.stopped.Load() {
			return n, http.ErrBodyReadAfterClose // which ended the wait, and not the client
		}
		b.err = err
		b.cut.Store(true)
	}
	return n, err
}

// Close ends a Read that waits for the client, where the exchange ends before
// the client's body does: net/http's own Close would wait for it.
func (b *clientBody) Close() error {
	if b.stopped.Swap(true) || b.read.Load() {
		return nil
	}
	b.setDeadline(time.Unix(1, 0))
	b.reading.Lock()
	defer b.reading.Unlock()
	if b.read.Load() {
		b.setDeadline(time.Time{})
	}
	return nil
}

// done takes the deadline away: what is read from the connection next is not
// of this body.
func (b *clientBody) done() {
	b.read.Store(true)
	if !b.until.IsZero() {
		b.until = time.Time{}
		b.setDeadline(b.until)
	}
}

// setDeadline does nothing once the handler has ended, when a Transport may
// still be reading: the connection is then no longer this request's, and an
// HTTP/2 stream no longer there.
func (b *clientBody) setDeadline(until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		_ = b.control.SetReadDeadline(until) // a ResponseWriter without deadlines has none to miss
	}
}

// unread reports whether the client may still be sending. One that has stopped
// does not count.
func (b *clientBody) unread() bool {
	return !b.read.Load() && !b.cut.Load()
}

// aborted reports whether a wait for it was ended by us, which net/http takes for
// the client's leaving.
func (b *clientBody) aborted() bool { return b.stopped.Load() && b.unread() }

// lingerPause is the longest pause of a client that has been answered.
const lingerPause = 5 * time.Second

// linger reads on, and forgets, what a client sends that was answered before its
// body had come: many write all of it before they read, and would lose the
// answer with the connection. It ends after limit bytes, when the client stops,
// and at the latest after the longest pause of a body. A client that waits to be
// told to go on is not told. It reports whether all of the body has come.
func (b *clientBody) linger(limit int64) (whole bool) {
	if b.in.Header["Expect"] != nil && b.counted == 0 {
		return false
	}
	_ = b.Close()
	b.reading.Lock()
	defer b.reading.Unlock()
	buffer := copyBuffers.Get()
	defer copyBuffers.Put(buffer)
	end := time.Now().Add(b.pause)
	for rest := limit; rest > 0 && !b.read.Load() && !b.drained; {
		until := time.Now().Add(lingerPause)
		if until.After(end) {
			until = end
		}
		b.setDeadline(until)
		n, err := b.in.Body.Read(buffer)
		rest -= int64(n)
		b.drained = err == io.EOF
		if err != nil {
			break
		}
	}
	whole = b.read.Load() || b.drained
	b.until = time.Time{}
	if !whole {
		b.until = time.Unix(1, 0) // net/http does not wait for the rest either
	}
	b.setDeadline(b.until)
	return whole
}

// detach leaves the connection to somebody else.
func (b *clientBody) detach() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.read.Store(true)
}

// finish ends the use of the body. Memory is given back when whoever reads it
// has closed it.
func (b *clientBody) finish() {
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
	if b.held != nil {
		b.held.done()
	}
	b.all.give(b.counted)
}
