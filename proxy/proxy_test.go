package proxy

// The tests send requests through a whole Proxy. What the replicas agree on is
// the real thing, in memory. The upstream is a function where a test decides
// what happens when, in a bubble of testing/synctest, and a server elsewhere.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
	"throttle-proxy/proxy/upstream"
)

// patience is how long a test waits for what must come. No test takes it.
const patience = 20 * time.Second

const ok, created = http.StatusOK, http.StatusCreated

// rig is a Proxy under test. It has one route, hook.
type rig struct {
	*Proxy
	events chan Event // the first of them, as far as nobody takes them
}

// newRig returns a rig whose upstream is one of ours, or with nil the one that
// the route names.
func newRig(tb testing.TB, over http.RoundTripper, changes ...func(*Route)) *rig {
	tb.Helper()
	route := Route{
		Name:            "hook",
		Upstream:        mustParse(tb, "https://upstream.example/services/T0"),
		Dedupe:          DedupeOn,
		DedupeHeaders:   []string{"Authorization", "Idempotency-Key"},
		Hold:            Hold{time.Second, time.Second},
		DuplicateStatus: http.StatusConflict,
		Timeout:         time.Minute,
		ClosedStatus:    StatusClientGone,
		ClientGone:      Finish,
		AnswerIdle:      time.Minute,
		Forwarded:       true,
		CoolDown:        CoolDown{Longest: 5 * time.Minute},
		KeepAlive:       upstream.KeepAlive{Idle: time.Minute},
	}
	for _, change := range changes {
		change(&route)
	}
	r := &rig{events: make(chan Event, 100)}
	p, err := New([]Route{route}, Options{
		Cluster: cluster.NewMemory("replica-1"),
		MaxBody: 1 << 20, BodyMemory: 1 << 30, BodyTimeout: time.Minute, MaxInFlight: 1000,
		Observe: func(e *Event) {
			select {
			case r.events <- *e:
			default:
			}
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	r.Proxy = p
	if over != nil {
		r.over(over)
	} else {
		tb.Cleanup(r.routes["hook"].sender.(*upstream.Client).CloseIdleConnections)
	}
	return r
}

// over lets rt stand for the upstream.
func (r *rig) over(rt http.RoundTripper) { r.routes["hook"].over(rt) }

func (rt *route) over(transport http.RoundTripper) {
	rt.sender = upstream.Over(transport, rt.Upstream, rt.options())
}

// do returns the answer to req, or nil if it was cut.
func (r *rig) do(req *http.Request) (res *http.Response) {
	client := httptest.NewRecorder()
	if r.serveTo(client, req) {
		return nil
	}
	return client.Result()
}

// serveTo answers req as a server would, and reports whether it would have cut
// the connection.
func (r *rig) serveTo(client http.ResponseWriter, req *http.Request) (cut bool) {
	defer func() {
		if err := recover(); err == http.ErrAbortHandler {
			cut = true
		} else if err != nil {
			panic(err)
		}
	}()
	r.ServeHTTP(client, req.WithContext(context.WithValue(req.Context(), http.ServerContextKey, &http.Server{})))
	return false
}

// wantFirst checks that req is answered as wanted before its body is read.
func (r *rig) wantFirst(t *testing.T, method, want string) {
	t.Helper()
	client := httptest.NewRecorder()
	body := readerFunc(func([]byte) (int, error) {
		if client.Body.Len() == 0 {
			t.Error("the body was read before the answer")
		}
		return 0, io.EOF
	})
	r.serveTo(client, httptest.NewRequest(method, "/hook", body))
	wantOutcome(t, client.Result(), want)
}

// start is do in the background.
func (r *rig) start(req *http.Request) <-chan *http.Response {
	answer := make(chan *http.Response, 1)
	go func() { answer <- r.do(req) }()
	return answer
}

// Changes of a route, for newRig.

func limits(ls ...Limit) func(*Route)   { return func(r *Route) { r.Limits = ls } }
func hold(d time.Duration) func(*Route) { return func(r *Route) { r.Hold = Hold{d, d} } }
func dedupe(d Dedupe) func(*Route)      { return func(r *Route) { r.Dedupe = d } }
func shadow(r *Route)                   { r.Shadow = true }

func upstreamURL(tb testing.TB, url string) func(*Route) {
	return func(r *Route) { r.Upstream = mustParse(tb, url) }
}

func limit(tb testing.TB, name, rate string) Limit {
	tb.Helper()
	l, err := limiter.Parse(rate)
	if err != nil {
		tb.Fatal(err)
	}
	return Limit{Limit: l, Name: name}
}

func mustParse(tb testing.TB, url string) *upstream.URL {
	tb.Helper()
	u, err := upstream.Parse("hook", url)
	if err != nil {
		tb.Fatalf("%s: %v", url, err)
	}
	return u
}

// post returns a request as a server would read it.
func post(body string, header ...string) *http.Request {
	return request(http.MethodPost, "/hook", body, header...)
}

// request returns a request with names and values of header fields.
func request(method, target, body string, header ...string) *http.Request {
	req := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return req
}

// roundTrip is a RoundTripper.
type roundTrip func(*http.Request) (*http.Response, error)

func (u roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return u(req) }

// answers is an upstream that answers at once.
func answers(status int, body string) roundTrip {
	return func(req *http.Request) (*http.Response, error) {
		connected(req)
		return answer(status, body), nil
	}
}

// fails is an upstream that cannot be reached, or after sent gives no answer.
func fails(sent bool, err error) roundTrip {
	return func(req *http.Request) (*http.Response, error) {
		if sent {
			connected(req)
		}
		return nil, err
	}
}

// connected does what a Transport does once it has a connection.
func connected(req *http.Request) {
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil {
		if trace.GetConn != nil {
			trace.GetConn("upstream.example:443")
		}
		trace.GotConn(httptrace.GotConnInfo{})
	}
}

func answer(status int, body string) *http.Response {
	return &http.Response{
		StatusCode:    status,
		Header:        http.Header{},
		ContentLength: int64(len(body)),
		Body:          io.NopCloser(strings.NewReader(body)),
	}
}

// broken is the rest of a body that breaks off.
var broken = readerFunc(func([]byte) (int, error) { return 0, io.ErrUnexpectedEOF })

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// gate is an upstream that answers one request for each answer it is given.
type gate struct {
	arrived atomic.Int64
	last    atomic.Pointer[http.Request]
	answers chan *http.Response
	over    <-chan struct{} // the test
}

func newGate(t *testing.T) *gate {
	return &gate{answers: make(chan *http.Response), over: t.Context().Done()}
}

func (g *gate) RoundTrip(req *http.Request) (*http.Response, error) {
	connected(req)
	g.last.Store(req)
	g.arrived.Add(1)
	select {
	case res := <-g.answers:
		return res, nil
	case <-req.Context().Done():
		return nil, req.Context().Err()
	case <-g.over:
		return nil, errors.New("the test is over")
	}
}

// away is a Cluster whose store gives no answer.
type away struct{ Cluster }

func (away) Admit(context.Context, cluster.Ask) (cluster.Verdict, error) {
	return cluster.Verdict{}, cluster.ErrUndecided
}

// serve returns the address of a server of h.
func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// listen returns the URL of a server of connections. talk has read a request
// from conn by r; the connection ends when it returns.
func listen(t testing.TB, talk func(conn net.Conn, r *bufio.Reader, first *http.Request)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var talks sync.WaitGroup
	talks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			talks.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(t.Context(), func() { _ = conn.Close() })()
				r := bufio.NewReader(conn)
				if first, err := http.ReadRequest(r); err == nil {
					talk(conn, r, first)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		talks.Wait()
	})
	return "http://" + l.Addr().String()
}

// says is a server that answers every request with the same bytes, and ends
// the connection.
func says(t *testing.T, answer string) string {
	t.Helper()
	return listen(t, func(conn net.Conn, _ *bufio.Reader, first *http.Request) {
		_, _ = io.Copy(io.Discard, first.Body)
		_, _ = io.WriteString(conn, answer)
	})
}

// connection is that of a client which writes what it likes.
type connection struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, to *httptest.Server, request string) *connection {
	t.Helper()
	conn, err := net.Dial("tcp", to.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return &connection{conn, bufio.NewReader(conn)}
}

// response reads the next answer, which may be an informational one.
func (c *connection) response(t *testing.T, method string) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// fields returns header fields as lines, sorted.
func fields(h http.Header) string {
	var lines []string
	for name, values := range h {
		for _, v := range values {
			lines = append(lines, name+": "+v)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// next returns what ch gives.
func next[T any](t *testing.T, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatalf("no %T came", v)
	}
	return v
}

// bubble runs f as a subtest in a bubble.
func bubble(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// text reads a body whole.
func text(t *testing.T, res *http.Response) string {
	t.Helper()
	if res == nil {
		t.Fatal("the answer was cut")
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return string(body)
}

// told is what our own answers have in common, as clients read it.
type told struct {
	Detail, Message, Reason, Sent string
	RetryAfter                    json.Number `json:"retry_after"`
	Error                         struct{ Message, Type, Code string }
}

// outcome says in one word what became of a request: its status if the answer
// is the upstream's, else the reason.
func result(t *testing.T, res *http.Response) string {
	t.Helper()
	body := text(t, res)
	if res.Header.Get("Proxy-Status") == "" {
		return fmt.Sprint(res.StatusCode)
	}
	var p told
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	return p.Reason
}

func wantOutcome(t *testing.T, res *http.Response, want string) {
	t.Helper()
	if got := result(t, res); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNewRefusesBadRoutes(t *testing.T) {
	route := Route{Name: "hook", Upstream: mustParse(t, "https://upstream.example")}
	if _, err := New([]Route{route, route}, Options{}); err == nil {
		t.Error("two routes of one name were taken")
	}
	route.Limits = []Limit{limit(t, "é", "1/s")}
	if _, err := New([]Route{route}, Options{}); err == nil {
		t.Error("a limit was taken whose name cannot be told to clients")
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"slack": true, "0": true, "a.b_c-d": true, strings.Repeat("a", 63): true,
		"": false, ".a": false, "-": false, "Slack": false, "a/b": false, "a b": false, "é": false, strings.Repeat("a", 64): false,
	} {
		if got := ValidName(name); got != want {
			t.Errorf("ValidName(%q): got %v, want %v", name, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	names := spelling{}
	for _, name := range []string{"slack", "stack", "github", "a", "slac"} {
		names.add(name)
	}
	for name, want := range map[string]string{
		"slack": "slack", "slak": "slack", "Slack": "slack", "sack": "slack", "stak": "stack",
		"spack": "slack", // as near to stack, which comes later
		"gihub": "github", "b": "", "GITHUB": "github", "githbu": "github", "slacks": "slack", "slac": "slac",
		"": "", "payments": "", strings.Repeat("slack", 1000): "",
	} {
		if got := names.nearest(name); got != want {
			t.Errorf("nearest(%q): got %q, want %q", name, got, want)
		}
	}
}

func TestRouteThatWasMeant(t *testing.T) {
	two := &Proxy{routes: map[string]*route{"slack": {}, "api": {}}, spelling: spelling{}}
	two.spelling.add("slack")
	two.spelling.add("api")
	one := &Proxy{routes: map[string]*route{"slack": {}}, spelling: spelling{}}
	for name, want := range map[string]string{"slak": "slack", "SLACK-eng": "slack", "api-v2": "api", "XXX": "", "": "", strings.Repeat("x", 1000): ""} {
		if got := two.nearest(name); got != want {
			t.Errorf("nearest(%q): got %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{"XXX": "slack", "services": "slack", "": ""} {
		if got := one.nearest(name); got != want {
			t.Errorf("nearest(%q) of one: got %q, want %q", name, got, want)
		}
	}
}

// Some clients send their token where a route's name belongs.
func TestNameOfAnUnknownRouteIsToldUnlessItMayBeASecret(t *testing.T) {
	for _, name := range []string{"slak", "Slack", "XXX", "services", "slack-eng", "v1", "my_app.v2"} {
		if got := tellable(name); got != name {
			t.Errorf("tellable(%q): got %q", name, got)
		}
	}
	for _, name := range []string{"", "bot123456:AAE-x", "3f2a9c0d7e", "xoxb-1234567890-abc", "a%20b", "sk-proj4f3k2j1h", "AKIAIOSFODNN7EXAMPLE", "xKqLmNbVcZpQwErT", "abc-xKqLmNbVcZ", strings.Repeat("x", 17)} {
		if got := tellable(name); got != "" {
			t.Errorf("tellable(%q): got %q", name, got)
		}
	}
}
