package main

import "time"

// DRAFT until the real types are there.

type fleetStatus struct {
	Replica     string // who is asked
	Now         time.Time
	Store       fleetStore
	Replicas    []fleetReplica
	StepSeconds float64
	Routes      []fleetRoute
	Locks       []fleetLock
	LocksHeld   int
	Budgets     []fleetBudget
	CoolDowns   []fleetCoolDown
	Callers     []fleetCaller
	Changed     []statusChanged
}
type fleetStore struct {
	Address string
	Answers float64 // ms
	Away    []statusAway
	Policy  string
}
type fleetReplica struct {
	Name, ID, Version string
	Started           time.Time
	Heard             float64 // seconds ago
	Missing           bool
	InFlight, Waiting int64
	StoreAway         float64
	Answers           float64
	Differences       []statusDifference
	Ready             string
}
type statusDifference struct{ Route, In string }
type fleetRoute struct {
	Name, Policy string
	Steps        []fleetStep
	P50, P99     float64 // ms
	Paused       bool
}
type fleetStep struct{ Forwarded, Limited, Duplicates, Errors int64 }
type fleetLock struct {
	Of, RequestID, Replica string
	Age                    float64
}
type fleetBudget struct {
	Limit, Of, Rate string
	Remaining, Most int
}
type fleetCoolDown struct {
	Of      string
	Caller  bool
	Seconds float64
}
type fleetCaller struct {
	Caller, Route, Reason string
	Refused               int64
}
