package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
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
	basic, _ := documentedRights(t)
	unheard := redistest.Start(t, redistest.ACLUser("unheard", canary, "-@all "+basic)...)
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
		{"--redis redis://weak:CANARY@" + weak.Addr + " --register a=" + upstream.URL, exitFailed, []string{": the user lacks rights: add +pttl +zcard +zscore +zrem\n"}},
		{"--redis redis://weak:CANARY@" + weak.Addr + "/1 --register a=" + upstream.URL, exitFailed, []string{": the user lacks rights: add +select\n"}},
		{"--redis redis://unheard:CANARY@" + unheard.Addr + " --register a=" + upstream.URL, 0, []string{": ok\n"}}, // it shares nothing
		{"--on-duplicate join --redis redis://unheard:CANARY@" + unheard.Addr + " --register a=" + upstream.URL, exitFailed, []string{
			": the user lacks rights: add +ping +publish +subscribe\n",
		}},
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

// documentedRights returns what docs/redis.md says that a user of Redis needs, and
// what where answers are shared besides.
func documentedRights(t *testing.T) (basic, sharing string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)`(~throttle:[^`]*)`.*`(&throttle:[^`]*)`").FindSubmatch(page)
	if found == nil {
		t.Fatal("docs/redis.md does not say what an ACL user needs")
	}
	return string(found[1]), string(found[2])
}

// Each right that is documented is named where it alone is missing, and in a Cluster
// where but the master of one route misses it.
func TestCheckNamesEachMissingRight(t *testing.T) {
	if testing.Short() {
		t.Skip("starts redis-server")
	}
	upstream := httptest.NewServer(http.NotFoundHandler())
	defer upstream.Close()
	basic, sharing := documentedRights(t)
	give := func(server *redistest.Server, rights []string) {
		t.Helper()
		args := []any{"acl", "setuser", "proxy", "reset", "on", ">" + canary}
		for _, right := range rights {
			args = append(args, right)
		}
		if err := server.Client().Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	without := func(rights []string, one string) []string {
		return slices.DeleteFunc(slices.Clone(rights), func(right string) bool { return right == one })
	}
	check := func(url, missing, at, routes string) {
		t.Helper()
		want, status := ": the user lacks rights"+at+": add "+missing+"\n", exitFailed
		if missing == "" {
			want, status = ": ok\n", 0
		}
		got, stdout, _ := execute("check --on-duplicate fresh --redis " + url + routes)
		_, said, _ := strings.Cut(stdout, "\nredis ")
		if got != status || !strings.Contains(said, want) {
			t.Errorf("without %q: got status %d and %q, want %d and %q", missing, got, said, status, want)
		}
	}

	server := redistest.Start(t)
	url := "redis://proxy:CANARY@" + server.Addr
	rights := strings.Fields(basic + " " + sharing)
	give(server, rights)
	check(url, "", "", " --register a="+upstream.URL)
	for _, right := range rights {
		if right == "+hello" {
			continue // an older protocol is spoken then
		}
		give(server, without(rights, right))
		check(url, right, "", " --register a="+upstream.URL)
	}

	nodes := redistest.StartCluster(t)
	routes := ""
	for i, name := range []string{"a", "b", "c"} { // in the order in which they are asked
		for suffix := 0; nodes.Owner("{"+name+"}") != i; suffix++ {
			name = fmt.Sprint(name[:1], suffix)
		}
		routes += " --register " + name + "=" + upstream.URL
	}
	url = strings.Replace(nodes.URL(), "://", "://proxy:CANARY@", 1)
	rights = append(without(without(rights, "+publish"), "+subscribe"), "+spublish", "+ssubscribe", "+cluster|slots", "+command")
	for _, node := range nodes.Nodes {
		give(node, rights)
	}
	check(url, "", "", routes)
	last := nodes.Nodes[2]
	for _, right := range []string{"+spublish", "+ssubscribe", "&throttle:2:*", "~throttle:*", "+zscore", "+script|load", "+time", "+ping"} {
		give(last, without(rights, right))
		check(url, right, " on "+last.Addr, routes)
	}
}
