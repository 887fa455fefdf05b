package proxy

import (
	"encoding/binary"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"

	"throttle-proxy/proxy/upstream"
)

// maxKept is the longest body of an answer that is kept or shared.
const maxKept = 256 << 10

// record is an answer that is for others too, those that follow its exchange or
// repeat its request: it is read as it comes, however slowly its client does, and
// also when that has left. A nil *record records nothing.
type record struct {
	all    *bodies // of which what is recorded is a part
	status int
	header http.Header
	whole  bool // written by who records

	running chan struct{} // closed when no more is recorded; nil if the body is not

	mu       sync.Mutex
	grown    sync.Cond
	body     []byte
	ready    int    // bytes of body that the client may have
	rest     []byte // what was read beside it
	stopped  bool
	err      error // with which the upstream's body has ended
	panicked any   // with which reading it has; nil if it has not
}

func newRecord(all *bodies) *record {
	r := &record{all: all}
	r.grown.L = &r.mu
	return r
}

// begin notes an answer's header as the client gets it, but for what is ours.
func (r *record) begin(a *upstream.Answer) { r.status, r.header = a.StatusCode, maps.Clone(a.Header) }

// run records the body of a, which the client then reads from a. Before it can
// have the last part, settled is called; or passed, where the body is found not to be
// for others. Neither is if it breaks off.
func (r *record) run(a *upstream.Answer, settled, passed func()) {
	source := a.Body
	a.Body = &recorded{r, source, 0}
	r.running = make(chan struct{})
	if a.Whole {
		r.read(a, source, settled, passed)
	} else {
		go r.read(a, source, settled, passed)
	}
}

func (r *record) read(a *upstream.Answer, source io.Reader, settled, passed func()) {
	defer close(r.running)
	defer r.survive()
	buffer := copyBuffers.Get()
	defer copyBuffers.Put(buffer)
	left := a.ContentLength // negative if unknown
	for {
		n, err := source.Read(buffer)
		complete := a.ContentLength >= 0 && left == int64(n) || a.ContentLength < 0 && err == io.EOF
		left -= int64(n)
		fits := r.add(buffer[:n]) && (!complete || len(allowedTrailers(a.Trailer)) == 0)
		switch {
		case !fits:
			passed()
		case complete && !r.whole:
			r.whole = true
			settled()
		}
		r.mu.Lock()
		r.ready, r.err, r.stopped = len(r.body), err, err != nil || !fits
		r.mu.Unlock()
		r.grown.Broadcast()
		if r.stopped {
			return
		}
	}
}

// survive lets a panic of who records be the client's exchange's, which answers it.
func (r *record) survive() {
	if cause := recover(); cause != nil {
		r.mu.Lock()
		r.panicked, r.stopped = cause, true
		r.mu.Unlock()
		r.grown.Broadcast()
	}
}

// add records a part, unless there is no room for it: then it is there for the client
// alone.
func (r *record) add(part []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.body)+len(part) > maxKept || !r.all.take(len(part)) {
		r.rest = append(r.rest, part...)
		return false
	}
	r.body = append(r.body, part...)
	return true
}

// wait waits until no more is recorded: an answer is recorded to its end, which the
// longest pause in it, or the end of the replica, brings.
func (r *record) wait() {
	if r != nil && r.running != nil {
		<-r.running
	}
}

// recorded is the body of an answer that is recorded.
type recorded struct {
	*record
	source io.ReadCloser
	at     int
}

// Read waits for what is recorded, and reads on by itself behind that.
func (b *recorded) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.at == b.ready && !b.stopped {
		b.grown.Wait()
	}
	switch {
	case b.at < b.ready:
		n := copy(p, b.body[b.at:b.ready])
		b.at += n
		return n, nil
	case len(b.rest) > 0:
		n := copy(p, b.rest)
		b.rest = b.rest[n:]
		return n, nil
	case b.panicked != nil:
		panic(b.panicked)
	case b.err != nil:
		return 0, b.err
	}
	return b.source.Read(p)
}

func (b *recorded) Close() error {
	b.wait()
	return b.source.Close()
}

// done gives back the memory.
func (r *record) done() {
	if r != nil {
		r.wait()
		r.all.give(int64(len(r.body)))
		r.body = nil
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

// keep says what repeats and followers of the exchange's request get.
func (x *exchange) keep() {
	switch r := x.record; {
	case r == nil, !x.outcome.answered(): // which the cluster knows to be unknown
	case x.grant.Shared():
		if r.whole {
			x.grant.Share(r.form(isLeadersAlone))
		}
	case freesKey(r.status):
		x.grant.FreeKey()
	case r.whole:
		x.grant.Keep(r.form(nil))
	default:
		x.grant.Keep(nil)
	}
}

// keptForm is the version of the form in which answers are kept: all of it are
// numbers (uvarint) and texts that their length precedes. First the status, and how
// many fields there are; of each its name, how many values it has, and these; and
// then, without its length, the body.
const keptForm = 1

// form is the record as it is kept, without the fields that but says.
func (r *record) form(but func(name string) bool) []byte {
	b := make([]byte, 0, 512+len(r.body))
	number := func(n int) { b = binary.AppendUvarint(b, uint64(n)) }
	text := func(s string) {
		number(len(s))
		b = append(b, s...)
	}
	b = append(b, keptForm)
	number(r.status)
	names := slices.Sorted(maps.Keys(r.header))
	if but != nil {
		names = slices.DeleteFunc(names, but)
	}
	number(len(names))
	for _, name := range names {
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
