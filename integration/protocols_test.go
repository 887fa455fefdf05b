package integration

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/slack-go/slack"
)

// Protocols, spoken by other people's implementations.

var building sync.Mutex // two builds at once download what they share twice

// buildTool builds a package of testdata/tools, a module of its own.
func buildTool(t *testing.T, pkg string) (path string) {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	path = filepath.Join(buildDir, filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-o", path, pkg)
	cmd.Dir = filepath.Join("testdata", "tools")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return path
}

// protoClient returns a client that speaks just one version of HTTP, and h2c
// for HTTP/2 without TLS.
func protoClient(t *testing.T, transport *http.Transport, set func(*http.Protocols)) *http.Client {
	transport.Protocols = new(http.Protocols)
	set(transport.Protocols)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Timeout: patience, Transport: transport}
}

// Fails where the proxy does worse than Go's own server, which fails the same
// five of 145:
//   - "invalid connection preface" wants silence: what is no HTTP/2 is HTTP/1
//     here, and answered 400;
//   - "a large size HEADERS frame" is within the 1 MiB that Go allows frames;
//   - "multiple values of SETTINGS_INITIAL_WINDOW_SIZE": Go takes a setting
//     that is repeated for an attack, and closes the connection;
//   - "the connection-specific header field" and "the TE header field" want the
//     stream reset: Go answers 400.
//
// h2spec waits a fixed time for each answer, which a busy machine can miss:
// the floor has to be reached once in three rounds.
func TestHTTP2Conforms(t *testing.T) {
	t.Parallel()
	const floor, of = 140, 145
	tool := buildTool(t, "github.com/summerwind/h2spec/cmd/h2spec")
	var calls atomic.Int64
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		_, _ = io.WriteString(w, "long enough to be sent in parts")
	}))
	defer upstream.Close()
	r := startReplica(t, "--register", "hook="+upstream.URL, "--rate", "off", "--dedupe", "off")
	host, port, _ := net.SplitHostPort(r.addr)
	var tests, passed, skipped, failed int
	for round := 0; round < 3 && passed < floor; round++ {
		p := launch(t, exec.Command(tool, "-h", host, "-p", port, "-P", "/hook", "-o", "4"))
		p.wait(t) // its status tells of any failure
		report, failures, _ := strings.Cut(p.stdout.String(), "Failures:")
		summary := regexp.MustCompile(`\d+ tests, .*`).FindString(report + failures)
		if _, err := fmt.Sscanf(summary, "%d tests, %d passed, %d skipped, %d failed", &tests, &passed, &skipped, &failed); err != nil {
			t.Fatalf("no summary: %v\n%s%s", err, report, p.stderr.String())
		}
		t.Logf("%s\n%s", summary, strings.Join(regexp.MustCompile(`× .*`).FindAllString(failures, -1), "\n"))
	}
	if passed < floor || tests != of {
		t.Errorf("got %d of %d passed, want %d of %d", passed, tests, floor, of)
	}
	if calls.Load() == 0 {
		t.Error("nothing reached the upstream")
	}
}

// Fails if whoever still reads the body of a request that is over takes the
// process with it.
func TestClientsLeaveMidBody(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	second := httptest.NewUnstartedServer(u.Config.Handler)
	second.Config.Protocols = both
	second.Start()
	defer second.Close()
	r := startReplica(t, "--register", "http1="+u.URL, "--register", "h2c="+strings.Replace(second.URL, "http:", "h2c:", 1),
		"--rate", "off", "--dedupe", "off")
	for name, set := range map[string]func(*http.Protocols){
		"HTTP/1.1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP/2":   func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
	} {
		from := protoClient(t, &http.Transport{}, set)
		for _, route := range []string{"/http1", "/h2c"} {
			each(40, 4, func(i int) {
				body, more := io.Pipe()
				go func() {
					_, _ = io.WriteString(more, "half of it")
					time.Sleep(time.Duration(i%5) * time.Millisecond)
					_ = more.CloseWithError(errors.New("the client leaves"))
				}()
				if res, err := from.Post(r.url+route, "", body); err == nil {
					t.Errorf("%s%s: got %s for half a body", name, route, res.Status)
				}
			})
			a, err := try(t.Context(), from, http.MethodPost, r.url+route, "hello")
			if err != nil {
				t.Fatalf("%s%s: afterwards: %v", name, route, err)
			}
			expect(t, name+route, a, "200")
		}
	}
}

// tlsUpstream starts an upstream that answers with the protocol it was asked
// by, and returns a file of its certificate.
func tlsUpstream(t *testing.T, http2 bool) (url, certFile string) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s", r.Proto, body)
	}))
	server.EnableHTTP2 = http2
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that are to fail
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, writeFile(t, "upstream.pem", encodePEM("CERTIFICATE", server.Certificate().Raw))
}

func writeFile(t *testing.T, name string, content []byte) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUpstreamOverTLS(t *testing.T) {
	t.Parallel()
	for proto, http2 := range map[string]bool{"HTTP/2.0": true, "HTTP/1.1": false} {
		t.Run(proto, func(t *testing.T) {
			url, cert := tlsUpstream(t, http2)
			_, port, _ := net.SplitHostPort(strings.TrimPrefix(url, "https://"))
			r := startReplica(t, "SSL_CERT_FILE="+cert, "--register", "hook="+url, "--register", "other=https://localhost:"+port, "--rate", "off")
			for _, body := range []string{"hello", "bye", strings.Repeat("x", 1<<20)} {
				a := post(t, r.url+"/hook", body)
				if expect(t, "request", a, "200"); a.body != proto+" "+body {
					t.Errorf("got %.50q, want %s and what was sent", a.body, proto)
				}
			}
			unverified(t, "another name", post(t, r.url+"/other", "hello"))
			stranger := startReplica(t, "--register", "hook="+url, "--rate", "off")
			unverified(t, "a certificate of nobody known", post(t, stranger.url+"/hook", "hello"))
		})
	}
}

func unverified(t *testing.T, what string, a answer) {
	t.Helper()
	expect(t, what, a, "502 upstream-refused")
	if got := a.header.Get("Proxy-Status"); !strings.HasSuffix(got, "error=tls_certificate_error") {
		t.Errorf("%s: Proxy-Status: %s", what, got)
	}
}

// Fails if the proxy connects by itself: nobody else knows the upstream's name.
func TestUpstreamBehindAnotherProxy(t *testing.T) {
	t.Parallel()
	const name = "upstream.test"
	pair, cert, _ := newKeyPair(t, name)
	u := newUpstream(t)
	secure := httptest.NewUnstartedServer(u.Config.Handler)
	secure.TLS = tlsConfig(pair)
	secure.StartTLS()
	defer secure.Close()

	var mu sync.Mutex
	var asked []string
	connect := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.Method+" "+r.Host)
		mu.Unlock()
		if r.Method != http.MethodConnect || r.Host != name+":443" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		to, err := net.Dial("tcp", secure.Listener.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		w.WriteHeader(http.StatusOK)
		from, early, err := http.NewResponseController(w).Hijack() // of which a byte may have been read
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			_, _ = io.Copy(from, to)
			_ = from.Close()
		}()
		_, _ = io.Copy(to, early)
		_ = to.Close()
	}))
	defer connect.Close()

	r := startReplica(t, "HTTPS_PROXY="+connect.URL, "SSL_CERT_FILE="+writeFile(t, "cert.pem", cert),
		"--register", "hook=https://"+name, "--register", "forbidden=https://elsewhere.test", "--rate", "off")
	expect(t, "request", post(t, r.url+"/hook/rest", "hello"), "200")
	if c := u.last(); c.target != "/rest" || c.body != "hello" {
		t.Errorf("the upstream got %s, %q", c.target, c.body)
	}
	expect(t, "what the proxy forbids", post(t, r.url+"/forbidden", "hello"), "502 upstream-refused")
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"CONNECT " + name + ":443", "CONNECT elsewhere.test:443"}; !slices.Equal(asked, want) {
		t.Errorf("the proxy was asked %q, want %q", asked, want)
	}
}

// fieldAdder adds a field to requests of a library that has no room for it.
type fieldAdder struct{ name, value string }

func (f fieldAdder) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(f.name, f.value)
	return client.Transport.RoundTrip(r)
}

func TestSlackClientUnderstandsRefusals(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	r := startReplica(t, "--register", "hook="+u.URL, "--register", "limited="+u.URL, "--rate", "off", "--rate", "limited=1/h,burst=1")
	send := func(route, text string, fields ...fieldAdder) error {
		c := client
		for _, f := range fields {
			c = &http.Client{Timeout: patience, Transport: f}
		}
		return slack.PostWebhookCustomHTTPContext(t.Context(), r.url+"/"+route, c, &slack.WebhookMessage{Text: text})
	}
	if err := send("hook", "hello"); err != nil {
		t.Errorf("message: %v", err)
	}
	if got := u.last().body; !strings.Contains(got, `"hello"`) {
		t.Errorf("the upstream got %s", got)
	}

	name, value, _ := strings.Cut(blocks, ": ")
	first := make(chan error, 1)
	go func() { first <- send("hook", "twice", fieldAdder{name, value}) }()
	eventually(t, "the message is in flight", func() bool { return len(u.all()) == 2 })
	var status slack.StatusCodeError
	if err := send("hook", "twice"); !errors.As(err, &status) || status.Code != http.StatusConflict {
		t.Errorf("the same message: %v, want 409", err)
	}
	u.open()
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}

	if err := send("limited", "one"); err != nil {
		t.Errorf("within the budget: %v", err)
	}
	var limited *slack.RateLimitedError
	if err := send("limited", "two"); !errors.As(err, &limited) || limited.RetryAfter < time.Second {
		t.Errorf("beyond the budget: %v, want a wait of a second or more", err)
	}
}
