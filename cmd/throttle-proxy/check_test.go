package main

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

func TestCheck(t *testing.T) {
	if testing.Short() {
		t.Skip("starts redis-server")
	}
	store := redistest.Start(t, "--requirepass", canary)
	replica, far := redistest.StartReplicaOf(t, redistest.Start(t)), redistest.NewLink(t, redistest.Start(t).Addr)
	far.Delay(100 * time.Millisecond)
	evicting := redistest.Start(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
	weak := redistest.Start(t, redistest.ACLUser("weak", canary, "~throttle:* -@all +eval +evalsha +script|load +time +get +set +pexpire +del +zadd +zrange +zremrangebyscore +info +hello")...)
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
			"upstream of a: ok\n", "(from REDIS_URL)", "redis redis://" + store.Addr + ": write user and password into the URL", ": WRONGPASS",
		}},
		{"--redis " + replica.URL() + " --register a=" + upstream.URL, exitFailed, []string{": it is a replica, which takes no writes: write the address of the master"}},
		{"--redis redis://weak:CANARY@" + weak.Addr + " --register a=" + upstream.URL, exitFailed, []string{": the user lacks rights: add +pttl +zcard +zscore +zrem, and ~throttle:* for the keys\n"}},
		{"--redis redis://weak:CANARY@" + weak.Addr + "/1 --register a=" + upstream.URL, exitFailed, []string{": the user lacks rights: add +select, and"}},
		{"--redis " + far.URL() + " --register a=" + upstream.URL, exitFailed, []string{": a round trip to the store takes 2", "of the 100ms of --store-timeout: write --store-timeout "}},
		{"--store-timeout 250ms --redis " + far.URL() + " --register a=" + upstream.URL, 0, []string{": ok\n", ": warning: a round trip to the store takes 2"}},
		{"--redis " + evicting.URL() + " --register a=" + upstream.URL, 0, []string{": ok\n", ": warning: maxmemory-policy allkeys-lru may evict", ": warning: it keeps nothing when it restarts"}},
		{"--idempotency 1d --rate 100/s --redis " + evicting.URL() + " --register a=" + upstream.URL, 0, []string{
			"; answers kept 24h by Idempotency-Key",
			": warning: idempotency keys of a do not survive maxmemory-policy allkeys-lru: an evicted key's request is sent again; set noeviction\n",
			": warning: idempotency keys of a do not survive its restart: a repeat is sent again then; set appendonly yes\n",
			": warning: idempotency keys of a are up to 8640000 by rate and time, at least 4120 MiB and 2160000 MiB with the largest answers, of a maxmemory of 100 MiB",
		}},
		{"--redis rediss://" + evicting.Addr + " --register a=" + upstream.URL, exitFailed, []string{"if that port is not one for TLS, write redis in place of rediss"}},
		{"--redis redis://:CANARY@" + nobody + " --register a=" + upstream.URL, exitFailed, []string{
			"upstream of a: ok\n", "redis redis://" + nobody + ": nothing listens there: correct the port, or start it: ", "connection refused\n",
		}},
		{"--register a=http://CANARY:CANARY@" + nobody + "/CANARY --register b=" + upstream.URL, exitFailed, []string{
			"upstream of a: connection_refused: nothing listens there: correct the port, or start it\n", "upstream of b: ok\n",
		}},
		{"--redis redis://:CANARY@nowhere.invalid:6379 --register a=" + upstream.URL, exitFailed, []string{"redis redis://nowhere.invalid:6379: the host is not known here: correct the URL"}},
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
