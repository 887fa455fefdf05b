package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"throttle-proxy/cluster"
)

// withoutStore is what becomes of requests under each policy while the store is
// away.
var withoutStore = map[cluster.WhenUndecided]string{
	cluster.Local:  "this replica decides, by its own locks and its share of each budget",
	cluster.Open:   "requests are forwarded, but for what this replica has in flight itself",
	cluster.Closed: "requests are refused with 503",
}

// meanwhile says what becomes of the requests of a route or pool, or with an empty
// tag of all, while the store is away.
func (c *config) meanwhile(tag string) string {
	routes := map[cluster.WhenUndecided][]string{}
	for _, r := range c.routes {
		if tag == "" || tag == r.Name || tag == r.Pool {
			routes[r.WhenUndecided] = append(routes[r.WhenUndecided], r.Name)
		}
	}
	var parts []string
	for _, policy := range slices.Sorted(maps.Keys(routes)) {
		if len(routes) == 1 {
			return withoutStore[policy]
		}
		names := routes[policy]
		of := strings.Join(names[:min(len(names), maxNamed)], ", ")
		if more := len(names) - maxNamed; more > 0 {
			of += fmt.Sprintf(" and %d more", more)
		}
		parts = append(parts, of+": "+withoutStore[policy])
	}
	return strings.Join(parts, "; ")
}

// maxNamed is how many routes are named in one line.
const maxNamed = 10
