package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"throttle-proxy/integration/redistest"
)

func TestCheck(t *testing.T) {
	if testing.Short() {
		t.Skip("starts redis-server")
	}
	store := redistest.Start(t, "--requirepass", canary)
	sent := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("got a request, want none") })
	upstream := httptest.NewServer(sent)
	defer upstream.Close()
	untrusted := httptest.NewUnstartedServer(sent)
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0) // its complaints about the handshake
	untrusted.StartTLS()
	defer untrusted.Close()
	nobody := net.JoinHostPort("127.0.0.1", redistest.FreePort(t))
	for _, test := range []struct {
		line   string
		status int
		stdout []string
	}{
		{"--register a=" + upstream.URL + "/CANARY?CANARY", 0, []string{
			"a  10/s, burst 20; repeats", "store: this process alone", "upstream of a: ok\n",
		}},
		{"--register a=" + upstream.URL + "/CANARY --redis redis://:CANARY@" + store.Addr, 0, []string{
			"upstream of a: ok\n", "store: redis://" + store.Addr + " (from --redis)", "redis redis://" + store.Addr + ": ok\n",
		}},
		{"REDIS_URL=redis://:wrongCANARY@" + store.Addr + " --register a=" + upstream.URL, exitFailed, []string{
			"upstream of a: ok\n", "(from REDIS_URL)", "redis redis://" + store.Addr + ": WRONGPASS",
		}},
		{"--redis redis://:CANARY@" + nobody + " --register a=" + upstream.URL, exitFailed, []string{
			"upstream of a: ok\n", "redis redis://" + nobody + ": ", "connection refused\n",
		}},
		{"--register a=http://CANARY:CANARY@" + nobody + "/CANARY --register b=" + upstream.URL, exitFailed, []string{
			"upstream of a: connection_refused: nothing listens there: correct the port, or start it\n", "upstream of b: ok\n",
		}},
		{"--register a=https://" + upstream.Listener.Addr().String(), exitFailed, []string{"upstream of a: tls_protocol_error: it does not speak TLS: correct the port, or write http\n"}},
		{"--register a=http://nowhere.invalid/CANARY", exitFailed, []string{"upstream of a: dns_error: the host is not known here"}},
		{"--register a=" + untrusted.URL + "/CANARY", exitFailed, []string{"upstream of a: tls_certificate_error: its certificate is not trusted"}},
	} {
		status, stdout, stderr := execute(strings.Replace(test.line, "--", "check --", 1))
		if status != test.status || (stderr == "") != (test.status == 0) {
			t.Errorf("%s: got status %d and %q, want %d", test.line, status, stderr, test.status)
		}
		for _, want := range test.stdout {
			if !strings.Contains(stdout, want) {
				t.Errorf("%s: got %q, want %q in it", test.line, stdout, want)
			}
		}
		if strings.Contains(stdout+stderr, canary) {
			t.Errorf("%s: got %q and %q, want no %s in it", test.line, stdout, stderr, canary)
		}
	}
}
