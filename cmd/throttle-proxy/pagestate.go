package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"throttle-proxy/cluster"
)

// judge says in one sentence how the fleet is, and lists what is wrong with it.
func (v *pageView) judge(f *fleetStatus) {
	v.findStore(f)
	v.findReplicas(f)
	slices.SortStableFunc(v.Findings, func(a, b pageFinding) int { return cmp.Compare(rank[a.Tone], rank[b.Tone]) })
	if len(v.Findings) == 0 {
		v.Tone, v.Sentence = "ok", "All is well: "+wellness(f)
		return
	}
	v.Tone, v.Sentence, v.Besides = v.Findings[0].Tone, v.Findings[0].What, v.Findings[0].Do
	if more := len(v.Findings) - 1; more > 0 {
		v.Sentence += fmt.Sprintf(", and %d more", more)
		v.Besides = "" // the list has it
	}
}

// wellness is what there is to say where nothing is wrong.
func wellness(f *fleetStatus) string {
	if f.Store.Address == "memory" {
		return "this replica decides by itself"
	}
	return plural(len(f.Replicas), "replica") + ", Redis answers in " + answerTime(f.Store.TripMS)
}

func (v *pageView) find(tone, what, do string) {
	v.Findings = append(v.Findings, pageFinding{tone, what, do})
}

// findStore looks whether the replica that is asked, and others, reach the store.
func (v *pageView) findStore(f *fleetStatus) {
	for _, away := range f.Store.Away {
		v.find("bad", fmt.Sprintf("%s has been away since %s UTC", partOf(away), hour(f.At.Add(-secondsOf(away.Seconds)))),
			fmt.Sprintf("For %s, as %s sees it (%s). Meanwhile %s.", lasting(away.Seconds), f.Asked, away.Fault, f.Store.Meanwhile))
	}
	if len(f.Store.Away) > 0 {
		return // nobody else is heard of
	}
	for _, r := range f.Replicas {
		for _, away := range r.Away {
			v.find("bad", fmt.Sprintf("%s is away for %s alone", partOf(away), r.Name),
				fmt.Sprintf("For %s (%s). Others reach it: look at what is between them.", lasting(away.Seconds), away.Fault))
		}
	}
}

func partOf(away statusAway) string {
	if away.Routes == "" {
		return "Redis"
	}
	return "Redis’ part of " + away.Routes
}

// findReplicas looks for replicas that are missing, that differ and that end.
func (v *pageView) findReplicas(f *fleetStatus) {
	for _, r := range f.Replicas {
		if r.State == stateMissing {
			v.find("warn", r.Name+" is missing", fmt.Sprintf("It was last heard of at %s UTC, %s ago, and did not say that it ends.", hour(f.At.Add(-secondsOf(r.SilentFor))), lasting(r.SilentFor)))
		}
		if len(r.Differences) > 0 {
			v.find("warn", fmt.Sprintf("%s differs from %s in %s", r.Name, f.Asked, differences(r.Differences)), "Until they are started with the same flags, each counts by its own.")
		}
	}
}

// differences says in what a replica differs.
func differences(all []cluster.Difference) string {
	const most = 3
	var parts []string
	for _, d := range all[:min(len(all), most)] {
		parts = append(parts, "the "+d.In+" of "+d.Route)
	}
	if more := len(all) - most; more > 0 {
		parts = append(parts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(parts, ", ")
}
