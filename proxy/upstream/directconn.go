package upstream

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxAnswerHeader = 10 << 20 // bytes, as http.Transport has it
	keptOut         = 8 << 10  // bytes that an idle connection keeps for its next request
)

// lookConn is a connection that can be looked at: then a read takes what has
// come, and does not wait.
type lookConn struct {
	net.Conn
	raw     syscall.RawConn // nil if there is none
	looking bool

	look func(fd uintptr) // looks: made once, and not for each
	into []byte
	n    int
	err  error
}

func newLookConn(conn net.Conn) *lookConn {
	c := &lookConn{Conn: conn}
	c.look = func(fd uintptr) { c.n, c.err = readNow(fd, c.into) }
	if s, ok := conn.(syscall.Conn); ok {
		c.raw, _ = s.SyscallConn()
	}
	return c
}

func (c *lookConn) Read(p []byte) (n int, err error) {
	if !c.looking {
		return c.Conn.Read(p)
	}
	if c.raw == nil {
		return 0, os.ErrDeadlineExceeded // a write will tell
	}
	c.into, c.n, c.err = p, 0, nil
	closed := c.raw.Control(c.look)
	c.into = nil
	return c.n, cmp.Or(closed, c.err)
}

// directConn is a connection of a direct.
type directConn struct {
	net.Conn // by TLS, or look
	look     *lookConn
	direct   *direct
	r        *bufio.Reader
	out      []byte       // the header of the request, and a short body
	asked    http.Request // what net/http is to know of a request to read its answer
	since    time.Time    // when it became idle
	read     int64        // bytes since the last request began
	most     int64        // of them that are read
	one      [1]byte      // for a look
	cut      func()       // closes it
	written  int64        // likewise; the writer's while there is one

	watch   *watch     // of its requests
	writer  chan error // gets the error of a request that is written meanwhile; nil for none
	unwrote error      // why not all of it was written, once that is known
}

func newDirectConn(d *direct, conn net.Conn, look *lookConn) *directConn {
	c := &directConn{Conn: conn, look: look, direct: d, watch: &watch{lasts: true}}
	c.r = bufio.NewReader(c)
	c.cut = func() { _ = c.Close() }
	return c
}

// Close ends what anybody waits for, at once. It may be called again.
func (c *directConn) Close() error { return c.look.Conn.Close() }

func (c *directConn) Read(p []byte) (int, error) {
	if c.read >= c.most {
		return 0, errHeaderSize
	}
	n, err := c.Conn.Read(p)
	c.read += int64(n)
	return n, err
}

// silent reports whether nothing has come since the last answer: neither the
// end of the connection, nor bytes that would be taken for the next answer. What
// TLS has to say for itself, such as session tickets, is read.
func (c *directConn) silent() bool {
	c.look.looking = true
	n, err := c.Conn.Read(c.one[:])
	c.look.looking = false
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// roundTrip sends req. If it fails the connection is closed.
func (c *directConn) roundTrip(life *Life, req *Request) (*Answer, error) {
	a := &directAnswer{body: directBodyReader{c: c, life: life}}
	answer, body := &a.Answer, &a.body
	life.takes(c.cut)
	c.watch.begin(life)
	c.read, c.most, c.written = 0, maxAnswerHeader, 0
	res, err := c.exchange(req)
	if err != nil {
		body.end(false)
		return nil, err
	}
	c.watch.rest(answering)
	c.most = 1<<63 - 1
	answer.Response = res
	if answer.Whole = res.Body == http.NoBody; answer.Whole {
		body.end(!res.Close)
		return answer, nil
	}
	answer.Whole = res.ContentLength >= 0 && res.ContentLength <= int64(c.r.Buffered())
	body.ReadCloser, body.reusable, body.whole = res.Body, !res.Close, answer.Whole
	res.Body = body
	return answer, nil
}

func (c *directConn) exchange(req *Request) (*http.Response, error) {
	c.header(req)
	if req.Held != nil && req.Length > bufferedBody {
		c.writer = make(chan error, 1)
		go func() { c.writer <- c.write(req) }()
	} else if c.unwrote = c.write(req); c.unwrote != nil && c.written == 0 {
		return nil, c.unwrote
	}
	informer := informer{tell: req.Informed}
	c.asked.Method = req.Method
	for {
		res, err := http.ReadResponse(c.r, &c.asked)
		switch {
		case err != nil:
			_ = c.Close()
			if c.join(); c.unwrote != nil && errors.Is(err, net.ErrClosed) {
				err = c.unwrote // why it was closed
			}
			return nil, err
		case res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols:
			if !informer.inform(res.StatusCode, res.Header) {
				return nil, errAnswer
			}
			c.read = 0
		case !checked(req, res):
			return nil, errAnswer
		default:
			return res, nil
		}
	}
}

// directAnswer is an answer with its body.
type directAnswer struct {
	Answer
	body directBodyReader
}

// directBodyReader is the body of an answer. When it has been read its
// connection is free; closed before that, also while it is read, it closes the
// connection.
type directBodyReader struct {
	io.ReadCloser
	c        *directConn
	life     *Life
	whole    bool // it is here: nothing is waited for
	reusable bool
	ended    atomic.Bool
}

func (b *directBodyReader) Read(p []byte) (int, error) {
	waits := !b.whole && !b.ended.Load() // or it is another request that waits there
	if waits {
		b.c.watch.await(answering, b.c.direct.options.AnswerIdle, errIdle)
	}
	n, err := b.ReadCloser.Read(p)
	if waits {
		b.c.watch.rest(answering)
	}
	if err != nil {
		b.end(err == io.EOF && b.reusable)
		if err != io.EOF {
			err = cutFailure(b.life)
		}
	}
	return n, err
}

func (b *directBodyReader) Close() error {
	b.end(false)
	return nil
}

// end gives the connection back or closes it. Calls after the first do
// nothing: the connection may be another request's by then.
func (b *directBodyReader) end(reusable bool) {
	if b.ended.Swap(true) {
		return
	}
	spared := b.life.spares()
	if reusable && spared && b.c.r.Buffered() == 0 && b.c.wrote() {
		b.c.watch.over(true)
		b.c.direct.put(b.c)
		return
	}
	_ = b.c.Close()
	b.c.join()
	b.c.watch.over(false)
}
