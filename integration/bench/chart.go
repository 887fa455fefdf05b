package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"os"
)

// chart is a picture for the documentation, which is readable on light and on dark
// paper: an SVG that asks which it is.
type chart struct {
	title, x, y string
	width       float64 // of x, from 0
	height      float64 // of y, from 0
	ticks       [2]float64
	series      []series
}

// series is what one line, or the dots of one kind, show.
type series struct {
	name   string
	dots   bool // or else steps
	points []point
}

type point struct{ x, y float64 }

const (
	chartWidth, chartHeight   = 720, 360
	left, right, top, bottom  = 56, 16, 40, 56
	plotWidth, plotHeight     = chartWidth - left - right, chartHeight - top - bottom
	barHeight, barGap, labels = 16, 4, 260
)

// style has colours of the same contrast on both papers; they differ in lightness
// too, for who does not tell them apart.
const style = `<style>
svg{--ink:#1f2328;--faint:#d0d7de;--a:#0a58ca;--b:#b35900;--c:#57606a;background:#fff}
@media(prefers-color-scheme:dark){svg{--ink:#e6edf3;--faint:#3d444d;--a:#79b8ff;--b:#ffb86b;--c:#9198a1;background:#0d1117}}
text{font:13px system-ui,sans-serif;fill:var(--ink)}.t{font-weight:600}
.g{stroke:var(--faint)}path{fill:none;stroke-width:2}.a path{stroke:var(--a)}.b path{stroke:var(--b);stroke-dasharray:7 3}.c path{stroke:var(--c)}
.a circle,.a rect{fill:var(--a)}.b circle,.b rect{fill:var(--b)}.c circle,.c rect{fill:var(--c)}
</style>
`

var classes = []string{"a", "b", "c"}

// svg begins a picture of a size; whoever reads and does not see gets the title.
func svg(width, height int, title string) *bytes.Buffer {
	var b bytes.Buffer
	title = html.EscapeString(title)
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\"><title>%[3]s</title>\n", width, height, title)
	b.WriteString(style)
	fmt.Fprintf(&b, "<text class=\"t\" x=\"%d\" y=\"22\">%s</text>\n", 16, title)
	return &b
}

func save(path string, b *bytes.Buffer) error {
	b.WriteString("</svg>\n")
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// draw writes c to a file.
func (c chart) draw(path string) error {
	b := svg(chartWidth, chartHeight, c.title)
	at := func(p point) (x, y float64) {
		return left + p.x/c.width*plotWidth, top + plotHeight - p.y/c.height*plotHeight
	}
	for v := 0.0; v <= c.height; v += c.ticks[1] {
		_, y := at(point{0, v})
		fmt.Fprintf(b, "<line class=\"g\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n", left, left+plotWidth, y, y, left-6, y+4, v)
	}
	for v := 0.0; v <= c.width; v += c.ticks[0] {
		x, y := at(point{v, 0})
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g</text>\n", x, y+18, v)
	}
	fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", left+plotWidth/2, chartHeight-18, html.EscapeString(c.x))
	for i, s := range c.series {
		fmt.Fprintf(b, "<g class=\"%s\">", classes[i%len(classes)])
		lx, ly := left+12.0, top+14.0+18*float64(i)
		if s.dots {
			for _, p := range s.points {
				x, y := at(p)
				fmt.Fprintf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/>", x, y)
			}
			fmt.Fprintf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\"/>", lx+10, ly-4)
		} else {
			b.WriteString("<path d=\"")
			for j, p := range s.points {
				x, y := at(p)
				if j == 0 {
					fmt.Fprintf(b, "M%.1f %.1f", x, y)
				} else {
					fmt.Fprintf(b, "H%.1fV%.1f", x, y)
				}
			}
			fmt.Fprintf(b, "\"/><path d=\"M%.1f %.1fh20\"/>", lx, ly-4)
		}
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\">%s</text></g>\n", lx+28, ly, html.EscapeString(s.name))
	}
	return save(path, b)
}

// bar is a labelled amount.
type bar struct {
	label string
	value float64
	class string
}

// drawBars writes groups of bars to a file, beside a line where the value is 1.
func drawBars(path, title string, groups map[string][]bar, order []string) error {
	rows, most := 0, 1.0
	for _, bars := range groups {
		rows += len(bars) + 1
		for _, bar := range bars {
			most = math.Max(most, bar.value)
		}
	}
	height := top + rows*(barHeight+barGap) + 8
	b := svg(chartWidth, height, title)
	scale := float64(chartWidth-labels-60) / most
	fmt.Fprintf(b, "<line class=\"g\" x1=\"%.1f\" x2=\"%[1]f\" y1=\"%d\" y2=\"%d\"/>\n", labels+scale, top, height-8)
	y := top
	for _, name := range order {
		fmt.Fprintf(b, "<text class=\"t\" x=\"16\" y=\"%d\">%s</text>\n", y+barHeight-3, html.EscapeString(name))
		y += barHeight + barGap
		for _, bar := range groups[name] {
			fmt.Fprintf(b, "<g class=\"%s\"><text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text><rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/><text x=\"%.1f\" y=\"%d\">%.2f</text></g>\n",
				bar.class, labels-8, y+barHeight-3, html.EscapeString(bar.label), labels, y, bar.value*scale, barHeight, labels+bar.value*scale+6, y+barHeight-3, bar.value)
			y += barHeight + barGap
		}
	}
	return save(path, b)
}
