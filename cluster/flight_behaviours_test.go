package cluster

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// sharing is an ask whose answer is shared.
func sharing(how Sharing, a Ask) Ask {
	a.Sharing = how
	return a
}

// following is a duplicate that follows a flight, and how that ends for it.
func following(t *testing.T, r replica, a Ask) <-chan Ending {
	t.Helper()
	v := ask(t, r, a)
	if v.Flight == nil {
		t.Fatalf("got %+v, want a flight to follow", v)
	}
	return follow(t, v)
}

// askingAgain is what one follower on each replica asks after end has ended what they
// follow.
func askingAgain(t *testing.T, fleet []replica, end func()) (again []Ask) {
	t.Helper()
	var ends []<-chan Ending
	for _, r := range fleet {
		a := sharing(Joined, request("a"))
		v := ask(t, r, a)
		if v.Flight == nil || v.Arrived == 0 {
			t.Fatalf("got %+v, want a flight and when it came", v)
		}
		a.Arrived = v.Arrived
		again, ends = append(again, a), append(ends, follow(t, v))
	}
	end()
	for _, ended := range ends {
		if e := <-ended; e.Kind == Answered {
			t.Errorf("got an answer, want none")
		}
	}
	time.Sleep(time.Millisecond) // or the next begins in the same moment in which they came
	return again
}

func follow(t *testing.T, v Verdict) <-chan Ending {
	ended := make(chan Ending, 1)
	go func() {
		e, err := v.Flight.Follow(t.Context())
		if err != nil {
			t.Error(err)
		}
		ended <- e
	}()
	return ended
}

func expectEnding(t *testing.T, ended <-chan Ending, want EndingKind, answer string) {
	t.Helper()
	if e := <-ended; e.Kind != want || string(e.Answer) != answer {
		t.Errorf("got %c %q, want %c %q", e.Kind, e.Answer, want, answer)
	}
}

// flightBehaviours are how duplicates get the answer.
var flightBehaviours = map[string]func(t *testing.T, fleet []replica){
	"Followers on every replica get the answer": func(t *testing.T, fleet []replica) {
		long := strings.Repeat("answer ", 20_000)
		for _, answer := range []string{"an answer", "", long} {
			leader := admit(t, fleet[0], sharing(Joined, request("a")))
			var ends []<-chan Ending
			for range 2 {
				for _, r := range fleet {
					ends = append(ends, following(t, r, sharing(Joined, request("a"))))
				}
			}
			leader.Grant.Share([]byte(answer))
			leader.Grant.Release(0)
			for _, end := range ends {
				expectEnding(t, end, Answered, answer)
			}
		}
	},
	"Each is told how the flight has ended": func(t *testing.T, fleet []replica) {
		for want, end := range map[EndingKind]func(*Grant){
			Lost:        func(g *Grant) { g.Release(0) },
			Again:       (*Grant).Unsent,
			Unshareable: func(g *Grant) { g.Unshareable() },
		} {
			leader := admit(t, fleet[0], sharing(Joined, request("a")))
			var ends []<-chan Ending
			for _, r := range fleet {
				ends = append(ends, following(t, r, sharing(Joined, request("a"))))
			}
			end(leader.Grant)
			for _, end := range ends {
				expectEnding(t, end, want, "")
			}
			leader.Grant.Release(0)
		}
	},
	"Nobody follows what is not shared, or was found not to be": func(t *testing.T, fleet []replica) {
		expectNone := func(how Sharing) {
			t.Helper()
			for _, r := range fleet {
				eventually(t, "a duplicate without a flight", func() bool { // a moment later, on other replicas
					v := ask(t, r, sharing(how, request("a")))
					return v.Outcome == Duplicate && v.Flight == nil
				})
			}
		}
		leader := admit(t, fleet[0], request("a"))
		expectNone(Joined)
		leader.Grant.Release(0)
		leader = admit(t, fleet[0], sharing(Joined, request("a")))
		expectNone(Unshared)
		end := following(t, fleet[1], sharing(Joined, request("a")))
		leader.Grant.Unshareable()
		expectEnding(t, end, Unshareable, "")
		expectNone(Joined)
	},
	"A hold has the answer": func(t *testing.T, fleet []replica) {
		leader := admit(t, fleet[0], sharing(Joined, request("a")))
		leader.Grant.Share([]byte("an answer"))
		leader.Grant.Release(time.Hour)
		for _, r := range fleet {
			eventually(t, "held", func() bool { return ask(t, r, sharing(Joined, request("a"))).Outcome == Held })
			expectEnding(t, following(t, r, sharing(Joined, request("a"))), Answered, "an answer")
			if v := expect(t, r, Held, request("a")); v.Flight != nil {
				t.Error("one that shares nothing got a flight")
			}
		}
	},
	"A long answer that nobody wanted is not kept for the hold": func(t *testing.T, fleet []replica) {
		leader := admit(t, fleet[0], sharing(Joined, request("a")))
		leader.Grant.Share(make([]byte, maxHeldAnswer+1))
		leader.Grant.Release(time.Hour)
		for _, r := range []replica{fleet[1], fleet[2], fleet[0]} { // which knows of the hold before the store does
			eventually(t, "held", func() bool { return ask(t, r, request("a")).Outcome == Held }) // which wants nothing of it
			if v := ask(t, r, sharing(Joined, request("a"))); v.Flight != nil {
				expectEnding(t, follow(t, v), Unshareable, "")
			}
		}
	},
	"A follower leaves when its time is over": func(t *testing.T, fleet []replica) {
		leader := admit(t, fleet[0], sharing(Joined, request("a")))
		for _, r := range fleet {
			v := ask(t, r, sharing(Joined, request("a")))
			ctx, cancel := context.WithCancelCause(t.Context())
			why := errors.New("it has left")
			cancel(why)
			if _, err := v.Flight.Follow(ctx); err != why {
				t.Errorf("got %v, want that it has left", err)
			}
		}
		leader.Grant.Release(0)
	},
	"Followers of a flight that is lost cost one more in all, however quick that is": func(t *testing.T, fleet []replica) {
		for name, lose := range map[string]func(*Grant){"lost": func(g *Grant) { g.Release(0) }, "unsent": (*Grant).Unsent} {
			leader := admit(t, fleet[0], sharing(Joined, request("a")))
			again := askingAgain(t, fleet, func() { lose(leader.Grant) })
			next := admit(t, fleet[1], again[1]).Grant
			during := following(t, fleet[0], again[0])
			next.Share([]byte("an answer"))
			next.Release(0)
			expectEnding(t, during, Answered, "an answer")
			for i, a := range again {
				if v := expect(t, fleet[i], Duplicate, a); v.Flight == nil {
					t.Errorf("%s: got no flight", name)
				} else {
					expectEnding(t, follow(t, v), Answered, "an answer")
				}
			}
			admit(t, fleet[2], sharing(Joined, request("a"))).Grant.Release(0) // it refuses nobody else
		}
	},
	"Those of one whose answer is its leader's alone cost one more in all": func(t *testing.T, fleet []replica) {
		leader := admit(t, fleet[0], sharing(Joined, request("a")))
		again := askingAgain(t, fleet, func() {
			leader.Grant.Unshareable()
			leader.Grant.Release(0)
		})
		next := admit(t, fleet[1], again[1]).Grant
		next.Unshareable()
		next.Release(0)
		for i, a := range again {
			if v := expect(t, fleet[i], Duplicate, a); v.Flight != nil {
				t.Errorf("got a flight, want to be refused")
			}
		}
		admit(t, fleet[2], request("a")).Grant.Release(0)
	},
	"A fresh answer is of a flight that began later": func(t *testing.T, fleet []replica) {
		leader := admit(t, fleet[0], sharing(Fresh, request("a")))
		var came []Ask
		for _, r := range fleet {
			a := sharing(Fresh, request("a"))
			v := ask(t, r, a)
			if v.Flight == nil || v.Arrived == 0 {
				t.Fatalf("got %+v, want a flight and when it came", v)
			}
			a.Arrived = v.Arrived
			end := follow(t, v)
			came = append(came, a)
			defer func() { expectEnding(t, end, Again, "") }()
		}
		leader.Grant.Share([]byte("old"))
		leader.Grant.Release(0)
		time.Sleep(time.Millisecond) // or it begins in the same moment in which they came
		next := admit(t, fleet[0], came[0])
		during := following(t, fleet[1], came[1])
		next.Grant.Share([]byte("new"))
		next.Grant.Release(0)
		expectEnding(t, during, Answered, "new")
		// It came before that flight began, and asks when it is over.
		expectEnding(t, following(t, fleet[2], came[2]), Answered, "new")
		// Who comes now is not refused by it, and does not get it.
		admit(t, fleet[1], sharing(Fresh, request("a"))).Grant.Release(0)
	},
}

// Fails if a hundred who come during one flight cost more than one more.
func TestRedis_FreshCostsOneMore(t *testing.T) {
	t.Parallel()
	server := startRedis(t)
	var fleet []replica
	for i := range 3 {
		fleet = append(fleet, join(t, server.URL(), Options{Self: Replica{ID: "replica-" + string(rune('0'+i))}, LockTTL: time.Hour}))
	}
	for range 20 {
		leader := admit(t, fleet[0], sharing(Fresh, request("a")))
		arrived := make(chan struct{}, 100)
		executed := make(chan int, 100)
		for i := range 100 {
			go func() {
				a, calls := sharing(Fresh, request("a")), 0
				defer func() { executed <- calls }()
				for {
					v, err := fleet[i%3].Admit(t.Context(), a)
					if a.Arrived == 0 {
						a.Arrived = v.Arrived
						arrived <- struct{}{}
					}
					switch {
					case err != nil:
						t.Error(err)
						return
					case v.Outcome == Admitted:
						calls++
						v.Grant.Share([]byte("new"))
						v.Grant.Release(0)
						return
					case v.Flight == nil:
						t.Errorf("got %+v, want a flight", v)
						return
					}
					if e, err := v.Flight.Follow(t.Context()); err != nil || e.Kind == Answered && string(e.Answer) != "new" {
						t.Errorf("got %c %q, %v, want the new answer", e.Kind, e.Answer, err)
						return
					} else if e.Kind == Answered {
						return
					}
				}
			}()
		}
		for range 100 {
			<-arrived
		}
		leader.Grant.Share([]byte("old"))
		leader.Grant.Release(0)
		all := 0
		for range 100 {
			all += <-executed
		}
		if all != 1 {
			t.Errorf("got %d exchanges, want 1", all)
		}
	}
}
