package main

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"throttle-proxy/proxy"
)

func TestPanicIsAnsweredAndLogged(t *testing.T) {
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		status  int    // 0 for a connection that is cut
		logged  string // nothing for ""
	}{
		{"of a string", func(http.ResponseWriter, *http.Request) { panic("no such state") }, 500, `panic="no such state"`},
		{"of the runtime", func(_ http.ResponseWriter, r *http.Request) { r.TLS.ServerName = "" }, 500, "nil pointer dereference"},
		{"of an error, which may quote a URL", func(http.ResponseWriter, *http.Request) {
			panic(&url.Error{Op: "Get", URL: "https://host/" + canary, Err: errors.New(canary)})
		}, 500, `panic="a *url.Error"`},
		{"after an answer has begun", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic("midway")
		}, 0, "panic=midway"},
		{"that means a cut", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			told := &panics{logger: slog.New(slog.NewTextHandler(&log, nil))}
			for name, handler := range map[string]http.Handler{
				"clients":   newTraffic(told, time.Minute).count(test.handler),
				"operators": recovering(test.handler, told),
			} {
				log.Reset()
				server := httptest.NewServer(handler)
				status, contentType := 0, ""
				res, err := http.Get(server.URL)
				var body []byte
				if err == nil {
					body, err = io.ReadAll(res.Body)
					_ = res.Body.Close()
				}
				if err == nil {
					status, contentType = res.StatusCode, res.Header.Get("Content-Type")
				}
				server.Close()
				if status != test.status || status != 0 && contentType != "application/problem+json" {
					t.Errorf("%s: got status %d of type %q and %v, want %d", name, status, contentType, err, test.status)
				}
				sent := map[string]string{"clients": `"reason":"internal","sent":"maybe"`, "operators": `"reason":"internal","sent":"no"`}[name]
				if status != 0 && (!strings.Contains(string(body), sent) || res.Header.Get("X-Should-Retry") != "false") {
					t.Errorf("%s: got %s, want %s, not to be retried", name, body, sent)
				}
				if counted := told.seen.Swap(0) > 0; counted != (test.logged != "") {
					t.Errorf("%s: counted: %v, want %v", name, counted, !counted)
				}
				if got := log.String(); (got == "") != (test.logged == "") || !strings.Contains(got, test.logged) || strings.Contains(got, canary) {
					t.Errorf("%s: got %q in the log, want %q", name, got, test.logged)
				} else if got != "" && (!strings.Contains(got, "level=ERROR") || !strings.Contains(got, "panic_test.go")) {
					t.Errorf("%s: got %q, want an error with the stack", name, got)
				}
			}
		})
	}
}

func TestRequestThatPanickedIsAnErrorInTheLog(t *testing.T) {
	var log bytes.Buffer
	requestLog(slog.New(slog.NewTextHandler(&log, nil)))(&proxy.Event{Route: "a", Status: 500, Panic: "no such state", Stack: []byte("exchange.go:1")})
	for _, want := range []string{"level=ERROR", "route=a", `panic="no such state"`, "stack=exchange.go:1"} {
		if got := log.String(); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
}
