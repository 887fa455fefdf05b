package clients

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// Fails if most of twenty callers whom a budget refuses together are still
// refused after two retries: they are told to come back one after the other.
func TestCallersWhoAreRefusedTogetherComeThrough(t *testing.T) {
	const callers, fewest = 20, 15
	twice := map[string]bool{"openai (node)": true, "openai-go": true, "go-retryablehttp": true} // retries
	for _, c := range allClients(t) {
		if !twice[c.name] {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := newCell(t, c)
			x.start("--rate", c.route+"=10/s,burst=1")
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var through atomic.Int64
			var calling sync.WaitGroup
			for i := range callers {
				calling.Go(func() {
					if c.send(ctx, x.balancer.URL+"/"+c.route, fmt.Sprint(message, " ", i)) == nil {
						through.Add(1)
					}
				})
			}
			calling.Wait()
			x.mu.Lock()
			defer x.mu.Unlock()
			got := int(through.Load())
			t.Logf("%d of %d came through", got, callers)
			if got < fewest {
				t.Errorf("%d of %d came through, want at least %d; answers: %s", got, callers, fewest, folded(x.tries))
			}
			if x.reached != got {
				t.Errorf("the upstream got %d messages, %d callers saw a success", x.reached, got)
			}
		})
	}
}
