package redistest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// Link is a TCP link to a server, with faults that can be switched while it is
// in use. Each fault is added to those that are on, for open connections and
// new ones, until Heal. The link ends with the test.
//
// TCP loses nothing in the middle of a stream. So once the link has dropped
// something that a connection carried, it passes on nothing more of that
// direction, healed or not.
type Link struct {
	Addr    string // where clients connect
	tb      testing.TB
	server  string
	running sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while connections are refused
	closed   bool
	faults   faults
	open     map[*connection]struct{}
	count    Count
}

type faults struct {
	silent bool
	delay  time.Duration

	lose    int // answers, below 0 all
	loseFor string

	cut      bool
	cutAfter int // bytes
	cutIn    string
}

// Count is how many connections a link has.
type Count struct {
	Accepted int // ever
	Open     int // now
	Most     int // that were ever open at once
}

// NewLink returns a link to the server at addr, which need not be there yet.
func NewLink(tb testing.TB, addr string) *Link {
	tb.Helper()
	// On a host of its own, where nobody takes its port while it refuses.
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	l := &Link{
		Addr:   net.JoinHostPort(host, FreePort(tb)),
		tb:     tb,
		server: addr,
		open:   map[*connection]struct{}{},
	}
	tb.Cleanup(l.close)
	l.Heal()
	return l
}

// URL returns the URL of a Redis behind the link, as --redis takes it.
func (l *Link) URL() string { return "redis://" + l.Addr }

// Heal ends all faults.
func (l *Link) Heal() {
	l.tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = faults{}
	if l.listener != nil {
		return
	}
	listener, err := net.Listen("tcp", l.Addr)
	if err != nil {
		l.tb.Fatal(err)
	}
	l.listener = listener
	l.running.Go(func() { l.accept(listener) })
}

// Refuse refuses new connections. Open ones go on: see Cut.
func (l *Link) Refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuseLocked()
}

// Silence accepts everything and passes nothing on, in either direction.
func (l *Link) Silence() { l.fault(func(f *faults) { f.silent = true }) }

// Delay adds d to the way of whatever is sent: 2 × d to a round trip.
func (l *Link) Delay(d time.Duration) { l.fault(func(f *faults) { f.delay = d }) }

// LoseAnswers loses the answers to the next n requests that contain word, such
// as "evalsha", on as many connections: the server does what they ask and the
// client cannot know. An empty word is in all requests; n below 0 is no end.
func (l *Link) LoseAnswers(n int, word string) {
	l.fault(func(f *faults) { f.lose, f.loseFor = n, word })
}

// CutRequests resets every connection that carries a request which contains
// word, once n bytes of it have gone to the server. An n beyond its length is
// all of it: the server does what it asks. An empty word is in all requests.
func (l *Link) CutRequests(n int, word string) {
	l.fault(func(f *faults) { f.cut, f.cutAfter, f.cutIn = true, n, word })
}

// Cut resets the open connections.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutLocked()
}

// Count returns how many connections there are and were.
func (l *Link) Count() Count {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := l.count
	count.Open = len(l.open)
	return count
}

func (l *Link) fault(add func(*faults)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	add(&l.faults)
}

func (l *Link) close() {
	l.mu.Lock()
	l.closed = true
	l.refuseLocked()
	l.cutLocked()
	l.mu.Unlock()
	l.running.Wait()
}

func (l *Link) refuseLocked() {
	if l.listener != nil {
		_ = l.listener.Close()
		l.listener = nil
	}
}

func (l *Link) cutLocked() {
	for c := range l.open {
		c.resetLocked()
	}
}

// accept takes connections until listener is closed.
func (l *Link) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		c := &connection{link: l, client: client.(*net.TCPConn)}
		c.ctx, c.cancel = context.WithCancel(context.Background())
		if l.closed {
			c.resetLocked()
			l.mu.Unlock()
			return
		}
		l.open[c] = struct{}{}
		l.count.Accepted++
		l.count.Most = max(l.count.Most, len(l.open))
		l.running.Go(c.run)
		l.mu.Unlock()
	}
}

// connection is a client's connection, and the one to the server for it. What
// is not set by accept is guarded by the link's mutex.
type connection struct {
	link   *Link
	client *net.TCPConn
	ctx    context.Context // until both are closed
	cancel context.CancelFunc

	server net.Conn // nil until connected
	asked  []byte   // since the last answer
	deaf   bool     // something of its requests was dropped
	mute   bool     // something of its answers was dropped
}

func (c *connection) run() {
	l := c.link
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		c.closeLocked()
		delete(l.open, c)
	}()
	if !c.connect() {
		return
	}
	l.running.Go(func() {
		if c.server != nil {
			c.pass(c.server, c.answer)
		}
	})
	c.pass(c.client, c.request)
}

// connect connects to the server, unless the link is silent.
func (c *connection) connect() (ok bool) {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.faults.silent {
		c.deaf = true
		return true
	}
	l.mu.Unlock()
	server, err := new(net.Dialer).DialContext(c.ctx, "tcp", l.server)
	l.mu.Lock()
	if err != nil {
		c.resetLocked()
		return false
	}
	c.server = server
	if c.ctx.Err() != nil { // cut meanwhile
		_ = server.Close()
		return false
	}
	return true
}

// pass hands what arrives from one side to a function that passes it on to
// the other, until either fails.
func (c *connection) pass(from net.Conn, on func([]byte) error) {
	l := c.link
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			break
		}
		l.mu.Lock()
		delay := l.faults.delay
		l.mu.Unlock()
		select {
		case <-time.After(delay):
		case <-c.ctx.Done():
		}
		if on(buf[:n]) != nil {
			break
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.closeLocked()
}

func (c *connection) request(chunk []byte) error {
	l, f := c.link, &c.link.faults
	l.mu.Lock()
	defer l.mu.Unlock()
	c.deaf = c.deaf || f.silent
	if c.deaf {
		return nil
	}
	cut := f.cut && bytes.Contains(chunk, []byte(f.cutIn))
	if cut {
		chunk = chunk[:min(f.cutAfter, len(chunk))]
		c.mute = true // an answer may be faster than the reset
	}
	c.asked = append(c.asked, chunk...)
	l.mu.Unlock() // the server may not be reading
	_, err := c.server.Write(chunk)
	l.mu.Lock()
	if cut {
		c.resetLocked()
	}
	return err
}

func (c *connection) answer(chunk []byte) error {
	l, f := c.link, &c.link.faults
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.mute && f.lose != 0 && bytes.Contains(c.asked, []byte(f.loseFor)) {
		c.mute = true
		f.lose--
	}
	c.mute = c.mute || c.deaf || f.silent
	if c.mute {
		return nil
	}
	c.asked = c.asked[:0]
	l.mu.Unlock()
	_, err := c.client.Write(chunk)
	l.mu.Lock()
	return err
}

// resetLocked ends the connection as a network does. What has been sent to the
// server still arrives.
func (c *connection) resetLocked() {
	_ = c.client.SetLinger(0)
	c.closeLocked()
}

func (c *connection) closeLocked() {
	c.cancel()
	_ = c.client.Close()
	if c.server != nil {
		_ = c.server.Close()
	}
}
