package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"throttle-proxy/limiter"
)

// drawPlots draws what the documentation shows, into a folder: by the product's own
// limiter, and by a run of the product.
func drawPlots(ctx context.Context, dir string) error {
	if err := drawFirstPeriod(filepath.Join(dir, "first-period.svg")); err != nil {
		return err
	}
	return drawBurst(ctx, filepath.Join(dir, "burst.svg"))
}

// drawFirstPeriod shows what a limit lets pass of requests without end.
func drawFirstPeriod(path string) error {
	c := chart{
		title: "Admitted by 100 a minute, of requests without end", x: "seconds", y: "requests",
		width: 120, height: 320, ticks: [2]float64{20, 50},
	}
	for _, text := range []string{"100/m", "100/m,strict"} {
		limit, err := limiter.Parse(text)
		if err != nil {
			return err
		}
		budgets, charges := limiter.NewBudgets(1), []limiter.Charge{{Key: text, Limit: limit}}
		s, n := series{name: text, points: []point{{}}}, 0.0
		for now := time.Duration(0); now <= 2*time.Minute; now += 10 * time.Millisecond {
			for {
				if _, _, admitted := budgets.Take(now, charges); !admitted {
					break
				}
				n++
				s.points = append(s.points, point{now.Seconds(), n})
			}
		}
		c.series = append(c.series, s)
	}
	return c.draw(path)
}

// drawBurst shows what becomes of twenty requests at once where a budget refuses
// and where they wait for it.
func drawBurst(ctx context.Context, path string) error {
	const requests = 20
	if err := prepare(ctx); err != nil {
		return err
	}
	b, err := newBed(ctx)
	if err != nil {
		return err
	}
	defer b.end()
	upstream := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer upstream.Close()
	c := chart{
		title: "Twenty requests at once, 10/s with a burst of 5", x: "seconds until the answer", y: "request",
		width: 2, height: requests, ticks: [2]float64{0.25, 5},
	}
	for _, run := range []struct {
		flags []string
		names map[int]string
	}{
		{nil, map[int]string{http.StatusOK: "without --wait: 200", http.StatusTooManyRequests: "without --wait: 429"}},
		{[]string{"--wait", "10s"}, map[int]string{http.StatusOK: "--wait 10s: 200, each at its instant"}},
	} {
		addr := freeAddr()
		args := append([]string{"--listen", addr, "--register", "hook=" + upstream.URL, "--rate", "10/s,burst=5", "--log-level", "error"}, run.flags...)
		if _, err := b.start(addr, "bin/throttle-proxy", args...); err != nil {
			return err
		}
		answers, err := burst(ctx, "http://"+addr+"/hook", requests)
		if err != nil {
			return err
		}
		byStatus := map[int][]point{}
		for i, a := range answers {
			byStatus[a.status] = append(byStatus[a.status], point{a.after.Seconds(), float64(i + 1)})
		}
		for _, status := range []int{http.StatusOK, http.StatusTooManyRequests} {
			if name, ok := run.names[status]; ok {
				c.series = append(c.series, series{name: fmt.Sprintf("%s (%d)", name, len(byStatus[status])), dots: true, points: byStatus[status]})
			}
		}
	}
	slices.SortFunc(c.series, func(a, b series) int { return cmp.Compare(b.name, a.name) })
	return c.draw(path)
}

// answer is when a request was answered.
type answer struct {
	status int
	after  time.Duration
}

// burst sends n requests at once, and returns their answers in the order in which
// they came.
func burst(ctx context.Context, url string, n int) ([]answer, error) {
	var mu sync.Mutex
	var all []answer
	var failed error
	var sending sync.WaitGroup
	began := time.Now()
	for i := range n {
		sending.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(fmt.Sprint(i)))
			var res *http.Response
			if err == nil {
				res, err = http.DefaultClient.Do(req)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			all = append(all, answer{res.StatusCode, time.Since(began)})
		})
	}
	sending.Wait()
	return all, failed
}

// drawSpeed shows the CPU time of requests beside that of the bare proxy.
func drawSpeed(path string, results []result) error {
	groups, order := map[string][]bar{}, []string{}
	for _, r := range results {
		for _, system := range r.systems {
			class := "a"
			switch form, own := forms[system]; {
			case system == nginx:
				class = "c"
			case !own || form.older:
				continue
			case form.redis:
				class = "b"
			}
			ratios := pairs(r.of(system, cpu), r.of(bare, cpu), ratio)
			groups[r.title] = append(groups[r.title], bar{system, median(ratios), class})
		}
		order = append(order, r.title)
	}
	return drawBars(path, "CPU time of a request, beside a bare ReverseProxy's (the line)", groups, order)
}
