package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// outage is a store that is away since an instant, if that is not zero.
type outage struct{ since time.Time }

func (o *outage) Away() (time.Time, bool) { return o.since, !o.since.IsZero() }

func TestHealthCommand(t *testing.T) {
	for _, test := range []struct {
		name   string
		health func(*health)
		status int
		stdout string // a regular expression
		stderr string // what is in it
	}{
		{"ready", func(*health) {}, 0, `^ok\n$`, ""},
		{"degraded", func(h *health) { h.store, h.policies = &outage{time.Now()}, "local" }, 0, `^degraded: store away \d+s, policy local\n$`, ""},
		{"recovered", func(h *health) { h.store = &outage{} }, 0, `^ok\n$`, ""},
		{"draining", func(h *health) { h.draining.Store(true) }, exitFailed, `^draining\n`, "not ready"},
	} {
		h := &health{}
		test.health(h)
		server := httptest.NewServer(h.wrap(http.NotFoundHandler()))
		defer server.Close()
		_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
		for _, line := range []string{
			"health --port " + port,
			"health --listen 127.0.0.1:" + port,
			"health --listen 0.0.0.0:" + port,
			"PORT=" + port + " health",
			"THROTTLE_PROXY_LISTEN=:" + port + " health",
		} {
			status, stdout, stderr := execute(line)
			if status != test.status || !regexp.MustCompile(test.stdout).MatchString(stdout) || !strings.Contains(stderr, test.stderr) || (stderr == "") != (test.stderr == "") {
				t.Errorf("%s, %s: got status %d, %q and %q, want %d, %q and %q", test.name, line, status, stdout, stderr, test.status, test.stdout, test.stderr)
			}
		}
	}
}

func TestHealthCommandOnAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer((&health{}).wrap(http.NotFoundHandler()))
	server.Listener = listener
	server.Start()
	defer server.Close()
	status, stdout, stderr := execute("THROTTLE_PROXY_LISTEN=unix:" + path + " health")
	if status != 0 || stdout != "ok\n" || stderr != "" {
		t.Errorf("got status %d, %q and %q, want 0, ok and nothing", status, stdout, stderr)
	}
}

func TestHealthCommandFailsWhereNobodyAnswers(t *testing.T) {
	for addr, why := range map[string]string{
		"127.0.0.1:" + redistest.FreePort(t):         "connection refused",
		"unix:" + filepath.Join(t.TempDir(), canary): "no such file or directory",
	} {
		status, stdout, stderr := execute("health --listen " + addr)
		want := "throttle-proxy: --listen: the replica does not answer: start it, or write where it listens: connect: " + why + "\n"
		if status != exitFailed || stdout != "" || stderr != want {
			t.Errorf("%s: got status %d, %q and %q, want %d and %q", addr, status, stdout, stderr, exitFailed, want)
		}
	}
}

func TestHealthPathsAreNoRoutes(t *testing.T) {
	h := &health{}
	handler := h.wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	h.draining.Store(true)
	for _, test := range []struct {
		path string
		want int
	}{
		{"/-/healthy", http.StatusOK},
		{"/-/ready", http.StatusServiceUnavailable},
		{"http://a.example.com/-/ready", http.StatusServiceUnavailable},
		{"/-/", http.StatusTeapot}, // may be an upstream's, by a host
		{"/-/metrics", http.StatusTeapot},
		{"/-", http.StatusTeapot},
		{"/slack/-/ready", http.StatusTeapot},
	} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, test.path, nil))
		if w.Code != test.want {
			t.Errorf("%s: got %d, want %d", test.path, w.Code, test.want)
		}
	}
}
