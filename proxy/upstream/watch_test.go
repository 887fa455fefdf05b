package upstream

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestWatchOfMany uses one watch for exchanges that follow each other: its timer
// runs on, and each is ended by its own time.
func TestWatchOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watch{lasts: true}
		began := time.Now()
		begin := func(stage int, d time.Duration) *Life {
			life := new(Life)
			w.begin(life)
			w.await(stage, d, errTimeout)
			return life
		}
		ends := func(name string, life *Life, at time.Duration) {
			t.Helper()
			<-life.Context().Done()
			if got := time.Since(began); got != at || life.Cause() != errTimeout {
				t.Errorf("%s: got the end after %v by %v, want %v", name, got, life.Cause(), at)
			}
			w.over(true)
		}

		first := begin(sending, 10*time.Second)
		time.Sleep(4 * time.Second)
		w.rest(answering)
		w.over(true)
		second := begin(sending, 10*time.Second) // the first's stage is not its own
		ends("a later time than the timer's", second, 14*time.Second)

		begin(sending, 10*time.Second)
		w.rest(answering)
		w.over(true)
		ends("a sooner time than the timer's", begin(sending, time.Second), 15*time.Second)

		w.await(answering, time.Second, errTimeout) // of a body that has ended: nobody's
		time.Sleep(2 * time.Second)
		third := begin(sending, 5*time.Second)
		time.Sleep(4 * time.Second)
		if third.Cause() != nil {
			t.Error("ended by what was awaited between two exchanges")
		}
		w.over(false)
		time.Sleep(time.Minute)
		if first.Cause() != nil || third.Cause() != nil {
			t.Errorf("got ends of exchanges that were over: %v, %v", first.Cause(), third.Cause())
		}
	})
}
