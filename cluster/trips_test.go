package cluster

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestRedis_TripsOfEachKindOfRequest(t *testing.T) {
	server := startRedis(t)
	var ours, theirs meter
	r := join(t, server.URL(), Options{Connect: ours.connect(t, server.URL())})
	eventually(t, "alone", func() bool { return r.Status().Live == 1 })
	longAlone(r)
	believeLong(r)
	one, many, day := charge("one", "1/h"), charge("many", "100/h"), charge("day", "100/d")
	var grant *Grant
	type steps []struct {
		name          string
		scripts, gets int
		do            func()
	}
	run := func(m *meter, steps steps) {
		t.Helper()
		for _, step := range steps {
			m.reset()
			from := time.Now()
			step.do()
			seconds := int(time.Since(from) / beatInterval) // after each of which a lock is looked for again
			if scripts, gets := m.read(); scripts != step.scripts || gets < step.gets || gets > step.gets*(1+seconds) {
				t.Errorf("%s: got %d scripts and %d gets, want %d and %d", step.name, scripts, gets, step.scripts, step.gets)
			}
		}
	}
	run(&ours, steps{
		{"five admissions with two windows", 5, 0, func() {
			for i := range 5 {
				grant = admit(t, r, request(fmt.Sprint(i), many, day)).Grant
			}
		}},
		{"repeats of an own request", 0, 0, func() {
			for range 5 {
				expect(t, r, Duplicate, request("4", many))
				r.Refusal(request("4", many))
			}
		}},
		{"the release", 1, 0, func() { grant.Release(0) }},
		{"what was never sent, and its lock and windows", 3, 0, func() { admit(t, r, request("unsent", many, day)).Grant.Unsent() }},
		{"an admission and a first refusal", 2, 0, func() {
			admit(t, r, request("a", one))
			expect(t, r, Limited, request("b", one))
		}},
		{"refusals already known, alone", 0, 0, func() {
			for i := range 5 {
				expect(t, r, Limited, request(fmt.Sprint("c", i), one, many))
				r.Refusal(unlocked(one))
			}
		}},
		{"nothing asked for", 0, 0, func() { admit(t, r, unlocked()) }},
	})
	other := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}, Connect: theirs.connect(t, server.URL())})
	believeLong(other)
	knowEachOther(t, []replica{r, other})
	admit(t, other, request("theirs", many))
	again := func(r *Redis, n int, want Outcome, a Ask) func() {
		return func() {
			for range n {
				expect(t, r, want, a)
			}
		}
	}
	run(&theirs, steps{
		{"a duplicate of another's", 2, 0, again(other, 2, Duplicate, request("3", many))},
		{"a refusal that the other does not know, and again", 1, 0, again(other, 5, Limited, request("b", one))},
		{"another fingerprint that is refused by a known budget, and again", 0, 1, again(other, 5, Limited, request("c", one))},
		{"what is not compared", 0, 0, again(other, 5, Limited, unlocked(one))},
	})
	alices := charge("alices", "1/h")
	alices.Caller = "alice"
	admit(t, r, unlocked(alices))
	r.Pause("slack", "", time.Hour, 429)
	r.Pause("slack", "alice", time.Hour, 429)
	anyones, alicesOwn := under(request("f"), "other", "alice"), under(request("g"), "other", "alice")
	alicesOwn.OneCaller = true
	run(&ours, steps{
		{"a duplicate of another's under a known refusal", 0, 2, again(r, 2, Duplicate, request("theirs", one))},
		{"a refusal of one caller's budget", 1, 0, again(r, 1, Limited, request("d", alices))},
		{"and again: another caller's equal request may have the lock", 0, 3, again(r, 3, Limited, request("d", alices))},
		{"a known cool-down, and again", 0, 1, again(r, 5, CoolingDown, under(request("e"), ""))},
		{"a known cool-down of one caller: another's equal request may have the lock", 0, 5, again(r, 5, CoolingDown, anyones)},
		{"a known cool-down of one caller, whose requests alone are equal", 0, 1, again(r, 5, CoolingDown, alicesOwn)},
	})
}

// A follower on its leader's replica asks Redis nothing. One on another asks for its
// verdict, as any duplicate does; the lock is read for all of a replica when the first
// comes, and the answer when it is told.
func TestRedis_TripsOfFollowers(t *testing.T) {
	server := startRedis(t)
	var ours, theirs meter
	r := join(t, server.URL(), Options{Connect: ours.connect(t, server.URL()), LockTTL: time.Hour})
	other := join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}, Connect: theirs.connect(t, server.URL()), LockTTL: time.Hour})
	knowEachOther(t, []replica{r, other})
	wantTrips := func(of *meter, wantScripts, wantGets int, after string) {
		t.Helper()
		if scripts, gets := of.read(); scripts != wantScripts || gets != wantGets {
			t.Errorf("%s: got %d scripts and %d gets, want %d and %d", after, scripts, gets, wantScripts, wantGets)
		}
		of.reset()
	}
	first := admit(t, r, shared("first")) // with which the other replica begins to listen
	end := following(t, other, shared("first"))
	first.Grant.Share(nil)
	first.Grant.Release(0)
	expectEnding(t, end, Answered, "")
	const followers = 5
	for _, hold := range []time.Duration{time.Hour, 0} {
		ours.reset()
		theirs.reset()
		body := fmt.Sprint("a", hold)
		leader := admit(t, r, shared(body))
		wantTrips(&ours, 1, 0, "the leader's admission")
		var ends []<-chan Ending
		for range followers {
			ends = append(ends, following(t, r, shared(body)))
		}
		wantTrips(&ours, 0, 0, "followers on the leader's replica")
		for range followers {
			ends = append(ends, following(t, other, shared(body)))
		}
		eventually(t, "the flight was looked for", func() bool { scripts, _ := theirs.read(); return scripts >= followers+1 })
		theirs.reset()
		leader.Grant.Share([]byte("an answer"))
		leader.Grant.Release(hold)
		for _, end := range ends {
			expectEnding(t, end, Answered, "an answer")
		}
		wantTrips(&theirs, 0, 1, "the ending, for followers on another replica")
		if hold == 0 { // only when it is asked whether anybody waits, is it known that somebody does
			wantTrips(&ours, 2, 0, "the end of a flight that others follow")
			continue
		}
		wantTrips(&ours, 1, 0, "the end of a flight that others follow, and its hold")
		expectEnding(t, following(t, r, shared(body)), Answered, "an answer")
		wantTrips(&ours, 0, 1, "one that comes during the hold")
	}
	leader := admit(t, r, shared("followed here"))
	end = following(t, r, shared("followed here"))
	leader.Grant.Share([]byte("an answer"))
	leader.Grant.Release(0)
	expectEnding(t, end, Answered, "an answer")
	wantTrips(&ours, 2, 0, "a flight that is followed only on its leader's replica")
}

// believeLong lets r believe refusals for longer than the test takes.
func believeLong(r *Redis) {
	r.known.mu.Lock()
	defer r.known.mu.Unlock()
	r.known.believed = time.Hour
}

// meter is a hook that counts what a client sends.
type meter struct {
	mu            sync.Mutex
	scripts, gets int
}

// connect returns what makes clients that m counts for.
func (m *meter) connect(t *testing.T, url string) func(context.Context) (redis.UniversalClient, error) {
	return func(context.Context) (redis.UniversalClient, error) {
		client := connect(t, url, storeTimeout)
		client.AddHook(m)
		return client, nil
	}
}

func (m *meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.scripts, m.gets = 0, 0
}

func (m *meter) read() (scripts, gets int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.scripts, m.gets
}

func (m *meter) count(cmd redis.Cmder) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch args := fmt.Sprint(cmd.Args()...); {
	case strings.Contains(args, "throttle:2:{fleet}:"): // a heartbeat's
	case cmd.Name() == "evalsha", cmd.Name() == "eval":
		m.scripts++
	case cmd.Name() == "get":
		m.gets++
	}
}

func (*meter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (m *meter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		m.count(cmd)
		return next(ctx, cmd)
	}
}

func (m *meter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			m.count(cmd)
		}
		return next(ctx, cmds)
	}
}

// scriptsRun returns how many scripts a server ran since its figures were reset,
// besides heartbeats, of which each runs one ZADD.
func scriptsRun(t *testing.T, client *redis.Client) int {
	t.Helper()
	stats := must(t, client.Info(t.Context(), "commandstats"))
	return calls(t, stats, "evalsha") + calls(t, stats, "eval") - calls(t, stats, "zadd")
}

// calls returns how often a server ran a command, by its figures.
func calls(t *testing.T, stats, command string) int {
	t.Helper()
	_, rest, found := strings.Cut(stats, "cmdstat_"+command+":calls=")
	if !found {
		return 0
	}
	digits, _, _ := strings.Cut(rest, ",")
	n, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
