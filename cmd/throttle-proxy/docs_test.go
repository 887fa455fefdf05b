package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	link       = regexp.MustCompile(`\]\(([^)#]*)(?:#([^)]*))?\)`)
	heading    = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInLinks = regexp.MustCompile(`[^a-z0-9 -]`)
)

// Fails if a link of the documentation leads nowhere.
func TestLinksOfTheDocumentationResolve(t *testing.T) {
	pages, _ := filepath.Glob("../../docs/*.md")
	if len(pages) == 0 {
		t.Error("there are no pages")
	}
	for _, page := range append(pages, "../../README.md", "../../CHANGELOG.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(to[1], "://") {
				continue // is the network's
			}
			target := page
			if to[1] != "" {
				target = filepath.Join(filepath.Dir(page), to[1])
			}
			there, err := os.ReadFile(target)
			if err != nil || to[2] != "" && !slices.Contains(anchorsOf(string(there)), to[2]) {
				t.Errorf("%s: %s leads nowhere", page, to[0])
			}
		}
	}
}

// anchorsOf returns what headings can be linked to by.
func anchorsOf(text string) (anchors []string) {
	for _, h := range heading.FindAllStringSubmatch(text, -1) {
		name := notInLinks.ReplaceAllString(strings.ToLower(h[1]), "")
		anchors = append(anchors, strings.ReplaceAll(name, " ", "-"))
	}
	return anchors
}
