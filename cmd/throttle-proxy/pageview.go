package main

import (
	"fmt"
	"html/template"
	"net/url"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// pageView is what the operators' page shows, in its order. It is in words
// already; what there is too much of is cut, and said.
type pageView struct {
	Style template.CSS
	Icon  template.URL

	Replica string // who answers
	At      time.Time
	Reload  int  // after how many seconds; 0 if it holds still
	All     bool // lists are not cut

	Tone     string // ok, warn or bad
	Sentence string // how it is
	Besides  string
	Findings []pageFinding // what is wrong, the worst first

	Refusing      string // how much is refused now
	Period        string // of the plots
	Routes        []pageRoute
	MoreRoutes    string // what was cut; likewise below
	Locks         []pageLock
	MoreLocks     string
	CoolDowns     []pageCoolDown
	MoreCoolDowns string
	Budgets       []pageBudget
	NoBudgets     string
	MoreBudgets   string
	Callers       []pageCaller
	MoreCallers   string
	Changed       []pageChange
	MoreChanged   string
	Replicas      []pageReplica
	MoreReplicas  string
}

// pageFinding is something that is wrong, and what to do about it.
type pageFinding struct{ Tone, What, Do string }

// The most that the page lists of each kind, unless all is asked for.
const (
	mostRoutes = 12
	mostRows   = 10
)

// newPageView puts a fleet into words.
func newPageView(f *fleetStatus, query url.Values) *pageView {
	v := &pageView{Replica: f.Asked, At: f.At, Reload: pageReload, All: query.Has("all")}
	if query.Has("still") {
		v.Reload = 0
	}
	v.judge(f)
	v.addRoutes(f)
	v.addLocks(f)
	v.addCoolDowns(f)
	v.addBudgets(f)
	v.addCallers(f)
	v.addChanged(f)
	v.addReplicas(f)
	return v
}

// Still tells whether the page comes again by itself no more.
func (v *pageView) Still() bool { return v.Reload == 0 }

// Query is that of the page with another choice of what is shown and how.
func (v *pageView) Query(still, all bool) string {
	var choices []string
	if still {
		choices = append(choices, "still")
	}
	if all {
		choices = append(choices, "all")
	}
	return "?" + strings.Join(choices, "&")
}

// cut returns how many of so many are listed, and says what the rest is.
func (v *pageView) cut(count, most int, rest string) (listed int, more string) {
	if v.All || count <= most {
		return count, ""
	}
	return most, fmt.Sprintf("and %s more%s", humanize.Comma(int64(count-most)), rest)
}

// hour is an instant for people.
func hour(t time.Time) string { return t.UTC().Format("15:04:05") }

// answerTime is a time for people who compare it with others of its kind.
func answerTime(ms float64) string {
	switch {
	case ms < 0.1:
		return "0.1 ms"
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f s", ms/1000)
}

// lasting is a longer time for people, in seconds.
func lasting(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < 100*time.Millisecond:
		return "< 0.1 s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", seconds)
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", seconds)
	case d < time.Hour:
		return brief(d.Round(time.Second))
	case d < 48*time.Hour:
		return strings.TrimSuffix(brief(d.Round(time.Minute)), "m0s")
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// plural counts things.
func plural(n int, thing string) string {
	if n == 1 {
		return "one " + thing
	}
	return humanize.Comma(int64(n)) + " " + thing + "s"
}
