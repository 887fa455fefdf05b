package integration

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Rows that are asked twice, on routes that share answers or keep them. The first
// answer is as on any route, and so is what arrives.

// shares reports whether a policy is one of those that share answers with
// duplicates, and repeats whether its rows are asked twice.
func shares(policy string) bool  { return policy == "joins" || policy == "alone" }
func repeats(policy string) bool { return policy == "kept" || shares(policy) }

// repeated are the rows of usual routes that are run on those too.
var repeated = []string{
	// requests
	"nothing is invented", "HEAD", "OPTIONS", "DELETE", "body", "PATCH", "GET with a body", "POST without one",
	"chunks", "no chunk but the last", "any byte in a body", "trailers", "trailers unannounced", "a body that is expected",
	"two request ids", "no Host", "them all, with a body",

	// answers
	"status 201", "status 206", "status 300", "status 400", "status 404", "status 409", "status 503", "status 600", "status 999", "status abc",
	"status 204", "status 205", "status 304", "status 304 with a length", "101 that nobody asked for, to a POST",
	"103 to a POST", "102 and 103", "64 informational answers", "HEAD of what has a length", "HEAD of what has none", "HEAD and 404",
	"not even a type is invented", "empty", "no length", "no length and nothing", "256 KiB", "256 KiB and a byte, without a length", "300 KB",
	"trailers, less forbidden ones in an answer", "forbidden trailers alone in an answer", "forbidden trailers alone, unannounced",
	"trailers that are announced and do not come", "trailers unannounced in an answer", "trailers and nothing else",
	"gzip", "fields of an answer are kept", "odd and legal fields of an answer", "what caches and proxies say of an answer", "hop-by-hop of an answer",
	"cookies", "a day of the upstream's", "redirects however odd", "cookies below", "several links",
	"cut, of a length", "cut, without a length", "cut, without a length, with nothing", "cut within a chunk", "cut between chunks",
	"garbage: two lengths", "to the connection's end", "of HTTP/1.0, with a length", "upstream's last answer on a connection",
	"a body behind 204", "a body behind the answer to HEAD", "chunks with extensions",

	// faults
	"closes when it has all", "answers before it has read the body",
}

// repeatedRows are those of repeated, with a key, and without one as a POST that is
// asked again during the hold.
func repeatedRows(t *testing.T, rows []row) (out []row) {
	for _, name := range repeated {
		i := slices.IndexFunc(rows, func(r row) bool { return r.name == name && r.route == "" && !r.outside && !r.half })
		if i < 0 {
			t.Errorf("there is no row to repeat that is named %q", name)
			continue
		}
		r := rows[i]
		r.name, r.route = "kept: "+name, "kept"
		out = append(out, r)
		r.name, r.route = "joins: "+name, "joins"
		if r.sends == "" { // a GET meets no hold
			r.sends = "POST"
		}
		if r.unshareable() {
			r.route = "alone"
		}
		out = append(out, r)
	}
	return out
}

// answer is the upstream's to the row, as far as it comes back.
func (r row) answer() message { return parseMessage(cmp.Or(r.back, r.says)) }

// unshareable reports whether the row's answer is for one alone: it is long, or has
// trailers, or seems to.
func (r row) unshareable() bool {
	m := r.answer()
	return len(m.trailers) > 0 || len(m.body) > 256<<10 || strings.HasPrefix(parseMessage(r.says).value("Trailer"), "X-Sum")
}

// isSafe reports whether the row's request changes nothing.
func (r row) isSafe() bool {
	method, _ := parseMessage(r.sends).request()
	return slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, method)
}

// keyIsFreed are the statuses that a repeat with the same key does not get again.
var keyIsFreed = []string{"401", "403", "404", "407", "408", "409", "421", "425", "429"}

// expectAgain returns what is wrong with the answer to a repeat, or "". The cell
// wants as many arrivals then as it should have had.
func (c *cell) expectAgain(first, again message, err error) string {
	failed := first.own()
	sentAgain := false
	switch {
	case failed != "":
		sentAgain = c.row.isSafe() && shares(c.row.route)
	case c.row.route == "kept":
		sentAgain = slices.Contains(keyIsFreed, first.first) || first.first >= "500"
	default: // nothing is held but a success
		sentAgain = c.row.isSafe() || first.first[0] != '2'
	}
	if c.arrives == "nothing" || sentAgain {
		if sentAgain && c.arrives != "nothing" {
			c.times = 2 * max(c.times, 1)
		}
		return c.expectBack(again, err)
	}
	want := ""
	switch said := c.row.answer(); {
	case c.row.route == "kept" && failed != "":
		want = "409 outcome-unknown"
	case failed != "":
		want = failed
	case c.row.route == "kept" && (c.row.unshareable() || said.ending != ""):
		want = "409 answer-not-kept"
	case said.ending != "":
		want = "409 held"
	case c.row.unshareable():
		want = "409 " // not-shareable, or later held
	case shares(c.row.route) && len(said.body) > 16<<10:
		want = "409 held"
	}
	if want != "" {
		if err != nil || !strings.HasPrefix(again.own(), want) {
			return fmt.Sprintf("a repeat got %.1500q, error %v, want %s\n", again, err, want)
		}
		return ""
	}
	if err != nil {
		return fmt.Sprintf("a repeat got nothing: %v\n", err)
	}
	return c.expectSame(first, again)
}

// expectSame returns how the answer to a repeat differs from the first one, but in
// what tells that it is one, or "". Informational answers are not repeated, nor is a
// cookie to who is not known by a key.
func (c *cell) expectSame(first, again message) string {
	if !isRepeat(again) || !again.has("Age") {
		return fmt.Sprintf("a repeat does not tell that it is one: %q\n", again)
	}
	if c.row.route == "kept" && again.value("Idempotent-Replayed") != "true" {
		return fmt.Sprintf("a repeat does not tell that its key is: %q\n", again)
	}
	less := []string{"Connection", "Keep-Alive", "Transfer-Encoding", "Age", "Cache-Status", "Idempotent-Replayed"}
	if first.first == "304" {
		less = append(less, "Content-Length") // may be told or not: net/http does by HTTP/2 alone
	}
	want := first
	if want.informs = nil; shares(c.row.route) {
		want = want.without("Set-Cookie")
	}
	if got, want := again.without(less...).String(), want.without(less...).String(); got != want {
		return fmt.Sprintf("a repeat got\n%.500q, want\n%.500q\n", got, want)
	}
	return ""
}

// isRepeat reports whether an answer tells that it is another request's.
func isRepeat(m message) bool {
	status := m.values("Cache-Status")
	return len(status) > 0 && status[len(status)-1] == "throttle-proxy; hit"
}

// askByOther asks in another version of HTTP, which makes no other request of it.
func (l *lane) askByOther(a asked) (got message, err error) {
	other := clientKinds[slices.IndexFunc(clientKinds, func(k clientKind) bool {
		return k.tls == l.client.tls && k != l.client && k.version != "1.0" // that has neither chunks nor 100
	})]
	conn, err := other.dial(l.replica.addr, l.trusted)
	if err != nil {
		return message{}, err
	}
	defer conn.Close()
	got, _, err = conn.ask(a)
	return got, err
}
