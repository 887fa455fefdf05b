package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy/upstream"
)

// crowd are requests of which each says in all of its parts whose it is: so must all
// that anybody is told of it.
type crowd struct {
	*testing.T
	leave sync.Map // whose → func() by which its client leaves

	mu     sync.Mutex
	events map[string][]Event // by the client's id
	byID   map[string]Event
	ids    map[string]string // of those without a client's id: whose, by what the upstream got
}

func newCrowd(t *testing.T) *crowd {
	return &crowd{T: t, events: map[string][]Event{}, byID: map[string]Event{}, ids: map[string]string{}}
}

// gateway is what a crowd asks, by HTTP/1 and HTTP/2.
type gateway struct {
	*crowd
	*Proxy
	front   *httptest.Server
	clients []*http.Client // of HTTP/1, and of HTTP/2
}

func (c *crowd) gateway(upstreamURL string, routes map[string]func(*Route)) *gateway {
	base := Route{
		Dedupe: DedupeOn, DedupeHeaders: CredentialFields, DuplicateStatus: http.StatusConflict, Timeout: patience,
		ClosedStatus: StatusClientGone, ClientGone: Finish, AnswerIdle: patience, Forwarded: true, KeepAlive: upstream.KeepAlive{Idle: time.Minute},
		Upstream: mustParse(c, upstreamURL), Limits: []Limit{limit(c, "most", "100000/s")},
	}
	var all []Route
	for name, change := range routes {
		r := base
		r.Name = name
		change(&r)
		all = append(all, r)
	}
	p, err := New(all, Options{
		Cluster: cluster.NewMemory("replica-1"), MaxBody: 1 << 20, BodyMemory: 1 << 30, BodyTimeout: patience, MaxInFlight: 1000,
		Trace:   func(_ *http.Request, e *Event) Trace { return follows{c, e.ID} },
		Observe: c.observe,
	})
	if err != nil {
		c.Fatal(err)
	}
	g := &gateway{c, p, httptest.NewUnstartedServer(p), nil}
	g.front.Config.Protocols, g.front.Config.ErrorLog = bothInClear(), log.New(io.Discard, "", 0)
	g.front.Start()
	c.Cleanup(g.front.Close)
	only := new(http.Protocols)
	only.SetUnencryptedHTTP2(true)
	for _, transport := range []*http.Transport{{ExpectContinueTimeout: patience}, {ExpectContinueTimeout: patience, Protocols: only}} {
		c.Cleanup(transport.CloseIdleConnections)
		g.clients = append(g.clients, &http.Client{Transport: transport})
	}
	return g
}

// overHTTP2 has a route's upstream speak HTTP/2 in clear.
func (c *crowd) overHTTP2() func(*Route) {
	up := httptest.NewUnstartedServer(http.HandlerFunc(c.upstream))
	up.Config.Protocols = bothInClear()
	up.Start()
	c.Cleanup(up.Close)
	return upstreamURL(c.T, "h2c"+strings.TrimPrefix(up.URL, "http"))
}

// bothInClear are HTTP/1 and HTTP/2, without TLS.
func bothInClear() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

// over waits until all is, and checks what was told of it: of those with an id that is
// in once, once.
func (g *gateway) over(once *sync.Map) {
	for end := time.Now().Add(patience); g.InFlight() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	once.Delete("") // of those without
	once.Range(func(id, _ any) bool {
		if got := g.events[id.(string)]; len(got) != 1 {
			g.Errorf("%s: told of %d times, want once", id, len(got))
		}
		return true
	})
	for id, whose := range g.ids {
		if e, known := g.byID[id]; !known || e.ClientRequestID != "" {
			g.Errorf("%s: the upstream got the id %s, which was told of as %+v", whose, id, e)
		}
	}
	if g.InFlight() != 0 || g.BodyMemory() != 0 {
		g.Errorf("got %d in flight and %d bytes of bodies when all is over", g.InFlight(), g.BodyMemory())
	}
}

// upstream answers by what the query says, if the request is one.
func (c *crowd) upstream(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	whose, do := q.Get("whose"), q.Get("do")
	if got := r.Header.Get("X-Whose"); got != whose {
		c.Errorf("%s: the upstream got a header of %s", whose, got)
	}
	if got, want := r.Header.Get("X-Forwarded-Host"), whose+".example"; got != want {
		c.Errorf("%s: the upstream got the host %s, want %s", whose, got, want)
	}
	if got := r.Header["X-Forwarded-For"]; len(got) != 1 || got[0] != "127.0.0.1" {
		c.Errorf("%s: the upstream got the client %q", whose, got)
	}
	extra := 0
	for name, values := range r.Header {
		if strings.HasPrefix(name, "X-Extra-") {
			if extra++; len(values) != 1 || values[0] != whose {
				c.Errorf("%s: the upstream got %s: %q", whose, name, values)
			}
		}
	}
	if want := q.Get("extra"); want != strconv.Itoa(extra) {
		c.Errorf("%s: the upstream got %d fields, want %s", whose, extra, want)
	}
	if id := r.Header.Get("X-Request-Id"); q.Get("named") == "" {
		c.mu.Lock()
		c.ids[id] = whose
		c.mu.Unlock()
	} else if !strings.HasPrefix(id, whose+".") {
		c.Errorf("%s: the upstream got the id %s", whose, id)
	}
	if do != "early" {
		body, err := io.ReadAll(r.Body)
		size, _ := strconv.Atoi(q.Get("size"))
		if text := string(body); !strings.HasPrefix(text, allOf(whose, len(text))) || err == nil && len(text) != size {
			c.Errorf("%s: the upstream got a body of %d bytes, %.40q, want %d", whose, len(text), text, size)
		}
	}
	flush := http.NewResponseController(w).Flush
	w.Header().Set("X-Answer", whose)
	switch do {
	case "hints":
		w.Header().Set("Link", "<"+whose+">")
		w.WriteHeader(http.StatusEarlyHints)
	case "trailer":
		w.Header().Set("Trailer", "X-End")
		defer w.Header().Set("X-End", whose)
	case "nothing":
		panic(http.ErrAbortHandler)
	case "late":
		time.Sleep(30 * time.Millisecond)
	case "anywhen":
		time.Sleep(rand.N(4 * time.Millisecond))
		defer time.Sleep(rand.N(4 * time.Millisecond))
	case "close":
		w.Header().Set("Connection", "close")
	case "left":
		c.leaves(whose)
	case "upgrade":
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			c.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Answer: "+whose+"\r\n\r\n")
		line, _ := buffered.ReadString('\n')
		_, _ = io.WriteString(conn, line)
		return
	}
	_, _ = io.WriteString(w, allOf(whose, 3008))
	switch do {
	case "cut":
		_ = flush()
		panic(http.ErrAbortHandler)
	case "leaves":
		_ = flush()
		c.leaves(whose)
		_, _ = io.WriteString(w, allOf(whose, 100_000))
	case "trailer", "parts", "anywhen":
		_ = flush()
		_, _ = io.WriteString(w, allOf(whose, 100_000))
	}
}

// allOf is a text of so many bytes that says whose it is in every 16 of them.
func allOf(whose string, size int) string {
	one := fmt.Sprintf("%-16s", whose)
	return strings.Repeat(one, size/16+1)[:size]
}

func (c *crowd) leaves(whose string) {
	if leave, ok := c.leave.Load(whose); ok {
		leave.(context.CancelFunc)()
	}
}

// follows is who follows a request.
type follows struct {
	*crowd
	id string
}

func (f follows) Sending(header http.Header) { header.Set("X-Extra-Trace", header.Get("X-Whose")) }
func (f follows) End(e *Event) {
	if e.ID != f.id {
		f.Errorf("the trace of %s was told of %s", f.id, e.ID)
	}
}

func (c *crowd) observe(e *Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byID[e.ID] = *e
	c.events[e.ClientRequestID] = append(c.events[e.ClientRequestID], *e)
}

// ask sends one request and checks its answer. The client's id is empty for none.
func (c *crowd) ask(client *http.Client, gateway, method, route, whose, do, id string, size, extra int) {
	ctx, leave := context.WithCancel(c.Context())
	defer leave()
	breaks := do == "early" || route == "impatient"
	switch do {
	case "left", "leaves":
		breaks = true
		c.leave.Store(whose, leave)
	case "anywhen":
		breaks = true
		defer time.AfterFunc(rand.N(8*time.Millisecond), leave).Stop()
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
		if got := header.Get("Link"); status == http.StatusEarlyHints && got != "</"+route+"/"+whose+">" {
			c.Errorf("%s: got the hint %q", whose, got)
		}
		return nil
	}})
	var body io.Reader
	if size > 0 {
		body = struct{ io.Reader }{strings.NewReader(allOf(whose, size))}
	}
	traced := extra + 1 // by the trace
	named := map[bool]string{true: "y"}[id != ""]
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("%s/%s?whose=%s&do=%s&size=%d&extra=%d&named=%s", gateway, route, whose, do, size, traced, named), body)
	if err != nil {
		c.Error(err)
		return
	}
	if size%3 == 0 {
		req.ContentLength = int64(size)
	}
	req.Host = whose + ".example"
	req.Header.Set("X-Whose", whose)
	req.Header.Set("X-Forwarded-For", "192.0.2.1")
	if id != "" {
		req.Header.Set("X-Request-Id", id)
	}
	for i := range extra {
		req.Header.Set("X-Extra-"+strconv.Itoa(i), whose)
	}
	if extra == 2 && size > 0 {
		req.Header.Set("Expect", "100-continue")
	}
	switch route {
	case "keyed":
		req.Header.Set("Idempotency-Key", whose)
	case "grpc":
		req.Header.Set("Content-Type", "application/grpc")
	}
	res, err := client.Do(req)
	if err != nil {
		if !breaks {
			c.Errorf("%s, %s of %s: %v", whose, do, route, err)
		}
		return
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil && do != "cut" && !breaks {
		c.Errorf("%s, %s of %s: %v", whose, do, route, err)
	}
	if res.Header.Get("Proxy-Status") == "" {
		if answer := res.Header.Get("X-Answer"); answer != whose {
			c.Errorf("%s, %s of %s: got the answer of %q", whose, do, route, answer)
		}
		if string(got) != allOf(whose, len(got)) {
			c.Errorf("%s, %s of %s: got an answer of %d bytes with parts of others", whose, do, route, len(got))
		}
		if end := res.Trailer.Get("X-End"); do == "trailer" && err == nil && end != whose {
			c.Errorf("%s: got the trailer %q", whose, end)
		}
		return
	}
	var said struct {
		Route  string
		Reason Reason
		ID     string `json:"request_id"`
	}
	if err != nil || res.ContentLength != int64(len(got)) || route == "grpc" {
		return // it left, or is not told by a body
	}
	if err := json.Unmarshal(got, &said); err != nil {
		c.Errorf("%s, %s of %s: got %q, %v", whose, do, route, got, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, known := c.byID[said.ID]
	for end := time.Now().Add(patience); !known && time.Now().Before(end); { // it is told of after its answer
		c.mu.Unlock()
		time.Sleep(time.Millisecond)
		c.mu.Lock()
		e, known = c.byID[said.ID]
	}
	if !known || e.ClientRequestID != id || e.Reason != said.Reason || e.Status != res.StatusCode || e.Route != said.Route {
		c.Errorf("%s, %s of %s: got %d %+v, and was told of as %+v", whose, do, route, res.StatusCode, said, e)
	}
}

// upgrade has a tunnel.
func (c *crowd) upgrade(to *httptest.Server, whose, id string) {
	conn := dial(c.T, to, fmt.Sprintf("GET /direct?whose=%s&do=upgrade&size=0&extra=1&named=y HTTP/1.1\r\nHost: %[1]s.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Whose: %[1]s\r\nX-Request-Id: %s\r\n\r\n%[1]s\n", whose, id))
	defer conn.Close()
	res, err := http.ReadResponse(conn.r, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("X-Answer") != whose {
		c.Errorf("%s: got %v, %v", whose, res, err)
		return
	}
	if line, err := bufio.NewReader(conn.r).ReadString('\n'); err != nil || line != whose+"\n" {
		c.Errorf("%s: got %q, %v", whose, line, err)
	}
}
