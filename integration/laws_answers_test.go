package integration

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"testing"
)

// What is told by each request alone: laws 3, 4 and 6.

// does are what an upstream can be told to do, and the answer that comes of it
// if the request is admitted.
var answersTo = map[string]string{
	plain: "200", dawdles: "200", lingers: "200", chunks: "200",
	fails: "500", cuts: "499 upstream-closed", cutsBody: "200", asksToPause: "429",
}

// refusals are the answers to requests that must not reach the upstream.
var refusals = []string{"409 duplicate", "409 held", "429 limited", "429 busy", "429 cooling-down", "503 undecided",
	"409 not-shareable", "409 outcome-unknown", "409 answer-not-kept", "422 key-reused"}

// Law 3: what was refused has not arrived, what was answered by the upstream
// has once, and nothing has twice. Law 6: the proxy has no other answer.
func (h *history) disagreements() (violations []string) {
	for _, r := range h.requests {
		n, got := len(r.calls), r.answer.String()
		switch {
		case n > 1:
			violations = append(violations, fmt.Sprintf("law 3: request %s arrived %d times", r.nonce, n))
		case r.err != nil: // law 4's
		case slices.Contains(refusals, got):
			if n != 0 {
				violations = append(violations, fmt.Sprintf("law 3: request %s was answered %s, and arrived", r.nonce, got))
			}
		case r.sharesAnswer(): // law 9's
		case r.route == "gone" && got == "502 upstream-refused":
			if n != 0 {
				violations = append(violations, fmt.Sprintf("law 3: request %s could not be sent, and arrived", r.nonce))
			}
		case got != answersTo[r.does]:
			violations = append(violations, fmt.Sprintf("law 6: request %s (%s) was answered %s: %.500s", r.nonce, r.does, got, r.answer.body))
		case n != 1:
			violations = append(violations, fmt.Sprintf("law 3: request %s was answered %s, and has not arrived", r.nonce, got))
		}
	}
	return violations
}

// Law 4: every request is answered once, but for those whose client has left
// or whose replica was killed.
func (h *history) unanswered() (violations []string) {
	for _, r := range h.requests {
		excused := r.abort > 0 || r.does == cutsBody && len(r.calls) == 1 || slices.ContainsFunc(h.faults, func(f fault) bool {
			return f.kind.kills && f.replica == r.replica && f.overlaps(r.sent, r.answered)
		})
		if r.err != nil && !excused {
			violations = append(violations, fmt.Sprintf("law 4: request %s (%s) to replica %d has no answer, status %d, after %s; arrived %d times: %v; %s",
				r.nonce, r.does, r.replica, r.answer.status, r.answered.Sub(r.sent), len(r.calls), r.err, r.line))
		}
		if r.err == nil && r.does == cutsBody && r.answer.status == http.StatusOK && !r.sharesAnswer() {
			violations = append(violations, fmt.Sprintf("law 4: request %s has the half of an answer as a whole one", r.nonce))
		}
		killed := slices.ContainsFunc(h.faults, func(f fault) bool { // before it could
			return f.kind.kills && f.replica == r.replica && r.sent.Before(f.end)
		})
		if r.logged > 1 || r.logged == 0 && !excused && !killed {
			violations = append(violations, fmt.Sprintf("law 4: request %s was logged %d times", r.nonce, r.logged))
		}
	}
	return violations
}

// Law 6: the route says what is decided without the store.
func (h *history) wrongPolicies() (violations []string) {
	for _, r := range h.requests {
		closed := slices.Contains(h.closed, r.route)
		if closed && r.alone && len(r.calls) > 0 {
			violations = append(violations, fmt.Sprintf("law 6: request %s was forwarded without a verdict", r.nonce))
		}
		if !closed && r.answer.Reason == "undecided" {
			violations = append(violations, fmt.Sprintf("law 6: request %s was left undecided", r.nonce))
		}
	}
	return violations
}

// The instrument: an exchange ends when its connection does, whether or not
// anybody has read that.
func TestClosedConnectionsAreSeen(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for name, end := range map[string]func(*net.TCPConn){
		"closed": func(conn *net.TCPConn) { _ = conn.Close() },
		"reset":  func(conn *net.TCPConn) { _ = conn.SetLinger(0); _ = conn.Close() },
	} {
		client, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		_, _ = client.Write([]byte("a request"))
		if closed(server) {
			t.Errorf("%s: before the end", name)
		}
		end(client.(*net.TCPConn))
		eventually(t, "it is seen that the connection was "+name, func() bool { return closed(server) })
	}
}
