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
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
	"throttle-proxy/proxy/wire"
)

const (
	handshakeTimeout = 10 * time.Second // for a client to agree on TLS
	maxHeader        = 256 << 10        // bytes of a request's header that net/http reads: more than wire lets pass
	idleTimeout      = 2 * time.Minute  // longer than load balancers keep theirs, which then close first
	portPatience     = 5 * time.Second  // for a port that is taken
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
	ctx, stop := untilSignal()
	defer stop()
	listener, err := c.listen(ctx, func(line string) { c.announce(p.stderr, logger, line) })
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	}
	for _, line := range c.describe() {
		c.announce(p.stderr, logger, line)
	}
	h := &health{}
	self := c.self(opaqueID())
	store, closeStore, err := c.openStore(self, logger, h)
	if err != nil {
		return err
	}
	defer closeStore()
	r, err := newReplica(c, store, logger, h)
	if err != nil {
		return err
	}
	if c.adminAddress != "" {
		adminListener, err := c.listenAdmin()
		if err != nil {
			return err
		}
		r.metrics = newMetrics(c, r.proxy, store)
		a := &admin{config: c, self: self, store: store, replica: r, metrics: r.metrics}
		server := &http.Server{Handler: a.handler(), ReadHeaderTimeout: c.headerTimeout}
		go func() { _ = server.Serve(adminListener) }()
		defer server.Close() // it answers while the replica drains
		c.announce(p.stderr, logger, "admin on "+adminListener.Addr().String())
	}
	c.announce(p.stderr, logger, "listening on "+listener.Addr().String())
	return r.serve(ctx, listener)
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

// listen takes the address. A port that is taken may become free: by a replica
// that ends, or, in the system's range for them, by an outgoing connection.
func (c *config) listen(ctx context.Context, announce func(string)) (net.Listener, error) {
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
	var system net.ListenConfig
	system.SetMultipathTCP(false) // has no filters: see ignoreConnects
	listener, err := system.Listen(ctx, c.network, c.address)
	taken := c.network == "tcp" && errors.Is(err, syscall.EADDRINUSE)
	if taken {
		announce(fmt.Sprintf("%s is taken, trying again for %s", c.address, portPatience))
	}
	for deadline := time.Now().Add(portPatience); taken && time.Now().Before(deadline); taken = errors.Is(err, syscall.EADDRINUSE) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		listener, err = system.Listen(ctx, c.network, c.address)
	}
	switch {
	case taken:
		_, port, _ := net.SplitHostPort(c.address)
		return nil, fmt.Errorf("%s: cannot listen: %w: end what listens there or choose another port; if it was an outgoing connection's, reserve it: sysctl -w net.ipv4.ip_local_reserved_ports=%s", c.listenFlag, err, port)
	case err != nil:
		return nil, fmt.Errorf("%s: cannot listen: %w", c.listenFlag, err)
	}
	return listener, nil
}

// openStore chooses what the replicas decide by.
func (c *config) openStore(self cluster.Replica, logger *slog.Logger, h *health) (s store, closeStore func(), err error) {
	if c.connect == nil {
		return cluster.NewMemory(self.ID), func() {}, nil
	}
	r, err := cluster.NewRedis(cluster.Options{
		Connect:  func() (redis.UniversalClient, error) { return c.connect(c.storeTimeout) },
		Prefix:   c.redisPrefix,
		Self:     self,
		LockTTL:  c.lockTTL,
		Timeout:  c.storeTimeout,
		Replicas: c.replicas,
		Pipeline: c.pipeline,
		Observe:  storeObserver(logger),
	})
	if err != nil {
		return nil, nil, err
	}
	h.store, h.policies = r, c.policies()
	return r, func() { _ = r.Close() }, nil
}

// self is this replica as the others are to know it.
func (c *config) self(id string) cluster.Replica {
	self := cluster.Replica{ID: id, Name: c.replica, Version: version(), Started: time.Now(), Routes: map[string]cluster.Digest{}}
	for _, r := range c.routes {
		self.Routes[r.Name] = r.Digest()
	}
	return self
}

// policies names what the routes do while the store is away.
func (c *config) policies() string {
	var names []string
	for _, r := range c.routes {
		names = append(names, string(r.WhenUndecided))
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), " and ")
}

// replica is a throttle-proxy without its listener.
type replica struct {
	config      *config
	proxy       *proxy.Proxy
	server      *http.Server
	health      *health
	traffic     *traffic
	certificate *certificate // nil without TLS
	metrics     *metrics     // nil without --admin; set before it serves
	logger      *slog.Logger
}

func newReplica(c *config, store proxy.Cluster, logger *slog.Logger, h *health) (*replica, error) {
	r := &replica{config: c, health: h, traffic: newTraffic(c.writeIdle), logger: logger}
	observe := requestLog(logger)
	p, err := proxy.New(c.routes, proxy.Options{
		Cluster: store,
		Trust:   c.trust,
		Observe: func(e *proxy.Event) {
			observe(e)
			if r.metrics != nil {
				r.metrics.observe(e)
			}
		},

		MaxBody:     c.maxBody,
		BodyMemory:  c.bodyMemory,
		BodyTimeout: c.bodyIdle,
		MaxInFlight: c.maxInFlight,
	})
	if err != nil {
		return nil, err
	}
	r.proxy = p
	if c.tlsCert != "" {
		if r.certificate, err = newCertificate(c.tlsCert, c.tlsKey, logger); err != nil {
			return nil, fmt.Errorf("--tls-cert: %w", err)
		}
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	r.server = &http.Server{
		Handler:        r.traffic.count(h.wrap(p)),
		ConnState:      r.traffic.observe,
		MaxHeaderBytes: maxHeader,
		HTTP2:          &http.HTTP2Config{WriteByteTimeout: c.writeIdle},
		IdleTimeout:    idleTimeout,
		Protocols:      protocols,
		// OPTIONS * is a path without a route, like any other.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0), // what clients send is not for the log
	}
	if r.certificate != nil {
		r.server.ConnContext, r.server.Handler = connContext, withTLSState(r.server.Handler)
	}
	return r, nil
}

// serve answers requests until ctx ends, then drains.
func (r *replica) serve(ctx context.Context, l net.Listener) error {
	listener := newDrainListener(l)
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(r.wires(listener)) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	r.drain(listener)
	<-served
	return nil
}

// wires returns a listener whose connections are read as HTTP/1 allows, inside
// TLS if there is a certificate.
func (r *replica) wires(listener net.Listener) net.Listener {
	timeouts := wire.Timeouts{Idle: idleTimeout, Header: r.config.headerTimeout, Write: r.config.writeIdle}
	if r.certificate == nil {
		return wireListener{listener, timeouts}
	}
	return newTLSListener(listener, r.certificate, timeouts)
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
	if c.connect == nil {
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
