package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRowsThatCostMoreAreTold, on the same machine only, and the history grows by
// each run.
func TestRowsThatCostMoreAreTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.csv")
	other := "a1,2026-01-01,another machine,\"admitted, throttle-proxy\",0.100\n"
	if err := os.WriteFile(path, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(product float64) string {
		var told bytes.Buffer
		r := result{workload{name: "admitted", systems: []string{bare, alone}}, map[string][]sample{bare: {{cpu: 100}, {cpu: 200}}, alone: {{cpu: product}, {cpu: 2 * product}}}}
		if err := compare(&told, path, []result{r}); err != nil {
			t.Fatal(err)
		}
		return told.String()
	}
	for _, product := range []float64{50, 54, 46} {
		if told := run(product); told != "" {
			t.Errorf("%g: got %q, want nothing", product, told)
		}
	}
	if told := run(56); !strings.Contains(told, "admitted, throttle-proxy: 0.56 of the bare proxy, 12 % above the median of 3 runs on this machine (0.50)") {
		t.Errorf("got %q", told)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(text), "\n"); got != 5 || !strings.HasPrefix(string(text), other) {
		t.Errorf("got %d lines: %s", got, text)
	}
}
