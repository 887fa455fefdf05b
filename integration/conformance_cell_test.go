package integration

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// cell is one row in one lane.
type cell struct {
	id   string // the value of cellField
	row  row
	lane *lane
	want

	mu         sync.Mutex
	arrived    []string
	early      int           // that had, when the row was over
	disowned   int           // of them, by the upstream
	running    int           // scripts
	ended      *sync.Cond    // one has
	halfClosed chan struct{} // closed when the client has
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

// wait returns when no script of the cell runs, and what is to arrive has arrived or is
// not to be expected any more: what was given up in time may yet be on its way.
func (c *cell) wait() {
	until := time.Now().Add(patience)
	defer time.AfterFunc(patience, c.ended.Broadcast).Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.running > 0 || len(c.arrived) < c.toArriveTimes() && time.Now().Before(until) {
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
	m := c.request.without(cellField, "Host", "Transfer-Encoding", "Trailer", "Expect")
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
	times := c.toArriveTimes()
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

// toArriveTimes is how often something is to arrive, at the least.
func (c *cell) toArriveTimes() int {
	if c.arrives == "nothing" || c.arrives == "perhaps" {
		return 0
	}
	return max(c.times, 1)
}

// toArrive is what is to arrive, in the words of message.
func (c *cell) toArrive(unread bool) string {
	sent := parseMessage(c.row.sends)
	m := c.lane.enlarge(parseMessage(cmp.Or(c.arrives, c.row.sends)))
	method, target := m.request()
	m.first = method + " /" + canary + target
	m = m.without("Host", "Transfer-Encoding", "Trailer", "Expect").with("X-Request-Id", "id")
	if c.row.route == "kept" {
		m = m.with("Idempotency-Key", c.id)
	}
	host := cmp.Or(sent.value("Host"), "gateway")
	if route := c.lane.route(c.row.route); c.row.route == "hosted" {
		host = route + ".host.test"
	} else {
		m = m.with("X-Forwarded-Prefix", "/"+route)
	}
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
		} else if wrong := c.expectSent(got); wrong != "" {
			return wrong
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

// expectSent returns what is wrong with what an answer of the proxy's own says of
// whether the request was sent, or "".
func (c *cell) expectSent(got message) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch again := got.value("X-Should-Retry") == "true"; {
	case len(c.arrived) > c.disowned && (again || strings.Contains(got.body, `"sent":"no"`)):
		return fmt.Sprintf("arrived, and is told not to have been sent: %q\n", got)
	case c.arrives == "nothing" && got.body != "" && !strings.Contains(got.body, `"sent":"no"`):
		return fmt.Sprintf("is told to have been sent: %q\n", got)
	}
	return ""
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
