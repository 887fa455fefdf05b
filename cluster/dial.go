package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// dialer makes the connections of one client, until they can take commands. What
// asks while there is none waits for one, within its own time; the connection goes
// on to be made, and is there for the next ask.
type dialer struct {
	endpoint *Endpoint
	life     context.Context
	database int
	tls      bool

	mu     sync.Mutex
	master string // that the sentinels have named; empty until then, and without
}

func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := d.connect(ctx, network, addr)
	if err != nil {
		d.endpoint.failure.Store(&err)
		return nil, err
	}
	d.endpoint.failure.Store(nil)
	return conn, nil
}

// connect is dial, of which nothing is remembered.
func (d *dialer) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.life, cancel)()
	if d.endpoint.sentinels != nil {
		var err error
		if addr, err = d.find(ctx); err != nil {
			return nil, err
		}
	}
	conn, err := connectTo(ctx, network, addr, d.tls, d.endpoint.files)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })() // reads know of no ctx
	greeted, trip, err := greet(ctx, conn, &redis.Options{CredentialsProviderContext: d.endpoint.credentials, DB: d.database})
	if err != nil {
		_ = conn.Close()
		if errors.Is(err, io.EOF) && !d.tls {
			err = fmt.Errorf("it hung up when greeted; if that port is one for TLS, write rediss in place of redis: %w", err)
		}
		return nil, err
	}
	d.endpoint.trips.add(trip)
	return greeted, nil
}

// find returns the address of the client's master.
func (d *dialer) find(ctx context.Context) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.master == "" {
		addr, err := d.endpoint.sentinels.master(ctx)
		if err != nil {
			return "", err
		}
		d.master = addr
		d.endpoint.master.Store(&addr)
	}
	return d.master, nil
}

// connectTo connects to a server, by TLS if told so.
func connectTo(ctx context.Context, network, addr string, byTLS bool, files TLSFiles) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil || !byTLS {
		return conn, err
	}
	config, err := files.config()
	if err != nil {
		_ = conn.Close()
		return nil, &tlsError{err}
	}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(addr)
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, handshakeError(err)
	}
	return secure, nil
}

// tlsError is why a server and a client could not agree on TLS.
type tlsError struct{ error }

func (e *tlsError) Unwrap() error { return e.error }

func handshakeError(err error) error {
	var noTLS tls.RecordHeaderError
	switch {
	case errors.As(err, &noTLS):
		return &tlsError{fmt.Errorf("that port does not speak TLS: write redis in place of rediss: %w", err)}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.EOF):
		return fmt.Errorf("no answer to a TLS greeting; if that port is not one for TLS, write redis in place of rediss: %w", err)
	}
	return &tlsError{err}
}

// errGreeted ends a rehearsal that has gone well.
var errGreeted = errors.New("greeted")

// greet does all that go-redis does before the first command of a connection, so
// that the ask which takes the connection need not wait for it: the ask's time may
// be that of one round trip. It returns a connection on which the answers are
// known, and how long the first round trip took.
func greet(ctx context.Context, conn net.Conn, o *redis.Options) (net.Conn, time.Duration, error) {
	r := &rehearsal{Conn: conn}
	o.Dialer = func(context.Context, string, string) (net.Conn, error) { return r, nil }
	o.OnConnect = func(context.Context, *redis.Conn) error { return errGreeted }
	o.MaxRetries, o.DialerRetries, o.PoolSize, o.PipelinePoolSize = -1, 1, 1, -1
	o.ReadTimeout, o.WriteTimeout, o.ContextTimeoutEnabled = -1, -1, true // until ctx ends
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	client := redis.NewClient(o)
	defer client.Close()
	if err := client.Ping(ctx).Err(); err != errGreeted {
		return nil, 0, err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, 0, err
	}
	g := &greeted{Conn: conn, script: r.script}
	if socket, ok := conn.(syscall.Conn); ok {
		return &greetedSocket{g, socket}, r.trip, nil
	}
	return g, r.trip, nil
}

// exchange is what a client said, and heard to that.
type exchange struct{ said, heard []byte }

// rehearsal is a connection that remembers what was said, and outlives whoever
// said it.
type rehearsal struct {
	net.Conn
	script []exchange
	asked  time.Time
	trip   time.Duration // from the first that was said to the first that was heard
}

func (r *rehearsal) Write(b []byte) (int, error) {
	if n := len(r.script); n == 0 || len(r.script[n-1].heard) > 0 {
		r.script = append(r.script, exchange{})
	}
	if r.asked.IsZero() {
		r.asked = time.Now()
	}
	last := &r.script[len(r.script)-1]
	last.said = append(last.said, b...)
	return r.Conn.Write(b)
}

func (r *rehearsal) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	if len(r.script) > 0 {
		last := &r.script[len(r.script)-1]
		last.heard = append(last.heard, b[:n]...)
	}
	if r.trip == 0 {
		r.trip = time.Since(r.asked)
	}
	return n, err
}

func (r *rehearsal) Close() error { return nil }

// greeted is a connection on which what a client says first has been said
// before: it hears what was heard then. Once it says anything else, that is sent.
type greeted struct {
	net.Conn
	script []exchange // what is left of it
	heard  []byte     // what is left to be heard of the last
}

func (g *greeted) Write(b []byte) (int, error) {
	if len(g.script) > 0 {
		next := g.script[0]
		if bytes.Equal(b, next.said) {
			g.script, g.heard = g.script[1:], next.heard
			return len(b), nil
		}
		g.script = nil
	}
	return g.Conn.Write(b)
}

func (g *greeted) Read(b []byte) (int, error) {
	if len(g.heard) > 0 {
		n := copy(b, g.heard)
		g.heard = g.heard[n:]
		return n, nil
	}
	return g.Conn.Read(b)
}

// NetConn returns the connection inside, as of a [tls.Conn].
func (g *greeted) NetConn() net.Conn { return g.Conn }

// greetedSocket can be looked at as a socket, by which go-redis finds one that
// has been closed.
type greetedSocket struct {
	*greeted
	syscall.Conn
}
