package limiter

import "testing"

func TestExcerpt(t *testing.T) {
	const source = "a\n--[[if x y]]\nb\n  --[[if z]]\nc\n  --[[end]]\n--[[end]]\nd -- --[[if x]]\n"
	for _, test := range []struct {
		wanted []string
		want   string
	}{
		{nil, "a\nd -- --[[if x]]\n"},
		{[]string{"z"}, "a\nd -- --[[if x]]\n"},
		{[]string{"x"}, "a\nb\nd -- --[[if x]]\n"},
		{[]string{"y", "z"}, "a\nb\nc\nd -- --[[if x]]\n"},
	} {
		if got := Excerpt(source, test.wanted...); got != test.want {
			t.Errorf("%q: got %q, want %q", test.wanted, got, test.want)
		}
	}
}
