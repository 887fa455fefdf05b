package integration

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// What docs/redis.md says that a user of Redis needs.

// documentedRules returns those rules of an ACL user in docs/redis.md that begin so.
func documentedRules(t *testing.T, begin string) string {
	t.Helper()
	page, err := os.ReadFile("../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	rules := regexp.MustCompile("`(" + regexp.QuoteMeta(begin) + "[^`]*)`").FindSubmatch(page)
	if rules == nil {
		t.Fatalf("docs/redis.md says nothing of %s", begin)
	}
	return string(rules[1])
}

const (
	basicRules   = "~throttle:"
	sharingRules = "&throttle:"
)

// awaitWanted returns once an answer is wanted on a replica other than its leader's.
func awaitWanted(t *testing.T, servers ...*redis.Client) {
	t.Helper()
	eventually(t, "an answer is wanted elsewhere", func() bool {
		return slices.ContainsFunc(servers, func(server *redis.Client) bool {
			for _, lock := range server.Keys(t.Context(), "*:lock:*").Val() {
				if strings.Contains(server.Get(t.Context(), lock).Val(), " wanted") {
					return true
				}
			}
			return false
		})
	})
}

// docs/redis.md says which commands a Redis user needs. Fails if one is missing
// there, or is not needed.
func TestDocumentedRightsSuffice(t *testing.T) {
	t.Parallel()
	rules := documentedRules(t, basicRules) + " " + documentedRules(t, sharingRules)
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
	sharing := newUpstream(t)
	defer sharing.open()
	url := "redis://proxy:password@" + server.Addr + "/1"
	f := &fleet{server: server, redis: client}
	f.replicas = startReplicas(t, url, 2, "--register", "hook="+u.URL, "--rate", "2/d", "--register", "free="+u.URL, "--hold", "free=0s", "--rate", "free=100000/d",
		"--register", "open="+u.URL, "--when-undecided", "closed", "--when-undecided", "open=open", "--lock-ttl", "5s", "--concurrency", "hook=9", "--store-timeout", "500ms",
		"--register", "shared="+sharing.URL, "--on-duplicate", "shared=join", "--register", "keyed="+u.URL, "--idempotency", "keyed=24h", "--rate", "keyed=off")
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
	gets("202", one, "/keyed", "hello", orderKey, answersOwn)
	replayed(t, "another replica", post(t, other.url+"/keyed", "hello", orderKey, answersOwn), 202, "its own words")
	led := sharing.occupy(t, other.url+"/shared", "hello")
	follower := inBackground(func() answer { return post(t, one.url+"/shared", "hello") })
	database := redis.NewClient(&redis.Options{Addr: server.Addr, DB: 1})
	defer database.Close()
	awaitWanted(t, database)
	sharing.open()
	expect(t, "one that is followed", <-led, "200")
	expect(t, "its follower on another replica", <-follower, "200")
	if calls := sharing.all(); len(calls) != 1 {
		t.Errorf("what is followed was sent %d times, want once", len(calls))
	}
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
	check := run(t, "check", "--register", "hook="+u.URL, "--on-duplicate", "join", "--redis", url)
	if status := check.wait(t); status != 0 {
		t.Errorf("check: exit status %d: %s", status, check.stdout.String())
	}
	other.end(t) // which takes it off the list of replicas
	for _, word := range strings.Fields(rules) {
		command, ok := strings.CutPrefix(word, "+")
		if !ok {
			continue // keys and channels
		}
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
			give("proxy", documentedRules(t, basicRules)+" "+documentedRules(t, "+cluster")+" "+documentedRules(t, "+spublish")+" &throttle:2:* +ping", c.Nodes...)
			return strings.Replace(c.URL(), "://", "://proxy:password@", 1), c.Nodes
		},
		"Sentinel": func() (string, []*redistest.Server) {
			s := redistest.StartSentinels(t, 1)
			give("proxy", documentedRules(t, basicRules)+" "+documentedRules(t, sharingRules), s.Data...)
			give("watcher", documentedRules(t, "&* "), s.Nodes...)
			return strings.Replace(s.URL(), "://", "://proxy:password@", 1) + "&sentinel_username=watcher&sentinel_password=password", append(s.Data, s.Nodes...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			url, servers := start()
			p := startPair(t, "--redis", url, "--on-duplicate", "held=join", "--idempotency", "paced=24h")
			if why := p.disagreement(t); why != "" {
				t.Errorf("the replicas do not decide together: %s", why)
			}
			for _, r := range p.replicas {
				if a := post(t, r.url+"/paced", "keyed", orderKey, answersOwn); a.String() != "202" {
					t.Errorf("with a key: got %v, want 202", a)
				}
			}
			p.inFlight = append(p.inFlight, p.upstream.occupy(t, p.replicas[0].url+"/held", "shared"))
			follower := inBackground(func() answer { return post(t, p.replicas[1].url+"/held", "shared") })
			var clients []*redis.Client
			for _, server := range servers {
				clients = append(clients, server.Client())
			}
			awaitWanted(t, clients...)
			p.finish(t)
			expect(t, "a follower on another replica", <-follower, "200")
			sent := map[string]int{}
			for _, c := range append(p.upstream.all(), p.paced.all()...) {
				sent[c.body]++
			}
			if sent["shared"] != 1 || sent["keyed"] != 1 {
				t.Errorf("what is shared was sent %d times, and what has a key %d times, want once each", sent["shared"], sent["keyed"])
			}
			for _, server := range servers {
				denied, err := server.Client().Do(t.Context(), "ACL", "LOG").Slice()
				if err != nil || len(denied) > 0 {
					t.Errorf("denied: %v, %v", denied, err)
				}
			}
		})
	}
}
