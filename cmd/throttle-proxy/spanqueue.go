package main

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"regexp"
	"sync/atomic"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"throttle-proxy/proxy/upstream"
)

// spanQueue is the spans that wait for the collector. Nothing waits for it: what is
// too much is dropped and counted, which the processor of OpenTelemetry's that
// does the rest tells nobody.
type spanQueue struct {
	sdktrace.SpanProcessor
	most    int64        // spans that wait
	waiting atomic.Int64 // or are on their way
	dropped atomic.Int64 // never got by the collector
}

// newSpanQueue returns a queue of most spans to an exporter, of whose state it
// tells the log.
func newSpanQueue(to sdktrace.SpanExporter, most int64, logger *slog.Logger) *spanQueue {
	q := &spanQueue{most: most}
	q.SpanProcessor = sdktrace.NewBatchSpanProcessor(&spanExporter{SpanExporter: to, queue: q, logger: logger})
	return q
}

// OnEnd implements [sdktrace.SpanProcessor].
func (q *spanQueue) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if q.waiting.Add(1) > q.most {
		q.waiting.Add(-1)
		q.dropped.Add(1)
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// spanExporter sends what a queue has. One batch is sent at a time.
type spanExporter struct {
	sdktrace.SpanExporter
	queue  *spanQueue
	logger *slog.Logger
	away   bool // the last batch was not taken
}

// ExportSpans implements [sdktrace.SpanExporter]. It tells of errors by itself.
func (x *spanExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := x.SpanExporter.ExportSpans(ctx, spans)
	x.queue.waiting.Add(-int64(len(spans)))
	if err != nil {
		x.queue.dropped.Add(int64(len(spans)))
	}
	switch {
	case err != nil && !x.away:
		x.logger.Warn("traces away: the collector does not take them", slog.String("fault", collectorFault(err)))
	case err == nil && x.away:
		x.logger.Info("traces back")
	}
	x.away = err != nil
	return nil
}

var collectorStatus = regexp.MustCompile(`: ([1-5]\d\d) [A-Z]`)

// collectorFault is why a collector has not taken spans, without its URL: a status,
// or an error type of RFC 9209.
func collectorFault(err error) string {
	if failed, ok := errors.AsType[*url.Error](err); ok {
		_, fault := upstream.ConnectFault(failed.Err)
		return fault
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "http_response_timeout"
	}
	if status := collectorStatus.FindStringSubmatch(err.Error()); status != nil {
		return status[1]
	}
	return "http_response_incomplete"
}
