package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
	"throttle-proxy/proxy"
	"throttle-proxy/proxy/upstream"
)

func TestDefaults(t *testing.T) {
	got := parse(t, "--register api=https://api.example.com/v1")
	host, _ := os.Hostname()
	want := &config{
		network: "tcp", listenFlag: "--port",
		address: ":44444",
		routes: []proxy.Route{{
			Name:     "api",
			Upstream: got.routes[0].Upstream,
			Limits:   []proxy.Limit{{Name: "api", Limit: limiter.Limit{Rate: 10, Period: time.Second, Burst: 20}}},
			Dedupe:   proxy.DedupeOn,
			DedupeHeaders: []string{"Authorization", "Cookie", "X-Api-Key", "Api-Key", "Idempotency-Key", "X-Idempotency-Key",
				"Content-Range", "Upload-Offset", "Range", "If-Match", "If-None-Match", "SOAPAction", "X-HTTP-Method-Override"},
			Hold:        defaultHold,
			OnDuplicate: proxy.Refuse, DuplicateStatus: 409,
			Timeout:       time.Minute,
			ClosedStatus:  499,
			ClientGone:    proxy.Finish,
			AnswerIdle:    5 * time.Minute,
			Forwarded:     true,
			WhenUndecided: cluster.Local,
			CoolDown:      proxy.CoolDown{Longest: 5 * time.Minute},
			KeepAlive:     upstream.KeepAlive{Idle: 90 * time.Second, Age: 5 * time.Minute},
		}},
		maxBody:       10 << 20,
		bodyMemory:    256 << 20,
		maxInFlight:   10000,
		headerTimeout: 10 * time.Second,
		bodyIdle:      30 * time.Second,
		writeIdle:     time.Minute,
		redisPrefix:   "throttle",
		shared:        map[string][]proxy.Limit{},
		tried:         map[string][]proxy.Limit{},
		atOnce:        map[string][]proxy.Concurrency{},
		storeTimeout:  100 * time.Millisecond,
		lockTTL:       5 * time.Second,
		replicas:      1,
		pipeline:      true,
		drainTimeout:  25 * time.Second,
		replica:       host,
		logLevel:      slog.LevelInfo,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestFlagsOfTheReplica(t *testing.T) {
	for _, test := range []struct {
		line string
		of   func(*config) any
		want any
	}{
		{"--port 0", listens, "tcp :0"},
		{"--port 8080", listens, "tcp :8080"},
		{"PORT=8080 --listen :8081", listens, "tcp :8081"},
		{"PORT=8080 THROTTLE_PROXY_LISTEN=:8081", listens, "tcp :8081"},
		{"THROTTLE_PROXY_LISTEN=:8081 --port 8080", listens, "tcp :8080"},
		{"--listen 127.0.0.1:0", listens, "tcp 127.0.0.1:0"},
		{"--listen [::1]:80", listens, "tcp [::1]:80"},
		{"--listen localhost:80", listens, "tcp localhost:80"},
		{"--listen unix:/run/proxy.sock", listens, "unix /run/proxy.sock"},
		{"--listen unix:proxy.sock", listens, "unix proxy.sock"},
		{"THROTTLE_PROXY_LISTEN=:8081", listens, "tcp :8081"},

		{"--max-body 1", func(c *config) any { return c.maxBody }, int64(1)},
		{"--max-body 64KiB", func(c *config) any { return c.maxBody }, int64(64 << 10)},
		{"--max-body 1␣MB", func(c *config) any { return c.maxBody }, int64(1e6)},
		{"--trusted-proxy 10.1.2.3/8 --trusted-proxy ::1 --trusted-proxy unix", func(c *config) any { return c.trust }, trust("10.0.0.0/8", "::1/128", "unix")},
		{"THROTTLE_PROXY_TRUSTED_PROXY=10.0.0.0/8␣unix", func(c *config) any { return c.trust }, trust("10.0.0.0/8", "unix")},
		{"--trusted-proxy 10.0.0.0/8,header=cf-connecting-ip --trusted-proxy fe80::1%eth0 --trusted-proxy unix,header=Forwarded", func(c *config) any { return c.trust }, trust("10.0.0.0/8 Cf-Connecting-Ip", "fe80::1/128", "unix Forwarded")},
		{"--redis-pipeline off", func(c *config) any { return c.pipeline }, false},
		{"--admin off", func(c *config) any { return len(c.admins) }, 0},
		{"--admin 127.0.0.1:9090", func(c *config) any { return fmt.Sprint(c.admins) }, "[{tcp 127.0.0.1:9090}]"},
		{"--admin unix:/run/admin.sock", func(c *config) any { return fmt.Sprint(c.admins) }, "[{unix /run/admin.sock}]"},
		{"--admin :9090 --admin unix:/run/admin.sock", func(c *config) any { return fmt.Sprint(c.admins) }, "[{tcp :9090} {unix /run/admin.sock}]"},
		{"--replicas 3", func(c *config) any { return c.replicas }, 3},
		{"--max-cool-down 2d", func(c *config) any { return c.routes[0].CoolDown.Longest }, 48 * time.Hour},
		{"--drain-delay 1d", drains, "24h0m0s 25s"},
		{"--drain-delay 2days --drain-timeout 5minutes", drains, "48h0m0s 5m0s"},
		{"--drain-delay 1hr --drain-timeout 30sec", drains, "1h0m0s 30s"},
		{"--max-body 10", func(c *config) any { return strings.Join(c.warnings, "; ") }, "--max-body: 10 is a number of bytes: write 10MiB if that is meant"},
		{"--trusted-proxy ::/0 --trusted-proxy 10.0.0.0/8 --trusted-proxy unix", func(c *config) any { return strings.Join(c.warnings, "; ") }, "--trusted-proxy: ::/0 is everybody, and each client can say that it is another: write the network of the proxies in front"},
		{"--wait a=1s --rate off", func(c *config) any { return strings.Join(c.warnings, "; ") }, "--wait: a has no limit that it could wait for: write --rate a=N/PERIOD or --concurrency a=N"},
		{"--wait 1s --rate off", func(c *config) any { return c.warnings }, []string(nil)},
		{"--wait a=off --rate off", func(c *config) any { return c.warnings }, []string(nil)},
		{"--wait a=1s --rate off --concurrency 5", func(c *config) any { return c.warnings }, []string(nil)},
		{"--max-body 10240", func(c *config) any { return c.warnings }, []string(nil)},
		{"--max-cool-down 1m", func(c *config) any { return c.routes[0].CoolDown.Longest }, time.Minute},
		{"--store-timeout 50ms --lock-ttl 500ms", func(c *config) any { return c.storeTimeout + c.lockTTL }, 550 * time.Millisecond},
		{"--drain-delay 0s --drain-timeout 1ms", drains, "0s 1ms"},
		{"THROTTLE_PROXY_DRAIN_DELAY=5s THROTTLE_PROXY_DRAIN_TIMEOUT=1m", drains, "5s 1m0s"},
		{"THROTTLE_PROXY_DRAIN_DELAY=5s THROTTLE_PROXY_DRAIN_TIMEOUT=1m --drain-delay 6s --drain-timeout 2m", drains, "6s 2m0s"},
		{"--replica-name a", func(c *config) any { return c.replica }, "a"},
		{"--log-format json", func(c *config) any { return c.logFormat }, "json"},
		{"--log-level DEBUG", func(c *config) any { return c.logLevel }, slog.LevelDebug},

		{"--redis none", storeOf, ""},
		{"REDIS_URL=redis://a --redis none", storeOf, ""},
		{"--redis redis://a/2 --redis-prefix team:x", storeOf, "redis://a/2  team:x"},
		{"--redis redis://user:CANARY@a:1", storeOf, "redis://a:1  throttle"},
		{"--redis unix://:CANARY@/run/redis.sock?db=2", storeOf, "unix:///run/redis.sock  throttle"},
		{"--redis rediss+sentinel://user:CANARY@a,b:1/2?master_name=m&sentinel_password=CANARY", storeOf, "rediss+sentinel://a,b:1/2  throttle"},
		{"--redis redis+cluster://:CANARY@a,b", storeOf, "redis+cluster://a,b  throttle"},
		{"REDIS_URL=redis://:CANARY@a", storeOf, "redis://a REDIS_URL throttle"},
		{"THROTTLE_PROXY_REDIS=redis://b REDIS_URL=redis://a", storeOf, "redis://b THROTTLE_PROXY_REDIS throttle"},
		{"REDIS_URL=redis://a --redis redis://b", storeOf, "redis://b  throttle"},
		{"CACHE=␣redis://:CANARY@a␣ --redis env:CACHE", storeOf, "redis://a  throttle"},
	} {
		c := parse(t, test.line+" --register a=http://host")
		if got := test.of(c); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.line, got, test.want)
		}
	}
}

func listens(c *config) any { return c.network + " " + c.address }

func drains(c *config) any { return fmt.Sprintf("%s %s", c.drainDelay, c.drainTimeout) }

func storeOf(c *config) any {
	if c.endpoint == nil {
		return ""
	}
	return c.redisAddress + " " + c.redisSource + " " + c.redisPrefix
}

func trust(prefixes ...string) (t proxy.Trust) {
	for _, p := range prefixes {
		network, header, _ := strings.Cut(p, " ")
		trusted := proxy.TrustedProxy{Header: header}
		if network != "unix" {
			trusted.Prefix = netip.MustParsePrefix(network)
		}
		t = append(t, trusted)
	}
	return t
}

func TestPolicyOfARouteReplacesTheDefault(t *testing.T) {
	tested := []string{"rate"} // has a test of its own
	for _, test := range []struct {
		flag, all, own string
		of             func(proxy.Route) any
		wantA, wantB   any // b has a value of its own
	}{
		{"dedupe", "all", "key", func(r proxy.Route) any { return r.Dedupe }, proxy.DedupeAll, proxy.DedupeKey},
		{"dedupe-header", "X-User,Cookie", "none", func(r proxy.Route) any { return r.DedupeHeaders }, []string{"X-User", "Cookie"}, []string(nil)},
		{"dedupe-json", "$.event.id,-$.event.sent", "none", func(r proxy.Route) any { return r.DedupeJSON }, []string{"$.event.id", "-$.event.sent"}, []string(nil)},
		{"wait", "3s", "off", func(r proxy.Route) any { return r.Wait }, 3 * time.Second, time.Duration(0)},
		{"on-duplicate", "join", "refuse", func(r proxy.Route) any { return r.OnDuplicate }, proxy.Join, proxy.Refuse},
		{"on-duplicate", "fresh", "join", func(r proxy.Route) any { return r.OnDuplicate }, proxy.Fresh, proxy.Join},
		{"idempotency", "24h", "1d,required,by=header:x-tenant", func(r proxy.Route) any { return r.Idempotency }, proxy.Idempotency{Keep: 24 * time.Hour}, proxy.Idempotency{Keep: 24 * time.Hour, Required: true, By: proxy.By{Header: "X-Tenant"}}},
		{"idempotency", "1m", "off", func(r proxy.Route) any { return r.Idempotency.Keep }, time.Minute, time.Duration(0)},
		{"concurrency", "5,by=client", "off", func(r proxy.Route) any { return len(r.Concurrency) }, 1, 0},
		{"hold", "0s", "1m30s", func(r proxy.Route) any { return r.Hold }, proxy.Hold{Unknown: time.Minute}, proxy.Hold{Success: 90 * time.Second, Unknown: time.Minute}},
		{"hold", "0s,unknown=5m", "unknown=0s", func(r proxy.Route) any { return r.Hold }, proxy.Hold{Unknown: 5 * time.Minute}, proxy.Hold{Success: time.Second}},
		{"hold", "2s,unknown=1d", "3s", func(r proxy.Route) any { return r.Hold }, proxy.Hold{Success: 2 * time.Second, Unknown: 24 * time.Hour}, proxy.Hold{Success: 3 * time.Second, Unknown: time.Minute}},
		{"duplicate-status", "425", "503", func(r proxy.Route) any { return r.DuplicateStatus }, 425, 503},
		{"duplicate-status", "200", "299", func(r proxy.Route) any { return r.DuplicateStatus }, 200, 299},
		{"timeout", "1s", "2m", func(r proxy.Route) any { return r.Timeout }, time.Second, 2 * time.Minute},
		{"client-gone", "cancel", "finish", func(r proxy.Route) any { return r.ClientGone }, proxy.Cancel, proxy.Finish},
		{"upstream-closed-status", "502", "599", func(r proxy.Route) any { return r.ClosedStatus }, 502, 599},
		{"answer-idle", "1s", "2m", func(r proxy.Route) any { return r.AnswerIdle }, time.Second, 2 * time.Minute},
		{"forwarded", "off", "on", func(r proxy.Route) any { return r.Forwarded }, false, true},
		{"pass-host", "on", "off", func(r proxy.Route) any { return r.PassHost }, true, false},
		{"allow-private", "on", "off", func(r proxy.Route) any { return r.AllowPrivate }, true, false},
		{"upstream-tls", "server-name=a.example", "server-name=b.example", func(r proxy.Route) any { return r.TLS.ServerName }, "a.example", "b.example"},
		{"upstream-keepalive", "off", "2m,age=1d", func(r proxy.Route) any { return r.KeepAlive }, upstream.KeepAlive{}, upstream.KeepAlive{Idle: 2 * time.Minute, Age: 24 * time.Hour}},
		{"set-header", "X-A=1", "X-B=2", func(r proxy.Route) any { return len(r.SetHeaders) }, 1, 1},
		{"when-undecided", "open", "closed", func(r proxy.Route) any { return r.WhenUndecided }, cluster.Open, cluster.Closed},
		{"cool-down", "off", "on", func(r proxy.Route) any { return r.CoolDown }, proxy.CoolDown{}, proxy.CoolDown{Longest: 5 * time.Minute}},
		{"cool-down", "learn", "on", func(r proxy.Route) any { return r.CoolDown }, proxy.CoolDown{Longest: 5 * time.Minute, Learn: true}, proxy.CoolDown{Longest: 5 * time.Minute}},
		{"shadow", "on", "off", func(r proxy.Route) any { return r.Shadow }, true, false},
	} {
		tested = append(tested, test.flag)
		flag := " --" + test.flag + " "
		variable := variableOf(test.flag) + "=" + test.all + "␣b=" + test.own
		for _, line := range []string{
			flag + test.all + flag + "b=" + test.own,
			flag + "b=" + test.own + flag + test.all,
			variable,
		} {
			c := parse(t, line+" --register a=http://a --register b=http://b")
			if gotA, gotB := test.of(c.routes[0]), test.of(c.routes[1]); !reflect.DeepEqual(gotA, test.wantA) || !reflect.DeepEqual(gotB, test.wantB) {
				t.Errorf("%s: got %v and %v, want %v and %v", line, gotA, gotB, test.wantA, test.wantB)
			}
		}
	}
	for _, flag := range flagsOf(t, "serve") {
		if strings.HasPrefix(flag.PlaceHolder, "[R=]") && !slices.Contains(tested, flag.Name) {
			t.Errorf("--%s is not tested here", flag.Name)
		}
	}
}

func TestRates(t *testing.T) {
	const slackToo = "--register slack=https://hooks.slack.com/services/CANARY --register api=http://host "
	for _, test := range []struct{ line, want string }{
		{slackToo, "slack: slack 1/s,burst=5; api: api 10/s,burst=20"},
		{slackToo + "--rate slack=2/s", "slack: slack 2/s; api: api 10/s,burst=20"},
		{slackToo + "--rate api=2/s", "slack: slack 1/s,burst=5; api: api 2/s"},
		{slackToo + "--rate 2/s", "slack: slack 2/s; api: api 2/s"},
		{slackToo + "--rate 2/s --rate slack=3/s", "slack: slack 3/s; api: api 2/s"},
		{slackToo + "--rate off", "slack:; api:"},
		{slackToo + "--rate off --rate api=2/s", "slack:; api: api 2/s"},
		{slackToo + "--rate 2/s --rate api=off", "slack: slack 2/s; api:"},
		{"--register a=http://host --rate 10/s --rate 100/90s,burst=20 --rate 1000/24h", "a: a 10/s a-2 100/1m30s,burst=20 a-3 1000/d"},
		{"--register a=http://host --rate a=10/s,name=x --rate a=9/m", "a: x 10/s a-2 9/m"},
		{"THROTTLE_PROXY_RATE=10/s,burst=20␣a=9/h,burst=2 --register a=http://host", "a: a 9/h,burst=2"},
		{"--register a=http://host --rate 10/s,by=client,burst=3 --rate 5/s,name=key,by=header:X-Key", "a: a 10/s,burst=3 by client key 5/s by header:X-Key"},
		{"--register a=http://host --rate 1/s,by=client/56 --rate 2/s,by=client/64,name=b --rate 3/s,by=header:host,name=c", "a: a 1/s by client/56 b 2/s by client c 3/s by header:Host"},
		{pooled + "--rate p=7/s", "a in p: a 10/s,burst=20 p 7/s; b in p: b 10/s,burst=20 p 7/s"},
		{pooled + "--rate p=7/s --rate p=70/m,burst=7 --rate off", "a in p: p 7/s p-2 70/m,burst=7; b in p: p 7/s p-2 70/m,burst=7"},
		{pooled + "--rate p=7/s,name=both --rate 1/s --rate b=2/s", "a in p: a 1/s both 7/s; b in p: b 2/s both 7/s"},
		{pooled + "--register c=http://c --rate p=7/s --rate off", "a in p: p 7/s; b in p: p 7/s; c:"},
		{"--register a=http://a --rate 5/sec --rate 50/min,burst=5 --rate a=500/hour,name=x --rate a=5000/day", "a: x 500/h a-2 5000/d"},
		{"--register a=http://a --rate 5/sec --rate 50/min,burst=5", "a: a 5/s a-2 50/m,burst=5"},
		{"--register a=http://a --rate 100/m,strict --rate 9/s,burst=3,strict,by=client", "a: a 100/m,strict a-2 9/s,burst=3,strict by client"},
		{"--register a=http://a --rate 5/s,candidate", "a: a 10/s,burst=20 candidate a-candidate 5/s"},
		{"--register a=http://a --register b=http://b --rate 9/s --rate a=5/s,candidate --rate a=5/m,by=client,candidate,name=x", "a: a 9/s candidate a-candidate 5/s candidate x 5/m by client; b: b 9/s"},
		{pooled + "--rate p=7/s --rate p=3/s,candidate --rate off", "a in p: p 7/s candidate p-candidate 3/s; b in p: p 7/s candidate p-candidate 3/s"},
		{"--register a=http://a --rate off --concurrency 5 --concurrency 2,by=client", "a: at once a-concurrency 5 at once a-concurrency-2 2 by client"},
		{"--register a=http://a --register b=http://b --rate off --concurrency 5,name=x --concurrency a=off", "a:; b: at once x 5"},
		{pooled + "--rate p=7/s --rate off --concurrency p=5 --concurrency a=2", "a in p: p 7/s at once a-concurrency 2 at once p-concurrency 5; b in p: p 7/s at once p-concurrency 5"},
		{"--register a=http://a --rate 5/seconds --rate 50/minutes --rate 500/hrs --rate 5000/days", "a: a 5/s a-2 50/m a-3 500/h a-4 5000/d"},
		{"--register a=http://a --rate 5/30sec --rate 50/10minutes,burst=5 --rate 500/7d --rate 600/2days", "a: a 5/30s a-2 50/10m,burst=5 a-3 500/168h a-4 600/48h"},
		// Budgets of one name are two where no pool brings them together.
		{"--register a=http://a --register b=http://b --rate 1/s,name=each", "a: each 1/s; b: each 1/s"},
	} {
		if got := budgetsOf(parse(t, test.line)); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.line, got, test.want)
		}
	}
}

// budgets lists the routes with the names and values of their limits.
func budgetsOf(c *config) string {
	var routes []string
	for _, r := range c.routes {
		text := r.Name
		if r.Pool != "" {
			text += " in " + r.Pool
		}
		text += ":"
		limit := func(before, name, is string, by proxy.By) {
			text += before + " " + name + " " + is
			if by != (proxy.By{}) {
				text += " by " + by.String()
			}
		}
		for _, l := range r.Limits {
			limit("", l.Name, l.String(), l.By)
		}
		for _, l := range r.Candidates {
			limit(" candidate", l.Name, l.String(), l.By)
		}
		for _, l := range r.Concurrency {
			limit(" at once", l.Name, fmt.Sprint(l.Most), l.By)
		}
		routes = append(routes, text)
	}
	return strings.Join(routes, "; ")
}

func TestUpstreamURLs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webhook")
	if err := os.WriteFile(path, []byte("\nhttps://host/CANARY\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ line, want string }{
		{"--register a=http://host", "a http host 80"},
		{"--register a=https://host:8443/a,b?c=d&e=f", "a https host 8443"},
		{"--register a=h2c://host:50051", "a http host 50051"},
		{"--register a=https://user:CANARY@host/CANARY?CANARY", "a https host 443"},
		{"--register a=https://[::1]/", "a https ::1 443"},
		{"--register a=https://bücher.example/", "a https bücher.example 443"},
		{"--register 0._-=http://host", "0._- http host 80"},
		{"WEBHOOK_URL=␣https://host/CANARY␣ --register a=env:WEBHOOK_URL", "a https host 443 secret"},
		{"--register a=file:" + path, "a https host 443 secret"},
		{"THROTTLE_PROXY_REGISTER=a=http://host␣b=env:B B=https://b/ serve", "a http host 80, b https b 443 secret"},
		{"THROTTLE_PROXY_REGISTER=a=http://host --register b=http://b", "b http b 80"},
	} {
		var got []string
		for _, r := range parse(t, test.line).routes {
			scheme, host, port := r.Upstream.Address()
			words := []string{r.Name, scheme, host, port}
			if r.SecretURL {
				words = append(words, "secret")
			}
			got = append(got, strings.Join(words, " "))
		}
		if got := strings.Join(got, ", "); got != test.want {
			t.Errorf("%s: got %s, want %s", test.line, got, test.want)
		}
	}
}

func TestHosts(t *testing.T) {
	const two = "--register a=http://a --register b=https://*.example.com "
	for _, test := range []struct{ line, want string }{
		{two + "--host a=A.Example.Com. --host b=*.example.com.proxy", "a a.example.com; b *.example.com.proxy"},
		{two + "--host a=x,*.y,x --host a=* --host b=*.z", "a x *.y *; b *.z"},
		{two + "--host a=127.0.0.1,[::1],::2,my_service --host b=*.z", "a 127.0.0.1 ::1 ::2 my_service; b *.z"},
		{two + "--host a=bücher.example,*.Bücher.example --host b=*.z", "a xn--bcher-kva.example *.xn--bcher-kva.example; b *.z"},
		{"THROTTLE_PROXY_HOST=a=x␣b=*.z " + two, "a x; b *.z"},
	} {
		var got []string
		for _, r := range parse(t, test.line).routes {
			got = append(got, r.Name+" "+strings.Join(r.Hosts, " "))
		}
		if got := strings.Join(got, "; "); got != test.want {
			t.Errorf("%s: got %s, want %s", test.line, got, test.want)
		}
	}
}

// TestStartLinesSayWhereRequestsGo, and nothing more of a URL than was there
// before.
func TestStartLinesSayWhereRequestsGo(t *testing.T) {
	const kept = "a  no limit; repeats are forwarded"
	for flags, want := range map[string]string{
		"--register a=http://host":                                             "",
		"--register a=http://host --host a=a.example.com,*.b.example.com":      "; hosts a.example.com, *.b.example.com",
		"--register a=http://host --host a=*":                                  "; hosts * (whatever names no other route)",
		"--register a=https://*.example.com --host a=*.z":                      "; hosts *.z, forwarded by name, to public addresses alone",
		"--register a=https://*.example.com --host a=*.z --allow-private a=on": "; hosts *.z, forwarded by name, to private addresses too",
		"--register a=http://host --pass-host on --upstream-keepalive off":     "; the client's Host is passed on; a connection for each request",
	} {
		if got := parse(t, flags+" --rate off --dedupe off").describe()[0]; got != kept+want {
			t.Errorf("%s: got %q, want %q", flags, got, kept+want)
		}
	}
}

func TestConfigPrintsNoSecret(t *testing.T) {
	c := parse(t, "B=https://host/CANARY --register a=https://CANARY:CANARY@host/CANARY?k=CANARY --register b=env:B "+
		"--redis redis://CANARY:CANARY@host/1")
	texts := append(c.describe(), c.routes[0].Upstream.LogValue().String())
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		texts = append(texts, fmt.Sprintf(verb, c), fmt.Sprintf(verb, *c), fmt.Sprintf(verb, c.routes), fmt.Sprintf(verb, c.endpoint))
	}
	for _, text := range texts {
		if strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) {
			t.Errorf("got %q, want no %s in it", text, canary)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	for _, seed := range []string{
		"off", "10/s", "100/10m,burst=20", "1/d,by=client", "1/s,by=header:X-Key,name=x,burst=2", "1/s,,", "=", "1/s,burst", "-1/s", "100/m,strict", "9/s,burst=3,strict,candidate", "1/s,strict,strict", "1/2562047h,burst=4611686018427387903",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, kind, err := parseRate(text)
		switch {
		case err != nil:
			return
		case kind == noRate:
			if text != "off" || l != (proxy.Limit{}) {
				t.Errorf("%q is off, with %+v", text, l)
			}
			return
		case l.Name != "" && !proxy.ValidName(l.Name) || l.By.Client && l.By.Header != "":
			t.Errorf("%q: got %+v", text, l)
		}
		if err := l.Validate(); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if again, err := limiter.Parse(l.String()); err != nil || again != l.Limit {
			t.Errorf("%q: got %+v and %v from %s, want %+v", text, again, err, l, l.Limit)
		}
	})
}
