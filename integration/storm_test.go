package integration

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// stormy is the field by which a client of the storm tells the upstream where
// to stop.
const stormy = "X-Storm"

// lulls are the steps at which an upstream stops, or does what it must not.
// Whoever waits waits until over.
func lulls(over <-chan struct{}) map[string]func(*turn) {
	half := "200\nContent-Length: 100000\n\nhalf"
	return map[string]func(*turn){
		"answers":                  answering(okText),
		"answers at length":        answering("200\n\n" + strings.Repeat("x", 100<<10)),
		"reads the header alone":   func(*turn) { <-over },
		"reads all, and is silent": func(c *turn) { _, _ = c.readToEnd(); c.silence() },
		"closes at the header":     func(c *turn) { c.close() },
		"closes when it has all":   func(c *turn) { _, _ = c.readToEnd(); c.close() },
		"resets":                   func(c *turn) { c.reset(http2.ErrCodeInternal) },
		"refuses":                  func(c *turn) { c.reset(http2.ErrCodeRefusedStream) },
		"stops behind a 103":       func(c *turn) { c.send(message{informs: []string{"103"}}); c.silence() },
		"closes behind a 103":      func(c *turn) { c.send(message{informs: []string{"103"}}); c.close() },
		"informs without end": func(c *turn) {
			for range 1000 {
				c.send(message{informs: []string{"103"}})
			}
			c.silence()
		},
		"stops within the body":     func(c *turn) { c.say(half + stopped) },
		"cuts within the body":      func(c *turn) { c.say(half + cut) },
		"cuts without a length":     func(c *turn) { c.say("200\n\nhalf" + cut) },
		"garbles":                   func(c *turn) { c.raw("what was the question?\r\n\r\n"); c.close() },
		"says no status":            func(c *turn) { c.say("099\n\nok"); c.close() },
		"answers early, and closes": func(c *turn) { c.say("413\nContent-Length: 2\nConnection: close\n\nno"); c.close() },
		"closes behind its answer":  func(c *turn) { _, _ = c.readToEnd(); c.say(okText); c.close() },
	}
}

// departure is a step at which a client stops: it has said so much of its
// request, and reads so much of the answer.
type departure struct {
	name  string
	said  float64 // of the request, its header being a half of it
	reads bool
	how   func(net.Conn)
}

func closes(conn net.Conn) { _ = conn.Close() }

func resets(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// stalls says and reads nothing more until the proxy has had enough.
func stalls(conn net.Conn) {
	time.Sleep(3 * time.Second)
	_ = conn.Close()
}

var departures = []departure{
	{"asks and reads", 1, true, closes},
	{"asks and reads nothing", 1, false, stalls},
	{"asks and closes", 1, false, closes},
	{"asks and resets", 1, false, resets},
	{"closes within the header", 0.3, false, closes},
	{"stalls within the header", 0.3, false, stalls},
	{"closes within the body", 0.7, false, closes},
	{"resets within the body", 0.7, false, resets},
	{"stalls within the body", 0.7, false, stalls},
}

// Fails if clients and upstreams that stop at any step leave anything behind:
// slots, locks, memory, goroutines or descriptors.
func TestStormLeavesNothing(t *testing.T) {
	t.Parallel()
	const requests, atOnce = 540, 180
	for _, secure := range []bool{false, true} {
		over := make(chan struct{})
		steps := lulls(over)
		names := slices.Sorted(maps.Keys(steps))
		script := func(c *turn) {
			if does := steps[c.request.value(stormy)]; does != nil {
				does(c)
				return
			}
			answering(okText)(c)
		}
		w := startWaiter(t, secure, true, script, "--dedupe-header", cellField, "--log-level", "error",
			"--timeout", "1s", "--answer-idle", "1s", "--body-idle", "1s", "--write-idle", "1s", "--header-timeout", "1s")
		end := sync.OnceFunc(func() { close(over) })
		t.Cleanup(end) // before that of the upstreams
		kinds := []string{"http10", "http11", "h2c"}
		if secure {
			kinds = []string{"tls-http11", "tls-h2"}
		}
		w.expectPasses(t, kinds)
		w.closeUpstreams()
		goroutines, descriptors := w.goroutines(t), w.descriptors(t)
		began := time.Now()
		each(requests, atOnce, func(i int) {
			leave := departures[i%len(departures)]
			does := names[i/len(departures)%len(names)]
			kind, route := kinds[i%len(kinds)], w.routes()[(i/7+i)%len(w.routes())]
			w.blow(kind, route, does, leave)
		})
		took := time.Since(began)
		most := []float64{w.metric(t, "in_flight"), w.metric(t, "locks_held"), w.metric(t, "body_memory_bytes"), float64(w.goroutines(t)), float64(w.descriptors(t))}
		w.expectRest(t)
		end()
		w.expectPasses(t, kinds)
		const few = 10 // that come and go by themselves
		g, d := goroutines+few+1, 0
		for deadline := time.Now().Add(patience); g > goroutines+few || d > descriptors+few; time.Sleep(50 * time.Millisecond) {
			if w.closeUpstreams(); time.Now().After(deadline) {
				t.Errorf("TLS %v: %d goroutines, %d before; %d descriptors, %d before; they are\n%s", secure, g, goroutines, d, descriptors,
					do(t, http.MethodGet, w.admin(t)+"/debug/pprof/goroutine?debug=1", "").body)
				break
			}
			g, d = w.goroutines(t), w.descriptors(t)
		}
		t.Logf("TLS %v: %d requests in %s, of %v, to %d routes; then %g in flight, %g locks, %g bytes, %g goroutines, %g descriptors; %s later 0, 0, 0, %d (before: %d), %d (before: %d)",
			secure, requests, took.Round(time.Millisecond), kinds, len(w.routes()), most[0], most[1], most[2], most[3], most[4],
			(time.Since(began) - took).Round(time.Millisecond), g, goroutines, d, descriptors)
	}
}

// expectPasses asks something plain on each route by each kind of client.
func (w *waiter) expectPasses(t *testing.T, kinds []string) {
	t.Helper()
	for _, kind := range kinds {
		for _, route := range w.routes() {
			got, err := w.ask(t, kind, fmt.Sprintf("POST /%s\n%s: passes-%d\n\nhello", route, cellField, nonces.Add(1)))
			if err != nil || got.first != "200" {
				t.Errorf("%s by %s: got %s, error %v", route, kind, got.own(), err)
			}
		}
	}
}

// closeUpstreams closes the connections that the replica keeps for later.
func (w *waiter) closeUpstreams() {
	for _, u := range w.upstreams {
		u.closeAll()
	}
}

// blow is one client of the storm.
func (w *waiter) blow(kind, route, does string, leave departure) {
	var k clientKind
	for _, candidate := range clientKinds {
		if candidate.name == kind {
			k = candidate
		}
	}
	conn, err := k.dial(w.addr, w.trusted)
	if err != nil {
		return
	}
	body := strings.Repeat("x", 30_000)
	id := fmt.Sprint("storm-", nonces.Add(1))
	_ = conn.SetDeadline(time.Now().Add(patience))
	defer conn.Close()
	switch c := conn.(type) {
	case *http1Client:
		head := crlf(fmt.Sprintf("POST /%s HTTP/%s\nHost: gateway\n%s: %s\n%s: %s\nContent-Length: %d\n\n", route, k.version, stormy, does, cellField, id, len(body)))
		switch {
		case leave.said < 0.5:
			c.say(head[:len(head)/2])
		case leave.said < 1:
			c.say(head + body[:len(body)/2])
		default:
			c.say(head + body)
		}
		if leave.reads {
			for m := (message{first: "100"}); err == nil && m.first[0] == '1'; {
				m, err = c.hear(http.MethodPost)
			}
		}
		leave.how(c.Conn)
	case *http2Client:
		c.last += 2
		fields := []string{":method: POST", ":scheme: " + map[bool]string{false: "http", true: "https"}[k.tls], ":path: /" + route, ":authority: gateway", strings.ToLower(stormy) + ": " + does, strings.ToLower(cellField) + ": " + id}
		switch {
		case leave.said < 0.5: // a header block that goes on
			c.block.Reset()
			_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.last})
		case leave.said < 1:
			c.headers(c.last, fields, false)
			c.data(c.last, body[:len(body)/2], false)
		default:
			if !leave.reads {
				_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			}
			c.headers(c.last, fields, false)
			c.data(c.last, body, true)
		}
		if leave.reads {
			_, _, _ = c.hear(false)
		}
		leave.how(c.Conn)
	}
}
