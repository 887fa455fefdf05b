package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

// Fails if requests that wait for their budget are refused, sent before their
// instant, or ask more than once.
func TestWaitingIsPacedOverTheFleet(t *testing.T) {
	t.Parallel()
	const n, pace = 20, 100 * time.Millisecond
	u := newUpstream(t)
	f := startFleet(t, 3, "--register", "paced="+u.URL, "--rate", "10/s,burst=1", "--wait", "1m", "--hold", "1h")
	f.awaitBeats(t, 3)
	before := f.asked(t)
	began := time.Now()
	answers := make([]answer, n)
	each(n, n, func(i int) { answers[i] = post(t, f.url+"/paced", fmt.Sprint(i)) })
	expectCounts(t, answers, fmt.Sprint(n, " × 200"))
	u.expectAgreement(t, answers)
	calls := u.all()
	slices.SortFunc(calls, func(a, b *call) int { return a.start.Compare(b.start) })
	for i, c := range calls {
		if got, earliest := c.start.Sub(began), time.Duration(i)*pace; got < earliest {
			t.Errorf("request %d was sent after %v, want no earlier than %v", i, got, earliest)
		}
	}
	// An ask, and the release with its hold.
	if asked := f.asked(t) - before; asked > 2*n {
		t.Errorf("%d commands for %d requests, want an ask and a release each", asked, n)
	}
}

// Fails if a request is refused that could wait, or is told an instant at which it
// could not.
func TestWhatWouldWaitTooLongIsToldWhenItWouldNot(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	f := startFleet(t, 3, "--register", "paced="+u.URL, "--rate", "2/s,burst=1", "--wait", "5s", "--hold", "0s")
	answers := make([]answer, 40)
	each(len(answers), len(answers), func(i int) {
		answers[i] = post(t, f.url+"/paced", fmt.Sprint(i))
	})
	counts := count(answers)
	if counts["200"]+counts["429 limited"] != len(answers) || counts["200"] < 11 || counts["429 limited"] == 0 {
		t.Fatalf("got %v, want the first 11 at least, and not all", counts)
	}
	u.expectAgreement(t, answers)
	u.expectLimit(t, answers, 1, 2)
	last := answers[slices.IndexFunc(answers, func(a answer) bool { return a.status == http.StatusTooManyRequests })]
	seconds, err := strconv.Atoi(last.header.Get("Retry-After"))
	if err != nil || seconds < 1 || seconds > 20 {
		t.Fatalf("got Retry-After %q", last.header.Get("Retry-After"))
	}
	time.Sleep(time.Until(last.sent.Add(time.Duration(seconds+1) * time.Second)))
	expect(t, "one that came back when it was told", post(t, f.url+"/paced", "again"), "200")
}

// Fails if a client's own patience is not obeyed, or one that has left is sent.
func TestWaitingClientsThatLeaveAreNotSent(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	f := startFleet(t, 3, "--register", "paced="+u.URL, "--rate", "1/h,burst=1", "--wait", "1h", "--admin", "127.0.0.1:0")
	url := f.url + "/paced"
	expect(t, "the first", post(t, url, "first"), "200")
	for _, patience := range []string{"Prefer: wait=0", "Prefer: respond-async, wait=1", `prefer: Wait="2"; x=y`} {
		expect(t, patience, post(t, url, patience, patience), "429 limited")
	}
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := try(ctx, leaving, http.MethodPost, url, "leaves")
		gone <- err
	}()
	waiting := func(want float64) func() bool {
		return func() bool {
			var n float64
			for _, r := range f.replicas {
				n += r.waiting(t)
			}
			return n == want
		}
	}
	eventually(t, "it waits", waiting(1))
	expect(t, "an equal request", post(t, url, "leaves"), "409 duplicate")
	leave()
	if err := <-gone; err == nil {
		t.Error("it was answered")
	}
	eventually(t, "nobody waits", waiting(0))
	eventually(t, "its lock is gone", func() bool { return len(f.locks(t)) == 1 }) // the first's hold
	if n := len(u.all()); n != 1 {
		t.Errorf("%d requests were sent, want the first", n)
	}
}

// waiting is how many requests wait at r, by its log being no help.
func (r *replica) waiting(t *testing.T) float64 {
	t.Helper()
	return r.metric(t, "waiting")
}

// Fails if a drain loses a request that waits, or sends none that is due in time.
func TestDrainOfRequestsThatWait(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	f := startFleet(t, 1, "--register", "paced="+u.URL, "--rate", "1/s,burst=1", "--wait", "1h", "--drain-timeout", "10s", "--admin", "127.0.0.1:0")
	r := f.replicas[0]
	const n = 30
	answers := make([]answer, n)
	done := make(chan struct{})
	go func() {
		defer close(done)
		each(n, n, func(i int) { answers[i] = post(t, r.url+"/paced", fmt.Sprint(i)) })
	}()
	eventually(t, "they wait", func() bool { return r.waiting(t)+float64(len(u.all())) == n })
	r.signal(t, syscall.SIGTERM)
	<-done
	r.expectExit(t, 0)
	counts := count(answers)
	if counts["200"]+counts["429 limited"] != n || counts["200"] < 5 || counts["429 limited"] < 10 {
		t.Errorf("got %v, want those that are due in 10 s, and not the others", counts)
	}
	u.expectAgreement(t, answers)
	if locks := f.locks(t); len(locks) > counts["200"] {
		t.Errorf("%d locks are left of %d holds", len(locks), counts["200"])
	}
}

// Fails if a rolling restart behind nginx loses a request that waits for its budget
// or for a slot, sends one twice, or lets more at once than there are slots.
func TestRollingRestartKeepsWhatWaits(t *testing.T) {
	t.Parallel()
	const most, clients = 3, 12
	upstreams := map[string]*upstream{"paced": newUpstream(t), "few": newUpstream(t)}
	words := []string{
		"THROTTLE_PROXY_REDIS=" + redistest.Start(t).URL(), "THROTTLE_PROXY_STORE_TIMEOUT=5s", "THROTTLE_PROXY_LOCK_TTL=10m", "--wait", "1m",
		"--register", "paced=" + upstreams["paced"].URL, "--rate", "paced=20/s,burst=1",
		"--register", "few=" + upstreams["few"].URL, "--rate", "few=off", "--concurrency", fmt.Sprint("few=", most),
	}
	var replicas []*replica
	for range 3 {
		replicas = append(replicas, startReplicaOn(t, net.JoinHostPort("127.0.0.1", redistest.FreePort(t)), words...))
	}
	url := startBalancer(t, replicas, "proxy_next_upstream off; # it would send a POST twice", "proxy_next_upstream error timeout;")

	var sent atomic.Int64
	var load sync.WaitGroup
	over := make(chan struct{})
	stop := sync.OnceFunc(func() { close(over); load.Wait() })
	defer stop()
	answers := map[string]*[clients][]answer{"paced": {}, "few": {}}
	for route, of := range answers {
		for i := range of {
			load.Go(func() {
				for ended := false; !ended; {
					a, err := try(t.Context(), client, http.MethodPost, url+"/"+route, fmt.Sprint(sent.Add(1)), lingers, lingerField+": 50ms")
					if err != nil {
						t.Errorf("%s: lost: %v", route, err)
					}
					of[i] = append(of[i], a)
					select {
					case <-over:
						ended = true
					default:
					}
				}
			})
		}
	}
	for i, r := range replicas {
		// Those of both routes wait when it is told to end.
		for _, u := range upstreams {
			before := len(u.all())
			eventually(t, "requests are sent", func() bool { return len(u.all()) > before+2*clients })
		}
		r.signal(t, syscall.SIGTERM)
		r.expectExit(t, 0)
		replicas[i] = startReplicaOn(t, r.addr, words...)
	}
	stop()
	for route, of := range answers {
		all := slices.Concat(of[:]...)
		expectCounts(t, all, fmt.Sprintf("%d × 200", len(all)))
		upstreams[route].expectAgreement(t, all)
	}
	if n := atOnce(upstreams["few"].all()); n > most {
		t.Errorf("%d were at the upstream at once, want at most %d", n, most)
	}
}

// Fails if more than the limit are ever at the upstream at once, whatever becomes of
// replicas and clients, or slots are lost for longer than a TTL.
func TestConcurrencyOverTheFleet(t *testing.T) {
	t.Parallel()
	const most, ttl = 5, 3 * time.Second
	u := newUpstream(t)
	f := startFleet(t, 3, "THROTTLE_PROXY_LOCK_TTL="+ttl.String(), "THROTTLE_PROXY_STORE_TIMEOUT=300ms",
		"--register", "few="+u.URL, "--rate", "off", "--concurrency", fmt.Sprint(most), "--dedupe", "off", "--wait", "200ms")
	var answered [3]atomic.Int64
	load := func(n int) {
		each(n, 24, func(i int) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			from := client
			if i%11 == 0 {
				from = leaving
				ctx, cancel = context.WithTimeout(ctx, time.Duration(i%7)*time.Millisecond)
				defer cancel()
			}
			url := f.replicas[i%3].url
			a, err := try(ctx, from, http.MethodPost, url+"/few", "body", lingers, lingerField+": "+fmt.Sprint(time.Duration(i%9)*time.Millisecond))
			if err == nil && a.status == http.StatusOK {
				answered[i%3].Add(1)
			}
		})
	}
	load(1500)
	victim := f.replicas[1]
	hung := inBackground(func() answer {
		a, _ := try(t.Context(), leaving, http.MethodPost, victim.url+"/few", "hangs", blocks)
		return a
	})
	eventually(t, "it is in flight", func() bool { return f.redis.ZCard(t.Context(), "throttle:2:{few}:slots:few-concurrency").Val() == 1 })
	victim.signal(t, syscall.SIGKILL)
	<-hung
	u.open()
	eventually(t, "the slot of a killed replica is free", func() bool {
		return f.redis.ZCard(t.Context(), "throttle:2:{few}:slots:few-concurrency").Val() == 0 || post(t, f.replicas[0].url+"/few", "x").status == 200 &&
			f.redis.ZCard(t.Context(), "throttle:2:{few}:slots:few-concurrency").Val() == 0
	})
	load(1500)
	for i := range answered {
		if answered[i].Load() == 0 {
			t.Errorf("replica %d has answered none", i)
		}
	}
	eventually(t, "no slot is left", func() bool { return f.redis.Exists(t.Context(), "throttle:2:{few}:slots:few-concurrency").Val() == 0 })
	if n := atOnce(u.all()); n > most {
		t.Errorf("%d were at the upstream at once, want at most %d", n, most)
	}
}

// atOnce returns how many calls were under way at once, at most.
func atOnce(calls []*call) (most int) {
	type change struct {
		at time.Time
		by int
	}
	var changes []change
	for _, c := range calls {
		if !c.end.IsZero() && !c.cut { // the end of what was cut is seen late
			changes = append(changes, change{c.start, 1}, change{c.end, -1})
		}
	}
	slices.SortFunc(changes, func(a, b change) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return a.by - b.by
	})
	now := 0
	for _, c := range changes {
		now += c.by
		most = max(most, now)
	}
	return most
}
