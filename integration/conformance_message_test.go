package integration

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// message is a request or an answer, as the table writes them:
//
//	POST /target            or a status; a tab divides where either has spaces
//	Name: value
//
//	body
//	--
//	Trailer: value
//
// In front of an answer stand the informational ones, each with an empty line
// behind it. An answer that ends in ✂ is cut there, one that ends in … stops.
type message struct {
	informs  []string // first line and fields
	first    string
	fields   []string
	body     string
	trailers []string
	ending   string // "", cut or stopped
}

const cut, stopped = "✂", "…"

func parseMessage(text string) (m message) {
	for {
		head, rest, _ := strings.Cut(text, "\n\n")
		lines := strings.Split(head, "\n")
		if len(lines[0]) == 3 && lines[0][0] == '1' && rest != "" {
			m.informs, text = append(m.informs, head), rest
			continue
		}
		m.first, m.fields = lines[0], lines[1:]
		for _, ending := range []string{cut, stopped} {
			if before, ok := strings.CutSuffix(rest, ending); ok {
				rest, m.ending = before, ending
			}
		}
		body, trailers, ok := strings.Cut(rest, "\n--\n")
		if m.body = body; ok {
			m.trailers = strings.Split(trailers, "\n")
		}
		return m
	}
}

// String is the message with its fields in order and their names in lower case:
// neither has a meaning, and HTTP/2 has no other names.
func (m message) String() string {
	var b strings.Builder
	for _, inform := range m.informs {
		i := parseMessage(inform)
		fmt.Fprintf(&b, "%s\n%s\n\n", i.first, strings.Join(inOrderOfNames(i.fields), "\n"))
	}
	b.WriteString(m.first + "\n" + strings.Join(inOrderOfNames(m.fields), "\n") + "\n\n" + m.body)
	if len(m.trailers) > 0 {
		b.WriteString("\n--\n" + strings.Join(inOrderOfNames(m.trailers), "\n"))
	}
	return b.String() + m.ending
}

func inOrderOfNames(fields []string) []string {
	out := make([]string, len(fields))
	for i, f := range fields {
		name, value, _ := strings.Cut(f, ":")
		out[i] = strings.ToLower(name) + ": " + strings.Trim(value, " ")
	}
	slices.SortStableFunc(out, func(a, b string) int {
		name, _, _ := strings.Cut(a, ":")
		other, _, _ := strings.Cut(b, ":")
		return strings.Compare(name, other)
	})
	return out
}

// request returns the method and the target of a request.
func (m message) request() (method, target string) {
	separator := " "
	if strings.Contains(m.first, "\t") {
		separator = "\t"
	}
	method, target, _ = strings.Cut(m.first, separator)
	return method, target
}

// values returns those of a field.
func (m message) values(name string) (values []string) {
	for _, f := range m.fields {
		if n, value, _ := strings.Cut(f, ":"); strings.EqualFold(n, name) {
			values = append(values, strings.Trim(value, " "))
		}
	}
	return values
}

func (m message) value(name string) string { return strings.Join(m.values(name), ", ") }

func (m message) has(name string) bool { return m.values(name) != nil }

// without returns m less some fields.
func (m message) without(names ...string) message {
	m.fields = slices.DeleteFunc(slices.Clone(m.fields), func(f string) bool {
		name, _, _ := strings.Cut(f, ":")
		return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
	})
	return m
}

// with returns m and a field more, unless it has one of that name.
func (m message) with(name, value string) message {
	if !m.has(name) {
		m.fields = append(slices.Clone(m.fields), name+": "+value)
	}
	return m
}

var ownRequestID = regexp.MustCompile(`^[A-Z2-7]{16}$`)

// own returns what an answer of the proxy's own says in short, "502
// upstream-refused connection_refused", and what it should have and has not; it
// is empty for the upstream's.
func (m message) own() string {
	by, isOwn := strings.CutPrefix(m.value("Proxy-Status"), "throttle-proxy; error=")
	if !isOwn {
		return ""
	}
	var p struct {
		Type, Title, Detail, Reason, Sent, Message string
		Status                                     int
		RequestID                                  string  `json:"request_id"`
		RetryAfter                                 float64 `json:"retry_after"` // seconds
		Error                                      struct{ Message, Type, Code string }
	}
	said := m.first + " "
	if err := json.Unmarshal([]byte(m.body), &p); err != nil && m.body != "" {
		return said + "no JSON: " + m.body
	}
	said += p.Reason + " " + by
	again := m.value("X-Should-Retry") == "true"
	for what, ok := range map[string]bool{
		"Content-Type":        m.value("Content-Type") == "application/problem+json",
		"Cache-Control":       m.value("Cache-Control") == "no-store",
		"type":                p.Type != "",
		"title":               p.Title != "",
		"status":              fmt.Sprint(p.Status) == m.first,
		"request_id":          p.RequestID != "",
		"newline at its end":  strings.HasSuffix(m.body, "\n") && strings.Count(m.body, "\n") == 1,
		"end":                 m.ending == "",
		"secret left unsaid":  !strings.Contains(m.String(), canary),
		"message":             p.Detail != "" && p.Message == p.Detail && p.Error.Message == p.Detail,
		"error":               p.Error.Type != "" && p.Error.Code == p.Reason,
		"Via":                 strings.HasSuffix(m.value("Via"), " throttle-proxy"),
		"sent":                p.Sent == "no" || p.Sent == "maybe" && !again,
		"should-retry":        m.value("X-Should-Retry") == fmt.Sprint(again) && m.value("Stripe-Should-Retry") == fmt.Sprint(again),
		"wait":                again == m.has("Retry-After") && again == (p.RetryAfter > 0),
		"milliseconds":        again == m.has("Retry-After-Ms") && m.value("Retry-After-Ms") == m.value("X-Amz-Retry-After"),
		"Retry-After for 503": m.first != "503" || again || p.Sent == "maybe",
	} {
		if !ok && m.body != "" { // none to HEAD
			said = "(" + what + "?) " + said // or it would pass where the rest is right
		}
	}
	return said
}
