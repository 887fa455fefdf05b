package cluster

import (
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// flushEach empties all servers of a store.
func flushEach(t *testing.T, servers []*redistest.Server) {
	t.Helper()
	for _, s := range servers {
		must(t, s.Client().FlushAll(t.Context()))
	}
}

// A store that has lost the key of an exchange under way is told of it by the next
// renewal, so that another content under it is not sent meanwhile.
func keysOfFlightsComeBack(t *testing.T, s store) {
	const ttl = 600 * time.Millisecond
	self := func(id string) Options { return Options{Prefix: s.prefix, LockTTL: ttl, Self: Replica{ID: id}} }
	r, other := join(t, s.url, self("replica-0")), join(t, s.url, self("replica-1"))
	client := connect(t, s.url, 10*time.Second)
	defer client.Close()
	of := func(what string) Ask { return underKey(what, "pay") }
	key := strings.Replace(lockKey(of("k")), ":lock:", ":key:", 1)
	key = strings.Replace(key, "throttle:", s.prefix+":", 1)

	g := admit(t, r, of("k")).Grant
	done := admit(t, r, of("done")).Grant
	done.Keep([]byte("created"))
	done.Release(0)
	admit(t, r, of("free")).Grant.Unsent()
	flushEach(t, s.servers)
	eventually(t, "the key is back", func() bool { return client.Get(t.Context(), key).Err() == nil })
	if left := must(t, client.PTTL(t.Context(), key)); left < 59*time.Minute || left > time.Hour {
		t.Errorf("got %v left, want the key's whole time", left)
	}
	expect(t, other, KeyReused, underKey("k", "pay more"))
	if v := ask(t, other, of("k")); v.Outcome != Duplicate && v.Outcome != OutcomeUnknown { // while its lock is late, as on a busy machine
		t.Errorf("got %+v, want a duplicate", v)
	}
	g.Keep([]byte("paid"))
	g.Release(0)
	if v := expect(t, other, Replayed, of("k")); string(v.Answer) != "paid" {
		t.Errorf("got %q, want its answer", v.Answer)
	}
	for _, over := range []string{"done", "free"} {
		admit(t, other, of(over)).Grant.Unsent() // it had ended before: nobody puts it back
	}
}

// One whose place another content has taken meanwhile is that one's, until it ends.
func keysOfOthersStay(t *testing.T, s store) {
	self := func(id string) Options {
		return Options{Prefix: s.prefix, LockTTL: time.Hour, Self: Replica{ID: id}} // renewed by the test alone
	}
	r, other := join(t, s.url, self("replica-0")), join(t, s.url, self("replica-1"))
	g := admit(t, r, underKey("k", "pay")).Grant
	flushEach(t, s.servers)
	theirs := admit(t, other, underKey("k", "pay more")).Grant
	if !r.renew() || !g.lost() {
		t.Error("got a lock that was renewed, want it lost")
	}
	g.Keep([]byte("paid"))
	g.Release(0)
	theirs.Keep([]byte("paid more"))
	theirs.Release(0)
	if v := expect(t, other, Replayed, underKey("k", "pay more")); string(v.Answer) != "paid more" {
		t.Errorf("got %q, want theirs", v.Answer)
	}
}

// Found when the exchange is over, a renewal puts no key back: it would be an unknown
// outcome for its whole time.
func TestRedis_RenewalThatComesLatePutsNoKeyBack(t *testing.T) {
	server := startRedis(t)
	r := join(t, server.URL(), Options{})
	for what, renewal := range map[string]func(renewal) renewal{
		"late": func(r renewal) renewal {
			r.timeout = -time.Minute
			return r
		},
		"by no clock": func(r renewal) renewal {
			r.clock = new(clock)
			return r
		},
	} {
		lock := admit(t, r, underKey(what, "pay")).Grant
		lock.Unsent()
		calls := []call{{part: r.partOf("slack"), tag: "slack", script: renewScript, what: renewal(r.renewal(lock.lock))}}
		r.pipeline(calls)
		hash := Fingerprint(sha256.Sum256([]byte(what))).hash()
		key := r.key(string(appendKeptKey(nil, "slack", hash)))
		if err := server.Client().Get(t.Context(), key).Err(); err != redis.Nil {
			t.Errorf("%s: got %v, want no key", what, err)
		}
	}
}
