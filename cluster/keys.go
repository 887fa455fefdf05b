package cluster

import (
	"strings"

	"throttle-proxy/limiter"
)

// keyFormat is the version of the layout of keys and values in the store. It
// is part of every key, so that replicas of two versions never misread each
// other.
const keyFormat = "2"

// Keys are written after the store's own prefix. The braces are Redis Cluster's
// hash tag: all keys of one ask share a slot.

// appendKey appends the key of c's budget.
func (c Charge) appendKey(b []byte, tag string) []byte {
	b = append(append(appendTag(b, tag), ":rate:"...), c.Name...)
	if c.Caller != "" {
		b = append(append(b, ':'), c.Caller...)
	}
	return b
}

// appendPauseKey appends a cool-down's key. The empty name is the whole tag's.
func appendPauseKey(b []byte, tag, name string) []byte {
	b = append(appendTag(b, tag), ":cool"...)
	if name != "" {
		b = append(append(b, ':'), name...)
	}
	return b
}

func appendTag(b []byte, tag string) []byte {
	return append(append(append(b, '{'), tag...), '}')
}

// tagOf returns the tag of a key.
func tagOf(key string) string {
	tag, _, _ := strings.Cut(strings.TrimPrefix(key, "{"), "}")
	return tag
}

func (c Charge) rateKey(tag string) string {
	var room [128]byte // on the stack: most keys are shorter
	return string(c.appendKey(room[:0], tag))
}

func (a Ask) charges() []limiter.Charge    { return chargesOf(a.Tag, a.Charges) }
func (a Ask) candidates() []limiter.Charge { return chargesOf(a.Tag, a.Candidates) }

func chargesOf(tag string, of []Charge) []limiter.Charge {
	charges := make([]limiter.Charge, len(of))
	for i, c := range of {
		charges[i] = limiter.Charge{Key: c.rateKey(tag), Limit: c.Limit, Wait: c.Wait, ByCaller: c.Caller != ""}
	}
	return charges
}
