package integration

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// Laws 1, 3 and 4: at most one exchange for equal requests, refused requests
// never reach the upstream, and each request gets one answer.

// Fails if replicas do not share locks, or look before they lock.
func TestEqualRequestIsRefusedByEveryReplica(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", "off", "--hold", "1h")
	first := u.occupy(t, f.url+"/hook", "hello")
	holder := u.last().header.Get("X-Request-Id")
	replica := ""
	refused := func(url string) answer {
		a := post(t, url+"/hook", "hello")
		expect(t, "an equal request", a, "409 duplicate")
		if a.Holder.RequestID != holder {
			t.Errorf("told of holder %q, want %q", a.Holder.RequestID, holder)
		}
		return a
	}
	for _, r := range f.replicas {
		a := refused(r.url)
		if replica == "" {
			replica = a.Holder.Replica
		}
		if replica == "" || a.Holder.Replica != replica {
			t.Errorf("told of replica %q, and of %q", replica, a.Holder.Replica)
		}
	}
	each(60, 20, func(int) { refused(f.url) })
	u.open()
	expect(t, "the first", <-first, "200")
	for _, r := range f.replicas {
		eventually(t, "the lock has become a hold", func() bool {
			return post(t, r.url+"/hook", "hello").String() == "409 held"
		})
	}
	if calls := u.all(); len(calls) != 1 {
		t.Errorf("%d requests reached the upstream, want 1", len(calls))
	}
}

// A request can differ from another in any of these, and in no other way.
func TestDifferentRequestsNeverCollide(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--register", "other="+u.URL, "--rate", "off",
		"--rate", "other=1000/s,by=header:Tenant")
	requests := []struct {
		name, method, target, body string
		fields                     []string
	}{
		{"plain", "POST", "/hook/a", "body", nil},
		{"another route", "POST", "/other/a", "body", nil},
		{"another method", "PUT", "/hook/a", "body", nil},
		{"another path", "POST", "/hook/b", "body", nil},
		{"a path in other spelling", "POST", "/hook/%61", "body", nil},
		{"a final slash", "POST", "/hook/a/", "body", nil},
		{"a query", "POST", "/hook/a?b", "body", nil},
		{"a query in the path", "POST", "/hook/a%3Fb", "body", nil},
		{"a query that begins early", "POST", "/hook/a?bc", "body", nil},
		{"a query that begins late", "POST", "/hook/ab?c", "body", nil},
		{"an empty body", "POST", "/hook/a", "", nil},
		{"another body", "POST", "/hook/a", "Body", nil},
		{"a body with the path's end", "POST", "/hook/", "abody", nil},
		{"Content-Type", "POST", "/hook/a", "body", []string{"Content-Type: text/plain"}},
		{"Content-Encoding", "POST", "/hook/a", "body", []string{"Content-Encoding: gzip"}},
		{"Authorization", "POST", "/hook/a", "body", []string{"Authorization: one"}},
		{"another Authorization", "POST", "/hook/a", "body", []string{"Authorization: two"}},
		{"Cookie", "POST", "/hook/a", "body", []string{"Cookie: one"}},
		{"X-Api-Key", "POST", "/hook/a", "body", []string{"X-Api-Key: one"}},
		{"Api-Key", "POST", "/hook/a", "body", []string{"Api-Key: one"}},
		{"Idempotency-Key", "POST", "/hook/a", "body", []string{"Idempotency-Key: one"}},
		{"one value", "POST", "/hook/a", "body", []string{"X-Api-Key: one,two"}},
		{"two values", "POST", "/hook/a", "body", []string{"X-Api-Key: one", "X-Api-Key: two"}},
		{"two values, cut elsewhere", "POST", "/hook/a", "body", []string{"X-Api-Key: on", "X-Api-Key: etwo"}},
		{"a value that moved", "POST", "/hook/a", "body", []string{"Api-Key: one", "X-Api-Key: two"}},
		{"a value that moved back", "POST", "/hook/a", "body", []string{"Api-Key: two", "X-Api-Key: one"}},
		{"who has the budget", "POST", "/other/a", "body", []string{"Tenant: one"}},
	}
	var inFlight []<-chan answer
	send := func(i int, fields ...string) answer {
		r := requests[i]
		url := f.replicas[(i+len(fields))%2].url + r.target
		return do(t, r.method, url, r.body, append(append([]string{blocks}, r.fields...), fields...)...)
	}
	for i := range requests {
		inFlight = append(inFlight, u.await(t, func() answer { return send(i) }))
	}
	for i, r := range requests {
		// What says nothing of the request, and how its body is framed.
		expect(t, r.name+", again", send(i, "User-Agent: another"), "409 duplicate")
		expect(t, r.name+", again in chunks", send(i, "Transfer-Encoding: chunked", "Accept: */*"), "409 duplicate")
	}
	u.open()
	for i, first := range inFlight {
		expect(t, requests[i].name, <-first, "200")
	}
}

// Reads are no duplicates of each other, unless they are told to be.
func TestSafeMethodsAreNotRefused(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	r := startReplica(t, "--register", "hook="+u.URL, "--register", "all="+u.URL, "--dedupe", "all=all", "--rate", "off")
	get := func(route string) <-chan answer {
		return u.await(t, func() answer { return do(t, http.MethodGet, r.url+route, "", blocks) })
	}
	answers := []<-chan answer{get("/hook"), get("/hook"), get("/all")}
	expect(t, "an equal GET with --dedupe all", do(t, http.MethodGet, r.url+"/all", ""), "409 duplicate")
	u.open()
	for _, a := range answers {
		expect(t, "GET", <-a, "200")
	}
}

func startOne(t *testing.T, words ...string) (url string)   { return startReplica(t, words...).url }
func startThree(t *testing.T, words ...string) (url string) { return startFleet(t, 3, words...).url }

// Under load, with nothing that slows a race down: no hold, and budgets that
// never refuse. On a Redis Cluster a verdict's keys must be on one node.
func TestLawsHoldUnderLoad(t *testing.T) {
	t.Parallel()
	const requests, keys, workers = 2000, 40, 24
	for name, start := range map[string]func(t *testing.T, words ...string) (url string){
		"one process": startOne,
		"fleet":       startThree,
		"fleet on a Redis Cluster": func(t *testing.T, words ...string) string {
			return startBalancer(t, startReplicas(t, redistest.StartCluster(t).URL(), 3, words...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			routes := []string{"/one", "/two", "/three", "/four"} // on different nodes
			words := []string{"--hold", "0s,unknown=0s", "--rate", "100000/s", "--rate", "1000000/d"}
			for _, route := range routes {
				words = append(words, "--register", route[1:]+"="+u.URL+route)
			}
			url := start(t, words...)
			answers := make([]answer, requests)
			each(requests, workers, func(i int) {
				key := rand.IntN(keys)
				answers[i] = post(t, url+routes[key%len(routes)], fmt.Sprint(key), dawdles)
			})
			u.expectAgreement(t, answers)
			if u.most != 1 {
				t.Errorf("%d equal requests were in flight at once", u.most)
			}
			kinds := count(answers)
			if kinds["200"] == 0 || kinds["409 duplicate"] == 0 || len(kinds) != 2 {
				t.Errorf("answers: %v", kinds)
			}
			t.Logf("answers: %v", kinds)
		})
	}
}

// Fails if the lock is released after the answer's end instead of before it.
func TestClientThatRepeatsItselfInSequenceIsNeverRefused(t *testing.T) {
	t.Parallel()
	const longest = 45 * time.Second // on a machine that is busy with other things
	kinds := []string{plain, chunks, empties, writes40KiB}
	for name, c := range map[string]struct {
		start func(t *testing.T, words ...string) (url string)
		tries int
	}{
		"one process": {startOne, 10_000},
		"fleet":       {startThree, 3_000},
		"fleet of one, no load balancer": {func(t *testing.T, words ...string) string {
			return startFleet(t, 1, words...).replicas[0].url
		}, 10_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			url := c.start(t, "--register", "hook="+u.URL, "--hold", "0s,unknown=0s", "--rate", "off")
			done := 0
			for began := time.Now(); done < c.tries && time.Since(began) < longest; done++ {
				if a := post(t, url+"/hook", "again", kinds[done/100%len(kinds)]); a.status/100 != 2 {
					t.Fatalf("try %d: %v", done, a)
				}
			}
			t.Logf("%d of %d tries", done, c.tries)
		})
	}
}

// The Transport resends what carries an idempotency key, once it is written to
// a connection that was used before.
func TestPostIsNeverSentTwice(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	r := startReplica(t, "--register", "hook="+u.URL, "--rate", "off", "--hold", "0s,unknown=0s")
	for i := range 20 {
		post(t, r.url+"/hook", fmt.Sprint("warm up ", i))
		a := post(t, r.url+"/hook", fmt.Sprint(i), cuts, "Idempotency-Key: one", "X-Idempotency-Key: one")
		expect(t, "a request that was cut", a, "499 upstream-closed")
		if n := u.arrivals(a.nonce); n != 1 {
			t.Errorf("it arrived %d times", n)
		}
	}
}
