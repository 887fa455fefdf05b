package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"throttle-proxy/cluster"
)

func TestStoreObserver_SaysWhatHasChanged(t *testing.T) {
	for want, change := range map[string]cluster.Change{
		`level=INFO msg="route slack: 1/s burst 5, was 10/m burst 5"`:                                                       {Kind: cluster.LimitChanged, Tag: "slack", Limit: "slack", Is: "1/s burst 5", Was: "10/m burst 5"},
		`level=WARN msg="store away" routes=a,b fault=other error=undecided`:                                                {Kind: cluster.StoreAway, Tag: "a,b", Err: cluster.ErrUndecided},
		`level=WARN msg="a round trip to the store takes 80ms of the 100ms of --store-timeout: write --store-timeout 240ms`: {Kind: cluster.StoreFar, Trip: 80 * time.Millisecond},
		`level=INFO msg="store moved`: {Kind: cluster.StoreMoved},
		`level=WARN msg="replicas cannot be counted" fault=other error=undecided`: {Kind: cluster.FleetUnknown, Err: cluster.ErrUndecided},
	} {
		var log bytes.Buffer
		storeObserver(slog.New(slog.NewTextHandler(&log, nil)), 100*time.Millisecond)(change)
		if got := log.String(); !strings.Contains(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
