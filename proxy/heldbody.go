package proxy

import (
	"bytes"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// heldBody is a client's body in memory, as it has come: nothing is copied as it
// grows. What is lent for it is given back when the exchange has ended, and
// everybody who reads it has closed what he reads from.
type heldBody struct {
	chunks [][]byte
	first  [1][]byte // room for the only one that most have
	size   int64
	users  atomic.Int32
}

const (
	firstChunk = 4 << 10
	lentChunk  = 32 << 10 // as copyBuffers has them
)

// growing lends the chunks of bodies that have not grown to long ones yet, by size:
// 4, 8 and 16 KiB.
var growing [3]sync.Pool

// lendChunk returns an empty chunk of one of the sizes that are lent.
func lendChunk(size int64) []byte {
	if size == lentChunk {
		return copyBuffers.Get()[:0]
	}
	if chunk, ok := growing[size/(2*firstChunk)].Get().(*[]byte); ok {
		return *chunk
	}
	return make([]byte, 0, size)
}

// returnChunk ends the use of one; of another size it does nothing.
func returnChunk(chunk []byte) {
	chunk = chunk[:0]
	switch size := cap(chunk); size {
	case lentChunk:
		copyBuffers.Put(chunk[:lentChunk])
	case firstChunk, 2 * firstChunk, 4 * firstChunk:
		growing[size/(2*firstChunk)].Put(&chunk)
	}
}

// begin returns b, which is a body that nothing has come of yet.
func (b *heldBody) begin() *heldBody {
	b.chunks = b.first[:0]
	b.users.Store(1)
	return b
}

// space returns room for what comes next, of at most n bytes more. There is
// never more of it than there is in the body already, or in the first chunk. What
// is soon full is lent.
func (b *heldBody) space(n int64) []byte {
	last := len(b.chunks) - 1
	if last < 0 || len(b.chunks[last]) == cap(b.chunks[last]) {
		if size := max(firstChunk, min(b.size, lentChunk)); n > size/2 {
			b.chunks = append(b.chunks, lendChunk(size))
		} else {
			b.chunks = append(b.chunks, make([]byte, 0, n))
		}
		last++
	}
	chunk := b.chunks[last]
	return chunk[len(chunk):min(cap(chunk), len(chunk)+int(n))]
}

// grow takes n bytes of the last space.
func (b *heldBody) grow(n int) {
	last := len(b.chunks) - 1
	b.chunks[last] = b.chunks[last][:len(b.chunks[last])+n]
	b.size += int64(n)
}

// Open returns a reader of the whole body. One of a single chunk is of a type
// for which net/http's Transport writes header and body at once.
func (b *heldBody) Open() io.ReadCloser {
	b.users.Add(1)
	if len(b.chunks) == 1 {
		return io.NopCloser(bytes.NewReader(b.chunks[0])) // which does not tell of its end: the chunk is not given back
	}
	return &heldReader{body: b}
}

// Parts returns the whole body, until its use ends.
func (b *heldBody) Parts() [][]byte { return b.chunks }

// done ends one use. After the last nothing may be read.
func (b *heldBody) done() {
	if b.users.Add(-1) > 0 {
		return
	}
	for _, chunk := range b.chunks {
		returnChunk(chunk)
	}
	b.chunks = nil
}

// heldReader reads a heldBody. Close may be called while a Read is under way, as
// the Transport does.
type heldReader struct {
	mu     sync.Mutex
	body   *heldBody // nil when closed
	chunk  int
	offset int // in the chunk
}

func (r *heldReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rest, err := r.restLocked()
	n := copy(p, rest)
	r.offset += n
	return n, err
}

// WriteTo writes what has not been read.
func (r *heldReader) WriteTo(w io.Writer) (written int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		rest, err := r.restLocked()
		if err == io.EOF {
			return written, nil
		} else if err != nil {
			return written, err
		}
		n, err := w.Write(rest)
		r.offset += n
		if written += int64(n); err != nil {
			return written, err
		}
	}
}

// restLocked returns what is left of the chunk at which the reader stands.
func (r *heldReader) restLocked() ([]byte, error) {
	if r.body == nil {
		return nil, http.ErrBodyReadAfterClose
	}
	for r.chunk < len(r.body.chunks) {
		if rest := r.body.chunks[r.chunk][r.offset:]; len(rest) > 0 {
			return rest, nil
		}
		r.chunk, r.offset = r.chunk+1, 0
	}
	return nil, io.EOF
}

// Close may be called again.
func (r *heldReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.body != nil {
		r.body.done()
		r.body = nil
	}
	return nil
}
