package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// Every wait has an end, on every protocol and both sides.

// atRest are the gauges that are zero while nothing is under way.
var atRest = []string{"in_flight", "locks_held", "body_memory_bytes"}

// expectRest fails the test unless the replica gets to rest.
func (r *replica) expectRest(t *testing.T) {
	t.Helper()
	for _, name := range atRest {
		if r.metrics(t)["throttle_proxy_"+name] == nil {
			t.Errorf("there is no metric %s", name)
		}
		eventually(t, name+" is 0", func() bool { return r.metric(t, name) == 0 })
	}
}

func (r *replica) goroutines(t *testing.T) int {
	t.Helper()
	return int(r.metrics(t)["go_goroutines"].GetMetric()[0].GetGauge().GetValue())
}

// waiter is a replica and what it stands between.
type waiter struct {
	*replica
	upstreams []*scriptedUpstream
	trusted   *tls.Config // of clients, where it is secure
	secure    bool
}

// startWaiter starts a replica with a route locked-KIND and streamed-KIND for
// each kind of upstream.
func startWaiter(t *testing.T, secure, stingy bool, script func(*turn), words ...string) *waiter {
	t.Helper()
	pair, upstreamCert, _ := newKeyPair(t, "upstream.test")
	w := &waiter{upstreams: startUpstreams(t, pair, stingy, script), secure: secure}
	words = append([]string{"SSL_CERT_FILE=" + writeFile(t, "upstream.pem", upstreamCert)}, words...)
	for _, u := range w.upstreams {
		words = append(words, "--register", "locked-"+u.name+"="+u.url(), "--register", "streamed-"+u.name+"="+u.url(), "--dedupe", "streamed-"+u.name+"=off")
	}
	words = append(words, "--rate", "off", "--hold", "0s,unknown=0s", "--admin", "127.0.0.1:0")
	if secure {
		pair, cert, key := newKeyPair(t, "replica.test")
		w.trusted = trusting(pair)
		words = append(words, "--tls-cert", writeFile(t, "cert.pem", cert), "--tls-key", writeFile(t, "key.pem", key))
	}
	w.replica = startReplica(t, words...)
	expectNoCanary(t, w.replica)
	return w
}

// routes are those of the upstreams.
func (w *waiter) routes() (routes []string) {
	for _, u := range w.upstreams {
		routes = append(routes, "locked-"+u.name, "streamed-"+u.name)
	}
	return routes
}

// dial connects as a kind of client does.
func (w *waiter) dial(t *testing.T, kind string) clientConn {
	t.Helper()
	for _, k := range clientKinds {
		if k.name == kind {
			conn, err := k.dial(w.addr, w.trusted)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			return conn
		}
	}
	t.Fatal("no such client: ", kind)
	return nil
}

// ask sends a request of the table's words on a new connection.
func (w *waiter) ask(t *testing.T, kind, text string) (message, error) {
	t.Helper()
	conn := w.dial(t, kind)
	defer conn.Close()
	got, _, err := conn.ask(asked{message: parseMessage(text).with("Host", "gateway")})
	return got, err
}

// answering reads each request and says the same.
func answering(text string) func(*turn) {
	return func(c *turn) {
		_, _ = c.readToEnd()
		c.say(text)
	}
}

// Fails if a client that opens no window holds on to a slot, a lock or a
// goroutine for longer than --write-idle.
func TestWaitForAWindowEnds(t *testing.T) {
	t.Parallel()
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS ", secure), func(t *testing.T) {
			t.Parallel()
			w := startWaiter(t, secure, false, answering("200\n\n"+strings.Repeat("x", 100<<10)),
				"--max-in-flight", "8", "--write-idle", "1s", "--answer-idle", "2s", "--timeout", "2s")
			kind := map[bool]string{false: "h2c", true: "tls-h2"}[secure]
			var mute []*http2Client
			ask := func(c *http2Client, target, body string) {
				c.last += 2
				method := map[bool]string{true: "GET", false: "POST"}[body == ""]
				scheme := map[bool]string{false: "http", true: "https"}[secure]
				c.headers(c.last, []string{":method: " + method, ":scheme: " + scheme, ":path: " + target, ":authority: gateway"}, body == "")
				if body != "" {
					c.data(c.last, body, true)
				}
			}
			open := func() *http2Client {
				c := w.dial(t, kind).(*http2Client)
				_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
				_ = c.WritePing(false, [8]byte{1})
				for { // the setting counts once the ping behind it is answered
					frame, err := c.ReadFrame()
					if err != nil {
						t.Fatal(err)
					}
					if ping, ok := frame.(*http2.PingFrame); ok && ping.IsAck() {
						break
					}
					c.handle(frame)
				}
				go func() { _, _ = io.Copy(io.Discard, c.Conn) }() // frames are read, windows stay shut
				mute = append(mute, c)
				return c
			}
			open()
			before := w.goroutines(t)
			c := open()
			for i, route := range w.routes() {
				ask(c, "/"+route, fmt.Sprint("body ", i))
			}
			for range 5 {
				c := open()
				for i := range 50 {
					ask(c, fmt.Sprint("/nowhere/", i), "")
					ask(c, "/-/healthy", "")
				}
			}
			w.expectRest(t)
			eventually(t, "no goroutine waits", func() bool { return w.goroutines(t) <= before+5*len(mute) })
			if got, err := w.ask(t, kind, "POST /locked-plain\n\nanother"); err != nil || got.first != "200" {
				t.Errorf("another client: got %s, error %v", got.first, err)
			}
		})
	}
}

// Fails if what a client does not read for a while is taken for a pause of the
// upstream's.
func TestWaitForAClientThatReadsLaterIsItsOwn(t *testing.T) {
	t.Parallel()
	const size, pause = 16 << 20, 5 * time.Second // longer than the answer may, shorter than the client
	answer := "200\nContent-Length: " + fmt.Sprint(size) + "\n\n" + strings.Repeat("x", size)
	var asking sync.WaitGroup
	for _, secure := range []bool{false, true} {
		w := startWaiter(t, secure, false, answering(answer), "--answer-idle", "2s", "--write-idle", "1m")
		for i, route := range w.routes() {
			http2 := (i+i/2)%2 == 0 // each upstream has both
			client := protoClient(t, &http.Transport{TLSClientConfig: w.trusted.Clone()}, func(p *http.Protocols) {
				p.SetHTTP1(!http2)
				p.SetHTTP2(http2 && secure)
				p.SetUnencryptedHTTP2(http2 && !secure)
			})
			url := strings.Replace(w.url, "http:", map[bool]string{false: "http:", true: "https:"}[secure], 1) + "/" + route
			asking.Go(func() {
				res, err := client.Post(url, "", strings.NewReader("hello"))
				if err != nil {
					t.Error(err)
					return
				}
				defer res.Body.Close()
				time.Sleep(pause)
				if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
					t.Errorf("%s, HTTP/2 %v, TLS %v: got %d of %d bytes, error %v", route, http2, secure, n, size, err)
				}
			})
		}
	}
	asking.Wait()
}

// Fails if a client that stops midway is told nothing, or not in our words.
func TestWaitForAHeaderEndsInWords(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"http11", "tls-http11"} {
		w := startWaiter(t, kind != "http11", false, answering(okText), "--header-timeout", "1s", "--body-idle", "1s")
		for name, tt := range map[string]struct{ text, want, or string }{
			"header":         {"GET /locked-plain HTTP/1.1\nHost: gate", "408 bad-request", ""},
			"request line":   {"GET /lock", "408 bad-request", ""},
			"body":           {"POST /locked-plain HTTP/1.1\nHost: a\nContent-Length: 4\n\nbo", "408 bad-request", "499 client-gone"},
			"chunk":          {"POST /locked-plain HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n4\nbo", "408 bad-request", "499 client-gone"},
			"trailers":       {"POST /locked-plain HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n4\nbody\n0\nX: ", "408 bad-request", "499 client-gone"},
			"streamed body":  {"POST /streamed-plain HTTP/1.1\nHost: a\nContent-Length: 4\n\nbo", "408 bad-request", "499 client-gone"},
			"streamed chunk": {"POST /streamed-plain HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n4\nbo", "408 bad-request", "499 client-gone"},
		} {
			t.Run(kind+" "+name, func(t *testing.T) {
				t.Parallel()
				c := w.dial(t, kind).(*http1Client)
				_ = c.SetDeadline(time.Now().Add(patience))
				c.say(crlf(tt.text))
				got, err := c.hear(http.MethodPost)
				if own := got.own(); err != nil || !strings.HasPrefix(own, tt.want) && (tt.or == "" || !strings.HasPrefix(own, tt.or)) {
					t.Errorf("got %s (%s), error %v, want %s %s", own, got.first, err, tt.want, tt.or)
				}
				if rest, _ := io.ReadAll(c.in); len(rest) > 0 {
					t.Errorf("and then %q", rest)
				}
			})
		}
	}
}

// Fails if a client that writes its whole request first cannot read why it is
// refused.
func TestWaitForARefusedBodyIsLongEnough(t *testing.T) {
	t.Parallel()
	const size = 9 << 20
	for _, kind := range []string{"http10", "http11", "tls-http11"} {
		w := startWaiter(t, kind == "tls-http11", false, answering(okText), "--max-body", fmt.Sprint(size-1),
			"--rate", "streamed-plain=1/h,burst=1")
		if _, err := w.ask(t, kind, "POST /streamed-plain"); err != nil {
			t.Fatal(err)
		}
		for target, want := range map[string]string{
			"/streamed-plain":    "429 limited",
			"/locked-plain":      "413 body-too-large",
			"/nowhere":           "404 unknown-route",
			"/locked-plain/../x": "400 bad-path",
		} {
			for range 5 {
				c := w.dial(t, kind).(*http1Client)
				_ = c.SetDeadline(time.Now().Add(patience))
				head := crlf(fmt.Sprintf("POST %s HTTP/%s\nHost: gateway\nContent-Length: %d\n\n", target, c.version, size))
				if _, err := io.WriteString(c, head+strings.Repeat("x", size)); err != nil {
					t.Errorf("%s %s: the request cannot be written: %v", kind, target, err)
				}
				got, err := c.hear(http.MethodPost)
				if own := got.own(); err != nil || !strings.HasPrefix(own, want+" ") {
					t.Errorf("%s %s: got %q, error %v, want %s", kind, target, own, err, want)
				}
			}
		}
		w.expectRest(t)
	}
}
