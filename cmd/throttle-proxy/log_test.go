package main

import (
	"io"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"throttle-proxy/proxy"
)

func BenchmarkRequestLog(b *testing.B) {
	observe := requestLog(slog.New(slog.NewTextHandler(io.Discard, nil)))
	e := proxy.Event{
		Route: "slack", Method: "POST", Status: 429, ID: "ABCDEFGHIJKLMNOP", Client: netip.MustParseAddr("203.0.113.7"), Caller: "01234567",
		Verdict: 45 * time.Microsecond,
		Reason:  proxy.ReasonLimited, Limits: []string{"slack"}, Started: time.Now(), Duration: 123 * time.Microsecond,
	}
	b.ReportAllocs()
	for b.Loop() {
		observe(&e)
	}
}
