package cluster

import (
	"bytes"
	"crypto/sha256"
	"testing"
	"time"
)

// underKey asks under an idempotency key that is kept for an hour, for a request that
// says something.
func underKey(key, says string, charges ...Charge) Ask {
	ask := request(key, charges...)
	ask.Key = &Key{Content: sha256.Sum256([]byte(says)), Keep: time.Hour}
	return ask
}

// keyBehaviours are what becomes of requests with idempotency keys.
var keyBehaviours = map[string]func(t *testing.T, fleet []replica){
	"A kept answer is what repeats get, whatever else would refuse them": func(t *testing.T, fleet []replica) {
		one, answer := charge("one", "1/h"), []byte("created")
		of := func(says string) Ask { return under(underKey("k", says, one), "") }
		g := admit(t, fleet[0], of("pay")).Grant
		g.Keep(answer)
		g.Release(0)
		fleet[1].Pause("slack", "", time.Hour, 429)
		for _, r := range fleet {
			v := expect(t, r, Replayed, of("pay"))
			if !bytes.Equal(v.Answer, answer) || v.Age < 0 || v.Age > time.Minute || v.Grant != nil {
				t.Errorf("got %q of %v, want %q", v.Answer, v.Age, answer)
			}
			if v := expect(t, r, KeyReused, of("pay more")); v.Answer != nil {
				t.Errorf("got %q, want no answer", v.Answer)
			}
		}
		if v := ask(t, fleet[2], under(underKey("other", "pay", one), "")); v.Outcome != CoolingDown {
			t.Errorf("got %+v, want cooling down", v)
		}
	},
	"In flight an equal repeat is a duplicate, and another content is not sent": func(t *testing.T, fleet []replica) {
		g := admit(t, fleet[0], underKey("k", "pay")).Grant
		for _, r := range fleet {
			if v := expect(t, r, Duplicate, underKey("k", "pay")); v.Holder.RequestID == "" {
				t.Errorf("got %+v, want its holder", v)
			}
			expect(t, r, KeyReused, underKey("k", "pay more"))
		}
		g.Unsent()
		admit(t, fleet[1], underKey("k", "pay more"))
	},
	"An unknown outcome stays one, also without its hold": func(t *testing.T, fleet []replica) {
		admit(t, fleet[0], underKey("k", "pay")).Grant.Release(time.Millisecond)
		time.Sleep(50 * time.Millisecond)
		for _, r := range fleet {
			expect(t, r, OutcomeUnknown, underKey("k", "pay"))
			expect(t, r, KeyReused, underKey("k", "pay more"))
		}
	},
	"An answer that may not be kept is never asked for again": func(t *testing.T, fleet []replica) {
		g := admit(t, fleet[0], underKey("k", "pay")).Grant
		g.Keep(nil)
		g.Release(0)
		for _, r := range fleet {
			expect(t, r, NotKept, underKey("k", "pay"))
			expect(t, r, KeyReused, underKey("k", "pay more"))
		}
	},
	"A key that was freed is free": func(t *testing.T, fleet []replica) {
		for i, says := range []string{"pay", "pay more", "pay"} {
			g := admit(t, fleet[i], underKey("k", says)).Grant
			g.FreeKey()
			g.Release(0)
			admit(t, fleet[i], underKey("k", says)).Grant.Unsent()
		}
	},
	"A key ends with its time, and tags share none": func(t *testing.T, fleet []replica) {
		short := underKey("k", "pay")
		short.Key.Keep = 500 * time.Millisecond
		g := admit(t, fleet[0], short).Grant
		g.Keep([]byte("created"))
		g.Release(0)
		other := underKey("k", "pay more")
		other.Tag = "other"
		admit(t, fleet[1], other)
		time.Sleep(time.Second)
		admit(t, fleet[1], underKey("k", "pay more"))
	},
	"What a budget refuses leaves no key": func(t *testing.T, fleet []replica) {
		one := charge("one", "1/h")
		admit(t, fleet[0], unlocked(one))
		expect(t, fleet[0], Limited, underKey("k", "pay", one))
		expect(t, fleet[1], Limited, underKey("k", "pay more", one))
		admit(t, fleet[1], underKey("k", "pay less"))
	},
	"One that waits for its budget has its key from the beginning": func(t *testing.T, fleet []replica) {
		soon := charge("soon", "1/s")
		soon.Wait = 3 * time.Second
		admit(t, fleet[0], unlocked(soon))
		waiting := underKey("k", "pay", soon, charge("day", "9/d")) // of which one is asked for when the wait is over
		waiting.Wait = 3 * time.Second
		done := make(chan Verdict)
		go func() { done <- ask(t, fleet[0], waiting) }()
		time.Sleep(300 * time.Millisecond)
		if v := ask(t, fleet[1], underKey("k", "pay more")); v.Outcome != KeyReused {
			t.Errorf("got %+v, want a key that is taken", v)
		}
		v := <-done
		if v.Outcome != Admitted {
			t.Fatalf("got %+v, want admitted", v)
		}
		v.Grant.Keep([]byte("created"))
		v.Grant.Release(0)
		expect(t, fleet[2], Replayed, underKey("k", "pay", soon))
	},
}
