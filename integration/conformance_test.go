package integration

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"throttle-proxy/integration/redistest"
	"throttle-proxy/proxy"
)

// One table for every way through the proxy: a row holds for all senders and
// all clients, but where it says for which it does not, and why.

// row is a request, what the upstream does about it, and what comes of it.
type row struct {
	name  string
	sends string // GET / if it is empty
	after string // bytes that follow the request on HTTP/1

	says string      // the answer, once the request is read: 200 if it is empty
	does func(*turn) // in place of that

	route string // another policy than the usual: see policies
	want
	but []but

	half    bool // the client closes its half when it has asked
	outside bool // of all routes: the target is whole
}

// want is what comes of a row.
type want struct {
	arrives string // the request at the upstream; "" as it was sent, "nothing", "something", or "perhaps"
	times   int    // that it arrives, if not once
	back    string // "" as the upstream said, or in the short words of message.own, or "nothing"
	or      string // also right
}

// but is what comes of a row in some cells, and why.
type but struct {
	in   func(*lane) bool
	why  string
	want // the zero want leaves the cells out
}

// sender is a way from a route to an upstream.
type sender struct {
	name            string
	upstream        *scriptedUpstream
	streams, larger bool
}

// lane is the way of one client through one sender, which takes one request
// after the other.
type lane struct {
	sender
	client  clientKind
	replica *replica
	trusted *tls.Config
	conn    clientConn // nil for none
}

func (l *lane) String() string { return l.sender.name + "-" + l.client.name }

// policies are those of routes that rows ask for; all have the usual one.
var policies = map[string][]string{
	"":        nil,
	"brief":   {"--timeout", "1s"},
	"idle":    {"--answer-idle", "1s"},
	"eager":   {"--cool-down", "off"}, // or one row would be refused for another
	"keyed":   {"--set-header", "Idempotency-Key=fixed"},
	"tenants": {"--rate", "1000000/s,by=header:X-Tenant"},
	"gone":    nil,                           // and nobody listens there
	"hosted":  {"--host", "ROUTE.host.test"}, // it is found by its host: rows say no more of the path than others
	"joins":   joining,
	"alone":   joining, // for answers that are not shared: the route shares none for a while then
	"kept":    {"--idempotency", "1h"},
}

var joining = []string{"--dedupe-header", strings.Join(append([]string{cellField}, proxy.CredentialFields...), ","),
	"--on-duplicate", "join", "--hold", "1h,unknown=1h"}

// table is a run of rows.
type table struct {
	lanes []*lane
	mu    sync.Mutex
	cells map[string]*cell // by the value of cellField
	done  int
	left  map[string]int // out, by why
}

// cellField tells the upstream which cell a request is of. It is part of the
// fingerprint, or equal cells would be duplicates.
const cellField = "X-Cell"

func newTable(t *testing.T) *table {
	tab := &table{cells: map[string]*cell{}, left: map[string]int{}}
	upstreamPair, upstreamCert, _ := newKeyPair(t, "upstream.test")
	replicaPair, cert, key := newKeyPair(t, "replica.test")
	var senders []sender
	for _, u := range startUpstreams(t, upstreamPair, false, tab.script) {
		for _, streams := range []bool{false, true} {
			for _, larger := range []bool{false, true} {
				name := u.name + map[bool]string{false: "-locked", true: "-streamed"}[streams] + map[bool]string{false: "-small", true: "-large"}[larger]
				senders = append(senders, sender{name, u, streams, larger})
			}
		}
	}
	common := []string{"SSL_CERT_FILE=" + writeFile(t, "upstream.pem", upstreamCert),
		"--dedupe", "all", "--dedupe-header", cellField, "--hold", "0s,unknown=0s", "--rate", "off", "--timeout", "1m", "--log-level", "debug"}
	gone := "127.0.0.1:" + redistest.FreePort(t)
	for _, secure := range []bool{false, true} {
		words := slices.Clone(common)
		if secure {
			words = append(words, "--tls-cert", writeFile(t, "cert.pem", cert), "--tls-key", writeFile(t, "key.pem", key))
		}
		var lanes []*lane
		for _, kind := range clientKinds {
			if kind.tls != secure {
				continue
			}
			for _, s := range senders {
				l := &lane{sender: s, client: kind, trusted: trusting(replicaPair)}
				lanes = append(lanes, l)
				for policy, flags := range policies {
					if s.streams && repeats(policy) {
						continue
					}
					name := strings.TrimSuffix(l.String()+"-"+policy, "-")
					url := s.upstream.url()
					if policy == "gone" {
						url = strings.Replace(url, s.upstream.addr, gone, 1)
					}
					words = append(words, "--register", name+"="+url)
					if s.streams {
						words = append(words, "--dedupe", name+"=off")
					}
					for i := 0; i < len(flags); i += 2 {
						words = append(words, flags[i], name+"="+strings.Replace(flags[i+1], "ROUTE", name, 1))
					}
				}
			}
		}
		r := startReplica(t, words...)
		expectNoCanary(t, r)
		for _, l := range lanes {
			l.replica = r
		}
		tab.lanes = append(tab.lanes, lanes...)
	}
	return tab
}

func TestConformance(t *testing.T) {
	t.Parallel()
	tab := newTable(t)
	rows := slices.Concat(requestRows, targetRows, answerRows(), faultRows, http2Rows)
	rows = append(rows, repeatedRows(t, rows)...)
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) { tab.run(t, r) })
	}
	for _, c := range tab.cells {
		c.mu.Lock()
		if n := len(c.arrived); n > c.early && c.arrives != "perhaps" {
			t.Errorf("%s in %s: arrived %d times, and %d when it was over", c.row.name, c.lane, c.early, n)
		}
		c.mu.Unlock()
	}
	t.Logf("%d rows × %d senders and clients (%d upstreams, locked and streamed, small and large, × %d clients): %d cells run",
		len(rows), len(tab.lanes), 4, len(clientKinds), tab.done)
	for _, why := range slices.Sorted(maps.Keys(tab.left)) {
		t.Logf("%5d cells left out: %s", tab.left[why], why)
	}
}

// run runs a row in all lanes at once, and tells what differs, in which.
func (tab *table) run(t *testing.T, r row) {
	r.sends, r.says = cmp.Or(r.sends, "GET"), cmp.Or(r.says, "200\nContent-Length: 2\n\nok")
	var mu sync.Mutex
	differing := map[string][]string{}
	var running sync.WaitGroup
	for _, l := range tab.lanes {
		running.Go(func() {
			if diff := tab.runIn(l, r); diff != "" {
				mu.Lock()
				defer mu.Unlock()
				differing[diff] = append(differing[diff], l.String())
			}
		})
	}
	running.Wait()
	for _, diff := range slices.Sorted(maps.Keys(differing)) {
		in := differing[diff]
		slices.Sort(in)
		t.Errorf("%d of %d cells: %s\n%s", len(in), len(tab.lanes), strings.Join(in, " "), diff)
	}
}

// runIn runs a row in one lane, and returns what is wrong, or "".
func (tab *table) runIn(l *lane, r row) string {
	c := &cell{row: r, lane: l, want: r.want, halfClosed: make(chan struct{})}
	c.ended = sync.NewCond(&c.mu)
	m := parseMessage(r.sends)
	leaveOut := ""
	if l.larger && m.body == "" {
		leaveOut = "without a body none is large"
	} else if r.outside && l.sender != senderOf(tab.lanes, l.client) {
		leaveOut = "outside all routes there is one way only"
	} else if l.streams && repeats(r.route) {
		leaveOut = "what is asked twice is held to be compared"
	}
	for _, b := range r.but {
		if leaveOut == "" && b.in(l) {
			if c.want = b.want; b.want == (want{}) {
				leaveOut = b.why
			}
		}
	}
	tab.mu.Lock()
	if leaveOut != "" {
		tab.left[leaveOut]++
		tab.mu.Unlock()
		return ""
	}
	tab.done++
	c.id = fmt.Sprint("cell-", len(tab.cells))
	tab.cells[c.id] = c
	tab.mu.Unlock()

	a := asked{message: l.asks(m, c.id), after: r.after}
	switch {
	case r.route == "hosted":
		method, target := a.request()
		a.message = a.without("Host").with("Host", l.route(r.route)+".host.test")
		a.first = method + "\t" + target
	case !r.outside:
		a.message = a.to(l.route(r.route))
	}
	if r.route == "kept" {
		a.message = a.with("Idempotency-Key", c.id)
	}
	if r.half {
		a.halfClosed = c.halfClosed
	}
	got, err := l.ask(a)
	diff := c.expectBack(got, err)
	c.wait()
	diff += c.expectArrivals()
	if diff == "" && repeats(r.route) {
		again, err := l.ask(a)
		if diff = c.expectAgain(got, again, err); diff == "" && isRepeat(again) && a.has("Host") {
			again, err = l.askByOther(a)
			diff = c.expectAgain(got, again, err)
		}
		c.wait()
		diff += c.expectArrivals()
	}
	if diff == "" && l.conn != nil {
		diff = tab.next(l, map[bool]string{true: r.route}[r.route == "keyed"])
	}
	return diff
}

// ask asks on the lane's connection, or on another if that takes no more.
func (l *lane) ask(a asked) (got message, err error) {
	for range 2 {
		if l.conn == nil {
			if l.conn, err = l.client.dial(l.replica.addr, l.trusted); err != nil {
				return message{}, fmt.Errorf("no connection: %w", err)
			}
		}
		var open bool
		got, open, err = l.conn.ask(a)
		if !open || a.halfClosed != nil {
			_ = l.conn.Close()
			l.conn = nil
		}
		if !errors.Is(err, errUnsent) {
			break
		}
	}
	return got, err
}

// next asks something plain, which tells whether the connections are in step.
func (tab *table) next(l *lane, policy string) string {
	m := l.asks(parseMessage("POST /next\n\nagain"), fmt.Sprint("next-", nonces.Add(1)))
	got, open, err := l.conn.ask(asked{message: m.to(l.route(policy))})
	if !open {
		_ = l.conn.Close()
		l.conn = nil
	}
	if errors.Is(err, errUnsent) {
		return "" // the connection has ended in order
	}
	if err != nil || got.first != "200" || got.body != "ok" {
		return fmt.Sprintf("the next on its connection: got %s %s, error %v", got.own(), got.body, err)
	}
	return ""
}

// route is the lane's of a policy.
func (l *lane) route(policy string) string { return strings.TrimSuffix(l.String()+"-"+policy, "-") }

// to returns a request to a route, whose name goes in front of the target, or
// where the target has ROUTE.
func (m message) to(route string) message {
	method, target := m.request()
	if !strings.Contains(target, "ROUTE") {
		target = "/ROUTE" + target
	}
	m.first = method + "\t" + strings.Replace(target, "ROUTE", route, 1)
	return m
}

func senderOf(lanes []*lane, client clientKind) sender {
	for _, l := range lanes {
		if l.client == client {
			return l.sender
		}
	}
	return sender{}
}

// asks returns what the client sends: the row's, and what every client says.
func (l *lane) asks(m message, id string) message {
	m = m.with("Host", "gateway").with("X-Request-Id", "id").with(cellField, id)
	for _, name := range []string{"Host", "X-Request-Id"} {
		if m.value(name) == "-" {
			m = m.without(name)
		}
	}
	return l.enlarge(m)
}

// enlarge gives m a body of the sender's size.
func (l *lane) enlarge(m message) message {
	if l.larger && m.body != "" {
		m.body = strings.Repeat(m.body, 20<<10/len(m.body))
	}
	return m
}
