package proxy

import (
	"io"
	"math"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestGRPCTimeout(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "4m": 4 * time.Millisecond, "5u": 5 * time.Microsecond,
		"6n": 6, "99999999S": 99999999 * time.Second, "99999999H": math.MaxInt64 / time.Hour * time.Hour,
		"": -1, "S": -1, "1": -1, "1s": -1, "-1S": -1, "1.5S": -1, "9999999999S": -1, "100000000n": -1,
	} {
		h := http.Header{"Content-Type": {"application/grpc"}, "Grpc-Timeout": {text}}
		if got, ok := grpcTimeout(h); ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: got %v, %t, want %v", text, got, ok, want)
		}
	}
	if _, ok := grpcTimeout(http.Header{"Grpc-Timeout": {"1S"}}); ok {
		t.Error("a request that is no gRPC call has a timeout")
	}
}

// A call that its upstream ends because its time is over has timed out; one
// that it ends before has not.
func TestCallWhoseTimeIsOver(t *testing.T) {
	for timeout, want := range map[string]string{"1S": "4", "1M": "14", "99999999H": "14"} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, roundTrip(func(req *http.Request) (*http.Response, error) {
				time.Sleep(time.Second)
				return fails(true, io.EOF).RoundTrip(req)
			}))
			res := r.do(request(http.MethodPost, "/hook", "", "Content-Type", "application/grpc", "Grpc-Timeout", timeout))
			if got := res.Header.Get("Grpc-Status"); got != want {
				t.Errorf("timeout %s: got status %s, want %s", timeout, got, want)
			}
		})
	}
}
