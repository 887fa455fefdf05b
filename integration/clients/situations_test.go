package clients

import (
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	"throttle-proxy/integration/redistest"
)

// situation is one in which the proxy answers by itself.
type situation struct {
	name string // of its column
	plays
}

// plays puts a cell in a situation and returns what the client's caller saw.
type plays func(*cell) error

// allSituations returns the columns of the table.
func allSituations(t *testing.T) []situation {
	store := redistest.Start(t)
	return []situation{
		{"409 in flight", playInFlight},
		{"409 held", playHeld},
		{"429 limited", playLimited},
		{"499 cut", func(x *cell) error { return playCut(x) }},
		{"502 cut", func(x *cell) error { return playCut(x, "--upstream-closed-status", "502") }},
		{"502 refused", playRefused},
		{"503 draining", func(x *cell) error { return playDraining(x, store.URL()) }},
		{"503 too many", playTooMany},
		{"503 undecided", playUndecided},
		{"504 timeout", playTimeout},
	}
}

// playInFlight sends the message while an equal one is in flight, which it is
// for longer than the client tries.
func playInFlight(x *cell) error {
	ended := make(chan struct{})
	x.answers = func(w http.ResponseWriter) {
		<-ended
		x.accept(w)
	}
	x.start()
	first := make(chan error, 1)
	go func() { first <- x.send() }()
	x.await()
	err := x.send()
	close(ended)
	if err := <-first; err != nil {
		x.Errorf("the message in flight: %v", err)
	}
	return err
}

// playHeld sends the message a second time right after it has succeeded. The
// hold outlasts the test, but for a client that repeats it until it is over.
func playHeld(x *cell) error {
	hold := "10m"
	if x.client.repeats != "" {
		hold = "1s"
	}
	x.start("--hold", hold)
	if err := x.send(); err != nil {
		x.Errorf("the first message: %v", err)
	}
	return x.send()
}

// playLimited sends it while the budget is spent: for so long that a client comes
// too early that does not wait as it is told.
func playLimited(x *cell) error {
	period := "3s"
	if x.client.deaf {
		period = "1h"
	}
	x.start("--rate", x.client.route+"=1/"+period)
	x.occupy()()
	return x.send()
}

// playCut lets the upstream cut the connection when it has read the message.
func playCut(x *cell, words ...string) error {
	x.answers = cut
	x.start(words...)
	return x.send()
}

// playRefused refuses the connection to the upstream once.
func playRefused(x *cell) error {
	link := redistest.NewLink(x, x.upstream.Listener.Addr().String())
	link.Refuse()
	x.then(link.Heal)
	_, address := startReplica(x.T, x.words("http://"+link.Addr)...)
	x.to(address)
	return x.send()
}

var fleets atomic.Int64

// playDraining ends the replica that has sent the message; another one of the
// fleet gets what the client sends then.
func playDraining(x *cell, store string) error {
	var sent atomic.Bool
	x.answers = func(w http.ResponseWriter) {
		if sent.Swap(true) {
			x.accept(w)
			return
		}
		<-x.Context().Done()
	}
	words := x.words(x.upstream.URL, "--redis", store, "--redis-prefix", "fleet-"+strconv.FormatInt(fleets.Add(1), 10),
		"--store-timeout", "5s", "--lock-ttl", "10m", "--drain-timeout", "500ms")
	process, first := startReplica(x.T, words...)
	_, second := startReplica(x.T, words...)
	x.to(first)
	result := make(chan error, 1)
	go func() { result <- x.send() }()
	x.await()
	x.to(second)
	if err := process.Signal(syscall.SIGTERM); err != nil {
		x.Fatal(err)
	}
	return <-result
}

// playTooMany sends it while the replica has as many exchanges as it may have,
// until the client has been told so.
func playTooMany(x *cell) error {
	x.start("--max-in-flight", "1")
	x.then(x.occupy())
	return x.send()
}

// playUndecided sends it while the store is away.
func playUndecided(x *cell) error {
	link := redistest.NewLink(x, net.JoinHostPort("127.0.0.1", "1"))
	link.Refuse()
	x.start("--redis", link.URL(), "--when-undecided", "closed")
	return x.send()
}

// playTimeout lets the upstream take longer than the route's timeout.
func playTimeout(x *cell) error {
	x.answers = func(http.ResponseWriter) { <-x.Context().Done() }
	x.start("--timeout", "1s")
	return x.send()
}
