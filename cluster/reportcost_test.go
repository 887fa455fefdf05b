package cluster

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What 50 replicas cost their store: while nobody looks one small script a second
// each, and while somebody does besides one write of what they report.
func TestRedis_WhatReportsCost(t *testing.T) {
	const replicas = 50
	server := startRedis(t)
	client := server.Client()
	report := []byte(strings.Repeat("x", MaxReport))
	var fleet []*Redis
	for i := range replicas {
		r := join(t, server.URL(), Options{Self: Replica{ID: fmt.Sprint("r", i)}, Report: func() []byte { return report }})
		fleet = append(fleet, r)
	}
	eventually(t, "all know each other", func() bool {
		for _, r := range fleet {
			if len(r.Status().Peers) < replicas-1 {
				return false
			}
		}
		return true
	})
	seen := func() (beats, sets, bytes int) {
		stats := must(t, client.Info(t.Context(), "commandstats")) + must(t, client.Info(t.Context(), "stats"))
		for line := range strings.Lines(stats) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			calls, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
			n, _ := strconv.Atoi(calls)
			switch name {
			case "cmdstat_evalsha":
				beats = n
			case "cmdstat_set":
				sets = n
			case "total_net_input_bytes":
				bytes = n
			}
		}
		return beats, sets, bytes
	}
	// over returns how many SETs, and bytes, there were for each heartbeat.
	over := func() (sets, bytes float64) {
		beats0, sets0, bytes0 := seen()
		eventually(t, "some heartbeats", func() bool { beats, _, _ := seen(); return beats >= beats0+4*replicas })
		beats1, sets1, bytes1 := seen()
		return float64(sets1-sets0) / float64(beats1-beats0), float64(bytes1-bytes0) / float64(beats1-beats0)
	}
	sets, bytes := over()
	t.Logf("nobody looks: %.2f SETs and %.0f bytes a heartbeat", sets, bytes)
	if sets > 1.2 || bytes > 1500 {
		t.Errorf("nobody looks: got %.2f SETs and %.0f bytes a heartbeat, want the script's own SET, and few bytes", sets, bytes)
	}
	began := time.Now()
	reports, err := fleet[0].Reports(t.Context())
	first := time.Since(began)
	if err != nil || len(reports) != replicas-1 {
		t.Errorf("got %d reports and %v, want %d", len(reports), err, replicas-1)
	}
	began = time.Now()
	if reports, err = fleet[0].Reports(t.Context()); err != nil || len(reports) != replicas-1 {
		t.Errorf("got %d reports and %v, want %d", len(reports), err, replicas-1)
	}
	t.Logf("the first look took %s, another one %s", first, time.Since(began))
	sets, bytes = over()
	t.Logf("somebody looks: %.2f SETs and %.0f bytes a heartbeat", sets, bytes)
	if sets < 1.5 || sets > 2.2 {
		t.Errorf("somebody looks: got %.2f SETs a heartbeat, want one more", sets)
	}
}
