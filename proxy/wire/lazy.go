package wire

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// lazyConn is a connection whose deadlines cost nothing where nothing waits
// for them. net/http sets half a dozen for each request, most of which are
// replaced before anything is read, and each is a change to the runtime's
// timers.
type lazyConn struct {
	net.Conn
	writeIdle time.Duration // longest that one write may take; 0 for no bound

	mu       sync.Mutex
	reading  bool
	until    time.Time // when reads are to fail; zero for never
	latest   time.Time // when they are to fail whatever until says; likewise
	readSet  time.Time // the deadlines that the connection has
	writeSet time.Time
}

// SetDeadline serves those who take the connection over.
func (c *lazyConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	c.writeSet = t
	err := c.Conn.SetWriteDeadline(t)
	c.mu.Unlock()
	return errors.Join(err, c.SetReadDeadline(t))
}

// SetWriteDeadline does nothing where each write has a time of its own, which
// net/http would take away with each request that ends.
func (c *lazyConn) SetWriteDeadline(t time.Time) error {
	if c.writeIdle > 0 {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetReadDeadline takes note of the deadline, and passes it on to a read that
// waits.
func (c *lazyConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = t
	if !c.reading {
		return nil
	}
	c.readSet = c.deadlineLocked()
	return c.Conn.SetReadDeadline(c.readSet)
}

// setLatest bounds all reads from the next one on; zero takes the bound away.
func (c *lazyConn) setLatest(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latest = t
}

// isLate reports whether the bound of all reads has passed.
func (c *lazyConn) isLate() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.latest.IsZero() && passed(c.latest, time.Now())
}

func (c *lazyConn) deadlineLocked() time.Time {
	if c.until.IsZero() || !c.latest.IsZero() && c.latest.Before(c.until) {
		return c.latest
	}
	return c.until
}

// grace is how long a read whose deadline has passed looks for what has come
// before: the process may have stood still, and not the client.
const grace = 10 * time.Millisecond

// Read reads until the deadline. That of the connection itself may be an
// earlier one, left by a read before: it is moved only when it has passed.
func (c *lazyConn) Read(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for graced := false; ; {
		until, now := c.deadlineLocked(), time.Time{}
		if !until.IsZero() || !c.readSet.IsZero() {
			now = time.Now()
		}
		late := passed(until, now)
		if late && (graced || aborts(until)) {
			return 0, os.ErrDeadlineExceeded
		} else if late {
			graced, until = true, now.Add(grace)
		}
		sooner := !until.IsZero() && (c.readSet.IsZero() || until.Before(c.readSet))
		if sooner || passed(c.readSet, now) {
			c.readSet = until
			_ = c.Conn.SetReadDeadline(until) // the read tells
		}
		c.reading = true
		c.mu.Unlock()
		n, err = c.Conn.Read(p)
		c.mu.Lock()
		c.reading = false
		if n > 0 || err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

// aborts reports whether a deadline is none, but there to end a read at once.
func aborts(deadline time.Time) bool { return deadline.Unix() <= 1 }

func passed(deadline, now time.Time) bool { return !deadline.IsZero() && !now.Before(deadline) }

// Write moves its deadline once that is a tenth used up.
func (c *lazyConn) Write(p []byte) (int, error) {
	if c.writeIdle > 0 {
		c.mu.Lock()
		if now := time.Now(); c.writeSet.Sub(now) < c.writeIdle-c.writeIdle/10 {
			c.writeSet = now.Add(c.writeIdle)
			_ = c.Conn.SetWriteDeadline(c.writeSet) // the write tells
		}
		c.mu.Unlock()
	}
	return c.Conn.Write(p)
}
