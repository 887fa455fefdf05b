package proxy

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestFaults(t *testing.T) {
	// The port of a client is taken, and nobody listens on it.
	taken := dial(t, serve(t, nil), "").LocalAddr()
	nothing := func(net.Conn, *bufio.Reader, *http.Request) {}
	silent := listen(t, func(_ net.Conn, r *bufio.Reader, _ *http.Request) { _, _ = io.Copy(io.Discard, r) })
	overTLS := httptest.NewUnstartedServer(nil)
	overTLS.Config.ErrorLog = log.New(io.Discard, "", 0)
	overTLS.StartTLS()
	t.Cleanup(overTLS.Close)

	type fault struct {
		upstream string
		status   int
		reason   Reason
		fault    string
	}
	refused := func(upstream, name string) fault { return fault{upstream, 502, ReasonUpstreamRefused, name} }
	garbage := func(bytes string) fault { return refused(says(t, bytes), "http_protocol_error") }
	cut := func(upstream string) fault {
		return fault{upstream, 499, ReasonUpstreamClosed, "connection_terminated"}
	}
	for name, tt := range map[string]fault{
		"nobody listens":    refused("http://"+taken.String(), "connection_refused"),
		"unknown host":      refused("http://no..such.host", "dns_error"),
		"TLS not verified":  refused(overTLS.URL, "tls_certificate_error"),
		"no TLS":            refused(strings.Replace(serve(t, nil).URL, "http", "https", 1), "tls_protocol_error"),
		"another protocol":  garbage("SSH-2.0-OpenSSH_9.9\r\n"),
		"a broken header":   garbage("HTTP/1.1 200 OK\r\nno colon\r\n\r\n"),
		"no status":         garbage("HTTP/1.1 OK\r\n\r\n"),
		"a broken length":   garbage("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
		"two lengths":       garbage("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok"),
		"unknown coding":    garbage("HTTP/1.1 200 OK\r\nTransfer-Encoding: rot13\r\n\r\n"),
		"an endless header": garbage("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", 11<<20)),
		"a switch unasked":  garbage("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
		"closed":            cut(listen(t, nothing)),
		"closed in header":  cut(says(t, "HTTP/1.1 200 OK\r\nDate: today\r\n")),
		"closed after 1xx":  cut(says(t, "HTTP/1.1 103 Early Hints\r\n\r\n")),
		"no answer in time": {silent, 504, ReasonUpstreamTimeout, "http_response_timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil, upstreamURL(t, tt.upstream), func(r *Route) {
				if tt.upstream == silent {
					r.Timeout = 200 * time.Millisecond
				}
			})
			gateway := serve(t, r)
			res, err := gateway.Client().Post(gateway.URL+"/hook", "text/plain", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			wantOutcome(t, res, string(tt.reason))
			if res.StatusCode != tt.status {
				t.Errorf("got status %d, want %d", res.StatusCode, tt.status)
			}
			wantProxyStatus(t, res)
			if got := next(t, r.events).Fault; got != tt.fault {
				t.Errorf("got %s, want %s", got, tt.fault)
			}
		})
	}
}

func TestAnswerCutInItsBodyIsCut(t *testing.T) {
	for name, answer := range map[string]string{
		"declared":        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"chunked":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		"a broken chunk":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
		"within a chunk":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nhalf",
		"in the trailers": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\nX-Sum:",
	} {
		t.Run(name, func(t *testing.T) {
			gateway := serve(t, newRig(t, nil, upstreamURL(t, says(t, answer))))
			res, err := gateway.Client().Post(gateway.URL+"/hook", "", nil)
			if err != nil {
				return // cut before anything was sent on
			}
			defer res.Body.Close()
			if body, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("got %q as if that were all", body)
			}
		})
	}
}

// TestClientThatCutsItsBodyIsNotTheUpstreamsFault where bodies stream.
func TestClientThatCutsItsBodyIsNotTheUpstreamsFault(t *testing.T) {
	up := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	r := newRig(t, nil, upstreamURL(t, up.URL), dedupe(DedupeOff))
	_ = dial(t, serve(t, r), "POST /hook HTTP/1.1\r\nHost: gateway\r\nContent-Length: 100\r\n\r\nhalf").Close()
	if e := next(t, r.events); e.Reason != ReasonClientGone || !e.ClientGone || e.Fault != "" {
		t.Errorf("got reason %q, fault %q, gone %v, want %s", e.Reason, e.Fault, e.ClientGone, ReasonClientGone)
	}
}

// TestPostIsNeverSentTwice on connections that were kept alive and then die.
func TestPostIsNeverSentTwice(t *testing.T) {
	const empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for _, header := range []string{"User-Agent", "Idempotency-Key", "X-Idempotency-Key"} {
		for name, second := range map[string]func(*bufio.Reader) *http.Request{
			"closed after the next request": func(r *bufio.Reader) *http.Request {
				req, err := http.ReadRequest(r)
				if err != nil {
					return nil
				}
				return req
			},
			"closed at once": func(*bufio.Reader) *http.Request { return nil },
		} {
			t.Run(name+", "+header, func(t *testing.T) {
				var mu sync.Mutex
				arrived := map[string]int{}
				count := func(req *http.Request) {
					body, _ := io.ReadAll(req.Body)
					mu.Lock()
					defer mu.Unlock()
					arrived[string(body)]++
				}
				up := listen(t, func(conn net.Conn, r *bufio.Reader, first *http.Request) {
					count(first)
					_, _ = io.WriteString(conn, empty)
					if next := second(r); next != nil {
						count(next)
					}
				})
				r := newRig(t, nil, upstreamURL(t, up))
				outcomes := map[string]int{}
				for i := range 40 {
					outcomes[result(t, r.do(post(fmt.Sprint(i), header, "key")))]++
				}
				mu.Lock()
				defer mu.Unlock()
				for body, n := range arrived {
					if n > 1 {
						t.Errorf("request %s arrived %d times", body, n)
					}
				}
				if outcomes["200"]+outcomes[string(ReasonUpstreamClosed)] != 40 || outcomes["200"] == 0 {
					t.Errorf("got %v, want only 200 and %s", outcomes, ReasonUpstreamClosed)
				}
				if name == "closed after the next request" && outcomes["200"] == 40 {
					t.Error("no connection was used twice")
				}
			})
		}
	}
}
