package limiter

import (
	"slices"
	"strings"
)

// Excerpt returns a script without the parts of it that are not wanted: the lines
// from --[[if NAME ...]] to the --[[end]] that belongs to it stay only where one of
// the names is, and the marks never do. Parts may lie in parts.
func Excerpt(source string, wanted ...string) string {
	var b strings.Builder
	var left []bool // of each part that is open, whether it is left out
	for line := range strings.Lines(source) {
		mark := strings.TrimSpace(line)
		if names, ok := strings.CutPrefix(mark, "--[[if "); ok {
			isWanted := func(name string) bool { return slices.Contains(wanted, name) }
			left = append(left, !slices.ContainsFunc(strings.Fields(strings.TrimSuffix(names, "]]")), isWanted))
		} else if mark == "--[[end]]" {
			left = left[:len(left)-1]
		} else if !slices.Contains(left, true) {
			b.WriteString(line)
		}
	}
	return b.String()
}
