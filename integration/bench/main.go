// Command bench measures throttle-proxy beside a bare httputil.ReverseProxy and
// nginx, all on loopback of this machine, and prints tables in Markdown.
//
// Machines differ, and this one does other things meanwhile. So what counts is
// the CPU time that a request costs, and its ratio to that of the bare proxy in
// the same round: in each round all are measured in turn, and in the next one
// the other way round.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// What a workload is run against.
const (
	direct = "no proxy"
	bare   = "bare ReverseProxy"
	nginx  = "nginx"
	alone  = "throttle-proxy"
	shared = "throttle-proxy, Redis"
	second = "throttle-proxy, Redis, another replica lives"
	other  = "throttle-proxy, Redis, another replica's" // the equal request is in flight elsewhere

	joinAlone  = "throttle-proxy, join"
	joinShared = "throttle-proxy, Redis, join"
	joinOther  = "throttle-proxy, Redis, join, another's"

	olderAlone  = "the other build"
	olderShared = "the other build, Redis"
)

// form is one way to run the product.
type form struct {
	redis     bool
	elsewhere bool // there are two replicas, and the load goes to one, which does not have the lock where all requests are equal
	older     bool // another build
	flags     []string
}

// forms are those of the product, by the name of the system.
var forms = map[string]form{
	alone:       {},
	shared:      {redis: true},
	second:      {redis: true, elsewhere: true},
	other:       {redis: true, elsewhere: true},
	joinAlone:   {flags: join},
	joinShared:  {redis: true, flags: join},
	joinOther:   {redis: true, elsewhere: true, flags: append(slices.Clone(join), "--hold", "1h")}, // the answer is there as long as is measured
	olderAlone:  {older: true},
	olderShared: {older: true, redis: true},
}

var join = []string{"--on-duplicate", "join"}

var (
	everything = []string{direct, bare, nginx, alone, shared}
	proxies    = []string{bare, alone, shared}
	sharing    = []string{bare, alone, joinAlone, shared, joinShared, other, joinOther}
)

// How an upstream is spoken to, where not in clear.
const (
	overTLS1 = "https, HTTP/1.1 alone"
	overTLS2 = "https, HTTP/2 offered"
)

func (w workload) scheme() string {
	if w.over != "" {
		return "https://"
	}
	return "http://"
}

type workload struct {
	name, title string
	systems     []string
	load        load
	budget      int // requests a second; 0 for more than any of them can serve

	over       string        // how nginx, as the upstream, is spoken to
	rest       time.Duration // before the load begins
	goUpstream bool          // an upstream that reads bodies, in place of nginx
	delay      time.Duration // that it takes

	routes, budgets, replicas int      // of the product; 0 for one
	cores                     int      // that each proxy may use; 0 for all
	flags                     []string // of the product, besides
	older                     string   // the other build's path; empty for none
}

// knowsAlone is the time after which a replica that has seen no other takes no lock to
// be another's, and looks for none.
const knowsAlone = time.Minute + 2*time.Second

var workloads = []workload{
	{name: "admitted", title: "admitted: POST of 200 B, 64 connections",
		systems: append(slices.Clone(everything), joinAlone, joinShared), load: load{connections: 64, body: 200}},
	{name: "limited", title: "429: the same, all but 100/s refused",
		systems: []string{bare, nginx, alone, shared, second}, load: load{connections: 64, body: 200}, budget: 100, rest: knowsAlone},
	{name: "duplicate", title: "409 or, with join, 200: the same, all equal; the upstream takes 50 ms",
		systems: sharing, load: load{connections: 64, body: 200, equal: true}, goUpstream: true, delay: 50 * time.Millisecond},
	{name: "flights", title: "64 equal at once, and again when they are answered; the upstream takes 50 ms",
		systems: sharing, load: load{connections: 64, body: 200, equal: true, flights: true}, goUpstream: true, delay: 50 * time.Millisecond},
	{name: "latency", title: "1,000 requests/s, however long they take",
		systems: everything, load: load{perSecond: 1000, body: 200}},
	{name: "https2", title: "admitted, to an https upstream that offers HTTP/2",
		systems: proxies, load: load{connections: 64, body: 200}, over: overTLS2},
	{name: "https1", title: "admitted, to an https upstream of HTTP/1.1 alone",
		systems: proxies, load: load{connections: 64, body: 200}, over: overTLS1},
	{name: "body", title: "admitted: bodies of 100 KiB, 16 connections",
		systems: proxies, load: load{connections: 16, body: 100 << 10}},
	{name: "mebibyte", title: "admitted: bodies of 1 MiB, 16 connections",
		systems: proxies, load: load{connections: 16, body: 1 << 20}},
	{name: "one", title: "admitted: POST of 200 B, 1 connection",
		systems: everything, load: load{connections: 1, body: 200}},
	{name: "sixteen", title: "admitted: POST of 200 B, 16 connections",
		systems: proxies, load: load{connections: 16, body: 200}},
	{name: "large", title: "answers of 1 MiB, 16 connections",
		systems: everything, load: load{connections: 16, path: largePath}},
}

// growth returns workloads that differ from the first in one thing each.
func growth() (cells []workload) {
	add := func(title string, systems []string, change func(*workload)) {
		w := workload{title: title, systems: systems, load: load{connections: 64, body: 200}}
		change(&w)
		cells = append(cells, w)
	}
	all := []string{direct, bare, alone, shared}
	for _, n := range []int{1, 16, 64, 256, 1024} {
		add(plural(n, "connection"), all, func(w *workload) { w.load.connections = n })
	}
	for _, n := range []int{1, 2} {
		add("GOMAXPROCS="+fmt.Sprint(n), all, func(w *workload) { w.cores = n })
	}
	for i, size := range []string{"200 B", "10 KiB", "100 KiB", "1 MiB"} {
		n := []int{200, 10 << 10, 100 << 10, 1 << 20}[i]
		add("16 connections, body of "+size, all, func(w *workload) { w.load.connections, w.load.body, w.goUpstream = 16, n, true })
	}
	own := []string{direct, alone, shared}
	for _, n := range []int{1, 100, 1000} {
		add(plural(n, "route"), own, func(w *workload) { w.routes = n })
	}
	for _, n := range []int{1, 2, 5} {
		add(plural(n, "window"), own, func(w *workload) { w.budgets = n })
	}
	for _, n := range []int{1, 2, 4, 8} {
		add(plural(n, "replica"), []string{direct, shared}, func(w *workload) { w.replicas = n })
	}
	return cells
}

func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprint(n, " ", noun)
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == "bare-proxy" {
		fmt.Fprintln(os.Stderr, bareProxy(os.Args[2], os.Args[3]))
		os.Exit(1)
	}
	runs := flag.Int("runs", 5, "rounds of each workload")
	seconds := flag.Int("secs", 1, "length of one measurement")
	names := flag.String("workloads", "", "which of them, with commas between; empty for all")
	older := flag.String("beside", "", "another build of the product, which is measured in the same rounds")
	past := flag.String("history", "", "file of the ratios of earlier runs: those of this one are compared with them, and added")
	grow := flag.Bool("growth", false, "measure how cost grows in place of the workloads")
	remember := flag.Bool("memory", false, "measure what is remembered in place of the workloads")
	plots := flag.String("plots", "", "draw the plots of the documentation into this folder; those of a measurement with it")
	only := flag.Bool("plots-only", false, "draw only those that need no measurement")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	measured := func() error { return run(ctx, *runs, *seconds, *names, *grow, *plots, *past, *older) }
	if *only {
		measured = func() error { return drawPlots(ctx, *plots) }
	}
	if *remember {
		measured = func() error { return runMemory(ctx) }
	}
	if err := measured(); ctx.Err() != nil {
		os.Exit(130) // as after a signal
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, runs, seconds int, names string, grow bool, plots, past, older string) error {
	if runs < 1 || seconds < 1 {
		return errors.New("-runs and -secs must be at least 1")
	}
	if err := prepare(ctx); err != nil {
		return err
	}
	chosen := growth()
	if !grow {
		chosen = slices.DeleteFunc(slices.Clone(workloads), func(w workload) bool { return names != "" && !slices.Contains(strings.Split(names, ","), w.name) })
	}
	var results []result
	for i, w := range chosen {
		w.addOlder(older)
		fmt.Fprintf(os.Stderr, "%d of %d: %s\n", i+1, len(chosen), w.title)
		r, err := measure(ctx, w, runs, seconds)
		if err != nil {
			return fmt.Errorf("%s: %w", w.title, err)
		}
		results = append(results, r)
	}
	if grow {
		printGrowth(os.Stdout, results)
		return nil
	}
	printWorkloads(os.Stdout, results)
	printBeside(os.Stdout, results, "CPU of a route with join ÷ that of one that refuses", cpu, besides{joinAlone, alone}, besides{joinShared, shared}, besides{joinOther, other})
	printBeside(os.Stdout, results, "Redis CPU, likewise", redisCPU, besides{joinShared, shared}, besides{joinOther, other})
	printBeside(os.Stdout, results, "CPU ÷ that of the other build", cpu, besides{alone, olderAlone}, besides{shared, olderShared})
	fmt.Printf("\nOn %s, %s, %s; %s.\n", machine(), kernel(), runtime.Version(), time.Now().UTC().Format(time.DateOnly))
	if past != "" {
		if err := compare(os.Stderr, past, results); err != nil {
			return err
		}
	}
	if plots != "" {
		if err := errors.Join(drawPlots(ctx, plots), drawSpeed(filepath.Join(plots, "speed.svg"), results)); err != nil {
			return err
		}
	}
	return printStart(ctx, os.Stdout, runs)
}

// addOlder has another build measured too, where both can do what is asked.
func (w *workload) addOlder(path string) {
	if w.older = path; path == "" {
		return
	}
	w.systems = slices.Clone(w.systems)
	for beside, older := range map[string]string{alone: olderAlone, shared: olderShared} {
		if i := slices.Index(w.systems, beside); i >= 0 {
			w.systems = slices.Insert(w.systems, i+1, older)
		}
	}
}

// prepare builds the product, and lets children open as many files as they may.
func prepare(ctx context.Context) error {
	if err := allowConnections(); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "make", "-s", "build").CombinedOutput(); err != nil {
		return fmt.Errorf("make build: %w (run this in the repository's first folder)\n%s", err, out)
	}
	return nil
}

// result holds the samples of each system, one for each round.
type result struct {
	workload
	samples map[string][]sample
}

func measure(ctx context.Context, w workload, runs, seconds int) (result, error) {
	r := result{w, map[string][]sample{}}
	b, err := newBed(ctx)
	if err != nil {
		return r, err
	}
	defer b.end()
	upstream, err := b.upstream(w)
	if err != nil {
		return r, err
	}
	var systems []*system
	for _, name := range w.systems {
		s, err := b.system(name, w, upstream)
		if err != nil {
			return r, fmt.Errorf("%s: %w", name, err)
		}
		systems = append(systems, s)
	}
	select {
	case <-time.After(w.rest):
	case <-ctx.Done():
		return r, ctx.Err()
	}
	for round := range runs + 1 { // the first is for warming up
		for _, s := range systems {
			got, err := b.sample(s, w.load, seconds)
			if err != nil {
				return r, fmt.Errorf("%s: %w", s.name, err)
			}
			if round == 0 {
				continue
			}
			r.samples[s.name] = append(r.samples[s.name], got)
			if got.refused > 0 && w.budget == 0 && !w.load.equal {
				fmt.Fprintf(os.Stderr, "%s: %.2f %% refused or failed\n", s.name, refused(got))
			}
		}
		slices.Reverse(systems)
	}
	return r, nil
}
