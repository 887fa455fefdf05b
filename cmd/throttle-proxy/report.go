package main

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"time"

	"throttle-proxy/cluster"
)

// The most that a replica reports of each kind.
const (
	reportedLocks   = 20
	reportedBudgets = 200
	reportedOther   = 50
)

// replicaReport is what a replica tells the others of itself, while somebody looks.
type replicaReport struct {
	Ready     string                 `json:"ready"`
	InFlight  int64                  `json:"in_flight"`
	Waiting   int                    `json:"waiting"`
	TripMS    float64                `json:"trip_ms"`
	Away      []statusAway           `json:"away,omitempty"`
	Locks     statusLocks            `json:"locks"`
	Slots     []statusSlots          `json:"slots,omitempty"`
	CoolDowns []statusCoolDown       `json:"cool_downs,omitempty"`
	Budgets   []fleetBudget          `json:"budgets,omitempty"` // those that are not full
	Routes    map[string]routeReport `json:"routes,omitempty"`  // those with requests
}

// report is what this replica does now.
func (a *admin) report() replicaReport {
	s := a.store.Status()
	now := time.Now()
	_, ready := a.replica.health.ready()
	out := replicaReport{
		Ready: ready, InFlight: a.replica.proxy.InFlight(), Waiting: s.Waiting, TripMS: millisOf(s.Trip),
		Locks: statusLocks{Held: len(s.Locks)}, Routes: map[string]routeReport{},
	}
	for _, away := range s.Away {
		out.Away = append(out.Away, statusAway{away.Tag, now.Sub(away.Since).Seconds(), away.Fault})
	}
	for _, l := range s.Locks[:min(len(s.Locks), reportedLocks)] {
		out.Locks.Oldest = append(out.Locks.Oldest, statusLock{l.Tag, l.RequestID, l.Age.Seconds()})
	}
	for _, l := range s.Slots {
		if !l.Caller && len(out.Slots) < reportedOther {
			out.Slots = append(out.Slots, statusSlots{l.Limit, l.Tag, l.Caller, l.Used, l.Most})
		}
	}
	for _, p := range s.Pauses[:min(len(s.Pauses), reportedOther)] {
		out.CoolDowns = append(out.CoolDowns, statusCoolDown{p.Tag, p.Caller, p.Left.Seconds()})
	}
	if a.metrics != nil { // else nothing was seen of them
		out.Budgets = a.metrics.budgets.spent(reportedBudgets)
	}
	for name, route := range a.replica.tally.routes {
		if r, ok := route.report(now); ok {
			out.Routes[name] = r
		}
	}
	return out
}

func millisOf(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// pack writes r in at most so many bytes, without the routes that have the least to
// tell where it would be more.
func (r replicaReport) pack(most int) []byte {
	weight := func(name string) (refused, all int) {
		for _, s := range r.Routes[name].Steps {
			refused += s.Limited + s.Duplicates + s.Errors
			all += s.Forwarded + s.Other
		}
		return refused, all
	}
	names := make([]string, 0, len(r.Routes))
	for name := range r.Routes {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		refusedA, allA := weight(a)
		refusedB, allB := weight(b)
		return cmp.Or(cmp.Compare(refusedB, refusedA), cmp.Compare(allB, allA), cmp.Compare(a, b))
	})
	for kept := len(names); ; {
		for _, name := range names[kept:] {
			delete(r.Routes, name)
		}
		var packed bytes.Buffer
		w, _ := flate.NewWriter(&packed, flate.BestSpeed)
		_ = json.NewEncoder(w).Encode(r)
		_ = w.Close()
		if packed.Len() <= most || kept == 0 {
			return packed.Bytes()
		}
		kept = kept * most / packed.Len() * 9 / 10
	}
}

// unpackReport reads what pack wrote.
func unpackReport(packed []byte) (r replicaReport, err error) {
	const longest = 64 * cluster.MaxReport
	text := io.LimitReader(flate.NewReader(bytes.NewReader(packed)), longest)
	err = json.NewDecoder(text).Decode(&r)
	return r, err
}

// packedSteps are steps, the last one the last that has ended. As JSON they are
// bytes: most are zero.
type packedSteps [tallySteps]counted

// MarshalJSON implements [json.Marshaler].
func (s packedSteps) MarshalJSON() ([]byte, error) {
	var b []byte
	for _, c := range s {
		for _, n := range [...]int{c.Forwarded, c.Limited, c.Duplicates, c.Errors, c.Other} {
			b = binary.AppendUvarint(b, uint64(n))
		}
	}
	return json.Marshal(b)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (s *packedSteps) UnmarshalJSON(text []byte) error {
	var b []byte
	if err := json.Unmarshal(text, &b); err != nil {
		return err
	}
	for i := range s {
		c := &s[i]
		for _, n := range [...]*int{&c.Forwarded, &c.Limited, &c.Duplicates, &c.Errors, &c.Other} {
			value, length := binary.Uvarint(b)
			if length <= 0 || value > 1<<40 {
				return errors.New("steps that are cut")
			}
			*n, b = int(value), b[length:]
		}
	}
	return nil
}
