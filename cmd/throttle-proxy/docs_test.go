package main

import (
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const root = "../../"

// Longest that a page may be, in words as wc counts them: who has a question
// reads one page.
const (
	pageWords   = 1500
	readmeWords = 1600
)

// documentation returns the text of every page, by its path.
func documentation(t *testing.T) map[string]string {
	t.Helper()
	paths, _ := filepath.Glob(root + "docs/*.md")
	if len(paths) < 10 {
		t.Fatalf("got %d pages in docs, want all of them", len(paths))
	}
	pages := map[string]string{}
	for _, path := range append(paths, root+"README.md", root+"CONTRIBUTING.md", root+"CHANGELOG.md") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pages[path] = string(text)
	}
	return pages
}

var (
	fenced     = regexp.MustCompile("(?ms)^```.*?^```$")
	link       = regexp.MustCompile(`\]\(([^)#]*)(?:#([^)]*))?\)`)
	heading    = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInLinks = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// Fails if a link of the documentation leads nowhere.
func TestLinksOfTheDocumentationResolve(t *testing.T) {
	for page, text := range documentation(t) {
		for _, to := range link.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			if strings.Contains(to[1], "://") {
				continue // is the network's
			}
			target := page
			if to[1] != "" {
				target = filepath.Join(filepath.Dir(page), to[1])
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s leads nowhere", page, to[0])
				continue
			}
			if to[2] == "" {
				continue
			}
			if there, err := os.ReadFile(target); err != nil || !slices.Contains(anchorsOf(string(there)), to[2]) {
				t.Errorf("%s: %s: there is no such heading", page, to[0])
			}
		}
	}
}

// anchorsOf returns what headings can be linked to by.
func anchorsOf(text string) (anchors []string) {
	for _, h := range heading.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		name := notInLinks.ReplaceAllString(strings.ToLower(h[1]), "")
		anchors = append(anchors, strings.ReplaceAll(name, " ", "-"))
	}
	return anchors
}

func TestPagesOfTheDocumentationAreShort(t *testing.T) {
	for page, text := range documentation(t) {
		most := pageWords
		switch filepath.Base(page) {
		case "CHANGELOG.md": // grows with every release
			continue
		case "README.md":
			most = readmeWords
		}
		if got := len(strings.Fields(text)); got > most {
			t.Errorf("%s: got %d words, want at most %d", page, got, most)
		}
	}
}

// The list of pages has each of them, and every picture is on a page.
func TestEveryPageIsFound(t *testing.T) {
	pages := documentation(t)
	var all strings.Builder
	for _, text := range pages {
		all.WriteString(text)
	}
	index := pages[root+"docs/README.md"]
	for page := range pages {
		name := filepath.Base(page)
		if filepath.Dir(page) == filepath.Clean(root+"docs") && name != "README.md" && !strings.Contains(index, "]("+name+")") {
			t.Errorf("docs/README.md does not list %s", name)
		}
	}
	pictures, _ := filepath.Glob(root + "docs/*.svg")
	for _, picture := range pictures {
		if name := filepath.Base(picture); !strings.Contains(all.String(), name+")") {
			t.Errorf("no page shows %s", name)
		}
	}
}

// Pictures can be read in both themes, and stand still for who asks for it.
func TestPicturesSuitTheirReaders(t *testing.T) {
	pictures, _ := filepath.Glob(root + "docs/*.svg")
	if len(pictures) < 2 {
		t.Errorf("got %d pictures, want the overview and the recording", len(pictures))
	}
	for _, picture := range pictures {
		text, err := os.ReadFile(picture)
		if err != nil {
			t.Fatal(err)
		}
		wants := []string{"prefers-color-scheme:dark", "<title>", "aria-label="}
		if strings.Contains(string(text), "animation") {
			wants = append(wants, "prefers-reduced-motion")
		}
		for _, want := range wants {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: has no %s", picture, want)
			}
		}
		tokens := xml.NewDecoder(strings.NewReader(string(text)))
		for err == nil {
			_, err = tokens.Token()
		}
		if err != io.EOF {
			t.Errorf("%s: %v", picture, err)
		}
	}
}

// The recording has what the demo says now, but for figures.
func TestRecordingIsOfThisDemo(t *testing.T) {
	drawing, err := os.ReadFile(root + "docs/demo.svg")
	if err != nil {
		t.Fatal(err)
	}
	noFigures := strings.NewReplacer("0", "", "1", "", "2", "", "3", "", "4", "", "5", "", "6", "", "7", "", "8", "", "9", "", " ", "")
	recorded := noFigures.Replace(string(drawing))
	_, stdout, _ := execute("demo --once")
	for line := range strings.Lines(stdout) {
		if line = strings.TrimSpace(noFigures.Replace(line)); !strings.Contains(recorded, line) {
			t.Errorf("docs/demo.svg has no %q: run make recording", line)
		}
	}
}

var (
	continued = regexp.MustCompile(`\\\n\s*`)
	ran       = regexp.MustCompile(`(?m)^\$ (.*[ /])?throttle-proxy (.*)\n(.*)$`)
	comment   = regexp.MustCompile(`\s#\s.*`)
)

// Every command line of the documentation is one that can be used, or is told
// what the documentation says.
func TestDocumentedCommandLinesCanBeUsed(t *testing.T) {
	found := 0
	for page, text := range documentation(t) {
		text = continued.ReplaceAllString(text, "")
		for _, line := range ran.FindAllStringSubmatch(text, -1) {
			before, arguments, next := line[1], comment.ReplaceAllString(line[2], ""), line[3]
			if strings.ContainsAny(arguments, "…|(&") {
				t.Errorf("%s: %q cannot be typed", page, arguments)
			}
			found++
			arguments = words(arguments)
			if said, ok := strings.CutPrefix(next, "throttle-proxy: "); ok && before == "" && !strings.HasPrefix(said, "the message") {
				if status, _, stderr := execute(arguments); status != exitUsage || !strings.Contains(stderr, next) {
					t.Errorf("%s: %s: got exit status %d and %q, want %q", page, arguments, status, stderr, next)
				}
				continue
			}
			if strings.HasPrefix(arguments, "--") {
				parse(t, "WEBHOOK_URL=https://hooks.slack.com/services/T0/B0/XXX "+arguments)
				continue
			}
			parser, _ := grammar(t, nil)
			if _, err := parser.Parse(strings.Fields(arguments)); err != nil {
				t.Errorf("%s: throttle-proxy %s: %v", page, arguments, err)
			}
		}
	}
	if found < 3 {
		t.Errorf("got %d command lines, want those of the README at least", found)
	}
}

var (
	code      = regexp.MustCompile("`[^`\n]+`")
	flagNamed = regexp.MustCompile(`(?:^|[ \x60])--([a-z][a-z-]*)`)
	othersOwn = []string{"fail", "retry", "read-only", "tmpfs", "help", "help-all"} // flags of curl, of docker; kong's
)

// No page names a flag that there is none of.
func TestDocumentedFlagsExist(t *testing.T) {
	known := slices.Clone(othersOwn)
	for _, flag := range flagsOf(t, "") {
		known = append(known, flag.Name)
	}
	for page, text := range documentation(t) {
		if base := filepath.Base(page); base == "CHANGELOG.md" || base == "CONTRIBUTING.md" {
			continue // what was once, and what might be
		}
		for _, words := range code.FindAllString(fenced.ReplaceAllString(text, ""), -1) {
			for _, flag := range flagNamed.FindAllStringSubmatch(words, -1) {
				if !slices.Contains(known, flag[1]) {
					t.Errorf("%s: %s: there is no --%s", page, words, flag[1])
				}
			}
		}
	}
}

func TestEveryCommandHasItsRow(t *testing.T) {
	page := documentation(t)[filepath.Clean(root+"docs/commands.md")]
	parser, _ := grammar(t, nil)
	for _, command := range commandsOf(parser.Model) {
		if command != parser.Model.DefaultCmd.Name && !regexp.MustCompile("(?m)^\\| `"+command+"[ `]").MatchString(page) {
			t.Errorf("docs/commands.md has no row of %s", command)
		}
	}
}

// words takes quotation marks away as a shell does, and keeps what they keep
// together; see shell.
func words(line string) string {
	quote := rune(0)
	return strings.ReplaceAll(strings.Map(func(r rune) rune {
		switch {
		case r == quote:
			quote = 0
			return -1
		case quote == 0 && (r == '\'' || r == '"'):
			quote = r
			return -1
		case quote != 0 && unicode.IsSpace(r):
			return '␣'
		}
		return r
	}, line), "$WEBHOOK_URL", "https://hooks.slack.com/services/T0/B0/XXX")
}
