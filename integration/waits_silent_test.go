package integration

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Fails if a client that stops where nobody is interested in the rest of what it
// has announced keeps its connection. --body-idle and the rest are longer than the
// test may take.
func TestWaitForWhatNobodyReadsIsNone(t *testing.T) {
	t.Parallel()
	r := startReplica(t, "--register", "hook=http://127.0.0.1:1", "--dedupe", "off", "--header-timeout", "1s")
	for name, said := range map[string]string{
		"health with a body":      "POST /-/healthy HTTP/1.1\r\nHost: replica\r\nContent-Length: 5\r\n\r\n",
		"HTTP/2 up to its middle": "PRI * HTTP/2.0\r\n\r\nSM",
		"HTTP/2, a line of it":    "PRI * HTTP/2.0\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(conn, said)
			answer, err := io.ReadAll(conn)
			if isTimeout, ok := err.(net.Error); ok && isTimeout.Timeout() {
				t.Errorf("open after %s; it said %q", patience, answer)
			}
			if strings.HasPrefix(said, "POST") && !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
				t.Errorf("got %q, want 200", answer)
			}
		})
	}
}

// Fails if an upstream that has switched protocols and reads no more keeps a
// tunnel whose client has left.
func TestWaitForATunnelWhoseUpstreamDoesNotReadEnds(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	held := make(chan net.Conn, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		}
		held <- conn // and is never read
	}()
	r := startReplica(t, "--register", "hook=http://"+listener.Addr().String(), "--timeout", "1s", "--rate", "off", "--admin", "127.0.0.1:0")
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, "GET /hook HTTP/1.1\r\nHost: replica\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v, want 101", res, err)
	}
	defer func() { _ = (<-held).Close() }()
	part := make([]byte, 64<<10)
	for err == nil { // until the tunnel is cut
		_, err = conn.Write(part)
	}
	if isTimeout, ok := err.(net.Error); ok && isTimeout.Timeout() {
		t.Errorf("the tunnel is open after %s", patience)
	}
	r.expectRest(t)
}
