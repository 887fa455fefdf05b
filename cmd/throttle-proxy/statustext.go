package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Run prints what a replica knows.
func (c *statusCommand) Run(p *process) error {
	path := "/-/status"
	if c.Route != "" {
		path += "?route=" + url.QueryEscape(c.Route)
	}
	text, err := c.ask(false, "GET", path, nil)
	if err != nil {
		return err
	}
	if c.JSON {
		_, _ = p.stdout.Write(text)
		return nil
	}
	var s status
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	s.print(p.stdout)
	return nil
}

// of returns what of s is a route's, or a pool's; tag is what its keys have in
// common.
func (s status) of(route, tag string) status {
	is := func(of string) bool { return of == route || of == tag }
	maps.DeleteFunc(s.Routes, func(name, _ string) bool { return name != route })
	s.Budgets = slices.DeleteFunc(s.Budgets, func(b statusBudget) bool { return !is(b.Of) })
	s.CoolDowns = slices.DeleteFunc(s.CoolDowns, func(c statusCoolDown) bool { return !is(c.Of) })
	s.Slots = slices.DeleteFunc(s.Slots, func(l statusSlots) bool { return !is(l.Of) })
	s.Changed = slices.DeleteFunc(s.Changed, func(c statusChanged) bool { return !is(c.Of) })
	s.Commands = slices.DeleteFunc(s.Commands, func(o statusOrder) bool {
		words := strings.Fields(o.Command)
		return len(words) < 2 || !is(words[1])
	})
	s.Locks.Oldest = slices.DeleteFunc(s.Locks.Oldest, func(l statusLock) bool { return !is(l.Of) })
	return s
}

// shownCommands is how many of the last ones people are shown.
const shownCommands = 5

// print writes s for people.
func (s status) print(w io.Writer) {
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	line("replica %s (%s), version %s, up %s, %s, %d in flight, %d waiting", s.Replica, s.ID, s.Version, brief(time.Since(s.Started).Round(time.Second)), s.Ready, s.InFlight, s.Waiting)
	store := "store " + s.Store.Address
	if s.Replicas != nil {
		store += fmt.Sprintf(", %d replicas", s.Replicas.Live)
	}
	line("%s", store)
	for _, a := range s.Store.Away {
		line("  away for %s (%s)", seconds(a.Seconds), a.Fault)
	}
	if s.Replicas != nil {
		for _, p := range s.Replicas.Peers {
			for _, d := range p.Differences {
				line("  %s differs in the %s of %s", p.Name, d.In, d.Route)
			}
		}
	}
	for _, c := range s.Changed {
		line("changed by hand: %s", c)
	}
	for _, o := range s.Commands[:min(len(s.Commands), shownCommands)] {
		line("command %s ago: %s by %s", seconds(o.Seconds), o.Command, o.By)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Routes)) {
		line("route %s  %s", name, s.Routes[name])
	}
	for _, b := range s.Budgets {
		line("budget %s of %s: %d left of %s", b.Limit, b.Of, b.Remaining, b.Rate)
	}
	for _, l := range s.Slots {
		line("slots %s of %s: %d of %d taken by this replica", l.Limit, l.Of, l.Used, l.Most)
	}
	for _, c := range s.CoolDowns {
		line("cool-down of %s%s: another %s", c.Of, map[bool]string{true: ", one caller's"}[c.Caller], seconds(c.Seconds))
	}
	for _, l := range s.Locks.Oldest {
		line("lock of %s: %s for %s", l.Of, l.RequestID, seconds(l.Seconds))
	}
	if more := s.Locks.Held - len(s.Locks.Oldest); more > 0 {
		line("and %d more locks", more)
	}
}

// String says it as the command that would do it.
func (c statusChanged) String() string {
	words := []string{c.What, c.Of}
	if c.Rate != "" {
		words = append(words, c.Rate+",name="+c.Limit)
	}
	if c.Message != "" {
		words = append(words, fmt.Sprintf("(%s)", c.Message))
	}
	if c.Left > 0 {
		words = append(words, "for another "+seconds(c.Left))
	}
	if c.By != "" {
		words = append(words, "by "+c.By)
	}
	return strings.Join(words, " ")
}

// seconds is a time for people.
func seconds(s float64) string {
	return brief(time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond))
}
