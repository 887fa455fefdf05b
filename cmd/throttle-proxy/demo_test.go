package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// Each request gets one answer, and those that got the upstream's are what reached
// it, but for a double click that is joined. How many that are depends on how fast
// the machine plays a scene.
func TestDemo(t *testing.T) {
	status, stdout, stderr := execute("demo --once")
	if status != 0 || stderr != "" {
		t.Fatalf("got exit status %d, %q, want 0", status, stderr)
	}
	for _, scene := range []struct {
		name string
		sent int
		of   string // what most of them are told
	}{
		{"a double click", 2, "409"},
		{"with --on-duplicate join", 2, "joined"},
		{"a storm of equals", 60, "409"},
		{"a burst of others", 60, "429"},
		{"ten with --wait 5s", 10, "200"},
	} {
		_, row, found := strings.Cut(stdout, scene.name)
		var sent, ok, duplicate, limited, reached int
		if _, err := fmt.Sscan(row, &sent, &ok, &duplicate, &limited, &reached); !found || err != nil {
			t.Fatalf("no row of %s in\n%s", scene.name, stdout)
		}
		want := ok
		if scene.of == "joined" {
			want = 1
		}
		if sent != scene.sent || ok < 1 || ok+duplicate+limited != sent || reached != want {
			t.Errorf("%s: sent %d, 200 %d, 409 %d, 429 %d, reached %d: the figures do not agree", scene.name, sent, ok, duplicate, limited, reached)
		}
		switch told := map[string]int{"200": ok, "joined": ok, "409": duplicate, "429": limited}[scene.of]; {
		case told == 0:
			t.Errorf("%s: got no %s", scene.name, scene.of)
		case scene.of != "409" && scene.of != "429" && told != sent:
			t.Errorf("%s: got %d of them answered by the upstream, want all", scene.name, told)
		}
	}
	_, after, _ := strings.Cut(stdout, "answered after ")
	after, _, _ = strings.Cut(after, ".\n")
	if took, err := time.ParseDuration(after); err != nil || took < 9*time.Second/5+demoTakes {
		t.Errorf("got %q until the last of those that waited was answered, want it to have had nine before it at %s", after, demoRate)
	}
	for line := range strings.Lines(stdout) {
		if got := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); got > helpColumns {
			t.Errorf("got %d columns, want at most %d: %s", got, helpColumns, line)
		}
	}
}
