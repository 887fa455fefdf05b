package integration

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// startWebSocket starts an upstream of one handler, that is told to end by its
// context.
func startWebSocket(t *testing.T, serve func(context.Context, *websocket.Conn)) (url string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return // the client has been told
		}
		defer conn.CloseNow()
		conn.SetReadLimit(-1)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		serve(ctx, conn)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// echo sends back what it gets.
func echo(ctx context.Context, conn *websocket.Conn) {
	for {
		kind, message, err := conn.Read(ctx)
		if err != nil || conn.Write(ctx, kind, message) != nil {
			return
		}
	}
}

func dialWebSocket(t *testing.T, r *replica) *websocket.Conn {
	t.Helper()
	conn, res, err := websocket.Dial(t.Context(), r.url+"/hook", &websocket.DialOptions{HTTPClient: patientClient()})
	if err != nil {
		t.Fatalf("no tunnel: %v, %v", err, res)
	}
	conn.SetReadLimit(-1)
	t.Cleanup(func() { _ = conn.CloseNow() })
	return conn
}

// patientClient is a client without a timeout, which would end a tunnel.
func patientClient() *http.Client { return &http.Client{Transport: client.Transport} }

func expectEcho(t *testing.T, conn *websocket.Conn, kind websocket.MessageType, message []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	written := make(chan error, 1)
	go func() { written <- conn.Write(ctx, kind, message) }()
	gotKind, got, err := conn.Read(ctx)
	if err != nil || gotKind != kind || !bytes.Equal(got, message) {
		t.Fatalf("got %v of %d bytes, %v, want %v of %d", gotKind, len(got), err, kind, len(message))
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
}

func TestWebSocketCarriesMessages(t *testing.T) {
	t.Parallel()
	r := startReplica(t, "--register", "hook="+startWebSocket(t, echo), "--rate", "off", "--dedupe", "all")
	conn := dialWebSocket(t, r)
	for _, size := range []int{0, 1, 125, 126, 1 << 16, 4 << 20} {
		expectEcho(t, conn, websocket.MessageText, bytes.Repeat([]byte("x"), size))
		expectEcho(t, conn, websocket.MessageBinary, bytes.Repeat([]byte("\n\x00GET / HTTP/1.1\r"), size/16))
	}
	if err := conn.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("close: %v", err)
	}
}

// Pauses are no faults of a tunnel. Fails if one is cut that pauses for as long
// as cuts whatever else does.
func TestIdleWebSocketSurvives(t *testing.T) {
	t.Parallel()
	stops := newRawUpstream(t, func(c *rawCall) { c.say(crlf("HTTP/1.1 200 OK\nContent-Length: 100\n\nhalf")) })
	r := startReplica(t, "--register", "hook="+startWebSocket(t, echo), "--register", "stops="+stops.url(), "--rate", "off",
		"--answer-idle", "1s", "--write-idle", "1s", "--body-idle", "1s", "--header-timeout", "1s")
	conn := dialWebSocket(t, r)
	for range 2 {
		expectEcho(t, conn, websocket.MessageText, []byte("hello"))
		var others []*rawClient
		for _, text := range []string{
			"GET /ho",
			"POST /hook HTTP/1.1\nHost: gateway\nContent-Length: 4\n\nbo",
			"GET /stops HTTP/1.1\nHost: gateway\n\n",
		} {
			other := dial(t, r.addr)
			other.say(crlf(text))
			others = append(others, other)
		}
		for _, other := range others {
			other.untilCut(t)
		}
	}
	expectEcho(t, conn, websocket.MessageText, []byte("bye"))
}

func TestWebSocketEndsOnBothSides(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		server func(context.Context, *websocket.Conn) // what ends it there
		client func(*websocket.Conn)                  // or here
		want   websocket.StatusCode                   // that the other side reads; -1 for a mere end
	}{
		"the server says goodbye": {server: func(_ context.Context, c *websocket.Conn) { _ = c.Close(4001, "bye") }, want: 4001},
		"the server is gone":      {server: func(_ context.Context, c *websocket.Conn) { _ = c.CloseNow() }, want: -1},
		"the client says goodbye": {client: func(c *websocket.Conn) { _ = c.Close(4002, "bye") }, want: 4002},
		"the client is gone":      {client: func(c *websocket.Conn) { _ = c.CloseNow() }, want: -1},
	} {
		t.Run(name, func(t *testing.T) {
			read := make(chan error, 1)
			r := startReplica(t, "--rate", "off", "--register", "hook="+startWebSocket(t, func(ctx context.Context, conn *websocket.Conn) {
				if c.server != nil {
					c.server(ctx, conn)
					return
				}
				_, _, err := conn.Read(ctx)
				read <- err
			}))
			conn := dialWebSocket(t, r)
			if c.client != nil {
				c.client(conn)
			} else {
				_, _, err := conn.Read(t.Context())
				read <- err
				_ = conn.CloseNow() // the proxy has closed its half: this may have had more to say
			}
			select {
			case err := <-read:
				if got := websocket.CloseStatus(err); err == nil || got != c.want || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the other side read %v, want %d", err, c.want)
				}
			case <-time.After(patience):
				t.Error("the other side does not know")
			}
			eventually(t, "the exchange is over", func() bool { return strings.Contains(r.stderr.String(), "status=101") })
		})
	}
}

func TestWebSocketsAreLimited(t *testing.T) {
	t.Parallel()
	r := startReplica(t, "--register", "hook="+startWebSocket(t, echo), "--rate", "1/h,burst=1")
	expectEcho(t, dialWebSocket(t, r), websocket.MessageText, []byte("hello"))
	_, res, err := websocket.Dial(t.Context(), r.url+"/hook", &websocket.DialOptions{HTTPClient: patientClient()})
	if err == nil || res == nil || res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" {
		t.Errorf("beyond the budget: got %v, %v, want 429", res, err)
	}
}

// tunnelUpstream answers each request with bytes, and sends back what follows.
func tunnelUpstream(t *testing.T, answer string) (url string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, answer)
		_, _ = io.Copy(conn, buffered)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

const (
	handshake = "GET /hook HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	switched  = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
	// Nothing that HTTP would let pass.
	noHTTP = "\n\x00 early \xff\n\nGET / HTTP/1.1\nContent-Length: 1\nContent-Length: 2\n\n"
)

// sendRaw opens a connection and sends bytes at once.
func sendRaw(t *testing.T, addr, send string) (conn net.Conn, in *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, send); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func readResponse(t *testing.T, in *bufio.Reader, want int) {
	t.Helper()
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want != http.StatusSwitchingProtocols {
		_, _ = io.Copy(io.Discard, res.Body)
	}
	if res.StatusCode != want {
		t.Fatalf("got %s, want %d", res.Status, want)
	}
}

func expectBytes(t *testing.T, in io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(in, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v, want %q", got[:n], err, want)
	}
}

// Fails if bytes are lost that come in one piece with the handshake's end, on
// either side. The client waits for the answer, as WebSocket wants it to.
func TestTunnelLosesNoEarlyBytes(t *testing.T) {
	t.Parallel()
	r := startReplica(t, "--register", "hook="+tunnelUpstream(t, switched+noHTTP), "--rate", "off")
	for range 20 {
		conn, in := sendRaw(t, r.addr, handshake)
		readResponse(t, in, http.StatusSwitchingProtocols)
		_, _ = io.WriteString(conn, noHTTP+"more")
		expectBytes(t, in, noHTTP+noHTTP+"more")
	}
}

// RFC 9110 7.8 lets a client go on in the new protocol before it is agreed on.
func TestTunnelLosesNothingOfAnEagerClient(t *testing.T) {
	t.Parallel()
	r := startReplica(t, "--register", "hook="+tunnelUpstream(t, switched), "--rate", "off")
	for range 20 {
		conn, in := sendRaw(t, r.addr, handshake+noHTTP)
		readResponse(t, in, http.StatusSwitchingProtocols)
		_, _ = io.WriteString(conn, "more")
		expectBytes(t, in, noHTTP+"more")
	}
}

// What follows a request for another protocol that is not granted is HTTP, and
// read as strictly as ever, whether it waits for the answer or not.
func TestRefusedTunnelIsStillRead(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	r := startReplica(t, "--register", "hook="+u.URL, "--rate", "off", "--dedupe", "off")
	const next = "POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
	const good, bad = next + "\r\nhello", next + "Content-Length: 5\r\n\r\nhello"
	for name, first := range map[string]string{
		"a handshake":         handshake,
		"one of HTTP/1.0":     strings.NewReplacer("HTTP/1.1", "HTTP/1.0", "Upgrade\r\n", "Upgrade, keep-alive\r\n").Replace(handshake),
		"Upgrade without aim": strings.Replace(handshake, "Connection: Upgrade\r\n", "", 1),
	} {
		for _, eager := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, eager %v", name, eager), func(t *testing.T) {
				before := len(u.all())
				all := good + bad
				now, later := all, ""
				if !eager {
					now, later = "", all
				}
				conn, in := sendRaw(t, r.addr, first+now)
				readResponse(t, in, http.StatusOK)
				_, _ = io.WriteString(conn, later)
				readResponse(t, in, http.StatusOK)
				readResponse(t, in, http.StatusBadRequest)
				if n, err := io.Copy(io.Discard, in); n != 0 || err != nil {
					t.Errorf("after 400: %d bytes, %v", n, err)
				}
				if n := len(u.all()) - before; n != 2 {
					t.Errorf("%d requests reached the upstream, want 2", n)
				}
			})
		}
	}
}

func TestOnlyTheProtocolAskedForIsSwitchedTo(t *testing.T) {
	t.Parallel()
	const plainly = "GET /hook HTTP/1.1\r\nHost: x\r\n\r\n"
	other := strings.Replace(switched, "websocket", "gopher", 1)
	for name, c := range map[string]struct{ request, answer string }{
		"not asked for":             {plainly, switched},
		"named in no Connection":    {strings.Replace(handshake, "Connection: Upgrade\r\n", "", 1), switched},
		"h2c, a way around it all":  {strings.Replace(handshake, "websocket", "h2c", 1), strings.Replace(switched, "websocket", "h2c", 1)},
		"another than asked for":    {handshake, other},
		"one where none is wanted":  {plainly, other},
		"none at all is named":      {handshake, strings.Replace(switched, "Upgrade: websocket\r\n", "", 1)},
		"a POST, which has a lock":  {strings.Replace(plainly, "GET", "POST", 1), switched},
		"a name that cannot be one": {handshake, strings.Replace(switched, "websocket", "web\xffsocket", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			r := startReplica(t, "--register", "hook="+tunnelUpstream(t, c.answer), "--rate", "off")
			_, in := sendRaw(t, r.addr, c.request)
			readResponse(t, in, http.StatusBadGateway)
		})
	}
}

// Fails if the second of equal handshakes is taken for a repetition.
func TestEqualHandshakesAreNoDuplicates(t *testing.T) {
	t.Parallel()
	r := startReplica(t, "--register", "hook="+tunnelUpstream(t, switched), "--rate", "off", "--dedupe", "all")
	var conns []net.Conn
	var ins []*bufio.Reader
	for range 5 {
		conn, in := sendRaw(t, r.addr, handshake)
		readResponse(t, in, http.StatusSwitchingProtocols)
		conns, ins = append(conns, conn), append(ins, in)
	}
	for i, conn := range conns { // all at the same time
		_, _ = fmt.Fprint(conn, "tunnel ", i)
	}
	for i, in := range ins {
		expectBytes(t, in, fmt.Sprint("tunnel ", i))
	}
}
