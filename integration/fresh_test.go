package integration

import (
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// register is what a fresh answer is read from: one number, which is written and read.
// Of an operation the input is what is written, or nil to read, and the output what was
// read.
var register = porcupine.Model{
	Init: func() any { return 0 },
	Step: func(state, input, output any) (bool, any) {
		if input != nil {
			return true, input
		}
		return output == state, state
	},
}

// Fails if a fresh answer lacks what was written before it was asked for, or has what
// was overwritten by then, whatever fails meanwhile.
func TestFreshAnswersAreLinearizable(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]func(*testing.T, *fleet){
		"no fault": func(*testing.T, *fleet) {},
		"a store that pauses": func(_ *testing.T, f *fleet) {
			f.server.Pause()
			time.Sleep(time.Second) // of the history
			f.server.Resume()
		},
		"a replica that is killed": func(t *testing.T, f *fleet) { f.replicas[2].signal(t, syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			defer u.open()
			var value atomic.Int64
			u.does["read"] = func(w http.ResponseWriter, _ *http.Request) {
				time.Sleep(rand.N(5 * time.Millisecond))
				_, _ = io.WriteString(w, strconv.FormatInt(value.Load(), 10))
				_ = http.NewResponseController(w).Flush()
				time.Sleep(rand.N(5 * time.Millisecond)) // what is written now is not in the answer
			}
			f := startFleet(t, 3, "--register", "hook="+u.URL, "--rate", "off", "--dedupe", "all", "--on-duplicate", "fresh",
				"--store-timeout", "500ms", "--lock-ttl", "5s", "--when-undecided", "closed")
			began := time.Now()
			var mu sync.Mutex
			var history []porcupine.Operation
			var reads, shared int
			note := func(client int, call time.Time, input, output any) {
				mu.Lock()
				defer mu.Unlock()
				history = append(history, porcupine.Operation{ClientId: client, Input: input, Output: output, Call: int64(call.Sub(began)), Return: int64(time.Since(began))})
			}
			var all sync.WaitGroup
			const readers, each = 9, 60
			over := make(chan struct{})
			var writing sync.WaitGroup
			writing.Go(func() {
				for i := 1; ; i++ {
					call := time.Now()
					value.Store(int64(i))
					note(readers, call, i, nil)
					select {
					case <-over:
						return
					case <-time.After(rand.N(20 * time.Millisecond)):
					}
				}
			})
			for r := range readers {
				all.Go(func() {
					for i := range each {
						if r == 0 && i == each/3 {
							fails(t, f)
						}
						call := time.Now()
						a, err := try(t.Context(), client, http.MethodGet, f.replicas[r%3].url+"/hook", "", doesField+": read")
						if err != nil || a.status != http.StatusOK {
							continue
						}
						n, err := strconv.Atoi(a.body)
						if err != nil {
							t.Errorf("got %q", a.body)
						}
						note(r, call, nil, n)
						mu.Lock()
						reads++
						if a.header.Get("Cache-Status") != "" {
							shared++
						}
						mu.Unlock()
					}
				})
			}
			all.Wait()
			close(over)
			writing.Wait()
			if shared == 0 || reads < readers*each/4 {
				t.Errorf("%d reads were answered, %d by what others had read; want more", reads, shared)
			}
			if porcupine.CheckOperationsTimeout(register, history, patience) != porcupine.Ok {
				t.Errorf("no order explains the %d reads, %d of them shared", reads, shared)
			}
			// The check can fail: at the end one reads what was first.
			end := int64(time.Since(began))
			history = append(history, porcupine.Operation{ClientId: 0, Output: 0, Call: end + 1, Return: end + 2})
			if porcupine.CheckOperationsTimeout(register, history, patience) != porcupine.Illegal {
				t.Error("a stale answer was not found")
			}
		})
	}
}
