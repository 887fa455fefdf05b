package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// What try says is one line, and its exit status whether the upstream took it.
func TestTry(t *testing.T) {
	var sent, answer string
	status := http.StatusOK
	header := http.Header{}
	replica := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sent = r.Method + " " + r.URL.Path + " " + r.Header.Get("Content-Type") + " " + string(body)
		for name, values := range header {
			w.Header()[name] = values
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	defer replica.Close()
	_, port, _ := net.SplitHostPort(replica.Listener.Addr().String())
	ours := http.Header{"Proxy-Status": {"throttle-proxy; error=http_request_denied"}, "Retry-After": {"3"}}
	dead := http.Header{"Proxy-Status": {"throttle-proxy; error=connection_refused"}}
	const limited = `{"reason":"limited","detail":"The budget is spent. This request was not sent."}`
	for _, test := range []struct {
		name, answer string
		status, exit int
		header       http.Header
		want         string
	}{
		{"the upstream's", "ok\n", 200, 0, nil, ": the upstream answered: ok\n"},
		{"nothing", "", 204, 0, nil, ": the upstream answered, with nothing in it\n"},
		{"no text for a terminal", "a\x1b[31m\r\n b", 200, 0, nil, ": the upstream answered: a [31m b\n"},
		{"a refusal of the upstream's", limited, 429, exitFailed, http.Header{"Retry-After": {"3"}}, ": the upstream answered: {"},
		{"a refusal of ours", limited, 429, exitFailed, ours, ": throttle-proxy refused it (limited): The budget is spent. This request was not sent. Come back in 3s.\n"},
		{"an upstream that is not there", `{"reason":"upstream-refused","detail":"It was not sent."}`, 502, exitFailed, dead,
			": throttle-proxy refused it (upstream-refused): It was not sent. connection_refused: nothing listens there: correct the port, or start it.\n"},
	} {
		status, answer, header = test.status, test.answer, test.header
		exit, stdout, stderr := execute("try slack --port " + port)
		if exit != test.exit || (stderr == "") != (exit == 0) || !strings.Contains(stdout, test.want) || strings.Count(stdout, "\n") != 1 {
			t.Errorf("%s: got status %d, %q and %q, want %d and %q", test.name, exit, stdout, stderr, test.exit, test.want)
		}
	}
	if want := `POST /slack application/json {"text":"hello from throttle-proxy"}`; sent != want {
		t.Errorf("got %s, want %s", sent, want)
	}
	execute("PORT=" + port + " try api --data {}")
	if want := "POST /api application/json {}"; sent != want {
		t.Errorf("got %s, want %s", sent, want)
	}
}

// Fails if a replica that has not answered yet is said to be none.
func TestTryGivesUp(t *testing.T) {
	over := make(chan struct{})
	replica := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-over }))
	defer replica.Close()
	defer close(over)
	command := &tryCommand{Route: "slack", local: local{Listen: replica.Listener.Addr().String()}}
	err := command.send(&process{stdout: io.Discard}, time.Second)
	if want := "no answer within 1s: it may still be waiting for its turn (--wait)"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestTryWithoutAReplica(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	for line, want := range map[string]string{
		"try slack --listen " + address: "throttle-proxy: --listen: no replica answers there: start one with throttle-proxy --register slack=URL",
		"try --listen " + address:       "throttle-proxy: a word is missing: write throttle-proxy try <route> [flags]",
		"try CANARY/x":                  "throttle-proxy: try: write the name of a route, as in throttle-proxy try slack",
	} {
		status, stdout, stderr := execute(line)
		if status == 0 || stdout != "" || !strings.HasPrefix(stderr, want) || strings.Contains(stderr, canary) {
			t.Errorf("%s: got status %d, %q and %q, want %q", line, status, stdout, stderr, want)
		}
	}
}
