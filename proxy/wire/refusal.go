package wire

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Refusal is why a request cannot be read in one way only, or is not to be read
// at all. It quotes nothing of the request.
type Refusal struct {
	Status int    // of the answer: 400, 408, 417, 431, 501 or 505
	Detail string // a sentence for the client
}

func (f *Refusal) Error() string { return f.Detail }

// What readers of every protocol refuse.
var (
	badMethod  = &Refusal{http.StatusBadRequest, "The method is no token."}
	badTarget  = &Refusal{http.StatusBadRequest, "The target is no path with a query: it has a character that must be escaped, or a broken escape."}
	badHost    = &Refusal{http.StatusBadRequest, "The host is none, or there is not exactly one."}
	longHeader = &Refusal{http.StatusRequestHeaderFieldsTooLarge, "The header is larger than " + strconv.Itoa(maxHead>>10) + " KiB."}
)

// Check returns why r is to be refused, or nil. What it checks holds for every
// protocol, also where net/http lets more pass: an HTTP/2 client can put spaces
// into its method and target, which would be read otherwise once they stand in a
// line of HTTP/1.
func Check(r *http.Request) *Refusal {
	switch {
	case !isToken(r.Method):
		return badMethod
	case !isTarget(r.Method, r.RequestURI):
		return badTarget
	case !isHost(r.Host):
		return badHost
	case r.ProtoMajor > 1 && headerSize(r) > maxHead:
		return longHeader
	}
	return nil
}

// headerSize counts as HTTP/1 would.
func headerSize(r *http.Request) (size int) {
	for name, values := range r.Header {
		for _, value := range values {
			size += len(name) + len(value) + len(": \r\n")
		}
	}
	return size + len(r.RequestURI)
}

// isTarget reports whether the target of a method has no character that ends it
// for some reader, and no escape in its path that is none. Others pass as they
// came, though most of them should have been escaped (RFC 3986 2.2).
func isTarget[T string | []byte](method, target T) bool {
	query, escaped := false, false
	for i := range len(target) {
		switch c := target[i]; {
		case c <= ' ', c == 0x7f, c == '#':
			return false
		case c == '?':
			query = true
		case c == '%' && !query:
			escaped = true
		}
	}
	if !escaped && len(target) > 0 && target[0] == '/' {
		return true
	}
	// As net/http reads it.
	text := string(target)
	if string(method) == http.MethodConnect && !strings.HasPrefix(text, "/") {
		text = "http://" + text
	}
	_, err := url.ParseRequestURI(text)
	return err == nil
}

func isHost[T string | []byte](host T) bool {
	for i := range len(host) {
		switch c := host[i]; {
		case c <= ' ', c >= 0x7f, strings.IndexByte(`/\@?#"<>^{|}`+"`", c) >= 0:
			return false
		}
	}
	return true
}

// refusedField is a field that no client can know, by which a Conn tells the
// handler of what it has refused.
var refusedField = http.CanonicalHeaderKey("Refused-" + rand.Text())

// request is what the server reads in place of a refused one. Whatever the
// client says after it is its body, which the handler may read on to let the
// client come to reading the answer.
func (f *Refusal) request() []byte {
	return fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: -\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n%s: %d %s\r\n\r\n", refusedField, f.Status, f.Detail)
}

// Refused returns why the request in whose place a [Conn] has put r is refused,
// or nil if r is the client's own.
func Refused(r *http.Request) *Refusal {
	text := r.Header.Get(refusedField)
	if text == "" {
		return nil
	}
	status, detail, _ := strings.Cut(text, " ")
	f := &Refusal{Detail: detail}
	f.Status, _ = strconv.Atoi(status)
	return f
}
