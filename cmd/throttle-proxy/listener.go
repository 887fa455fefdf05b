package main

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"throttle-proxy/proxy/wire"
)

// wireListener accepts clients' connections, to be read strictly.
type wireListener struct {
	net.Listener
	timeouts wire.Timeouts
}

func (l wireListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return wire.NewConn(conn, l.timeouts), nil
}

// tlsListener accepts clients that speak TLS. HTTP/1 inside of it is read
// strictly, for which net/http's own TLS leaves no room.
type tlsListener struct {
	net.Listener
	config   *tls.Config
	timeouts wire.Timeouts
	accepted chan accepted // closed after the last
}

type accepted struct {
	conn net.Conn
	err  error
}

// tlsConn is a connection inside TLS that is read strictly.
type tlsConn struct {
	*wire.Conn
	state tls.ConnectionState
}

func newTLSListener(l net.Listener, certificate *certificate, timeouts wire.Timeouts) *tlsListener {
	t := &tlsListener{
		Listener: l,
		config: &tls.Config{
			GetCertificate: certificate.get,
			NextProtos:     []string{"h2", "http/1.1"},
			MinVersion:     tls.VersionTLS12,
		},
		timeouts: timeouts,
		accepted: make(chan accepted),
	}
	go t.run()
	return t
}

// run ends when the listener is closed. Handshakes that have not ended by then
// are cut.
func (l *tlsListener) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var handshakes sync.WaitGroup
	defer func() {
		cancel()
		handshakes.Wait()
		close(l.accepted)
	}()
	for {
		conn, err := l.Listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			l.accepted <- accepted{err: err}
		default:
			handshakes.Go(func() { l.handshake(ctx, conn) })
		}
	}
}

func (l *tlsListener) handshake(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	secure := tls.Server(conn, l.config)
	if err := secure.HandshakeContext(ctx); err != nil {
		if plain := (tls.RecordHeaderError{}); errors.As(err, &plain) && plain.Conn != nil && saysHTTP(plain.RecordHeader) {
			l.accepted <- accepted{conn: wire.NewRefused(conn, l.timeouts, plainHTTP)}
		} else {
			_ = conn.Close()
		}
		return
	}
	var ready net.Conn = secure
	if state := secure.ConnectionState(); state.NegotiatedProtocol != "h2" {
		ready = &tlsConn{wire.NewConn(secure, l.timeouts), state}
	}
	l.accepted <- accepted{conn: ready}
}

var plainHTTP = &wire.Refusal{Status: http.StatusBadRequest, Detail: "This port speaks TLS: write https."}

// saysHTTP reports whether what should begin TLS begins a request.
func saysHTTP(begin [5]byte) bool {
	for _, c := range begin {
		if (c < 'A' || c > 'Z') && c != ' ' && c != '/' {
			return false
		}
	}
	return true
}

// Accept is to be called until it returns [net.ErrClosed]: only then have all
// handshakes ended.
func (l *tlsListener) Accept() (net.Conn, error) {
	a, ok := <-l.accepted
	if !ok {
		return nil, net.ErrClosed
	}
	return a.conn, a.err
}

type tlsStateKey struct{}

// connContext lets the proxy know the connection, and hands a tlsConn's state to
// withTLSState, since the server sees no TLS on it.
func connContext(ctx context.Context, conn net.Conn) context.Context {
	if secure, ok := conn.(*tlsConn); ok {
		ctx = context.WithValue(ctx, tlsStateKey{}, &secure.state)
	}
	return wire.ConnContext(ctx, conn)
}

func withTLSState(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if state, ok := r.Context().Value(tlsStateKey{}).(*tls.ConnectionState); ok {
			r.TLS = state
		}
		next.ServeHTTP(w, r)
	})
}

// certificate is the server's, read again when its files change. A change that
// cannot be used is told once, and leaves the certificate as it was.
type certificate struct {
	certFile, keyFile string
	logger            *slog.Logger

	mu      sync.Mutex
	pair    *tls.Certificate
	version [2]fileVersion
	checked time.Time
}

type fileVersion struct {
	modified time.Time
	size     int64
}

// newCertificate reads the files for the first time.
func newCertificate(certFile, keyFile string, logger *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, logger: logger, version: [2]fileVersion{versionOf(certFile), versionOf(keyFile)}}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	c.pair = &pair
	return c, err
}

func versionOf(path string) fileVersion {
	info, err := os.Stat(path)
	if err != nil {
		return fileVersion{}
	}
	return fileVersion{info.ModTime(), info.Size()}
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) < time.Second {
		return c.pair, nil
	}
	c.checked = time.Now()
	version := [2]fileVersion{versionOf(c.certFile), versionOf(c.keyFile)}
	if version == c.version {
		return c.pair, nil
	}
	c.version = version
	return c.readLocked(), nil
}

// reload reads the files whether they look changed or not.
func (c *certificate) reload() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked, c.version = time.Now(), [2]fileVersion{versionOf(c.certFile), versionOf(c.keyFile)}
	c.readLocked()
}

// readLocked returns the certificate that stands in the files, or the old one.
func (c *certificate) readLocked() *tls.Certificate {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		c.logger.Warn("the new TLS certificate cannot be used, the old one stays", slog.Any("error", err))
		return c.pair
	}
	c.logger.Info("new TLS certificate")
	c.pair = &pair
	return c.pair
}
