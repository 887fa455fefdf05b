package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The plot and the table of the documentation are of one measurement: fails if one
// of them is changed without the other.
func TestPlotOfSpeedIsOfTheTable(t *testing.T) {
	table, err := os.ReadFile("../../docs/speed.md")
	if err != nil {
		t.Fatal(err)
	}
	plot, err := os.ReadFile("../../docs/speed.svg")
	if err != nil {
		t.Fatal(err)
	}
	drawn := append(slices.Collect(maps.Keys(forms)), nginx)
	var want []string
	for line := range strings.Lines(string(table)) {
		if cells := strings.Split(line, "|"); len(cells) == 13 && slices.Contains(drawn, strings.TrimSpace(cells[2])) {
			want = append(want, strings.Fields(cells[3])[0])
		}
	}
	var got []string
	for _, label := range regexp.MustCompile(`>(\d\.\d\d)</text></g>`).FindAllStringSubmatch(string(plot), -1) {
		got = append(got, label[1])
	}
	if len(want) < 10 || !slices.Equal(got, want) {
		t.Errorf("docs/speed.svg has  %q\ndocs/speed.md has %q", got, want)
	}
}
