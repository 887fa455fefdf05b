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

// rest returns all that the replica still says before it closes.
func (c *rawClient) rest() string {
	text, _ := io.ReadAll(c.in)
	return string(text)
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
	r := startQuiet(t, "--register", "hook="+u.url(), "--register", "query="+u.url()+"/?first="+canary, "--hold", "0s",
		"--register", "stream="+u.url(), "--dedupe", "stream=off",
		"--register", "bare="+u.url(), "--forwarded", "bare=off",
		"--register", "user=http://user:p%40ss@"+u.addr+"/"+canary,
		"--register", "set="+u.url(), "--set-header", "set=X-Key=1="+canary, "--set-header", "set=Authorization=Bearer "+canary)
	const ours = "Via: 1.1 throttle-proxy\nX-Forwarded-For: 127.0.0.1\nX-Forwarded-Host: gateway\nX-Forwarded-Proto: http\nX-Request-Id: id\n"
	const chunked = "Transfer-Encoding: chunked\n"
	for name, tt := range map[string]struct {
		line, fields, body             string
		wantLine, wantFields, wantBody string
	}{
		"nothing is invented":  {"GET /hook", "", "", "GET /CANARY", ours, ""},
		"semicolon":            {"GET /hook/a?x=1;y=2", "", "", "GET /CANARY/a?x=1;y=2", ours, ""},
		"bad escapes":          {"GET /hook?a=%zz&b=%&%=&&c", "", "", "GET /CANARY?a=%zz&b=%&%=&&c", ours, ""},
		"escapes in the path":  {"GET /hook/a%2Fb//c%2f/%41%0d%0a", "", "", "GET /CANARY/a%2Fb//c%2f/%41%0d%0a", ours, ""},
		"dots that stay below": {"GET /hook/a/../b/./c", "", "", "GET /CANARY/a/../b/./c", ours, ""},
		"query after ours":     {"GET /query/x?y;%", "", "", "GET /CANARY/x?first=CANARY&y;%", ours, ""},
		"odd method":           {"M-SEARCH /hook", "", "", "M-SEARCH /CANARY", ours, ""},
		"absolute form":        {"GET http://gateway/hook/x?y", "", "", "GET /CANARY/x?y", ours, ""},
		"body":                 {"POST /hook", "Content-Length: 4\n", "body", "POST /CANARY", "Content-Length: 4\n" + ours, "body"},
		"streamed body":        {"POST /stream", "Content-Length: 4\n", "body", "POST /CANARY", "Content-Length: 4\n" + ours, "body"},
		"chunked body":         {"POST /hook", chunked, "2\nbo\n2;x=y\ndy\n0\n\n", "POST /CANARY", "Content-Length: 4\n" + ours, "body"},
		"streamed chunks":      {"POST /stream", chunked, "4\nbody\n0\n\n", "POST /CANARY", chunked + ours, "4\nbody\n0\n\n"},
		"trailers, less forbidden ones": {
			"POST /hook", chunked, "4\nbody\n0\nX-Sum: 1\nHost: evil\nAuthorization: evil\nCookie: evil\nX-Forwarded-For: evil\nContent-Length: 9\nX-Request-Id: evil\n\n",
			"POST /CANARY", "Transfer-Encoding: chunked\nTrailer: X-Sum\n" + ours, "4\nbody\n0\nX-Sum: 1\n\n"},
		"trailers of a stream": {
			"POST /stream", "Trailer: X-Sum, Authorization\n" + chunked, "4\nbody\n0\nX-Sum: 1\nAuthorization: evil\n\n",
			"POST /CANARY", "Transfer-Encoding: chunked\nTrailer: X-Sum\n" + ours, "4\nbody\n0\nX-Sum: 1\n\n"},
		"what the client says is kept": {
			"GET /hook", "User-Agent: a\nAccept-Encoding: br\nAuthorization: b\nCookie: c=1\nX-A: 1\nX-A: 2\nX-B:\nX-C: \xe4\n", "",
			"GET /CANARY", "User-Agent: a\nAccept-Encoding: br\nAuthorization: b\nCookie: c=1\n" +
				strings.Replace(ours, "X-F", "X-A: 1\nX-A: 2\nX-B: \nX-C: \xe4\nX-F", 1), ""},
		"hop-by-hop, first Connection empty": {
			"GET /hook", "Connection:\nConnection: X-Hop, x-other\nConnection: keep-alive, X-Third\nX-Hop: 1\nX-Other: 2\nX-Third: 3\n" +
				"Keep-Alive: timeout=5\nProxy-Connection: x\nProxy-Authorization: Basic x\nTE: gzip\n", "",
			"GET /CANARY", ours, ""},
		"Connection cannot name our fields": {
			"GET /hook", "Connection: X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, Via\n", "",
			"GET /CANARY", ours, ""},
		"spoofed origin": {
			"GET /hook", "X-Forwarded-For: 192.0.2.1\nX-Forwarded-Proto: https\nX-Forwarded-Prefix: /x\nX-Real-IP: 192.0.2.1\nForwarded: for=192.0.2.1\n", "",
			"GET /CANARY", ours, ""},
		"trailers are welcome": {"GET /hook", "TE: trailers, gzip\n", "", "GET /CANARY", "Te: trailers\n" + ours, ""},
		"h2c is not asked for": {
			"GET /hook", "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\n", "",
			"GET /CANARY", ours, ""},
		"forwarded off": {"GET /bare", "X-Forwarded-For: 192.0.2.1\n", "", "GET /CANARY", "X-Request-Id: id\n", ""},
		"userinfo": {"GET /user", "Authorization: Bearer client\n", "", "GET /CANARY",
			"Authorization: Basic dXNlcjpwQHNz\n" + ours, ""},
		"header set": {"GET /set", "Authorization: Bearer client\nX-Key: client\nConnection: X-Key\n", "", "GET /CANARY",
			"Authorization: Bearer CANARY\n" + strings.Replace(ours, "X-R", "X-Key: 1=CANARY\nX-R", 1), ""},
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

func TestHTTPRequestsThatNeverArrive(t *testing.T) {
	t.Parallel()
	u := newRawUpstream(t, func(c *rawCall) {
		if c.read() {
			c.say(okay)
		}
	})
	r := startQuiet(t, "--register", "hook="+u.url())
	for line, want := range map[string]int{
		"GET /hook/../x":        400,
		"GET /hook/%2e%2e/x":    400,
		"GET /hook/a/..%2f../x": 400,
		"GET /hook/..%5cx":      400,
		"GET /hook/..;a=b/x":    400,
		"TRACE /hook":           405,
		"CONNECT /hook":         405,
		"CONNECT hook:443":      0,
		"CONNECT " + u.addr:     0,
		"OPTIONS *":             0,
		"GET *":                 0,
		"GET hook":              400,
		"GET //hook":            404,
		"GET /%68ook":           404,
		"GET /":                 404,
		"POST /hook%2f..":       404,
	} {
		t.Run(line, func(t *testing.T) {
			c := dial(t, r.addr)
			c.say(crlf(line + " HTTP/1.1\nHost: gateway\nConnection: close\n\n"))
			res, body, _ := c.hear(t, strings.Fields(line)[0])
			if res.StatusCode != want && (want != 0 || res.StatusCode < 400 || res.StatusCode > 499) {
				t.Errorf("got %d, want %d (0: any 4xx)", res.StatusCode, want)
			}
			if rest := c.rest(); rest != "" || strings.Contains(body, u.addr) {
				t.Errorf("got %q, and then %q", body, rest)
			}
		})
	}
	if heard, cut, conns := u.counts(); heard+cut+conns != 0 {
		t.Errorf("%d requests, %d in part, on %d connections to the upstream", heard, cut, conns)
	}
}

// Each answer is followed by another on the same connection, so that one which
// is out of step is seen.
func TestHTTPAnswersArriveToTheByte(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\nContent-Length: 2\nDate: d\n"
	rows := map[string]struct{ method, answer, want string }{
		"nothing is invented": {"GET", head + "\nok", head + "\nok"},
		"not even a type":     {"GET", head + "\n<p", head + "\n<p"},
		"103 without hop-by-hop": {"GET",
			"HTTP/1.1 103 Early Hints\nLink: </a>\nConnection: X-Hop\nX-Hop: 1\nKeep-Alive: timeout=5\nProxy-Authenticate: x\n\n" + head + "\nok",
			"HTTP/1.1 103 Early Hints\nLink: </a>\n\n" + head + "\nok"},
		"many 1xx": {"GET",
			strings.Repeat("HTTP/1.1 103 Early Hints\nLink: </a>\n\n", 3) + head + "\nok",
			strings.Repeat("HTTP/1.1 103 Early Hints\nLink: </a>\n\n", 3) + head + "\nok"},
		"hop-by-hop": {"GET",
			head + "Connection:\nConnection: X-Hop\nKeep-Alive: timeout=5\nProxy-Authenticate: x\nX-Hop: 1\nX-Kept: 2\n\nok",
			head + "X-Kept: 2\n\nok"},
		"HEAD":              {"HEAD", "HTTP/1.1 200 OK\nContent-Length: 5\nDate: d\n\n", "HTTP/1.1 200 OK\nContent-Length: 5\nDate: d\n\n"},
		"204":               {"GET", "HTTP/1.1 204 No Content\nDate: d\n\n", "HTTP/1.1 204 No Content\nDate: d\n\n"},
		"204 to a POST":     {"POST", "HTTP/1.1 204 No Content\nDate: d\n\n", "HTTP/1.1 204 No Content\nDate: d\n\n"},
		"304":               {"GET", "HTTP/1.1 304 Not Modified\nDate: d\nEtag: \"e\"\n\n", "HTTP/1.1 304 Not Modified\nDate: d\nEtag: \"e\"\n\n"},
		"304 with a length": {"GET", "HTTP/1.1 304 Not Modified\nContent-Length: 5\nDate: d\n\n", "HTTP/1.1 304 Not Modified\nDate: d\n\n"},
		"empty":             {"GET", "HTTP/1.1 200 OK\nContent-Length: 0\nDate: d\n\n", "HTTP/1.1 200 OK\nContent-Length: 0\nDate: d\n\n"},
		"trailers, less forbidden ones": {"GET",
			"HTTP/1.1 200 OK\nDate: d\nTrailer: X-Sum, Authorization\nTransfer-Encoding: chunked\n\n2\nok\n0\nX-Sum: 1\nAuthorization: evil\n\n",
			"HTTP/1.1 200 OK\nDate: d\nTrailer: X-Sum\nTransfer-Encoding: chunked\n\n2\nok\n0\nX-Sum: 1\n\n"},
		"trailers unannounced": {"GET",
			"HTTP/1.1 200 OK\nDate: d\nTransfer-Encoding: chunked\n\n2\nok\n0\nX-Sum: 1\n\n",
			"HTTP/1.1 200 OK\nDate: d\nTransfer-Encoding: chunked\n\n2\nok\n0\nX-Sum: 1\n\n"},
		"to the connection's end": {"GET",
			"HTTP/1.0 200 OK\nDate: d\n\nok", "HTTP/1.1 200 OK\nDate: d\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n"},
		"gzip": {"GET", head + "Content-Encoding: gzip\n\n\x1f\x8b", "HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 2\nDate: d\n\n\x1f\x8b"},
		"cookies": {"GET", head + "Set-Cookie: a=1; Domain=upstream; Path=/CANARY\nSet-Cookie: b=2\n\nok",
			head + "Set-Cookie: a=1; Domain=upstream; Path=/CANARY\nSet-Cookie: b=2\n\nok"},
		"redirect below": {"GET",
			"HTTP/1.1 302 Found\nContent-Length: 0\nDate: d\nLocation: http://UPSTREAM/CANARY/a%2Fb?c#d\n\n",
			"HTTP/1.1 302 Found\nContent-Length: 0\nDate: d\nLocation: /hook/a%2Fb?c#d\n\n"},
		"redirect to a path below": {"POST",
			"HTTP/1.1 307 Temporary Redirect\nContent-Length: 0\nDate: d\nLocation: /CANARY/x\n\n",
			"HTTP/1.1 307 Temporary Redirect\nContent-Length: 0\nDate: d\nLocation: /hook/x\n\n"},
		"redirect beside": {"GET",
			"HTTP/1.1 302 Found\nContent-Length: 0\nDate: d\nLocation: http://UPSTREAM/CANARYS\n\n",
			"HTTP/1.1 302 Found\nContent-Length: 0\nDate: d\nLocation: http://UPSTREAM/CANARYS\n\n"},
		"redirect elsewhere": {"GET",
			"HTTP/1.1 301 Moved Permanently\nContent-Length: 0\nDate: d\nLocation: https://example.com/CANARY\n\n",
			"HTTP/1.1 301 Moved Permanently\nContent-Length: 0\nDate: d\nLocation: https://example.com/CANARY\n\n"},
		"other places": {"GET",
			"HTTP/1.1 201 Created\nContent-Length: 0\nContent-Location: /CANARY/x\nDate: d\nRefresh: 5; url=http://UPSTREAM/CANARY/y\n\n",
			"HTTP/1.1 201 Created\nContent-Length: 0\nContent-Location: /hook/x\nDate: d\nRefresh: 5; url=/hook/y\n\n"},
	}
	u := newRawUpstream(t, nil)
	text := func(s string) string { return crlf(strings.ReplaceAll(s, "UPSTREAM", u.addr)) }
	u.respond = func(c *rawCall) {
		c.read()
		row, ok := rows[c.request.Header.Get("X-Row")]
		if !ok {
			c.say(okay)
			return
		}
		c.say(text(row.answer))
		if strings.HasPrefix(row.answer, "HTTP/1.0") {
			c.hangUp()
		}
	}
	r := startQuiet(t, "--register", "hook="+u.url(), "--hold", "0s")
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			before, _, _ := u.counts()
			c := dial(t, r.addr)
			c.say(crlf(row.method + " /hook/z HTTP/1.1\nHost: gateway\nX-Row: " + name + "\n\n"))
			c.say(crlf("GET /hook/next HTTP/1.1\nHost: gateway\nConnection: close\n\n"))
			want := text(row.want + "HTTP/1.1 200 OK\nContent-Length: 2\nDate: d\nConnection: close\n\nok")
			if got := c.rest(); got != want {
				t.Errorf("the client got\n%q, want\n%q", got, want)
			}
			if after, _, _ := u.counts(); after != before+2 {
				t.Errorf("the upstream got %d requests, want 2", after-before)
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
	r := startQuiet(t, "--register", "hook="+u.url(), "--hold", "0s")
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

const (
	postHead    = "POST /hook HTTP/1.1\r\nHost: a\r\n"
	chunkedHead = postHead + "Transfer-Encoding: chunked\r\n\r\n"
	getHead     = "GET /hook HTTP/1.1\r\nHost: a\r\n"
)

// ambiguous are messages that two readers may understand differently.
var ambiguous = map[string]string{
	"two lengths":                postHead + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
	"two different lengths":      postHead + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
	"list of lengths":            postHead + "Content-Length: 5, 5\r\n\r\nhello",
	"signed length":              postHead + "Content-Length: +5\r\n\r\nhello",
	"hexadecimal length":         postHead + "Content-Length: 0x5\r\n\r\nhello",
	"empty length":               postHead + "Content-Length:\r\n\r\n",
	"length past all bounds":     postHead + "Content-Length: 99999999999999999999\r\n\r\n",
	"length and chunks":          postHead + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"chunks and length":          postHead + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
	"unknown coding":             postHead + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
	"coding twice":               postHead + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"coding with vertical tab":   postHead + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n",
	"chunks in HTTP/1.0":         "POST /hook HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"chunk size 0x5":             chunkedHead + "0x5\r\nhello\r\n0\r\n\r\n",
	"signed chunk size":          chunkedHead + "+5\r\nhello\r\n0\r\n\r\n",
	"chunk size with a space":    chunkedHead + "5 \r\nhello\r\n0\r\n\r\n",
	"empty chunk size":           chunkedHead + "\r\nhello\r\n0\r\n\r\n",
	"chunk size past all bounds": chunkedHead + "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
	"bare LF after chunk size":   chunkedHead + "5\nhello\r\n0\r\n\r\n",
	"bare LF in an extension":    chunkedHead + "5;a\nb\r\nhello\r\n0\r\n\r\n",
	"bare LF after a chunk":      chunkedHead + "5\r\nhello\n0\r\n\r\n",
	"chunk longer than its size": chunkedHead + "4\r\nhello\r\n0\r\n\r\n",
	"bare LF in the header":      "GET /hook HTTP/1.1\nHost: a\n\n",
	"bare LF ends the header":    getHead + "\n",
	"bare CR":                    getHead + "X: a\rb\r\n\r\n",
	"NUL":                        getHead + "X: a\x00b\r\n\r\n",
	"folded line":                getHead + "X: a\r\n b\r\n\r\n",
	"folded line with a colon":   getHead + "X: a\r\n\tY: b\r\n\r\n",
	"space before the colon":     getHead + "Content-Length : 5\r\n\r\nhello",
	"no name":                    getHead + ": x\r\n\r\n",
	"no colon":                   getHead + "X\r\n\r\n",
	"two Hosts":                  getHead + "Host: b\r\n\r\n",
	"no Host":                    "GET /hook HTTP/1.1\r\n\r\n",
	"path in Host":               "GET /hook HTTP/1.1\r\nHost: a/b\r\n\r\n",
	"userinfo in Host":           "GET /hook HTTP/1.1\r\nHost: u@a\r\n\r\n",
	"HTTP/0.9":                   "GET /hook\r\n\r\n",
	"HTTP/1.2":                   "GET /hook HTTP/1.2\r\nHost: a\r\n\r\n",
	"HTTP/1.10":                  "GET /hook HTTP/1.10\r\nHost: a\r\n\r\n",
	"HTTP/2.0 by text":           "GET /hook HTTP/2.0\r\nHost: a\r\n\r\n",
	"tab in the request line":    "GET\t/hook HTTP/1.1\r\nHost: a\r\n\r\n",
	"two spaces":                 "GET  /hook HTTP/1.1\r\nHost: a\r\n\r\n",
	"space at the end":           "GET /hook HTTP/1.1 \r\nHost: a\r\n\r\n",
	"fragment":                   "GET /hook#x HTTP/1.1\r\nHost: a\r\n\r\n",
	"raw UTF-8":                  "GET /hook/\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n",
	"empty line first":           "\r\n" + getHead + "\r\n",
	"odd trailer":                chunkedHead + "0\r\nX : 1\r\n\r\n",
	"bare LF ends the trailer":   chunkedHead + "0\r\nX: 1\r\n\n",
}

// Nothing that two readers may understand differently reaches the upstream
// whole, and nothing that follows it on its connection is answered.
func TestHTTPNothingIsSmuggled(t *testing.T) {
	t.Parallel()
	u := newRawUpstream(t, func(c *rawCall) {
		if c.read() {
			c.say(okay)
		} else {
			c.hangUp()
		}
	})
	r := startQuiet(t, "--register", "hook="+u.url(), "--register", "stream="+u.url(), "--dedupe", "stream=off")
	const follower = "GET /hook/follower HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, input := range ambiguous {
		for _, route := range []string{"/hook", "/stream"} {
			for _, pieces := range []bool{false, true} {
				t.Run(fmt.Sprint(name, " ", route, " ", pieces), func(t *testing.T) {
					t.Parallel()
					c := dial(t, r.addr)
					text := strings.Replace(input, "/hook", route, 1) + follower
					if pieces {
						for rest := text; rest != ""; rest = rest[min(len(rest), 7):] {
							c.say(rest[:min(len(rest), 7)])
						}
					} else {
						c.say(text)
					}
					got := c.rest()
					if n := strings.Count(got, "HTTP/1.1 "); n > 1 || n == 1 && !strings.HasPrefix(got, "HTTP/1.1 400 ") {
						t.Errorf("got %q, want 400 or nothing", got)
					}
				})
			}
		}
	}
	t.Cleanup(func() { // after the subtests
		if heard, _, _ := u.counts(); heard > 0 {
			t.Errorf("%d requests reached the upstream whole, the latest: %q", heard, u.last())
		}
	})
}

// What an upstream says beyond its answer is nobody's answer.
func TestHTTPBytesAfterAnAnswerAreDropped(t *testing.T) {
	t.Parallel()
	u := newRawUpstream(t, func(c *rawCall) {
		c.read()
		name := c.request.URL.Path
		answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(name), name)
		if strings.HasSuffix(name, "/extra") {
			answer += "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + canary // no log may tell it either
		}
		c.say(answer)
	})
	r := startQuiet(t, "--register", "hook="+u.url(), "--hold", "0s")
	for range 20 {
		for _, name := range []string{"/extra", "/victim"} {
			a := post(t, r.url+"/hook"+name, "")
			if a.status != http.StatusOK || a.body != "/"+canary+name {
				t.Fatalf("%s: got %v %q", name, a, a.body)
			}
		}
	}
}

func TestHTTPBrokenAnswers(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\n"
	cut := map[string]string{
		"length":                 head + "Content-Length: 10\n\nhalf",
		"length, nothing":        head + "Content-Length: 10\n\n",
		"chunk":                  head + "Transfer-Encoding: chunked\n\n5\nha",
		"between chunks":         head + "Transfer-Encoding: chunked\n\n4\nhalf\n",
		"before the first chunk": head + "Transfer-Encoding: chunked\n\n",
		"trailers":               head + "Trailer: X\nTransfer-Encoding: chunked\n\n4\nhalf\n0\nX: ",
		"no chunk size":          head + "Transfer-Encoding: chunked\n\n4\nhalf\nwhat\n",
	}
	garbage := map[string]string{
		"no HTTP":     "what was the question?\n\n",
		"no status":   "HTTP/1.1 \n\n",
		"long status": "HTTP/1.1 20000 OK\n\n",
		"two lengths": head + "Content-Length: 1\nContent-Length: 2\n\nok",
		"odd length":  head + "Content-Length: -1\n\nok",
		"odd coding":  head + "Transfer-Encoding: rot13\n\nok",
		"no colon":    head + "what\n\nok",
		"other HTTP":  "HTTP/9.9 what\n\n",
		"binary":      "\x16\x03\x01\x02\x00\x01\n\n",
		"unasked 101": "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: what\n\n",
	}
	u := newRawUpstream(t, func(c *rawCall) {
		c.read()
		row := c.request.Header.Get("X-Row")
		c.say(crlf(cut[row] + garbage[row]))
		c.hangUp()
	})
	r := startQuiet(t, "--register", "hook="+u.url(), "--hold", "0s")
	for _, method := range []string{"GET", "POST"} {
		ask := func(t *testing.T, row string) *rawClient {
			c := dial(t, r.addr)
			c.say(crlf(method + " /hook HTTP/1.1\nHost: gateway\nX-Row: " + row + "\n\n"))
			return c
		}
		for row := range cut {
			t.Run(method+" cut "+row, func(t *testing.T) {
				got := ask(t, row).rest()
				res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
				if err != nil {
					return // cut before the header
				}
				if body, err := io.ReadAll(res.Body); err == nil {
					t.Errorf("a clean end after %d %q: %q", res.StatusCode, body, got)
				}
			})
		}
		for row := range garbage {
			t.Run(method+" garbage "+row, func(t *testing.T) {
				res, body, err := ask(t, row).hear(t, method)
				if res.StatusCode != http.StatusBadGateway || !strings.Contains(body, `"upstream-refused"`) || err != nil {
					t.Errorf("got %d %q, error %v", res.StatusCode, body, err)
				}
			})
		}
	}
}
