package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"
)

func cpu(s sample) float64 { return s.cpu }
func p50(s sample) float64 { return s.p50 }

// of returns a figure of each round.
func (r result) of(system string, figure func(sample) float64) (values []float64) {
	for _, s := range r.samples[system] {
		values = append(values, figure(s))
	}
	return values
}

// pairs combines the values of two systems in the same rounds.
func pairs(a, b []float64, f func(a, b float64) float64) (values []float64) {
	for i := range min(len(a), len(b)) {
		values = append(values, f(a[i], b[i]))
	}
	return values
}

func ratio(a, b float64) float64      { return a / b }
func difference(a, b float64) float64 { return a - b }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// show formats the median, and in the brackets the least and the greatest.
func show(format string, values []float64, brackets bool) string {
	if len(values) == 0 {
		return "–"
	}
	text := fmt.Sprintf(format, median(values))
	if brackets {
		text += fmt.Sprintf(" ["+format+"–"+format+"]", slices.Min(values), slices.Max(values))
	}
	return text
}

func printWorkloads(out io.Writer, results []result) {
	fmt.Fprintln(out, "| load | through | CPU ÷ bare | CPU µs | requests/s | refused | p50 added, µs | Redis CPU µs | Redis reads | Redis commands | memory, MiB |")
	fmt.Fprintln(out, "|--|--|--|--|--|--|--|--|--|--|--|")
	for _, r := range results {
		title := r.title
		for _, system := range r.systems {
			cell := func(format string, figure func(sample) float64) string {
				return show(format, r.of(system, figure), false)
			}
			ratios, added, used, memory := "–", "–", "–", "–"
			if system != direct {
				ratios = show("%.2f", pairs(r.of(system, cpu), r.of(bare, cpu), ratio), system != bare)
				used, memory = cell("%.0f", cpu), cell("%.0f", func(s sample) float64 { return s.memory })
				if r.load.perSecond > 0 { // where there is no queue
					added = show("%.0f", pairs(r.of(system, p50), r.of(direct, p50), difference), true)
				}
			}
			reads, commands, redisCPU := "–", "–", "–"
			if system == shared || system == other {
				redisCPU = cell("%.1f", func(s sample) float64 { return s.redisCPU })
				reads = cell("%.2f", func(s sample) float64 { return s.redisReads })
				commands = cell("%.2f", func(s sample) float64 { return s.redisCommands })
			}
			fmt.Fprintf(out, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", title, system, ratios, used,
				cell("%.0f", func(s sample) float64 { return s.rate }),
				cell("%.1f %%", func(s sample) float64 { return 100 * s.refused }),
				added, redisCPU, reads, commands, memory)
			title = ""
		}
	}
}

func printGrowth(out io.Writer, results []result) {
	fmt.Fprintln(out, "| | CPU µs: bare | alone | with Redis | p50 added, µs: bare | alone | with Redis | requests/s: alone | with Redis | Redis CPU µs |")
	fmt.Fprintln(out, "|--|--|--|--|--|--|--|--|--|--|")
	for _, r := range results {
		fmt.Fprintf(out, "| %s ", r.title)
		for _, system := range []string{bare, alone, shared} {
			fmt.Fprintf(out, "| %s ", show("%.0f", r.of(system, cpu), false))
		}
		for _, system := range []string{bare, alone, shared} {
			fmt.Fprintf(out, "| %s ", show("%.0f", pairs(r.of(system, p50), r.of(direct, p50), difference), false))
		}
		for _, system := range []string{alone, shared} {
			fmt.Fprintf(out, "| %s ", show("%.0f", r.of(system, func(s sample) float64 { return s.rate }), false))
		}
		fmt.Fprintf(out, "| %s |\n", show("%.1f", r.of(shared, func(s sample) float64 { return s.redisCPU }), false))
	}
}

// printStart tells how large the product is, and how soon it is ready.
func printStart(ctx context.Context, out io.Writer, runs int) error {
	b, err := newBed(ctx)
	if err != nil {
		return err
	}
	defer b.end()
	var took []float64
	for range runs {
		addr, start := freeAddr(), time.Now()
		if _, err := b.start(addr, product, "--listen", addr, "--register", "v1=http://127.0.0.1:9"); err != nil {
			return err
		}
		res, err := http.Get("http://" + addr + "/-/ready")
		if err != nil {
			return err
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("not ready: %s", res.Status)
		}
		took = append(took, float64(time.Since(start).Milliseconds()))
	}
	info, err := os.Stat(product)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nThe binary has %.1f MiB and is ready %s ms after its start.\n", float64(info.Size())/(1<<20), show("%.0f", took, true))
	return nil
}
