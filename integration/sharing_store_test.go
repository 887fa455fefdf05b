package integration

import (
	"fmt"
	"strings"
	"testing"
)

// What followers get while the store is away.
func TestFollowersWithoutTheStore(t *testing.T) {
	t.Parallel()
	u, open := gated(t)
	f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", "off", "--on-duplicate", "join", "--hold", "1h", "--admin", "127.0.0.1:0",
		"--store-timeout", "500ms", "--lock-ttl", "20s", "--timeout", "10m")
	ask := func(replica int, row string) <-chan answer {
		return inBackground(func() answer {
			return post(t, f.replicas[replica].url+"/hook?status=200&row="+row, "", isGated)
		})
	}
	lead := func(row string) <-chan answer {
		before := len(u.all())
		leader := ask(0, row)
		eventually(t, "it leads", func() bool { return len(u.all()) > before })
		return leader
	}
	answers := func(leader <-chan answer, followers ...<-chan answer) {
		t.Helper()
		want := <-leader
		expect(t, "the leader", want, "200")
		for i, follower := range followers {
			expectShared(t, fmt.Sprint("follower ", i), <-follower, want, false)
		}
	}
	back := func() {
		t.Helper()
		f.server.Resume()
		for _, r := range f.replicas {
			eventually(t, "the store is back", func() bool { return strings.HasPrefix(r.ready(t), "ok") })
		}
	}
	f.server.Pause() // before
	leader := lead("before")
	own := ask(0, "before")
	eventually(t, "it follows", func() bool { return inFlight(t, f) == 2 })
	open <- struct{}{}
	answers(leader, own)
	back()

	leader = lead("during")
	own, others := ask(0, "during"), []<-chan answer{ask(1, "during"), ask(2, "during")}
	f.awaitInFlight(t, 4)
	f.server.Pause()
	open <- struct{}{}
	want := <-leader
	expectShared(t, "on the leader's replica", <-own, want, false) // at once
	back()
	for _, other := range others {
		expectShared(t, "on another, once it is back", <-other, want, false)
	}

	f.server.Pause() // after, while it is held
	expect(t, "while it is held and away", <-ask(0, "during"), "409 held")
	back()
	for i := range f.replicas {
		expectShared(t, "while it is held", <-ask(i, "during"), want, false)
	}

	leader = lead("lost")
	own, others = ask(0, "lost"), []<-chan answer{ask(1, "lost"), ask(2, "lost")}
	f.awaitInFlight(t, 4)
	f.server.Kill()
	f.server.Restart()
	open <- struct{}{}
	answers(leader, own)
	for _, other := range others {
		if a := <-other; a.String() != "200" && a.String() != "409 held" {
			t.Errorf("after a restart without the data: got %v, want the answer, or that it is not known", a)
		}
	}
	if n := len(u.all()); n != 3 {
		t.Errorf("%d requests reached the upstream, want 3", n)
	}
}
