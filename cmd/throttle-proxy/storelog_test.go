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
	c := parse(t, "--register slack=http://host --register a=http://host --register b=http://host --when-undecided slack=closed --when-undecided b=open")
	for want, change := range map[string]cluster.Change{
		`level=INFO msg="route slack: 1/s burst 5, was 10/m burst 5"`:                                                    {Kind: cluster.LimitChanged, Tag: "slack", Limit: "slack", Is: "1/s burst 5", Was: "10/m burst 5"},
		`level=WARN msg="store away" routes=slack fault=other error=undecided meanwhile="requests are refused with 503"`: {Kind: cluster.StoreAway, Tag: "slack", Err: cluster.ErrUndecided},
		`msg="store away" fault=other error=undecided meanwhile="slack: requests are refused with 503; a: this replica decides, by its own locks and its share of each budget; b: requests are forwarded, but for what this replica has in flight itself"`: {Kind: cluster.StoreAway, Err: cluster.ErrUndecided},
		`level=INFO msg="store back" after_ms=1500.25`: {Kind: cluster.StoreBack, Lasted: 1500250 * time.Microsecond},
		`level=WARN msg="a round trip to the store takes 80ms of the 100ms of --store-timeout: write --store-timeout 240ms`: {Kind: cluster.StoreFar, Trip: 80 * time.Millisecond},
		`level=INFO msg="store moved`: {Kind: cluster.StoreMoved},
		`level=WARN msg="replicas cannot be counted" fault=other error=undecided`:                                                                {Kind: cluster.FleetUnknown, Err: cluster.ErrUndecided},
		`level=WARN msg="what was changed by hand cannot be read: what is known here stays, and the next command puts it right" error=undecided`: {Kind: cluster.ControlUnread, Err: cluster.ErrUndecided},
		`level=WARN msg="changed by hand: pause hook" by="uid 7" version=3`:                                                                      {Kind: cluster.Ordered, Order: "pause hook", By: "uid 7", Version: 3},
	} {
		var log bytes.Buffer
		storeObserver(slog.New(slog.NewTextHandler(&log, nil)), 100*time.Millisecond, c.meanwhile)(change)
		if got := log.String(); !strings.Contains(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
