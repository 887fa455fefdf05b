package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

func TestBoundsOfOneBody(t *testing.T) {
	t.Parallel()
	u := newRawUpstream(t, func(c *rawCall) {
		if c.read() {
			c.say(okay)
		}
	})
	r := startQuiet(t, "--register", "hook="+u.url(), "--register", "stream="+u.url(), "--dedupe", "stream=off",
		"--max-body", "1KiB", "--hold", "0s,unknown=0s")
	fits, over := strings.Repeat("x", 1<<10), strings.Repeat("x", 1<<10+1)
	for name, tt := range map[string]struct {
		text string // the body need not come for the answer to
		want int
	}{
		"declared":                 {"POST /hook\nContent-Length: 1025\n\n", 413},
		"declared, body expected":  {"POST /hook\nContent-Length: 1025\nExpect: 100-continue\n\n", 413},
		"declared, 10 GB":          {"POST /hook\nContent-Length: 10000000000\nExpect: 100-continue\n\nstart", 413},
		"declared, and sent":       {"POST /hook\nContent-Length: 1025\n\n" + over, 413},
		"chunked":                  {"POST /hook\nTransfer-Encoding: chunked\n\n401\n" + over + "\n0\n\n", 413},
		"chunked, and never ends":  {"POST /hook\nTransfer-Encoding: chunked\n\n401\n" + over, 413},
		"chunked, in small chunks": {"POST /hook\nTransfer-Encoding: chunked\n\n" + strings.Repeat("1\nx\n", 1<<10+1), 413},
		"fits":                     {"POST /hook\nContent-Length: 1024\n\n" + fits, 200},
		"chunked, fits":            {"POST /hook\nTransfer-Encoding: chunked\n\n400\n" + fits + "\n0\n\n", 200},
		"streams":                  {"POST /stream\nContent-Length: 1025\n\n" + over, 200},
	} {
		t.Run(name, func(t *testing.T) {
			before, _, _ := u.counts()
			c := dial(t, r.addr)
			c.say(crlf(strings.Replace(tt.text, "\n", " HTTP/1.1\nHost: gateway\n", 1)))
			// A 100 before the 413 would be seen here.
			if res, body, err := c.hear(t, ""); res.StatusCode != tt.want || err != nil {
				t.Errorf("got %d %q, error %v", res.StatusCode, body, err)
			}
			if heard, cut, _ := u.counts(); heard-before != 200/tt.want || cut > 0 {
				t.Errorf("%d requests reached the upstream, %d in part", heard-before, cut)
			}
		})
	}
	t.Run("100 for a body that may fit", func(t *testing.T) {
		c := dial(t, r.addr)
		c.say(crlf("POST /hook HTTP/1.1\nHost: gateway\nContent-Length: 4\nExpect: 100-continue\n\n"))
		if res, _, _ := c.hear(t, ""); res.StatusCode != http.StatusContinue {
			t.Fatalf("got %d, want 100", res.StatusCode)
		}
		c.say("body")
		if res, _, _ := c.hear(t, ""); res.StatusCode != http.StatusOK || !strings.HasSuffix(u.last(), "\r\n\r\nbody") {
			t.Errorf("got %d, and the upstream %q", res.StatusCode, u.last())
		}
	})
}

func TestBoundsOfAllBodies(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	r := startQuiet(t, "--register", "hook="+u.URL+"/"+canary, "--body-memory", "1MiB", "--max-body", "600KiB", "--hold", "0s,unknown=0s")
	body := func(i int) string { return strings.Repeat(strconv.Itoa(i), 400<<10) }
	// What is announced, and not received, takes no memory.
	for range 10 {
		c := dial(t, r.addr)
		c.say(crlf("POST /hook HTTP/1.1\nHost: gateway\nContent-Length: 614400\n\nx"))
	}
	first, second := u.occupy(t, r.url+"/hook", body(1)), u.occupy(t, r.url+"/hook", body(2))
	third := post(t, r.url+"/hook", body(3), plain)
	expect(t, "beyond the memory", third, "503 no-memory")
	if got := third.header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After: got %q", got)
	}
	expect(t, "beyond it, in chunks", post(t, r.url+"/hook", body(3), plain, "Transfer-Encoding: chunked"), "503 no-memory")
	expect(t, "a small one", post(t, r.url+"/hook", "small", plain), "200")
	if n := u.arrivals(third.nonce); n != 0 {
		t.Errorf("what was refused arrived %d times", n)
	}
	u.open()
	expect(t, "the first", <-first, "200")
	expect(t, "the second", <-second, "200")
	for i := range 5 { // as many as would not fit if one were not given back
		eventually(t, "the memory is free", func() bool { return post(t, r.url+"/hook", body(i), plain).status == http.StatusOK })
	}
}

func TestBoundsOfExchangesInFlight(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	r := startQuiet(t, "--register", "hook="+u.URL+"/"+canary, "--max-in-flight", "2", "--hold", "0s,unknown=0s")
	first, second := u.occupy(t, r.url+"/hook", "1"), u.await(t, func() answer { return do(t, http.MethodGet, r.url+"/hook", "", blocks) })
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		expect(t, method, do(t, method, r.url+"/hook", "", plain), "503 too-many-in-flight")
	}
	if n := len(u.all()); n != 2 {
		t.Errorf("%d requests reached the upstream, want 2", n)
	}
	u.open()
	expect(t, "the first", <-first, "200")
	expect(t, "the second", <-second, "200")
	eventually(t, "there is room", func() bool { return post(t, r.url+"/hook", "", plain).status == http.StatusOK })
}

func TestBoundsOfHeaders(t *testing.T) {
	t.Parallel()
	u := newRawUpstream(t, func(c *rawCall) {
		c.read()
		c.say(okay)
	})
	r := startQuiet(t, "--register", "hook="+u.url())
	const over = 80 << 10
	for name, text := range map[string]string{
		"many fields":      getHead + strings.Repeat("X: 1\r\n", over/6) + "\r\n",
		"that never ends":  getHead + "X: " + strings.Repeat("x", over),
		"a line's endless": strings.Repeat("G", over),
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, r.addr)
			c.say(text)
			if res, body, _ := c.hear(t, ""); res.StatusCode != http.StatusRequestHeaderFieldsTooLarge || !strings.Contains(body, `"bad-request"`) {
				t.Errorf("got %d %s, want 431", res.StatusCode, body)
			}
		})
	}
	if heard, _, _ := u.counts(); heard != 0 {
		t.Errorf("%d requests reached the upstream", heard)
	}
}

// Who stops midway is cut: each on its own connection, and nobody else.
func TestBoundsOfPauses(t *testing.T) {
	t.Parallel()
	endless := make(chan error, 1)
	u := newRawUpstream(t, func(c *rawCall) {
		if !c.read() {
			c.hangUp()
			return
		}
		switch c.request.URL.Path {
		case "/" + canary + "/stops":
			c.say(crlf("HTTP/1.1 200 OK\nContent-Length: 100\n\nhalf"))
		case "/" + canary + "/stops-chunked":
			c.say(crlf("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nhalf\n"))
		case "/" + canary + "/endless":
			c.say(crlf("HTTP/1.1 200 OK\nContent-Length: 1000000000000\n\n"))
			part := make([]byte, 1<<20)
			for {
				if _, err := c.Conn.Write(part); err != nil {
					endless <- err
					c.hangUp()
					return
				}
			}
		default:
			c.say(okay)
		}
	})
	r := startQuiet(t, "--register", "hook="+u.url(), "--hold", "0s,unknown=0s", "--register", "stream="+u.url(), "--dedupe", "stream=off",
		"--answer-idle", "1s", "--header-timeout", "1s", "--body-idle", "1s", "--write-idle", "1s")
	for _, target := range []string{"/stops", "/stops-chunked"} {
		t.Run("answer "+target, func(t *testing.T) {
			c := dial(t, r.addr)
			c.say(crlf("GET /hook" + target + " HTTP/1.1\nHost: gateway\n\n"))
			if res, body, err := c.hear(t, ""); res.StatusCode != http.StatusOK || body != "half" || err == nil {
				t.Errorf("got %d %q, error %v, want a cut", res.StatusCode, body, err)
			}
			eventually(t, "the log tells why", func() bool { return strings.Contains(r.stderr.String(), "connection_read_timeout") })
		})
	}
	t.Run("reader", func(t *testing.T) {
		c := dial(t, r.addr)
		c.say(crlf("GET /hook/endless HTTP/1.1\nHost: gateway\n\n"))
		select {
		case <-endless: // since the client reads nothing
		case <-time.After(patience):
			t.Error("the upstream can still write")
		}
	})
	t.Run("header that trickles", func(t *testing.T) { // each byte in time does not help
		t.Parallel()
		c := dial(t, r.addr)
		c.say(crlf("GET /hook HTTP/1.1\nHost: gateway\nX: "))
		eventually(t, "the connection is cut", func() bool {
			_, err := c.Write([]byte("x"))
			return err != nil
		})
	})
	t.Run("body that trickles", func(t *testing.T) { // is slow, and whole in the end
		t.Parallel()
		r := startQuiet(t, "--register", "hook="+u.url(), "--body-idle", "3s")
		c, stops := dial(t, r.addr), dial(t, r.addr)
		const head = "POST /hook HTTP/1.1\nHost: gateway\nTransfer-Encoding: chunked\n\n"
		c.say(crlf(head))
		stops.say(crlf(head + "1\nx\n"))
		cut := make(chan struct{})
		go func() {
			defer close(cut)
			stops.untilCut(t)
		}()
		for slow := true; slow; { // for longer than a pause may be
			select {
			case <-cut:
				slow = false
			case <-time.After(20 * time.Millisecond):
				c.say(crlf("1\nx\n"))
			}
		}
		c.say(crlf("0\n\n"))
		if res, _, _ := c.hear(t, ""); res.StatusCode != http.StatusOK {
			t.Errorf("got %d, want 200", res.StatusCode)
		}
	})
}

// untilCut returns all that the replica still says, and fails the test unless
// it then ends the connection.
func (c *rawClient) untilCut(t *testing.T) string {
	t.Helper()
	text, err := io.ReadAll(c.in)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is still open after %s", patience)
	}
	return string(text)
}

func TestBoundsDribblingClientsHoldUpNobody(t *testing.T) {
	t.Parallel()
	u := newRawUpstream(t, func(c *rawCall) {
		c.read()
		c.say(okay)
	})
	server := redistest.Start(t, "--slowlog-log-slower-than", "0", "--slowlog-max-len", "10000")
	f := &fleet{server: server, redis: server.Client()}
	f.replicas = startReplicas(t, server.URL(), 1, "--register", "hook="+u.url(), "--rate", "1000000/s", "--hold", "0s,unknown=0s",
		"--header-timeout", "10m", "--body-idle", "10m", "--max-in-flight", "100")
	r := f.replicas[0]
	expectNoCanary(t, r)
	idle := r.descriptors(t)
	const headers, bodies = 300, 200
	clients := make([]*rawClient, headers+bodies)
	for i := range clients {
		clients[i] = dial(t, r.addr)
		text := "POST /hook HTTP/1.1\nHost: gateway\nX-" + canary + ": "
		if i >= headers {
			text += fmt.Sprint(i, "\nContent-Length: 1000\n\n")
		}
		clients[i].say(crlf(text))
	}
	trickle := func() {
		for _, c := range clients {
			c.say("x")
		}
	}
	trickle()
	eventually(t, "all are connected", func() bool { return r.descriptors(t) >= idle+len(clients) })
	trickle()
	if n := f.asked(t); n > 0 {
		t.Errorf("the store was asked %d times", n)
	}
	if locks := f.locks(t); len(locks) > 0 {
		t.Errorf("locks: %v", locks)
	}
	if _, _, conns := u.counts(); conns > 0 {
		t.Errorf("%d connections to the upstream", conns)
	}
	for i := range 10 {
		trickle()
		expect(t, "a normal request meanwhile", post(t, r.url+"/hook", fmt.Sprint(i)), "200")
	}
	if heard, cut, conns := u.counts(); heard != 10 || cut > 0 || conns > 10 {
		t.Errorf("%d requests, %d in part, on %d connections", heard, cut, conns)
	}
	for _, c := range clients {
		_ = c.Close()
	}
	eventually(t, "their connections are closed", func() bool { return r.descriptors(t) < idle+50 })
}

// descriptors returns how many files and connections the process has open.
func (p *process) descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

var residentLine = regexp.MustCompile(`(?m)^VmHWM:\s*(\d+) kB$`)

// resident returns the most memory that the process has had, in MiB.
func (p *process) resident(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	match := residentLine.FindSubmatch(status)
	if err != nil || match == nil {
		t.Fatalf("no VmHWM: %v", err)
	}
	kB, _ := strconv.Atoi(string(match[1]))
	return kB >> 10
}

// buildPlain builds the binary as it is released: the race detector has a
// memory of its own.
var buildPlain = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "plain")
	out, err := exec.Command("go", "build", "-o", path, "throttle-proxy/cmd/throttle-proxy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

func TestBoundsOfMemory(t *testing.T) {
	t.Parallel()
	path, err := buildPlain()
	if err != nil {
		t.Fatal(err)
	}
	u := newRawUpstream(t, func(c *rawCall) {
		if c.read() {
			<-t.Context().Done()
		}
		c.hangUp()
	})
	r := &replica{process: launch(t, exec.Command(path, "--listen", "127.0.0.1:0", "--register", "hook="+u.url(), "--rate", "off"))}
	expectNoCanary(t, r)
	eventually(t, "the replica listens", func() bool {
		match := listening.FindStringSubmatch(r.stderr.String())
		if match == nil {
			return false
		}
		r.addr = match[1]
		return true
	})
	idle := r.resident(t)
	const bodies, size = 100, 2_000_000
	body := strings.Repeat("x", size)
	each(bodies, 10, func(i int) {
		dial(t, r.addr).say(crlf(fmt.Sprintf("POST /hook/%d HTTP/1.1\nHost: gateway\nContent-Length: %d\n\n", i, size)) + body)
	})
	eventually(t, "all bodies are in flight", func() bool { heard, _, _ := u.counts(); return heard == bodies })
	most := r.resident(t)
	t.Logf("%d MiB at most with %d bodies of %d bytes, %d MiB before", most, bodies, size, idle)
	if most >= 300 {
		t.Errorf("%d MiB of memory, want less than 300", most)
	}
}
