package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/alecthomas/kong"
)

func TestHelpNamesEveryFlagAndCommand(t *testing.T) {
	var serveFlags []string
	for _, flag := range flagsOf(t, "serve") {
		serveFlags = append(serveFlags, "\n  --"+flag.Name+" ")
	}
	brief := []string{"Usage: throttle-proxy [COMMAND] [FLAGS]\n", "\n  --register ", "--help-all", "help COMMAND"}
	parser, _ := grammar(t, nil)
	for _, command := range commandsOf(parser.Model) {
		brief = append(brief, " "+command)
	}
	for _, test := range []struct {
		line string
		want []string // each of them once
	}{
		{"--help", brief},
		{"-h", brief},
		{"help", brief},
		{"-help", brief},
		{"-?", brief},
		{"--help-all", serveFlags},
		{"--port x --help-all", serveFlags},
		{"help flags", serveFlags},
		{"help all", serveFlags},
		{"help serve", serveFlags},
		{"serve --help", serveFlags},
		{"help check", serveFlags},
		{"check -h", serveFlags},
		{"try --help", []string{"\nArguments:\n  <route> ", "\n  --data "}},
		{"completion --help", []string{"bash, zsh or fish"}},
		{"health --help", []string{"\n  --port ", "\n  --listen "}},
		{"demo --help", []string{"Usage: throttle-proxy demo", "\n  --once "}},
		{"version --help", []string{"Usage: throttle-proxy version\n"}},
		{"help flags", []string{"Usage: ", "THROTTLE_PROXY_LOCK_TTL"}},
	} {
		status, stdout, stderr := execute(test.line)
		if status != 0 || stderr != "" {
			t.Errorf("%s: got status %d and %q, want 0 and nothing", test.line, status, stderr)
		}
		for _, want := range test.want {
			got := strings.Count(stdout, want)
			if word, ok := strings.CutPrefix(want, " "); ok { // which may begin a line
				got += strings.Count(stdout, "\n"+word)
			}
			if got != 1 && !(got > 1 && strings.HasPrefix(want, " ")) {
				t.Errorf("%s: got %q %d times, want once", test.line, want, got)
			}
		}
		for line := range strings.Lines(stdout) {
			if got := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); got > helpColumns {
				t.Errorf("%s: got %d columns, want at most %d: %s", test.line, got, helpColumns, line)
			}
		}
	}
}

// What people need first fits a terminal, and says of each flag what the list of
// all says.
func TestHelpIsOneScreen(t *testing.T) {
	_, stdout, _ := execute("--help")
	if got := strings.Count(stdout, "\n"); got > 25 {
		t.Errorf("got %d lines, want at most 25", got)
	}
	known := map[string]*kong.Flag{}
	for _, flag := range flagsOf(t, "serve") {
		known[flag.Name] = flag
	}
	rows, examples := 0, 0
	for line := range strings.Lines(stdout) {
		if example, ok := strings.CutPrefix(line, "  throttle-proxy "); ok {
			examples++
			parse(t, "WEBHOOK_URL=https://hooks.slack.com/services/x "+example)
		}
		text, ok := strings.CutPrefix(line, "  --")
		if !ok {
			continue
		}
		rows++
		name, _, _ := strings.Cut(text, " ")
		flag := known[name]
		if flag == nil {
			t.Errorf("--%s is no flag", name)
			continue
		}
		want := flag.Default
		if match := documentedAs.FindStringSubmatch(flag.Help); match != nil && name != "rate" {
			want = match[1]
		}
		if !strings.Contains(line, want) {
			t.Errorf("%q: want the default %s in it", line, want)
		}
	}
	if rows != 10 || examples != 3 {
		t.Errorf("got %d flags and %d examples, want 10 and 3", rows, examples)
	}
}

var (
	flagInTable  = regexp.MustCompile("--[a-z][a-z-]*")
	documentedAs = regexp.MustCompile(`\(([^()]*)\)\.?$`) // a flag's default, at the end of its help
)

// flagTable returns the cell with the default of each flag in the tables of a
// page. A row begins with a flag in backquotes, and may name several.
func flagTable(t *testing.T, page string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(root + page)
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
	documented := flagTable(t, "docs/flags.md")
	for _, flag := range flagsOf(t, "serve") {
		cell, ok := documented[flag.Name]
		if !ok {
			t.Errorf("--%s is not in the table", flag.Name)
		}
		want := flag.Default
		if match := documentedAs.FindStringSubmatch(flag.Help); match != nil {
			want = strings.ReplaceAll(match[1], ", ", ",") // which lets the help's lines end
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

// The README has the flags of --help, each with its default.
func TestReadmeHasTheFlagsOfHelp(t *testing.T) {
	documented := flagTable(t, "README.md")
	_, stdout, _ := execute("--help")
	rows := 0
	for _, flag := range flagsOf(t, "serve") {
		if !strings.Contains(stdout, "\n  --"+flag.Name+" ") {
			continue
		}
		rows++
		want := flag.Default
		if match := documentedAs.FindStringSubmatch(flag.Help); match != nil && flag.Name != "rate" {
			want = match[1]
		}
		if cell, ok := documented[flag.Name]; !ok || !strings.Contains(cell, want) {
			t.Errorf("--%s: got the default %q in the README, want %q", flag.Name, cell, want)
		}
	}
	if rows == 0 || rows != len(documented) {
		t.Errorf("got %d flags in the README, want the %d of --help", len(documented), rows)
	}
}
