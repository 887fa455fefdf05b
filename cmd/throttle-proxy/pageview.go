package main

import (
	"html/template"
)

// pageView is what the operators' page shows, in its order. All of it is words
// already; what there is too much of is cut, and said.
type pageView struct {
	Style template.CSS
	Icon  template.URL

	Title   string
	Replica string // who answers
	Stamp   string // when, for programs
	At      string // when, for people
	Reload  int    // after how many seconds; 0 if it holds still
	all     bool

	Tone     string // ok, warn or bad
	Sentence string // how it is, in plain words
	Besides  string
	Findings []pageFinding // what is wrong, the worst first
	Sections []pageSection

	Span, PlotSpan string
	Routes         []pageRoute
	MoreRoutes     *pageMore
	Locks          []pageLock
	MoreLocks      *pageMore
	CoolDowns      []pageCoolDown
	MoreCoolDowns  *pageMore
	Budgets        []pageBudget
	NoBudgets      string
	MoreBudgets    *pageMore
	Callers        []pageCaller
	NoCallers      string
	MoreCallers    *pageMore
	Changed        []pageChange
	Replicas       []pageReplica
	MoreReplicas   *pageMore
}

type (
	pageFinding struct{ Tone, What, Do string }
	pageSection struct{ ID, Name string }
	pageMore    struct{ Text, Link string }

	pageRoute struct {
		Name, Policy string
		Notes        []pageFinding
		Plot         plot
		Figures      []pageFigure
	}
	pageFigure struct {
		Is, Text, Sub string
		Zero, Hot     bool
	}
	pageLock struct {
		Of, RequestID, Replica, Since, Age string
		Old                                bool
	}
	pageCoolDown struct{ Of, Whom, Left string }
	pageBudget   struct {
		Limit, Of, Rate, Left string
		Share                 string // in words
		Width                 int    // of 144
		Level                 string // "", low or out
	}
	pageCaller  struct{ Caller, Route, Why, Refused string }
	pageChange  struct{ Of, What, By, Until, Back string }
	pageReplica struct{ Tone, Name, Sub, State, Store, InFlight, Waiting, Version, Up string }
)

// Query is the page's query with another way to reload.
func (v *pageView) Query(reload string) string {
	query := ""
	if reload == "still" {
		query = "still"
	}
	if v.all {
		if query != "" {
			query += "&"
		}
		query += "all"
	}
	return query
}
