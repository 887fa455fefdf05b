package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"throttle-proxy/proxy/upstream"
)

// arrival is a request as an upstream read it.
type arrival struct {
	line, host, header, body string
	trailer                  http.Header
	proto                    int
}

// records is an upstream that keeps what arrives, and answers 200.
func records() (http.Handler, <-chan arrival) {
	arrivals := make(chan arrival, 10)
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		line := r.Method + " " + r.RequestURI
		if r.TransferEncoding != nil {
			line += " chunked"
		}
		arrivals <- arrival{line, r.Host, fields(r.Header), string(body), r.Trailer, r.ProtoMajor}
	}), arrivals
}

func TestRequestAsItArrives(t *testing.T) {
	loopback := trust("127.0.0.0/8")
	off := dedupe(DedupeOff)
	const via = "Via: 1.1 throttle-proxy\n"
	const forwarded = "X-Forwarded-For: 127.0.0.1\nX-Forwarded-Host: gateway\nX-Forwarded-Prefix: /hook\nX-Forwarded-Proto: http"
	for name, tt := range map[string]struct {
		change func(*Route)
		user   string // in the registered URL
		trust  Trust
		client string // LF for CRLF
		line   string
		header string // but for X-Request-Id
		body   string
	}{
		"nothing is invented": {
			client: "GET /hook/x?y HTTP/1.1\nHost: gateway\n\n",
			line:   "GET /p/x?y",
			header: via + forwarded,
		},
		"nor for a body": {
			client: "POST /hook HTTP/1.1\nHost: gateway\nContent-Length: 4\n\nbody",
			line:   "POST /p",
			header: "Content-Length: 4\n" + via + forwarded, body: "body",
		},
		"nor for a body that streams": {
			change: off,
			client: "POST /hook HTTP/1.1\nHost: gateway\nContent-Length: 4\n\nbody",
			line:   "POST /p",
			header: "Content-Length: 4\n" + via + forwarded, body: "body",
		},
		"what the client says is kept": {
			client: "PUT /hook HTTP/1.1\nHost: gateway\nUser-Agent: a\nAccept-Encoding: br\nContent-Type: text/x\nCookie: c=1\nX-A: 1\nX-A: 2\n" +
				"Authorization: Bearer b\nIdempotency-Key: \"k\"\nX-Idempotency-Key: l\nOrigin: https://o\nRange: bytes=0-1\nContent-Length: 0\n\n",
			line: "PUT /p",
			header: "Accept-Encoding: br\nAuthorization: Bearer b\nContent-Length: 0\nContent-Type: text/x\nCookie: c=1\nIdempotency-Key: \"k\"\n" +
				"Origin: https://o\nRange: bytes=0-1\nUser-Agent: a\n" + via + "X-A: 1\nX-A: 2\n" + forwarded + "\nX-Idempotency-Key: l",
		},
		"hop-by-hop fields end here": {
			client: "GET /hook HTTP/1.1\nHost: gateway\nConnection: close, X-Hop, x-other\nConnection: X-Third\nX-Hop: 1\nX-Other: 2\nX-Third: 3\n" +
				"Keep-Alive: timeout=5\nProxy-Connection: keep-alive\nProxy-Authorization: Basic x\nProxy-Authenticate: y\nTE: gzip\nX-Kept: 4\n\n",
			line:   "GET /p",
			header: via + forwarded + "\nX-Kept: 4",
		},
		"but for trailers that are welcome": {
			client: "GET /hook HTTP/1.1\nHost: gateway\nTE: gzip;q=0.5, trailers\n\n",
			line:   "GET /p",
			header: "Te: trailers\n" + via + forwarded,
		},
		"chunked, read whole": {
			client: "POST /hook HTTP/1.1\nHost: gateway\nTransfer-Encoding: chunked\n\n4\nbody\n0\n\n",
			line:   "POST /p",
			header: "Content-Length: 4\n" + via + forwarded, body: "body",
		},
		"chunked, streamed": {
			change: off,
			client: "POST /hook HTTP/1.1\nHost: gateway\nTransfer-Encoding: chunked\n\n4\nbody\n0\n\n",
			line:   "POST /p chunked",
			header: via + forwarded, body: "body",
		},
		"chunked and empty": {
			client: "POST /hook HTTP/1.1\nHost: gateway\nTransfer-Encoding: chunked\n\n0\n\n",
			line:   "POST /p",
			header: "Content-Length: 0\n" + via + forwarded,
		},
		"userinfo is a credential": {
			user:   "user:p%40ss@",
			client: "GET /hook HTTP/1.1\nHost: gateway\nAuthorization: Bearer b\n\n",
			line:   "GET /p",
			header: "Authorization: Basic dXNlcjpwQHNz\n" + via + forwarded,
		},
		"a client is not believed": {
			client: "GET /hook HTTP/1.1\nHost: gateway\nX-Forwarded-For: 192.0.2.1\nX-Forwarded-Host: h\nX-Forwarded-Proto: https\nForwarded: for=192.0.2.1\n\n",
			line:   "GET /p",
			header: via + forwarded,
		},
		"nor in other fields of the kind": {
			client: "GET /hook HTTP/1.1\nHost: gateway\nX-Forwarded-Port: 443\nX-Forwarded-Prefix: /p\n\n",
			line:   "GET /p",
			header: via + forwarded,
		},
		"a trusted proxy is": {
			trust:  loopback,
			client: "GET /hook HTTP/1.1\nHost: gateway\nX-Forwarded-For: 192.0.2.1, 192.0.2.2\nX-Forwarded-For: 192.0.2.3\nX-Forwarded-Host: h\nX-Forwarded-Proto: https\nVia: 2 edge\n\n",
			line:   "GET /p",
			header: "Via: 1.1 throttle-proxy\nVia: 2 edge\nX-Forwarded-For: 192.0.2.1, 192.0.2.2, 192.0.2.3, 127.0.0.1\nX-Forwarded-Host: h\nX-Forwarded-Prefix: /hook\nX-Forwarded-Proto: https",
		},
		"what another of them tells is its own list alone": {
			trust:  trust("127.0.0.0/8 Forwarded"),
			client: "GET /hook HTTP/1.1\nHost: gateway\nX-Forwarded-For: 203.0.113.9\nX-Forwarded-Proto: gopher\nForwarded: for=192.0.2.1;proto=https, for=\"[2001:db8::1]:443\"\n\n",
			line:   "GET /p",
			header: via + "X-Forwarded-For: 192.0.2.1, \"[2001:db8::1]:443\", 127.0.0.1\nX-Forwarded-Host: gateway\nX-Forwarded-Prefix: /hook\nX-Forwarded-Proto: http",
		},
		"where it says nothing, we do": {
			trust:  loopback,
			client: "GET /hook HTTP/1.0\nHost: gateway\n\n",
			line:   "GET /p",
			header: "Via: 1.0 throttle-proxy\n" + forwarded,
		},
		"HTTP/2 without TLS is not asked for": {
			client: "GET /hook HTTP/1.1\nHost: gateway\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABk\n\n",
			line:   "GET /p",
			header: via + forwarded,
		},
	} {
		t.Run(name, func(t *testing.T) {
			handler, arrivals := records()
			up := serve(t, handler)
			address := up.Listener.Addr().String()
			r := newRig(t, nil, upstreamURL(t, "http://"+tt.user+address+"/p"), func(r *Route) {
				if tt.change != nil {
					tt.change(r)
				}
			})
			r.options.Trust = tt.trust
			request := strings.ReplaceAll(tt.client, "\n", "\r\n")
			res := dial(t, serve(t, r), strings.Replace(request, "\r\n", "\r\nX-Request-Id: id\r\n", 1)).response(t, http.MethodGet)
			if res.StatusCode != ok {
				t.Fatalf("got %d, want 200", res.StatusCode)
			}
			got := next(t, arrivals)
			if got.line != tt.line || got.host != address || got.body != tt.body {
				t.Errorf("got %s at %s with %q, want %s at %s with %q", got.line, got.host, got.body, tt.line, address, tt.body)
			}
			want := strings.Split(tt.header+"\nX-Request-Id: id", "\n")
			h := http.Header{}
			for _, line := range want {
				name, value, _ := strings.Cut(line, ": ")
				h.Add(name, value)
			}
			if want := fields(h); got.header != want {
				t.Errorf("got\n%s\nwant\n%s", got.header, want)
			}
		})
	}
}

func TestAnswerAsItArrives(t *testing.T) {
	const date = "HTTP/1.1 200 OK\nDate: today\n"
	for name, tt := range map[string]struct {
		method   string // GET if empty
		upstream string // LF for CRLF
		status   int
		header   string
		body     string
	}{
		"what the upstream says is kept": {
			upstream: "HTTP/1.1 202 Accepted\nDate: today\nServer: s\nContent-Length: 2\nContent-Type: text/x\nSet-Cookie: a=1\nSet-Cookie: b=2\nETag: \"e\"\nRetry-After: soon\n" +
				"Cache-Control: public\nVia: 1.1 them\nProxy-Status: them\nAlt-Svc: clear\n\nok",
			status: 202, body: "ok",
			header: "Alt-Svc: clear\nCache-Control: public\nContent-Length: 2\nContent-Type: text/x\nDate: today\nEtag: \"e\"\nProxy-Status: them\n" +
				"Retry-After: soon\nServer: s\nSet-Cookie: a=1\nSet-Cookie: b=2\nVia: 1.1 them",
		},
		"nothing is invented": {
			upstream: date + "Content-Length: 13\n\n<html></html>", status: 200, body: "<html></html>",
			header: "Content-Length: 13\nDate: today",
		},
		"nothing is decoded": {
			upstream: date + "Content-Length: 3\nContent-Encoding: gzip\n\n\x1f\x8b\x08", status: 200, body: "\x1f\x8b\x08",
			header: "Content-Encoding: gzip\nContent-Length: 3\nDate: today",
		},
		"hop-by-hop fields end here": {
			upstream: date + "Content-Length: 0\nConnection: keep-alive, X-Hop\nX-Hop: 1\nKeep-Alive: timeout=5\nProxy-Connection: close\nTE: x\nUpgrade: h2c\nX-Kept: 2\n\n",
			status:   200,
			header:   "Content-Length: 0\nDate: today\nX-Kept: 2",
		},
		"chunked": {
			upstream: date + "Transfer-Encoding: chunked\n\n2\nok\n0\n\n", status: 200, body: "ok",
			header: "Date: today",
		},
		"until the connection ends": {
			upstream: "HTTP/1.0 200 OK\nDate: today\n\nok", status: 200, body: "ok",
			header: "Date: today",
		},
		"HEAD": {
			method: http.MethodHead, upstream: date + "Content-Length: 1234\nContent-Type: text/x\n\n", status: 200,
			header: "Content-Length: 1234\nContent-Type: text/x\nDate: today",
		},
		"204": {
			upstream: "HTTP/1.1 204 No Content\nDate: today\nX-A: 1\n\n", status: 204,
			header: "Date: today\nX-A: 1",
		},
		"304": {
			upstream: "HTTP/1.1 304 Not Modified\nDate: today\nETag: \"e\"\n\n", status: 304,
			header: "Date: today\nEtag: \"e\"",
		},
		"an error of its own": {
			upstream: "HTTP/1.1 409 Conflict\nDate: today\nContent-Length: 5\n\ntheir", status: 409, body: "their",
			header: "Content-Length: 5\nDate: today",
		},
		"a status nobody knows": {
			upstream: "HTTP/1.1 599 Odd\nDate: today\nContent-Length: 0\n\n", status: 599,
			header: "Content-Length: 0\nDate: today",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil, upstreamURL(t, says(t, strings.ReplaceAll(tt.upstream, "\n", "\r\n"))))
			if tt.method == "" {
				tt.method = http.MethodGet
			}
			res := dial(t, serve(t, r), tt.method+" /hook HTTP/1.1\r\nHost: gateway\r\n\r\n").response(t, tt.method)
			if body := text(t, res); body != tt.body || res.StatusCode != tt.status {
				t.Errorf("got %d %q, want %d %q", res.StatusCode, body, tt.status, tt.body)
			}
			if got := fields(res.Header); got != tt.header {
				t.Errorf("got\n%s\nwant\n%s", got, tt.header)
			}
		})
	}
}

func TestInformationalAnswersPass(t *testing.T) {
	r := newRig(t, nil, upstreamURL(t, says(t, strings.ReplaceAll("HTTP/1.1 103 Early Hints\nLink: </a>\nConnection: X-Hop\nX-Hop: 1\nKeep-Alive: 5\n\n"+
		"HTTP/1.1 102 Processing\n\nHTTP/1.1 200 OK\nDate: today\nContent-Length: 2\n\nok", "\n", "\r\n"))), limits(limit(t, "hook", "9/s")))
	conn := dial(t, serve(t, r), "POST /hook HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n")
	for _, want := range []struct {
		status int
		header string
	}{
		{103, "Link: </hook/a>"},
		{102, ""},
		{200, "Content-Length: 2\nDate: today\nRatelimit-Policy: \"hook\";q=9;w=1\nRatelimit: \"hook\";r=8;t=1"},
	} {
		res := conn.response(t, http.MethodPost)
		if got := fields(res.Header); res.StatusCode != want.status || got != want.header {
			t.Errorf("got %d\n%s\nwant %d\n%s", res.StatusCode, got, want.status, want.header)
		}
	}
	if e := next(t, r.events); e.Status != ok {
		t.Errorf("got %d, want 200", e.Status)
	}
}

func TestTrailersPass(t *testing.T) {
	for _, d := range []Dedupe{DedupeOn, DedupeOff} {
		t.Run("request, dedupe "+string(d), func(t *testing.T) {
			handler, arrivals := records()
			gateway := serve(t, newRig(t, nil, upstreamURL(t, serve(t, handler).URL), dedupe(d)))
			conn := dial(t, gateway, "POST /hook HTTP/1.1\r\nHost: gateway\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 1\r\n\r\n")
			conn.response(t, http.MethodPost)
			if got := next(t, arrivals); got.body != "body" || got.trailer.Get("X-Sum") != "1" {
				t.Errorf("got %q, trailers %v, want body and X-Sum: 1", got.body, got.trailer)
			}
		})
	}
	for name, trailer := range map[string]string{"announced": "Trailer: X-Sum, X-More\r\n", "not announced": "", "some announced": "Trailer: X-Sum\r\n"} {
		t.Run("answer, "+name, func(t *testing.T) {
			r := newRig(t, nil, upstreamURL(t, says(t, "HTTP/1.1 200 OK\r\n"+trailer+"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n")))
			res := dial(t, serve(t, r), "GET /hook HTTP/1.1\r\nHost: gateway\r\n\r\n").response(t, http.MethodGet)
			if got, want := text(t, res)+"\n"+fields(res.Trailer), "ok\nX-More: 2\nX-Sum: 1"; got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
	t.Run("answer, framing, routing and credentials do not", func(t *testing.T) {
		const forbidden = "Content-Length: 1\r\nHost: h\r\nAuthorization: a\r\nTransfer-Encoding: x\r\nContent-Type: t\r\nConnection: close\r\nSet-Cookie: kept=1\r\n"
		r := newRig(t, nil, upstreamURL(t, says(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"+forbidden+"\r\n")))
		conn := dial(t, serve(t, r), "GET /hook HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
		answer, err := io.ReadAll(conn.r)
		if err != nil {
			t.Fatal(err)
		}
		if _, got, _ := strings.Cut(string(answer), "\r\n0\r\n"); strings.TrimSpace(got) != "Set-Cookie: kept=1" {
			t.Errorf("got trailers %q, want Set-Cookie alone", got)
		}
	})
}

// TestAnswersFlow shows that each piece of an answer is sent on before the
// next one comes.
func TestAnswersFlow(t *testing.T) {
	for name, header := range map[string]string{
		"events":         "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n",
		"unknown length": "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			goOn := make(chan bool)
			up := listen(t, func(conn net.Conn, _ *bufio.Reader, _ *http.Request) {
				for _, piece := range []string{"HTTP/1.1 200 OK\r\n" + header + "\r\n", "5\r\ndata1\r\n", "5\r\ndata2\r\n", "0\r\n\r\n"} {
					_, _ = io.WriteString(conn, piece)
					<-goOn
				}
			})
			conn := dial(t, serve(t, newRig(t, nil, upstreamURL(t, up))), "POST /hook HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n")
			res := conn.response(t, http.MethodPost) // the header comes by itself
			for _, want := range []string{"data1", "data2"} {
				goOn <- true
				piece := make([]byte, len(want))
				if _, err := io.ReadFull(res.Body, piece); err != nil || string(piece) != want {
					t.Fatalf("got %q and %v, want %s", piece, err, want)
				}
			}
			goOn <- true
			if rest := text(t, res); rest != "" {
				t.Errorf("got %q, want the end", rest)
			}
			goOn <- true
		})
	}
}

func TestUpgradesPass(t *testing.T) {
	up := listen(t, func(conn net.Conn, r *bufio.Reader, first *http.Request) {
		if first.Header.Get("Upgrade") == "websocket" && first.Header.Get("Connection") == "Upgrade" {
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			_, _ = io.Copy(conn, r)
		}
	})
	r := newRig(t, nil, upstreamURL(t, up), limits(limit(t, "hook", "1/h")), dedupe(DedupeAll))
	gateway := serve(t, r)
	const upgrade = "GET /hook HTTP/1.1\r\nHost: gateway\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"
	conn := dial(t, gateway, upgrade)
	res := conn.response(t, http.MethodGet)
	if got := res.Header.Get("Ratelimit"); res.StatusCode != http.StatusSwitchingProtocols || got != `"hook";r=0;t=3600` {
		t.Fatalf("got %d, RateLimit %s, want 101 and the budget", res.StatusCode, got)
	}
	for _, want := range []string{"ping", "pong"} {
		if _, err := io.WriteString(conn, want); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn.r, got); err != nil || string(got) != want {
			t.Fatalf("got %q and %v, want %s", got, err, want)
		}
	}
	wantOutcome(t, dial(t, gateway, upgrade).response(t, http.MethodGet), "limited")
	<-r.events
	_ = conn.Close()
	if e := next(t, r.events); e.Status != http.StatusSwitchingProtocols {
		t.Errorf("got %d, want 101", e.Status)
	}
}

// TestExpectContinue: the client sends its body when it is wanted.
func TestExpectContinue(t *testing.T) {
	const expects = "POST /hook HTTP/1.1\r\nHost: gateway\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
	accepts, arrivals := records()
	refuses := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	for _, d := range []Dedupe{DedupeOn, DedupeOff} {
		t.Run("accepted, dedupe "+string(d), func(t *testing.T) {
			conn := dial(t, serve(t, newRig(t, nil, upstreamURL(t, serve(t, accepts).URL), dedupe(d))), expects)
			if res := conn.response(t, http.MethodPost); res.StatusCode != http.StatusContinue {
				t.Fatalf("got %d, want 100", res.StatusCode)
			}
			_, _ = io.WriteString(conn, "body")
			res := conn.response(t, http.MethodPost)
			for res.StatusCode == http.StatusContinue {
				res = conn.response(t, http.MethodPost)
			}
			if got := next(t, arrivals); res.StatusCode != ok || got.body != "body" {
				t.Errorf("got %d, and %q arrived, want 200 and body", res.StatusCode, got.body)
			}
		})
	}
	t.Run("refused by us", func(t *testing.T) {
		r := newRig(t, answers(ok, ""), limits(limit(t, "hook", "1/h")), dedupe(DedupeOff))
		wantOutcome(t, r.do(post("first")), "200")
		wantOutcome(t, r.do(post("second")), "limited")
		wantOutcome(t, dial(t, serve(t, r), expects).response(t, http.MethodPost), "limited")
	})
	t.Run("refused by the upstream", func(t *testing.T) {
		r := newRig(t, nil, upstreamURL(t, serve(t, refuses).URL), dedupe(DedupeOff))
		wantOutcome(t, dial(t, serve(t, r), expects).response(t, http.MethodPost), "403")
	})
}

// TestProtocols sends unary gRPC calls over each version of HTTP, answered by
// trailers and by nothing else.
func TestProtocols(t *testing.T) {
	handler, arrivals := records()
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler.ServeHTTP(w, r)
		w.Header().Set("Content-Type", "application/grpc")
		if r.URL.Path == "/fails" {
			w.Header().Set("Grpc-Status", "5")
			return
		}
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = io.WriteString(w, "answer")
		_ = http.NewResponseController(w).Flush() // of a length that is not known
		w.Header().Set("Grpc-Status", "0")
	}))
	up.EnableHTTP2 = true
	up.StartTLS()
	t.Cleanup(up.Close)
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	plain := httptest.NewUnstartedServer(up.Config.Handler)
	plain.Config.Protocols = both
	plain.Start()
	t.Cleanup(plain.Close)

	for _, tt := range []struct {
		name, url string
		proto     int
	}{
		{"http", plain.URL, 1},
		{"h2c", "h2c" + strings.TrimPrefix(plain.URL, "http"), 2},
		{"https", up.URL, 2},
	} {
		r := newRig(t, nil, upstreamURL(t, tt.url))
		trusts := r.routes["hook"].options()
		trusts.TLS = &tls.Config{RootCAs: up.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
		r.routes["hook"].sender = upstream.New(r.routes["hook"].Upstream, trusts)
		gateway := httptest.NewUnstartedServer(r)
		gateway.Config.Protocols = both
		gateway.Start()
		t.Cleanup(gateway.Close)
		for _, client := range []int{1, 2} {
			t.Run(fmt.Sprintf("from HTTP/%d to %s", client, tt.name), func(t *testing.T) {
				only := new(http.Protocols)
				only.SetHTTP1(client == 1)
				only.SetUnencryptedHTTP2(client == 2)
				transport := &http.Transport{Protocols: only}
				t.Cleanup(transport.CloseIdleConnections)
				for i := range 40 {
					path, want := "", "answer 0"
					if i%2 == 1 {
						path, want = "/fails", " 5"
					}
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, gateway.URL+"/hook"+path, strings.NewReader("call"))
					if err != nil {
						t.Fatal(err)
					}
					req.Header.Set("Content-Type", "application/grpc")
					req.Header.Set("TE", "trailers")
					res, err := transport.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					got := text(t, res) + " " + res.Header.Get("Grpc-Status") + res.Trailer.Get("Grpc-Status")
					if got != want {
						t.Fatalf("got %q, want %q", got, want)
					}
					arrived := next(t, arrivals)
					if arrived.proto != tt.proto || arrived.body != "call" || !strings.Contains(arrived.header, "Te: trailers") {
						t.Errorf("got HTTP/%d with %q and %s, want HTTP/%d with call and Te: trailers", arrived.proto, arrived.body, arrived.header, tt.proto)
					}
				}
			})
		}
	}
}

// TestConnectionsAreReused although answers overlap.
func TestConnectionsAreReused(t *testing.T) {
	arrived, goOn := make(chan bool), make(chan bool)
	connections := make(chan bool, 100)
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- true
		<-goOn
	}))
	up.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections <- true
		}
	}
	up.Start()
	t.Cleanup(up.Close)
	r := newRig(t, nil, upstreamURL(t, up.URL))
	const atOnce = 10
	for round := range 3 {
		var all []<-chan *http.Response
		for i := range atOnce {
			all = append(all, r.start(post(fmt.Sprint(round, i))))
		}
		for range atOnce {
			next(t, arrived)
		}
		for range atOnce {
			goOn <- true
		}
		for _, answer := range all {
			wantOutcome(t, next(t, answer), "200")
		}
	}
	if got := len(connections); got > atOnce {
		t.Errorf("got %d connections for %d requests at once", got, atOnce)
	}
}

// closingBody is a body that cannot be read any more once it was closed, as a
// server's.
type closingBody struct {
	io.Reader
	closed bool
}

func (b *closingBody) Read(p []byte) (int, error) {
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.Reader.Read(p)
}

func (b *closingBody) Close() error { b.closed = true; return nil }

// The server closes a body that was read when the answer begins, and the
// Transport looks once more whether it has ended. Fails if that cuts the answer.
func TestStreamedBodyStaysEnded(t *testing.T) {
	body := &closingBody{Reader: strings.NewReader("body")}
	r := newRig(t, roundTrip(func(req *http.Request) (*http.Response, error) {
		if got, err := io.ReadAll(req.Body); string(got) != "body" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		_ = body.Close()
		if n, err := req.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("after its end: got %d, %v, want EOF", n, err)
		}
		return answer(http.StatusOK, "ok"), nil
	}), dedupe(DedupeOff))
	req := post("body")
	req.Body = body
	r.do(req)
}
