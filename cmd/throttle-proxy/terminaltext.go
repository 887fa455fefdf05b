package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// columns is how wide text is, which is printable but for ellipses.
func columns(text string) int { return utf8.RuneCountInString(text) }

// fit cuts text to a width.
func fit(text string, width int) string {
	switch {
	case columns(text) <= width:
		return text
	case width <= 0:
		return ""
	}
	return string([]rune(text)[:width-1]) + "…"
}

// linesOf breaks text into lines of a width, at spaces as far as there are some.
func linesOf(text string, width int) (lines []string) {
	const indent = "  "
	for columns(text) > width {
		runes := []rune(text)
		end := width
		for i := width; i > width/2; i-- {
			if runes[i] == ' ' {
				end = i
				break
			}
		}
		lines = append(lines, strings.TrimRight(string(runes[:end]), " "))
		text = indent + strings.TrimLeft(string(runes[end:]), " ")
	}
	return append(lines, text)
}

// printable escapes what a terminal would take for a command, or show wider than
// one column.
func printable(text string) string {
	for _, r := range text {
		if (r < ' ' || r > '~') && r != '…' {
			quoted := strconv.QuoteToASCII(text)
			return quoted[1 : len(quoted)-1]
		}
	}
	return text
}

func clock(at time.Time) string { return at.Format(time.TimeOnly) }

// shortTime is how long a request took, to what a person reads of that.
func shortTime(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1fms", d.Seconds()*1000)
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return brief(d.Round(time.Second))
}

// longTime is how long a process ran.
func longTime(d time.Duration) string {
	days, hours, minutes := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", minutes)
	case days == 0:
		return fmt.Sprintf("%d h %d min", hours, minutes)
	}
	return fmt.Sprintf("%d d %d h", days, hours)
}

// summaryOf says what was served, given requests by outcome.
func summaryOf(served map[string]int64, lasted time.Duration) string {
	all := int64(0)
	outcomes := slices.SortedFunc(maps.Keys(served), func(a, b string) int {
		return cmp.Or(cmp.Compare(served[b], served[a]), strings.Compare(a, b))
	})
	var parts []string
	for _, outcome := range outcomes {
		all += served[outcome]
		parts = append(parts, humanize.Comma(served[outcome])+" "+outcome)
	}
	text := fmt.Sprintf("served %s in %s", humanize.Comma(all), longTime(lasted))
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	return text
}
