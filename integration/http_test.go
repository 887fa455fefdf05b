package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// What passes is told to the byte, over connections of the test's own: an HTTP
// library would not send half of it, and would tidy up what it reads.

// canary is in every registered URL here. No log may tell it.
const canary = "CANARY"

// rawUpstream records requests to the byte, and says what respond writes.
type rawUpstream struct {
	addr    string
	respond func(*rawCall)

	mu    sync.Mutex
	heard []string // requests that came whole
	cut   int      // and that did not
	conns []net.Conn
}

// rawCall is a request whose header has arrived.
type rawCall struct {
	net.Conn
	request  *http.Request
	upstream *rawUpstream
	text     bytes.Buffer
}

func newRawUpstream(t *testing.T, respond func(*rawCall)) *rawUpstream {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &rawUpstream{addr: listener.Addr().String(), respond: respond}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			u.mu.Lock()
			u.conns = append(u.conns, conn)
			u.mu.Unlock()
			serving.Go(func() { u.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		u.mu.Lock()
		for _, conn := range u.conns {
			_ = conn.Close()
		}
		u.mu.Unlock()
		serving.Wait()
	})
	return u
}

func (u *rawUpstream) serve(conn net.Conn) {
	defer conn.Close()
	for {
		c := &rawCall{Conn: conn, upstream: u}
		var err error
		if c.request, err = http.ReadRequest(bufio.NewReader(io.TeeReader(conn, c))); err != nil {
			return
		}
		u.respond(c)
		if c.request == nil {
			return
		}
	}
}

// Write keeps the beginning of what the upstream reads.
func (c *rawCall) Write(p []byte) (int, error) {
	const most = 64 << 10
	c.text.Write(p[:max(0, min(len(p), most-c.text.Len()))])
	return len(p), nil
}

// read reads the body, and reports whether all of it has come.
func (c *rawCall) read() bool {
	_, err := io.Copy(io.Discard, c.request.Body)
	c.upstream.mu.Lock()
	defer c.upstream.mu.Unlock()
	if err != nil {
		c.upstream.cut++
		return false
	}
	c.upstream.heard = append(c.upstream.heard, c.text.String())
	return true
}

func (c *rawCall) say(text string) { _, _ = io.WriteString(c.Conn, text) }

// hangUp ends the connection.
func (c *rawCall) hangUp() { c.request = nil }

// inOrder returns a message with its fields by name: the order of different
// ones means nothing.
func inOrder(message string) string {
	head, body, _ := strings.Cut(message, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	slices.SortStableFunc(lines[1:], func(a, b string) int {
		name, _, _ := strings.Cut(a, ":")
		other, _, _ := strings.Cut(b, ":")
		return strings.Compare(name, other)
	})
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

// url is what to register: its path is the secret.
func (u *rawUpstream) url() string { return "http://" + u.addr + "/" + canary }

// last returns the latest request that came whole.
func (u *rawUpstream) last() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.heard) == 0 {
		return ""
	}
	return u.heard[len(u.heard)-1]
}

// counts returns how many requests came whole and cut, on how many connections.
func (u *rawUpstream) counts() (heard, cut, conns int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.heard), u.cut, len(u.conns)
}

// startQuiet starts a replica without budgets, whose standard error must not
// tell the canary.
func startQuiet(t *testing.T, words ...string) *replica {
	t.Helper()
	r := startReplica(t, append(words, "--rate", "off", "--log-level", "debug")...)
	expectNoCanary(t, r)
	return r
}

// expectNoCanary looks at standard error when the test is over.
func expectNoCanary(t *testing.T, r *replica) {
	t.Cleanup(func() {
		r.end(t)
		if log := r.stderr.String(); strings.Contains(log, canary) {
			t.Errorf("standard error tells the canary: %.2000s", log)
		}
	})
}

// rawClient is a client's connection.
type rawClient struct {
	*net.TCPConn
	in *bufio.Reader
}

func dial(t *testing.T, addr string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &rawClient{conn.(*net.TCPConn), bufio.NewReader(conn)}
}

// say sends text; the replica may have closed the connection by then.
func (c *rawClient) say(text string) { _, _ = io.WriteString(c, text) }

// hear returns the status of the next answer, and what it says; the error is
// that of its body.
func (c *rawClient) hear(t *testing.T, method string) (*http.Response, string, error) {
	t.Helper()
	res, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		t.Errorf("no answer: %v", err)
		return &http.Response{}, "", err
	}
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

// crlf turns LF into CRLF.
func crlf(text string) string { return strings.ReplaceAll(text, "\n", "\r\n") }

// okay is a short answer.
const okay = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: d\r\n\r\nok"

func TestHTTPRequestsArriveToTheByte(t *testing.T) {
	t.Parallel()
	u := newRawUpstream(t, func(c *rawCall) {
		if c.read() {
			c.say(okay)
		}
	})
	r := startQuiet(t, "--register", "hook="+u.url(), "--register", "query="+u.url()+"/?first="+canary, "--hold", "0s,unknown=0s",
		"--register", "stream="+u.url(), "--dedupe", "stream=off",
		"--register", "bare="+u.url(), "--forwarded", "bare=off",
		"--register", "user=http://user:p%40ss@"+u.addr+"/"+canary,
		"--register", "set="+u.url(), "--set-header", "set=X-Key=1="+canary, "--set-header", "set=Authorization=Bearer "+canary)
	ours := func(route string) string {
		return "Via: 1.1 throttle-proxy\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Host: gateway\nX-Forwarded-Prefix: /" + route + "\nX-Forwarded-Proto: http\nX-Request-Id: id\n"
	}
	const chunked = "Transfer-Encoding: chunked\n"
	for name, tt := range map[string]struct {
		line, fields, body             string
		wantLine, wantFields, wantBody string
	}{
		"query after ours": {"GET /query/x?y;%", "", "", "GET /CANARY/x?first=CANARY&y;%", ours("query"), ""},
		"chunked body":     {"POST /hook", chunked, "2\nbo\n2;x=y\ndy\n0\n\n", "POST /CANARY", "Content-Length: 4\n" + ours("hook"), "body"},
		"streamed chunks":  {"POST /stream", chunked, "4\nbody\n0\n\n", "POST /CANARY", chunked + ours("stream"), "4\nbody\n0\n\n"},
		"forwarded off":    {"GET /bare", "X-Forwarded-For: 192.0.2.1\n", "", "GET /CANARY", "X-Request-Id: id\n", ""},
		"userinfo": {"GET /user", "Authorization: Bearer client\n", "", "GET /CANARY",
			"Authorization: Basic dXNlcjpwQHNz\n" + ours("user"), ""},
		"header set": {"GET /set", "Authorization: Bearer client\nX-Key: client\nConnection: X-Key\n", "", "GET /CANARY",
			"Authorization: Bearer CANARY\n" + strings.Replace(ours("set"), "X-R", "X-Key: 1=CANARY\nX-R", 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, r.addr)
			c.say(crlf(tt.line + " HTTP/1.1\nHost: gateway\nX-Request-Id: id\n" + tt.fields + "\n" + tt.body))
			if res, body, err := c.hear(t, ""); err != nil || res.StatusCode != http.StatusOK || body != "ok" {
				t.Fatalf("got %d %q, error %v", res.StatusCode, body, err)
			}
			want := crlf(tt.wantLine + " HTTP/1.1\nHost: " + u.addr + "\n" + tt.wantFields + "\n" + tt.wantBody)
			if got := u.last(); inOrder(got) != inOrder(want) {
				t.Errorf("the upstream got\n%q, want\n%q", got, want)
			}
		})
	}
}

// A part of an answer reaches the client while the upstream has not said the
// rest.
func TestHTTPAnswersFlowAsTheyCome(t *testing.T) {
	t.Parallel()
	rows := map[string]struct{ header, first, rest string }{
		"length":      {"Content-Length: 10\n", "first", "later"},
		"chunks":      {"Transfer-Encoding: chunked\n", "5\nfirst\n", "5\nlater\n0\n\n"},
		"events":      {"Content-Type: text/event-stream\nTransfer-Encoding: chunked\n", "5\nfirst\n", "5\nlater\n0\n\n"},
		"header only": {"Transfer-Encoding: chunked\n", "", "5\nlater\n0\n\n"},
	}
	read := make(chan struct{})
	u := newRawUpstream(t, func(c *rawCall) {
		c.read()
		row := rows[c.request.Header.Get("X-Row")]
		c.say(crlf("HTTP/1.1 200 OK\n" + row.header + "\n" + row.first))
		select {
		case <-read:
		case <-t.Context().Done():
		}
		c.say(crlf(row.rest))
	})
	r := startQuiet(t, "--register", "hook="+u.url(), "--hold", "0s,unknown=0s")
	for name, row := range rows {
		for _, method := range []string{"GET", "POST"} {
			t.Run(method+" "+name, func(t *testing.T) {
				c := dial(t, r.addr)
				c.say(crlf(method + " /hook HTTP/1.1\nHost: gateway\nX-Row: " + name + "\n\n"))
				res, err := http.ReadResponse(c.in, nil)
				if err != nil {
					t.Fatalf("no header before the rest: %v", err)
				}
				if row.first != "" {
					first := make([]byte, 5)
					if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "first" {
						t.Fatalf("got %q before the rest: %v", first, err)
					}
				}
				read <- struct{}{}
				if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "later" {
					t.Errorf("the rest: got %q, error %v", rest, err)
				}
			})
		}
	}
}

// An upstream need not read what it refuses.
func TestHTTPAnswerBeforeTheBodyIsSent(t *testing.T) {
	t.Parallel()
	u := newRawUpstream(t, func(c *rawCall) {
		c.say(crlf("HTTP/1.1 " + c.request.Header.Get("X-Status") + " No\nContent-Length: 2\nConnection: close\n\nno"))
		_, _ = io.CopyN(io.Discard, c.request.Body, 1)
		<-t.Context().Done()
		c.hangUp()
	})
	r := startQuiet(t, "--register", "hook="+u.url(), "--dedupe", "off")
	for _, status := range []int{401, 413} {
		for name, start := range map[string]string{
			"large":   "Content-Length: 100000000\n\nstart",
			"small":   "Content-Length: 1000\n\nstart",
			"chunked": "Transfer-Encoding: chunked\n\n5\nstart\n",
		} {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				t.Parallel()
				c := dial(t, r.addr)
				c.say(crlf(fmt.Sprintf("POST /hook HTTP/1.1\nHost: gateway\nX-Status: %d\n", status) + start))
				if res, body, err := c.hear(t, ""); res.StatusCode != status || body != "no" || err != nil {
					t.Errorf("got %d %q, error %v", res.StatusCode, body, err)
				}
			})
		}
	}
}
