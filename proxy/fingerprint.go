package proxy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"io"
	"net/http"
	"net/url"

	"throttle-proxy/cluster"
)

// fingerprint is the SHA-256 of what makes two requests of a route the same.
// Each part is preceded by its length and each list by its count, so that no
// two different requests are hashed alike.
func (rt *route) fingerprint(r *http.Request, target *url.URL, body []byte) *cluster.Fingerprint {
	h := hasher{sha256.New()}
	h.part(rt.Name)
	h.part(r.Method)
	h.part(target.EscapedPath())
	h.part(target.RawQuery)
	for _, name := range rt.headers {
		h.list(r.Header[name])
	}
	h.length(len(body))
	h.Write(body)
	var sum cluster.Fingerprint
	h.Sum(sum[:0])
	return &sum
}

// digest names a caller in the store without telling who it is: half of a
// SHA-256, as hex.
func digest(values ...string) string {
	h := hasher{sha256.New()}
	h.list(values)
	return hex.EncodeToString(h.Sum(nil)[:sha256.Size/2])
}

type hasher struct{ hash.Hash }

func (h hasher) length(n int) {
	var prefix [8]byte
	binary.BigEndian.PutUint64(prefix[:], uint64(n))
	h.Write(prefix[:])
}

func (h hasher) part(s string) {
	h.length(len(s))
	_, _ = io.WriteString(h, s)
}

func (h hasher) list(values []string) {
	h.length(len(values))
	for _, v := range values {
		h.part(v)
	}
}
