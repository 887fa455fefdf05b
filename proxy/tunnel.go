package proxy

import (
	"bufio"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"throttle-proxy/proxy/upstream"
)

// tunnel passes bytes between a client and an upstream that have agreed on
// another protocol.
func (x *exchange) tunnel(a *upstream.Answer) {
	x.addRateLimit(x.decisions, x.used)
	conn, buffered, err := x.body.control.Hijack()
	if err != nil {
		panic(err) // HTTP/1.1 alone has upgrades, and its server lets go of connections
	}
	x.event.Status, x.client.began = a.StatusCode, true
	x.body.detach()
	t := &tunnel{client: clientEnd{conn, buffered.Reader}, upstream: a.Body.(io.ReadWriteCloser), idle: x.route.AnswerIdle, write: x.route.Timeout}
	defer t.close()
	defer context.AfterFunc(x.life.Context(), t.close)()

	removeHopByHop(a.Header)
	a.Header["Connection"], a.Header["Upgrade"] = []string{"Upgrade"}, []string{x.in.Header.Get("Upgrade")}
	x.mapPlaces(a.Header)
	maps.Copy(a.Header, x.client.Header())
	a.Body = nil // only the header is written
	if a.Write(buffered) == nil && buffered.Flush() == nil {
		t.run()
		x.client.ended = true
	}
}

// tunnel has two directions, each of which ends by itself. When one has, the
// other may go on while something comes of it.
type tunnel struct {
	client, upstream io.ReadWriteCloser
	idle             time.Duration // longest that a direction is silent when the other has ended
	write            time.Duration // longest that the upstream takes for what comes
	half             atomic.Bool   // one has

	mu    sync.Mutex
	timer *time.Timer // that closes what is left; nil until half
}

// clientEnd reads first what the server has read already.
type clientEnd struct {
	net.Conn
	r *bufio.Reader
}

func (c clientEnd) Read(p []byte) (int, error) { return c.r.Read(p) }

// CloseWrite ends one half.
func (c clientEnd) CloseWrite() error { return closeWrite(c.Conn) }

func closeWrite(w io.Writer) error {
	if half, ok := w.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return http.ErrNotSupported
}

// run returns when both directions have ended.
func (t *tunnel) run() {
	var directions sync.WaitGroup
	directions.Go(func() { t.pass(t.client, t.upstream) })
	directions.Go(func() { t.pass(timedWriter{t.upstream, t}, t.client) })
	directions.Wait()
	t.timer.Stop()
}

// pass is one direction. If it breaks, so does the other.
func (t *tunnel) pass(to io.Writer, from io.Reader) {
	buffer := copyBuffers.Get()
	defer copyBuffers.Put(buffer)
	// Without the types' own ways to copy, which would not be seen to pause.
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, halfTimed{from, t}, buffer)
	if err != nil || closeWrite(to) != nil {
		t.close()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer == nil {
		t.timer = time.AfterFunc(t.idle, t.close)
		t.half.Store(true)
	}
}

func (t *tunnel) close() {
	_ = t.client.Close()
	_ = t.upstream.Close()
}

// timedWriter ends a tunnel whose upstream does not read. Of clients the
// connection itself bounds each write.
type timedWriter struct {
	io.Writer
	tunnel *tunnel
}

func (w timedWriter) Write(p []byte) (int, error) {
	defer time.AfterFunc(w.tunnel.write, w.tunnel.close).Stop()
	return w.Writer.Write(p)
}

// CloseWrite ends one half.
func (w timedWriter) CloseWrite() error { return closeWrite(w.Writer) }

// halfTimed moves the end of a half tunnel with all that comes.
type halfTimed struct {
	io.Reader
	tunnel *tunnel
}

func (r halfTimed) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 && r.tunnel.half.Load() {
		r.tunnel.timer.Reset(r.tunnel.idle)
	}
	return n, err
}
