package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// maxColumns is the longest line of help that fits a person.
const maxColumns = 120

func TestHelpNamesEveryFlagAndCommand(t *testing.T) {
	t.Setenv("COLUMNS", "200") // as kong is told of a terminal that wide
	var serveFlags []string
	for _, flag := range flagsOf(t, "serve") {
		serveFlags = append(serveFlags, "--"+flag.Name+"=")
	}
	parser, _ := grammar(t, nil)
	commands := []string{}
	for _, c := range parser.Model.Leaves(false) {
		commands = append(commands, "\n  "+c.Name)
	}
	for _, test := range []struct {
		line string
		want []string // each of them once
	}{
		{"--help", append(commands, serveFlags...)},
		{"-h", serveFlags},
		{"serve --help", serveFlags},
		{"help", append(commands, serveFlags...)},
		{"help check", serveFlags},
		{"check --help", serveFlags},
		{"health --help", []string{"--port=", "--listen="}},
		{"demo --help", []string{"Usage: throttle-proxy demo"}},
		{"version --help", []string{"Usage: throttle-proxy version"}},
		{"--port x --help", serveFlags},
	} {
		status, stdout, stderr := execute(test.line)
		if status != 0 || stderr != "" {
			t.Errorf("%s: got status %d and %q, want 0 and nothing", test.line, status, stderr)
		}
		for _, want := range test.want {
			if got := strings.Count(stdout, want); got != 1 {
				t.Errorf("%s: got %q %d times, want once", test.line, want, got)
			}
		}
		for line := range strings.Lines(stdout) {
			if got := utf8.RuneCountInString(line); got > maxColumns {
				t.Errorf("%s: got %d columns, want at most %d: %s", test.line, got, maxColumns, line)
			}
		}
	}
}

var (
	flagInTable  = regexp.MustCompile("--[a-z][a-z-]*")
	documentedAs = regexp.MustCompile(`\(([^()]*)\)\.?$`) // a flag's default, at the end of its help
)

// flagTable returns the cell with the default of each flag in the tables of
// docs/flags.md. A row begins with a flag in backquotes, and may name several.
func flagTable(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/flags.md")
	if err != nil {
		t.Fatal(err)
	}
	defaults := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| `--") {
			continue
		}
		cells := strings.Split(strings.ReplaceAll(line, `\|`, "/"), "|")
		for _, flag := range flagInTable.FindAllString(cells[1], -1) {
			defaults[strings.TrimPrefix(flag, "--")] = strings.ReplaceAll(cells[2], "`", "")
		}
	}
	return defaults
}

func TestDocumentationHasEveryFlagWithItsDefault(t *testing.T) {
	documented := flagTable(t)
	for _, flag := range flagsOf(t, "serve") {
		cell, ok := documented[flag.Name]
		if !ok {
			t.Errorf("--%s is not in the table", flag.Name)
		}
		want := flag.Default
		if match := documentedAs.FindStringSubmatch(flag.Help); match != nil {
			want = match[1]
		}
		if !strings.Contains(cell, want) {
			t.Errorf("--%s: got the default %q, want %q", flag.Name, cell, want)
		}
	}
	var names []string
	for _, flag := range flagsOf(t, "") {
		names = append(names, flag.Name)
	}
	for name := range documented {
		if !slices.Contains(names, name) {
			t.Errorf("--%s is in the table, and no flag", name)
		}
	}
}
