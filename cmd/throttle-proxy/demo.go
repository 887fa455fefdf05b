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
	"time"

	"github.com/alecthomas/kong"

	"throttle-proxy/cluster"
)

const (
	demoReplicas = 3
	demoRate     = "5/s"                  // with a burst of 5
	demoWait     = "5s"                   // of the route that waits, whose burst is 1
	demoTakes    = 500 * time.Millisecond // the upstream, for each request
)

// demoScene is requests that are sent at once, over all replicas.
type demoScene struct {
	name  string
	route string
	sent  int
	equal bool
}

var demoScenes = []demoScene{
	{"a double click", "hook", 2, true},
	{"with --on-duplicate join", "joined", 2, true},
	{"a storm of equals", "hook", 60, true},
	{"a burst of others", "hook", 60, false},
	{"ten with --wait " + demoWait, "paced", 10, false},
}

type demoCommand struct {
	Once bool `help:"End after the table, in place of staying up."`
}

// Run plays what the proxy is for against a slow upstream, then stays up. Each
// row is told when it has been played.
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
	to := "=http://" + listener.Addr().String()
	if _, err := parser.Parse([]string{"--register=hook" + to, "--register=joined" + to, "--register=paced" + to,
		"--rate=" + demoRate, "--on-duplicate=joined=join", "--rate=paced=" + demoRate + ",burst=1", "--wait=paced=" + demoWait, "--drain-timeout=1s"}); err != nil {
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
		r, err := newReplica(c, store, &life{logger: slog.New(slog.DiscardHandler)}, &health{}, nil)
		if err != nil {
			return err
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		urls = append(urls, "http://"+listener.Addr().String()+"/")
		servers.Go(func() { _ = r.serve(serving, listener) })
	}

	wrap(p.stdout, fmt.Sprintf("Three replicas share one store. The upstream takes %s for each request; its budget is %s.", demoTakes, demoRate), 0)
	_, _ = fmt.Fprintln(p.stdout)
	columns := "%24s  %4v  %6v  %13v  %11v  %12v\n"
	_, _ = fmt.Fprintf(p.stdout, columns, "", "sent", "200 OK", "409 duplicate", "429 limited", "upstream got")
	var took time.Duration
	for _, scene := range demoScenes {
		before, began := reached.Load(), time.Now()
		statuses := scene.play(urls)
		took = time.Since(began)
		_, _ = fmt.Fprintf(p.stdout, columns, scene.name, scene.sent, statuses[http.StatusOK],
			statuses[http.StatusConflict], statuses[http.StatusTooManyRequests], reached.Load()-before)
	}
	_, _ = fmt.Fprintln(p.stdout)
	wrap(p.stdout, fmt.Sprintf("With join, both clicks got the answer to one request. The last ten waited for their turn in place of a 429. They went one after the other, at %s: the last was answered after %s.", demoRate, took.Round(100*time.Millisecond)), 0)
	if !d.Once {
		invite(p.stdout, urls)
	}
	<-ctx.Done()
	return nil
}

// invite says what to try on the replicas, which stay up.
func invite(w io.Writer, urls []string) {
	body := `'{"text":"hello"}'`
	_, _ = fmt.Fprintln(w)
	wrap(w, "The replicas stay up until ^C. The same request twice, on two of them, refused and joined; different ones at once; and ten that wait:", 0)
	_, _ = fmt.Fprintf(w, "\n"+
		"  curl -s -d %[1]s %[2]shook & curl -s -d %[1]s %[3]shook; wait\n"+
		"  curl -s -d %[1]s %[2]sjoined & curl -s -d %[1]s %[3]sjoined; wait\n"+
		"  seq 20 | xargs -P 20 -I N curl -s -o /dev/null -w '%%{http_code} ' -d '{\"n\":N}' %[4]shook\n"+
		"  seq 10 | xargs -P 10 -I N curl -s -o /dev/null -w '%%{http_code} ' -d '{\"n\":N}' %[2]spaced\n",
		body, urls[0], urls[1], urls[2])
}

// play sends the requests of a scene at once, and counts the statuses of their
// answers.
func (s demoScene) play(urls []string) map[int]int {
	statuses := map[int]int{}
	var mu sync.Mutex
	var requests sync.WaitGroup
	for i := range s.sent {
		body := fmt.Sprintf(`{"text":%q}`, s.name)
		if !s.equal {
			body = fmt.Sprintf(`{"text":%q,"n":%d}`, s.name, i)
		}
		requests.Go(func() {
			res, err := http.Post(urls[i%len(urls)]+s.route, "application/json", strings.NewReader(body))
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
