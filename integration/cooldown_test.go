package integration

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// An upstream that asks for a pause gets it, from every replica.

const pauses = doesField + ": pause"

// pausing is an upstream that answers requests which pauses by a status and
// fields.
func pausing(t *testing.T, status int, fields ...string) *upstream {
	u := newUpstream(t)
	u.does["pause"] = func(w http.ResponseWriter, _ *http.Request) {
		for _, field := range append(fields, "X-Own: a", "X-Own: b", "Content-Type: text/x-own") {
			name, value, _ := strings.Cut(field, ": ")
			w.Header().Add(name, value)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "its own words")
	}
	return u
}
