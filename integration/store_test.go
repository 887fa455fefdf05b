package integration

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"throttle-proxy/integration/redistest"
)

// What the store is asked, and what happens while it does not answer.

// Fails if a verdict takes a second trip, or the upstream is called before it.
func TestStoreIsAskedOncePerAdmittedRequest(t *testing.T) {
	t.Parallel()
	for _, hold := range []string{"0s", "1s"} {
		t.Run("hold "+hold, func(t *testing.T) {
			u := newUpstream(t)
			f := startFleet(t, 1, "--register", "hook="+u.URL, "--hold", hold, "--rate", "1000/d", "--rate", "2000/d")
			r := f.replicas[0]
			var during atomic.Int64
			u.during = func() { during.Store(int64(f.asked(t))) }
			expect(t, "the first, which may have to load scripts", post(t, r.url+"/hook", "first"), "200")
			eventually(t, "its lock is told of its end", func() bool { return f.asked(t) > int(during.Load()) })
			before := f.asked(t)
			for i := range 10 {
				expect(t, "request", post(t, r.url+"/hook", fmt.Sprint(i)), "200")
				if n := int(during.Load()) - before; n != 1 {
					t.Errorf("when the upstream was called the store had been asked %d times, want once", n)
				}
				eventually(t, "the lock is told of its end", func() bool { return f.asked(t) >= before+2 })
				before += 2
			}
			if got := f.asked(t); got != before {
				t.Errorf("%d trips that no request needed", got-before)
			}
		})
	}
}

// Fails if a replica asks what it knows by itself.
func TestRefusalsThatAReplicaKnowsCostNoTrip(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--rate", "off", "--rate", "hook=1/d", "--register", "free="+u.URL)
	holder, other := f.replicas[0].url, f.replicas[1].url
	unasked := func(what, url, want string) {
		t.Helper()
		before := f.asked(t)
		for range 20 {
			expect(t, what, post(t, url, "hello"), want)
		}
		if n := f.asked(t) - before; n != 0 {
			t.Errorf("%s: the store was asked %d times", what, n)
		}
	}
	first := u.occupy(t, holder+"/free", "hello")
	unasked("a duplicate on its holder's replica", holder+"/free", "409 duplicate")
	limited := u.occupy(t, holder+"/hook", "the whole budget")
	for _, url := range []string{holder, other} {
		expect(t, "the first beyond the budget", post(t, url+"/hook", "hello"), "429 limited")
		unasked("the next ones", url+"/hook", "429 limited")
	}
	u.open()
	expect(t, "the first", <-first, "200")
	expect(t, "the first", <-limited, "200")
}

// Fails if an outage lets requests through or answers 500, if a paused Redis
// that wakes takes locks which nobody gives back, or if enforcement needs a
// restart.
func TestStoreThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct {
		begin, end func(*redistest.Server)
	}{
		"paused": {(*redistest.Server).Pause, (*redistest.Server).Resume},
		"killed": {(*redistest.Server).Kill, (*redistest.Server).Restart},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			defer u.open()
			f := startFleet(t, 2, "--register", "hook="+u.URL, "--register", "held="+u.URL, "--rate", "1000/d",
				"--hold", "0s,unknown=0s", "--hold", "held=1h", "--store-timeout", "500ms", "--when-undecided", "closed")
			var answers []answer
			send := func(replica int, route, body string) answer {
				answers = append(answers, post(t, f.replicas[replica].url+route, body))
				return answers[len(answers)-1]
			}
			bothAdmit := func() {
				t.Helper()
				for i := range f.replicas {
					a := decided(func() answer { return send(i, "/hook", fmt.Sprint(len(answers))) })
					expect(t, "request", a, "200")
				}
			}
			bothAre := func(want string) {
				t.Helper()
				for _, r := range f.replicas {
					eventually(t, "the replica is "+want, func() bool { return regexp.MustCompile(want).MatchString(r.ready(t)) })
				}
			}
			bothAdmit()
			bothAre("^ok\n$")

			fault.begin(f.server)
			for i := range 4 {
				a := send(i%2, "/hook", fmt.Sprint("meanwhile ", i))
				expect(t, "meanwhile", a, "503 undecided")
				if got := a.header.Get("Retry-After"); got != "1" {
					t.Errorf("Retry-After: got %q, want 1", got)
				}
			}
			bothAre(`^degraded: store away \d+s, policy closed\n$`)
			fault.end(f.server)

			bothAdmit()
			bothAre("^ok\n$")
			eventually(t, "no lock is left behind", func() bool { return len(f.locks(t)) == 0 })
			eventually(t, "they decide together", func() bool { // a verdict that was late leaves its lock for a while
				body := fmt.Sprint("held ", len(answers))
				return send(0, "/held", body).status == http.StatusOK && send(1, "/held", body).status == http.StatusConflict
			})
			u.expectAgreement(t, answers)
		})
	}
}

// A replica starts without its store, finds out without a request, and decides
// with it as soon as it is there.
func TestStoreThatIsNotThereAtTheStart(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	server := redistest.Start(t)
	server.Kill()
	r := startReplicas(t, server.URL(), 1, "--register", "hook="+u.URL, "--when-undecided", "closed")[0]
	eventually(t, "the replica is degraded", func() bool { return strings.HasPrefix(r.ready(t), "degraded: ") })
	expect(t, "without a store", post(t, r.url+"/hook", "hello"), "503 undecided")
	server.Restart()
	expect(t, "with it", decided(func() answer { return post(t, r.url+"/hook", "bye") }), "200")
	expect(t, "an equal request", post(t, r.url+"/hook", "bye"), "409 held")
}

// Fails if an outage hands out a burst, or forgets what it has admitted, if a
// replica refuses a duplicate of its own no more, or asks a store that it knows
// to be away.
func TestStoreAwayIsDecidedByThePolicyOfTheRoute(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 2, "--register", "local="+u.URL, "--register", "open="+u.URL, "--register", "closed="+u.URL, "--register", "free="+u.URL,
		"--when-undecided", "open=open", "--when-undecided", "closed=closed", "--rate", "4/h", "--rate", "free=off", "--hold", "0s,unknown=0s")
	one, other := f.replicas[0], f.replicas[1]
	f.awaitBeats(t, 2)
	expect(t, "with the store", post(t, one.url+"/open", "before"), "200")

	f.server.Kill()
	for _, r := range f.replicas {
		eventually(t, "the replica is degraded", func() bool {
			return regexp.MustCompile(`^degraded: store away \d+s, policy closed and local and open\n$`).MatchString(r.ready(t))
		})
	}
	a := post(t, one.url+"/local", "hello")
	expect(t, "by an empty share", a, "429 limited")
	if !strings.Contains(a.body, `"degraded":true,"share":"1/2",`) || a.header.Get("Retry-After") != "1800" {
		t.Errorf("got Retry-After %s and %s, want half of the budget, which earns one request in 1800s", a.header.Get("Retry-After"), a.body)
	}
	var answers []answer
	for i := range 10 {
		a := post(t, one.url+"/open", fmt.Sprint(i))
		expect(t, "with the budget spent", a, "200")
		answers = append(answers, a)
	}
	expect(t, "closed", post(t, one.url+"/closed", "hello"), "503 undecided")
	for _, a := range append(answers, a) {
		if got := a.header.Get("RateLimit") + a.header.Get("RateLimit-Policy"); got != "" {
			t.Errorf("%v tells of a budget that nobody knows: %s", a, got)
		}
	}
	var inFlight []<-chan answer
	for _, route := range []string{"/free", "/open"} {
		inFlight = append(inFlight, u.occupy(t, one.url+route, "in flight"))
		expect(t, "an equal request", post(t, one.url+route, "in flight"), "409 duplicate")
		expect(t, "on the other replica", post(t, other.url+route, "in flight"), "200")
	}
	if log := one.stderr.String(); !strings.Contains(log, "store_fault=store-away") {
		t.Errorf("each request has asked: %s", log)
	}

	f.server.Restart()
	for _, r := range f.replicas {
		eventually(t, "the replica is well", func() bool { return r.ready(t) == "ok\n" })
	}
	for _, r := range f.replicas {
		a := post(t, r.url+"/open", "afterwards")
		expect(t, "what was admitted meanwhile is charged", a, "429 limited")
		if strings.Contains(a.body, "degraded") || a.remaining(t, "open") != 0 {
			t.Errorf("got %s, want the whole budget's refusal", a.body)
		}
	}
	expect(t, "what was not admitted is not", post(t, other.url+"/local", "afterwards"), "200")
	eventually(t, "the store has the locks", func() bool { return len(f.locks(t)) == 2 })
	for _, r := range f.replicas {
		expect(t, "equal to one that was admitted without the store", post(t, r.url+"/free", "in flight"), "409 duplicate")
	}
	u.open()
	for _, a := range inFlight {
		expect(t, "a request that has seen the outage", <-a, "200")
	}
}
