package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	columns    = 104   // wider output is cut off, wider commands go on in the next line
	charWidth  = 7.8   // pixels; lines are stretched to it, whatever font is there
	lineHeight = 19    // pixels
	margin     = 16    // pixels, all around
	perChar    = 0.012 // seconds that a character takes to be typed
	perLine    = 0.08  // seconds between two lines of output
	rest       = 0.7   // seconds in which nothing is typed, before a command
)

// style shows everything where nothing may move. What plays, plays once: it
// ends with all of it readable.
const style = `svg{background:#f6f8fa;border-radius:8px}
text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#1f2328;white-space:pre}
.typed{fill:#0a58ca;font-weight:600}.where{fill:#57606a}
@media(prefers-color-scheme:dark){svg{background:#161b22}text{fill:#e6edf3}.typed{fill:#79b8ff}.where{fill:#9198a1}}
@media(prefers-reduced-motion:no-preference){
text{animation:show 1ms both}.typed{animation-name:type}
@keyframes show{from{opacity:0}}
@keyframes type{from{clip-path:inset(0 100% 0 0)}to{clip-path:inset(0)}}
}
`

// draw writes the steps as one animated SVG.
func draw(w io.Writer, steps []step) error {
	var lines bytes.Buffer
	y, at := margin, 0.5 // where and when the next line begins
	line := func(class, text, animation string) {
		y += lineHeight
		if text == "" {
			return
		}
		_, _ = fmt.Fprintf(&lines, `<text class=%q x="%d" y="%d" textLength="%.1f" lengthAdjust="spacingAndGlyphs" style="animation-%s" xml:space="preserve">`,
			class, margin, y, charWidth*float64(len([]rune(text))), animation)
		_ = xml.EscapeText(&lines, []byte(text))
		lines.WriteString("</text>\n")
	}
	for _, s := range steps {
		if s.where != "" {
			line("where", "", "")
			line("where", "── "+s.where+" "+strings.Repeat("─", columns-4-len(s.where)), fmt.Sprintf("delay:%.2fs", at))
		}
		at += rest
		for _, typed := range wrap("$ " + s.typed) {
			takes := perChar * float64(len(typed))
			line("typed", typed, fmt.Sprintf("delay:%.2fs;animation-duration:%.2fs;animation-timing-function:steps(%d)", at, takes, len(typed)))
			at += takes
		}
		at += s.takes.Round(time.Millisecond).Seconds()
		for _, output := range s.output {
			line("output", cut(output), fmt.Sprintf("delay:%.2fs", at))
			at += perLine
		}
	}
	_, err := fmt.Fprintf(w, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %d\" role=\"img\" aria-label=\"A recording of throttle-proxy demo\">\n"+
		"<title>A recording of throttle-proxy demo</title>\n<style>\n%s</style>\n%s</svg>\n",
		2*margin+charWidth*columns, y+margin, style, lines.String())
	return err
}

// cut returns the beginning of a line that is too long, and says so.
func cut(line string) string {
	if runes := []rune(line); len(runes) > columns {
		return string(runes[:columns-1]) + "…"
	}
	return line
}

// wrap divides a command at spaces into lines that fit.
func wrap(command string) (lines []string) {
	for len(command) > columns {
		end := strings.LastIndexByte(command[:columns-2], ' ')
		if end < columns/2 {
			break // one word: cut rather than divided
		}
		lines = append(lines, command[:end]+` \`)
		command = "    " + command[end+1:]
	}
	return append(lines, cut(command))
}
