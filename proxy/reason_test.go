package proxy

import (
	"fmt"
	"os"
	"regexp"
	"testing"
)

var documented = regexp.MustCompile("(?m)^\\| [0-9, ]+ \\| `([a-z-]+)` \\|.* ([0-9]+) \\|$")

// Fails if the documentation's table has other reasons than there are, or another
// status of gRPC for one.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/replies.md")
	if err != nil {
		t.Fatal(err)
	}
	said := map[Reason]string{}
	for _, row := range documented.FindAllStringSubmatch(string(page), -1) {
		said[Reason(row[1])] = row[2]
	}
	for reason, about := range reasons {
		if want := fmt.Sprint(about.grpc); said[reason] != want {
			t.Errorf("%s: got status %q of gRPC, want %s", reason, said[reason], want)
		}
		delete(said, reason)
	}
	for reason := range said {
		t.Errorf("%s: there is no such reason", reason)
	}
}
