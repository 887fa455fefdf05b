package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
)

// opaqueID returns what clients are told of a replica: that it is another one.
func opaqueID() string { return strings.ToLower(rand.Text()[:8]) }

// logger returns the log of the whole process, which is written to w. display is nil
// unless that is a terminal.
func (c *config) logger(w *logWriter, display *display) *slog.Logger {
	w.tellDrops(func(lines int64) []byte {
		var line bytes.Buffer
		record := slog.NewRecord(time.Now(), slog.LevelWarn, "lines of the log were dropped: they were not read in time", 0)
		record.AddAttrs(slog.Int64("lines", lines))
		_ = c.logHandler(&line, display).Handle(context.Background(), record)
		return line.Bytes()
	})
	log.SetOutput(io.Discard) // net/http's Transport quotes upstreams there
	redis.SetLogger(quiet{})  // the cluster tells what matters of it
	return slog.New(c.logHandler(w, display))
}

func (c *config) logHandler(w io.Writer, display *display) slog.Handler {
	options := &slog.HandlerOptions{Level: c.logLevel}
	switch {
	case c.logFormat == "json":
		return slog.NewJSONHandler(w, options)
	case c.logFormat == "" && display != nil:
		return c.newTerminal(w, display)
	}
	return newTextHandler(w, options)
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// announce tells a person at the terminal, or whoever reads the log, what this
// replica is about to do.
func (c *config) announce(w io.Writer, logger *slog.Logger, line string) {
	t, watched := logger.Handler().(*terminal)
	switch {
	case c.logFormat == "json":
		logger.Info(line)
	case watched:
		t.print(time.Time{}, plain, line)
	default:
		_, _ = fmt.Fprintln(w, line)
	}
}

// requestLog returns an observer that writes one line for each request. What
// went as it should is info; what an operator may have to do something about
// is a warning.
//
// It hands its lines to the handler by itself: a Logger would look up where
// each comes from, and a Record keeps only a few attributes without an
// allocation. A group without a name counts as one, and is none when written.
func requestLog(logger *slog.Logger) func(*proxy.Event) {
	handler, background := logger.Handler(), context.Background()
	if t, watched := handler.(*terminal); watched {
		return t.request
	}
	lines := sync.Pool{New: func() any { return new(requestLine) }}
	return func(e *proxy.Event) {
		level := levelOf(e)
		if !handler.Enabled(background, level) {
			return
		}
		line := lines.Get().(*requestLine)
		if line.from != e.Client || line.client == "" {
			line.from, line.client = e.Client, client(e)
		}
		line.attrs = appendAttrs(line.attrs[:0], e, line.client)
		defer func() {
			line.forget()
			lines.Put(line)
		}()
		if text, ok := handler.(*textHandler); ok {
			line.text = appendLine(line.text[:0], e.Started.Add(e.Duration), level, "request", line.attrs)
			_, _ = text.out.Write(line.text)
			return
		}
		record := slog.NewRecord(e.Started.Add(e.Duration), level, "request", 0)
		record.AddAttrs(slog.Attr{Value: slog.GroupValue(line.attrs...)})
		_ = handler.Handle(background, record) // there is nowhere to tell of it
	}
}

// requestLine is what is used again for the next line: many requests come from
// one address.
type requestLine struct {
	attrs  []slog.Attr
	text   []byte
	from   netip.Addr
	client string
}

// forget lets go of what only the line before had: a panic's stack, a client's words,
// and the room of a long one.
func (l *requestLine) forget() {
	const usual = 4 << 10 // bytes
	clear(l.attrs)
	if cap(l.text) > usual {
		l.text = nil
	}
}

func levelOf(e *proxy.Event) slog.Level {
	if e.Panic != nil {
		return slog.LevelError
	}
	switch e.Reason {
	case proxy.ReasonUndecided, proxy.ReasonUpstreamRefused, proxy.ReasonUpstreamTimeout, proxy.ReasonUpstreamClosed, proxy.ReasonDraining:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// sentLog returns an observer of requests that are sent on, so that the holder
// of a lock can be found while it runs; nil unless the log is so detailed.
func sentLog(logger *slog.Logger) func(*proxy.Event) {
	if !logger.Enabled(context.Background(), slog.LevelDebug) {
		return nil
	}
	return func(e *proxy.Event) {
		logger.Debug("sent", slog.String("route", e.Route), slog.String("method", e.Method),
			slog.String("request_id", e.ID), slog.String("client", client(e)))
	}
}

// life is what is told of a replica when it ends.
type life struct {
	logger   *slog.Logger
	began    time.Time
	requests atomic.Int64 // that have ended
}

// stopped tells that the process ends, with which exit status, and what it did.
func (l *life) stopped(status int) {
	lasted := time.Since(l.began)
	if t, watched := l.logger.Handler().(*terminal); watched {
		t.summary(lasted)
	}
	l.logger.Info("stopped", slog.Int("status", status), slog.Int64("requests", l.requests.Load()), millis("uptime_ms", lasted))
}

// appendAttrs appends what is told of a request. Times are in milliseconds, and
// ids are called as replies call them. client is whom it comes from, as text.
func appendAttrs(attrs []slog.Attr, e *proxy.Event, client string) []slog.Attr {
	attrs = append(attrs,
		slog.String("route", e.Route),
		slog.String("method", e.Method),
		slog.Int("status", e.Status),
		slog.String("outcome", outcome(e)),
		millis("duration_ms", e.Duration),
	)
	if e.Verdict > 0 {
		attrs = append(attrs, millis("verdict_ms", e.Verdict))
	}
	if e.Waited > 0 {
		attrs = append(attrs, millis("waited_ms", e.Waited))
	}
	if e.Upstream > 0 {
		attrs = append(attrs, millis("upstream_ms", e.Upstream))
	}
	attrs = append(attrs, slog.String("request_id", e.ID))
	if e.ClientRequestID != "" {
		attrs = append(attrs, slog.String("client_request_id", e.ClientRequestID))
	}
	if e.TraceID != "" {
		attrs = append(attrs, slog.String("trace_id", e.TraceID))
	}
	attrs = append(attrs, slog.String("client", client))
	if e.Caller != "" {
		attrs = append(attrs, slog.String("caller", e.Caller))
	}
	if e.Shadowed != "" {
		attrs = append(attrs, slog.String("shadowed", string(e.Shadowed)))
	}
	if e.Holder != (cluster.Holder{}) {
		attrs = append(attrs, slog.String("holder_request_id", e.Holder.RequestID), slog.String("holder_replica", e.Holder.Replica))
	}
	if len(e.Limits) > 0 {
		attrs = append(attrs, slog.String("limits", strings.Join(e.Limits, ",")))
	}
	if len(e.Candidates) > 0 {
		attrs = append(attrs, slog.String("candidates", strings.Join(e.Candidates, ",")))
	}
	if e.Degraded {
		attrs = append(attrs, slog.Bool("degraded", true), slog.String("store_fault", e.StoreFault))
	}
	if e.CoolDown > 0 {
		attrs = append(attrs, millis("cool_down_ms", e.CoolDown))
	}
	if e.Fault != "" {
		attrs = append(attrs, slog.String("fault", e.Fault))
	}
	if e.Unknown != "" {
		attrs = append(attrs, slog.String("unknown_route", e.Unknown))
	}
	if e.Nearest != "" {
		attrs = append(attrs, slog.String("nearest_route", e.Nearest))
	}
	if e.ClientGone {
		attrs = append(attrs, slog.Bool("upstream_went_on", e.UpstreamWentOn))
	}
	if e.Panic != nil {
		attrs = append(attrs, panicAttrs(e.Panic, e.Stack)...)
	}
	return attrs
}

// millis is a time in milliseconds, to the microsecond; beyond a minute and a
// half, where the text of a fraction would need an exponent, to the millisecond.
func millis(key string, d time.Duration) slog.Attr {
	if d >= 100*time.Second {
		return slog.Int64(key, d.Milliseconds())
	}
	return slog.Float64(key, float64(d.Round(time.Microsecond).Microseconds())/1000)
}

// client is the address of whom a request comes from.
func client(e *proxy.Event) string {
	if !e.Client.IsValid() {
		return "unix"
	}
	return e.Client.String()
}

// outcome is what became of a request, in one word of a closed list.
func outcome(e *proxy.Event) string {
	switch {
	case e.Reason != "":
		return string(e.Reason)
	case e.ClientGone:
		return string(proxy.ReasonClientGone)
	case e.Replayed:
		return "replayed"
	case e.Joined:
		return "joined"
	}
	return "forwarded"
}

// maxDifferences is how many routes are named in which another replica differs.
const maxDifferences = 10

// storeObserver returns an observer that logs changes of the store and fleet.
// meanwhile says what happens to the requests of a route or pool, or of all,
// while the store is away.
func storeObserver(logger *slog.Logger, timeout time.Duration, meanwhile func(tag string) string) func(cluster.Change) {
	return func(change cluster.Change) {
		log := logger
		if change.Tag != "" {
			log = log.With(slog.String("routes", change.Tag))
		}
		switch change.Kind {
		case cluster.StoreAway:
			log.Warn("store away", slog.String("fault", cluster.FaultOf(change.Err)), slog.Any("error", change.Err),
				slog.String("meanwhile", meanwhile(change.Tag)))
		case cluster.StoreBack:
			log.Info("store back", millis("after_ms", change.Lasted))
		case cluster.StoreMoved:
			log.Info("store moved: the sentinels name another master, which is asked from now on")
		case cluster.StoreFar:
			log.Warn(tooFar(change.Trip, timeout))
		case cluster.LockLost:
			log.Warn("lock lost: another request has taken it while its holder was in flight")
		case cluster.FleetUnknown:
			log.Warn("replicas cannot be counted", slog.String("fault", cluster.FaultOf(change.Err)), slog.Any("error", change.Err))
		case cluster.ControlUnread:
			log.Warn("what was changed by hand cannot be read: what is known here stays, and the next command puts it right", slog.Any("error", change.Err))
		case cluster.Ordered:
			logOrder(log, change.Order, change.By, change.Version)
		case cluster.LimitChanged:
			logger.Info(fmt.Sprintf("route %s: %s, was %s", change.Limit, change.Is, change.Was))
		case cluster.StoreEvicts:
			log.Warn("the store may evict locks and budgets before they expire: set maxmemory-policy noeviction", slog.String("maxmemory_policy", change.Policy))
		case cluster.ReplicaDiffers:
			differ := change.Peer.Differences
			for i, d := range differ {
				if i == maxDifferences {
					log.Warn(fmt.Sprintf("%s differs in %d more routes", change.Peer.Name, len(differ)-i))
					break
				}
				what := map[string]string{"upstream": "uses another upstream", "policy": "has another policy", "absence": "and this replica do not both have it"}[d.In]
				log.Warn(fmt.Sprintf("route %s: %s %s", d.Route, change.Peer.Name, what),
					slog.String("replica", change.Peer.ID), slog.String("version", change.Peer.Version))
			}
		}
	}
}
