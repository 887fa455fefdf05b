package integration

import (
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"throttle-proxy/integration/redistest"
)

// traceOf are the fields by which a client says what its request is a part of.
func traceOf(n int) (id string, fields []string) {
	id = fmt.Sprintf("%032x", n+1)
	return id, []string{"Traceparent: 00-" + id + "-00000000000000aa-01", "Tracestate: vendor=1"}
}

// Fails if a trace does not tell what became of a request and how long each part of
// it took, if client, replica and upstream are not of one trace, or if a secret is in
// what the collector gets.
func TestTraces(t *testing.T) {
	t.Parallel()
	const mark = "CANARY"
	c := newCollector(t)
	u := newUpstream(t)
	addr := strings.TrimPrefix(u.URL, "http://")
	secret := "http://user" + mark + ":password" + mark + "@" + addr + "/path" + mark + "?query=" + mark
	r := startReplicas(t, redistest.Start(t).URL(), 1, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.URL, "OTEL_BSP_SCHEDULE_DELAY=10",
		"OTEL_EXPORTER_OTLP_HEADERS=api-key=header%20"+mark, "OTEL_RESOURCE_ATTRIBUTES=deployment.environment.name=test", "OTEL_EXPORTER_OTLP_COMPRESSION=gzip",
		"HOOK="+secret, "--register", "hook=env:HOOK", "--register", "limited=env:HOOK", "--register", "waits=env:HOOK",
		"--register", "gone=http://127.0.0.1:"+redistest.FreePort(t)+"/"+mark,
		"--rate", "1000/s", "--rate", "limited=1/d,name=daily", "--rate", "waits=2/s,burst=1", "--wait", "waits=1m", "--hold", "0s,unknown=0s", "--admin", "127.0.0.1:0")[0]
	type spanOf map[string]string
	tests := []struct {
		route, does, body, want string
		server                  spanOf // attributes; "" for none
		upstream                spanOf // nil if none is asked
		failed                  bool
	}{
		{"hook", plain, "one", "200", spanOf{"throttle_proxy.outcome": "forwarded", "http.response.status_code": "200"}, spanOf{"http.response.status_code": "200"}, false},
		{"hook", plain, strings.Repeat("large", 100_000), "200", spanOf{"throttle_proxy.outcome": "forwarded"}, spanOf{"http.response.status_code": "200"}, false},
		{"hook", fails, "one", "500", spanOf{"error.type": "500"}, spanOf{"http.response.status_code": "500", "error.type": "500"}, true},
		{"hook", cuts, "one", "499 upstream-closed", spanOf{"throttle_proxy.outcome": "upstream-closed", "http.response.status_code": "499"}, spanOf{"http.response.status_code": "", "error.type": "connection_terminated"}, true},
		{"hook", blocks, "equal", "409 duplicate", spanOf{"throttle_proxy.outcome": "duplicate", "http.response.status_code": "409", "error.type": ""}, nil, false},
		{"limited", plain, "one", "200", spanOf{"throttle_proxy.outcome": "forwarded"}, spanOf{}, false},
		{"limited", plain, "two", "429 limited", spanOf{"throttle_proxy.outcome": "limited", "throttle_proxy.limits": "daily"}, nil, false},
		{"gone", plain, "one", "502 upstream-refused", spanOf{"error.type": "upstream-refused"}, spanOf{"error.type": "connection_refused"}, true},
		{"waits", plain, "one", "200", spanOf{}, spanOf{}, false},
		{"waits", plain, "two", "200", spanOf{}, spanOf{}, false},
	}
	send := func(n int, route, body, does string) answer {
		_, fields := traceOf(n)
		return post(t, r.url+"/"+route+"/rest"+mark+"?query="+mark, mark+body,
			append(fields, does, "Authorization: Bearer "+mark, "Cookie: "+mark, "X-Api-Key: "+mark)...)
	}
	first := u.await(t, func() answer { return send(len(tests), "hook", "equal", blocks) })
	for i, test := range tests {
		expect(t, test.route, send(i, test.route, test.body, test.does), test.want)
	}
	u.open()
	expect(t, "the first", <-first, "200")
	for i, test := range tests {
		id, _ := traceOf(i)
		what := fmt.Sprintf("%s %s: ", test.route, test.want)
		server, children := c.trace(t, id)
		if server.Name != "POST "+test.route || hex.EncodeToString(server.ParentSpanId) != "00000000000000aa" || server.TraceState != "vendor=1" {
			t.Errorf("%sgot span %s of parent %x with state %s", what, server.Name, server.ParentSpanId, server.TraceState)
		}
		if _, decided := children["verdict"]; !decided {
			t.Errorf("%sno verdict: %v", what, slices.Collect(maps.Keys(children)))
		} else if got := children["verdict"].attributes["throttle_proxy.store"]; got != "redis" {
			t.Errorf("%sdecided by %q", what, got)
		}
		sent, asked := children["upstream"], test.upstream != nil
		if (sent != nil) != asked {
			t.Errorf("%sa span of the upstream: %v, want %v", what, sent != nil, asked)
		}
		compare := func(s *toldSpan, want spanOf) {
			t.Helper()
			for name, value := range want {
				if got := s.attributes[name]; got != value {
					t.Errorf("%s%s: got %q, want %q", what, name, got, value)
				}
			}
		}
		compare(server, test.server)
		compare(server, spanOf{
			"http.request.method": "POST", "http.route": test.route, "url.scheme": "http", "network.protocol.version": "1.1",
			"client.address": "127.0.0.1", "server.address": "127.0.0.1", "server.port": r.addr[strings.LastIndex(r.addr, ":")+1:], "url.path": "", "url.full": "",
		})
		for name, child := range children {
			if child.lasted() == 0 {
				t.Errorf("%s%s took no time", what, name)
			}
		}
		if sent != nil {
			compare(sent, test.upstream)
			compare(sent, spanOf{"http.request.method": "POST", "service.peer.name": test.route, "server.address": "", "url.full": ""})
			if failed := sent.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR; failed != test.failed || sent.Name != "POST "+test.route {
				t.Errorf("%sthe upstream's span %s has status %v", what, sent.Name, sent.Status)
			}
		}
		_, waited := children["wait"]
		if want := test.route == "waits" && test.body == "two"; waited != want {
			t.Errorf("%swaited: %v, want %v", what, waited, want)
		} else if waited && children["wait"].lasted() < 50*time.Millisecond {
			t.Errorf("%swaited for %v", what, children["wait"].lasted())
		}
	}

	// The upstream is told of the span that is about it, and the log of the trace.
	told := map[string]string{}
	for _, call := range u.all() {
		parts := strings.Split(call.header.Get("Traceparent"), "-")
		if len(parts) != 4 || parts[3] != "01" || call.header.Get("Tracestate") != "vendor=1" {
			t.Fatalf("the upstream got traceparent %q and tracestate %q", call.header["Traceparent"], call.header["Tracestate"])
		}
		told[parts[1]] = parts[2]
	}
	for i, test := range tests {
		id, _ := traceOf(i)
		if _, children := c.trace(t, id); test.upstream != nil && test.route != "gone" && told[id] != hex.EncodeToString(children["upstream"].SpanId) {
			t.Errorf("%s %s: the upstream was told of span %s, want %x", test.route, test.want, told[id], children["upstream"].SpanId)
		}
		if !strings.Contains(r.stderr.String(), " trace_id="+id+" ") {
			t.Errorf("%s %s: its trace is not in the log", test.route, test.want)
		}
	}

	examples := do(t, http.MethodGet, r.admin(t)+"/metrics", "", "Accept: application/openmetrics-text; version=1.0.0").body
	for _, histogram := range []string{"request", "verdict", "upstream"} {
		if !regexp.MustCompile(`throttle_proxy_` + histogram + `_duration_seconds_bucket\{[^}]*\} \d+ # \{trace_id="0{30}`).MatchString(examples) {
			t.Errorf("no trace is an example of %s_duration_seconds", histogram)
		}
	}

	r.end(t) // what waits is flushed
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resource["service.name"] != "throttle-proxy" || c.resource["service.instance.id"] == "" || c.resource["deployment.environment.name"] != "test" {
		t.Errorf("got resource %v", c.resource)
	}
	if c.path != "/v1/traces" || c.headers.Get("Api-Key") != "header "+mark {
		t.Errorf("the collector was asked for %s by %v", c.path, c.headers)
	}
	for _, secret := range []string{mark, addr} {
		if strings.Contains(strings.ToLower(string(c.raw)), strings.ToLower(secret)) {
			t.Errorf("the collector is told %s", secret)
		}
	}
	if strings.Contains(r.stderr.String(), mark) {
		t.Error("the log has a secret")
	}
}

// Fails if what a client says of its trace is read otherwise than by the rules of
// W3C, over any protocol and to either kind of sender, or what is not sampled is kept.
func TestTraceContext(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	u := newUpstream(t)
	// Nothing is sent before the replica ends: that is what flushes it.
	on := []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=" + c.URL + "/custom", "OTEL_BSP_SCHEDULE_DELAY=3600000", "OTEL_SERVICE_NAME=mine"}
	flags := []string{"--register", "hook=" + u.URL, "--rate", "off", "--dedupe", "off"}
	traced := startReplica(t, append(on, flags...)...)
	clients := map[string]*http.Client{
		"HTTP/1.1": client,
		"h2c":      protoClient(t, &http.Transport{}, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }),
	}
	const id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	own := regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-01$`)
	goesOn := regexp.MustCompile("^00-" + id + "-[0-9a-f]{16}-01$")
	for _, test := range []struct {
		name   string
		fields []string
		parent *regexp.Regexp
		state  string
	}{
		{"none", nil, own, ""},
		{"good", []string{"Traceparent: 00-" + id + "-" + parent + "-01", "Tracestate: a=1"}, goesOn, "a=1"},
		{"states in two lines", []string{"Traceparent: 00-" + id + "-" + parent + "-01", "Tracestate: a=1", "Tracestate: b=2"}, goesOn, "a=1,b=2"},
		{"another version", []string{"Traceparent: cc-" + id + "-" + parent + "-01-what-the-future-has"}, goesOn, ""},
		{"not sampled", []string{"Traceparent: 00-" + id + "-" + parent + "-00"}, regexp.MustCompile("^00-" + id + "-[0-9a-f]{16}-00$"), ""},
		{"nonsense", []string{"Traceparent: nonsense", "Tracestate: a=1"}, own, ""},
		{"two", []string{"Traceparent: 00-" + id + "-" + parent + "-01", "Traceparent: 00-" + id + "-" + parent + "-01"}, own, ""},
		{"zero", []string{"Traceparent: 00-" + strings.Repeat("0", 32) + "-" + parent + "-01"}, own, ""},
		{"a state that is none", []string{"Traceparent: 00-" + id + "-" + parent + "-01", "Tracestate: ,,=,"}, goesOn, ""},
	} {
		for proto, by := range clients {
			for size, body := range map[string]string{"small": "x", "large": strings.Repeat("x", 1<<20)} {
				a, err := try(t.Context(), by, http.MethodPost, traced.url+"/hook", body, test.fields...)
				if err != nil || a.status != http.StatusOK {
					t.Fatalf("%s: %v, %v", test.name, a, err)
				}
				got := u.last().header
				if lines := got["Traceparent"]; len(lines) != 1 || !test.parent.MatchString(lines[0]) || lines[0][36:52] == parent || got.Get("Tracestate") != test.state {
					t.Errorf("%s, %s, %s: the upstream got %q and %q, want %s and %q", test.name, proto, size, got["Traceparent"], got["Tracestate"], test.parent, test.state)
				}
			}
		}
	}
	traced.end(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.path != "/custom" || c.resource["service.name"] != "mine" {
		t.Errorf("got %s from %v", c.path, c.resource)
	}
	servers := 0
	for _, s := range c.spans {
		if s.Kind == tracepb.Span_SPAN_KIND_SERVER {
			servers++
		}
	}
	if want := 8 * 4; servers != want {
		t.Errorf("%d requests were kept, want %d", servers, want)
	}

	// Without a collector the client's fields pass as they are, however odd.
	for _, words := range [][]string{nil, {"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL, "OTEL_TRACES_EXPORTER=none"}, {"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL, "OTEL_SDK_DISABLED=true"}} {
		off := startReplica(t, append(words, flags...)...)
		post(t, off.url+"/hook", "x", "Traceparent: nonsense", "Tracestate: a=1", "Tracestate: b=2")
		if got := u.last().header; !slices.Equal(got["Traceparent"], []string{"nonsense"}) || !slices.Equal(got["Tracestate"], []string{"a=1", "b=2"}) {
			t.Errorf("%v: the upstream got %q and %q", words, got["Traceparent"], got["Tracestate"])
		}
		if strings.Contains(off.stderr.String(), "trace") {
			t.Errorf("%v: traces in the log", words)
		}
	}
}

// Fails if a sampler by its standard name does not decide what is kept, and the
// upstream is told otherwise, or if a collector is not verified as the variables say.
func TestTracesAreSampledAndSentSafely(t *testing.T) {
	t.Parallel()
	pair, certPEM, keyPEM := newKeyPair(t, "collector")
	dir := t.TempDir()
	for name, text := range map[string][]byte{"cert.pem": certPEM, "key.pem": keyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	u := newUpstream(t)
	trusts := "OTEL_EXPORTER_OTLP_CERTIFICATE=" + dir + "/cert.pem"
	ourselves := []string{"OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE=" + dir + "/cert.pem", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY=" + dir + "/key.pem"}
	for name, test := range map[string]struct {
		env   []string
		flags string // that the upstream is told
		kept  bool
	}{
		"all":                  {append([]string{trusts, "OTEL_TRACES_SAMPLER=always_on"}, ourselves...), "01", true},
		"none":                 {append([]string{trusts, "OTEL_TRACES_SAMPLER=always_off"}, ourselves...), "00", false},
		"no part":              {append([]string{trusts, "OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=0"}, ourselves...), "00", false},
		"as the client says":   {append([]string{trusts, "OTEL_TRACES_SAMPLER=parentbased_always_off"}, ourselves...), "01", true},
		"to nobody knows whom": {ourselves, "01", false},
		"by nobody knows whom": {[]string{trusts}, "01", false},
		"packed, one by one":   {append([]string{trusts, "OTEL_EXPORTER_OTLP_COMPRESSION=gzip", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=1"}, ourselves...), "01", true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newUnstartedCollector(t)
			c.TLS = tlsConfig(pair)
			c.TLS.ClientAuth, c.TLS.ClientCAs = tls.RequireAndVerifyClientCert, trusting(pair).RootCAs
			c.Config.ErrorLog = log.New(io.Discard, "", 0)
			c.StartTLS()
			r := startReplica(t, append(append([]string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + c.URL}, test.env...), "--register", "hook="+u.URL)...)
			_, fields := traceOf(0)
			expect(t, "the request", post(t, r.url+"/hook", name, fields...), "200")
			if got := u.last().header.Get("Traceparent"); !strings.HasSuffix(got, "-"+test.flags) {
				t.Errorf("the upstream got %s, want the flags %s", got, test.flags)
			}
			r.end(t)
			c.mu.Lock()
			defer c.mu.Unlock()
			if kept := len(c.spans) == 3; kept != test.kept {
				t.Errorf("got %d spans, want some: %v", len(c.spans), test.kept)
			}
		})
	}
}

// Fails if a collector that is away, silent or full costs a request something, if
// what it does not get is not counted, or if it holds up the end of the process.
func TestCollectorThatDoesNotTakeTraces(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	full := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "CANARY", http.StatusUnauthorized)
	}))
	t.Cleanup(full.Close)
	u := newUpstream(t)
	for name, test := range map[string]struct{ collector, fault string }{
		"away":    {"http://127.0.0.1:" + redistest.FreePort(t) + "/canary", "connection_refused"},
		"silent":  {"http://" + silent.Addr().String(), ""},
		"refuses": {full.URL, "401"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startReplica(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+test.collector, "OTEL_BSP_SCHEDULE_DELAY=10", "OTEL_BSP_MAX_QUEUE_SIZE=20", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=10",
				"--register", "hook="+u.URL, "--rate", "off", "--dedupe", "off", "--admin", "127.0.0.1:0")
			each(50, 4, func(i int) { expect(t, "meanwhile", post(t, r.url+"/hook", fmt.Sprint(i)), "200") })
			eventually(t, "dropped spans are counted", func() bool { return r.metric(t, "trace_spans_dropped_total") >= 100 })
			r.end(t)
			log := r.stderr.String()
			away := strings.Count(log, `msg="traces away`)
			if test.fault != "" && (away != 1 || !strings.Contains(log, "fault="+test.fault)) {
				t.Errorf("got %d lines of an outage, want 1 with the fault %s", away, test.fault)
			}
			if strings.Contains(strings.ToLower(log), "canary") {
				t.Error("the log has what the collector says, or where it is")
			}
			if lost := strings.Contains(log, `msg="traces lost`); lost != (name == "silent") {
				t.Errorf("the end was waited for until spans were given up: %v", lost)
			}
			if !strings.Contains(lastLine(log), "msg=stopped") {
				t.Errorf("the last line is %s", lastLine(log))
			}
		})
	}
}

func lastLine(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return lines[len(lines)-1]
}
