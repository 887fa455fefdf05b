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
			g := newGrant(a, plain.r)
			if g.Locked() {
				g.lock.toStore("self")
			}
			got, want := plain.decide(a, g, now, deadline), whole.decide(a, g, now, deadline)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d, step %d, %+v: got %v, want %v", seed, step, a, got, want)
			}
			if got, want := plain.stored(), whole.stored(); !slices.Equal(got, want) {
				t.Fatalf("seed %d, step %d, %+v: got %v, want %v", seed, step, a, got, want)
			}
		}
	}
}

// guarded is a replica whose asks are decided by one of the guards, at instants of
// the test's own.
type guarded struct {
	*testing.T
	r     *Redis
	plain bool
}

func (g guarded) decide(a Ask, grant *Grant, now int64, deadline time.Duration) any {
	g.Helper()
	guard := guardScript
	if g.plain {
		guard = plainGuardScript
	}
	group := []*asker{{Ask: a, grant: grant, deadline: deadline}}
	c := newCommand(g.r.options.Prefix)
	defer c.done()
	g.r.writeKeys(c, group)
	g.r.writeArgs(c, group, g.r.options.LockTTL, guard)
	source := strings.ReplaceAll(guard.source, "redis.call('TIME')", fmt.Sprintf("{'%d', '70'}", now))
	reply, err := g.r.conn.Load().process(g.Context(), c.cmd(g.Context(), eval, &source)).Result()
	if err != nil {
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
		all = append(all, strings.TrimPrefix(key, g.r.options.Prefix)+" "+must(g.T, client.Get(g.Context(), key)))
	}
	return all
}
