package integration

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// An upstream that asks for a pause gets it, from every replica.

const asksToPause = doesField + ": pause"

// pausing is an upstream that answers requests which ask for a pause by a status and
// fields.
func pausing(t *testing.T, status int, fields ...string) *upstream {
	u := newUpstream(t)
	u.does["pause"] = func(w http.ResponseWriter, _ *http.Request) {
		for _, field := range append([]string{"X-Own: a", "X-Own: b", "Content-Type: text/x-own"}, fields...) {
			name, value, _ := strings.Cut(field, ": ")
			w.Header().Add(name, value)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "its own words")
	}
	return u
}

// expectCooling fails the test unless a refuses for up to so many seconds.
func expectCooling(t *testing.T, what string, a answer, most int) {
	t.Helper()
	expectPaused(t, what, a, 429, most)
}

// expectPaused is expectCooling for a pause that began with a status.
func expectPaused(t *testing.T, what string, a answer, status, most int) {
	t.Helper()
	expect(t, what, a, fmt.Sprint(status, " cooling-down"))
	if left, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || left < 1 || left > most {
		t.Errorf("%s: got Retry-After %q, want 1 to %d", what, a.header.Get("Retry-After"), most)
	}
}

// Fails if a replica keeps to itself what its upstream asked for, if the caller
// who was told first gets another answer than the upstream's, or if the pause
// has no cap.
func TestCoolDownHoldsOnEveryReplica(t *testing.T) {
	t.Parallel()
	// Its clock is years behind: the date is an hour ahead by its own.
	behind := []string{"Date: Tue, 03 Jun 2008 11:05:30 GMT", "Retry-After: Tue, 03 Jun 2008 12:05:30 GMT"}
	for name, tt := range map[string]struct {
		replicas int // 0 for one without a Redis
		status   int
		fields   []string
	}{
		"fleet, 429 and seconds":    {2, 429, []string{"Retry-After: 3600"}},
		"fleet, 503 and a date":     {2, 503, behind},
		"one process, 429":          {0, 429, []string{"Retry-After: 3600"}},
		"one process, 503 and date": {0, 503, behind},
	} {
		t.Run(name, func(t *testing.T) {
			u := pausing(t, tt.status, tt.fields...)
			words := []string{"--register", "hook=" + u.URL, "--register", "free=" + u.URL, "--rate", "off", "--cool-down", "free=off"}
			var replicas []*replica
			var f *fleet
			if tt.replicas == 0 {
				replicas = []*replica{startReplica(t, words...)}
			} else {
				f = startFleet(t, tt.replicas, words...)
				replicas = f.replicas
			}
			a := post(t, replicas[0].url+"/hook", "hello", asksToPause)
			wantRetryAfter := strings.TrimPrefix(tt.fields[len(tt.fields)-1], "Retry-After: ")
			if a.status != tt.status || a.body != "its own words" || a.header.Get("Retry-After") != wantRetryAfter ||
				!slices.Equal(a.header["X-Own"], []string{"a", "b"}) || a.header.Get("Content-Type") != "text/x-own" || a.header.Get("Proxy-Status") != "" {
				t.Errorf("the caller who met it got %d %v %q, want the upstream's own answer", a.status, a.header, a.body)
			}
			for _, r := range replicas {
				const most = 5 * 60
				expectPaused(t, "an equal request", post(t, r.url+"/hook", "hello"), tt.status, most)
				expectPaused(t, "another one", post(t, r.url+"/hook/path", "other", "Cookie: one"), tt.status, most)
				expectPaused(t, "GET", do(t, http.MethodGet, r.url+"/hook", ""), tt.status, most)
			}
			if n := len(u.all()); n != 1 {
				t.Errorf("%d requests reached the upstream, want 1", n)
			}
			for i, r := range replicas {
				expect(t, "where it is off", post(t, r.url+"/free", fmt.Sprint(i), asksToPause), fmt.Sprint(tt.status))
				expect(t, "where it is off", post(t, r.url+"/free", fmt.Sprint(i, "again")), "200")
			}
			if f == nil {
				return
			}
			keys := f.redis.Keys(t.Context(), keyPrefix+"*:cool*").Val()
			if len(keys) != 1 || !strings.HasPrefix(keys[0], keyPrefix+"{hook}:cool:") {
				t.Fatalf("got the cool-downs %q, want one of hook's callers without credentials", keys)
			}
			if left := f.redis.PTTL(t.Context(), keys[0]).Val(); left <= 0 || left > 5*time.Minute {
				t.Errorf("the pause has %s to go, want up to 5m", left)
			}
			value := f.redis.Get(t.Context(), keys[0]).Val()
			if format := regexp.MustCompile(fmt.Sprintf(`^\d{13} (300000|29\d{4}) %d$`, tt.status)); !format.MatchString(value) {
				t.Errorf("it is %q, want until when, what was left of 300000 ms when that was told, and %d", value, tt.status)
			}
		})
	}
}

// Fails if one caller's pause stops others, or tells Redis who it is.
func TestCoolDownIsTheCallersWhoseCredentialsMetIt(t *testing.T) {
	t.Parallel()
	u := pausing(t, 429, "Retry-After: 3600")
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--register", "ours="+u.URL, "--rate", "off", "--max-cool-down", "1h",
		"--set-header", "ours=Authorization=Bearer ours")
	one, other := f.replicas[0].url, f.replicas[1].url
	alice, bob, key := "Authorization: Bearer alice", "Authorization: Bearer bob", "X-Api-Key: alice"
	n := 0
	send := func(url string, fields ...string) answer {
		n++
		return post(t, url, fmt.Sprint(n), fields...)
	}
	expect(t, "alice", send(one+"/hook", alice, asksToPause), "429")
	expect(t, "by key", send(one+"/hook", key, asksToPause), "429")
	for _, url := range []string{one, other} {
		expectCooling(t, "alice", send(url+"/hook", alice), 3600)
		expectCooling(t, "by key", send(url+"/hook", key), 3600)
		expect(t, "bob", send(url+"/hook", bob), "200")
		expect(t, "nobody", send(url+"/hook"), "200")
		expect(t, "the other route", send(url+"/ours", alice), "200")
	}
	keys := f.redis.Keys(t.Context(), keyPrefix+"{hook}:cool:*").Val()
	if text := fmt.Sprint(keys); len(keys) != 2 || strings.Contains(text, "alice") {
		t.Errorf("got %s, want two keys that do not tell whose", text)
	}

	// Who has none says nothing of those who have some.
	expect(t, "nobody", send(one+"/hook", asksToPause), "429")
	for _, url := range []string{one, other} {
		expectCooling(t, "nobody", send(url+"/hook"), 3600)
		expect(t, "bob", send(url+"/hook", bob), "200")
	}

	expect(t, "with the route's own credentials", send(one+"/ours", alice, asksToPause), "429")
	for _, url := range []string{one, other} {
		expectCooling(t, "everybody has the same", send(url+"/ours", bob), 3600)
		expectCooling(t, "everybody has the same", send(url+"/ours"), 3600)
	}
}

// Fails if callers of a URL that is a secret are told apart: to the upstream they
// are one.
func TestCoolDownOfASecretURLIsForAll(t *testing.T) {
	t.Parallel()
	u := pausing(t, 429, "Retry-After: 3600")
	f := startFleet(t, 2, "HOOK="+u.URL, "--register", "env=env:HOOK", "--register", "file=file:"+writeFile(t, "hook", []byte(u.URL)), "--rate", "off")
	for _, route := range []string{"/env", "/file"} {
		expect(t, "alice", post(t, f.replicas[0].url+route, "1", "Authorization: Bearer alice", asksToPause), "429")
		for _, r := range f.replicas {
			expectCooling(t, "bob", post(t, r.url+route, "2", "Authorization: Bearer bob"), 300)
			expectCooling(t, "nobody", post(t, r.url+route, "3"), 300)
		}
	}
}

// Fails if what upstreams are met to write is not understood, or a route learns that
// was not told to.
func TestWhatAsksForAPause(t *testing.T) {
	t.Parallel()
	in := func(d time.Duration, layout string) string { return time.Now().UTC().Add(d).Format(layout) }
	for name, tt := range map[string]struct {
		status int
		fields []string
		most   int // seconds
		learns bool
	}{
		"decimals":                {429, []string{"Retry-After: 7.2"}, 8, false},
		"a list":                  {429, []string{"Retry-After: 2, 5"}, 5, false},
		"two lines":               {503, []string{"Retry-After: 9", "Retry-After: 4"}, 9, false},
		"a date in UTC":           {429, []string{"Retry-After: " + in(time.Minute, "Mon, 02 Jan 2006 15:04:05 UTC")}, 61, false},
		"a date of +0000":         {429, []string{"Retry-After: " + in(time.Minute, time.RFC1123Z)}, 61, false},
		"403":                     {403, []string{"Retry-After: 7"}, 7, false},
		"RateLimit":               {200, []string{`RateLimit: "a";r=0;t=7`}, 7, true},
		"X-RateLimit, seconds":    {200, []string{"X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 7"}, 7, true},
		"X-RateLimit, an instant": {200, []string{"X-RateLimit-Remaining: 0", fmt.Sprint("X-RateLimit-Reset: ", time.Now().Unix()+60)}, 61, true},
	} {
		t.Run(name, func(t *testing.T) {
			u := pausing(t, tt.status, tt.fields...)
			r := startReplica(t, "--register", "learns="+u.URL, "--register", "hook="+u.URL, "--rate", "off", "--cool-down", "on", "--cool-down", "learns=learn")
			for _, route := range []string{"/learns", "/hook"} {
				if a := post(t, r.url+route, "first", asksToPause); a.status != tt.status || a.body != "its own words" {
					t.Errorf("%s: got %v %q, want the upstream's own answer", route, a, a.body)
				}
				status := 429
				if tt.status == 503 {
					status = 503
				}
				if again := post(t, r.url+route, "second"); tt.learns && route == "/hook" {
					expect(t, route, again, "200")
				} else {
					expectPaused(t, route, again, status, tt.most)
				}
			}
		})
	}
}

// Fails if a cool-down outlasts --max-cool-down because the store's clock was set
// back, or because another replica wrote a longer one.
func TestCoolDownIsNeverLongerThanAllowed(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	f := startFleet(t, 1, "--register", "hook="+u.URL, "--set-header", "Authorization=ours", "--rate", "off", "--max-cool-down", "1m")
	set := func(left, length time.Duration) {
		now := f.redis.Time(t.Context()).Val()
		f.redis.Set(t.Context(), keyPrefix+"{hook}:cool", fmt.Sprint(now.Add(left).UnixMilli(), " ", length.Milliseconds(), " 429"), time.Hour)
	}
	set(time.Hour, time.Minute)
	expect(t, "under one of an hour ago, by the clock", post(t, f.url+"/hook", "1"), "200")
	set(58*time.Minute, time.Hour)
	expect(t, "under one that began before the longest", post(t, f.url+"/hook", "2"), "200")
	set(time.Hour, time.Hour)
	expectCooling(t, "under one that has just begun", post(t, f.url+"/hook", "3"), 60)
}

// Fails if callers that are refused together are told the same: few of them come
// through, of those that do what they are told.
func TestCallersRefusedTogetherComeThrough(t *testing.T) {
	t.Parallel()
	const callers, retries, want = 20, 2, 15
	u := newUpstream(t)
	f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", "10/s,burst=1")
	f.awaitBeats(t, 3)
	answers := make([]answer, callers)
	each(callers, callers, func(i int) {
		for try := range 1 + retries {
			answers[i] = post(t, f.replicas[(i+try)%3].url+"/hook", fmt.Sprint(i))
			seconds, err := strconv.Atoi(answers[i].header.Get("Retry-After"))
			if answers[i].status == http.StatusOK || err != nil {
				return
			}
			time.Sleep(time.Duration(seconds) * time.Second)
		}
	})
	kinds := count(answers)
	if kinds["200"] < want || kinds["200"]+kinds["429 limited"] != callers || len(u.all()) != kinds["200"] {
		t.Errorf("got %v, and %d at the upstream, want at least %d through", kinds, len(u.all()), want)
	}
	t.Logf("%d of %d came through", kinds["200"], callers)
}

// A duplicate is a duplicate first. Fails if one is told to come back, at its own
// replica or at another, because the budget is spent.
func TestDuplicateComesFirst(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--rate", "2/d", "--hold", "1h")
	equal := func(when, want string) {
		t.Helper()
		for range 2 { // from here on the replica may know
			for _, r := range f.replicas {
				a := post(t, r.url+"/hook", "in flight")
				expect(t, "equal to one in flight or held, "+when, a, want)
				if wait := a.header.Get("Retry-After"); wait != "" {
					t.Errorf("%s: a duplicate is told to come back in %s", when, wait)
				}
			}
		}
	}
	first := u.occupy(t, f.replicas[0].url+"/hook", "in flight")
	equal("at first", "409 duplicate")
	second := u.occupy(t, f.replicas[1].url+"/hook", "the last of the budget")
	for _, r := range f.replicas {
		expect(t, "beyond the budget", post(t, r.url+"/hook", "new"), "429 limited")
	}
	equal("with the budget spent", "409 duplicate")
	u.open()
	expect(t, "one that was in flight", <-first, "200")
	expect(t, "one that was in flight", <-second, "200")
	eventually(t, "the lock has become a hold", func() bool {
		return post(t, f.replicas[1].url+"/hook", "in flight").String() == "409 held"
	})
	equal("with the budget spent", "409 held")
	if n := len(u.all()); n != 2 {
		t.Errorf("%d requests reached the upstream, want 2", n)
	}
}

// Fails if a limited request is told anything else while the route rests, or a
// duplicate is.
func TestCoolingDownComesBeforeLimitsAndAfterDuplicates(t *testing.T) {
	t.Parallel()
	u := pausing(t, 429, "Retry-After: 3600")
	defer u.open()
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--rate", "2/d")
	first := u.occupy(t, f.replicas[0].url+"/hook", "in flight")
	expect(t, "the last of the budget", post(t, f.replicas[1].url+"/hook", "hello", asksToPause), "429")
	for range 2 { // from here on the replica knows
		for _, r := range f.replicas {
			expectCooling(t, "beyond the budget", post(t, r.url+"/hook", "new"), 300)
			expect(t, "equal to one in flight", post(t, r.url+"/hook", "in flight"), "409 duplicate")
		}
	}
	u.open()
	expect(t, "one that was in flight before", <-first, "200")
	if n := len(u.all()); n != 2 {
		t.Errorf("%d requests reached the upstream, want 2", n)
	}
}

// Fails if a pause does not end, ends too early, or needs a restart.
func TestCoolDownEnds(t *testing.T) {
	t.Parallel()
	const pause = 2 * time.Second
	u := pausing(t, 429, "Retry-After: 2")
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--rate", "off")
	expect(t, "the upstream asks", post(t, f.replicas[0].url+"/hook", "hello", asksToPause), "429")
	began := u.last().start
	for i, r := range f.replicas {
		eventually(t, "the pause is over", func() bool {
			a := post(t, r.url+"/hook", fmt.Sprint("after ", i))
			if a.status == http.StatusTooManyRequests {
				expectCooling(t, "meanwhile", a, 2)
				return false
			}
			expect(t, "afterwards", a, "200")
			return true
		})
	}
	calls := u.all()
	if len(calls) != 3 {
		t.Fatalf("%d requests reached the upstream, want 3", len(calls))
	}
	const clocks = 20 * time.Millisecond // the test's and the store's
	for _, c := range calls[1:] {
		if after := c.start.Sub(began); after < pause-clocks {
			t.Errorf("admitted %s after the upstream had asked for %s", after, pause)
		}
	}
}

// Fails if a pause needs the store, or is forgotten when the store is back.
func TestCoolDownWithoutTheStore(t *testing.T) {
	t.Parallel()
	u := pausing(t, 429, "Retry-After: 3600")
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--rate", "off")
	one, other := f.replicas[0], f.replicas[1]
	f.server.Kill()
	for _, r := range f.replicas {
		eventually(t, "the replica is degraded", func() bool { return strings.HasPrefix(r.ready(t), "degraded: ") })
	}
	expect(t, "the upstream asks", post(t, one.url+"/hook", "hello", asksToPause), "429")
	expectCooling(t, "the replica that was told", post(t, one.url+"/hook", "next"), 300)
	expect(t, "one that cannot know", post(t, other.url+"/hook", "other"), "200")
	f.server.Restart()
	n := 0
	eventually(t, "the other knows as well", func() bool {
		n++
		return post(t, other.url+"/hook", fmt.Sprint(n)).String() == "429 cooling-down"
	})
	expectCooling(t, "the replica that was told", post(t, one.url+"/hook", "next"), 300)
}
