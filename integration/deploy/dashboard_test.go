package deploy

//lint:file-ignore SA1019 the format that every Grafana imports, and not the newest alone

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

// Fails if the dashboard has anything that Grafana's own types do not know, or panels
// that lie over each other. Whether its queries find something is seen by a Prometheus,
// in integration.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../deploy/grafana/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	plugins.RegisterDefaultPlugins() // types of panels and queries
	// It returns a list of errors, which may be empty.
	if err := new(dashboard.Dashboard).UnmarshalJSONStrict(text); err != nil && err.Error() != "" {
		t.Fatal(err)
	}
	var board dashboard.Dashboard
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	if err := board.Validate(); err != nil {
		t.Error(err)
	}
	ids, taken := map[uint32]bool{}, map[[2]uint32]bool{}
	place := func(id *uint32, at *dashboard.GridPos) {
		t.Helper()
		if id == nil || at == nil || ids[*id] || at.X+at.W > 24 {
			t.Fatalf("a panel has no place, or no id of its own: %v, %v", id, at)
		}
		ids[*id] = true
		for x := at.X; x < at.X+at.W; x++ {
			for y := at.Y; y < at.Y+at.H; y++ {
				if taken[[2]uint32{x, y}] {
					t.Fatalf("panel %d lies over another", *id)
				}
				taken[[2]uint32{x, y}] = true
			}
		}
	}
	for _, p := range board.Panels {
		if p.RowPanel != nil {
			place(&p.RowPanel.Id, p.RowPanel.GridPos)
			continue
		}
		place(p.Panel.Id, p.Panel.GridPos)
		if p.Panel.Title == nil || p.Panel.Description == nil || len(p.Panel.Targets) == 0 {
			t.Errorf("panel %d has no title, no description or no query", *p.Panel.Id)
		}
	}
	if len(ids) < 20 {
		t.Errorf("got %d panels, want all of them", len(ids))
	}
}
