package proxy

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// isGRPC reports whether a request is a gRPC call.
func isGRPC(h http.Header) bool {
	return strings.HasPrefix(h.Get("Content-Type"), "application/grpc")
}

var grpcUnits = map[byte]time.Duration{
	'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': 1,
}

// grpcTimeout returns how long the caller of a gRPC method waits (its header
// Grpc-Timeout), of at most 8 digits. ok is false if it does not say.
func grpcTimeout(h http.Header) (timeout time.Duration, ok bool) {
	text := h.Get("Grpc-Timeout")
	if text == "" || !isGRPC(h) {
		return 0, false
	}
	last := len(text) - 1
	n, err := strconv.ParseUint(text[:last], 10, 31)
	unit, known := grpcUnits[text[last]]
	if known {
		n = min(n, uint64(math.MaxInt64/unit)) // hours can be more than there is room for
	}
	return time.Duration(n) * unit, err == nil && known && last <= 8
}
