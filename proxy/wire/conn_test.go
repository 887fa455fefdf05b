package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// script is a net.Conn whose client has said all it will say, in pieces.
type script struct {
	net.Conn
	pieces [][]byte
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

// through returns what a server reads of a client that says input, in pieces
// of the given size.
func through(input string, size int) string {
	s := &script{}
	for rest := []byte(input); len(rest) > 0; {
		n := min(size, len(rest))
		s.pieces, rest = append(s.pieces, rest[:n]), rest[n:]
	}
	got, err := io.ReadAll(NewConn(s, Timeouts{}))
	if why := (*Refusal)(nil); errors.As(err, &why) {
		return string(got) + mistake
	}
	return string(got)
}

// mistake stands for an error in a body.
const mistake = "<mistake>"

const postHead = "POST /slack HTTP/1.1\r\nHost: a\r\n"

func TestConnPassesWhatIsValid(t *testing.T) {
	for name, input := range map[string]string{
		"no body":               "GET /slack HTTP/1.1\r\nHost: a\r\n\r\n",
		"HTTP/1.0":              "GET /slack HTTP/1.0\r\n\r\n",
		"length":                postHead + "Content-Length: 5\r\n\r\nhello",
		"length zero":           postHead + "Content-Length: 0\r\n\r\n",
		"chunked":               postHead + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=\"y\"\r\n0123456789\r\n0\r\n\r\n",
		"trailers":              postHead + "Transfer-Encoding: Chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n",
		"pipelined":             postHead + "Content-Length: 2\r\n\r\n\n\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
		"absolute form":         "GET http://a/slack HTTP/1.1\r\nHost: a\r\n\r\n",
		"tab in a value":        "GET / HTTP/1.1\r\nHost: a\r\nX: a\tb\r\n\r\n",
		"body of line ends":     postHead + "Content-Length: 6\r\n\r\n\r\n\n\n\r\n",
		"port and IPv6":         "GET / HTTP/1.1\r\nHost: [::1]:44444\r\n\r\n",
		"HTTP/2 from then on":   "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04",
		"bytes over 0x7f":       "GET / HTTP/1.1\r\nHost: a\r\nX: \xc3\xa4\r\n\r\n",
		"empty value":           "GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n",
		"raw UTF-8":             "GET /\xc3\xa4{|}^\"<>\\?q=\xc3\xa9%zz HTTP/1.1\r\nHost: a\r\n\r\n",
		"upgrade, then nothing": "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
	} {
		for _, size := range []int{1, 2, 7, 1 << 20} {
			if got := through(input, size); got != input {
				t.Errorf("%s in pieces of %d: got %q, want %q", name, size, got, input)
			}
		}
	}
}

// ambiguous are messages that two readers may understand differently.
var ambiguous = map[string]string{
	"two lengths":                postHead + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
	"list of lengths":            postHead + "Content-Length: 5, 6\r\n\r\nhello",
	"signed length":              postHead + "Content-Length: +5\r\n\r\nhello",
	"hexadecimal length":         postHead + "Content-Length: 0x5\r\n\r\nhello",
	"empty length":               postHead + "Content-Length:\r\n\r\n",
	"length past all bounds":     postHead + "Content-Length: 99999999999999999999\r\n\r\n",
	"length and chunks":          postHead + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"chunks and length":          postHead + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	"unknown coding":             postHead + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"coding twice":               postHead + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"coding with vertical tab":   postHead + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n",
	"chunks in HTTP/1.0":         "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"chunk size 0x5":             postHead + "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
	"signed chunk size":          postHead + "Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
	"chunk size with a space":    postHead + "Transfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
	"empty chunk size":           postHead + "Transfer-Encoding: chunked\r\n\r\n\r\nhello\r\n0\r\n\r\n",
	"chunk size past all bounds": postHead + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
	"bare LF after chunk size":   postHead + "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
	"bare LF in an extension":    postHead + "Transfer-Encoding: chunked\r\n\r\n5;a\nb\r\nhello\r\n0\r\n\r\n",
	"bare LF after a chunk":      postHead + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n",
	"chunk longer than its size": postHead + "Transfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n",
	"bare LF in the header":      "GET / HTTP/1.1\nHost: a\n\n",
	"bare LF ends the header":    "GET / HTTP/1.1\r\nHost: a\r\n\n",
	"bare CR":                    "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
	"NUL":                        "GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
	"folded line":                "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
	"folded line with a colon":   "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tY: b\r\n\r\n",
	"space before the colon":     "GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello",
	"no name":                    "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
	"no colon":                   "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
	"two Hosts":                  "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
	"path in Host":               "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
	"userinfo in Host":           "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
	"HTTP/0.9":                   "GET /\r\n\r\n",
	"HTTP/1.2":                   "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
	"HTTP/2.0 by text":           "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
	"tab in the request line":    "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
	"two spaces":                 "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
	"space at the end":           "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
	"fragment":                   "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n",
	"no target":                  "GET  HTTP/1.1\r\nHost: a\r\n\r\n",
	"no slash":                   "GET slack HTTP/1.1\r\nHost: a\r\n\r\n",
	"no method":                  " / HTTP/1.1\r\nHost: a\r\n\r\n",
	"a method with a slash":      "GE/T / HTTP/1.1\r\nHost: a\r\n\r\n",
	"a broken escape":            "GET /a%zz HTTP/1.1\r\nHost: a\r\n\r\n",
	"two empty lines first":      "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
	"no Host":                    "GET / HTTP/1.1\r\n\r\n",
	"another expectation":        "GET / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n",
	"a long header":              "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", maxHead) + "\r\n\r\n",
	"many fields":                "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: x\r\n", maxHead/5) + "\r\n",
	"odd trailer":                postHead + "Transfer-Encoding: chunked\r\n\r\n0\r\nX : 1\r\n\r\n",
	"bare LF ends the trailer":   postHead + "Transfer-Encoding: chunked\r\n\r\n0\r\nX: 1\r\n\n",
}

// statuses of refusals that are not 400.
var statuses = map[string]int{
	"unknown coding":           http.StatusNotImplemented,
	"coding with vertical tab": http.StatusBadRequest,
	"HTTP/1.2":                 http.StatusHTTPVersionNotSupported,
	"HTTP/2.0 by text":         http.StatusHTTPVersionNotSupported,
	"another expectation":      http.StatusExpectationFailed,
	"a long header":            http.StatusRequestHeaderFieldsTooLarge,
	"many fields":              http.StatusRequestHeaderFieldsTooLarge,
}

// cutRefusal returns what the server has read before a refusal.
func cutRefusal(got string) (before string, refused bool) {
	if before, ok := strings.CutSuffix(got, mistake); ok {
		return before, true
	}
	head, _, found := strings.Cut(got, refusedField)
	i := strings.LastIndex(head, "POST / ")
	return got[:max(i, 0)], found && i >= 0
}

// What is refused never reaches a handler whole, and the server answers by what
// is told of it, and closes.
func TestConnRefusesWhatIsAmbiguous(t *testing.T) {
	for name, input := range ambiguous {
		for _, size := range []int{1, 7, 1 << 20} {
			got := through(input, size)
			before, refused := cutRefusal(got)
			if !refused || !strings.HasPrefix(input, before) {
				t.Errorf("%s in pieces of %d: the server reads %q", name, size, got)
			}
		}
		t.Run(name, func(t *testing.T) {
			const follower = "GET /follower HTTP/1.1\r\nHost: a\r\n\r\n"
			whole := 0
			status := serveConn(t, input+follower, func(w http.ResponseWriter, r *http.Request) {
				if why := Refused(r); why != nil {
					w.WriteHeader(why.Status)
					_ = http.NewResponseController(w).SetReadDeadline(time.Now()) // nothing else ends the client
				} else if _, err := io.Copy(io.Discard, r.Body); err == nil {
					whole++
				} else {
					w.WriteHeader(http.StatusBadRequest) // in trailers net/http finds words of its own
				}
			})
			if whole > 0 {
				t.Errorf("the handler got %d whole requests", whole)
			}
			want, ok := statuses[name]
			if !ok {
				want = http.StatusBadRequest
			}
			if len(status) != 1 || status[0] != want {
				t.Errorf("answers: %v, want one, %d", status, want)
			}
		})
	}
}

// TestConn_EmptyLineBetweenRequests is left out, but only one.
func TestConn_EmptyLineBetweenRequests(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	const post = postHead + "Content-Length: 2\r\n\r\nok"
	for _, size := range []int{1, 2, 3, 7, 1 << 20} {
		if got, want := through("\r\n"+post+"\r\n"+get+"\r\n"+post+"\r\n", size), post+get+post; got != want {
			t.Errorf("in pieces of %d: got %q, want %q", size, got, want)
		}
	}
}

// TestConn_LateHeader begins with its first byte, or with the connection.
func TestConn_LateHeader(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, tt := range map[string]struct {
		first, then string
		want        string
	}{
		"nothing was said":       {"", "", ""},
		"a part at first":        {"", "GET / HT", "408"},
		"a part after a request": {get, "G", "408"},
		"nothing after one":      {get, "", ""},
	} {
		synctestRun(t, name, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			c := NewConn(near, Timeouts{Idle: time.Hour, Header: 10 * time.Second})
			defer c.Close()
			if tt.first != "" {
				_ = c.SetReadDeadline(time.Now().Add(time.Minute)) // the server's, between requests
			}
			go func() { _, _ = io.WriteString(far, tt.first+tt.then) }()
			if _, err := io.ReadFull(c, make([]byte, len(tt.first))); err != nil {
				t.Fatal(err)
			}
			begun, p := time.Now(), make([]byte, 1<<10)
			n, err := c.Read(p)
			took := time.Since(begun)
			switch {
			case tt.want == "" && !errors.Is(err, os.ErrDeadlineExceeded):
				t.Errorf("got %q, %v, want %v", p[:n], err, os.ErrDeadlineExceeded)
			case tt.want != "" && (!strings.Contains(string(p[:n]), refusedField+": 408 ") || took != 10*time.Second+grace):
				t.Errorf("got %q after %s, want 408 after 10 s", p[:n], took)
			}
		})
	}
}

func synctestRun(t *testing.T, name string, f func(*testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// serveConn lets a net/http server answer what a client says, and returns the
// statuses of its answers.
func serveConn(t *testing.T, input string, handler http.HandlerFunc) (statuses []int) {
	t.Helper()
	client := serve(t, Timeouts{}, handler)
	_ = client.SetDeadline(time.Now().Add(30 * time.Second))
	go func() { _, _ = io.WriteString(client, input) }()
	in := bufio.NewReader(client)
	for {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return statuses
		}
		_, _ = io.Copy(io.Discard, res.Body)
		statuses = append(statuses, res.StatusCode)
	}
}

// serve returns the client's end of a Conn on which a net/http server answers. In a
// bubble its time is the bubble's.
func serve(t *testing.T, timeouts Timeouts, handler http.HandlerFunc) (client net.Conn) {
	t.Helper()
	client, server := net.Pipe()
	listener := &oneConn{conns: make(chan net.Conn, 1)}
	listener.conns <- NewConn(server, timeouts)
	srv := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(listener) }()
	t.Cleanup(func() {
		_ = client.Close()
		close(listener.conns)
		_ = srv.Close()
		<-done
	})
	return client
}

type oneConn struct{ conns chan net.Conn }

func (l *oneConn) Accept() (net.Conn, error) {
	conn, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// FuzzConn holds against what net/http makes of the same bytes: how they are
// cut into reads changes nothing, and a request that net/http reads through a
// Conn is one that a strict reader reads without.
func FuzzConn(f *testing.F) {
	for _, input := range ambiguous {
		f.Add([]byte(input), 3)
	}
	f.Add([]byte(postHead+"Content-Length: 5\r\n\r\nhello"+postHead+"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), 1)
	f.Fuzz(func(t *testing.T, input []byte, size int) {
		if size < 1 || len(input) > 1<<12 {
			return
		}
		passed := through(string(input), 1<<20)
		// Of a line that is refused, the server may have read the beginning.
		if got := wholeLines(through(string(input), size)); got != wholeLines(passed) {
			t.Fatalf("in pieces of %d the server reads %q, in one %q", size, got, passed)
		}
		in := bufio.NewReader(strings.NewReader(passed))
		for !strings.HasPrefix(passed, "PRI") {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			head, _, _ := bytes.Cut(input, []byte("\r\n\r\n"))
			if n := len(r.Header["Content-Length"]); n > 1 || n == 1 && len(r.TransferEncoding) > 0 {
				t.Fatalf("%d lengths and %v read from %q", n, r.TransferEncoding, head)
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			if r.Header.Get("Upgrade") != "" {
				return
			}
		}
	})
}

func wholeLines(passed string) string {
	before, refused := cutRefusal(passed)
	if !refused {
		return passed
	}
	return before[:strings.LastIndexByte(before, '\n')+1]
}

func BenchmarkConn(b *testing.B) {
	request := []byte(postHead + "User-Agent: bench\r\nAccept: */*\r\nContent-Type: application/json\r\nX-Api-Key: bench\r\nContent-Length: 200\r\n\r\n" + strings.Repeat("x", 200))
	s := &script{}
	w := NewConn(s, Timeouts{})
	buf := make([]byte, 4096)
	b.ReportAllocs()
	b.SetBytes(int64(len(request)))
	for b.Loop() {
		s.pieces = append(s.pieces[:0], request)
		if _, err := w.Read(buf); err != nil {
			b.Fatal(fmt.Errorf("read: %w", err))
		}
	}
}
