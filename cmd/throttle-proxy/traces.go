package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
)

// traceFlush is the longest that the process waits, when it ends, for a collector
// to take what it has not got yet.
const traceFlush = 2 * time.Second

// traces tells an OpenTelemetry collector what becomes of requests. It is nil
// where the environment names none.
type traces struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	queue    *spanQueue
	store    string // what decides
	logger   *slog.Logger
}

// openTraces returns the traces of a replica. What the variables of OpenTelemetry
// say beside what [config.parseTraces] reads, its libraries read by themselves.
func (c *config) openTraces(self cluster.Replica, logger *slog.Logger) (*traces, error) {
	if c.collector.address == "" {
		return nil, nil
	}
	// What the libraries say quotes addresses and variables: the queue tells what
	// matters of it.
	otel.SetLogger(logr.Discard())
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
	ctx := context.Background()
	var options []otlptracehttp.Option
	if c.collector.source == exporterVariable {
		options = append(options, otlptracehttp.WithEndpointURL("http://"+c.collector.address+"/v1/traces"))
	}
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.collector.source, err)
	}
	of, err := resource.New(ctx, resource.WithAttributes(
		semconv.ServiceName("throttle-proxy"), semconv.ServiceInstanceID(self.ID), semconv.ServiceVersion(self.Version),
	), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", resourceVariable, err)
	}
	t := &traces{queue: newSpanQueue(exporter, c.collector.queue, logger), store: "memory", logger: logger}
	if c.endpoint != nil {
		t.store = "redis"
	}
	t.provider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(t.queue), sdktrace.WithResource(of))
	t.tracer = t.provider.Tracer("throttle-proxy", trace.WithInstrumentationVersion(self.Version))
	return t, nil
}

// dropped returns how many spans the collector never got.
func (t *traces) dropped() float64 {
	if t == nil {
		return 0
	}
	return float64(t.queue.dropped.Load())
}

// close gives the collector what waits, and gives up after a while.
func (t *traces) close() {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), traceFlush)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // what it comes to is what still waits
	if lost := t.queue.waiting.Load(); lost > 0 {
		t.logger.Warn("traces lost: the collector did not take them in time", slog.Int64("spans", lost))
	}
}

// begin is [proxy.Options.Trace].
func (t *traces) begin(r *http.Request, e *proxy.Event) proxy.Trace {
	ctx := propagation.TraceContext{}.Extract(context.Background(), fields{propagation.HeaderCarrier(r.Header)})
	ctx, span := t.tracer.Start(ctx, traceMethod(e.Method), trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(e.Started))
	e.TraceID, e.TraceKept = span.SpanContext().TraceID().String(), span.SpanContext().IsSampled()
	return &requestTrace{of: t, in: r, ctx: ctx, server: span}
}

// fields are a request's, of which several with one name are one: several
// Tracestate are a list, and several Traceparent are nonsense.
type fields struct{ propagation.HeaderCarrier }

// Get implements [propagation.TextMapCarrier].
func (f fields) Get(name string) string {
	return strings.Join(http.Header(f.HeaderCarrier).Values(name), ",")
}
