package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"throttle-proxy/cluster"
)

const (
	demoReplicas = 3
	demoRate     = "5/s"                  // with a burst of 5
	demoTakes    = 500 * time.Millisecond // the upstream, for each request
)

type demoCommand struct {
	Once bool `help:"End after the table, in place of staying up."`
}

// Run plays what the proxy is for against a slow upstream, then stays up.
func (d *demoCommand) Run(p *process) error {
	var reached atomic.Int64
	upstream := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		body, _ := io.ReadAll(r.Body)
		time.Sleep(demoTakes)
		_, _ = fmt.Fprintf(w, "the upstream got: %s\n", body)
	})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var servers sync.WaitGroup
	defer servers.Wait()
	servers.Go(func() { _ = upstream.Serve(listener) })
	defer upstream.Close()

	var f flags
	parser, err := kong.New(&f)
	if err != nil {
		return err
	}
	if _, err := parser.Parse([]string{"--register=hook=http://" + listener.Addr().String(), "--rate=" + demoRate, "--drain-timeout=1s"}); err != nil {
		return err
	}
	c, err := f.parse(environment{})
	if err != nil {
		return err
	}
	ctx, stopSignals := untilSignal(func() {}, syscall.SIGHUP)
	defer stopSignals()
	if d.Once {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		cancel()
	}
	store := cluster.NewMemory(opaqueID())
	var urls []string
	serving, stop := context.WithCancel(context.Background())
	defer stop()
	for range demoReplicas {
		r, err := newReplica(c, store, &life{logger: slog.New(slog.DiscardHandler)}, &health{})
		if err != nil {
			return err
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		urls = append(urls, "http://"+listener.Addr().String()+"/hook")
		servers.Go(func() { _ = r.serve(serving, listener) })
	}

	_, _ = fmt.Fprintf(p.stdout, "Three replicas share one store. The upstream takes %s for each request; its budget is %s.\n\n", demoTakes, demoRate)
	table := tabwriter.NewWriter(p.stdout, 0, 0, 3, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "\tsent\tadmitted\t409 duplicate\t429 limited\treached the upstream\t")
	for _, scene := range []struct {
		name  string
		sent  int
		equal bool
	}{
		{"a double click", 2, true},
		{"a storm of equal requests", 60, true},
		{"a burst of different ones", 60, false},
	} {
		before := reached.Load()
		statuses := play(urls, scene.name, scene.sent, scene.equal)
		_, _ = fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t\n", scene.name, scene.sent,
			statuses[http.StatusOK], statuses[http.StatusConflict], statuses[http.StatusTooManyRequests], reached.Load()-before)
	}
	_ = table.Flush()
	if !d.Once {
		body := `'{"text":"hello"}'`
		_, _ = fmt.Fprintf(p.stdout, "\nThe replicas stay up until ^C. The same request twice, on two of them, and different ones at once:\n\n"+
			"  curl -s -d %s %s & curl -s -d %s %s; wait\n"+
			"  seq 20 | xargs -P 20 -I N curl -s -o /dev/null -w '%%{http_code} ' -d '{\"n\":N}' %s\n",
			body, urls[0], body, urls[1], urls[2])
	}
	<-ctx.Done()
	return nil
}

// play sends n requests at once, over all replicas, and counts the statuses of
// their answers.
func play(urls []string, text string, n int, equal bool) map[int]int {
	statuses := map[int]int{}
	var mu sync.Mutex
	var requests sync.WaitGroup
	for i := range n {
		body := fmt.Sprintf(`{"text":%q}`, text)
		if !equal {
			body = fmt.Sprintf(`{"text":%q,"n":%d}`, text, i)
		}
		requests.Go(func() {
			res, err := http.Post(urls[i%len(urls)], "application/json", strings.NewReader(body))
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			statuses[res.StatusCode]++
		})
	}
	requests.Wait()
	return statuses
}
