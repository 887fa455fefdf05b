package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// holdField tells the upstream how long to hold a request. It is none of the
// fields in which equal requests agree.
const holdField = "Bench-Hold"

// differs is how a body begins that differs from the others of its run.
const differs = `{"n":%10d`

// load is what is sent to a system: POSTs of different bodies by default, as
// fast as they are answered.
type load struct {
	connections int
	body        int    // size; 0 for a GET
	equal       bool   // all bodies of a run are equal
	flights     bool   // of as many as there are connections, the next ones when all have their answers
	path        string // below the route
	perSecond   int    // 0 for as many as are answered
	clients     int    // as X-Forwarded-For tells; 0 for none
}

// sample is one measurement. CPU time and what Redis did are by request.
type sample struct {
	n, refused                float64 // answers, and those that are not a success
	seconds                   float64
	p50                       float64 // µs
	cpu, redisCPU             float64 // µs
	redisReads, redisCommands float64
	memory                    float64 // MiB
}

// sample sends the load for some seconds.
func (b *bed) sample(s *system, l load, seconds int) (got sample, err error) {
	b.runs++
	content := fmt.Sprintf(differs+`,"run":%d,"text":"`, 0, b.runs)
	content += strings.Repeat("x", max(0, l.body-len(content)-2)) + `"}`
	if s.holder != "" && !l.flights {
		takes := time.Duration(seconds+1) * time.Second
		if s.name == joinOther { // for the answer is what is measured
			takes = flightTakes
		}
		answered, err := b.hold(s.holder, content, takes)
		if err != nil {
			return got, err
		}
		if s.name == joinOther {
			<-answered
		}
		defer func() { <-answered }()
	}
	before, err := s.usage(b.ctx)
	if err != nil {
		return got, err
	}
	switch {
	case l.perSecond > 0:
		got, err = b.openLoop(s, l, content, seconds)
	case l.flights:
		got, err = b.flights(s, l, content, seconds)
	default:
		got, err = b.wrk(s, l, content, seconds)
	}
	if err != nil {
		return got, err
	}
	after, err := s.usage(b.ctx)
	got.cpu = float64((after.cpu - before.cpu).Microseconds()) / got.n
	got.redisCPU = float64((after.redisCPU - before.redisCPU).Microseconds()) / got.n
	got.redisReads = (after.reads - before.reads) / got.n
	got.redisCommands = (after.commands - before.commands) / got.n
	got.memory = s.memory()
	return got, err
}

// hold sends a request equal to the load's, which the upstream has when hold
// returns, and answers after d.
func (b *bed) hold(addr, content string, d time.Duration) (answered <-chan struct{}, err error) {
	req, err := http.NewRequestWithContext(b.ctx, http.MethodPost, "http://"+addr+"/v1", strings.NewReader(content))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(holdField, d.String())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if res, err := http.DefaultClient.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
	}()
	select {
	case <-b.held:
		return done, nil
	case <-done:
		return nil, errors.New("the request to be held was not")
	}
}

// wrkScript is given the method, the content, whether requests differ, the
// path, the numbers of routes and of clients, the first n, and differs twice.
const wrkScript = `
wrk.method = %q
wrk.headers["Content-Type"] = "application/json"
local content, unequal, path, routes, clients, n = %q, %t, %q, %d, %d, %d
local tail = content:sub(#string.format(%q, n) + 1)
request = function()
	n = n + 1
	local body = content
	if unequal and #content > 0 then body = string.format(%q, n) .. tail end
	if clients > 0 then
		local client = n %% clients
		wrk.headers["X-Forwarded-For"] = string.format("10.%%d.%%d.%%d", client / 65536, client / 256 %% 256, client %% 256)
	end
	return wrk.format(nil, "/v" .. n %% routes + 1 .. path, nil, body)
end
done = function(summary, latency)
	local e = summary.errors
	print("done", summary.requests, e.status + e.connect + e.read + e.write + e.timeout, summary.duration / 1e6, latency:percentile(50))
end
`

// wrk sends the load to all addresses of the system at once.
func (b *bed) wrk(s *system, l load, content string, seconds int) (all sample, err error) {
	method := http.MethodPost
	if l.body == 0 {
		method, content = http.MethodGet, ""
	}
	got, errs := make([]sample, len(s.addrs)), make([]error, len(s.addrs))
	var running sync.WaitGroup
	for i, addr := range s.addrs {
		running.Go(func() {
			script := fmt.Appendf(nil, wrkScript, method, content, !l.equal, l.path, s.routes, l.clients, i*100_000_000, differs, differs)
			path := filepath.Join(b.dir, fmt.Sprintf("load-%d.lua", i))
			if errs[i] = os.WriteFile(path, script, 0o600); errs[i] != nil {
				return
			}
			out, err := exec.CommandContext(b.ctx, "wrk", "-t1", fmt.Sprint("-c", l.connections/len(s.addrs)),
				fmt.Sprint("-d", seconds), "-s", path, "http://"+addr).CombinedOutput()
			_, last, _ := strings.Cut(string(out), "done\t")
			a := &got[i]
			if err == nil {
				_, err = fmt.Sscan(last, &a.n, &a.refused, &a.seconds, &a.p50)
			}
			if err != nil {
				errs[i] = fmt.Errorf("wrk: %w (make bench installs it)\n%s", err, out)
			}
		})
	}
	running.Wait()
	for _, a := range got { // latencies of replicas are averaged
		all.n, all.refused, all.seconds = all.n+a.n, all.refused+a.refused, max(all.seconds, a.seconds)
		all.p50 += a.p50 / float64(len(got))
	}
	return all, errors.Join(errs...)
}

// openLoop sends requests when they are due, however long others take, and
// counts from when they were: what a stall delays is not left out.
func (b *bed) openLoop(s *system, l load, content string, seconds int) (got sample, err error) {
	const connections = 64
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
	defer client.CloseIdleConnections()
	n := l.perSecond * seconds
	due := make(chan int, n)
	latencies := make([]float64, n)
	statuses := make([]int, n)
	start := time.Now()
	at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Second / time.Duration(l.perSecond)) }
	var sending sync.WaitGroup
	for range connections {
		sending.Go(func() {
			for i := range due {
				body := fmt.Sprintf(differs, i) + content[len(fmt.Sprintf(differs, i)):]
				res, err := client.Post("http://"+s.addrs[0]+"/v1", "application/json", strings.NewReader(body))
				if err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
					statuses[i] = res.StatusCode
				}
				latencies[i] = float64(time.Since(at(i)).Microseconds())
			}
		})
	}
	for i := range n {
		// The runtime's own timers are a millisecond late.
		wait := syscall.NsecToTimespec(int64(time.Until(at(i))))
		_ = syscall.Nanosleep(&wait, nil)
		due <- i
	}
	close(due)
	sending.Wait()
	for _, status := range statuses {
		if status != http.StatusOK {
			got.refused++
		}
	}
	slices.Sort(latencies)
	got.n, got.seconds, got.p50 = float64(n), time.Since(start).Seconds(), latencies[n/2]
	return got, b.ctx.Err()
}
