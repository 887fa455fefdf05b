package cluster

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Of a plain ask both guards say the same, and leave the same behind, whatever was
// decided before.
func TestPlainGuard_DecidesAsTheWholeOneDoes(t *testing.T) {
	server := startRedis(t)
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		now := time.Now().Unix()
		by := func(prefix string, plain bool) guarded {
			return guarded{t, join(t, server.URL(), Options{Prefix: prefix, LockTTL: time.Hour}), plain}
		}
		plain, whole := by(fmt.Sprintf("plain-%d", seed), true), by(fmt.Sprintf("whole-%d", seed), false)
		limits := []Charge{charge("a", "3/h"), charge("a", "100/m,burst=2"), charge("b", "2/s"), charge("b", "1/m,burst=5")}
		for step := range 80 {
			a := request(fmt.Sprint(random.IntN(12)))
			if random.IntN(4) == 0 {
				a.Fingerprint = nil
			}
			for range random.IntN(3) {
				a.Charges = append(a.Charges, limits[random.IntN(len(limits))])
			}
			a.LongestPause = time.Duration(random.IntN(2)) * time.Minute
			a.Pauses = []string{"", "x"}[:random.IntN(3)]
			if random.IntN(20) == 0 {
				for _, g := range []guarded{plain, whole} {
					value := fmt.Sprintf("%d 100000 503", now*1000+100000)
					must(t, server.Client().Set(t.Context(), g.r.key("{slack}:cool:x"), value, time.Hour))
				}
			}
			now += random.Int64N(30) - 3 // the clock is set back at times
			deadline := time.Duration(now+random.Int64N(20)-1) * time.Second
			asks := []*asker{asking(a, deadline)}
			got, want := plain.decide(asks, now), whole.decide(asks, now)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d, step %d, %+v: got %v, want %v", seed, step, a, got, want)
			}
			if got, want := plain.stored(), whole.stored(); !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d, %+v: got %v, want %v", seed, step, a, got, want)
			}
		}
	}
}

// Asks that go together are decided as if they came one after the other at that
// instant, and leave the same behind: of many callers, routes' budgets that they
// share, equal ones among them, some too late, and some of keys that are not ours.
func TestGuards_DecideTogetherAsOneByOne(t *testing.T) {
	server := startRedis(t)
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 1))
		plain, guard := true, plainGuardScript
		if seed%2 == 1 {
			plain, guard = false, guardScript
		}
		now := time.Now().Unix()
		by := func(prefix string) guarded {
			return guarded{t, join(t, server.URL(), Options{Prefix: prefix, LockTTL: time.Hour}), plain}
		}
		together, apart := by(fmt.Sprintf("together-%d", seed)), by(fmt.Sprintf("apart-%d", seed))
		for _, g := range []guarded{together, apart} {
			must(t, server.Client().RPush(t.Context(), g.r.key("{slack}:rate:bad"), "no budget"))
			bad := asking(request("bad"), 0).lock
			must(t, server.Client().RPush(t.Context(), g.r.key(string(bad.appendKey(nil))), "no lock"))
		}
		shared := []Charge{charge("a", "10/m"), charge("b", "2/s,burst=9")}
		faster := []Charge{charge("a", "60/m,burst=20"), charge("b", "2/s,burst=9")} // one that was changed
		for step := range 30 {
			var asks []*asker
			for range 1 + random.IntN(12) {
				a := request([]string{"bad", "1", "2", "3", "4", "5", "6", "7", "8", "9"}[random.IntN(10)])
				if random.IntN(4) == 0 {
					a.Fingerprint = nil
				}
				a.Charges = [][]Charge{shared, faster, shared[:1], nil}[random.IntN(4)]
				if caller := random.IntN(4); caller > 0 {
					own := charge([]string{"", "c", "c", "bad"}[caller], "5/m")
					own.Caller = []string{"", "alice", "bob", ""}[caller]
					a.Charges = append(slices.Clone(a.Charges), own)
				}
				a.Pauses = []string{"", "x"}[:random.IntN(3)]
				if !plain {
					if random.IntN(3) == 0 {
						a.Slots = []Slot{{Name: "s", Most: 3}}
					}
					a.Candidates = []Charge{charge("candidate", "3/m")}[:random.IntN(2)]
					a.Wait = time.Duration(random.IntN(2)) * 5 * time.Second
					if a.Fingerprint != nil {
						a.Sharing, a.Arrived = []Sharing{Unshared, Joined, Fresh}[random.IntN(3)], time.Duration(random.Int64N(2)*now)*time.Second
					}
				}
				asks = append(asks, asking(a, time.Duration(now+random.Int64N(6))*time.Second))
			}
			if random.IntN(8) == 0 {
				for _, g := range []guarded{together, apart} {
					value := fmt.Sprintf("%d 100000 503", now*1000+100000)
					must(t, server.Client().Set(t.Context(), g.r.key("{slack}:cool:x"), value, time.Hour))
				}
			}
			now += 1 + random.Int64N(5)
			got := together.decide(asks, now)
			var want []any
			for _, group := range guard.groups(asks) { // which is their order
				for _, a := range group {
					want = append(want, apart.decide([]*asker{a}, now)...)
				}
			}
			if got, want := fmt.Sprint(withoutTATs(got)), fmt.Sprint(withoutTATs(want)); got != want {
				t.Fatalf("seed %d, step %d: got\n%v, want\n%v", seed, step, got, want)
			}
			if got, want := together.stored(), apart.stored(); !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d: got\n%v, want\n%v", seed, step, got, want)
			}
		}
	}
}

// withoutTATs are replies but for the TATs of charges, of which those that go together
// get but the last.
func withoutTATs(reply any) any {
	switch reply := reply.(type) {
	case []any:
		var without []any
		for _, of := range reply {
			without = append(without, withoutTATs(of))
		}
		return without
	case string:
		if strings.HasPrefix(reply, "1") && strings.Count(reply, ".") == 1 && !strings.Contains(reply, " ") {
			return ""
		}
	}
	return reply
}

// asking is a on its way to a store whose clock is known.
func asking(a Ask, deadline time.Duration) *asker {
	g := newGrant(a, nil)
	if g.Locked() {
		g.lock.toStore("self")
	}
	if g != nil && g.taken != nil {
		g.taken.toStore(time.Hour)
	}
	return newAsker(a, g, deadline)
}

// guarded is a replica whose asks are decided by one of the guards, at instants of
// the test's own.
type guarded struct {
	*testing.T
	r     *Redis
	plain bool
}

// decide returns what a guard says of asks, together; of one by itself also its error.
func (g guarded) decide(asks []*asker, now int64) []any {
	g.Helper()
	guard := guardScript
	if g.plain {
		guard = plainGuardScript
	}
	c := newCommand(g.r.options.Prefix)
	defer c.done()
	for _, group := range guard.groups(asks) {
		g.r.writeKeys(c, group)
	}
	for _, group := range guard.groups(asks) {
		g.r.writeArgs(c, group, g.r.options.LockTTL, guard)
	}
	source := strings.ReplaceAll(guard.source, "redis.call('TIME')", fmt.Sprintf("{'%d', '70'}", now))
	reply, err := g.r.conn.Load().process(g.Context(), c.cmd(g.Context(), eval, &source)).Slice()
	if FaultOf(err) == faultWrongType && len(asks) == 1 {
		text, _, _ := strings.Cut(err.Error(), " script: ")
		return []any{text}
	} else if err != nil {
		g.Fatal(err)
	}
	return reply
}

// stored are the keys, without their prefix, and their values.
func (g guarded) stored() (all []string) {
	g.Helper()
	client := g.r.conn.Load().client.(*redis.Client)
	keys := must(g.T, client.Keys(g.Context(), g.r.key("{slack}*")))
	slices.Sort(keys)
	for _, key := range keys {
		name := strings.TrimPrefix(key, g.r.options.Prefix)
		switch must(g.T, client.Type(g.Context(), key)) {
		case "string":
			all = append(all, name+" "+must(g.T, client.Get(g.Context(), key)))
		case "zset":
			all = append(all, name+" "+fmt.Sprint(must(g.T, client.ZRangeWithScores(g.Context(), key, 0, -1))))
		}
	}
	return all
}

// A duplicate is a duplicate first: also where the other keys are not ours, or nothing
// can be written.
func TestGuards_DuplicateFirstWhateverFails(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r, other := join(t, server.URL(), Options{}), join(t, server.URL(), Options{Self: Replica{ID: "replica-1"}})
	must(t, client.RPush(t.Context(), r.key("{slack}:rate:bad"), "no budget"))
	must(t, client.RPush(t.Context(), r.key("{slack}:cool:bad"), "no cool-down"))
	failures := map[string]func() Ask{
		"a budget that is none":    func() Ask { return request("held", charge("bad", "1/h")) },
		"a cool-down that is none": func() Ask { return under(request("held"), "bad") },
		"memory is short": func() Ask {
			must(t, client.ConfigSet(t.Context(), "maxmemory", "1"))
			return request("held", charge("one", "1/h"))
		},
		"no right to write anything": func() Ask {
			must(t, client.Do(t.Context(), "acl", "setuser", "default", "-set"))
			return request("held")
		},
	}
	admit(t, r, request("held"))
	for name, fail := range failures {
		a := fail()
		expect(t, other, Duplicate, a)
		a.Slots = []Slot{{Name: "s", Most: 1}}
		expect(t, other, Duplicate, a)
		if t.Failed() {
			t.Fatal(name)
		}
		must(t, client.ConfigSet(t.Context(), "maxmemory", "0"))
		must(t, client.Do(t.Context(), "acl", "setuser", "default", "+set"))
	}
}

// together decides asks by one script, and returns the outcome or the fault of each.
func together(t *testing.T, r *Redis, guard *script, asks ...Ask) (said []string, errs []error) {
	t.Helper()
	var all []*asker
	for _, a := range asks {
		all = append(all, asking(a, 0))
	}
	r.send(t.Context(), guard, all)
	for _, a := range all {
		got, err := a.answer()
		if err != nil {
			said = append(said, FaultOf(err))
		} else {
			said = append(said, fmt.Sprint(got.Outcome))
		}
		errs = append(errs, err)
	}
	return said, errs
}

// What fails of those that would be admitted fails of no other.
func TestGuards_ShortMemoryIsOfThoseThatWrite(t *testing.T) {
	server := startRedis(t)
	client := server.Client()
	r := join(t, server.URL(), Options{})
	spent, some := charge("spent", "1/h"), charge("some", "9/h")
	admit(t, r, request("held"))
	admit(t, r, unlocked(spent))
	admit(t, r, unlocked(some))
	must(t, client.ConfigSet(t.Context(), "maxmemory", "1"))
	asks := []Ask{request("held", some), unlocked(some), unlocked(spent), request("new", some), unlocked(some, spent), unlocked(some)}
	want := []string{fmt.Sprint(Duplicate), "out-of-memory", fmt.Sprint(Limited), "out-of-memory", fmt.Sprint(Limited), "out-of-memory"}
	for _, guard := range []*script{plainGuardScript, guardScript} {
		if got, errs := together(t, r, guard, asks...); !slices.Equal(got, want) {
			t.Errorf("got %v, %v, want %v", got, errs, want)
		}
	}
	must(t, client.ConfigSet(t.Context(), "maxmemory", "0"))
	if v := admit(t, r, request("new", some)); v.Decisions[0].Remaining != 7 {
		t.Errorf("got %d remaining, want 7: nothing was charged", v.Decisions[0].Remaining)
	}
}
