package cluster

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"
)

// Beyond its bytes of answers a process remembers what is not kept, and beyond its
// keys it forgets the one that would end first.
func TestKeptKeys_Bounds(t *testing.T) {
	k := newKeptKeys()
	keep := func(i, size int) Ask {
		ask := underKey(fmt.Sprint(i), "pay")
		k.add(&keptKey{id: lockID{ask.Tag, sha256.Sum256([]byte(fmt.Sprint(i)))}, key: *ask.Key, outcome: Replayed, answer: make([]byte, size), until: time.Hour + time.Duration(i)})
		return ask
	}
	first := keep(0, maxAnswers)
	over := keep(1, 1)
	for ask, want := range map[*Ask]Outcome{&first: Replayed, &over: NotKept} {
		if v, refused := k.verdict(*ask, 0); !refused || v.Outcome != want {
			t.Errorf("got %+v, want %v", v, want)
		}
	}
	for i := 2; i <= Capacity; i++ {
		keep(i, 0)
	}
	if _, refused := k.verdict(first, 0); refused || len(k.known) != Capacity || k.answers != 0 {
		t.Errorf("got %d keys and %d bytes, want %d without the first", len(k.known), k.answers, Capacity)
	}
}
