package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// A ratio that was measured: what a request costs the product, of what it costs
// the bare proxy in the same run. In the history each is a line.
type ratioOf struct {
	commit, date, machine, row string
	ratio                      float64
}

const (
	newest    = 9    // of the earlier ratios of a row on a machine, with which one is compared
	tolerance = 1.10 // of their median
)

// compare tells of rows that cost clearly more than they did on this machine, and
// adds this run to the history.
func compare(out io.Writer, path string, results []result) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	past, err := readHistory(file)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	now := ratios(results, ratioOf{commit: commit(), date: time.Now().UTC().Format(time.DateOnly), machine: machine()})
	for _, line := range regressions(past, now) {
		fmt.Fprintln(out, "bench: warning:", line)
	}
	lines := csv.NewWriter(file)
	for _, r := range now {
		_ = lines.Write([]string{r.commit, r.date, r.machine, r.row, strconv.FormatFloat(r.ratio, 'f', 3, 64)}) // Error tells
	}
	lines.Flush()
	return errors.Join(lines.Error(), file.Close())
}

func readHistory(in io.Reader) (past []ratioOf, err error) {
	lines, err := csv.NewReader(in).ReadAll()
	for _, l := range lines {
		if len(l) != 5 {
			return nil, fmt.Errorf("a line of %d values, want 5", len(l))
		}
		ratio, err := strconv.ParseFloat(l[4], 64)
		if err != nil {
			return nil, err
		}
		past = append(past, ratioOf{l[0], l[1], l[2], l[3], ratio})
	}
	return past, err
}

// ratios are those of results; of is what all have in common.
func ratios(results []result, of ratioOf) (all []ratioOf) {
	for _, r := range results {
		for _, system := range r.systems {
			form, own := forms[system]
			if values := pairs(r.of(system, cpu), r.of(bare, cpu), ratio); own && !form.older && len(values) > 0 {
				of.row, of.ratio = r.name+", "+system, median(values)
				all = append(all, of)
			}
		}
	}
	return all
}

// regressions are what is to be said of ratios beside those of the past.
func regressions(past, now []ratioOf) (lines []string) {
	for _, n := range now {
		var before []float64
		for _, p := range past {
			if p.row == n.row && p.machine == n.machine {
				before = append(before, p.ratio)
			}
		}
		before = before[max(0, len(before)-newest):]
		if len(before) > 0 && n.ratio > tolerance*median(before) {
			lines = append(lines, fmt.Sprintf("%s: %.2f of the bare proxy, %.0f %% above the median of %s on this machine (%.2f)",
				n.row, n.ratio, 100*(n.ratio/median(before)-1), plural(len(before), "run"), median(before)))
		}
	}
	return lines
}

// commit names what is measured, with a + where files differ from it.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty=+", "--exclude=*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// machine names the kind of machine that this runs on.
func machine() string {
	model := runtime.GOARCH
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	return plural(runtime.NumCPU(), "core") + " of " + model
}

// kernel is the system's own name and version.
func kernel() string {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(runtime.GOOS + " " + string(release))
}
