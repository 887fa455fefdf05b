package main

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
)

// requestTrace is the spans of one request: the server's, and as far as it came the
// verdict, what it waited, and the client's of the upstream. They have nothing of
// its target, fields and body, nor of the upstream's URL.
type requestTrace struct {
	of     *traces
	in     *http.Request
	ctx    context.Context // of the server's span
	server trace.Span
	client trace.Span // nil until it is sent on
	sent   time.Time
}

// Sending implements [proxy.Trace].
func (t *requestTrace) Sending(header http.Header) {
	t.sent = time.Now()
	ctx, span := t.of.tracer.Start(t.ctx, traceMethod(t.in.Method), trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(t.sent))
	t.client = span
	delete(header, "Tracestate") // another's, where that cannot be read
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(header))
}

// End implements [proxy.Trace].
func (t *requestTrace) End(e *proxy.Event) {
	if !t.server.IsRecording() {
		return
	}
	if !e.Asked.IsZero() {
		decided := e.Asked.Add(e.Verdict)
		t.child("verdict", e.Asked, decided, t.verdict(e)...)
		if e.Waited > 0 {
			t.child("wait", decided, decided.Add(e.Waited))
		}
	}
	name := traceMethod(e.Method)
	if e.Route != "" {
		name += " " + e.Route
	}
	if t.client != nil {
		t.endClient(name, e)
	}
	t.server.SetName(name)
	t.server.SetAttributes(t.request(e)...)
	if e.Status >= 500 {
		t.server.SetAttributes(semconv.ErrorTypeKey.String(cmp.Or(string(e.Reason), strconv.Itoa(e.Status))))
		t.server.SetStatus(codes.Error, "")
	}
	t.server.End(trace.WithTimestamp(e.Started.Add(e.Duration)))
}

// child is a span that has ended.
func (t *requestTrace) child(name string, began, ended time.Time, attributes ...attribute.KeyValue) {
	_, span := t.of.tracer.Start(t.ctx, name, trace.WithTimestamp(began), trace.WithAttributes(attributes...))
	span.End(trace.WithTimestamp(ended))
}

// endClient ends the span of the upstream where the header of its answer had
// arrived: what follows takes as long as the client takes to read it.
func (t *requestTrace) endClient(name string, e *proxy.Event) {
	t.client.SetName(name)
	t.client.SetAttributes(semconv.HTTPRequestMethodKey.String(traceMethodName(e.Method)), semconv.ServicePeerName(e.Route))
	failed := e.Fault
	if e.Reason == "" && !e.ClientGone { // the status is the upstream's own
		t.client.SetAttributes(semconv.HTTPResponseStatusCode(e.Status))
		if failed == "" && e.Status >= 400 {
			failed = strconv.Itoa(e.Status)
		}
	}
	if failed != "" {
		t.client.SetAttributes(semconv.ErrorTypeKey.String(failed))
		t.client.SetStatus(codes.Error, "")
	}
	t.client.End(trace.WithTimestamp(t.sent.Add(e.Upstream)))
}

// request is what is told of a request, by OpenTelemetry's names as far as there
// are some, and else by those of the log.
func (t *requestTrace) request(e *proxy.Event) []attribute.KeyValue {
	scheme, version := "http", strconv.Itoa(t.in.ProtoMajor)
	if t.in.TLS != nil {
		scheme = "https"
	}
	if t.in.ProtoMajor == 1 {
		version += "." + strconv.Itoa(t.in.ProtoMinor)
	}
	attributes := []attribute.KeyValue{
		semconv.HTTPRequestMethodKey.String(traceMethodName(e.Method)), semconv.HTTPResponseStatusCode(e.Status),
		semconv.URLScheme(scheme), semconv.NetworkProtocolVersion(version),
		ours("outcome", outcome(e)), ours("request_id", e.ID),
	}
	switch local := t.in.Context().Value(http.LocalAddrContextKey).(type) {
	case *net.TCPAddr:
		attributes = append(attributes, semconv.ServerAddress(local.IP.String()), semconv.ServerPort(local.Port))
	case net.Addr:
		attributes = append(attributes, semconv.ServerAddress(local.String()))
	}
	if e.Client.IsValid() {
		attributes = append(attributes, semconv.ClientAddress(e.Client.String()))
	}
	if e.Route != "" {
		attributes = append(attributes, semconv.HTTPRoute(e.Route))
	}
	if e.Caller != "" {
		attributes = append(attributes, ours("caller", e.Caller))
	}
	if e.Holder != (cluster.Holder{}) {
		attributes = append(attributes, ours("holder_request_id", e.Holder.RequestID), ours("holder_replica", e.Holder.Replica))
	}
	if len(e.Limits) > 0 {
		attributes = append(attributes, attribute.StringSlice("throttle_proxy.limits", e.Limits))
	}
	if len(e.Candidates) > 0 {
		attributes = append(attributes, attribute.StringSlice("throttle_proxy.candidates", e.Candidates))
	}
	if e.Shadowed != "" {
		attributes = append(attributes, ours("shadowed", string(e.Shadowed)))
	}
	return attributes
}

// verdict is what is told of a verdict.
func (t *requestTrace) verdict(e *proxy.Event) []attribute.KeyValue {
	attributes := []attribute.KeyValue{ours("store", t.of.store)}
	if e.Degraded {
		attributes = append(attributes, attribute.Bool("throttle_proxy.degraded", true), ours("store_fault", e.StoreFault))
	}
	return attributes
}

func ours(name, value string) attribute.KeyValue {
	return attribute.String("throttle_proxy."+name, value)
}

// traceMethods are those that OpenTelemetry knows: clients make up others.
var traceMethods = []string{
	http.MethodConnect, http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPatch,
	http.MethodPost, http.MethodPut, http.MethodTrace, "QUERY",
}

// traceMethodName is a method as an attribute has it.
func traceMethodName(method string) string {
	if slices.Contains(traceMethods, method) {
		return method
	}
	return "_OTHER"
}

// traceMethod is a method as a span's name has it.
func traceMethod(method string) string {
	if slices.Contains(traceMethods, method) {
		return method
	}
	return "HTTP"
}
