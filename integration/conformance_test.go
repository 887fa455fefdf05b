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
	"":      nil,
	"brief": {"--timeout", "1s"},
	"idle":  {"--answer-idle", "1s"},
	"keyed": {"--set-header", "Idempotency-Key=fixed"},
	"gone":  nil, // and nobody listens there
}

// cell is one row in one lane.
type cell struct {
	row  row
	lane *lane
	want

	mu         sync.Mutex
	arrived    []string
	early      int           // that had, when the row was over
	running    int           // scripts
	ended      *sync.Cond    // one has
	halfClosed chan struct{} // closed when the client has
}

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
		"--dedupe", "all", "--dedupe-header", cellField, "--hold", "0s", "--rate", "off", "--timeout", "1m", "--log-level", "debug"}
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
						words = append(words, flags[i], name+"="+flags[i+1])
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
	id := fmt.Sprint("cell-", len(tab.cells))
	tab.cells[id] = c
	tab.mu.Unlock()

	if l.conn == nil {
		var err error
		if l.conn, err = l.client.dial(l.replica.addr, l.trusted); err != nil {
			return fmt.Sprint("no connection: ", err)
		}
	}
	a := asked{message: l.asks(m, id), after: r.after}
	if !r.outside {
		a.message = a.to(l.route(r.route))
	}
	if r.half {
		a.halfClosed = c.halfClosed
	}
	got, open, err := l.conn.ask(a)
	if errors.Is(err, errUnsent) {
		_ = l.conn.Close()
		if l.conn, err = l.client.dial(l.replica.addr, l.trusted); err == nil {
			got, open, err = l.conn.ask(a)
		}
	}
	diff := c.expectBack(got, err)
	if !open || r.half {
		_ = l.conn.Close()
		l.conn = nil
	}
	c.wait()
	diff += c.expectArrivals()
	if diff == "" && l.conn != nil {
		diff = tab.next(l, map[bool]string{true: r.route}[r.route == "keyed"])
	}
	return diff
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

// script is what an upstream does about a request.
func (tab *table) script(c *turn) {
	tab.mu.Lock()
	of := tab.cells[c.request.value(cellField)]
	tab.mu.Unlock()
	if of == nil { // see next
		_, _ = c.readToEnd()
		c.say("200\nContent-Length: 2\n\nok")
		return
	}
	of.mu.Lock()
	c.cell, c.time = of, len(of.arrived)
	of.arrived = append(of.arrived, "")
	of.running++
	of.mu.Unlock()
	defer of.end()
	c.arrive("?", nil)
	if of.row.does != nil {
		of.row.does(c)
		return
	}
	c.read()
	c.say(of.fill(of.row.says))
}

// end is that of a script.
func (c *cell) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	c.ended.Broadcast()
}

// wait returns when no script of the cell runs.
func (c *cell) wait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.running > 0 {
		c.ended.Wait()
	}
}

// read reads the request to its end.
func (c *turn) read() {
	body, trailers := c.readToEnd()
	c.arrive(body, trailers)
}

// arrive notes what has arrived so far.
func (c *turn) arrive(body string, trailers []string) {
	m := c.request.without(cellField, "Host", "Transfer-Encoding", "Trailer", "Expect", "X-Forwarded-Prefix")
	m.body, m.trailers = body, trailers
	if body == "" || body == "?" {
		m = m.without("Content-Length")
	}
	for i, f := range m.fields {
		if _, id, _ := strings.Cut(f, ": "); strings.EqualFold(f[:len(f)-len(id)], "X-Request-Id: ") && ownRequestID.MatchString(id) {
			m.fields[i] = "x-request-id: OURS"
		}
	}
	c.cell.mu.Lock()
	defer c.cell.mu.Unlock()
	c.cell.arrived[c.time] = m.String()
}

// expectArrivals returns what is wrong with what arrived, or "".
func (c *cell) expectArrivals() string {
	times := max(c.times, 1)
	if c.arrives == "nothing" {
		times = 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.early = len(c.arrived)
	if c.arrives == "perhaps" {
		return ""
	}
	if len(c.arrived) != times {
		return fmt.Sprintf("arrived %d times, want %d: %q\n", len(c.arrived), times, c.arrived)
	}
	if c.arrives == "something" {
		return ""
	}
	for _, got := range c.arrived {
		want := c.toArrive(strings.HasSuffix(got, "\n\n?"))
		if got != want {
			return fmt.Sprintf("arrived\n%q, want\n%q\n", got, want)
		}
	}
	return ""
}

// toArrive is what is to arrive, in the words of message.
func (c *cell) toArrive(unread bool) string {
	sent := parseMessage(c.row.sends)
	m := c.lane.enlarge(parseMessage(cmp.Or(c.arrives, c.row.sends)))
	method, target := m.request()
	m.first = method + " /" + canary + target
	m = m.without("Host", "Transfer-Encoding", "Trailer", "Expect").with("X-Request-Id", "id")
	host := cmp.Or(sent.value("Host"), "gateway")
	if host != "-" {
		m = m.with("X-Forwarded-Host", host)
	}
	m = m.with("X-Forwarded-For", "127.0.0.1").with("X-Forwarded-Proto", map[bool]string{false: "http", true: "https"}[c.lane.client.tls])
	m = m.with("Via", c.lane.client.version+" throttle-proxy")
	if unread {
		m.body, m.trailers = "?", nil
	} else if m.body != "" && m.trailers == nil && !(c.lane.streams && sent.has("Transfer-Encoding")) {
		m = m.with("Content-Length", fmt.Sprint(len(m.body)))
	}
	return m.String()
}

// expectBack returns what is wrong with what has come back, or "".
func (c *cell) expectBack(got message, err error) string {
	said := ""
	switch {
	case errors.Is(err, errNothing):
		said = "nothing"
	case err != nil:
		said = "an error: " + err.Error()
	default:
		if said = got.own(); said == "" {
			said = c.come(got).String()
		}
	}
	var wants []string
	for _, want := range []string{cmp.Or(c.back, c.row.says), c.or} {
		if want == "" {
			continue
		}
		isShort := want == "nothing" || len(want) == 3 || want[3] == ' '
		if !isShort {
			want = c.toCome(parseMessage(c.fill(want))).String()
		}
		if said == want || isShort && (strings.HasPrefix(said, want+" ") || len(want) == 3 && strings.HasPrefix(said, want+"\n")) {
			return ""
		}
		wants = append(wants, fmt.Sprintf("%q", want))
	}
	diff := fmt.Sprintf("came back\n%q, want\n%s\n", said, strings.Join(wants, " or\n"))
	return strings.NewReplacer(c.lane.upstream.origin(), "ORIGIN", c.lane.route(c.row.route), "ROUTE").Replace(diff)
}

// fill puts names of the cell into the table's text.
func (c *cell) fill(text string) string {
	return strings.NewReplacer("ORIGIN", c.lane.upstream.origin(), "ROUTE", c.lane.route(c.row.route)).Replace(text)
}

// come is an answer less what is the connection's alone, and Via.
func (c *cell) come(m message) message {
	m = m.without("Connection", "Transfer-Encoding", "Keep-Alive", "Trailer", "Via")
	if m.first == "304" {
		m = m.without("Content-Length") // may be told or not
	}
	return m
}

// toCome is what the client is to get of an answer.
func (c *cell) toCome(m message) message {
	m = c.come(m).with("Date", "d")
	if strings.HasPrefix(c.row.sends, "HEAD") {
		m.body = ""
	}
	if m.ending == stopped {
		m.ending = cut
	}
	if c.lane.client.version == "1.0" { // which knows neither, and no end but the connection's
		m.informs, m.trailers = nil, nil
		if !m.has("Content-Length") {
			m.ending = ""
		}
	}
	return m
}
