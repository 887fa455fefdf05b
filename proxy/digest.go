package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"throttle-proxy/cluster"
)

// Digest tells replicas whose routes of one name differ. It keeps the upstream
// and the values of header fields to itself; passwords are no part of it.
func (r Route) Digest() cluster.Digest {
	u := *r.Upstream.url
	u.User = nil
	fields := make([]string, len(r.SetHeaders))
	for i, f := range r.SetHeaders {
		fields[i] = f.Name
	}
	policy := r
	policy.Upstream, policy.SetHeaders = nil, nil
	return cluster.Digest{
		Upstream: shortDigest(fmt.Sprint(u.String(), r.Upstream.h2c)),
		Policy:   shortDigest(fmt.Sprintf("%+v %q", policy, fields)),
	}
}

func shortDigest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}
