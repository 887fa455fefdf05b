package main

import (
	"slices"
	"strings"

	"throttle-proxy/proxy"
)

// shares is the policy of routes whose duplicates get answers, once all others are
// known that it depends on. Where answers are to be fresh nothing is held after a
// success, unless --hold says so.
func (f *flags) shares(p *parsing) policy {
	return func(r *proxy.Route) {
		if r.OnDuplicate == proxy.Refuse {
			return
		}
		if r.OnDuplicate == proxy.Fresh && !p.gives(f.Hold, r.Name) {
			r.Hold.Success = 0
		}
		missing := slices.DeleteFunc(slices.Clone(proxy.CredentialFields), func(name string) bool {
			return slices.Contains(r.DedupeHeaders, name)
		})
		if len(missing) > 0 {
			p.fail("on-duplicate", "%s does not compare %s, so that callers would get each other's answers: add them to --dedupe-header, or write %[1]s=refuse", r.Name, strings.Join(missing, ", "))
		}
	}
}

// gives reports whether one of the values [R=]VALUE of a flag is of a route or of all.
func (p *parsing) gives(values []string, name string) bool {
	return slices.ContainsFunc(values, func(value string) bool {
		route, _, ok := strings.Cut(value, "=")
		return !ok || !p.names[route] || route == name
	})
}
