package cluster

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func BenchmarkMemory(b *testing.B) { benchmark(b, NewMemory("replica-0")) }

func BenchmarkRedis(b *testing.B) { benchmark(b, join(b, startRedis(b).URL(), Options{})) }

// benchmark measures a lock and a budget that are taken, and the lock's
// release: by one caller, and by many at once.
func benchmark(b *testing.B, r replica) {
	var n atomic.Uint64
	limit := charge("slack", "1000000/s,burst=1000000000")
	once := func() {
		var f Fingerprint
		binary.LittleEndian.PutUint64(f[:], n.Add(1))
		v, err := r.Admit(b.Context(), Ask{Tag: "slack", Fingerprint: &f, Charges: []Charge{limit}, RequestID: "id"})
		if err != nil || v.Outcome != Admitted {
			b.Errorf("got %+v, %v", v, err)
		}
		v.Grant.Release(0)
	}
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			once()
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(32) // callers wait for Redis, not for a processor
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				once()
			}
		})
	})
}

// BenchmarkRedis_Guard measures what one verdict costs the Redis, in its own
// processor time, with each of the things that an ask can want.
func BenchmarkRedis_Guard(b *testing.B) {
	server := startRedis(b)
	client := server.Client()
	r := join(b, server.URL(), Options{LockTTL: time.Minute})
	ample, full := charge("ample", "1000000/s,burst=1000000000"), charge("full", "1/h,burst=1")
	held := func(ask Ask, hold time.Duration, answer []byte) func() { // and ends it, which is part of it
		return func() {
			var f Fingerprint
			binary.LittleEndian.PutUint64(f[:], rand.Uint64())
			ask := ask
			if ask.Fingerprint != nil {
				ask.Fingerprint = &f
			}
			v, err := r.Admit(b.Context(), ask)
			if err != nil || v.Outcome != Admitted {
				b.Errorf("got %+v, %v", v, err)
			}
			v.Grant.Share(answer)
			v.Grant.Release(hold)
		}
	}
	admit := func(ask Ask) func() { return held(ask, 0, nil) }
	locked := Ask{Tag: "slack", Fingerprint: new(Fingerprint), Charges: []Charge{ample}, Pauses: []string{""}, RequestID: "id"}
	with := func(change func(*Ask)) Ask {
		ask := locked
		change(&ask)
		return ask
	}
	for _, bench := range []struct {
		name string
		run  func()
	}{
		{"plain", admit(locked)},
		{"may-wait", admit(with(func(a *Ask) {
			a.Wait, a.Charges = time.Second, []Charge{{Name: "ample", Limit: ample.Limit, Wait: time.Second}}
		}))},
		{"two-budgets", admit(with(func(a *Ask) { a.Charges = []Charge{ample, charge("more", "1000000/s,burst=1000000000")} }))},
		{"candidate", admit(with(func(a *Ask) { a.Candidates = []Charge{full} }))},
		{"slots", admit(slotted(locked, 1000))},
		{"shared", held(with(func(a *Ask) { a.Sharing = Joined }), 0, make([]byte, 300))},
		{"held", held(locked, time.Second, nil)},
		{"held-shared", held(with(func(a *Ask) { a.Sharing = Joined }), time.Second, make([]byte, 300))},
	} {
		b.Run(bench.name, func(b *testing.B) {
			bench.run()
			before := cpuOf(b, client)
			b.SetParallelism(32) // asks of many at once are sent together, and cost least
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					bench.run()
				}
			})
			b.ReportMetric(float64((cpuOf(b, client)-before).Microseconds())/float64(b.N), "redis-µs/op")
		})
	}
}

// cpuOf returns the processor time that a Redis has used.
func cpuOf(b *testing.B, client *redis.Client) (used time.Duration) {
	info, err := client.Info(b.Context(), "cpu").Result()
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(info) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user" || name == "used_cpu_sys" {
			d, _ := time.ParseDuration(value + "s")
			used += d
		}
	}
	return used
}
