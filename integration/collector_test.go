package integration

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector gets traces as OTLP over HTTP.
type collector struct {
	*httptest.Server
	headers http.Header // of the last export

	mu       sync.Mutex
	raw      []byte // of all exports, as protobuf
	spans    []*toldSpan
	resource map[string]string
	path     string
}

// toldSpan is one that came, with its attributes as text.
type toldSpan struct {
	*tracepb.Span
	attributes map[string]string
}

func newCollector(t *testing.T) *collector {
	c := newUnstartedCollector(t)
	c.Start()
	return c
}

func newUnstartedCollector(t *testing.T) *collector {
	c := &collector{}
	c.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			unpacked, err := gzip.NewReader(body)
			if err != nil {
				t.Error(err)
				return
			}
			body = unpacked
		}
		raw, err := io.ReadAll(body)
		export := new(collectorpb.ExportTraceServiceRequest)
		if err == nil {
			err = proto.Unmarshal(raw, export)
		}
		if err != nil {
			t.Errorf("an export that cannot be read: %v", err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw, c.headers, c.path = append(c.raw, raw...), r.Header, r.URL.Path
		for _, of := range export.ResourceSpans {
			c.resource = texts(of.Resource.Attributes)
			for _, scope := range of.ScopeSpans {
				for _, s := range scope.Spans {
					c.spans = append(c.spans, &toldSpan{s, texts(s.Attributes)})
				}
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func texts(attributes []*commonpb.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range attributes {
		text := fmt.Sprint(a.Value.Value)
		switch v := a.Value.Value.(type) {
		case *commonpb.AnyValue_StringValue:
			text = v.StringValue
		case *commonpb.AnyValue_IntValue:
			text = fmt.Sprint(v.IntValue)
		case *commonpb.AnyValue_BoolValue:
			text = fmt.Sprint(v.BoolValue)
		case *commonpb.AnyValue_ArrayValue:
			var values []string
			for _, value := range v.ArrayValue.Values {
				values = append(values, value.GetStringValue())
			}
			text = strings.Join(values, ",")
		}
		m[a.Key] = text
	}
	return m
}

// trace waits for the server's span of a trace, and returns it with its children by
// name; that of the upstream is "upstream".
func (c *collector) trace(t *testing.T, id string) (server *toldSpan, children map[string]*toldSpan) {
	t.Helper()
	eventually(t, "the trace arrives", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		children = map[string]*toldSpan{}
		for _, s := range c.spans {
			switch {
			case hex.EncodeToString(s.TraceId) != id:
			case s.Kind == tracepb.Span_SPAN_KIND_SERVER:
				server = s
			case s.Kind == tracepb.Span_SPAN_KIND_CLIENT:
				children["upstream"] = s
			default:
				children[s.Name] = s
			}
		}
		return server != nil // which is the last to end
	})
	for name, child := range children {
		if !slices.Equal(child.ParentSpanId, server.SpanId) {
			t.Errorf("%s: the parent of %s is another", id, name)
		}
		if child.StartTimeUnixNano < server.StartTimeUnixNano || child.EndTimeUnixNano > server.EndTimeUnixNano || child.lasted() < 0 {
			t.Errorf("%s: %s lasts from %d to %d, not within %d to %d", id, name, child.StartTimeUnixNano, child.EndTimeUnixNano, server.StartTimeUnixNano, server.EndTimeUnixNano)
		}
	}
	return server, children
}

func (s *toldSpan) lasted() time.Duration {
	return time.Duration(int64(s.EndTimeUnixNano) - int64(s.StartTimeUnixNano))
}
