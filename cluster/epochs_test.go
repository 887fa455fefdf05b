package cluster

import (
	"sync"
	"testing"
)

func TestEpochsWaitForWhatBeganBefore(t *testing.T) {
	var e epochs
	before := e.enter()
	e.end()
	after := e.enter()
	if e.over() {
		t.Error("over, while an ask is under way that began before")
	}
	e.leave(before)
	if !e.over() {
		t.Error("not over, though nothing is under way that began before")
	}
	e.end()
	if e.over() {
		t.Error("over, while an ask of the second epoch is under way")
	}
	e.leave(after)
	if !e.over() {
		t.Error("not over, though nothing is under way")
	}
}

// Whoever enters after an end sees what was changed before it: nobody goes on by
// what was before once the epoch is over.
func TestEpochsUnderLoad(t *testing.T) {
	var e epochs
	var changed [3]sync.Map // what was changed before each end
	var all sync.WaitGroup
	stop := make(chan struct{})
	seen := make(chan int, 1<<16)
	for range 4 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				epoch := e.enter()
				n := 0
				for ; n < len(changed); n++ {
					if _, ok := changed[n].Load("changed"); !ok {
						break
					}
				}
				select {
				case seen <- n:
				default:
				}
				e.leave(epoch)
			}
		})
	}
	for i := range changed {
		changed[i].Store("changed", true)
		e.end()
		for !e.over() {
		}
		for len(seen) > 0 {
			<-seen
		}
		for range 100 {
			if n := <-seen; n < i {
				t.Errorf("an ask saw %d changes, after %d were over", n, i+1)
			}
		}
	}
	close(stop)
	all.Wait()
}
