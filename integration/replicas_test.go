package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// What replicas know of each other.

// beats returns the ids of the replicas that have registered themselves, with
// the times of their latest heartbeats by the store's clock; none while the
// store does not say.
func beats(ctx context.Context, client *redis.Client) map[string]float64 {
	at := map[string]float64{}
	for _, key := range client.Keys(ctx, "throttle:*replicas").Val() {
		for _, m := range client.ZRangeWithScores(ctx, key, 0, -1).Val() {
			at[m.Member.(string)] = m.Score
		}
	}
	return at
}

func (f *fleet) registered(t *testing.T) map[string]float64 {
	t.Helper()
	return beats(t.Context(), f.redis)
}

// awaitBeats returns once each of n replicas knows that there are n.
func (f *fleet) awaitBeats(t *testing.T, n int) {
	t.Helper()
	for range 3 { // a heartbeat after all were there, one more, and that one's answer was read
		var before map[string]float64
		eventually(t, "all replicas have registered", func() bool {
			before = f.registered(t)
			return len(before) == n
		})
		eventually(t, "each has another heartbeat", func() bool {
			for id, at := range f.registered(t) {
				if at <= before[id] {
					return false
				}
			}
			return true
		})
	}
}

// Fails if replicas do not register, if the dead stay, if a stop is taken for a
// death, or if equal replicas are said to differ.
func TestReplicasKnowWhoLives(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	server := redistest.Start(t)
	f := &fleet{server: server, redis: server.Client()}
	for i, words := range [][]string{
		{"--rate", "1000/d", "--rate", "hook=5/s", "--dedupe-header", "Cookie,Authorization"},
		{"--dedupe-header", "authorization,cookie", "--rate", "hook=5/s", "--rate", "1000/d"}, // the same
		{"THROTTLE_PROXY_RATE=hook=5/s 1000/d", "THROTTLE_PROXY_DEDUPE_HEADER=Authorization,Cookie"},
	} {
		flags := []string{"--register", "hook=" + u.URL, "--register", "other=" + u.URL + "/other", "--replica-name", fmt.Sprint("replica-", i+1)}
		words = slices.Concat(words, flags)
		if i == 2 {
			words = slices.Concat(words[:2], flags)
		}
		f.replicas = append(f.replicas, startReplicas(t, server.URL(), 1, words...)...)
	}
	one, two, three := f.replicas[0], f.replicas[1], f.replicas[2]
	f.awaitBeats(t, 3)
	names := map[string]string{}
	for id := range f.registered(t) {
		key := keyPrefix + "{fleet}:replica:" + id
		value, err := f.redis.Get(t.Context(), key).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		var of struct {
			ID, Name, Version string
			Started           time.Time
			Routes            map[string]struct{ Upstream, Policy string }
		}
		if err := json.Unmarshal(value, &of); err != nil {
			t.Fatalf("%v in %s", err, value)
		}
		names[of.Name] = id
		hook, other := of.Routes["hook"], of.Routes["other"]
		if of.ID != id || of.Version == "" || time.Since(of.Started) > patience || len(of.Routes) != 2 ||
			hook.Upstream == other.Upstream || hook.Policy == other.Policy || strings.Contains(string(value), "127.0.0.1") {
			t.Errorf("replica %s tells of itself: %s", id, value)
		}
		if left := f.redis.PTTL(t.Context(), key).Val(); left <= 0 || left > time.Minute {
			t.Errorf("%s has %s to live", key, left)
		}
	}
	if _, known := names["replica-3"]; len(names) != 3 || !known {
		t.Fatalf("got %v, want three names", names)
	}
	first := u.occupy(t, two.url+"/hook", "hello")
	if a := post(t, one.url+"/hook", "hello"); a.Holder.Replica != names["replica-2"] {
		t.Errorf("%v told holder %q, want %q", a, a.Holder.Replica, names["replica-2"])
	}
	u.open()
	expect(t, "the first", <-first, "200")

	lives := func(what string, want ...string) {
		t.Helper()
		eventually(t, what, func() bool {
			registered := f.registered(t)
			for _, name := range want {
				if _, ok := registered[names[name]]; !ok {
					return false
				}
			}
			return len(registered) == len(want) && int(f.redis.Exists(t.Context(), keyPrefix+"{fleet}:replica:"+names[want[len(want)-1]]).Val()) == 1
		})
	}
	three.end(t)
	if n := f.redis.Exists(t.Context(), keyPrefix+"{fleet}:replica:"+names["replica-3"]).Val(); n != 0 {
		t.Error("a replica that has ended is still there")
	}
	lives("one that has ended is gone", "replica-1", "replica-2")
	two.signal(t, syscall.SIGSTOP)
	lives("one that is silent is gone", "replica-1")
	two.signal(t, syscall.SIGCONT)
	lives("one that wakes is back", "replica-1", "replica-2")
	two.signal(t, syscall.SIGKILL)
	two.wait(t)
	lives("one that was killed is gone", "replica-1")
	for _, r := range f.replicas {
		if log := r.stderr.String(); strings.Contains(log, "another") || strings.Contains(log, "differs") || strings.Contains(log, "both have it") {
			t.Errorf("replicas of one configuration are said to differ: %s", log)
		}
	}
}

// Fails if two configurations on one prefix, be it a mistake in one flag or
// another fleet, go unnoticed, or the log tells what they are.
func TestDisagreementIsNamed(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	server := redistest.Start(t)
	client := server.Client()
	start := func(name string, words ...string) *replica {
		return startReplicas(t, server.URL(), 1, append(words, "--register", "same="+u.URL, "--replica-name", name)...)[0]
	}
	says := func(r *replica, text string) {
		t.Helper()
		eventually(t, "the log says "+text, func() bool { return strings.Contains(r.stderr.String(), text) })
	}
	one := start("replica-1", "--register", "slack="+u.URL+"/SECRET/T1", "--register", "old="+u.URL)
	four := start("replica-4", "--register", "slack="+u.URL+"/SECRET/T2", "--register", "new="+u.URL)
	five := start("replica-5", "--register", "slack="+u.URL+"/SECRET/T1", "--rate", "slack=7/s", "--register", "old="+u.URL)
	says(one, `level=WARN msg="route slack: replica-4 uses another upstream" replica=`)
	says(one, `level=WARN msg="route slack: replica-5 has another policy" replica=`)
	says(one, `level=WARN msg="route new: replica-4 and this replica do not both have it"`)
	says(one, `level=WARN msg="route old: replica-4 and this replica do not both have it"`)
	says(four, `"route slack: replica-1 uses another upstream"`)
	says(four, `"route slack: replica-5 uses another upstream"`)
	says(five, `"route slack: replica-1 has another policy"`)

	// A replica of another version, of which more is known or nothing.
	foreign := `{"id":"foreign","name":"replica-9","version":"v9","routes":{"slack":{"upstream":"x","policy":"y","more":[1]}},"more":{}}`
	const told = `"route slack: replica-9 uses another upstream" replica=foreign version=v9`
	eventually(t, "the log says "+told, func() bool {
		for id, value := range map[string]string{"foreign": foreign, "unreadable": "\x00"} {
			client.Set(t.Context(), keyPrefix+"{fleet}:replica:"+id, value, time.Hour)
			client.ZAdd(t.Context(), keyPrefix+"{fleet}:replicas", redis.Z{Score: float64(time.Now().UnixMilli()), Member: id})
		}
		return strings.Contains(one.stderr.String(), told)
	})

	for _, r := range []*replica{one, four, five} {
		log := r.stderr.String()
		if strings.Contains(log, "SECRET") || strings.Contains(strings.ReplaceAll(log, "route same: replica-9", ""), "route same:") {
			t.Errorf("the log tells what is secret, or is no difference: %s", log)
		}
		if n := strings.Count(log, "route slack: "); n > 3 {
			t.Errorf("%d lines for three others: %s", n, log)
		}
		expect(t, "all the same it serves", post(t, r.url+"/same", "hello"+r.addr), "200")
	}
}

// Fails if a fleet's key is outside its prefix or format, or never expires.
func TestTwoFleetsShareARedis(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client()
	prefixes := []string{"one", "team:two"}
	var replicas []*replica
	var upstreams []*upstream
	var inFlight []<-chan answer
	for _, prefix := range prefixes {
		u := pausing(t, 429, "Retry-After: 3600")
		defer u.open()
		upstreams = append(upstreams, u)
		fleet := startReplicas(t, server.URL(), 2, "--redis-prefix", prefix, "--register", "hook="+u.URL, "--register", "paused="+u.URL, "--rate", "2/d", "--hold", "1h")
		replicas = append(replicas, fleet...)
		inFlight = append(inFlight, u.occupy(t, fleet[0].url+"/hook", "same"))
		expect(t, "the other replica", post(t, fleet[1].url+"/hook", "same"), "409 duplicate")
		expect(t, "the last of the budget", post(t, fleet[1].url+"/hook", "other"), "200")
		expect(t, "beyond", post(t, fleet[0].url+"/hook", "more"), "429 limited")
		expect(t, "the upstream asks", post(t, fleet[0].url+"/paused", "hello", asksToPause), "429")
		expect(t, "the other replica", post(t, fleet[1].url+"/paused", "hello"), "429 cooling-down")
	}
	format := regexp.MustCompile(`^(one|team:two):` + keyFormat + `:(\{(hook|paused)\}:(lock:[0-9a-f]{64}|rate:[a-z]+|cool:[0-9a-f]{32})|\{fleet\}:(replicas|(replica|followed|left):[a-z0-9]+)|probe)$`)
	kinds := map[string]int{}
	for keys := client.Scan(t.Context(), 0, "*", 1000).Iterator(); keys.Next(t.Context()); {
		key := keys.Val()
		match := format.FindStringSubmatch(key)
		if match == nil {
			t.Errorf("unexpected key %s", key)
			continue
		}
		kinds[match[1]]++
		if left := client.PTTL(t.Context(), key).Val(); left == -1 { // -2 is one that has just gone
			t.Errorf("%s never expires", key)
		}
	}
	// A lock, a hold, two budgets, a cool-down, and the replicas: two and their list.
	for _, prefix := range prefixes {
		if kinds[prefix] < 8 {
			t.Errorf("%d keys of %s, too few to have looked at all there are", kinds[prefix], prefix)
		}
	}
	for i, u := range upstreams {
		u.open()
		expect(t, "the first", <-inFlight[i], "200")
	}
	for _, r := range replicas {
		if log := r.stderr.String(); strings.Contains(log, "another upstream") {
			t.Errorf("fleets of two prefixes know of each other: %s", log)
		}
	}
}

// Fails if a holder that was away for longer than its TTL ends the lock of the
// one that came after it, or does not tell.
func TestHolderThatWakesAfterItsTTLLeavesItsSuccessorsLock(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--rate", "off", "--hold", "0s,unknown=0s", "--client-gone", "cancel",
		"--lock-ttl", "5s", "--store-timeout", "500ms", "--when-undecided", "closed")
	holder, successor := f.replicas[0], f.replicas[1]
	hangUp := enter(t, u, holder.url+"/hook")
	holder.signal(t, syscall.SIGSTOP)
	eventually(t, "its lock is gone", func() bool { return len(f.locks(t)) == 0 })
	second := u.occupy(t, successor.url+"/hook", t.Name())
	token := func() string {
		t.Helper()
		for _, value := range f.locks(t) {
			return strings.Join(strings.Fields(value)[:3], " ") // with its replica
		}
		return "none"
	}
	want := token()
	holder.signal(t, syscall.SIGCONT)
	eventually(t, "the holder notices", func() bool { return strings.Contains(holder.stderr.String(), `msg="lock lost`) })
	if got := token(); got != want {
		t.Errorf("the holder's renewal: got lock %s, want %s", got, want)
	}
	hangUp()
	eventually(t, "the holder's exchange has ended", func() bool { return strings.Contains(holder.stderr.String(), "outcome=client-gone") })
	if got := token(); got != want {
		t.Errorf("the holder's release: got lock %s, want %s", got, want)
	}
	for _, r := range f.replicas {
		a := decided(func() answer { return post(t, r.url+"/hook", t.Name()) })
		expect(t, "an equal request", a, "409 duplicate")
	}
	u.open()
	expect(t, "the second", <-second, "200")
	if n := len(u.all()); n != 2 {
		t.Errorf("%d requests reached the upstream, want 2", n)
	}
}
