package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// scriptedUpstream does for each request what its cell says, step by step.
type scriptedUpstream struct {
	name, scheme, addr string
	protocol           string // of TLS; empty for none
	http2              bool
	stingy             bool
	script             func(*turn)

	mu    sync.Mutex
	conns []net.Conn
}

// turn is a request at an upstream, as its script sees it.
type turn struct {
	request  message // its header
	upstream *scriptedUpstream
	link
	cell *cell
	time int // that the cell's request arrives, from 0
}

// link is the connection or stream of a turn.
type link interface {
	// readToEnd returns the body and the trailers, the body with ✂ behind it if
	// it ends before its end.
	readToEnd() (body string, trailers []string)
	send(m message)           // an answer, or the beginning of one
	raw(text string)          // bytes on the connection, whatever they mean
	close()                   // the connection
	closeWrite()              // this half of it; returns when the other is too, or has had the time for it
	reset(code http2.ErrCode) // the stream; on HTTP/1 the connection
	silence()                 // returns when the proxy has ended it
}

// startUpstreams starts one of each kind. Stingy ones have room for little that
// is not read.
func startUpstreams(t *testing.T, pair tls.Certificate, stingy bool, script func(*turn)) []*scriptedUpstream {
	upstreams := []*scriptedUpstream{
		{name: "plain", scheme: "http"},
		{name: "tls1", scheme: "https", protocol: "http/1.1"},
		{name: "tls2", scheme: "https", protocol: "h2", http2: true},
		{name: "h2c", scheme: "h2c", http2: true},
	}
	for _, u := range upstreams {
		u.stingy, u.script = stingy, script
		u.start(t, pair)
	}
	return upstreams
}

func (u *scriptedUpstream) start(t *testing.T, pair tls.Certificate) {
	t.Helper()
	listening := net.ListenConfig{}
	if u.stingy {
		listening.Control = func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 16<<10) })
		}
	}
	l, err := listening.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.addr = l.Addr().String()
	if u.protocol != "" {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{u.protocol}})
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			u.mu.Lock()
			u.conns = append(u.conns, conn)
			u.mu.Unlock()
			serving.Go(func() {
				defer conn.Close()
				if u.http2 {
					u.serveHTTP2(conn)
				} else {
					u.serveHTTP1(conn)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		u.closeAll()
		serving.Wait()
	})
}

// closeAll closes the connections that there are.
func (u *scriptedUpstream) closeAll() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, conn := range u.conns {
		_ = conn.Close()
	}
}

// url is what to register.
func (u *scriptedUpstream) url() string { return u.scheme + "://" + u.addr + "/" + canary }

// origin is what the upstream calls itself.
func (u *scriptedUpstream) origin() string {
	return strings.Replace(u.scheme, "h2c", "http", 1) + "://" + u.addr
}

// say sends an answer, or as much of it as there is.
func (c *turn) say(text string) {
	m := parseMessage(text)
	c.send(m.with("Date", "d"))
}

// http1Link is a connection while it is one request's.
type http1Link struct {
	net.Conn
	in     *bufio.Reader
	body   io.Reader
	method string
	done   bool // with the connection
}

func (u *scriptedUpstream) serveHTTP1(conn net.Conn) {
	in := bufio.NewReader(conn)
	for {
		var m message
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			text, whole := strings.CutSuffix(line, "\r\n")
			if !whole {
				text += " (a bare LF)"
			}
			if text == "" {
				break
			}
			if m.first == "" {
				if m.first, whole = strings.CutSuffix(text, " HTTP/1.1"); !whole {
					m.first += " (no HTTP/1.1)"
				}
				continue
			}
			m.fields = append(m.fields, text)
		}
		l := &http1Link{Conn: conn, in: in, body: http.NoBody}
		if m.has("Transfer-Encoding") {
			l.body = httputil.NewChunkedReader(in)
		} else if m.has("Content-Length") {
			var n int64
			_, _ = fmt.Sscan(m.value("Content-Length"), &n)
			l.body = io.LimitReader(in, n)
		}
		if host := m.value("Host"); host != u.addr {
			m = m.with("Wrong-Host", host)
		}
		l.method, _ = m.request()
		c := &turn{request: m, upstream: u, link: l}
		u.script(c)
		if l.done {
			return
		}
	}
}

func (l *http1Link) readToEnd() (string, []string) {
	all, err := io.ReadAll(l.body)
	if err != nil {
		l.done = true
		return string(all) + cut, nil
	}
	limited, ok := l.body.(*io.LimitedReader)
	if ok && limited.N > 0 {
		l.done = true
		return string(all) + cut, nil
	}
	var trailers []string
	if l.body != http.NoBody && !ok {
		for {
			line, err := l.in.ReadString('\n')
			if err != nil {
				l.done = true
				return string(all) + cut, nil
			}
			if line == "\r\n" {
				break
			}
			trailers = append(trailers, strings.TrimSuffix(line, "\r\n"))
		}
	}
	return string(all), trailers
}

func (l *http1Link) send(m message) {
	var b strings.Builder
	for _, inform := range m.informs {
		status, fields, _ := strings.Cut(inform+"\n", "\n")
		b.WriteString("HTTP/1.1 " + status + " Informed\n" + fields + "\n")
	}
	if m.first == "" {
		l.raw(crlf(b.String()))
		return
	}
	b.WriteString("HTTP/1.1 " + m.first + " Said\n")
	bodyless := l.method == http.MethodHead || m.first == "204" || m.first == "304"
	chunked := !bodyless && !m.has("Content-Length")
	if chunked {
		m = m.with("Transfer-Encoding", "chunked")
	}
	for _, f := range m.fields {
		b.WriteString(f + "\n")
	}
	b.WriteString("\n")
	text := crlf(b.String())
	switch {
	case bodyless:
	case !chunked:
		text += m.body
	default:
		if m.body != "" {
			text += fmt.Sprintf("%x\r\n%s\r\n", len(m.body), m.body)
		}
		if m.ending == "" {
			text += "0\r\n"
			for _, f := range m.trailers {
				text += f + "\r\n"
			}
			text += "\r\n"
		}
	}
	l.raw(text)
	switch {
	case m.ending == cut, strings.EqualFold(m.value("Connection"), "close"):
		l.close()
	case m.ending == stopped:
		l.silence()
	}
}

func (l *http1Link) raw(text string) { _, _ = io.WriteString(l.Conn, text) }

func (l *http1Link) close() {
	l.done = true
	_ = l.Conn.Close()
}

func (l *http1Link) closeWrite() {
	closeHalf(l.Conn)
	_ = l.SetReadDeadline(time.Now().Add(noticing))
	l.silence()
}

// closeHalf ends what this side says, as a whole close would.
func closeHalf(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		_ = secure.CloseWrite()
		conn = secure.NetConn()
	}
	_ = conn.(*net.TCPConn).CloseWrite()
}

func (l *http1Link) reset(http2.ErrCode) { l.close() }

func (l *http1Link) silence() {
	l.done = true
	_, _ = io.Copy(io.Discard, l.in)
}
