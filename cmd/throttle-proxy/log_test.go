package main

import (
	"io"
	"log/slog"
	"testing"
	"time"

	"throttle-proxy/proxy"
)

func BenchmarkRequestLog(b *testing.B) {
	observe := requestLog(slog.New(slog.NewTextHandler(io.Discard, nil)))
	e := proxy.Event{
		Route: "slack", Method: "POST", Status: 429, ID: "ABCDEFGHIJKLMNOP", RequestID: "ABCDEFGHIJKLMNOP",
		Reason: proxy.ReasonLimited, Limits: []string{"slack"}, Started: time.Now(), Duration: 123 * time.Microsecond,
	}
	b.ReportAllocs()
	for b.Loop() {
		observe(&e)
	}
}
