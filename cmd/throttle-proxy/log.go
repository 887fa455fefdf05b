package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
)

// opaqueID returns what clients are told of a replica: that it is another one.
func opaqueID() string { return strings.ToLower(rand.Text()[:8]) }

// requestLog returns an observer that writes one line for each request. What
// went as it should is info; what an operator may have to do something about
// is a warning.
//
// It hands its lines to the handler by itself: a Logger would look up where
// each comes from, and a Record keeps only a few attributes without an
// allocation. A group without a name counts as one, and is none when written.
func requestLog(logger *slog.Logger) func(*proxy.Event) {
	handler, background := logger.Handler(), context.Background()
	lines := sync.Pool{New: func() any { return new([]slog.Attr) }}
	return func(e *proxy.Event) {
		level := slog.LevelInfo
		switch e.Reason {
		case proxy.ReasonUndecided, proxy.ReasonUpstreamRefused, proxy.ReasonUpstreamTimeout, proxy.ReasonUpstreamClosed, proxy.ReasonDraining:
			level = slog.LevelWarn
		}
		if !handler.Enabled(background, level) {
			return
		}
		line := lines.Get().(*[]slog.Attr)
		*line = appendAttrs((*line)[:0], e)
		record := slog.NewRecord(e.Started.Add(e.Duration), level, "request", 0)
		record.AddAttrs(slog.Attr{Value: slog.GroupValue(*line...)})
		_ = handler.Handle(background, record) // there is nowhere to tell of it
		lines.Put(line)
	}
}

// appendAttrs appends what is told of a request.
func appendAttrs(attrs []slog.Attr, e *proxy.Event) []slog.Attr {
	attrs = append(attrs,
		slog.String("route", e.Route),
		slog.String("method", e.Method),
		slog.Int("status", e.Status),
		slog.String("outcome", outcome(e)),
		slog.Duration("duration", e.Duration.Round(time.Microsecond)),
	)
	if e.Verdict > 0 {
		attrs = append(attrs, slog.Duration("verdict", e.Verdict.Round(time.Microsecond)))
	}
	if e.Upstream > 0 {
		attrs = append(attrs, slog.Duration("upstream", e.Upstream.Round(time.Microsecond)))
	}
	attrs = append(attrs, slog.String("id", e.ID))
	if e.RequestID != e.ID {
		attrs = append(attrs, slog.String("request_id", e.RequestID))
	}
	if e.Shadowed != "" {
		attrs = append(attrs, slog.String("shadowed", string(e.Shadowed)))
	}
	if e.Holder != (cluster.Holder{}) {
		attrs = append(attrs, slog.String("holder", e.Holder.RequestID), slog.String("holder_replica", e.Holder.Replica))
	}
	if len(e.Limits) > 0 {
		attrs = append(attrs, slog.String("limits", strings.Join(e.Limits, ",")))
	}
	if e.Degraded {
		attrs = append(attrs, slog.Bool("degraded", true), slog.String("store_fault", e.StoreFault))
	}
	if e.CoolDown > 0 {
		attrs = append(attrs, slog.Duration("cool_down", e.CoolDown))
	}
	if e.Fault != "" {
		attrs = append(attrs, slog.String("fault", e.Fault))
	}
	if e.Nearest != "" {
		attrs = append(attrs, slog.String("nearest_route", e.Nearest))
	}
	if e.ClientGone {
		attrs = append(attrs, slog.Bool("upstream_went_on", e.UpstreamWentOn))
	}
	return attrs
}

// outcome is what became of a request, in one word of a closed list.
func outcome(e *proxy.Event) string {
	switch {
	case e.Reason != "":
		return string(e.Reason)
	case e.ClientGone:
		return string(proxy.ReasonClientGone)
	}
	return "forwarded"
}

// maxDifferences is how many routes are named in which another replica differs.
const maxDifferences = 10

// storeObserver returns an observer that logs changes of the store and fleet.
func storeObserver(logger *slog.Logger) func(cluster.Change) {
	return func(change cluster.Change) {
		log := logger
		if change.Tag != "" {
			log = log.With(slog.String("routes", change.Tag))
		}
		switch change.Kind {
		case cluster.StoreAway:
			log.Warn("store away", slog.String("fault", cluster.FaultOf(change.Err)), slog.Any("error", change.Err))
		case cluster.StoreBack:
			log.Info("store back", slog.Duration("after", change.Lasted.Round(time.Millisecond)))
		case cluster.LockLost:
			log.Warn("lock lost: another request has taken it while its holder was in flight")
		case cluster.FleetUnknown:
			log.Warn("replicas cannot be counted", slog.String("fault", cluster.FaultOf(change.Err)), slog.Any("error", change.Err))
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
