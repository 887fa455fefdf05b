package main

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// flightTakes is for how long the upstream has a request that others follow.
const flightTakes = 50 * time.Millisecond

// flights sends one request, and when the upstream has it all others of the
// connections, which are equal to it; and when all are answered the next ones.
func (b *bed) flights(s *system, l load, content string, seconds int) (got sample, err error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: l.connections}}
	defer client.CloseIdleConnections()
	began := time.Now()
	for n := 0; time.Since(began) < time.Duration(seconds)*time.Second; n++ {
		body := fmt.Sprintf(differs, n) + content[len(fmt.Sprintf(differs, n)):]
		answered, err := b.hold(cmp.Or(s.holder, s.addrs[0]), body, flightTakes)
		if err != nil {
			return got, err
		}
		var mu sync.Mutex
		var following sync.WaitGroup
		for range l.connections - 1 {
			following.Go(func() {
				res, err := client.Post("http://"+s.addrs[0]+"/v1", "application/json", strings.NewReader(body))
				if err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
				mu.Lock()
				defer mu.Unlock()
				got.n++
				if err != nil || res.StatusCode != http.StatusOK {
					got.refused++
				}
			})
		}
		following.Wait()
		if <-answered; s.holder == "" {
			got.n++
		}
	}
	got.seconds = time.Since(began).Seconds()
	return got, b.ctx.Err()
}
