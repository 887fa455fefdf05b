package main

import (
	"bytes"
	"encoding/xml"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var recorded = []step{
	{typed: "throttle-proxy demo", output: []string{"Three <replicas>", "", strings.Repeat("x", columns+1)}, takes: time.Second},
	{where: "another terminal", typed: "curl " + strings.Repeat("word ", columns/5) + "end", output: []string{"409"}},
}

// Fails if a line is lost, too wide, or drawn otherwise the second time.
func TestDrawingHasAllLines(t *testing.T) {
	var first, second bytes.Buffer
	if err := draw(&first, recorded); err != nil {
		t.Fatal(err)
	}
	_ = draw(&second, recorded)
	if first.String() != second.String() {
		t.Error("two drawings of one recording differ")
	}
	got := textsOf(t, first.Bytes())
	for _, want := range []string{"$ throttle-proxy demo", "Three <replicas>", strings.Repeat("x", columns-1) + "…", "    word end", "409"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
	for _, line := range got {
		if n := len([]rune(line)); n > columns {
			t.Errorf("got %d columns, want at most %d: %s", n, columns, line)
		}
	}
}

// The recording of the documentation is drawn by this program as it is now.
func TestDocumentationHasADrawingOfThisProgram(t *testing.T) {
	got, err := os.ReadFile("../../docs/demo.svg")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(got), style) || len(textsOf(t, got)) < 10 {
		t.Error("docs/demo.svg is drawn in another way: run make recording")
	}
}

// textsOf returns the lines of a drawing.
func textsOf(t *testing.T, drawing []byte) []string {
	t.Helper()
	var image struct {
		Texts []string `xml:"text"`
	}
	if err := xml.Unmarshal(drawing, &image); err != nil {
		t.Fatal(err)
	}
	return image.Texts
}
