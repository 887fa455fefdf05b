package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// pageRoute is a route, and what became of its requests.
type pageRoute struct {
	Name, Policy string
	Notes        []string // what else there is to know
	Plot         plot
	Figures      []pageFigure
	now, all     plotStep // means over the last minute, and over all of the plot
}

// pageFigure is requests a second of the last minute.
type pageFigure struct {
	Is, Text, Sub string
	Zero, Hot     bool
}

// addRoutes lists routes, those first of which most is refused now, then those of
// which something was.
func (v *pageView) addRoutes(f *fleetStatus) {
	steps := 0
	var routes []pageRoute
	for _, r := range f.Routes {
		row := newPageRoute(r, f.StepSeconds)
		for _, c := range f.Changed {
			if c.Of == r.Name {
				row.Notes = append(row.Notes, "by hand: "+c.say())
			}
		}
		routes = append(routes, row)
		steps = max(steps, len(r.Series.Forwarded))
	}
	slices.SortStableFunc(routes, func(a, b pageRoute) int {
		return cmp.Or(cmp.Compare(b.now.below(), a.now.below()), cmp.Compare(b.all.below(), a.all.below()), cmp.Compare(b.all.forwarded, a.all.forwarded))
	})
	v.Refusing = refusing(routes) + without(f)
	v.Period = "minutes"
	if steps > 0 {
		v.Period = fmt.Sprintf("%.0f minutes", f.StepSeconds*float64(steps)/60)
	}
	listed, more := v.cut(len(routes), mostRoutes, "")
	if more != "" {
		refusing := 0
		for _, r := range routes[listed:] {
			if r.all.below() > 0 {
				refusing++
			}
		}
		more += " without refusals"
		if refusing > 0 {
			more = strings.Replace(more, "without refusals", fmt.Sprintf("(%d of them with refusals)", refusing), 1)
		}
	}
	v.Routes, v.MoreRoutes = routes[:listed], more
}

func newPageRoute(r fleetRoute, stepSeconds float64) pageRoute {
	steps := make([]plotStep, len(r.Series.Forwarded))
	for i := range steps {
		steps[i] = plotStep{
			float64(r.Series.Forwarded[i]) / stepSeconds, float64(r.Series.Limited[i]) / stepSeconds,
			float64(r.Series.Duplicates[i]) / stepSeconds, float64(r.Series.Errors[i]) / stepSeconds,
		}
	}
	minute := int(60 / stepSeconds)
	now := mean(steps[max(0, len(steps)-minute):])
	limits, _, _ := strings.Cut(r.Policy, ";") // what comes after them is as with most routes
	p := pageRoute{Name: r.Name, Policy: limits, Plot: drawPlot(steps, minute), now: now, all: mean(steps)}
	if r.LastMinute.Paused > 0 {
		p.Notes = append(p.Notes, perSecond(float64(r.LastMinute.Paused)/60)+" a second refused by a pause or cool-down")
	}
	if r.LastMinute.Waited > 0 {
		p.Notes = append(p.Notes, perSecond(float64(r.LastMinute.Waited)/60)+" a second waited")
	}
	figure := func(is string, n float64, refusal bool) {
		p.Figures = append(p.Figures, pageFigure{Is: is, Text: perSecond(n), Zero: n == 0, Hot: refusal && n > 0})
	}
	figure("forwarded", now.forwarded, false)
	figure("429", now.limited, true)
	figure("409", now.duplicates, true)
	figure("errors", now.failed, true)
	takes := pageFigure{Is: "takes", Text: "–", Zero: true}
	if r.LastMinute.P50 > 0 {
		takes = pageFigure{Is: "takes", Text: answerTime(r.LastMinute.P50), Sub: "p99 " + answerTime(r.LastMinute.P99)}
	}
	p.Figures = append(p.Figures, takes)
	p.Plot.Label = fmt.Sprintf("%s, requests a second over the last minute: %s forwarded, %s limited (429), %s duplicates (409), %s errors",
		r.Name, perSecond(now.forwarded), perSecond(now.limited), perSecond(now.duplicates), perSecond(now.failed))
	return p
}

// refusing says how much is refused now.
func refusing(routes []pageRoute) string {
	all, refused := 0.0, 0.0
	for _, r := range routes {
		refused += r.now.limited + r.now.duplicates
		all += r.now.forwarded + r.now.below()
	}
	if refused == 0 {
		return "Nothing is refused now."
	}
	first := slices.MaxFunc(routes, func(a, b pageRoute) int {
		return cmp.Compare(a.now.limited+a.now.duplicates, b.now.limited+b.now.duplicates)
	})
	most := first.now.limited + first.now.duplicates
	return fmt.Sprintf("Of %s requests a second %s are refused, %s of them of %s.", perSecond(all), perSecond(refused), perSecond(most), first.Name)
}

// without says whose requests the figures lack.
func without(f *fleetStatus) string {
	silent := 0
	name := ""
	for _, r := range f.Replicas {
		if r.State == stateSilent {
			silent, name = silent+1, r.Name
		}
	}
	switch {
	case silent == 0:
		return ""
	case silent == 1:
		return " This is without " + name + ", which is not heard of."
	}
	return fmt.Sprintf(" This is without %d replicas, which are not heard of.", silent)
}

func mean(steps []plotStep) (m plotStep) {
	n := float64(max(1, len(steps)))
	for _, s := range steps {
		m.forwarded += s.forwarded / n
		m.limited += s.limited / n
		m.duplicates += s.duplicates / n
		m.failed += s.failed / n
	}
	return m
}

// perSecond is a frequency for people: what happens at all is not 0.
func perSecond(n float64) string {
	switch {
	case n == 0:
		return "0"
	case n < 0.1:
		return "< 0.1"
	case n < 10:
		return fmt.Sprintf("%.1f", n)
	}
	return fmt.Sprintf("%.0f", n)
}
