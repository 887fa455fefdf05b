package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
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

// TestManyFieldsCostNobodyElse: a map keeps the room that one request has needed.
func TestManyFieldsCostNobodyElse(t *testing.T) {
	for fields, want := range map[int]bool{10: true, 10_000: false} {
		x := exchanges.New().(*exchange)
		x.in = post("")
		for i := range fields {
			x.in.Header["X-"+strconv.Itoa(i)] = []string{""}
		}
		header := x.out.Header
		x.giveBack()
		header["Probe"] = nil
		if _, got := x.out.Header["Probe"]; got != want {
			t.Errorf("%d fields: got a map that is used again: %v, want %v", fields, got, want)
		}
		delete(header, "Probe")
	}
}

// TestHugeFieldCostsNobodyElse: the room in which a fingerprint's parts are collected
// is kept as long as it is usual.
func TestHugeFieldCostsNobodyElse(t *testing.T) {
	for size, want := range map[int]bool{1000: true, 200_000: false} {
		h := newHasher()
		h.part(strings.Repeat("a", size))
		h.sum()
		if got := cap(h.parts) >= size; got != want {
			t.Errorf("a field of %d bytes: got that its room is kept: %v, want %v", size, got, want)
		}
	}
}

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
	case "trailer", "parts":
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
	if do == "left" || do == "leaves" {
		c.leave.Store(whose, leave)
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
		if got := header.Get("Link"); got != "</"+route+"/"+whose+">" {
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
	if route == "keyed" {
		req.Header.Set("Idempotency-Key", whose)
	}
	res, err := client.Do(req)
	if err != nil {
		if do != "left" && do != "leaves" && do != "early" {
			c.Errorf("%s, %s of %s: %v", whose, do, route, err)
		}
		return
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil && do != "cut" && do != "left" && do != "leaves" && do != "early" {
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
	if err != nil || res.ContentLength != int64(len(got)) {
		return // it left
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

// TestNoRequestHasAnythingOfAnother, whatever becomes of it and of those beside it:
// exchanges, headers and bodies are lent to one after another.
func TestNoRequestHasAnythingOfAnother(t *testing.T) {
	c := &crowd{T: t, events: map[string][]Event{}, byID: map[string]Event{}, ids: map[string]string{}}
	plain := serve(t, http.HandlerFunc(c.upstream))
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	http2 := httptest.NewUnstartedServer(http.HandlerFunc(c.upstream))
	http2.Config.Protocols = both
	http2.Start()
	t.Cleanup(http2.Close)

	base := Route{
		Dedupe: DedupeOn, DedupeHeaders: CredentialFields, DuplicateStatus: http.StatusConflict, Timeout: patience,
		ClosedStatus: StatusClientGone, ClientGone: Finish, AnswerIdle: patience, Forwarded: true, KeepAlive: upstream.KeepAlive{Idle: time.Minute},
		Upstream: mustParse(t, plain.URL), Limits: []Limit{limit(t, "most", "100000/s")},
	}
	var routes []Route
	for name, change := range map[string]func(*Route){
		"direct":  func(*Route) {},
		"cancels": func(r *Route) { r.ClientGone = Cancel },
		"streams": dedupe(DedupeOff),
		"http2":   upstreamURL(t, "h2c"+strings.TrimPrefix(http2.URL, "http")),
		"shares":  func(r *Route) { r.OnDuplicate = Join },
		"keyed":   keeps(time.Minute),
		"shadow":  func(r *Route) { r.Shadow, r.Limits = true, []Limit{limit(t, "few", "1/d")} },
		"limited": func(r *Route) { r.Limits = []Limit{limit(t, "few", "1/d")} },
		"closes":  func(r *Route) { r.KeepAlive.Idle = 0 },
	} {
		r := base
		r.Name = name
		change(&r)
		routes = append(routes, r)
	}
	p, err := New(routes, Options{
		Cluster: cluster.NewMemory("replica-1"), MaxBody: 1 << 20, BodyMemory: 1 << 30, BodyTimeout: patience, MaxInFlight: 1000,
		Trace:   func(_ *http.Request, e *Event) Trace { return follows{c, e.ID} },
		Observe: c.observe,
	})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(p)
	front.Config.Protocols, front.Config.ErrorLog = both, plain.Config.ErrorLog
	front.Start()
	t.Cleanup(front.Close)
	only := new(http.Protocols)
	only.SetUnencryptedHTTP2(true)
	clients := []*http.Client{{Transport: &http.Transport{}}, {Transport: &http.Transport{Protocols: only}}}
	for _, client := range clients {
		t.Cleanup(client.CloseIdleConnections)
	}

	dos := []string{"plain", "hints", "trailer", "early", "cut", "nothing", "close", "left", "leaves", "parts"}
	names := []string{"direct", "cancels", "streams", "http2", "shares", "keyed", "shadow", "limited", "closes", "nowhere"}
	sizes := []int{0, 10, 3000, 4096, 5001, 20_001, 300_000}
	const workers, each = 10, 40 // all pairs of what is done and where, a few times
	var asking sync.WaitGroup
	var once sync.Map
	for worker := range workers {
		asking.Go(func() {
			for i := range each {
				n := worker*each + i
				do, route, size, extra := dos[n%len(dos)], names[n/len(dos)%len(names)], sizes[n%len(sizes)], n%5
				whose, id := fmt.Sprintf("w%dn%d", worker, i), ""
				if n%3 > 0 {
					id = whose + ".id"
				}
				client := clients[n%7%2]
				switch {
				case n%23 == 0:
					c.upgrade(front, whose, whose+".up")
				case n%29 == 0:
					c.ask(client, front.URL, http.MethodTrace, route, whose, do, id, 0, extra)
				case route == "shares" || route == "keyed":
					if size == 0 {
						size = 10
					}
					if do == "left" || do == "leaves" || do == "hints" {
						do = "parts"
					}
					var both sync.WaitGroup
					for range 3 {
						both.Go(func() { c.ask(client, front.URL, http.MethodPost, route, whose, do, id, size, extra) })
					}
					both.Wait()
				default:
					once.Store(id, true)
					c.ask(client, front.URL, http.MethodPost, route, whose, do, id, size, extra)
				}
			}
		})
	}
	asking.Wait()
	for end := time.Now().Add(patience); p.InFlight() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	once.Delete("") // of those without
	once.Range(func(id, _ any) bool {
		if got := c.events[id.(string)]; len(got) != 1 {
			t.Errorf("%s: told of %d times, want once", id, len(got))
		}
		return true
	})
	for id, whose := range c.ids {
		if e, known := c.byID[id]; !known || e.ClientRequestID != "" {
			t.Errorf("%s: the upstream got the id %s, which was told of as %+v", whose, id, e)
		}
	}
	if p.InFlight() != 0 || p.BodyMemory() != 0 {
		t.Errorf("got %d in flight and %d bytes of bodies when all is over", p.InFlight(), p.BodyMemory())
	}
}
