package main

import "runtime/debug"

// ballast is memory that the collector counts as living, and that nothing
// touches, so that the system never provides it.
var ballast []byte

// spaceHeap lets more be allocated between two collections where the heap is
// small, which it is: a replica holds little, and by default Go would collect
// each 4 MiB. Where much is held, bodies above all, less is wasted than by
// default. The next collection begins at 1.5 x (what lives + 16 MiB) - 16 MiB,
// rather than at 2 x what lives. A limit of memory would be no such guard: a
// heap that outgrows it is collected without end.
//
// GOGC and GOMEMLIMIT are left to mean what they say.
func (e environment) spaceHeap() {
	if e["GOGC"] == "" && e["GOMEMLIMIT"] == "" {
		ballast = make([]byte, 16<<20)
		debug.SetGCPercent(50)
	}
}
