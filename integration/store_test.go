package integration

import (
	"fmt"
	"net/http"
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
				"--hold", "0s", "--hold", "held=1h", "--store-timeout", "500ms")
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
					eventually(t, "the replica is "+want, func() bool { return strings.HasPrefix(r.ready(t), want) })
				}
			}
			bothAdmit()
			bothAre("ok\n")

			fault.begin(f.server)
			for i := range 4 {
				a := send(i%2, "/hook", fmt.Sprint("meanwhile ", i))
				expect(t, "meanwhile", a, "503 undecided")
				if got := a.header.Get("Retry-After"); got != "1" {
					t.Errorf("Retry-After: got %q, want 1", got)
				}
			}
			bothAre("degraded: store away ")
			fault.end(f.server)

			bothAdmit()
			bothAre("ok\n")
			eventually(t, "no lock is left behind", func() bool { return len(f.locks(t)) == 0 })
			expect(t, "one replica", decided(func() answer { return send(0, "/held", "hello") }), "200")
			if a := decided(func() answer { return send(1, "/held", "hello") }); a.status != http.StatusConflict {
				t.Errorf("an equal request on the other: got %v, want 409", a)
			}
			u.expectAgreement(t, answers)
		})
	}
}

// A replica starts without its store, and decides with it as soon as it is there.
func TestStoreThatIsNotThereAtTheStart(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	server := redistest.Start(t)
	server.Kill()
	r := startReplicas(t, server.URL(), 1, "--register", "hook="+u.URL)[0]
	expect(t, "without a store", post(t, r.url+"/hook", "hello"), "503 undecided")
	server.Restart()
	expect(t, "with it", decided(func() answer { return post(t, r.url+"/hook", "bye") }), "200")
	expect(t, "an equal request", post(t, r.url+"/hook", "bye"), "409 held")
}
