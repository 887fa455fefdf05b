package proxy

import (
	"errors"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// noting is a Trace that notes what it is told.
type noting struct{ told []string }

func (n *noting) Sending(header http.Header) {
	n.told = append(n.told, "sending")
	header.Set("Traceparent", "ours")
	header.Set("X-Set", "ours")
}

func (n *noting) End(e *Event) { n.told = append(n.told, "end "+string(e.Reason)) }

// Fails if a trace is not told of each request's end, once, or of its being sent, or
// if what it says to the upstream does not come there.
func TestTrace(t *testing.T) {
	var got http.Header
	arrives := func(status int) roundTrip {
		return func(r *http.Request) (*http.Response, error) {
			got = r.Header
			return answer(status, "done"), nil
		}
	}
	sets := func(r *Route) { r.SetHeaders = []Field{{"X-Set", "the operator's"}} }
	for name, test := range map[string]struct {
		over http.RoundTripper
		path string
		want []string
	}{
		"forwarded": {arrives(ok), "/hook", []string{"sending", "end "}},
		"no route":  {arrives(ok), "/none", []string{"end unknown-route"}},
		"refused":   {fails(false, errors.New("refused")), "/hook", []string{"sending", "end upstream-refused"}},
		"panics":    {roundTrip(func(*http.Request) (*http.Response, error) { panic("in it") }), "/hook", []string{"sending", "end internal"}},
	} {
		t.Run(name, func(t *testing.T) {
			trace := &noting{}
			r := newRig(t, test.over, sets)
			r.options.Trace = func(in *http.Request, e *Event) Trace {
				if e.ID == "" || e.Started.IsZero() || e.Method != in.Method {
					t.Errorf("got %+v at the beginning", e)
				}
				e.TraceID = "id"
				return trace
			}
			r.do(request(http.MethodPost, test.path, "body", "Traceparent", "the client's"))
			if !slices.Equal(trace.told, test.want) {
				t.Errorf("got %q, want %q", trace.told, test.want)
			}
			if e := <-r.events; e.TraceID != "id" || test.path == "/hook" && (e.Asked.Before(e.Started) || e.Asked.After(e.Started.Add(e.Duration))) {
				t.Errorf("got trace %q, asked %v after the start", e.TraceID, e.Asked.Sub(e.Started))
			}
		})
	}
	if got["Traceparent"][0] != "ours" || got.Get("X-Set") != "the operator's" {
		t.Errorf("the upstream got %v", got)
	}
}

// Fails if requests that nobody traces are charged for those that somebody does: one
// that allocates nothing costs as much as none.
func TestTracesCostNothingWithoutOne(t *testing.T) {
	allocations := func(trace func(*http.Request, *Event) Trace) float64 {
		r := newRig(t, answers(ok, "done"), hold(0))
		r.options.Trace = trace
		const times = 3000
		body, client, req := strings.NewReader(""), &nobody{header: http.Header{}}, post("")
		req.Body, req.ContentLength = io.NopCloser(body), int64(len("same"))
		serve := func(times int) {
			for range times {
				body.Reset("same")
				clear(client.header)
				r.ServeHTTP(client, req)
			}
		}
		serve(100) // pools fill
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		serve(times)
		runtime.ReadMemStats(&after)
		return float64(after.Mallocs-before.Mallocs) / times
	}
	var none nothingToTell
	without, with := allocations(nil), allocations(func(*http.Request, *Event) Trace { return none })
	if with-without > 0.5 || without-with > 0.5 { // the race detector empties pools now and then
		t.Errorf("got %.2f allocations with a trace and %.2f without", with, without)
	}
}

type nothingToTell struct{}

func (nothingToTell) Sending(http.Header) {}
func (nothingToTell) End(*Event)          {}
