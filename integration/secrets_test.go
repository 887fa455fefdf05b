package integration

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// Law 7: a mark is put into all that is secret, in and around requests of
// every outcome. It must be nowhere but at the upstream.
func TestSecretsStayWhereTheyBelong(t *testing.T) {
	t.Parallel()
	const mark = "CANARY"
	// Userinfo and the Authorization made of it.
	const user, password = "user" + mark, "password" + mark
	marks := []string{mark, base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}
	leaks := func(t *testing.T, where, text string) {
		t.Helper()
		for _, m := range marks {
			if strings.Contains(strings.ToLower(text), strings.ToLower(m)) {
				t.Errorf("%s tells %s: %.2000s", where, m, text)
			}
		}
	}
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			u := pausing(t, http.StatusTooManyRequests, "Retry-After: 3600")
			defer u.open()
			server := redistest.Start(t, "--requirepass", "redis"+mark)
			store := redis.NewClient(&redis.Options{Addr: server.Addr, Password: "redis" + mark})
			defer store.Close()
			secret := func(scheme, addr string) string {
				return fmt.Sprintf("%s://%s:%s@%s/path%s?query=%s", scheme, user, password, addr, mark, mark)
			}
			addr := strings.TrimPrefix(u.URL, "http://")
			replicas := startReplicas(t, "redis://:redis"+mark+"@"+server.Addr, 2,
				"HOOK="+secret("http", addr), "GONE="+secret("http", "127.0.0.1:"+redistest.FreePort(t)), "NOTLS="+secret("https", addr),
				"--register", "hook=env:HOOK", "--register", "slow=env:HOOK", "--register", "paused=http://"+addr+"/path"+mark, "--register", "gone=env:GONE", "--register", "notls=env:NOTLS",
				"--register", "limited=env:HOOK", "--rate", "1000/d,by=header:X-Api-Key", "--rate", "limited=1/d,by=header:Authorization",
				"--register", "local=env:HOOK", "--when-undecided", "closed", "--when-undecided", "local=local",
				"--timeout", "slow=200ms", "--hold", "1h", "--max-body", "1KiB", "--store-timeout", "2s", "--log-level", "debug", "--log-format", format)
			r := replicas[0]
			send := func(route, body string, does string) answer {
				return post(t, r.url+"/"+route+"/rest"+mark+"?query="+mark, mark+body, does,
					"Authorization: Bearer "+mark, "Cookie: session="+mark, "X-Api-Key: "+mark, "Idempotency-Key: "+mark, "X-Anything: "+mark)
			}
			first := u.await(t, func() answer { return send("hook", "in flight", blocks) })
			if c := u.last(); !strings.Contains(c.target, "path"+mark) || c.header.Get("Authorization") != "Basic "+marks[1] {
				t.Fatalf("the upstream got %s and Authorization %s", c.target, c.header.Get("Authorization"))
			}
			var own []answer
			refused := func(route, body, does, want string) {
				t.Helper()
				own = append(own, send(route, body, does))
				expect(t, route, own[len(own)-1], want)
			}
			refused("hook", "in flight", blocks, "409 duplicate")
			expect(t, "within the budget", send("limited", "one", plain), "200")
			refused("limited", "two", plain, "429 limited")
			refused("nowhere", "", plain, "404 unknown-route")
			refused("hook/../..", "", plain, "400 bad-path")
			refused("hook", strings.Repeat("x", 1<<10), plain, "413 body-too-large")
			refused("gone", "", plain, "502 upstream-refused")
			refused("notls", "", plain, "502 upstream-refused")
			refused("hook", "no HTTP", babbles, "502 upstream-refused")
			refused("slow", "", blocks, "504 upstream-timeout")
			refused("hook", "cut", cuts, "499 upstream-closed")
			refused("hook", "cut", plain, "409 held")
			expect(t, "its upstream asks for a pause", send("paused", "one", asksToPause), "429")
			refused("paused", "two", plain, "429 cooling-down")

			kinds := map[string]int{}
			for scan := store.Scan(t.Context(), 0, "*", 1000).Iterator(); scan.Next(t.Context()); {
				key := scan.Val()
				leaks(t, "a key of Redis", fmt.Sprint(key, " ", store.Get(t.Context(), key).Val(), store.ZRange(t.Context(), key, 0, -1).Val()))
				for _, kind := range []string{":lock:", ":rate:", ":cool:", ":replica:", ":replicas"} {
					if strings.Contains(key, kind) {
						kinds[kind]++
					}
				}
			}
			if len(kinds) < 5 {
				t.Errorf("%v in Redis: that is not all there is to look at", kinds)
			}
			server.Pause()
			refused("hook", "undecided", plain, "503 undecided")
			refused("local", "degraded", plain, "429 limited")
			server.Resume()
			u.open()
			expect(t, "the first", <-first, "200")

			for _, a := range own {
				header, _ := json.Marshal(a.header)
				leaks(t, a.String(), a.body+string(header))
			}
			for _, r := range replicas {
				r.end(t)
				leaks(t, "standard error", r.stderr.String())
				leaks(t, "standard output", r.stdout.String())
			}
			if log := r.stderr.String(); !strings.Contains(log, "upstream-timeout") {
				t.Errorf("no requests in the log: %s", log)
			}
		})
	}

	// What is wrong with a flag is told without its value.
	for _, words := range [][]string{
		{"--register", "hook=gopher://" + mark},
		{"--register", "https://" + mark},
		{"HOOK=https://example.com/\x7f" + mark, "--register", "hook=env:HOOK"},
		{"--register", "hook=http://localhost", "--redis", "redis://:" + mark + "%@localhost"},
		{"check", "--register", "hook=http://" + user + ":" + password + "@127.0.0.1:1/" + mark, "--redis", "redis://:" + mark + "@127.0.0.1:1"},
	} {
		p := run(t, append(slices.Clone(words), "--port", "0")...)
		if status := p.wait(t); status == 0 {
			t.Errorf("%v: exit status 0", words)
		}
		leaks(t, strings.Join(words[:1], " "), p.stdout.String()+p.stderr.String())
	}
}
