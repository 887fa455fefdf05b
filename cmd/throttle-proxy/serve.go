package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
	"throttle-proxy/proxy/wire"
)

const (
	handshakeTimeout = 10 * time.Second // for a client to agree on TLS
	maxHeader        = 256 << 10        // bytes of a request's header that net/http reads: more than wire lets pass
	idleTimeout      = 2 * time.Minute  // longer than load balancers keep theirs, which then close first
)

type serveCommand struct{ flags }

// Run serves until a signal. What can be wrong is found before clients can
// connect.
func (s *serveCommand) Run(p *process) error {
	hangups := catchHangups()
	defer hangups.close()
	c, err := s.parse(p.environment)
	if err != nil {
		return err
	}
	c.warn(p.stderr)
	defer runtime.KeepAlive(p.environment.spaceHeap())
	signal.Ignore(syscall.SIGPIPE) // a log whose reader has left loses lines, and no more
	logger := c.logger(p.stderr, displayOf(p.stderr.out, p.environment))
	announce := func(line string) { c.announce(p.stderr, logger, line) }
	life := &life{logger: logger, began: time.Now()}
	ctx, stop := untilSignal(func() {
		life.stopped(exitFailed)
		p.stderr.close()
	})
	defer stop()
	h := &health{}
	self := c.self(opaqueID())
	var reporting atomic.Pointer[admin]
	store, closeStore, err := c.openStore(self, logger, h, func() []byte {
		if a := reporting.Load(); a != nil {
			return a.report().pack(cluster.MaxReport)
		}
		return nil // it does nothing yet
	})
	if err != nil {
		return err
	}
	defer closeStore()
	traces, err := c.openTraces(self, logger)
	if err != nil {
		return err
	}
	r, err := newReplica(c, store, life, h, traces)
	if err != nil {
		return err
	}
	admins, err := c.listenAdmin()
	if err != nil {
		return err
	}
	defer admins.close()
	if len(admins) > 0 {
		r.metrics = newMetrics(c, r, store, p.stderr)
	}
	listener, err := c.listen(ctx, announce)
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	}
	for _, line := range c.describe() {
		announce(line)
	}
	a := &admin{config: c, self: self, store: store, replica: r, metrics: r.metrics}
	reporting.Store(a)
	for _, l := range admins {
		server := a.server(l.changes)
		go func() { _ = server.Serve(l) }()
		defer server.Close() // it answers while the replica drains
		announce(l.announcement())
	}
	whose := ""
	if c.inherited {
		whose = " (a socket of systemd's)"
	}
	announce("listening on " + listener.Addr().String() + whose)
	hangups.obey(func() { r.reload(func() (*config, error) { return s.parse(p.environment) }) })
	defer r.watch()()
	err = r.serve(ctx, listener)
	traces.close()
	status := 0
	if err != nil {
		status = exitFailed
	}
	life.stopped(status)
	return err
}

// replica is a throttle-proxy without its listener.
type replica struct {
	config      *config
	proxy       *proxy.Proxy
	server      *http.Server
	health      *health
	traffic     *traffic
	certificate *certificate // nil without TLS
	tally       *tally
	metrics     *metrics // nil without --admin; set before it serves
	drainStore  func(left time.Duration)
	logger      *slog.Logger
	panics      *panics
	traces      *traces // nil for none
}

func newReplica(c *config, store store, life *life, h *health, traces *traces) (*replica, error) {
	logger := life.logger
	panics := &panics{logger: logger}
	r := &replica{
		config: c, health: h, traffic: newTraffic(panics, c.writeIdle), logger: logger, drainStore: store.Drain,
		panics: panics, traces: traces, tally: newTally(c),
	}
	observe := requestLog(logger)
	options := proxy.Options{
		Cluster: store,
		Trust:   c.trust,
		Sent:    sentLog(logger),
		Observe: func(e *proxy.Event) {
			life.requests.Add(1)
			if e.Panic != nil {
				panics.seen.Add(1)
			}
			observe(e)
			r.tally.observe(e)
			if r.metrics != nil {
				r.metrics.observe(e)
			}
		},

		MaxBody:     c.maxBody,
		BodyMemory:  c.bodyMemory,
		BodyTimeout: c.bodyIdle,
		MaxInFlight: c.maxInFlight,
		Warn:        func(text string) { logger.Warn(text) },
	}
	if traces != nil {
		options.Trace = traces.begin
	}
	p, err := proxy.New(c.routes, options)
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
		ConnContext:    connContext,
		MaxHeaderBytes: maxHeader,
		HTTP2:          &http.HTTP2Config{WriteByteTimeout: c.writeIdle},
		IdleTimeout:    idleTimeout,
		Protocols:      protocols,
		// OPTIONS * is a path without a route, like any other.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0), // what clients send is not for the log
	}
	if r.certificate != nil {
		r.server.Handler = withTLSState(r.server.Handler)
	}
	return r, nil
}

// serve answers requests until ctx ends, then drains.
func (r *replica) serve(ctx context.Context, l net.Listener) error {
	listener := newDrainListener(l)
	listener.inherited = r.config.inherited
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
