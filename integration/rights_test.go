package integration

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"throttle-proxy/integration/redistest"
)

// What docs/redis.md says that a user of Redis needs.

// documentedRules returns what docs/redis.md says that an ACL user needs.
func documentedRules(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	rules := regexp.MustCompile("`(~throttle:[^`]*)`").FindSubmatch(page)
	if rules == nil {
		t.Fatal("docs/redis.md does not say what an ACL user needs")
	}
	return string(rules[1])
}

// docs/redis.md says which commands a Redis user needs. Fails if one is missing
// there, or is not needed.
func TestDocumentedRightsSuffice(t *testing.T) {
	t.Parallel()
	rules := documentedRules(t)
	server := redistest.Start(t)
	client := server.Client()
	words := strings.Fields("ACL SETUSER proxy on >password resetkeys -@all +select " + rules)
	args := make([]any, len(words))
	for i, word := range words {
		args[i] = word
	}
	if err := client.Do(t.Context(), args...).Err(); err != nil {
		t.Fatal(err)
	}
	// What the test itself asks is not to be counted.
	client.ConfigResetStat(t.Context())

	u := pausing(t, 429, "Retry-After: 3600")
	defer u.open()
	url := "redis://proxy:password@" + server.Addr + "/1"
	f := &fleet{server: server, redis: client}
	f.replicas = startReplicas(t, url, 2, "--register", "hook="+u.URL, "--rate", "2/d", "--register", "free="+u.URL, "--hold", "free=0s", "--rate", "free=100000/d",
		"--register", "open="+u.URL, "--when-undecided", "closed", "--when-undecided", "open=open", "--lock-ttl", "5s", "--concurrency", "hook=9", "--store-timeout", "500ms")
	one, other := f.replicas[0], f.replicas[1]
	used := func(command string) bool {
		t.Helper()
		stats, err := client.Info(t.Context(), "commandstats").Result()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(stats, "cmdstat_"+command+":")
	}
	// Whatever a replica does next sends all scripts again, so that the next ask
	// may find them.
	eventually(t, "a script is sent with an ask", func() bool {
		client.ScriptFlush(t.Context())
		post(t, one.url+"/free", fmt.Sprint(nonces.Load()))
		return used("eval")
	})
	first := u.occupy(t, one.url+"/hook", "hello")
	gets := func(want string, r *replica, path, body string, fields ...string) {
		t.Helper()
		eventually(t, path+" gets "+want, func() bool { return post(t, r.url+path, body, fields...).String() == want })
	}
	gets("409 duplicate", other, "/hook", "hello")
	gets("200", one, "/free", "hello")
	gets("200", other, "/free", "hello") // the lock is gone
	gets("429", one, "/free", "hello", asksToPause)
	gets("429 cooling-down", other, "/free", "hello")
	server.Pause()
	for _, r := range f.replicas {
		eventually(t, "the replica is degraded", func() bool { return strings.HasPrefix(r.ready(t), "degraded: ") })
		expect(t, "without the store", post(t, r.url+"/open", r.addr), "200")
	}
	server.Resume()
	for _, r := range f.replicas {
		eventually(t, "the replica is well", func() bool { return r.ready(t) == "ok\n" })
	}
	u.open()
	expect(t, "the first", <-first, "200")
	check := run(t, "check", "--register", "hook="+u.URL, "--redis", url)
	if status := check.wait(t); status != 0 {
		t.Errorf("check: exit status %d: %s", status, check.stdout.String())
	}
	other.end(t) // which takes it off the list of replicas
	for _, word := range strings.Fields(rules)[1:] {
		command := strings.TrimPrefix(word, "+")
		eventually(t, command+" is used", func() bool { return used(command) })
	}
	denied, err := client.Do(t.Context(), "ACL", "LOG").Slice()
	if err != nil || len(denied) > 0 {
		t.Errorf("denied: %v, %v", denied, err)
	}
}

// What is needed besides, in a Cluster and of sentinels. Fails if it does not
// suffice.
func TestRightsInOtherTopologies(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	besides := func(pattern string) string {
		t.Helper()
		found := regexp.MustCompile("`(" + pattern + "[^`]*)`").FindSubmatch(page)
		if found == nil {
			t.Fatalf("docs/redis.md says nothing of %s", pattern)
		}
		return string(found[1])
	}
	give := func(user, rules string, servers ...*redistest.Server) {
		t.Helper()
		args := []any{"ACL", "SETUSER", user, "on", ">password", "-@all"}
		for _, rule := range strings.Fields(rules) {
			args = append(args, rule)
		}
		for _, server := range servers {
			if err := server.Client().Do(t.Context(), args...).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, start := range map[string]func() (url string, servers []*redistest.Server){
		"Cluster": func() (string, []*redistest.Server) {
			c := redistest.StartCluster(t)
			give("proxy", documentedRules(t)+" "+besides(`\+cluster`), c.Nodes...)
			return strings.Replace(c.URL(), "://", "://proxy:password@", 1), c.Nodes
		},
		"Sentinel": func() (string, []*redistest.Server) {
			s := redistest.StartSentinels(t, 1)
			give("proxy", documentedRules(t), s.Data...)
			give("watcher", besides(`&\* `), s.Nodes...)
			return strings.Replace(s.URL(), "://", "://proxy:password@", 1) + "&sentinel_username=watcher&sentinel_password=password", append(s.Data, s.Nodes...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, servers := start()
			p := startPair(t, "--redis", url)
			if why := p.disagreement(t); why != "" {
				t.Errorf("the replicas do not decide together: %s", why)
			}
			p.finish(t)
			for _, server := range servers {
				denied, err := server.Client().Do(t.Context(), "ACL", "LOG").Slice()
				if err != nil || len(denied) > 0 {
					t.Errorf("denied: %v, %v", denied, err)
				}
			}
		})
	}
}
