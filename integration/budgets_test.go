package integration

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Law 2: a budget is one for the whole fleet, and refusals spend none of it.
// Budgets of so many a day are not earned back within a test.

// Fails if each replica has a budget of its own, or refusals are charged.
func TestReplicasShareOneBudget(t *testing.T) {
	t.Parallel()
	const burst, rate, enough = 10, 20, 40
	u := newUpstream(t)
	f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", fmt.Sprintf("%d/s,burst=%d", rate, burst), "--hold", "0s,unknown=0s")
	urls := []string{f.url, f.replicas[0].url, f.replicas[1].url, f.replicas[2].url}
	var mu sync.Mutex
	var answers []answer
	eventually(t, "many requests are admitted", func() bool {
		each(100, 8, func(i int) {
			a := post(t, urls[i%len(urls)]+"/hook", strconv.FormatInt(nonces.Add(1), 10))
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, a)
		})
		return len(u.all()) >= enough
	})
	u.expectAgreement(t, answers)
	u.expectLimit(t, answers, burst, rate)
	if kinds := count(answers); kinds["429 limited"] == 0 || len(kinds) != 2 {
		t.Errorf("answers: %v", kinds)
	}
}

// Fails if a window that admits is charged where another refuses.
func TestWindowsAreChargedTogether(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"one process": 0, "fleet": 3} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			words := []string{"--register", "hook=" + u.URL, "--rate", "1000/d,name=big", "--rate", "20/d,name=small,by=header:X-Tenant"}
			var replicas []*replica
			if size == 0 {
				replicas = []*replica{startReplica(t, words...)}
			} else {
				replicas = startFleet(t, size, words...).replicas
			}
			var answers []answer
			for i := range 60 {
				answers = append(answers, post(t, replicas[i%len(replicas)].url+"/hook", fmt.Sprint(i), "X-Tenant: one"))
			}
			expectCounts(t, answers, "20 × 200", "40 × 429 limited")
			u.expectAgreement(t, answers)
			for _, a := range answers[20:] {
				if strings.Join(a.Violated, " ") != "small" {
					t.Fatalf("violated-policies: got %v, want small", a.Violated)
				}
			}
			a := post(t, replicas[0].url+"/hook", "hello", "X-Tenant: two")
			if big, small := a.remaining(t, "big"), a.remaining(t, "small"); big != 979 || small != 19 {
				t.Errorf("%v: %d and %d requests remain, want 979 and 19", a, big, small)
			}
		})
	}
}

func TestDuplicateSpendsNoBudget(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	defer u.open()
	f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", "100/d")
	first := u.occupy(t, f.url+"/hook", "hello")
	for _, r := range f.replicas {
		expect(t, "an equal request", post(t, r.url+"/hook", "hello"), "409 duplicate")
	}
	u.open()
	if got := (<-first).remaining(t, "hook"); got != 99 {
		t.Errorf("%d requests remain after the first, want 99", got)
	}
	if got := post(t, f.url+"/hook", "bye").remaining(t, "hook"); got != 98 {
		t.Errorf("%d requests remain after the second, want 98", got)
	}
}

// Fails if the lock is taken before the budget is asked, and kept.
func TestLimitedRequestLeavesNoLock(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	f := startFleet(t, 2, "--register", "hook="+u.URL, "--rate", "1/s", "--hold", "0s,unknown=0s")
	body, _ := spend(t, f.url+"/hook")
	if locks := f.locks(t); len(locks) != 0 {
		t.Errorf("locks: %v", locks)
	}
	var a answer
	eventually(t, "the budget is earned back", func() bool {
		a = post(t, f.url+"/hook", body)
		return a.String() != "429 limited"
	})
	expect(t, "the same request", a, "200")
}

func TestPoolsShareBudgetsAcrossRoutes(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	f := startFleet(t, 3, "--register", "a="+u.URL+"/a", "--register", "b="+u.URL+"/b", "--register", "c="+u.URL+"/c",
		"--pool", "team=a,b", "--pool", "other=c", "--rate", "off", "--rate", "a=5/d", "--rate", "team=30/d", "--rate", "other=7/d")
	send := func(route string, n int) []answer {
		answers := make([]answer, n)
		each(n, 8, func(i int) { answers[i] = post(t, f.url+route, fmt.Sprint(i)) })
		return answers
	}
	expectCounts(t, send("/a", 20), "5 × 200", "15 × 429 limited") // by its own, so the pool is charged 5
	expectCounts(t, send("/b", 40), "25 × 200", "15 × 429 limited")
	expectCounts(t, send("/c", 20), "7 × 200", "13 × 429 limited")
	if a := post(t, f.url+"/b", "one more"); a.remaining(t, "team") != 0 || strings.Join(a.Violated, " ") != "team" {
		t.Errorf("got %v of %v", a, a.Violated)
	}
}

// Fails if any X-Forwarded-For is believed, or none, or its first address.
func TestClientsHaveBudgetsOfTheirOwn(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", "5/d,by=client", "--trusted-proxy", "127.0.0.1")
	urls := []string{f.url, f.url, f.url, f.replicas[0].url}
	for _, host := range []byte{2, 3} {
		from := newClient(&net.TCPAddr{IP: net.IPv4(127, 0, 0, host)})
		var answers []answer
		for i := range 20 {
			forged := fmt.Sprintf("X-Forwarded-For: 192.0.2.%d", i)
			a, err := try(t.Context(), from, http.MethodPost, urls[i%len(urls)]+"/hook", fmt.Sprint(host, i), forged)
			if err != nil {
				t.Fatal(err)
			}
			answers = append(answers, a)
		}
		from.CloseIdleConnections()
		expectCounts(t, answers, "5 × 200", "15 × 429 limited")
	}
}

func TestHeaderValuesHaveBudgetsOfTheirOwn(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", "5/d,by=header:X-Tenant", "--hold", "0s,unknown=0s")
	for _, fields := range [][]string{{"X-Tenant: one"}, {"x-tenant: two"}, nil} {
		var answers []answer
		for i := range 20 {
			answers = append(answers, post(t, f.url+"/hook", fmt.Sprint(i), fields...))
		}
		expectCounts(t, answers, "5 × 200", "15 × 429 limited")
	}
}
