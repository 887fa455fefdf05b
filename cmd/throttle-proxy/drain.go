package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

const (
	connectTime = 20 * time.Millisecond  // for a client to end a TCP handshake that it has begun
	quietTime   = 500 * time.Millisecond // without a request on any connection: then idle ones are closed
	goAwayTime  = 100 * time.Millisecond // for GOAWAY to be out before idle HTTP/2 connections are closed
	cutTime     = 2 * time.Second        // for exchanges that were cut to end
	pollTime    = 10 * time.Millisecond
)

// drain ends the replica so that no request is lost: not one that is in flight,
// and none that a client sends before it can know. A request on its way to a
// connection which is being closed is lost, since most clients may not send it
// again. So readiness fails first; then nobody can connect; then each answer
// is the last of its connection, and says so; and only when the clients have
// stopped, idle connections are closed.
func (r *replica) drain(listener *drainListener) {
	r.health.draining.Store(true)
	r.logger.Info("draining")
	notify(daemon.SdNotifyStopping)
	r.drainStore(r.config.drainDelay + r.config.drainTimeout)
	time.Sleep(r.config.drainDelay)

	ctx, cancel := context.WithTimeout(context.Background(), r.config.drainTimeout)
	defer cancel()
	listener.stop(ctx)
	r.traffic.end()
	await(ctx, r.traffic.quiet)
	time.AfterFunc(goAwayTime, func() {
		r.traffic.closeUnused()
		listener.release()
	})
	// From here on net/http drops requests that it reads. It does not know of
	// tunnels, nor of exchanges that go on without their HTTP/2 client.
	if r.server.Shutdown(ctx) == nil && await(ctx, r.traffic.over) {
		return
	}

	r.logger.Warn("what has not ended is cut", "exchanges", r.traffic.requests.Load())
	ctx, cancel = context.WithTimeout(context.Background(), cutTime)
	defer cancel()
	r.proxy.Cut()
	await(ctx, r.traffic.over) // clients can be answered
	_ = r.server.Close()
	ctx, cancel = context.WithTimeout(context.Background(), cutTime)
	defer cancel()
	await(ctx, r.traffic.over)
}

// await waits for condition, and reports whether it came before ctx ended.
func await(ctx context.Context, condition func() bool) bool {
	poll := time.NewTicker(pollTime)
	defer poll.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			return false
		case <-poll.C:
		}
	}
	return true
}

// drainListener is a listener that stops without losing a connection. Accept
// goes on to block when it has stopped, until it is released: http.Server then
// waits between telling HTTP/2 clients to go away and closing what is idle.
type drainListener struct {
	net.Listener
	inherited bool // it is not ours alone, and stays open
	released  chan struct{}
	release   func()
}

func newDrainListener(l net.Listener) *drainListener {
	released := make(chan struct{})
	return &drainListener{Listener: l, released: released, release: sync.OnceFunc(func() { close(released) })}
}

func (l *drainListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if errors.Is(err, net.ErrClosed) {
		<-l.released
	}
	return conn, err
}

// Close may be called again.
func (l *drainListener) Close() error {
	if err := l.Listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// stop refuses connections from now on. The system resets those that have been
// made and not accepted when a listener is closed, so no others are let in
// meanwhile.
func (l *drainListener) stop(ctx context.Context) {
	if l.inherited { // those that wait in it are the next process's
		_ = l.Close()
		return
	}
	pending := func() bool { return false }
	switch inner := l.Listener.(type) {
	case *net.TCPListener:
		pending = ignoreConnects(inner)
	case *net.UnixListener:
		inner.SetUnlinkOnClose(false) // the path may be another's by then
		_ = os.Remove(inner.Addr().String())
	}
	time.Sleep(connectTime)
	await(ctx, func() bool { return !pending() })
	_ = l.Close()
}

// traffic is what a replica waits for when it drains.
type traffic struct {
	panics    *panics
	writeIdle time.Duration // longest that an HTTP/2 client may leave a write unread

	closing  atomic.Bool  // answers end their connections
	requests atomic.Int64 // whose handler runs, be it for a tunnel or without a client
	open     atomic.Int64 // connections of http.Server
	fresh    atomic.Int64 // of them, those in unused

	mu      sync.Mutex
	unused  map[net.Conn]struct{} // that no request has come on yet
	changed time.Time             // when a connection last began or ended a request, since closing
}

func newTraffic(panics *panics, writeIdle time.Duration) *traffic {
	return &traffic{panics: panics, writeIdle: writeIdle, unused: map[net.Conn]struct{}{}}
}

// end lets each answer be the last of its connection from now on.
func (t *traffic) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed = time.Now()
	t.closing.Store(true)
}

// observe is http.Server's ConnState, which each request calls twice: it takes
// the mutex for the first one of a connection only, until the drain.
func (t *traffic) observe(conn net.Conn, state http.ConnState) {
	if t.fresh.Load() == 0 && !t.closing.Load() && (state == http.StateActive || state == http.StateIdle) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch state {
	case http.StateNew:
		t.open.Add(1)
		t.unused[conn] = struct{}{}
	case http.StateClosed, http.StateHijacked:
		t.open.Add(-1)
		fallthrough
	default:
		delete(t.unused, conn)
	}
	t.fresh.Store(int64(len(t.unused)))
	if state != http.StateClosed && state != http.StateHijacked {
		t.changed = time.Now()
	}
}

// count counts requests, ends their connections when it is time, bounds the
// writes of their answers, and answers those whose handler panics.
func (t *traffic) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.requests.Add(1)
		defer t.requests.Add(-1)
		counted := &countedWriter{answerWriter{ResponseWriter: w}, t}
		if r.ProtoMajor > 1 { // a connection of HTTP/1 bounds each write by itself
			counted.stream, counted.idle = http.NewResponseController(w), t.writeIdle
			defer counted.pace() // what is left is written when the handler has ended
		}
		defer counted.recover(t.panics, r, true)
		next.ServeHTTP(counted, r)
	})
}

type countedWriter struct {
	answerWriter
	traffic *traffic
}

// WriteHeader tells the client of its connection's end, if it has come. To an
// HTTP/2 client net/http says GOAWAY in place of it.
func (w *countedWriter) WriteHeader(status int) {
	if status >= 200 && w.traffic.closing.Load() {
		w.Header().Set("Connection", "close")
	}
	w.answerWriter.WriteHeader(status)
}

// quiet reports whether clients have stopped sending requests.
func (t *traffic) quiet() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open.Load() == 0 || time.Since(t.changed) >= quietTime
}

// over reports whether every request has ended.
func (t *traffic) over() bool { return t.requests.Load() == 0 }

// closeUnused closes connections that no request has come on yet, for which
// http.Server would wait.
func (t *traffic) closeUnused() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for conn := range t.unused {
		_ = conn.Close()
	}
}
