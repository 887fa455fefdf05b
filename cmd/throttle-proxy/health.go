package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// health is what a replica tells of itself on /-/healthy and /-/ready, which
// need neither a verdict nor the store.
type health struct {
	draining atomic.Bool
	store    interface { // nil for a cluster of one
		Away() (since time.Time, ok bool)
	}
	policies string // of routes whose store is away
}

// wrap answers the health paths, whatever the host, and leaves all others to next.
// No route can be called "-".
func (h *health) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, text := http.StatusOK, "ok"
		switch r.URL.Path {
		case "/-/healthy":
		case "/-/ready":
			status, text = h.ready()
		default:
			next.ServeHTTP(w, r)
			return
		}
		if r.ContentLength != 0 {
			// Or net/http would wait for a body that nobody reads.
			w.Header().Set("Connection", "close")
			_ = http.NewResponseController(w).SetReadDeadline(time.Now())
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text+"\n")
	})
}

func (h *health) ready() (status int, text string) {
	if h.draining.Load() {
		return http.StatusServiceUnavailable, "draining"
	}
	if h.store != nil {
		if since, away := h.store.Away(); away {
			return http.StatusOK, fmt.Sprintf("degraded: store away %ds, policy %s", int(time.Since(since).Seconds()), h.policies)
		}
	}
	return http.StatusOK, "ok"
}

// healthCommand takes the flags of serve that say where the replica listens,
// so that it works with the same variables in the same container.
type healthCommand struct {
	Port   string `default:"44444" help:"Port of the replica (${default})."`
	Listen string `placeholder:"ADDRESS" help:"host:port or unix:/path of the replica, in place of --port."`

	TLSCert string `name:"tls-cert" placeholder:"FILE" help:"The replica's certificate: with one it is asked by TLS."`
}

// Run fails unless the replica is ready.
func (h *healthCommand) Run(p *process) error {
	problems := &parsing{}
	var c config
	(&flags{Port: h.Port, Listen: h.Listen}).parseListen(problems, &c)
	if len(problems.problems) > 0 {
		return usageError{problems.problems[0]}
	}
	host, port, err := net.SplitHostPort(c.address) // a path has neither
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		c.address = net.JoinHostPort("localhost", port)
	}
	scheme := "http"
	if h.TLSCert != "" {
		scheme = "https"
	}
	client := &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			// It is asked whether it answers, not who it is.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, c.network, c.address)
			},
		},
	}
	res, err := client.Get(scheme + "://replica/-/ready")
	if err != nil {
		return fmt.Errorf("%s: the replica does not answer: %w", c.listenFlag, cause(err))
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	_, _ = p.stdout.Write(text)
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the replica is not ready")
	}
	return nil
}
