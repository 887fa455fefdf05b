package integration

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// gates lets each of an upstream's calls go on when its row says so.
type gates chan struct{}

// gated makes the upstream wait for open before it answers a call, by its query: with
// a status, or as one of its own ways.
func gated(t *testing.T) (u *upstream, open gates) {
	u, open = newUpstream(t), make(gates)
	u.does["gated"] = func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-open:
		case <-r.Context().Done():
			return
		}
		q := r.URL.Query()
		if does := q.Get("does"); does != "" {
			u.does[does](w, r)
			return
		}
		status, _ := strconv.Atoi(q.Get("status"))
		w.Header()["X-Own"] = []string{"a", "b"}
		w.Header().Set("Content-Type", "text/x-own")
		w.Header().Set("Set-Cookie", "session=leader")
		w.WriteHeader(status)
		times, _ := strconv.Atoi(q.Get("times"))
		_, _ = io.WriteString(w, strings.Repeat("its own words ", cmp.Or(times, 1000)))
	}
	return u, open
}

const isGated = doesField + ": gated"

// awaitInFlight returns once n exchanges are under way, of which none has asked the
// store for a while.
func (f *fleet) awaitInFlight(t *testing.T, n int) {
	t.Helper()
	seen, asked := 0, 0
	eventually(t, fmt.Sprint(n, " are under way"), func() bool {
		before := asked
		if asked = f.asked(t); asked == before && inFlight(t, f) == float64(n) {
			seen++
		} else {
			seen = 0
		}
		return seen == 20 // they are counted before they ask
	})
}

// expectShared fails the test unless a follower has all that the leader has.
func expectShared(t *testing.T, what string, got, want answer, balanced bool) {
	t.Helper()
	if got.status != want.status || got.body != want.body {
		t.Errorf("%s: got %v with %d bytes, want %v with %d", what, got, len(got.body), want, len(want.body))
	}
	if cookie := got.header.Get("Set-Cookie"); cookie != "" {
		t.Errorf("%s: got the leader's Set-Cookie %q", what, cookie)
	}
	if how := got.header.Get("Cache-Status"); !strings.HasPrefix(how, "throttle-proxy; ") {
		t.Errorf("%s: got Cache-Status %q", what, how)
	}
	rest := func(h http.Header) http.Header {
		h = h.Clone()
		maps.DeleteFunc(h, func(name string, _ []string) bool {
			switch name {
			case "Cache-Status", "Proxy-Status", "Set-Cookie", "Age":
				return true
			case "Date", "Server", "Connection":
				return balanced // nginx sets its own
			}
			return false
		})
		return h
	}
	if g, w := rest(got.header), rest(want.header); !maps.EqualFunc(g, w, slices.Equal) {
		t.Errorf("%s: got fields %v, want %v", what, g, w)
	}
}

// Fails if followers, wherever they are, do not get what the leader gets.
func TestWhoGetsWhat(t *testing.T) {
	t.Parallel()
	u, open := gated(t)
	f := startFleet(t, 3, "--register", "hook="+u.URL, "--register", "short="+u.URL, "--timeout", "short=4s",
		"--rate", "off", "--hold", "0s", "--dedupe", "all", "--on-duplicate", "join", "--admin", "127.0.0.1:0")
	for _, row := range []struct {
		name, method, path string
		want               string // of all
		sent               string // of a failure
	}{
		{"200", "POST", "/hook?status=200", "200", ""},
		{"200", "GET", "/hook?status=200", "200", ""},
		{"200 of 70 KB", "GET", "/hook?status=200&times=5000", "200", ""},
		{"404", "POST", "/hook?status=404", "404", ""},
		{"500", "POST", "/hook?status=500", "500", ""},
		{"503", "GET", "/hook?status=503", "503", ""},
		{"no HTTP", "POST", "/hook?does=babble", "502 upstream-refused", "maybe"},
		{"cut", "POST", "/hook?does=cut", "499 upstream-closed", "maybe"},
		{"cut", "GET", "/hook?does=cut", "499 upstream-closed", "maybe"},
		{"no answer", "POST", "/short?does=nothing", "504 upstream-timeout", "maybe"},
	} {
		t.Run(row.method+" "+row.name, func(t *testing.T) {
			before := len(u.all())
			ask := func(base string) func() answer {
				return func() answer { return do(t, row.method, base+row.path, "", isGated) }
			}
			leader := u.await(t, ask(f.replicas[0].url))
			if row.want == "504 upstream-timeout" {
				time.Sleep(time.Second) // or their own time is over at the same moment
			}
			var followers []<-chan answer
			bases := []string{f.replicas[0].url, f.replicas[1].url, f.replicas[1].url, f.replicas[2].url, f.url, f.url, f.url}
			for _, base := range bases {
				followers = append(followers, inBackground(ask(base)))
			}
			f.awaitInFlight(t, 1+len(bases))
			if row.want != "504 upstream-timeout" {
				open <- struct{}{}
			}
			want := <-leader
			expect(t, "the leader", want, row.want)
			if row.sent == "" && want.header.Get("Set-Cookie") == "" {
				t.Error("the leader got no Set-Cookie")
			}
			ids := map[string]bool{}
			for i, follower := range followers {
				got, what := <-follower, fmt.Sprint("follower ", i)
				if row.sent == "" {
					expectShared(t, what, got, want, bases[i] == f.url)
					continue
				}
				expect(t, what, got, row.want)
				if !strings.Contains(got.body, `"sent":"`+row.sent+`"`) || got.Holder.RequestID == "" {
					t.Errorf("%s: got %s, want sent %s, and a holder", what, got.body, row.sent)
				}
				if !strings.Contains(got.header.Get("Proxy-Status"), "error=") || got.header.Get("Proxy-Status") != want.header.Get("Proxy-Status") {
					t.Errorf("%s: got Proxy-Status %q, want %q", what, got.header.Get("Proxy-Status"), want.header.Get("Proxy-Status"))
				}
				ids[got.header.Get("X-Request-Id")+got.body] = true
			}
			if row.sent != "" && len(ids) != len(followers) {
				t.Errorf("%d replies for %d followers, want each its own request_id", len(ids), len(followers))
			}
			if n := len(u.all()) - before; n != 1 {
				t.Errorf("%d requests reached the upstream, want 1", n)
			}
		})
	}
	t.Run("clients that leave, and one that waits for a second", func(t *testing.T) {
		before := len(u.all())
		path := "/hook?status=200&who=leaves"
		leads, hangUp := context.WithCancel(t.Context())
		leader := u.await(t, func() answer { a, _ := try(leads, client, "POST", f.replicas[0].url+path, "", isGated); return a })
		follows, leave := context.WithCancel(t.Context())
		defer hangUp()
		defer leave()
		gone := inBackground(func() answer {
			a, _ := try(follows, client, "POST", f.replicas[1].url+path, "", isGated)
			return a
		})
		var stay []<-chan answer
		for _, r := range f.replicas {
			stay = append(stay, inBackground(func() answer { return post(t, r.url+path, "", isGated) }))
		}
		f.awaitInFlight(t, 5)
		for i, r := range f.replicas {
			expect(t, fmt.Sprint("a second at replica ", i), post(t, r.url+path, "", isGated, "Prefer: wait=1"), "409 duplicate")
		}
		hangUp()
		leave()
		<-leader
		<-gone
		f.awaitInFlight(t, 4) // the leader's exchange goes on
		open <- struct{}{}
		first := <-stay[0]
		expect(t, "who has stayed", first, "200")
		for _, other := range stay[1:] {
			if a := <-other; a.String() != "200" || a.body != first.body {
				t.Errorf("got %v, want the same", a)
			}
		}
		if n := len(u.all()) - before; n != 1 {
			t.Errorf("%d requests reached the upstream, want 1", n)
		}
	})
	t.Run("a slow upload follows what was there before its end", func(t *testing.T) {
		before := len(u.all())
		path, body, rest := "/hook?status=200&who=uploads", "he", make(chan struct{})
		slow := inBackground(func() answer {
			req, err := http.NewRequestWithContext(t.Context(), "POST", f.replicas[1].url+path, io.MultiReader(strings.NewReader(body), readerFunc(func([]byte) (int, error) {
				<-rest
				return 0, io.EOF
			}), strings.NewReader("llo")))
			if err != nil {
				t.Error(err)
				return answer{}
			}
			req.Header.Set(doesField, "gated")
			res, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return answer{}
			}
			defer res.Body.Close()
			text, _ := io.ReadAll(res.Body)
			return answer{status: res.StatusCode, header: res.Header, body: string(text)}
		})
		leader := u.await(t, func() answer { return post(t, f.replicas[0].url+path, "hello", isGated) })
		close(rest)
		f.awaitInFlight(t, 2)
		open <- struct{}{}
		expectShared(t, "the slow upload", <-slow, <-leader, false)
		if n := len(u.all()) - before; n != 1 {
			t.Errorf("%d requests reached the upstream, want 1", n)
		}
	})
	t.Run("a slow download holds nobody up", func(t *testing.T) {
		path := "/hook?status=200&who=downloads"
		began := make(chan *http.Response, 1)
		u.await(t, func() answer {
			req, _ := http.NewRequestWithContext(t.Context(), "POST", f.replicas[0].url+path, nil)
			req.Header.Set(doesField, "gated")
			res, err := client.Do(req)
			if err != nil {
				t.Error(err)
			}
			began <- res // whose body nobody reads yet
			return answer{}
		})
		var followers []<-chan answer
		for _, r := range f.replicas {
			followers = append(followers, inBackground(func() answer { return post(t, r.url+path, "", isGated) }))
		}
		f.awaitInFlight(t, 4)
		open <- struct{}{}
		for _, follower := range followers {
			expect(t, "a follower", <-follower, "200")
		}
		if res := <-began; res != nil {
			_ = res.Body.Close()
		}
	})
	t.Run("other credentials never share", func(t *testing.T) {
		before := len(u.all())
		path := "/hook?status=200&who=callers"
		var all []<-chan answer
		for i, r := range f.replicas {
			all = append(all, inBackground(func() answer {
				return post(t, r.url+path, "", isGated, "Authorization: Bearer "+strconv.Itoa(i))
			}))
		}
		for range all {
			open <- struct{}{} // each is sent
		}
		for _, one := range all {
			if a := <-one; a.header.Get("Set-Cookie") == "" || a.header.Get("Cache-Status") != "" {
				t.Errorf("got %v with Cache-Status %q, want an answer of its own", a, a.header.Get("Cache-Status"))
			}
		}
		if n := len(u.all()) - before; n != 3 {
			t.Errorf("%d requests reached the upstream, want 3", n)
		}
	})
}

// readerFunc is an [io.Reader].
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Fails if followers of a replica that is killed read more than once in all, however
// quick that is.
func TestFollowersOfAReplicaThatDiesReadOnceMore(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	var arrived atomic.Int32
	u.does["first"] = func(w http.ResponseWriter, r *http.Request) {
		if arrived.Add(1) == 1 {
			u.does["block"](w, r)
		}
		_, _ = io.WriteString(w, "once more")
	}
	f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", "off", "--dedupe", "all", "--on-duplicate", "join", "--admin", "127.0.0.1:0",
		"--store-timeout", "600ms", "--lock-ttl", "6s", "--when-undecided", "closed")
	get := func(r *replica) answer {
		a, _ := try(t.Context(), client, http.MethodGet, r.url+"/hook", "", doesField+": first")
		return a
	}
	cut := u.await(t, func() answer { return get(f.replicas[0]) })
	var followers []<-chan answer
	for i := range 20 {
		followers = append(followers, inBackground(func() answer { return get(f.replicas[1+i%2]) }))
	}
	f.awaitInFlight(t, 21)
	f.replicas[0].signal(t, syscall.SIGKILL)
	<-cut
	for _, follower := range followers {
		if a := <-follower; a.String() != "200" || a.body != "once more" {
			t.Errorf("a follower got %v %q, want the second answer", a, a.body)
		}
	}
	if calls := u.all(); len(calls) != 2 {
		t.Errorf("%d requests reached the upstream, want 2", len(calls))
	}
}

// Fails if those who follow what cannot be shared wait for more than its header, are
// sent at once, or one after the other.
func TestFollowersOfWhatIsNotShared(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprint("whole at once: ", whole), func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			defer u.open()
			header := make(chan struct{})
			u.does["alone"] = func(w http.ResponseWriter, r *http.Request) {
				<-header
				w.Header().Set("Cache-Control", "no-store")
				if !whole {
					_ = http.NewResponseController(w).Flush()
					u.does["block"](w, r)
				}
				_, _ = io.WriteString(w, "its own")
			}
			f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", "off", "--dedupe", "all", "--on-duplicate", "join", "--admin", "127.0.0.1:0")
			get := func(base string) answer { return do(t, http.MethodGet, base+"/hook", "", doesField+": alone") }
			leader := u.await(t, func() answer { return get(f.replicas[0].url) })
			var followers []<-chan answer
			for i := range 50 {
				followers = append(followers, inBackground(func() answer {
					return get(append([]string{f.url}, f.replicas[0].url, f.replicas[1].url, f.replicas[2].url)[i%4])
				}))
			}
			f.awaitInFlight(t, 51)
			close(header)
			own := 0
			for _, follower := range followers { // though the answer goes on
				if a := <-follower; a.String() == "200" {
					own++
				} else {
					expect(t, "a follower", a, "409 not-shareable")
				}
			}
			most := 1
			if !whole {
				most = 0
				for i, r := range f.replicas {
					expect(t, fmt.Sprint("who comes later at replica ", i), get(r.url), "409 duplicate")
				}
			}
			u.open()
			expect(t, "the leader", <-leader, "200")
			if own > most || len(u.all()) != 1+own || u.most != 1 {
				t.Errorf("%d followers were sent, %d requests reached the upstream, %d at once; want %d at most, each once, and one at once", own, len(u.all()), u.most, most)
			}
		})
	}
}

// A replica that ends lets its leaders end, for their followers elsewhere too.
func TestFollowersAndReplicasThatEnd(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]int{"the leader's": 0, "a follower's": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, open := gated(t)
			f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", "off", "--on-duplicate", "join", "--admin", "127.0.0.1:0")
			path := "/hook?" + url.Values{"status": {"200"}}.Encode()
			leader := u.await(t, func() answer { return post(t, f.replicas[0].url+path, "", isGated) })
			var followers []<-chan answer
			for _, r := range f.replicas {
				followers = append(followers, inBackground(func() answer { return post(t, r.url+path, "", isGated) }))
			}
			f.awaitInFlight(t, 4)
			f.replicas[ends].signal(t, syscall.SIGTERM)
			eventually(t, "it drains", func() bool { return strings.Contains(f.replicas[ends].stderr.String(), "drain") })
			open <- struct{}{}
			expect(t, "the leader", <-leader, "200")
			for i, follower := range followers {
				expect(t, fmt.Sprint("follower at replica ", i), <-follower, "200")
			}
			if n := len(u.all()); n != 1 {
				t.Errorf("%d requests reached the upstream, want 1", n)
			}
		})
	}
}
