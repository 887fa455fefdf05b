package proxy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"throttle-proxy/cluster"
)

// Digest tells replicas whose routes of one name differ. Nobody can read from
// it what they are, and passwords and the values of header fields, which may be
// guessed, are no part of it.
func (r Route) Digest() cluster.Digest {
	policy := r
	policy.Upstream = nil
	// What is written in another order, or another case, is the same.
	policy.DedupeHeaders = nil
	for _, name := range r.DedupeHeaders {
		policy.DedupeHeaders = append(policy.DedupeHeaders, http.CanonicalHeaderKey(name))
	}
	policy.DedupeJSON = slices.Sorted(slices.Values(r.DedupeJSON))
	policy.SetHeaders = nil
	for _, f := range r.SetHeaders {
		policy.SetHeaders = append(policy.SetHeaders, Field{Name: f.Name})
	}
	policy.Limits, policy.Candidates = canonical(r.Limits), canonical(r.Candidates)
	policy.Concurrency = append([]Concurrency(nil), r.Concurrency...)
	for i := range policy.Concurrency {
		by := &policy.Concurrency[i].By
		by.Header = http.CanonicalHeaderKey(by.Header)
	}
	policy.Hosts = slices.Clone(r.Hosts)
	slices.Sort(policy.Hosts)
	slices.Sort(policy.DedupeHeaders)
	slices.SortFunc(policy.SetHeaders, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(policy.Concurrency, func(a, b Concurrency) int { return cmp.Compare(a.Name, b.Name) })
	return cluster.Digest{
		Upstream: r.Upstream.Digest(),
		Policy:   shortDigest(policy),
	}
}

// canonical returns limits in the order of their names.
func canonical(limits []Limit) []Limit {
	limits = append([]Limit(nil), limits...)
	for i := range limits {
		limits[i].By.Header = http.CanonicalHeaderKey(limits[i].By.Header)
	}
	slices.SortFunc(limits, func(a, b Limit) int { return cmp.Compare(a.Name, b.Name) })
	return limits
}

// shortDigest is of all that v exports.
func shortDigest(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, numbers and switches only
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
