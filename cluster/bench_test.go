package cluster

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
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
