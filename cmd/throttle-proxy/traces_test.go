package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"throttle-proxy/proxy"
)

// What a request costs that is traced, and one that is not sampled.
func BenchmarkTrace(b *testing.B) {
	for name, sampler := range map[string]sdktrace.Sampler{"kept": sdktrace.AlwaysSample(), "not sampled": sdktrace.NeverSample()} {
		b.Run(name, func(b *testing.B) {
			t := &traces{queue: newSpanQueue(tracetest.NewNoopExporter(), 2048, slog.New(slog.DiscardHandler)), store: "redis"}
			t.provider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(t.queue), sdktrace.WithSampler(sampler))
			t.tracer = t.provider.Tracer("")
			defer t.close()
			in := httptest.NewRequest(http.MethodPost, "/slack", nil)
			in.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
			b.ReportAllocs()
			for b.Loop() {
				e := proxy.Event{Method: http.MethodPost, Started: time.Now()}
				trace := t.begin(in, &e)
				trace.Sending(http.Header{})
				e.Route, e.Status, e.Asked, e.Verdict, e.Upstream, e.Duration = "slack", http.StatusOK, e.Started, 1, 1, 3
				trace.End(&e)
			}
		})
	}
}
