package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// Nothing is charged for what was refused or never sent, and everything for
// what was: a budget of which nothing is earned back is read in answers, and
// compared with what reached the upstream.

// account is a fleet whose routes spend one budget.
type account struct {
	t        *testing.T
	upstream *upstream
	store    *storeUnderTest
	replicas []*replica
}

const balance = 10_000

func openAccount(t *testing.T, policy string) *account {
	u := newUpstream(t)
	s := startStoreUnderTest(t)
	words := []string{
		"--pool", "account=live,gone,unknown,plain", "--rate", fmt.Sprintf("account=%d/8760h", balance), "--rate", "off",
		"--register", "live=" + u.URL,
		"--register", "gone=http://127.99.99.99:" + redistest.FreePort(t),
		"--register", "unknown=http://no-such-host.invalid",
		"--register", "plain=" + strings.Replace(u.URL, "http:", "https:", 1),
		"--when-undecided", policy, "--hold", "0s,unknown=0s", "--store-timeout", "300ms", "--lock-ttl", "1m", "--replicas", "2",
	}
	return &account{t, u, s, startReplicas(t, s.link.URL(), 2, words...)}
}

func (a *account) post(replica int, route string) answer {
	a.t.Helper()
	return post(a.t, a.replicas[replica].url+"/"+route, fmt.Sprint(nonces.Load()))
}

// read returns how many requests are charged, and how many were sent, by the
// answer to one more of both.
func (a *account) read() (charged, sent int) {
	a.t.Helper()
	var read answer
	eventually(a.t, "the store decides", func() bool {
		read = a.post(0, "live")
		return read.header.Get("RateLimit") != ""
	})
	return balance - read.remaining(a.t, "account"), len(a.upstream.all())
}

// What cannot be sent.
func TestNothingIsChargedThatCannotBeSent(t *testing.T) {
	t.Parallel()
	a := openAccount(t, "closed")
	for _, route := range []string{"live", "gone", "unknown", "plain"} {
		times := 3
		if route == "unknown" {
			times = 1 // not every resolver is quick to say so
		}
		for i := range times {
			want := "502 upstream-refused"
			if route == "live" {
				want = "200"
			}
			eventually(t, route+" is answered", func() bool { return a.post(i%2, route).String() == want })
		}
		if charged, sent := a.read(); charged != sent {
			t.Errorf("%s: %d requests are charged, %d were sent", route, charged, sent)
		}
	}
	// A duplicate, and what is refused by another limit, spend nothing either:
	// TestDuplicateSpendsNoBudget, TestWindowsAreChargedTogether.
}

// What the store was asked for while it did not answer: whatever it finds when
// it wakes is too late, and what went on without it is charged afterwards.
func TestWhatAStoreAtFaultIsAskedIsChargedIfItWasSent(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(s *storeUnderTest, meanwhile func()){
		"stopped": func(s *storeUnderTest, meanwhile func()) {
			s.server.Pause()
			meanwhile()
			s.server.Resume()
		},
		"so slow that it is asked too late": func(s *storeUnderTest, meanwhile func()) {
			s.link.Delay(time.Second)
			meanwhile()
			s.link.Heal()
		},
		"cut before it knows what it is asked": func(s *storeUnderTest, meanwhile func()) {
			s.link.CutRequests(20, "")
			meanwhile()
			s.link.Heal()
		},
		"killed, and restarted with what it had": func(s *storeUnderTest, meanwhile func()) {
			s.do("save")
			s.server.Kill()
			meanwhile()
			s.server.Restart()
		},
	} {
		for _, policy := range []string{"closed", "local", "open"} {
			t.Run(name+", "+policy, func(t *testing.T) {
				t.Parallel()
				a := openAccount(t, policy)
				for i := range 4 {
					eventually(t, "the store decides", func() bool { return a.post(i%2, "live").header.Get("RateLimit") != "" })
				}
				if charged, sent := a.read(); charged < sent {
					t.Fatalf("before: %d requests are charged, %d were sent", charged, sent)
				}
				fault(a.store, func() {
					each(30, 30, func(i int) { a.post(i%2, "live") })
				})
				for _, r := range a.replicas {
					eventually(t, "the replica decides with the store", func() bool { return r.ready(t) == "ok\n" })
				}
				eventually(t, "what was sent is charged, and nothing else", func() bool {
					charged, sent := a.read()
					if charged < sent {
						t.Logf("not yet: %d requests are charged, %d were sent", charged, sent)
					}
					if charged > sent {
						t.Fatalf("%d requests are charged, %d were sent", charged, sent)
					}
					return charged == sent
				})
			})
		}
	}
}
