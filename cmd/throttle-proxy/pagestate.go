package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
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
	return plural(len(f.Replicas), "replica") + ", Redis answers in " + answerTime(f.Store.Answers)
}

func (v *pageView) find(tone, what, do string) {
	v.Findings = append(v.Findings, pageFinding{tone, what, do})
}

func (v *pageView) findStore(f *fleetStatus) {
	for _, away := range f.Store.Away {
		what := "Redis"
		if away.Routes != "" {
			what = "Redis' part of " + away.Routes
		}
		v.find("bad", fmt.Sprintf("%s has been away since %s", what, hour(f.Now.Add(-secondsOf(away.Seconds)))),
			fmt.Sprintf("For %s (%s). Meanwhile %s.", lasting(away.Seconds), away.Fault, f.Store.Policy))
	}
}

func (v *pageView) findReplicas(f *fleetStatus) {
	for _, r := range f.Replicas {
		if r.Missing {
			v.find("warn", r.Name+" is missing", fmt.Sprintf("It was last heard of %s ago, and did not say that it stops.", lasting(r.Heard)))
		}
		if r.StoreAway > 0 && len(f.Store.Away) == 0 {
			v.find("bad", fmt.Sprintf("Redis is away for %s alone", r.Name), "The other replicas reach it: look at the network between them.")
		}
		if len(r.Differences) > 0 {
			v.find("warn", r.Name+" differs in "+differences(r.Differences), "Start all replicas with the same flags.")
		}
	}
}

func differences(all []statusDifference) string {
	var parts []string
	for _, d := range all[:min(len(all), maxNamed)] {
		parts = append(parts, "the "+d.In+" of "+d.Route)
	}
	if more := len(all) - maxNamed; more > 0 {
		parts = append(parts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(parts, ", ")
}
