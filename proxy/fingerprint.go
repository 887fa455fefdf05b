package proxy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"net/http"
	"sync"

	"throttle-proxy/cluster"
)

// In place of a body's size, what is compared of it instead of its bytes.
const (
	formBody = -1
	jsonBody = -2
)

// fingerprint is the SHA-256 of what makes two requests of a route the same.
// Each part is preceded by its length and each list by its count, so that no
// two different requests are hashed alike.
func (rt *route) fingerprint(r *http.Request, target string, body *heldBody) *cluster.Fingerprint {
	return rt.compare(r, rt.headers, target, body)
}

// compare is the fingerprint by other fields than the route's.
func (rt *route) compare(r *http.Request, headers []string, target string, body *heldBody) *cluster.Fingerprint {
	h := newHasher()
	h.part(rt.Name)
	h.part(r.Method)
	h.part(target)
	kind, boundary := formOf(r.Header)
	for _, name := range headers {
		if name == "Content-Type" && boundary != "" {
			h.list([]string{kind})
		} else {
			h.list(fieldOf(r, name))
		}
	}
	var sum cluster.Fingerprint
	if boundary != "" {
		h.length(formBody)
		h.parts = body.appendFormSum(h.parts, boundary)
		sum = h.sum()
	} else if text, ok := rt.json.of(r.Header, body); ok {
		h.length(jsonBody)
		sum = h.sum(text)
	} else {
		h.length(int(body.size))
		sum = h.sum(body.chunks...)
	}
	return &sum
}

// digest names a caller in the store without telling who it is: half of a
// SHA-256, as hex.
func digest(values ...string) string {
	h := newHasher()
	h.list(values)
	sum := h.sum()
	return hex.EncodeToString(sum[:sha256.Size/2])
}

// hasher collects short parts, since hashing each by itself costs more.
type hasher struct {
	sha   hash.Hash
	parts []byte
}

var hashers = sync.Pool{New: func() any { return &hasher{sha: sha256.New()} }}

func newHasher() *hasher {
	h := hashers.Get().(*hasher)
	h.parts = h.parts[:0]
	return h
}

func (h *hasher) length(n int) { h.parts = binary.BigEndian.AppendUint64(h.parts, uint64(n)) }

func (h *hasher) part(s string) {
	h.length(len(s))
	h.parts = append(h.parts, s...)
}

func (h *hasher) list(values []string) {
	h.length(len(values))
	for _, v := range values {
		h.part(v)
	}
}

// sum is the hash of the parts and rest. It ends the use of h.
func (h *hasher) sum(rest ...[]byte) (sum [sha256.Size]byte) {
	h.sha.Reset()
	h.sha.Write(h.parts)
	for _, b := range rest {
		h.sha.Write(b)
	}
	h.parts = h.sha.Sum(h.parts[:0])
	copy(sum[:], h.parts)
	if cap(h.parts) > usualParts {
		h.parts = nil
	}
	hashers.Put(h)
	return sum
}

// usualParts is the most that is kept for the next parts, in bytes: who has sent a
// huge field is not to have all others keep the room of it.
const usualParts = 8 << 10
