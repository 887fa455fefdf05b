package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

var patient = Options{Timeout: time.Minute, AnswerIdle: time.Minute, KeepAlive: KeepAlive{Idle: time.Minute}}

// held returns a request whose body is in memory.
func held(method, target, body string) *Request {
	r := &Request{Method: method, Target: target, Header: http.Header{}, Length: int64(len(body))}
	if body != "" {
		r.Held = inMemory(body)
	}
	return r
}

// inMemory is a body that is.
type inMemory string

func (b inMemory) Open() io.ReadCloser { return io.NopCloser(strings.NewReader(string(b))) }
func (b inMemory) Parts() [][]byte     { return [][]byte{[]byte(b)} }

// way is one through a Client to an upstream.
type way struct {
	scheme, body string
	streams      bool
}

var ways = map[string]way{
	"direct":        {scheme: "http"},
	"direct, large": {scheme: "http", body: strings.Repeat("b", bufferedBody+1)},
	"transport":     {scheme: "http", body: "body", streams: true},
	"http2":         {scheme: "h2c", body: "body"},
}

// post returns a request that goes this way.
func (w way) post(target string) *Request {
	r := held(http.MethodPost, target, w.body)
	if w.streams {
		r.Held, r.Stream = nil, r.Held.Open()
	}
	return r
}

// send says what becomes of req: the status and body of its answer, or the
// failure.
func send(t *testing.T, c *Client, req *Request) string {
	t.Helper()
	life := new(Life)
	defer life.End(context.Canceled)
	answer, err := c.Send(life, req)
	if err != nil {
		return outcome(t, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return outcome(t, err)
	}
	return strings.TrimSpace(fmt.Sprint(answer.StatusCode, " ", string(body)))
}

var kinds = map[Kind]string{Refused: "refused", TimedOut: "timed out", Closed: "closed", Ended: "ended"}

func outcome(t *testing.T, err error) string {
	t.Helper()
	failure := (*Failure)(nil)
	if !errors.As(err, &failure) {
		t.Fatalf("got the error %v, want a failure", err)
	}
	s := kinds[failure.Kind] + ": " + failure.Fault
	if failure.Sent {
		s += ", sent"
	}
	return s
}

func wantOutcome(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
