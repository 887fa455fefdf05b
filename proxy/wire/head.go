package wire

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
)

type state int

// Where in the client's messages the next byte is.
const (
	stateRequestLine state = iota
	stateHeader
	stateBody      // left bytes of it
	stateChunkSize // its line
	stateChunk     // left bytes of it
	stateChunkEnd  // the line end after it
	stateTrailer
	statePreface   // of HTTP/2, left bytes of it
	stateUndecided // after a request for an upgrade that is not answered yet
	stateRaw       // nothing that is read here
)

// reader follows one connection's requests.
type reader struct {
	state state
	line  []byte // the part of the current line that came with earlier reads
	left  int64

	// of the current request
	size      int // of its header so far, in bytes
	http10    bool
	hosts     int
	length    int64 // -1 if none is given
	coding    bool  // a Transfer-Encoding is given
	upgrading bool
	asks      bool // its header, which asks for another protocol, has just ended
	began     bool // it is not the first
	emptied   bool // an empty line stood before it
}

var (
	malformed = &Refusal{http.StatusBadRequest, "The request breaks the rules of HTTP/1.1 (RFC 9112)."}
	framing   = &Refusal{http.StatusBadRequest, "The length of the body is not given in exactly one way."}
	coding    = &Refusal{http.StatusNotImplemented, "The only Transfer-Encoding that is understood is chunked, once."}
	version   = &Refusal{http.StatusHTTPVersionNotSupported, "The versions that are understood are HTTP/1.0, HTTP/1.1 and HTTP/2."}
	expect    = &Refusal{http.StatusExpectationFailed, "The only expectation that is understood is 100-continue."}

	// emptyLine is none: the line is left out, which some clients send after a
	// body (RFC 9112 2.2).
	emptyLine = &Refusal{}
)

// inHead reports whether no part of the current request may be seen yet.
func (r *reader) inHead() bool {
	return r.state == stateRequestLine || r.state == stateHeader || r.state == statePreface
}

// follow reads p up to read: to its end or that of a request, to what breaks a
// rule, to a line that is to be left out, or to where its protocol is not decided.
// The server may see it up to good: what lies between is a header that has not
// ended.
func (r *reader) follow(p []byte) (good, read int, bad *Refusal) {
	for read < len(p) {
		switch r.state {
		case stateRaw:
			return len(p), len(p), nil
		case stateUndecided:
			return read, read, nil
		case statePreface:
			n := min(r.left, int64(len(p)-read))
			r.left -= n
			if read += int(n); r.left == 0 {
				r.state = stateRaw
			}
			continue
		case stateBody, stateChunk:
			n := min(r.left, int64(len(p)-read))
			r.left -= n
			read += int(n)
			good = read
			if r.left == 0 && r.state == stateChunk {
				r.state = stateChunkEnd
			} else if r.left == 0 {
				r.state = r.next()
				return good, read, nil
			}
			continue
		}
		end := bytes.IndexByte(p[read:], '\n')
		line := p[read:]
		if end >= 0 {
			line = p[read : read+end]
		}
		if bad = r.count(len(line)); bad != nil {
			return good, read, bad
		}
		if end < 0 {
			r.line = append(r.line, line...)
			read = len(p)
			break
		}
		if len(r.line) > 0 {
			r.line = append(r.line, line...)
			line = r.line
		}
		bad = r.readLine(line)
		r.line = r.line[:0]
		if bad == emptyLine {
			return good, read + end + 1, bad
		} else if bad != nil {
			return good, read, bad
		}
		read += end + 1
		if r.state == stateRequestLine || r.state == stateUndecided {
			return read, read, nil
		}
		if !r.inHead() {
			good = read
		}
	}
	if !r.inHead() {
		good = read
	}
	return good, read, nil
}

// count bounds the header, and the lines of a body.
func (r *reader) count(bytes int) *Refusal {
	if r.inHead() || r.state == stateTrailer {
		r.size += bytes
	} else {
		r.size = len(r.line) + bytes
	}
	if r.size > maxHead {
		return longHeader
	}
	return nil
}

// readLine follows one line, without its LF.
func (r *reader) readLine(line []byte) *Refusal {
	last := len(line) - 1
	if last < 0 || line[last] != '\r' {
		return malformed // a bare LF
	}
	line = line[:last]
	if r.state == stateRequestLine {
		return r.readRequestLine(line)
	}
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return malformed
		}
	}
	switch r.state {
	case stateHeader, stateTrailer:
		if len(line) == 0 {
			return r.endHeader()
		}
		return r.readField(line)
	case stateChunkSize:
		return r.readChunkSize(line)
	case stateChunkEnd:
		r.state = stateChunkSize
		if len(line) > 0 {
			return malformed
		}
	}
	return nil
}

func (r *reader) readRequestLine(line []byte) *Refusal {
	if len(line) == 0 && !r.emptied {
		r.emptied = true
		return emptyLine
	}
	if !r.began && string(line) == "PRI * HTTP/2.0" {
		r.state, r.left = statePreface, int64(len("\r\nSM\r\n\r\n"))
		return nil
	}
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, protocol, ok := bytes.Cut(rest, []byte(" "))
	*r = reader{state: stateHeader, line: r.line, size: r.size, length: -1, began: true}
	switch {
	case !ok || !bytes.HasPrefix(protocol, []byte("HTTP/")) || bytes.IndexByte(protocol, ' ') >= 0:
		return malformed
	case !isToken(method):
		return badMethod
	case !isTarget(method, target):
		return badTarget
	case string(protocol) == "HTTP/1.0":
		r.http10 = true
	case string(protocol) != "HTTP/1.1":
		return version
	}
	return nil
}

// readField follows a line of a header or trailer.
func (r *reader) readField(line []byte) *Refusal {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return malformed // also a folded line without one
	}
	name := line[:colon]
	if !isToken(name) {
		return malformed // a folded line, or white space before the colon
	}
	if r.state == stateTrailer {
		return nil
	}
	value := bytes.Trim(line[colon+1:], " \t")
	switch len(name) {
	case len("Host"):
		if bytes.EqualFold(name, []byte("Host")) {
			if r.hosts++; r.hosts > 1 || !isHost(value) {
				return badHost
			}
		}
	case len("Expect"):
		if bytes.EqualFold(name, []byte("Expect")) && !bytes.EqualFold(value, []byte("100-continue")) {
			return expect
		}
	case len("Upgrade"):
		r.upgrading = r.upgrading || bytes.EqualFold(name, []byte("Upgrade"))
	case len("Content-Length"):
		if bytes.EqualFold(name, []byte("Content-Length")) {
			n, err := strconv.ParseUint(string(value), 10, 62) // takes digits alone
			if err != nil || r.length >= 0 {
				return framing
			}
			r.length = int64(n)
		}
	case len("Transfer-Encoding"):
		if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
			if r.coding {
				return framing
			} else if !bytes.EqualFold(value, []byte("chunked")) {
				return coding
			}
			r.coding = true
		}
	}
	return nil
}

// endHeader follows the empty line after a header or trailer.
func (r *reader) endHeader() *Refusal {
	switch {
	case r.state == stateTrailer:
		r.state = r.next()
	case r.hosts == 0 && !r.http10:
		return badHost
	case r.coding && (r.length >= 0 || r.http10):
		return framing
	case r.coding:
		r.state, r.asks = stateChunkSize, r.asksUpgrade()
	case r.length > 0:
		r.state, r.left, r.asks = stateBody, r.length, r.asksUpgrade()
	default:
		r.state, r.asks = r.next(), r.asksUpgrade()
	}
	r.size = 0
	return nil
}

// asksUpgrade reports whether the request asks for another protocol: HTTP/1.0 has
// none.
func (r *reader) asksUpgrade() bool { return r.upgrading && !r.http10 }

// next is what follows a whole request.
func (r *reader) next() state {
	if r.asksUpgrade() {
		return stateUndecided
	}
	return stateRequestLine
}

func (r *reader) readChunkSize(line []byte) *Refusal {
	size, _, _ := strings.Cut(string(line), ";")
	n, err := strconv.ParseUint(size, 16, 62)
	if err != nil {
		return malformed
	}
	r.state, r.left = stateChunk, int64(n)
	if n == 0 {
		r.state = stateTrailer
	}
	r.size = 0
	return nil
}

// isToken reports whether text may be a method or a field's name (RFC 9110
// 5.6.2).
func isToken[T string | []byte](text T) bool {
	for i := range len(text) {
		if !tokens[text[i]] {
			return false
		}
	}
	return len(text) > 0
}

var tokens = func() (t [256]bool) {
	for c := '0'; c <= 'z'; c++ {
		t[c] = c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a'
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()
