package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// fleetOf joins two replicas to a server: one to lead, and one whose requests follow.
func fleetOf(t *testing.T, url string, ttl time.Duration) (leader, follower *Redis) {
	t.Helper()
	return join(t, url, Options{LockTTL: ttl}), join(t, url, Options{LockTTL: ttl, Self: Replica{ID: "replica-1"}})
}

// shared asks for the lock of a body, and for the answer of whoever has it.
func shared(body string) Ask { return sharing(Joined, request(body)) }

// wantEnding follows the flight of v to its end.
func wantEnding(t *testing.T, v Verdict, kind EndingKind, answer string) {
	t.Helper()
	if v.Flight == nil {
		t.Errorf("got %+v, want a flight to follow", v)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if got, err := v.Flight.Follow(ctx); err != nil || got.Kind != kind || string(got.Answer) != answer {
		t.Errorf("got ending %c %.40q, %v, want %c %.40q", got.Kind, got.Answer, err, kind, answer)
	}
}

func TestRedis_FollowersOfALeaderThatDiedAreToldOnceItsLockIsGone(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	leader, follower := fleetOf(t, server.URL(), time.Second)
	a := shared("a")
	admit(t, leader, a)
	ended := follow(t, expect(t, follower, Duplicate, a))
	// It would take a lock again that it has lost.
	leader.known.mu.Lock()
	leader.known.freeLocked(a.Tag, a.RequestID)
	leader.known.mu.Unlock()
	must(t, server.Client().Del(t.Context(), lockKey(a)))
	expectEnding(t, ended, Lost, "")
}

func TestRedis_AFullStoreRefusesAnswersAndKeepsNoLock(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	leader, follower := fleetOf(t, server.URL(), time.Hour)
	// The second flight is not wanted by anybody until it is full.
	first, second := admit(t, leader, shared("first")).Grant, admit(t, leader, shared("second")).Grant
	early := follow(t, expect(t, follower, Duplicate, shared("first")))
	eventually(t, "it listens", func() bool {
		follower.watches.mu.Lock()
		defer follower.watches.mu.Unlock()
		if follower.watches.subscriptions[""] == nil {
			return false
		}
		select {
		case <-follower.watches.subscriptions[""].channels["throttle:2:{slack}:flights"].ready:
			return len(follower.watches.all) == 1
		default: // nor where there is no such channel
			return false
		}
	})
	fresh := sharing(Fresh, request("fresh"))
	fresh.Arrived = 1
	third := admit(t, leader, fresh).Grant // which leaves a mark, if it can
	must(t, client.ConfigSet(t.Context(), "maxmemory", "1"))
	late := expect(t, follower, Duplicate, shared("second"))
	wantEnding(t, late, Unshareable, "")
	for _, g := range []*Grant{first, second, third} {
		g.Share([]byte("x"))
		g.Release(0)
	}
	if keys := must(t, client.Keys(t.Context(), "*:lock:*")); len(keys) != 0 {
		t.Errorf("got locks %v, want none", keys)
	}
	expectEnding(t, early, Unshareable, "")
	must(t, client.ConfigSet(t.Context(), "maxmemory", "0"))
	admit(t, follower, shared("first")).Grant.Release(0)
}

func TestRedis_AnAnswerIsNowhereInTheClear(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	client := server.Client()
	leader, follower := fleetOf(t, server.URL(), time.Hour)
	const planted = "planted-7c1e-planted"
	a := shared("a")
	g := admit(t, leader, a).Grant
	v := expect(t, follower, Duplicate, a)
	g.Share([]byte(planted))
	g.Release(time.Minute)
	wantEnding(t, v, Answered, planted)
	kept := 0
	for _, key := range must(t, client.Keys(t.Context(), "*")) {
		dump := must(t, client.Dump(t.Context(), key))
		if strings.Contains(key, ":answer:") {
			kept++
		}
		if strings.Contains(key+dump, planted) || bytes.Contains([]byte(dump), a.Fingerprint[:]) {
			t.Errorf("%s has what was planted, or the fingerprint", key)
		}
	}
	if kept != 1 {
		t.Errorf("got %d kept answers, want 1", kept)
	}
	wantEnding(t, expect(t, follower, Held, a), Answered, planted)
	wantEnding(t, expect(t, leader, Held, a), Answered, planted)
}

func TestRedis_AFlightThatNobodyFollowsCostsNoMore(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	var m meter
	r := join(t, server.URL(), Options{Connect: m.connect(t, server.URL()), LockTTL: time.Hour})
	other := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}, LockTTL: time.Hour})
	<-r.Started()
	<-other.Started()
	for _, step := range []struct {
		name          string
		ask           Ask
		elsewhere     bool
		scripts, keys int
	}{
		{"unshared", request("a"), false, 2, 0},
		{"followed here", shared("b"), false, 2, 0},
		{"followed elsewhere", shared("c"), true, 3, 1},
	} {
		m.reset()
		g := admit(t, r, step.ask).Grant
		v := expect(t, r, Duplicate, step.ask)
		if step.elsewhere {
			v = expect(t, other, Duplicate, step.ask)
		}
		g.Share([]byte("x"))
		g.Release(0)
		if scripts, gets := m.read(); scripts != step.scripts || gets != 0 {
			t.Errorf("%s: got %d scripts and %d gets, want %d and 0", step.name, scripts, gets, step.scripts)
		}
		if keys := must(t, server.Client().Keys(t.Context(), "*:answer:*")); len(keys) != step.keys {
			t.Errorf("%s: got answers %v, want %d", step.name, keys, step.keys)
		}
		if step.ask.Sharing == Joined {
			wantEnding(t, v, Answered, "x")
		}
	}
}

func TestALockThatAnOperatorHasFreedIsFollowedToItsEnd(t *testing.T) {
	t.Parallel()
	m := NewMemory("replica-0")
	r, _ := fleetOf(t, startRedis(t).URL(), time.Hour)
	for of, known := range map[replica]*known{m: m.known, r: r.known} {
		a := shared("a")
		g := admit(t, of, a).Grant
		v := expect(t, of, Duplicate, a)
		known.mu.Lock()
		known.freeLocked(a.Tag, a.RequestID)
		known.mu.Unlock()
		g.Share([]byte("x"))
		g.Release(0)
		wantEnding(t, v, Answered, "x")
	}
}

// Whoever follows a flight yet when its replica ends must not keep it from that.
func TestRedis_CloseLetsFollowersGo(t *testing.T) {
	server := startRedis(t)
	leader := join(t, server.URL(), Options{LockTTL: time.Hour})
	follower := open(t, server.URL(), Options{LockTTL: time.Hour, Self: Replica{ID: "replica-1"}})
	g := admit(t, leader, shared("a")).Grant
	v := expect(t, follower, Duplicate, shared("a"))
	ended := follow(t, v)
	if err := follower.Close(); err != nil {
		t.Error(err)
	}
	expectEnding(t, ended, Lost, "")
	wantEnding(t, v, Lost, "") // nor later
	g.Release(0)
	eventually(t, "nobody watches or listens", func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		return !bytes.Contains(stacks, []byte("(*Redis).look")) && !bytes.Contains(stacks, []byte("(*Redis).listen"))
	})
}

// A store that accepts connections, and says nothing, must not keep a follower for
// longer than it wants to wait.
func TestRedis_AFollowerLeavesASilentStore(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	leader := join(t, server.URL(), Options{LockTTL: time.Hour})
	follower := join(t, link.URL(), Options{LockTTL: time.Hour, Timeout: 20 * time.Second, Self: Replica{ID: "replica-1"}})
	g := admit(t, leader, shared("a")).Grant
	v := expect(t, follower, Duplicate, shared("a"))
	link.Silence()
	why := errors.New("it has left")
	from := time.Now()
	for range 3 {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, why)
		if _, err := v.Flight.Follow(ctx); err != why {
			t.Errorf("got %v, want that it has left", err)
		}
		cancel()
	}
	if took := time.Since(from); took > 5*time.Second {
		t.Errorf("it has left after %v, want 150ms", took)
	}
	link.Heal()
	g.Release(0)
}

// An answer that is held is had at once, or not at all: who asks for it just before
// the store is known to be away gets no later than who asks after.
func TestRedis_WhoAsksForAHeldAnswerDoesNotWaitForTheStore(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	leader := join(t, server.URL(), Options{LockTTL: time.Hour})
	follower := join(t, link.URL(), Options{LockTTL: time.Hour, Timeout: storeTimeout, Self: Replica{ID: "replica-1"}})
	g := admit(t, leader, shared("a")).Grant
	v := expect(t, follower, Duplicate, shared("a"))
	g.Share([]byte("x"))
	g.Release(time.Hour)
	wantEnding(t, v, Answered, "x")
	v = expect(t, follower, Held, shared("a"))
	link.Refuse()
	link.Cut()
	wantEnding(t, v, Lost, "")
}

// A fresh answer is of an exchange that began later, by the store's clock: without
// it nobody knows.
func TestRedis_NothingIsFreshWithoutTheStore(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	link := redistest.NewLink(t, server.Addr)
	r := join(t, link.URL(), Options{Timeout: storeTimeout})
	a := sharing(Fresh, request("a"))
	g := admit(t, r, a).Grant
	link.Refuse()
	link.Cut()
	lose(t, r)
	if v := expect(t, r, Duplicate, by(Open, a)); v.Flight != nil {
		t.Errorf("got %+v, want no flight", v)
	}
	if v := expect(t, r, Duplicate, by(Open, shared("a"))); v.Flight == nil {
		t.Errorf("got %+v, want a flight, for any answer", v)
	}
	degraded(t, r, Admitted, by(Open, sharing(Fresh, request("b"))))
	link.Heal()
	eventually(t, "taken", func() bool { return server.Client().Exists(t.Context(), lockKey(request("b"))).Val() == 1 })
	// It began before, whenever that was.
	for range 2 {
		v := expect(t, r, Duplicate, sharing(Fresh, request("b")))
		if v.Flight != nil && !v.Flight.fresh {
			t.Errorf("got %+v, want one whose answer is too old", v)
		}
	}
	g.Release(0)
}

// docs/redis.md says which rights following needs besides the others.
func TestRedis_DocumentedRightsSufficeToFollow(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := func(begin string) string {
		t.Helper()
		found := regexp.MustCompile("`(" + regexp.QuoteMeta(begin) + "[^`]*)`").FindSubmatch(page)
		if found == nil {
			t.Fatalf("docs/redis.md says nothing of %s", begin)
		}
		return string(found[1])
	}
	sharing := documented("&throttle:")
	for name, start := range topologies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			rules, used := documented("~throttle:")+" "+sharing, []string{"subscribe", "publish"}
			if name == "Cluster" {
				rules = strings.NewReplacer("+publish", "", "+subscribe", "").Replace(rules) + " " + documented("+spublish") + " " + documented("+cluster")
				used = []string{"ssubscribe", "spublish"}
			}
			args := []any{"acl", "setuser", "proxy", "on", ">password", "resetkeys", "resetchannels", "-@all"}
			for _, rule := range strings.Fields(rules) {
				args = append(args, rule)
			}
			for _, server := range s.servers {
				must(t, server.Client().Do(t.Context(), args...))
			}
			leader, follower := fleetOf(t, strings.Replace(s.url, "://", "://proxy:password@", 1), time.Hour)
			for i := range 3 {
				a := shared(fmt.Sprint(i))
				g := admit(t, leader, a).Grant
				v := expect(t, follower, Duplicate, a)
				g.Share([]byte("x"))
				g.Release(0)
				wantEnding(t, v, Answered, "x")
			}
			uses := make(map[string]int)
			for _, server := range s.servers {
				client := server.Client()
				stats := must(t, client.Info(t.Context(), "commandstats"))
				for _, command := range used {
					uses[command] += calls(t, stats, command)
				}
				// Sent when nothing has come for a while.
				if said := must(t, client.Do(t.Context(), "acl", "dryrun", "proxy", "ping")); said != "OK" {
					t.Errorf("got %v, want ping allowed", said)
				}
				if denied := must(t, client.Do(t.Context(), "acl", "log")); fmt.Sprint(denied) != "[]" {
					t.Errorf("got %v, want nothing denied", denied)
				}
			}
			for _, command := range used {
				if uses[command] == 0 {
					t.Errorf("%s was not used", command)
				}
			}
		})
	}
}
