package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// Figures of a sample.
func rate(s sample) float64          { return s.n / s.seconds }
func refused(s sample) float64       { return 100 * s.refused / s.n }
func p50(s sample) float64           { return s.p50 }
func cpu(s sample) float64           { return s.cpu }
func redisCPU(s sample) float64      { return s.redisCPU }
func redisReads(s sample) float64    { return s.redisReads }
func redisCommands(s sample) float64 { return s.redisCommands }
func memory(s sample) float64        { return s.memory }

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
	printRow(out, "load", "through", "CPU ÷ bare", "CPU µs", "requests/s", "refused", "p50 added, µs", "Redis CPU µs", "Redis reads", "Redis commands", "memory, MiB")
	printRow(out, slices.Repeat([]string{"--"}, 11)...)
	for _, r := range results {
		title := r.title
		for _, system := range r.systems {
			of := func(figure func(sample) float64, has bool) []float64 {
				if !has {
					return nil
				}
				return r.of(system, figure)
			}
			proxy, redis := system != direct, forms[system].redis
			var added []float64
			if r.load.perSecond > 0 || r.load.connections == 1 { // elsewhere it is the queue's
				added = pairs(of(p50, proxy), r.of(direct, p50), difference)
			}
			printRow(out, title, system,
				show("%.2f", pairs(of(cpu, proxy), r.of(bare, cpu), ratio), system != bare),
				show("%.0f", of(cpu, proxy), false),
				show("%.0f", of(rate, true), false),
				show("%.1f %%", of(refused, true), false),
				show("%.0f", added, true),
				show("%.1f", of(redisCPU, redis), false),
				show("%.2f", of(redisReads, redis), false),
				show("%.2f", of(redisCommands, redis), false),
				show("%.0f", of(memory, proxy), false))
			title = ""
		}
	}
}

// besides is a system, and the one that it is compared with.
type besides struct{ system, with string }

// printBeside prints a figure of the first systems of some pairs beside that of the
// second ones, for the workloads that were run against both.
func printBeside(out io.Writer, results []result, title string, figure func(sample) float64, all ...besides) {
	head, rows := []string{title}, [][]string{}
	for _, b := range all {
		head = append(head, b.with)
	}
	for _, r := range results {
		row, measured := []string{r.title}, false
		for _, b := range all {
			ratios := pairs(r.of(b.system, figure), r.of(b.with, figure), ratio)
			row, measured = append(row, show("%.2f", ratios, true)), measured || len(ratios) > 0
		}
		if measured {
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		return
	}
	fmt.Fprintln(out)
	printRow(out, head...)
	printRow(out, slices.Repeat([]string{"--"}, len(head))...)
	for _, row := range rows {
		printRow(out, row...)
	}
}

func printGrowth(out io.Writer, results []result) {
	printRow(out, "", "CPU µs: bare", "alone", "with Redis", "p50 added, µs: bare", "alone", "with Redis", "requests/s: alone", "with Redis", "Redis CPU µs")
	printRow(out, slices.Repeat([]string{"--"}, 10)...)
	for _, r := range results {
		added := func(system string) string {
			return show("%.0f", pairs(r.of(system, p50), r.of(direct, p50), difference), false)
		}
		number := func(system string, figure func(sample) float64) string {
			return show("%.0f", r.of(system, figure), false)
		}
		printRow(out, r.title, number(bare, cpu), number(alone, cpu), number(shared, cpu), added(bare), added(alone), added(shared),
			number(alone, rate), number(shared, rate), show("%.1f", r.of(shared, redisCPU), false))
	}
}

func printRow(out io.Writer, cells ...string) {
	fmt.Fprintf(out, "|%s|\n", strings.Join(cells, "|"))
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
