package main

import (
	"slices"
	"strings"
)

// nearest returns those of names that are much like name, or begin with it.
func nearest(name string, names []string) (near []string) {
	const longest = 40 // of what is worth comparing
	if len(name) > longest {
		return nil
	}
	least := 3 // letters that are to be put in, taken out or changed
	switch {
	case len(name) < 3:
		return nil // everything short is like it
	case len(name) < 6:
		least = 2
	}
	for _, candidate := range names {
		switch d := distance(candidate, name); {
		case d < least:
			near, least = []string{candidate}, d
		case d == least && len(near) > 0:
			near = append(near, candidate)
		}
	}
	if len(near) > 0 {
		return near
	}
	for _, candidate := range names {
		if strings.HasPrefix(candidate, name) {
			near = append(near, candidate)
		}
	}
	slices.Sort(near)
	return near[:min(3, len(near))]
}

// distance is how many letters are to be put in, taken out, changed or swapped
// with the next to make b of a.
func distance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j]+cost, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
