package main

import (
	"fmt"
	"strings"
	"testing"
)

// Each request gets one answer, and what was admitted is what reached the
// upstream. How many that are depends on how fast the machine plays a scene.
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
		{"a storm of equal requests", 60, "409"},
		{"a burst of different ones", 60, "429"},
	} {
		_, row, found := strings.Cut(stdout, scene.name)
		var sent, admitted, duplicate, limited, reached int
		if _, err := fmt.Sscan(row, &sent, &admitted, &duplicate, &limited, &reached); !found || err != nil {
			t.Fatalf("no row of %s in\n%s", scene.name, stdout)
		}
		if sent != scene.sent || admitted < 1 || admitted+duplicate+limited != sent || reached != admitted {
			t.Errorf("%s: sent %d, admitted %d, 409 %d, 429 %d, reached %d: the figures do not agree", scene.name, sent, admitted, duplicate, limited, reached)
		}
		if refused := map[string]int{"409": duplicate, "429": limited}[scene.of]; refused == 0 {
			t.Errorf("%s: got no %s", scene.name, scene.of)
		}
	}
}
