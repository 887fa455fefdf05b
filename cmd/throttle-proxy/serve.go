package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
)

const (
	handshakeTimeout = 10 * time.Second // for a client to agree on TLS
	maxHeader        = 64 << 10         // bytes of a request's header: 431 beyond
	idleTimeout      = 2 * time.Minute  // longer than load balancers keep theirs, which then close first
	drainTimeout     = 25 * time.Second
)

type serveCommand struct{ flags }

// Run serves until a signal.
func (s *serveCommand) Run(p *process) error {
	c, err := s.parse(p.environment)
	if err != nil {
		return err
	}
	defer runtime.KeepAlive(p.environment.spaceHeap())
	logger := c.logger(p.stderr)
	listener, err := c.listen()
	if err != nil {
		return err
	}
	if listener, err = c.wires(listener, logger); err != nil {
		return err
	}
	for _, line := range c.describe() {
		c.announce(p.stderr, logger, line)
	}
	h := &health{}
	store, closeStore, err := c.openStore(opaqueID(), logger, h)
	if err != nil {
		return err
	}
	defer closeStore()
	r, err := newReplica(c, store, logger, h)
	if err != nil {
		return err
	}
	c.announce(p.stderr, logger, "listening on "+listener.Addr().String())
	return r.serve(untilSignal(), listener)
}

// logger returns the log of the whole process.
func (c *config) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.logLevel}
	var handler slog.Handler = slog.NewTextHandler(w, options)
	if c.logFormat == "json" {
		handler = slog.NewJSONHandler(w, options)
	}
	log.SetOutput(io.Discard) // net/http's Transport quotes upstreams there
	redis.SetLogger(quiet{})  // the cluster tells what matters of it
	return slog.New(handler)
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// announce tells a person at the terminal, or whoever reads the log, what this
// replica is about to do.
func (c *config) announce(w io.Writer, logger *slog.Logger, line string) {
	if c.logFormat == "json" {
		logger.Info(line)
		return
	}
	_, _ = fmt.Fprintln(w, line)
}

// wires returns a listener whose connections are read as HTTP/1 allows, inside
// TLS if there is a certificate.
func (c *config) wires(listener net.Listener, logger *slog.Logger) (net.Listener, error) {
	if c.tlsCert == "" {
		return wireListener{listener, c.writeIdle}, nil
	}
	certificate, err := newCertificate(c.tlsCert, c.tlsKey, logger)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert: %w", err)
	}
	return newTLSListener(listener, certificate, c.writeIdle), nil
}

func (c *config) listen() (net.Listener, error) {
	if c.network == "unix" {
		// What a killed process left behind is in the way; a living one's is not
		// ours to take.
		if conn, err := net.Dial("unix", c.address); err == nil {
			_ = conn.Close()
			return nil, fmt.Errorf("--listen: something else listens on %s", c.address)
		}
		if info, err := os.Lstat(c.address); err == nil && info.Mode()&os.ModeSocket != 0 {
			_ = os.Remove(c.address)
		}
	}
	listener, err := net.Listen(c.network, c.address)
	if err != nil {
		return nil, fmt.Errorf("%s: cannot listen: %w", c.listenFlag, err)
	}
	return listener, nil
}

// openStore chooses what the replicas decide by. id is what clients are told of
// this one.
func (c *config) openStore(id string, logger *slog.Logger, h *health) (store proxy.Cluster, closeStore func(), err error) {
	if c.redis == nil {
		return cluster.NewMemory(id), func() {}, nil
	}
	r, err := cluster.NewRedis(cluster.Options{
		Client:  c.redis,
		Prefix:  c.redisPrefix,
		Replica: id,
		LockTTL: c.lockTTL,
		Timeout: c.storeTimeout,
		Observe: storeObserver(logger, h),
	})
	if err != nil {
		return nil, nil, err
	}
	return r, func() { _ = r.Close() }, nil
}

// replica is a throttle-proxy without its listener.
type replica struct {
	server *http.Server
	health *health
}

func newReplica(c *config, store proxy.Cluster, logger *slog.Logger, h *health) (*replica, error) {
	p, err := proxy.New(c.routes, proxy.Options{
		Cluster: store,
		Trust:   c.trust,
		Observe: requestLog(logger),

		MaxBody:     c.maxBody,
		BodyMemory:  c.bodyMemory,
		BodyTimeout: c.bodyIdle,
		MaxInFlight: c.maxInFlight,
	})
	if err != nil {
		return nil, err
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &replica{
		health: h,
		server: &http.Server{
			Handler:           withTLSState(h.wrap(p)),
			ConnContext:       connContext,
			ReadHeaderTimeout: c.headerTimeout,
			MaxHeaderBytes:    maxHeader,
			HTTP2:             &http.HTTP2Config{WriteByteTimeout: c.writeIdle},
			IdleTimeout:       idleTimeout,
			Protocols:         protocols,
			// OPTIONS * is a path without a route, like any other.
			DisableGeneralOptionsHandler: true,
			ErrorLog:                     log.New(io.Discard, "", 0), // what clients send is not for the log
		},
	}, nil
}

// serve answers requests until ctx ends, then lets those in flight finish.
func (r *replica) serve(ctx context.Context, listener net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	r.health.draining.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := r.server.Shutdown(ctx); err != nil {
		_ = r.server.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// describe says in plain words what the replica will do.
func (c *config) describe() []string {
	width := 0
	for _, r := range c.routes {
		width = max(width, len(r.Name))
	}
	var lines []string
	for _, r := range c.routes {
		lines = append(lines, fmt.Sprintf("%-*s  %s; %s", width, r.Name, c.describeLimits(r), describeDedupe(r)))
	}
	if c.redis == nil {
		return append(lines, "store: this process alone; with --redis replicas would decide together")
	}
	source := "--redis"
	if c.redisSource != "" {
		source = c.redisSource
	}
	return append(lines, fmt.Sprintf("store: %s (from %s), keys under %s:", c.redisAddress, source, c.redisPrefix))
}

func (c *config) describeLimits(r proxy.Route) string {
	if len(r.Limits) == 0 {
		return "no limit"
	}
	var parts []string
	for _, l := range r.Limits {
		rate, _, _ := strings.Cut(l.String(), ",")
		part := fmt.Sprintf("%s, burst %d", rate, l.Burst)
		if l.By != (proxy.By{}) {
			part += " by " + l.By.String()
		}
		if r.Upstream.Slack() && l.Limit == builtinRate(r.Upstream).Limit {
			part += " (Slack's published limit)"
		}
		if slices.Contains(c.shared[r.Pool], l) {
			part += " (shared by pool " + r.Pool + ")"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " and ")
}

func describeDedupe(r proxy.Route) string {
	what := map[proxy.Dedupe]string{
		proxy.DedupeOn:  "repeats",
		proxy.DedupeAll: "repeats, of any method,",
		proxy.DedupeKey: "repeats with an Idempotency-Key",
	}[r.Dedupe]
	text := "repeats are forwarded"
	if r.Dedupe != proxy.DedupeOff {
		text = what + " refused while in flight"
		if r.Hold > 0 {
			text += fmt.Sprintf(" and %s after success", r.Hold)
		}
	}
	if r.Shadow {
		text += "; shadow: nothing is refused, only reported"
	}
	return text
}
