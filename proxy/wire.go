package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Wire is a client's connection. It reads HTTP/1 along with net/http's server,
// which is lenient where two readers of one message may differ, and so lets
// requests be smuggled: bare LF, several or odd Content-Lengths, one beside a
// Transfer-Encoding, folded lines, odd chunk sizes. What RFC 9112 forbids never
// reaches the server: it is given a line that it refuses in its place, with
// 400, and closes the connection. HTTP/2, and what follows a 101, pass.
//
// It also ends connections whose client does not read: each write has a
// deadline of its own.
type Wire struct {
	net.Conn
	reader  wireReader
	refuse  []byte // what is left to say of the poison
	ahead   []byte // what was read and not passed on
	upgrade atomic.Int32
}

// NewWire returns conn as a Wire. writeIdle is the longest that one write may
// take.
func NewWire(conn net.Conn, writeIdle time.Duration) *Wire {
	return &Wire{Conn: &lazyConn{Conn: conn, writeIdle: writeIdle}}
}

// The states of Wire.upgrade: whether the request just read asks for another
// protocol, and what the answer was.
const (
	upgradeAsked    int32 = iota + 1 // the answer's status is not known yet
	upgradeSwitched                  // 101
	upgradeRefused
)

// poison is refused by net/http wherever it stands in a message: in a request
// line, a header or trailer line, or a chunk size.
var poison = []byte("\x00\r\n:\r\n\r\n")

// Read gives the server what the client sent, up to what must not be read.
func (w *Wire) Read(p []byte) (int, error) {
	if w.reader.state == wireRefused {
		n := copy(p, w.refuse)
		if w.refuse = w.refuse[n:]; n == 0 {
			return 0, io.EOF
		}
		return n, nil
	}
	if err := w.awaitAnswer(); err != nil {
		return 0, err
	}
	n, err := copy(p, w.ahead), error(nil)
	if w.ahead = w.ahead[n:]; n == 0 {
		n, err = w.Conn.Read(p)
	}
	if w.reader.state == wireRaw {
		return n, err
	}
	good := w.reader.read(p[:n])
	switch {
	case w.reader.state == wireUndecided:
		w.upgrade.Store(upgradeAsked)
		w.ahead = append(bytes.Clone(p[good:n]), w.ahead...)
	case good < n:
		w.reader.state, w.refuse = wireRefused, poison
		if good == 0 {
			return w.Read(p)
		}
	}
	if good < n {
		err = nil // it comes again, after what is left
	}
	return good, err
}

// awaitAnswer keeps what follows a request for another protocol from the
// server, until its answer tells how to read it. The server, which wants to
// know meanwhile whether the client leaves, sets a deadline when it has
// answered.
func (w *Wire) awaitAnswer() error {
	for w.reader.state == wireUndecided {
		switch w.upgrade.Load() {
		case upgradeSwitched:
			w.reader = wireReader{state: wireRaw}
		case upgradeRefused:
			w.reader.state = wireRequestLine
		default:
			if len(w.ahead) >= maxAhead {
				return errAhead
			}
			p := make([]byte, 4<<10)
			n, err := w.Conn.Read(p)
			if w.ahead = append(w.ahead, p[:n]...); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxAhead is the most that a client may say before it knows in which protocol.
const maxAhead = 64 << 10

var errAhead = errors.New("too much was sent behind a request for another protocol")

// CloseWrite lets the server end its half, and the client read the answer
// before the rest is closed.
func (w *Wire) CloseWrite() error { return closeWrite(w.Conn) }

func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Write sends what the server answers.
func (w *Wire) Write(p []byte) (int, error) {
	if w.upgrade.Load() == upgradeAsked {
		if status, ok := bytes.CutPrefix(p, []byte("HTTP/1.1 ")); ok {
			switch {
			case bytes.HasPrefix(status, []byte("101")):
				w.upgrade.Store(upgradeSwitched)
			case !bytes.HasPrefix(status, []byte("1")):
				w.upgrade.Store(upgradeRefused)
			}
		}
	}
	return w.Conn.Write(p)
}

type wireState int

// Where in the client's messages the next byte is.
const (
	wireRequestLine wireState = iota
	wireHeader
	wireBody      // left bytes of it
	wireChunkSize // its line
	wireChunk     // left bytes of it
	wireChunkEnd  // the line end after it
	wireTrailer
	wireUndecided // after a request for an upgrade that is not answered yet
	wireRaw       // nothing that is read here
	wireRefused
)

// wireReader follows one connection's requests.
type wireReader struct {
	state wireState
	line  []byte // the part of the current line that came with earlier reads
	left  int64

	// of the current request
	http10    bool
	hosts     int
	length    int64 // -1 if none is given
	chunked   bool
	upgrading bool
	began     bool
}

// read follows p, and returns how much of it the server may see: less than all
// where it breaks a rule.
func (r *wireReader) read(p []byte) (good int) {
	for good < len(p) {
		switch r.state {
		case wireRaw:
			return len(p)
		case wireUndecided:
			return good
		case wireBody, wireChunk:
			n := min(r.left, int64(len(p)-good))
			r.left -= n
			good += int(n)
			if r.left == 0 && r.state == wireChunk {
				r.state = wireChunkEnd
			} else if r.left == 0 {
				r.state = r.next()
			}
			continue
		}
		end := bytes.IndexByte(p[good:], '\n')
		if end < 0 {
			r.line = append(r.line, p[good:]...)
			return len(p)
		}
		line := p[good : good+end]
		if len(r.line) > 0 {
			r.line = append(r.line, line...)
			line = r.line
		}
		ok := r.readLine(line)
		r.line = r.line[:0]
		if !ok {
			return good
		}
		good += end + 1
	}
	return good
}

// readLine follows one line, without its LF, and reports whether the server
// may see its end.
func (r *wireReader) readLine(line []byte) bool {
	last := len(line) - 1
	if last < 0 || line[last] != '\r' {
		return false // a bare LF
	}
	line = line[:last]
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	switch r.state {
	case wireRequestLine:
		return r.readRequestLine(line)
	case wireHeader, wireTrailer:
		if len(line) == 0 {
			return r.endHeader()
		}
		return r.readField(line)
	case wireChunkSize:
		return r.readChunkSize(line)
	case wireChunkEnd:
		r.state = wireChunkSize
		return len(line) == 0
	}
	return false
}

func (r *wireReader) readRequestLine(line []byte) bool {
	if !r.began && string(line) == "PRI * HTTP/2.0" {
		r.state = wireRaw
		return true
	}
	*r = wireReader{state: wireHeader, line: r.line, length: -1, began: true}
	target := 0
	for i, c := range line {
		switch {
		case c == ' ':
			if target++; i == 0 || line[i-1] == ' ' {
				return false
			}
		case target == 0 && !isToken(c), target == 1 && (c == '#' || c == '\t' || c >= 0x80):
			return false
		}
	}
	r.http10 = bytes.HasSuffix(line, []byte(" HTTP/1.0"))
	return target == 2 && (r.http10 || bytes.HasSuffix(line, []byte(" HTTP/1.1")))
}

// readField follows a line of a header or trailer.
func (r *wireReader) readField(line []byte) bool {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return false // also a folded line without one
	}
	name := line[:colon]
	for _, c := range name {
		if !isToken(c) {
			return false // a folded line, or white space before the colon
		}
	}
	if r.state == wireTrailer {
		return true
	}
	switch len(name) {
	case len("Host"):
		if bytes.EqualFold(name, []byte("Host")) {
			r.hosts++
			return r.hosts == 1 && !bytes.ContainsAny(bytes.TrimSpace(line[colon+1:]), `/\@?# `+"\t")
		}
	case len("Upgrade"):
		r.upgrading = r.upgrading || bytes.EqualFold(name, []byte("Upgrade"))
	case len("Content-Length"):
		if bytes.EqualFold(name, []byte("Content-Length")) {
			value := strings.Trim(string(line[colon+1:]), " \t")
			n, err := strconv.ParseUint(value, 10, 62) // takes digits alone
			again := r.length >= 0
			r.length = int64(n)
			return err == nil && !again
		}
	case len("Transfer-Encoding"):
		if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
			again := r.chunked
			r.chunked = true
			return !again && !r.http10 && strings.EqualFold(strings.Trim(string(line[colon+1:]), " \t"), "chunked")
		}
	}
	return true
}

// endHeader follows the empty line after a header or trailer.
func (r *wireReader) endHeader() bool {
	switch {
	case r.state == wireTrailer:
		r.state = r.next()
	case r.chunked && r.length >= 0:
		return false
	case r.chunked:
		r.state = wireChunkSize
	case r.length > 0:
		r.state, r.left = wireBody, r.length
	default:
		r.state = r.next()
	}
	return true
}

// next is what follows a whole request.
func (r *wireReader) next() wireState {
	if r.upgrading && !r.http10 { // HTTP/1.0 has no other protocols
		return wireUndecided
	}
	return wireRequestLine
}

func (r *wireReader) readChunkSize(line []byte) bool {
	size, _, _ := strings.Cut(string(line), ";")
	n, err := strconv.ParseUint(size, 16, 62)
	if err != nil {
		return false
	}
	r.state, r.left = wireChunk, int64(n)
	if n == 0 {
		r.state = wireTrailer
	}
	return true
}

// isToken reports whether c may stand in a method or a field's name (RFC 9110
// 5.6.2).
func isToken(c byte) bool { return tokens[c] }

var tokens = func() (t [256]bool) {
	for c := '0'; c <= 'z'; c++ {
		t[c] = c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a'
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()
