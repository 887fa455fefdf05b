package integration

import (
	"math/rand/v2"
	"syscall"
	"time"
)

// What goes wrong in a random history.

// faultKind is something that can go wrong.
type faultKind struct {
	name        string
	store       bool // may keep replicas from asking the store
	all         bool // keeps all of them from it, from begin to end
	loses       bool // the store loses its data
	refills     bool // each budget is full again, once
	steps       int  // the store's clock steps forward, or back if below 0
	pauses      bool // a replica stands still
	kills       bool // a replica ends
	least, most time.Duration
	begin, end  func(*historyRun, plannedFault)
}

// estranges reports whether replicas may not know of each other for a while:
// their heartbeats are lost, too old or not there yet.
func (k faultKind) estranges() bool { return k.loses || k.steps != 0 || k.kills }

// plannedFault is one in a plan.
type plannedFault struct {
	kind    faultKind
	replica int     // -1 for the store
	size    float64 // where there are several: from 0 to 1
}

// draw returns a fault of one of some kinds, and how long it is to last.
func draw(random *rand.Rand, kinds []faultKind, replica int) (f plannedFault, length time.Duration) {
	kind := kinds[random.IntN(len(kinds))]
	length = kind.least
	if kind.most > kind.least {
		length += time.Duration(random.Int64N(int64(kind.most - kind.least)))
	}
	return plannedFault{kind, replica, random.Float64()}, length
}

// Faults of the store.

func nothing(*historyRun, plannedFault) {}

func heal(h *historyRun, _ plannedFault) { h.store.link.Heal() }

func step(h *historyRun, f plannedFault) { h.store.server.StepClock(f.step()) }

// step returns by how much the store's clock steps, if it does.
func (f plannedFault) step() time.Duration {
	const longest = 2 * historyTTL
	return time.Duration(f.size * float64(longest) * float64(f.kind.steps))
}

var (
	stops = faultKind{name: "store stops", store: true, all: true, least: 50 * time.Millisecond, most: 1500 * time.Millisecond,
		begin: func(h *historyRun, _ plannedFault) { h.store.server.Pause() },
		end:   func(h *historyRun, _ plannedFault) { h.store.server.Resume() }}
	stopsLong = faultKind{name: "store stops", store: true, all: true, least: historyTTL, most: historyTTL * 5 / 4, begin: stops.begin, end: stops.end}
	restarts  = faultKind{name: "store restarts empty", store: true, all: true, loses: true, refills: true, most: time.Second,
		begin: func(h *historyRun, _ plannedFault) { h.store.server.Kill() },
		end:   func(h *historyRun, _ plannedFault) { h.store.server.Restart() }}
	refuses = faultKind{name: "link refuses", store: true, all: true, most: time.Second, end: heal,
		begin: func(h *historyRun, _ plannedFault) { h.store.link.Refuse(); h.store.link.Cut() }}
	cutsLink = faultKind{name: "link is cut", store: true, end: nothing,
		begin: func(h *historyRun, _ plannedFault) { h.store.link.Cut() }}
	cutsRequests = faultKind{name: "link cuts requests", store: true, most: time.Second, end: heal,
		begin: func(h *historyRun, _ plannedFault) { h.store.link.CutRequests(20, "") }}
	cutsAnswers = faultKind{name: "link cuts answers", store: true, most: time.Second, end: heal,
		begin: func(h *historyRun, _ plannedFault) { h.store.link.CutRequests(1<<20, "") }}
	losesAnswers = faultKind{name: "link loses answers", store: true, least: 100 * time.Millisecond, most: time.Second, end: heal,
		begin: func(h *historyRun, _ plannedFault) { h.store.link.LoseAnswers(3, "") }}
	silences = faultKind{name: "link is silent", store: true, all: true, most: time.Second,
		begin: func(h *historyRun, _ plannedFault) { h.store.link.Silence() },
		end:   func(h *historyRun, _ plannedFault) { h.store.link.Heal(); h.store.link.Cut() }}
	slows = faultKind{name: "link is slow", store: true, most: time.Second, end: heal,
		begin: func(h *historyRun, _ plannedFault) { h.store.link.Delay(historyTimeout / 20) }}
	delays = faultKind{name: "link is too slow", store: true, most: time.Second, end: heal,
		begin: func(h *historyRun, _ plannedFault) { h.store.link.Delay(historyTimeout) }}
	forgetsScripts = faultKind{name: "scripts flushed", end: nothing, most: 100 * time.Millisecond,
		begin: func(h *historyRun, _ plannedFault) { h.store.do("script", "flush") }}
	forgetsAll = faultKind{name: "all flushed", loses: true, refills: true, end: nothing, most: 100 * time.Millisecond,
		begin: func(h *historyRun, _ plannedFault) { h.store.do("flushall") }}
	// What the store keeps until a time of its clock ends too early or too late.
	stepsForward = faultKind{name: "store's clock steps forward", refills: true, steps: 1, least: historyTTL / 2, most: historyTTL, begin: step, end: nothing}
	stepsBack    = faultKind{name: "store's clock steps back", refills: true, steps: -1, least: historyTTL / 2, most: historyTTL, begin: step, end: nothing}
	storeFaults  = []faultKind{stops, stops, stopsLong, restarts, restarts, refuses, cutsLink, cutsRequests, cutsAnswers,
		losesAnswers, losesAnswers, silences, slows, delays, forgetsScripts, forgetsAll, forgetsAll, stepsForward, stepsBack}
)

// Faults of replicas.

var (
	pauses = faultKind{name: "replica pauses", pauses: true, least: 50 * time.Millisecond, most: historyTTL / 3,
		begin: func(h *historyRun, f plannedFault) { h.replicas[f.replica].signal(h.t, syscall.SIGSTOP) },
		end:   func(h *historyRun, f plannedFault) { h.replicas[f.replica].signal(h.t, syscall.SIGCONT) }}
	pausesLong = faultKind{name: "replica pauses", pauses: true, least: historyTTL * 11 / 10, most: historyTTL * 5 / 4, begin: pauses.begin, end: pauses.end}
	kills      = faultKind{name: "replica is killed", kills: true, most: 500 * time.Millisecond,
		begin: func(h *historyRun, f plannedFault) {
			h.replicas[f.replica].signal(h.t, syscall.SIGKILL)
			h.replicas[f.replica].wait(h.t)
		},
		end: func(h *historyRun, f plannedFault) { h.restart(f.replica) }}
	changesLimits = faultKind{name: "replica gets other limits", kills: true, most: 500 * time.Millisecond,
		begin: func(h *historyRun, f plannedFault) { h.replicas[f.replica].signal(h.t, syscall.SIGTERM) },
		end: func(h *historyRun, f plannedFault) {
			if status := h.replicas[f.replica].wait(h.t); status != 0 {
				h.t.Errorf("law 4: a drain ended with status %d", status)
			}
			h.changed[f.replica] = int(f.size * float64(len(changedLimits)))
			h.restart(f.replica)
		}}
	replicaFaults = []faultKind{pauses, pauses, pausesLong, kills, kills, kills, changesLimits, changesLimits}
)
