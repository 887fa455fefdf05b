package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"throttle-proxy/cluster"
)

// Rows of the page's lists.
type (
	pageLock struct {
		Of, RequestID, Replica, Since, Age string
		Old                                bool
	}
	pageCoolDown struct{ Of, Whom, Left string }
	pageBudget   struct {
		Limit, Of, Rate, Left, Share string
		Width                        int    // of what is left, where all is meterWidth
		Level                        string // low or out
	}
	pageCaller  struct{ Caller, Route, Why, Refused string }
	pageChange  struct{ Of, What, By, Until, Back string }
	pageReplica struct{ Tone, Name, State, Store, InFlight, Waiting, Version, Up string }
)

const (
	meterWidth = 144
	lowShare   = 0.2 // of a budget that is near its end
	oldLock    = 10.0
)

func (v *pageView) addLocks(f *fleetStatus) {
	listed, _ := v.cut(len(f.Locks.Oldest), mostRows, "")
	if more := f.Locks.Held - listed; more > 0 {
		v.MoreLocks = fmt.Sprintf("and %s more, all of them younger", humanize.Comma(int64(more)))
	}
	for _, l := range f.Locks.Oldest[:listed] {
		v.Locks = append(v.Locks, pageLock{l.Of, l.RequestID, l.Replica, hour(f.At.Add(-secondsOf(l.Seconds))), lasting(l.Seconds), l.Seconds >= oldLock})
	}
}

func (v *pageView) addCoolDowns(f *fleetStatus) {
	listed, more := v.cut(len(f.CoolDowns), mostRows, ", all of them shorter")
	v.MoreCoolDowns = more
	for _, c := range f.CoolDowns[:listed] {
		whom := "all callers"
		if c.Caller {
			whom = "one caller"
		}
		v.CoolDowns = append(v.CoolDowns, pageCoolDown{c.Of, whom, lasting(c.Left)})
	}
}

func (v *pageView) addBudgets(f *fleetStatus) {
	near := slices.Clone(f.Budgets)
	if !v.All {
		near = slices.DeleteFunc(near, func(b fleetBudget) bool { return b.share() >= lowShare })
	}
	listed, more := v.cut(len(near), mostRows, "")
	v.MoreBudgets = more
	for _, b := range near[:listed] {
		row := pageBudget{Limit: b.Limit, Of: b.Of, Rate: b.Rate, Left: fmt.Sprintf("%s of %s", humanize.Comma(int64(b.Left)), humanize.Comma(int64(b.Most)))}
		row.Width = int(meterWidth * b.share())
		row.Share = fmt.Sprintf("%.0f %% left", 100*b.share())
		switch {
		case b.Left == 0:
			row.Level = "out"
		case b.share() < lowShare:
			row.Level = "low"
		}
		v.Budgets = append(v.Budgets, row)
	}
	v.NoBudgets = "No route has a budget that all its callers share."
	if len(f.Budgets) > 0 {
		v.NoBudgets = "None: of every budget a fifth is left at least."
	}
}

func (v *pageView) addCallers(f *fleetStatus) {
	listed, more := v.cut(len(f.Callers), mostRows, "")
	v.MoreCallers = more
	for _, c := range f.Callers[:listed] {
		v.Callers = append(v.Callers, pageCaller{c.Caller, c.Route, c.Reason, humanize.Comma(int64(c.Refused))})
	}
}

func (v *pageView) addChanged(f *fleetStatus) {
	listed, more := v.cut(len(f.Changed), mostRows, "")
	v.MoreChanged = more
	for _, c := range f.Changed[:listed] {
		row := pageChange{Of: c.Of, What: c.say(), By: cmp.Or(c.By, "–"), Until: "it is restored", Back: "throttle-proxy restore " + c.Of}
		if c.Left > 0 {
			row.Until = fmt.Sprintf("%s, in %s", hour(f.At.Add(secondsOf(c.Left))), lasting(c.Left))
		}
		v.Changed = append(v.Changed, row)
	}
}

// say says what is changed.
func (c statusChanged) say() string {
	switch {
	case c.What == string(cluster.SetLimit):
		return fmt.Sprintf("limit %s is %s", c.Limit, c.Rate)
	case c.Message != "":
		return "paused: “" + c.Message + "”"
	}
	return "paused"
}

func (v *pageView) addReplicas(f *fleetStatus) {
	var rows []pageReplica
	for _, r := range f.Replicas {
		row := pageReplica{
			Tone: "ok", Name: r.Name, State: r.State, Store: "–", Version: r.Version, Up: lasting(f.At.Sub(r.StartedAt).Seconds()),
			InFlight: humanize.Comma(r.InFlight), Waiting: humanize.Comma(int64(r.Waiting)),
		}
		if r.TripMS > 0 {
			row.Store = "answers in " + answerTime(r.TripMS)
		}
		switch {
		case r.State == stateMissing:
			row.Tone, row.State, row.Up = "warn", "missing for "+lasting(r.SilentFor), "–"
		case len(r.Away) > 0:
			row.Tone, row.Store = "bad", "away for "+lasting(r.Away[0].Seconds)
		case len(r.Differences) > 0:
			row.Tone, row.State = "warn", r.State+", differs in "+differences(r.Differences)
		case r.State == stateSilent:
			row.State = "has not said yet"
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b pageReplica) int { return cmp.Compare(rank[a.Tone], rank[b.Tone]) })
	listed, more := v.cut(len(rows), 2*mostRows, "")
	v.Replicas, v.MoreReplicas = rows[:listed], more
}

// rank orders what is wrong, the worst first.
var rank = map[string]int{"bad": 0, "warn": 1, "ok": 2}

func secondsOf(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
