package cluster

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemory(t *testing.T) {
	for name, behaves := range behaviours {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := NewMemory("replica-0")
				behaves(t, []replica{m, m, m})
			})
		})
	}
}

// TestMemory_ForgetsWhatIsOver looks inside: nothing else tells whether memory
// is bounded.
func TestMemory_ForgetsWhatIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory("replica-0")
		for i := range 1000 {
			limit := charge(fmt.Sprint(i), "1/m")
			admit(t, m, request(fmt.Sprint(i), limit)).Grant.Release(time.Minute)
			expect(t, m, Limited, request("b", limit))
		}
		time.Sleep(time.Minute)
		for range 1000 {
			m.Refusal(request("a"))
			admit(t, m, request("a")).Grant.Release(0)
		}
		if got := []int{len(m.known.locks.known), len(m.known.locks.inFlight), m.known.locks.held, m.known.denials.Len()}; slices.Max(got) > 0 {
			t.Errorf("got %d locks, %d in flight, %d held and %d denials, want none", got[0], got[1], got[2], got[3])
		}
	})
}

func TestMemory_BeyondCapacityForgetsTheHoldNearestToItsEnd(t *testing.T) {
	t.Parallel() // with those that wait
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory("replica-0")
		inFlight := request("in flight")
		admit(t, m, inFlight)
		for i := range Capacity + 2 {
			admit(t, m, request(fmt.Sprint(i))).Grant.Release(time.Hour - time.Duration(i%3)*time.Minute)
			time.Sleep(time.Microsecond)
		}
		for _, i := range []int{0, 1, 3, 4, 6, 8, Capacity - 1, Capacity, Capacity + 1} {
			expect(t, m, Held, request(fmt.Sprint(i)))
		}
		admit(t, m, request("2"))
		admit(t, m, request("5"))
		expect(t, m, Duplicate, inFlight)
	})
}

func TestMemory_AddDoesNotDisplaceAnEqualRequest(t *testing.T) {
	m := NewMemory("replica-0")
	first, second := newGrant(request("a"), m), newGrant(request("a"), m)
	if v, known := m.known.add(request("a"), first, false); known {
		t.Fatalf("got %+v, want nothing known", v)
	}
	if v, known := m.known.add(request("a"), second, false); !known || v.Outcome != Duplicate || v.Holder.RequestID != first.lock.requestID() {
		t.Errorf("got %+v, %t, want a duplicate", v, known)
	}
	second.Release(0)
	expect(t, m, Duplicate, request("a"))
	first.Release(time.Minute)
	if v, known := m.known.add(request("a"), second, false); !known || v.Outcome != Held {
		t.Errorf("got %+v, %t, want held", v, known)
	}
}
