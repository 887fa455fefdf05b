package integration

import (
	"net/http"
	"syscall"
	"testing"
)

// Fails if followers on other replicas do not get the answer, or not all of it.
func TestDuplicatesGetTheAnswerOnEveryReplica(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", "off", "--hold", "1h", "--on-duplicate", "join", "--admin", "127.0.0.1:0")
	first := u.occupy(t, f.url+"/hook", "hello")
	const followers = 59
	got := make(chan answer, followers)
	for range followers {
		go func() { got <- do(t, http.MethodPost, f.url+"/hook", "hello") }()
	}
	f.awaitInFlight(t, followers+1)
	u.open()
	want := <-first
	expect(t, "the leader", want, "200")
	for range followers {
		a := <-got
		expect(t, "a follower", a, "200")
		if a.body != want.body {
			t.Errorf("got %q, want %q", a.body, want.body)
		}
	}
	if calls := u.all(); len(calls) != 1 {
		t.Errorf("%d requests reached the upstream, want 1", len(calls))
	}
}

// Fails if followers of a replica that is killed wait for ever, or send a POST again.
func TestFollowersOfAReplicaThatDies(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", "off", "--on-duplicate", "join", "--admin", "127.0.0.1:0", "--store-timeout", "300ms", "--lock-ttl", "3s")
	// Its client is cut off with it.
	cut := u.await(t, func() answer {
		a, _ := try(t.Context(), client, http.MethodPost, f.replicas[0].url+"/hook", "hello", blocks)
		return a
	})
	var followers []<-chan answer
	for i := range 4 {
		followers = append(followers, inBackground(func() answer { return post(t, f.replicas[1+i%2].url+"/hook", "hello") }))
	}
	eventually(t, "all follow", func() bool { return inFlight(t, f) == 5 })
	f.replicas[0].signal(t, syscall.SIGKILL)
	<-cut
	for _, follower := range followers {
		expect(t, "a follower", <-follower, "409 held")
	}
	if calls := u.all(); len(calls) != 1 {
		t.Errorf("%d requests reached the upstream, want 1", len(calls))
	}
}

// inFlight is how many exchanges are under way, with those that follow.
func inFlight(t *testing.T, f *fleet) (n float64) {
	for _, r := range f.replicas {
		n += r.metric(t, "in_flight")
	}
	return n
}
