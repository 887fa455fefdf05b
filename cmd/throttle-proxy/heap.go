package main

import "runtime/debug"

// spaceHeap lets more be allocated between two collections where the heap is
// small, which it is: a replica holds little, and by default Go would collect
// each 4 MiB. Where much is held, bodies above all, less is wasted than by
// default. The next collection begins at 1.5 x (what lives + 16 MiB) - 16 MiB,
// rather than at 2 x what lives. A limit of memory would be no such guard: a
// heap that outgrows it is collected without end.
//
// What it returns counts as living while it is kept; nothing touches it, so the
// system never provides it. GOGC and GOMEMLIMIT are left to mean what they say.
func (e environment) spaceHeap() (ballast []byte) {
	if e["GOGC"] != "" || e["GOMEMLIMIT"] != "" {
		return nil
	}
	debug.SetGCPercent(50)
	return make([]byte, 16<<20)
}
