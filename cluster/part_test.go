package cluster

import (
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestRedis_BreakerOpens counts asks as they end: f without an answer, s with
// one, and w where a key is of a wrong type.
func TestRedis_BreakerOpens(t *testing.T) {
	for ends, opens := range map[string]bool{
		"":                              false,
		"f":                             false,
		"ffff":                          false,
		"fffff":                         true,
		"ffffsfff":                      false,
		"sssss" + "fffff":               true,
		strings.Repeat("fs", 9):         false,
		strings.Repeat("fs", 10):        true,
		strings.Repeat("fffs", 3):       false,
		strings.Repeat("fffs", 3) + "f": true,
		strings.Repeat("fss", 20):       false,
		strings.Repeat("fffssss", 20):   false,
		strings.Repeat("s", 100) + strings.Repeat("sf", 10): true,
		strings.Repeat("w", 100):                            false,
		"ffff" + strings.Repeat("w", 100):                   false,
		"ffff" + strings.Repeat("w", 100) + "s" + "ffff":    false,
		"ffff" + strings.Repeat("w", 100) + "f":             true,
	} {
		var changes []ChangeKind
		p := newPart()
		r := &Redis{parts: parts{whole: p}, known: newKnown("replica-0"), changes: newObserver(), stop: make(chan struct{})}
		told := func() []ChangeKind {
			for len(r.changes.changes) > 0 {
				changes = append(changes, (<-r.changes.changes).Kind)
			}
			return changes
		}
		close(r.stop) // nobody looks for it
		for _, end := range ends {
			r.record(p, map[rune]error{'s': nil, 'f': io.EOF, 'w': wrongType{}}[end])
		}
		var want []ChangeKind
		if opens {
			want = []ChangeKind{StoreAway}
		}
		if p.away() != opens || !slices.Equal(told(), want) {
			t.Errorf("%s: got away %t, told %v, want %t", ends, p.away(), changes, opens)
		}
		// Asks from before tell nothing more, however they end.
		for _, err := range []error{nil, io.EOF, nil} {
			r.record(p, err)
		}
		if opens && (!p.away() || len(told()) != 1) {
			t.Errorf("%s, and later ends: got away %t, told %v", ends, p.away(), changes)
		}
		r.stopped.Wait()
	}
}

func (wrongType) Error() string {
	return "WRONGTYPE Operation against a key holding the wrong kind of value"
}

func (wrongType) RedisError() {}

// unasked is a replica of two that nobody asks, and a part that nobody probes. It
// decides asks of a limit to which the store gives no answer because of err.
func unasked(t *testing.T, limit string) (r *Redis, p *part, decide func(err error) Verdict) {
	p = newPart()
	p.probing = true
	r = &Redis{
		options: Options{Replicas: 2},
		parts:   parts{whole: p},
		known:   newKnown("replica-0"),
		queue:   newQueue(),
		changes: newObserver(),
		stop:    make(chan struct{}),
	}
	t.Cleanup(func() { close(r.stop) })
	return r, p, func(err error) Verdict {
		t.Helper()
		v, err := r.undecided(by(Local, unlocked(charge("limit", limit))), nil, p, err)
		if err != nil || !v.Degraded || v.Share != 2 {
			t.Fatalf("got %+v, %v, want a degraded verdict", v, err)
		}
		return v
	}
}

// An ask may be decided alone after another has been answered, or because of
// one key: neither may leave a budget that fills until the next outage.
func TestPart_SharesBeginEmptyInEveryOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, p, decide := unasked(t, "10/s,burst=10")
		for range 3 {
			// An outage, in which the share fills.
			r.record(p, io.EOF)
			if v := decide(io.EOF); v.Outcome != Limited || v.Decisions[0].NextAfter != 200*time.Millisecond {
				t.Fatalf("got %+v, want nothing to spend yet", v)
			}
			time.Sleep(200 * time.Millisecond)
			if v := decide(io.EOF); v.Outcome != Admitted {
				t.Fatalf("got %+v, want what time has brought", v)
			}
			time.Sleep(time.Minute)
			r.record(p, nil)
			if owed := p.debts.Take(r.known.now()); len(owed) > 0 {
				t.Errorf("%+v was not told", owed)
			}
			// A decision that came too late.
			if v := decide(io.EOF); v.Outcome != Limited {
				t.Fatalf("got %+v, want nothing to spend yet", v)
			}
			time.Sleep(time.Minute)
			// Those that a key keeps from being decided.
			if v := decide(wrongType{}); v.Outcome != Limited {
				t.Fatalf("got %+v, want nothing to spend yet", v)
			}
			time.Sleep(200 * time.Millisecond)
			if v := decide(wrongType{}); v.Outcome != Admitted {
				t.Fatalf("got %+v, want what time has brought", v)
			}
			if owed := p.debts.Take(r.known.now()); len(owed) > 0 {
				t.Errorf("%+v was not told", owed)
			}
			time.Sleep(time.Minute)
		}
	})
}

// A store may answer some asks, and never those that this replica decides alone:
// what their shares earn is not lost by that, and neither while nobody asks.
func TestPart_SharesLastWhileAsksAreDecidedAlone(t *testing.T) {
	for name, test := range map[string]struct {
		limit   string
		between func(r *Redis, p *part, wait time.Duration)
		err     error
	}{
		"a store that fails now and then": {"10/s,burst=1", func(r *Redis, p *part, wait time.Duration) {
			time.Sleep(wait)
			r.record(p, nil)
			r.record(p, io.EOF)
		}, io.EOF},
		"a bad key, and a slow limit": {"1/h", func(_ *Redis, _ *part, wait time.Duration) {
			time.Sleep(wait)
		}, wrongType{}},
		"an outage without asks": {"10/s,burst=1", func(r *Redis, p *part, wait time.Duration) {
			for range failuresRunning {
				r.record(p, io.EOF)
			}
			time.Sleep(wait + time.Hour)
		}, errAway},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, p, decide := unasked(t, test.limit)
				test.between(r, p, 0)
				v := decide(test.err)
				if v.Outcome != Limited {
					t.Fatalf("got %+v, want nothing to spend yet", v)
				}
				wait := v.Decisions[0].NextAfter
				for range 5 {
					test.between(r, p, wait)
					if v := decide(test.err); v.Outcome != Admitted {
						t.Fatalf("got %+v, want what time has brought", v)
					}
				}
			})
		})
	}
}

// A master whose routes have gone to others is not missed, whatever becomes of what
// it was asked before.
func TestPart_WithoutTagsMovesNowhere(t *testing.T) {
	r := &Redis{known: newKnown("replica-0"), changes: newObserver(), stop: make(chan struct{})}
	close(r.stop)
	old := r.parts.put("slack", "first")
	now := r.parts.put("slack", "second")
	for range failuresRunning {
		r.record(old, io.EOF)
	}
	if old.state() != asked || len(r.changes.changes) > 0 {
		t.Errorf("got state %d and %d changes, want it left alone", old.state(), len(r.changes.changes))
	}
	for range failuresRunning {
		r.record(now, io.EOF)
	}
	if change := <-r.changes.changes; now.state() != away || change.Tag != "slack" {
		t.Errorf("got state %d, told %+v, want it away", now.state(), change)
	}
	r.stopped.Wait()
}

// A part is placed every second, and never seen without its tags meanwhile.
func TestParts_TagThatStaysIsNeverMissing(t *testing.T) {
	var p parts
	part := p.put("slack", "first")
	part.tags.mu.Lock()
	placed := make(chan struct{})
	go func() {
		defer close(placed)
		p.put("slack", "first") // touches no tag
	}()
	select {
	case <-placed:
	case <-time.After(20 * time.Second):
		t.Error("got the tags changed, want them left")
	}
	part.tags.mu.Unlock()
	<-placed
	if p.put("slack", "second"); part.tags.first() != "" || p.put("slack", "first") != part || part.tags.String() != "slack" {
		t.Errorf("got %q", part.tags.String())
	}
}

// TestState_After is the life of a part, by what happens to it: an ask that is
// (a)nswered, (f)ails, or (b)reaks it; a probe that (r)eaches it; and (c)harged.
func TestState_After(t *testing.T) {
	events := map[rune]event{'a': answered, 'r': reached, 'f': failed, 'b': broke, 'c': charged}
	for life, want := range map[string]state{
		"": asked, "a": asked, "r": asked, "c": asked,
		"f": suspect, "ff": suspect, "fc": suspect, "fa": asked, "fr": asked,
		"b": away, "fb": away, "bb": away, "bf": away, "ba": away, "bc": away,
		"br": found, "bra": found, "brr": found, "brf": away,
		"brc": settling, "brca": settling, "brcc": settling, "brcf": away,
		"brcr": asked, "brcrf": suspect, "brfr": found,
	} {
		s := asked
		for _, e := range life {
			s = s.after(events[e])
		}
		if s != want {
			t.Errorf("%q: got state %d, want %d", life, s, want)
		}
	}
}
