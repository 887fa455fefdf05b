package integration

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/integration/redistest"
)

// Everything that can happen to a store, on a real one.

// storeUnderTest is a Redis with a link to it that a test can break.
type storeUnderTest struct {
	t      *testing.T
	server *redistest.Server
	link   *redistest.Link
	redis  *redis.Client // past the link
	once   *redis.Client // that says nothing twice
}

// standstill is how long a store stands still that wakes by itself: longer
// than it takes to see that it does.
const standstill = 10 * time.Second

func startStoreUnderTest(t *testing.T, args ...string) *storeUnderTest {
	return storeUnderTestOn(t, redistest.Start(t, args...))
}

func storeUnderTestOn(t *testing.T, server *redistest.Server) *storeUnderTest {
	once := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1})
	t.Cleanup(func() { _ = once.Close() })
	return &storeUnderTest{t: t, server: server, link: redistest.NewLink(t, server.Addr), redis: server.Client(), once: once}
}

func (s *storeUnderTest) do(args ...any) {
	s.t.Helper()
	if err := s.redis.Do(s.t.Context(), args...).Err(); err != nil {
		s.t.Fatalf("%v: %v", args, err)
	}
}

// awayFaults are those in which the store decides nothing.
var awayFaults = map[string]struct{ begin, end func(*storeUnderTest) }{
	"stopped": {
		func(s *storeUnderTest) { s.server.Pause() },
		func(s *storeUnderTest) { s.server.Resume() },
	},
	"all clients paused": {
		func(s *storeUnderTest) { s.do("client", "pause", standstill.Milliseconds(), "all") },
		func(*storeUnderTest) {}, // ends by itself
	},
	"writes paused": {
		func(s *storeUnderTest) { s.do("client", "pause", patience.Milliseconds(), "write") },
		func(s *storeUnderTest) { s.do("client", "unpause") },
	},
	"asleep": {
		func(s *storeUnderTest) { go s.once.Do(context.Background(), "debug", "sleep", standstill.Seconds()) },
		func(*storeUnderTest) {}, // wakes by itself
	},
	"killed and restarted empty": {
		func(s *storeUnderTest) { s.server.Kill() },
		func(s *storeUnderTest) { s.server.Restart() },
	},
	"accepts and never answers": {
		func(s *storeUnderTest) { s.link.Silence() },
		func(s *storeUnderTest) { s.link.Heal(); s.link.Cut() },
	},
	"refuses": {
		func(s *storeUnderTest) { s.link.Refuse(); s.link.Cut() },
		func(s *storeUnderTest) { s.link.Heal() },
	},
	"resets in the middle of a command": {
		func(s *storeUnderTest) { s.link.CutRequests(20, "") },
		func(s *storeUnderTest) { s.link.Heal() },
	},
	"resets before it answers": {
		func(s *storeUnderTest) { s.link.CutRequests(1<<20, "") },
		func(s *storeUnderTest) { s.link.Heal() },
	},
	"answers after 5 s": {
		func(s *storeUnderTest) { s.link.Delay(2500 * time.Millisecond) },
		func(s *storeUnderTest) { s.link.Heal() },
	},
	"out of memory": {
		func(s *storeUnderTest) { s.do("config", "set", "maxmemory", 1) },
		func(s *storeUnderTest) { s.do("config", "set", "maxmemory", 0) },
	},
	"read-only": {
		func(s *storeUnderTest) { s.do("replicaof", "127.0.0.1", 1) },
		func(s *storeUnderTest) { s.do("replicaof", "no", "one") },
	},
	"loading": {
		func(s *storeUnderTest) {
			s.do("debug", "populate", 20_000)
			s.do("save")
			s.server.Kill()
			// Half a minute in all, unless it is told to hurry.
			s.server.Configure("--key-load-delay", "1500", "--loading-process-events-interval-bytes", "1024")
			s.server.Restart()
		},
		func(s *storeUnderTest) { s.do("config", "set", "key-load-delay", 0) },
	},
	"a password that the replicas do not have": {
		func(s *storeUnderTest) { s.do("config", "set", "requirepass", "new"); s.link.Cut() },
		func(s *storeUnderTest) { s.do("config", "set", "requirepass", "") },
	},
	"a user without rights": {
		func(s *storeUnderTest) { s.do("acl", "setuser", "default", "-evalsha", "-eval", "-set") },
		func(s *storeUnderTest) { s.do("acl", "setuser", "default", "+@all") },
	},
}

var degradedShare = regexp.MustCompile(`"degraded":true,"share":"1/[12]"`)

// Fails if a store at fault makes a 500, decides by another policy than the
// route's, cuts an exchange, leaves a lock behind, or needs a restart.
func TestStoreFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range awayFaults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			defer u.open()
			s := startStoreUnderTest(t)
			words := []string{
				"--when-undecided", "open=open", "--when-undecided", "closed=closed",
				"--rate", "off", "--rate", "limited=1000/d,burst=1000",
				"--hold", "0s,unknown=0s", "--hold", "held=1h", "--store-timeout", "300ms", "--lock-ttl", "1m",
			}
			for _, route := range []string{"local", "limited", "open", "closed", "held"} {
				words = append(words, "--register", route+"="+u.URL)
			}
			replicas := startReplicas(t, s.link.URL(), 2, words...)
			f := &fleet{replicas: replicas, redis: s.redis}
			bothAre := func(want string) {
				t.Helper()
				for _, r := range replicas {
					eventually(t, "the replica is "+want, func() bool { return strings.HasPrefix(r.ready(t), want) })
				}
			}
			var answers []answer
			send := func(replica int, route, body string) answer {
				t.Helper()
				a := post(t, replicas[replica].url+route, body)
				answers = append(answers, a)
				return a
			}
			bothAre("ok\n")
			for i := range replicas {
				eventually(t, "it knows the other", func() bool {
					a := send(i, "/limited", fmt.Sprint("before ", len(answers)))
					return a.status == http.StatusOK && len(s.keys(keyPrefix+"{fleet}:replica:*")) == 2
				})
			}
			running := u.occupy(t, replicas[0].url+"/local", "running")

			fault.begin(s)
			for round := range 4 { // before and after the breaker opens
				for i := range replicas {
					body := fmt.Sprintf("meanwhile %d on %d", round, i)
					expect(t, "local", send(i, "/local", body), "200")
					expect(t, "open", send(i, "/open", body), "200")
					closed := send(i, "/closed", body)
					expect(t, "closed", closed, "503 undecided")
					if got := closed.header.Get("Retry-After"); got != "1" {
						t.Errorf("Retry-After: got %q, want 1", got)
					}
					// A share of 1000/d begins with nothing.
					limited := send(i, "/limited", body)
					expect(t, "a share that is empty at first", limited, "429 limited")
					if !degradedShare.MatchString(limited.body) || limited.header.Get("RateLimit") != "" {
						t.Errorf("got %s with RateLimit %q, want it to tell the share alone", limited.body, limited.header.Get("RateLimit"))
					}
				}
				expect(t, "a duplicate of its own", send(0, "/local", "running"), "409 duplicate")
			}
			bothAre("degraded: store away ")
			during := u.occupy(t, replicas[1].url+"/local", "admitted meanwhile")
			u.open()
			for _, exchange := range []<-chan answer{running, during} {
				a := <-exchange
				expect(t, "an exchange under way", a, "200")
				answers = append(answers, a)
			}

			fault.end(s)
			bothAre("ok\n")
			eventually(t, "they decide together", func() bool {
				body := fmt.Sprint("after ", len(answers))
				return send(0, "/held", body).status == http.StatusOK && send(1, "/held", body).status == http.StatusConflict
			})
			eventually(t, "the whole budget is back", func() bool {
				return send(0, "/limited", fmt.Sprint("after ", len(answers))).status == http.StatusOK
			})
			eventually(t, "no lock is left behind", func() bool {
				for _, value := range f.locks(t) {
					if !strings.HasSuffix(value, " held") {
						return false
					}
				}
				return true
			})
			s.expectExpiries()
			for _, a := range answers {
				if a.status >= 500 && a.status != http.StatusServiceUnavailable {
					t.Errorf("got %v", a)
				}
			}
			u.expectAgreement(t, answers)
		})
	}
}

// keys returns the keys of a pattern, or none while the store does not say.
func (s *storeUnderTest) keys(pattern string) []string {
	return s.redis.Keys(s.t.Context(), pattern).Val()
}

// expectExpiries fails the test if a key would stay.
func (s *storeUnderTest) expectExpiries() {
	s.t.Helper()
	for _, key := range s.keys("throttle:*") {
		if ttl := s.redis.PTTL(s.t.Context(), key).Val(); ttl == -1 {
			s.t.Errorf("%s has no expiry", key)
		}
	}
}

// Faults that do not take the store away: each is enforced through.

// Fails if a store that is slow but in time is not waited for.
func TestSlowStoreIsEnforced(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	s := startStoreUnderTest(t)
	s.link.Delay(25 * time.Millisecond) // 50 ms there and back
	replicas := startReplicas(t, s.link.URL(), 2, "--register", "hook="+u.URL, "--rate", "3/d", "--when-undecided", "closed")
	for i := range 3 {
		expect(t, "within the budget", decided(func() answer { return post(t, replicas[i%2].url+"/hook", fmt.Sprint(i)) }), "200")
	}
	if a := post(t, replicas[1].url+"/hook", "2"); a.status != http.StatusConflict {
		t.Errorf("an equal one: got %v, want 409", a)
	}
	expect(t, "beyond it", post(t, replicas[1].url+"/hook", "3"), "429 limited")
}

// Fails if what a store has lost ends an exchange or asks for a restart.
func TestStoreThatForgets(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string][]any{"scripts": {"script", "flush"}, "everything": {"flushall"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			defer u.open()
			s := startStoreUnderTest(t)
			// A lock that is gone is taken again when it is next renewed.
			replicas := startReplicas(t, s.link.URL(), 2, "--register", "hook="+u.URL, "--rate", "off", "--hold", "1h", "--when-undecided", "closed", "--store-timeout", "500ms", "--lock-ttl", "5s")
			running := u.occupy(t, replicas[0].url+"/hook", "running")
			s.do(forget...)
			// Scripts that are gone are sent again within the ask.
			expect(t, "another", decided(func() answer { return post(t, replicas[1].url+"/hook", "another") }), "200")
			eventually(t, "both locks are there", func() bool { return len(s.keys(keyPrefix+"{hook}:lock:*")) == 2 })
			u.open()
			expect(t, "the exchange that was under way", <-running, "200")
			if a := decided(func() answer { return post(t, replicas[0].url+"/hook", "another") }); a.status != http.StatusConflict {
				t.Errorf("an equal one: got %v, want 409", a)
			}
			s.expectExpiries()
		})
	}
}

// Fails if a key that is not ours makes a 500, or is taken for an outage.
func TestForeignKeys(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	s := startStoreUnderTest(t)
	words := []string{"--register", "hook=" + u.URL, "--register", "far=" + u.URL, "--rate", "1000/d", "--when-undecided", "hook=closed"}
	r := startReplicas(t, s.link.URL(), 1, words...)[0]
	s.do("rpush", keyPrefix+"{hook}:rate:hook", "a list")
	for i := range 10 {
		expect(t, "a budget of a wrong type", post(t, r.url+"/hook", fmt.Sprint(i)), "503 undecided")
	}
	if got := r.ready(t); got != "ok\n" {
		t.Errorf("got %q: one key is not the store", got)
	}
	s.do("del", keyPrefix+"{hook}:rate:hook")
	expect(t, "without it", post(t, r.url+"/hook", "hello"), "200")

	// A TAT a century ahead, as a clock that was set back leaves it.
	s.do("set", keyPrefix+"{far}:rate:far", "4000000000")
	a := post(t, r.url+"/far", "hello")
	expect(t, "a TAT in the far future", a, "200")
	if got := a.remaining(t, "far"); got != 999 {
		t.Errorf("got %d remaining, want 999", got)
	}
}

// Fails if a verdict whose answer was lost is asked for again, or leaves a lock.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string]string{"local": "200", "open": "200", "closed": "503 undecided"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			s := startStoreUnderTest(t)
			words := []string{"--register", "hook=" + u.URL, "--register", "free=" + u.URL, "--rate", "free=off", "--rate", "1000/d", "--hold", "0s,unknown=0s", "--when-undecided", policy, "--store-timeout", "1s"}
			r := startReplicas(t, s.link.URL(), 1, words...)[0]
			first := decided(func() answer { return post(t, r.url+"/hook", "first") })
			before := first.remaining(t, "hook")
			s.link.LoseAnswers(1, ":lock:")
			lost := post(t, r.url+"/free", "lost")
			expect(t, "the request whose verdict is lost", lost, want)
			eventually(t, "no lock is left behind", func() bool { return len(s.keys(keyPrefix+"{free}:lock:*")) == 0 })
			expect(t, "the same again", decided(func() answer { return post(t, r.url+"/free", "lost") }), "200")

			// It has not been asked for twice. What goes on without an answer is owed
			// besides: nobody knows that the store has charged it.
			s.link.LoseAnswers(1, ":rate:")
			post(t, r.url+"/hook", "lost")
			var a answer
			eventually(t, "the store decides", func() bool {
				a = post(t, r.url+"/hook", fmt.Sprint("after", nonces.Load()))
				return a.header.Get("RateLimit") != ""
			})
			if got := a.remaining(t, "hook"); got != before-2 && (policy == "closed" || got != before-3) {
				t.Errorf("got %d remaining of %d, want two less", got, before)
			}
		})
	}
}
