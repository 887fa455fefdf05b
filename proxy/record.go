package proxy

import (
	"encoding/binary"
	"io"
	"maps"
	"net/http"
	"slices"

	"throttle-proxy/proxy/upstream"
)

// maxKept is the longest body of an answer that is kept.
const maxKept = 256 << 10

// record is the answer to a request with a key, as it passes. A nil *record records
// nothing.
type record struct {
	all     *bodies // of which what is recorded is a part
	status  int
	header  http.Header
	body    []byte
	counted int
	over    bool // it may not be kept
	whole   bool
}

// records reports whether the rest of the answer is still wanted, also by a client
// that has left.
func (r *record) records() bool { return r != nil && !r.over && !r.whole }

// begin records the header of an answer as the client gets it, but for what is ours.
func (r *record) begin(a *upstream.Answer) {
	if r == nil {
		return
	}
	r.status, r.header = a.StatusCode, maps.Clone(a.Header)
	r.over = a.ContentLength > maxKept || len(a.Trailer) > 0 || freesKey(a.StatusCode)
}

// add records a part of the body.
func (r *record) add(part []byte) {
	if !r.records() || len(part) == 0 {
		return
	}
	if len(r.body)+len(part) > maxKept || !r.all.take(len(part)) {
		r.over = true
		return
	}
	r.counted += len(part)
	r.body = append(r.body, part...)
}

// end is called when all of the answer has come.
func (r *record) end(a *upstream.Answer) {
	if r.records() {
		r.whole, r.over = len(a.Trailer) == 0, len(a.Trailer) > 0
	}
}

// done gives back the memory.
func (r *record) done() {
	if r != nil {
		r.all.give(int64(r.counted))
		r.counted, r.body = 0, nil
	}
}

// freesKey reports whether a request that was answered with a status is to be sent
// again when it is repeated: what stood in its way may have gone by then.
func freesKey(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusProxyAuthRequired,
		http.StatusRequestTimeout, http.StatusConflict, http.StatusMisdirectedRequest, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

// keep says what repeats of the exchange's request get, if it has a key.
func (x *exchange) keep() {
	switch r := x.record; {
	case r == nil, !x.outcome.answered(): // which the cluster knows to be unknown
	case freesKey(r.status):
		x.grant.FreeKey()
	case r.whole:
		x.grant.Keep(r.form())
	default:
		x.grant.Keep(nil)
	}
}

// readOn reads the rest of an answer whose client has left, for when it comes again.
// left is what is still to come, -1 if that is not known, and err what the last read
// has said.
func (x *exchange) readOn(a *upstream.Answer, left int64, buffer []byte, err error) {
	for err == nil && left != 0 && x.record.records() {
		var n int
		n, err = a.Body.Read(buffer)
		x.record.add(buffer[:n])
		if left > 0 {
			left -= int64(n)
		}
	}
	if left == 0 || err == io.EOF {
		x.record.end(a)
	}
	x.settle()
}

// keptForm is the version of the form in which answers are kept: all of it are
// numbers (uvarint) and texts that their length precedes. First the status, and how
// many fields there are; of each its name, how many values it has, and these; and
// then, without its length, the body.
const keptForm = 1

// form is the record as it is kept.
func (r *record) form() []byte {
	b := make([]byte, 0, 512+len(r.body))
	number := func(n int) { b = binary.AppendUvarint(b, uint64(n)) }
	text := func(s string) {
		number(len(s))
		b = append(b, s...)
	}
	b = append(b, keptForm)
	number(r.status)
	number(len(r.header))
	for _, name := range slices.Sorted(maps.Keys(r.header)) {
		text(name)
		number(len(r.header[name]))
		for _, value := range r.header[name] {
			text(value)
		}
	}
	return append(b, r.body...)
}

// kept is an answer that was kept.
type kept struct {
	status int
	header http.Header
	body   []byte
}

// readKept reads what [record.form] has written.
func readKept(b []byte) (a kept, ok bool) {
	if len(b) == 0 || b[0] != keptForm {
		return kept{}, false
	}
	b, ok = b[1:], true
	number := func() int {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > 1<<30 {
			ok = false
			return 0
		}
		b = b[size:]
		return int(n)
	}
	text := func() string {
		n := number()
		if n > len(b) {
			ok = false
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	a.status, a.header = number(), http.Header{}
	for fields := number(); ok && fields > 0; fields-- {
		name := text()
		a.header[name] = nil
		for values := number(); ok && values > 0; values-- {
			a.header[name] = append(a.header[name], text())
		}
	}
	a.body = b
	return a, ok && a.status >= 200 && a.status <= 999
}
