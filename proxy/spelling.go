package proxy

import (
	"iter"
	"regexp"
	"strings"
)

// words are what names consist of that people give: tokens of APIs, which some
// clients send in the path's first segment, have longer runs of letters, small and
// capital ones mixed, or digits between them.
var words = regexp.MustCompile(`^` + word + `([._-]` + word + `){0,3}$`)

const word = `([A-Z]?[a-z]{1,15}|[A-Z]{1,16})[0-9]{0,3}`

// tellable returns name if it can be told to operators: as words, or as nothing.
func tellable(name string) string {
	if words.MatchString(name) {
		return name
	}
	return ""
}

// nearest returns the route that was meant by a name that is none's: one that is
// spelt much like it, or that it begins with, or the only one.
func (p *Proxy) nearest(name string) string {
	if name == "" {
		return ""
	}
	if near := p.spelling.nearest(name); near != "" {
		return near
	}
	const shortest, longest = 3, 63
	for end := min(len(name)-1, longest); end >= shortest; end-- {
		if begin := strings.ToLower(name[:end]); p.routes[begin] != nil {
			return begin
		}
	}
	if len(p.routes) == 1 {
		for only := range p.routes {
			return only
		}
	}
	return ""
}

// spelling finds the name that was meant by one that is misspelt, however many
// names there are: each is known by itself, and by itself without any one of its
// characters. What two names have in common then is at most a character left
// out, put in, changed or moved away from being the same.
type spelling map[string]string

// add makes a name known, after those that come before it in order.
func (s spelling) add(name string) {
	for variant := range variants(name) {
		if known, ok := s[variant]; !ok || name == variant || name < known && known != variant {
			s[variant] = name
		}
	}
}

// nearest returns the name that was meant, or "".
func (s spelling) nearest(name string) string {
	const longest = 64 // a character more than a name has
	if len(name) > longest {
		return ""
	}
	for variant := range variants(strings.ToLower(name)) {
		if known, ok := s[variant]; ok {
			return known
		}
	}
	return ""
}

// variants yields name, then name without each of its characters, unless nothing
// is left.
func variants(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if name == "" || !yield(name) {
			return
		}
		for i := 0; i < len(name) && len(name) > 1; i++ {
			if !yield(name[:i] + name[i+1:]) {
				return
			}
		}
	}
}
