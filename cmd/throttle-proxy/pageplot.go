package main

import (
	"fmt"
	"strings"
)

// The plot of a route: steps of time from left to right, the last one is now. What
// was forwarded stands above the axis, what was not hangs below it, on one scale.
const (
	plotWidth  = 304.0
	plotHeight = 56.0
	plotAxis   = 30.0
)

// plot is a drawing as SVG paths; one that is empty has nothing to show.
type plot struct {
	Label                                  string // in words
	Forwarded, Limited, Duplicates, Failed string
	Ticks                                  string // the full minutes
	Axis                                   float64
}

// plotStep is how many requests of one step had which end.
type plotStep struct{ forwarded, limited, duplicates, failed float64 }

// below is what hangs below the axis.
func (s plotStep) below() float64 { return s.limited + s.duplicates + s.failed }

// drawPlot draws steps, the latest last, with a tick every so many.
func drawPlot(steps []plotStep, tick int) plot {
	p := plot{Axis: plotAxis}
	above, below := 0.0, 0.0
	for _, s := range steps {
		above, below = max(above, s.forwarded), max(below, s.below())
	}
	scale := max(above/(plotAxis-2), below/(plotHeight-plotAxis-2))
	if scale == 0 {
		scale = 1
	}
	var ticks strings.Builder
	for i := len(steps) - tick; tick > 0 && i > 0; i -= tick {
		fmt.Fprintf(&ticks, "M%.1f 0V%g", plotWidth*float64(i)/float64(len(steps)), plotHeight)
	}
	p.Ticks = ticks.String()
	edge := func(of func(plotStep) float64) []float64 {
		ys := make([]float64, len(steps))
		for i, s := range steps {
			ys[i] = plotAxis + of(s)/scale
		}
		return ys
	}
	axis := edge(func(plotStep) float64 { return 0 })
	limited := edge(func(s plotStep) float64 { return s.limited })
	duplicates := edge(func(s plotStep) float64 { return s.limited + s.duplicates })
	p.Forwarded = area(edge(func(s plotStep) float64 { return -s.forwarded }), axis)
	p.Limited = area(axis, limited)
	p.Duplicates = area(limited, duplicates)
	p.Failed = area(duplicates, edge(plotStep.below))
	return p
}

// area is what lies between two edges, one bar a step; of equal ones nothing.
func area(top, bottom []float64) string {
	var path strings.Builder
	width := plotWidth / float64(len(top))
	for i := 0; i < len(top); i++ {
		if bottom[i]-top[i] < 0.05 {
			continue
		}
		from := i
		for i+1 < len(top) && top[i+1] == top[from] && bottom[i+1] == bottom[from] {
			i++
		}
		left, right := width*float64(from), width*float64(i+1)
		fmt.Fprintf(&path, "M%.1f %.1fH%.1fV%.1fH%.1fz", left, top[from], right, bottom[from], left)
	}
	return path.String()
}
