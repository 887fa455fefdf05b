package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"throttle-proxy/cluster"
)

// pipes is a listener within the process.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newPipes() *pipes {
	closed := make(chan struct{})
	return &pipes{make(chan net.Conn), closed, sync.OnceFunc(func() { close(closed) })}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.closed:
		return net.ErrClosed // as the system's listeners do
	default:
		p.close()
		return nil
	}
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

// pipeClient is one connection of a client.
type pipeClient struct {
	net.Conn
	in *bufio.Reader
}

// dial returns nil where connections are refused.
func (p *pipes) dial() *pipeClient {
	return p.dialThrough(func(conn net.Conn) net.Conn { return conn })
}

// dialThrough gives the replica's end of the connection as wrapped.
func (p *pipes) dialThrough(wrap func(net.Conn) net.Conn) *pipeClient {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- wrap(theirs):
		return &pipeClient{ours, bufio.NewReader(ours)}
	case <-p.closed:
		return nil
	}
}

// get returns the status of an answer, and whether it is the connection's last;
// or why there was no answer.
func (c *pipeClient) get(path string) string {
	go io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err.Error()
	}
	_, _ = io.Copy(io.Discard, res.Body)
	if res.Close {
		return res.Status[:3] + " close"
	}
	return res.Status[:3]
}

// ended waits for the end of the connection.
func (c *pipeClient) ended(t *testing.T) {
	t.Helper()
	if n, err := io.Copy(io.Discard, c.in); n != 0 || err != nil {
		t.Errorf("got %d bytes and %v, want the end", n, err)
	}
}

// draining starts a replica, and returns how to tell it to drain.
func draining(t *testing.T, words string) (p *pipes, drain func(), served <-chan error) {
	t.Helper()
	r, err := newReplica(parse(t, "--register a=http://host "+words), cluster.NewMemory("a"), &life{logger: slog.New(slog.DiscardHandler)}, &health{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p = newPipes()
	done := make(chan error, 1)
	go func() { done <- r.serve(ctx, p) }()
	return p, cancel, done
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, drain, served := draining(t, "--drain-delay 5s")
		used, idle, unused := p.dial(), p.dial(), p.dial()
		expect := func(what string, c *pipeClient, path, want string) {
			t.Helper()
			if got := c.get(path); got != want {
				t.Errorf("%s, %s: got %s, want %s", what, path, got, want)
			}
		}
		expect("before", used, "/-/ready", "200")
		expect("before", idle, "/-/ready", "200")

		began := time.Now()
		drain()
		synctest.Wait()
		time.Sleep(5*time.Second - 1)
		expect("in the delay", used, "/-/ready", "503")
		expect("in the delay", used, "/-/healthy", "200")
		expect("in the delay, a new connection", p.dial(), "/-/healthy", "200")

		time.Sleep(connectTime + 1)
		synctest.Wait()
		if p.dial() != nil {
			t.Error("after the delay a connection was let in")
		}
		time.Sleep(quietTime - connectTime - time.Millisecond) // from the last request on
		expect("after the delay", used, "/-/healthy", "200 close")
		used.ended(t)
		time.Sleep(quietTime - time.Millisecond)
		expect("after the delay", idle, "/-/healthy", "200 close")
		idle.ended(t)
		unused.ended(t)
		if err := <-served; err != nil {
			t.Errorf("got %v, want the end", err)
		}
		if took := time.Since(began); took > 7*time.Second {
			t.Errorf("drained in %s, want no more than the delay and what clients took", took)
		}
	})
}

func TestDrainWithoutConnectionsIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, drain, served := draining(t, "")
		began := time.Now()
		drain()
		if err := <-served; err != nil {
			t.Errorf("got %v, want the end", err)
		}
		if took := time.Since(began); took >= quietTime {
			t.Errorf("took %s", took)
		}
	})
}
