package main

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A client may have connections that it has not used yet, as every pool that
// dials ahead has, and a replica may stand still at any time. A request that
// has come by then, or comes on such a connection, is one like any other.

// standsStill is a connection of a process that stands still for a while,
// after it has read the first bytes of it.
type standsStill struct {
	net.Conn
	pause time.Duration
}

func (c *standsStill) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	time.Sleep(c.pause)
	c.pause = 0
	return n, err
}

// Fails if the time for a request's header begins before the request does.
func TestUnusedConnectionIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, drain, served := draining(t, "--header-timeout 10s")
		c := p.dial()
		time.Sleep(idleTimeout / 2)
		if got := c.get("/-/healthy"); got != "200" {
			t.Errorf("the first request of a connection: got %s, want 200", got)
		}
		drain()
		<-served
	})
}

// Fails if the end of a wait is taken for the client's when it was the
// replica that did not look.
func TestRequestThatCameWhileTheReplicaStoodStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, drain, served := draining(t, "--header-timeout 10s")
		c := p.dialThrough(func(conn net.Conn) net.Conn { return &standsStill{conn, time.Minute} })
		if got := c.get("/-/healthy"); got != "200" {
			t.Errorf("a request that was there all the time: got %s, want 200", got)
		}
		drain()
		<-served
	})
}

// Fails if a header that never ends is waited for all the same.
func TestHeaderHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 10 * time.Second
		p, drain, served := draining(t, "--header-timeout "+timeout.String())
		c := p.dial()
		time.Sleep(idleTimeout / 2)
		began := time.Now()
		go io.WriteString(c, "GET /-/healthy HTTP/1.1\r\nHost:")
		_, _ = io.Copy(io.Discard, c.in)
		if took := time.Since(began); took < timeout || took > timeout+time.Second {
			t.Errorf("the connection ended %s after the request had begun, want about %s", took, timeout)
		}
		drain()
		<-served
	})
}
