package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"throttle-proxy/integration/redistest"
)

// Fails if an answer that is its leader's alone reaches anybody else, on the leader's
// replica or over Redis, or if one that may be shared is not.
func TestWhatIsNotShared(t *testing.T) {
	t.Parallel()
	with := func(name, value string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(name, value) }
	}
	long := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 257<<10)) }
	rows := []struct {
		name, method string
		answer       http.HandlerFunc // behind the nonce, but for what it sets before
		want         string           // of followers
	}{
		{"plain", "GET", with("X-Own", "a"), "200"},
		{"no-store, to what changes", "POST", with("Cache-Control", "no-store"), "200"},
		{"too large", "POST", long, "409 not-shareable"},
		{"too large by its length", "POST", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(257<<10))
			long(w, r)
		}, "409 not-shareable"},
		{"trailers", "POST", with("Trailer", "X-Sum"), "409 not-shareable"},
		{"event stream", "POST", with("Content-Type", "text/event-stream"), "409 not-shareable"},
		{"cut", "POST", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half of it")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, "409 held"},
		{"upgrade", "POST", func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\nits own protocol")
				_ = conn.Close()
			}
		}, "101"}, // each is sent
		{"no-store", "GET", with("Cache-Control", "no-store"), "409 not-shareable"},
		{"private", "GET", with("Cache-Control", "private"), "409 not-shareable"},
		{"Vary on all", "GET", with("Vary", "*"), "409 not-shareable"},
		{"Vary on what is not compared", "GET", with("Vary", "User-Agent"), "409 not-shareable"},
	}
	u := newUpstream(t)
	defer u.open()
	gate := map[string]chan struct{}{"memory": make(chan struct{}), "Redis": make(chan struct{})}
	words := []string{"--rate", "off", "--dedupe", "all", "--on-duplicate", "join", "--hold", "0s,unknown=0s", "--admin", "127.0.0.1:0"}
	for i, row := range rows {
		words = append(words, "--register", fmt.Sprint("r", i, "=", u.URL)) // a route refuses all for a while then
		u.does[row.name] = func(w http.ResponseWriter, r *http.Request) {
			<-gate[r.URL.RawQuery]
			row.answer(w, r)
			_, _ = io.WriteString(w, "of "+r.Header.Get(nonceField))
		}
	}
	shared := startFleet(t, 2, words...)
	alone := &fleet{replicas: []*replica{startReplica(t, words...)}}
	for _, store := range []string{"memory", "Redis"} {
		f := map[string]*fleet{"memory": alone, "Redis": shared}[store]
		type flight struct {
			leader    <-chan answer
			followers []<-chan answer
		}
		flights := make([]flight, len(rows))
		for i, row := range rows {
			ask := func(r *replica) func() answer {
				return func() answer {
					fields := []string{doesField + ": " + row.name}
					if row.name == "upgrade" {
						fields = append(fields, "Connection: Upgrade", "Upgrade: own")
					}
					a, _ := try(t.Context(), client, row.method, r.url+fmt.Sprint("/r", i, "?", store), "", fields...)
					return a
				}
			}
			flights[i].leader = u.await(t, ask(f.replicas[0]))
			for range 2 {
				flights[i].followers = append(flights[i].followers, inBackground(ask(f.replicas[len(f.replicas)-1])))
			}
		}
		if f == shared {
			f.awaitInFlight(t, 3*len(rows))
			eventually(t, "all are wanted", func() bool { return wanted(t, []*redistest.Server{f.server}) == len(rows)-1 }) // but the upgrade
		} else {
			eventually(t, "all follow", func() bool { return inFlight(t, f) == float64(3*len(rows)) })
		}
		close(gate[store])
		for i, row := range rows {
			leader, own := <-flights[i].leader, 0
			for _, follower := range flights[i].followers {
				switch a := <-follower; {
				case row.want == "200":
					expectShared(t, store+", "+row.name, a, leader, false)
				case a.String() == "200" && row.method == "GET" && a.body == "of "+a.nonce: // one may go itself
					own++
				default:
					expect(t, store+", "+row.name, a, row.want)
				}
			}
			if own > 1 {
				t.Errorf("%s, %s: %d followers went themselves, want one at most", store, row.name, own)
			}
		}
	}
}

// With fresh, Set-Cookie is for those alone who were sent, and nobody shares with
// other credentials.
func TestFreshKeepsCookiesAndCallersApart(t *testing.T) {
	t.Parallel()
	u, open := gated(t)
	f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", "off", "--dedupe", "all", "--on-duplicate", "fresh", "--admin", "127.0.0.1:0")
	for _, method := range []string{"POST", "GET"} {
		before := len(u.all())
		ask := func(base string, fields ...string) func() answer {
			return func() answer { return do(t, method, base+"/hook?status=200", "", append(fields, isGated)...) }
		}
		leader := u.await(t, ask(f.replicas[0].url))
		var followers []<-chan answer
		for i := range 6 {
			followers = append(followers, inBackground(ask(f.replicas[i%3].url)))
		}
		f.awaitInFlight(t, 7)
		open <- struct{}{}
		if a := <-leader; a.header.Get("Set-Cookie") == "" || a.header.Get("Cache-Status") != "" {
			t.Errorf("%s, the leader: got %v with %v", method, a, a.header)
		}
		open <- struct{}{} // for one of those that came later
		sent := 0
		for _, follower := range followers {
			a := <-follower
			expect(t, method, a, "200")
			cookie, joined := a.header.Get("Set-Cookie") != "", a.header.Get("Cache-Status") != ""
			if cookie == joined {
				t.Errorf("%s: got Set-Cookie %v and Cache-Status %v, want one of them", method, cookie, joined)
			}
			if cookie {
				sent++
			}
		}
		if n := len(u.all()) - before; n != 2 || sent != 1 {
			t.Errorf("%s: %d requests reached the upstream and %d followers had a cookie, want 2 and 1", method, n, sent)
		}
		var callers []<-chan answer
		for i, r := range f.replicas {
			callers = append(callers, inBackground(ask(r.url, fmt.Sprint("Authorization: Bearer ", i))))
		}
		for range callers {
			open <- struct{}{} // each is sent
		}
		for _, caller := range callers {
			if a := <-caller; a.header.Get("Set-Cookie") == "" || a.header.Get("Cache-Status") != "" {
				t.Errorf("%s: got %v with Cache-Status %q, want an answer of its own", method, a, a.header.Get("Cache-Status"))
			}
		}
	}
}

// Clients of HTTP/2 over TLS share as others do.
func TestAnswersAreSharedOverHTTP2AndTLS(t *testing.T) {
	t.Parallel()
	pair, cert, key := newKeyPair(t, "replica.test")
	u, open := gated(t)
	server := redistest.Start(t)
	replicas := startReplicas(t, server.URL(), 2, "--register", "hook="+u.URL, "--rate", "off", "--dedupe", "all", "--on-duplicate", "join",
		"--tls-cert", writeFile(t, "cert.pem", cert), "--tls-key", writeFile(t, "key.pem", key))
	c := protoClient(t, &http.Transport{TLSClientConfig: trusting(pair)}, func(p *http.Protocols) { p.SetHTTP2(true) })
	for _, method := range []string{"POST", "GET"} {
		before := len(u.all())
		ask := func(on int) func() answer {
			return func() answer {
				a, err := try(t.Context(), c, method, "https://"+replicas[on].addr+"/hook?status=404&times=5000", "", isGated)
				if err != nil {
					t.Errorf("no answer: %v", err)
				}
				return a
			}
		}
		leader := u.await(t, ask(0))
		followers := []<-chan answer{inBackground(ask(1)), inBackground(ask(1))}
		eventually(t, "it is followed", func() bool { return wanted(t, []*redistest.Server{server}) == 1 })
		open <- struct{}{}
		want := <-leader
		expect(t, "the leader", want, "404")
		expectShared(t, method, <-followers[0], want, false)
		if method == "POST" { // who comes late here has the hold's
			expectShared(t, method, <-followers[1], want, false)
		} else {
			select {
			case open <- struct{}{}:
				<-followers[1]
				before++
			case a := <-followers[1]:
				expectShared(t, method, a, want, false)
			}
		}
		if n := len(u.all()) - before; n != 1 {
			t.Errorf("%s: %d requests reached the upstream, want 1", method, n)
		}
	}
}

// Followers of a leader that could send nothing are told so as well.
func TestFollowersOfARefusedConnection(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	came, refuse := make(chan struct{}, 100), make(chan struct{})
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			came <- struct{}{}
			go func() {
				<-refuse // the handshake
				_ = conn.Close()
			}()
		}
	}()
	f := startFleet(t, 2, "--register", "hook=https://"+listener.Addr().String(), "--rate", "off", "--on-duplicate", "join", "--admin", "127.0.0.1:0")
	leader := inBackground(func() answer { return post(t, f.replicas[0].url+"/hook", "") })
	<-came
	var followers []<-chan answer
	for i := range 4 {
		followers = append(followers, inBackground(func() answer { return post(t, f.replicas[i%2].url+"/hook", "") }))
	}
	f.awaitInFlight(t, 5)
	close(refuse)
	want := <-leader
	expect(t, "the leader", want, "502 upstream-refused")
	for _, follower := range followers {
		a := <-follower
		expectProblem(t, "a follower", a, want)
		if !strings.Contains(a.body, `"sent":"no"`) {
			t.Errorf("got %s, want that nothing was sent", a.body)
		}
	}
}

// expectProblem fails the test unless a problem is of another's kind.
func expectProblem(t *testing.T, what string, got, want answer) {
	t.Helper()
	kind := func(a answer) (of []string) {
		var members map[string]json.RawMessage
		_ = json.Unmarshal([]byte(a.body), &members)
		for _, name := range []string{"type", "title", "status", "reason", "sent"} {
			of = append(of, name+"="+string(members[name]))
		}
		return append(of, a.header.Get("Content-Type"))
	}
	if g, w := kind(got), kind(want); !slices.Equal(g, w) || got.status != want.status {
		t.Errorf("%s: got %v, want %v", what, g, w)
	}
}

// Followers count in --max-in-flight: beyond it they are refused at once.
func TestFollowersBeyondMaxInFlight(t *testing.T) {
	t.Parallel()
	u, open := gated(t)
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--rate", "off", "--on-duplicate", "join", "--max-in-flight", "3", "--admin", "127.0.0.1:0")
	ask := func(on int) func() answer {
		return func() answer { return post(t, f.replicas[on].url+"/hook?status=200", "", isGated) }
	}
	leader := u.await(t, ask(0))
	var followers []<-chan answer
	for _, on := range []int{0, 0, 1, 1, 1} {
		followers = append(followers, inBackground(ask(on)))
	}
	f.awaitInFlight(t, 6)
	for on := range f.replicas {
		expect(t, "one more", ask(on)(), "503 too-many-in-flight")
	}
	open <- struct{}{}
	expect(t, "the leader", <-leader, "200")
	for _, follower := range followers {
		expect(t, "a follower", <-follower, "200")
	}
}
