package proxy

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"throttle-proxy/proxy/upstream"
)

const secretURL = "https://canary-user:canary-password@canary-host.example:8443/canary-path/T0?canary-query=1"

func TestUpstreamIsNeverPrinted(t *testing.T) {
	u := mustParse(t, secretURL)
	type holder struct {
		Upstream *upstream.URL
		Route    Route
		inner    *upstream.URL
	}
	for name, v := range map[string]any{
		"pointer": u, "value": *u, "route": Route{Upstream: u}, "map": map[string]*upstream.URL{"a": u},
		"slice": []*upstream.URL{u}, "struct": holder{u, Route{Upstream: u}, u}, "pointer to struct": &holder{u, Route{Upstream: u}, u},
	} {
		for _, verb := range strings.Fields("%v %+v %#v %s %q %d %x %X %t %p %10.3v") {
			wantNoCanary(t, name+" by "+verb, fmt.Sprintf(verb, v))
		}
		wantNoCanary(t, name+" by Print", fmt.Sprint(v))
		wantNoCanary(t, name+" in an error", fmt.Errorf("route: %v", v).Error())
		encoded, err := json.Marshal(v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantNoCanary(t, name+" as JSON", string(encoded))
		var log bytes.Buffer
		for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			slog.New(handler).Info("message", "upstream", v, slog.Group("group", "upstream", v))
		}
		wantNoCanary(t, name+" in a log", log.String())
	}
	if got := fmt.Sprint(u); got != "hook" {
		t.Errorf("got %q, want the route's name", got)
	}
}

// wantNoCanary checks that text has no part of secretURL.
func wantNoCanary(t *testing.T, what, text string) {
	t.Helper()
	lower := strings.ToLower(text)
	if strings.Contains(lower, "canary") || strings.Contains(lower, hex.EncodeToString([]byte("canary"))) {
		t.Errorf("%s: a secret is in %q", what, text)
	}
}
