package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// What a replica remembers, and what of it stays.
var (
	// Holds and budgets outlast the run.
	distinct = workload{title: "requests, each of them another, of 100,000 clients with a budget each; held for an hour",
		load:  load{connections: 64, body: 200, clients: 100_000},
		flags: []string{"--hold", "1h", "--trusted-proxy", "127.0.0.0/8", "--rate", "10000/d,by=client,name=client"}}
	steady = workload{title: "as in the first table, minutes", load: load{connections: 64, body: 200}}
)

const (
	distinctRequests = 1_000_000
	steadyTime       = 10 * time.Minute
)

// runMemory prints how memory grows with what is remembered, and whether it
// does with time.
func runMemory(ctx context.Context) error {
	if err := prepare(ctx); err != nil {
		return err
	}
	printRow(os.Stdout, distinct.title, "memory alone, MiB", "with Redis", "Redis itself")
	printRow(os.Stdout, "--", "--", "--", "--")
	sent := func(n float64, _ time.Duration) bool { return n >= distinctRequests }
	alones, err := remembered(ctx, distinct, alone, sent)
	if err != nil {
		return err
	}
	shareds, err := remembered(ctx, distinct, shared, sent)
	if err != nil {
		return err
	}
	for _, step := range []float64{0, 100_000, 200_000, 500_000, distinctRequests} {
		a, s := reached(alones, step), reached(shareds, step)
		printRow(os.Stdout, fmt.Sprintf("%.0f", step), fmt.Sprintf("%.0f", a.replica), fmt.Sprintf("%.0f", s.replica), fmt.Sprintf("%.0f", s.redis))
	}
	fmt.Println()
	printRow(os.Stdout, steady.title, "with Redis, MiB", "Redis itself")
	printRow(os.Stdout, "--", "--", "--")
	steadies, err := remembered(ctx, steady, shared, func(_ float64, took time.Duration) bool { return took >= steadyTime })
	if err != nil {
		return err
	}
	for minute := range int(steadyTime/time.Minute) + 1 {
		for _, m := range steadies {
			if m.took >= time.Duration(minute)*time.Minute {
				printRow(os.Stdout, strconv.Itoa(minute), fmt.Sprintf("%.0f", m.replica), fmt.Sprintf("%.0f", m.redis))
				break
			}
		}
	}
	return nil
}

// held is the memory in use after so many requests.
type held struct {
	n              float64
	took           time.Duration
	replica, redis float64 // MiB
}

// reached returns the first of all after n requests.
func reached(all []held, n float64) held {
	for _, m := range all {
		if m.n >= n {
			return m
		}
	}
	return all[len(all)-1]
}

// remembered sends w's load until there is enough of it, and returns how much
// memory was in use from the start on.
func remembered(ctx context.Context, w workload, name string, enough func(n float64, took time.Duration) bool) (all []held, err error) {
	b, err := newBed(ctx)
	if err != nil {
		return nil, err
	}
	defer b.end()
	upstream, err := b.upstream(w)
	if err != nil {
		return nil, err
	}
	s, err := b.system(name, w, upstream)
	if err != nil {
		return nil, err
	}
	var n float64
	start := time.Now()
	for {
		m := held{n: n, took: time.Since(start), replica: s.memory()}
		if s.redis != nil {
			info, err := s.redis.Info(ctx, "memory").Result()
			if err != nil {
				return nil, err
			}
			_, used, _ := strings.Cut(info, "used_memory:")
			used, _, _ = strings.Cut(used, "\r")
			bytes, _ := strconv.ParseFloat(used, 64)
			m.redis = bytes / (1 << 20)
		}
		if all = append(all, m); enough(m.n, m.took) {
			return all, nil
		}
		got, err := b.sample(s, w.load, 2)
		if err != nil {
			return nil, err
		}
		if n += got.n; got.refused > 0 {
			fmt.Fprintf(os.Stderr, "%s: %.2f %% refused or failed\n", name, refused(got))
		}
	}
}
