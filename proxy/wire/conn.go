// Package wire answers one question: what has a client said?
//
// net/http's server is lenient where two readers of one message may differ,
// and so lets requests be smuggled. A [Conn] reads HTTP/1 along with it, by the
// letter of RFC 9112, and [Check] holds for requests of every protocol.
package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

const (
	// maxHead is the longest header of a request, with its first line, in bytes.
	maxHead = 64 << 10
	// maxAhead is the most that a client may say before it knows in which
	// protocol.
	maxAhead = 64 << 10
	// readSize is how much is read at once where the server wants less.
	readSize = 4 << 10
	// maxDropped is the most that is read of a client after it was refused.
	maxDropped = 16 << 20
)

// Conn is a client's connection. What RFC 9112 forbids never reaches the
// server: bare LF, several or odd Content-Lengths, one beside a
// Transfer-Encoding, folded lines, odd chunk sizes. The server reads a request
// that [Refused] knows in its place, so that the answer is ours like any other;
// where a body breaks off being one, reading it fails by a [Refusal]. HTTP/2, and
// what follows a 101, pass.
//
// It also ends what lasts too long: each write, and each header of a request
// from its first byte on, has a deadline of its own.
type Conn struct {
	lazyConn
	headerTimeout time.Duration
	reader        reader
	ready         []byte // to be passed on
	head          []byte // the part of a header that has come
	ahead         []byte // what was read and not followed yet
	timed         int    // what the bound of all reads is for
	refused       bool
	mistake       *Refusal                // in a body, to be told; nil for none
	told          atomic.Pointer[Refusal] // the mistake that was
	dropped       int                     // bytes, since it was refused
	upgrade       atomic.Int32            // of the request that was read last
}

// Timeouts are the longest that a Conn waits, each without bound where it is 0.
type Timeouts struct {
	Idle   time.Duration // for the first byte of the first request
	Header time.Duration // from the first byte of a request to the end of its header
	Write  time.Duration // for one write
}

// NewConn returns conn as a Conn. The time of headers is its own to keep:
// http.Server is to have no ReadHeaderTimeout, which would run from when the
// connection was made, whether or not a request has begun.
func NewConn(conn net.Conn, t Timeouts) *Conn {
	c := &Conn{lazyConn: lazyConn{Conn: conn, writeIdle: t.Write}, headerTimeout: t.Header}
	if t.Idle > 0 {
		c.latest, c.timed = time.Now().Add(t.Idle), timedIdle
	}
	return c
}

// NewRefused returns conn as a Conn of which all is refused that its client says.
func NewRefused(conn net.Conn, t Timeouts, why *Refusal) *Conn {
	c := NewConn(conn, t)
	c.refuse(why)
	return c
}

// What is timed by the bound of all reads.
const (
	timedNothing = iota
	timedIdle
	timedHeader
)

// The states of Conn.upgrade: whether the request just read asks for another
// protocol, and what the answer was.
const (
	upgradeAsked    int32 = iota + 1 // the answer's status is not known yet
	upgradeSwitched                  // 101
	upgradeRefused
)

// Read gives the server what the client sent: headers whole, and all of it up
// to what must not be read.
func (c *Conn) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if n := copy(p, c.ready); n > 0 {
			if c.ready = c.ready[n:]; len(c.ready) == 0 {
				c.noteAsk()
			}
			return n, nil
		}
		if c.refused {
			return 0, c.broken()
		}
		if err := c.awaitAnswer(); err != nil {
			return 0, err
		}
		in := p
		if c.head != nil && len(in) < readSize && c.reader.state != stateRaw {
			in = make([]byte, readSize) // the server looks for one byte only, during a request
		}
		n, err := copy(in, c.ahead), error(nil)
		if c.ahead = c.ahead[n:]; n == 0 {
			n, err = c.lazyConn.Read(in)
		}
		if c.reader.state == stateRaw {
			return n, err
		}
		if n == 0 && c.timed == timedHeader && errors.Is(err, os.ErrDeadlineExceeded) && c.isLate() {
			c.refuse(&Refusal{http.StatusRequestTimeout, "The header did not come in time."})
			continue
		}
		if n == 0 && err != nil {
			return 0, err
		}
		if n > 0 {
			n = c.follow(in[:n])
		}
		if n > 0 {
			return n, nil // err comes again
		}
	}
	return 0, nil
}

// follow reads p along, and returns how much of it the server may see at once;
// the rest it keeps or has refused.
func (c *Conn) follow(p []byte) (pass int) {
	good, read, bad := c.reader.follow(p)
	if pass = good; good > 0 && c.head != nil {
		// The end of a header of which the server has seen nothing yet.
		c.ready, c.head, pass = append(c.head, p[:good]...), nil, 0
	}
	switch {
	case bad == emptyLine:
		c.head = nil
	case bad != nil:
		c.refuse(bad)
		return pass
	case good < read:
		c.head = append(c.head, p[good:read]...)
	}
	if read < len(p) {
		c.ahead = append(bytes.Clone(p[read:]), c.ahead...)
	}
	c.timeHeader(c.head != nil)
	if pass > 0 {
		c.noteAsk()
	}
	return pass
}

// noteAsk is called when the server has all that it may see. Where that ends a
// header that asks for another protocol, the next answer is to it: the server has
// given all others by then.
func (c *Conn) noteAsk() {
	if c.reader.asks {
		c.reader.asks = false
		c.upgrade.Store(upgradeAsked)
	}
}

// refuse lets the server read why, in place of what the client says from here
// on. What is ready was said before.
func (c *Conn) refuse(why *Refusal) {
	c.refused, c.head, c.ahead = true, nil, nil
	c.timeHeader(false)
	if c.reader.inHead() {
		c.ready = append(c.ready, why.request()...)
	} else {
		c.mistake = why
	}
}

// broken returns the mistake in a body, once. From then on it reads what the
// client says, and forgets it, until that ends or it has come to reading the
// answer.
func (c *Conn) broken() error {
	if why := c.mistake; why != nil {
		c.mistake = nil
		c.told.Store(why)
		return why
	}
	p := make([]byte, readSize)
	for c.dropped < maxDropped {
		n, err := c.lazyConn.Read(p)
		if c.dropped += n; err != nil {
			return err
		}
	}
	return io.EOF
}

// timeHeader lets the time of a header begin or end. It ends that of the first
// one's first byte, too.
func (c *Conn) timeHeader(inHead bool) {
	timed, latest := timedNothing, time.Time{}
	if inHead && c.headerTimeout > 0 {
		timed = timedHeader
	}
	if timed == c.timed {
		return
	}
	if timed == timedHeader {
		latest = time.Now().Add(c.headerTimeout)
	}
	c.timed = timed
	c.setLatest(latest)
}

// awaitAnswer keeps what follows a request for another protocol from the
// server, until its answer tells how to read it. The server, which wants to
// know meanwhile whether the client leaves, sets a deadline when it has
// answered.
func (c *Conn) awaitAnswer() error {
	for c.reader.state == stateUndecided {
		switch c.upgrade.Load() {
		case upgradeSwitched:
			c.reader = reader{state: stateRaw}
		case upgradeRefused:
			c.reader.state = stateRequestLine
		default:
			if len(c.ahead) >= maxAhead {
				return errAhead
			}
			p := make([]byte, readSize)
			n, err := c.lazyConn.Read(p)
			if c.ahead = append(c.ahead, p[:n]...); err != nil {
				return err
			}
		}
	}
	return nil
}

var errAhead = errors.New("too much was sent behind a request for another protocol")

// Write sends what the server answers.
func (c *Conn) Write(p []byte) (int, error) {
	if c.upgrade.Load() == upgradeAsked {
		if status, ok := bytes.CutPrefix(p, []byte("HTTP/1.1 ")); ok {
			switch {
			case bytes.HasPrefix(status, []byte("101")):
				c.upgrade.Store(upgradeSwitched)
			case !bytes.HasPrefix(status, []byte("1")):
				c.upgrade.Store(upgradeRefused)
			}
		}
	}
	return c.lazyConn.Write(p)
}

type connKey struct{}

// ConnContext is an [http.Server.ConnContext] by which [Mistake] and [EndAnswers]
// know the connection of a request. conn may embed the Conn.
func ConnContext(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(interface{ strict() *Conn }); ok {
		return context.WithValue(ctx, connKey{}, c.strict())
	}
	return ctx
}

func (c *Conn) strict() *Conn { return c }

// Mistake returns the mistake that was found in the body of r, of which its
// reader may make an error of its own; nil for none.
func Mistake(r *http.Request) *Refusal {
	if c, ok := r.Context().Value(connKey{}).(*Conn); ok {
		return c.told.Load()
	}
	return nil
}

// EndAnswers tells the client of r, whose answer was the last of its connection
// and has been flushed, that it was, while what the client says is still read. It
// does nothing for other protocols than HTTP/1.
func EndAnswers(r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*Conn); ok && r.ProtoMajor == 1 {
		_ = c.CloseWrite() // or the client learns it later
	}
}

// CloseWrite lets the server end its half, and the client read the answer
// before the rest is closed.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
