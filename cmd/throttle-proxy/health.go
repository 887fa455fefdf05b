package main

import (
	"fmt"
	"io"
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
