package proxy

import (
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
	"throttle-proxy/proxy/upstream"
)

// policed is a route with a value in every field.
func policed(t *testing.T) Route {
	second := limiter.Limit{Rate: 1, Period: time.Second, Burst: 5}
	return Route{
		Name: "hook", Upstream: mustParse(t, "https://user:canary@upstream.example/canary?canary=1"), Pool: "team",
		Limits:      []Limit{{second, "hook", By{Header: "X-Tenant"}}, {second, "team", By{Client: true}}},
		Candidates:  []Limit{{second, "candidate", By{Header: "X-Tenant"}}},
		Concurrency: []Concurrency{{5, "hook-concurrency", By{Header: "X-Tenant"}}}, Wait: 3 * time.Second,
		Dedupe: DedupeAll, DedupeHeaders: []string{"Authorization", "X-Api-Key"}, DedupeJSON: []string{"$.id", "$.at"}, Hold: Hold{Success: time.Second}, DuplicateStatus: 425,
		WhenUndecided: cluster.Open, CoolDown: CoolDown{Longest: time.Minute},
		Timeout: time.Hour, ClosedStatus: 502, ClientGone: Cancel, Shadow: true,
		AnswerIdle: 2 * time.Minute, Forwarded: true, SetHeaders: []Field{{"Authorization", "canary"}, {"X-Team", "a"}},
		Hosts: []string{"a.example.com", "*.b.example.com"}, PassHost: true, AllowPrivate: true,
		KeepAlive: upstream.KeepAlive{Idle: time.Minute, Age: time.Hour},
	}
}

// leaves returns the paths to all values in v that are made of nothing else,
// of slices those in the first element.
func leaves(v reflect.Value) (paths [][]int) {
	below := func(i int, v reflect.Value) {
		for _, path := range leaves(v) {
			paths = append(paths, append([]int{i}, path...))
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			below(i, v.Field(i))
		}
	case reflect.Slice:
		below(0, v.Index(0))
	default:
		paths = [][]int{nil}
	}
	return paths
}

// TestDigestTellsEveryDifference goes through all fields that a Route has: a
// new one is part of the digest, or has to be named here.
func TestDigestTellsEveryDifference(t *testing.T) {
	unchanged := policed(t).Digest()
	seen := map[cluster.Digest]string{unchanged: "nothing"}
	for _, path := range leaves(reflect.ValueOf(policed(t))) {
		r := policed(t)
		v, name := reflect.ValueOf(&r).Elem(), ""
		for _, i := range path {
			if v.Kind() == reflect.Slice {
				v = v.Index(i)
				continue
			}
			name += "." + v.Type().Field(i).Name
			v = v.Field(i)
		}
		switch v.Kind() {
		case reflect.String:
			v.SetString(v.String() + "x")
		case reflect.Int, reflect.Int64:
			v.SetInt(v.Int() + 1)
		case reflect.Bool:
			v.SetBool(!v.Bool())
		default:
			if name != ".Upstream" && name != ".TLS" { // see below; files, whose paths and contents may differ
				t.Errorf("%s is a %s, of which this test knows nothing", name, v.Kind())
			}
			continue
		}
		got := r.Digest()
		if name == ".SetHeaders.Value" { // a secret
			if got != unchanged {
				t.Errorf("%s changes the digest", name)
			}
			continue
		}
		if other, taken := seen[got]; taken {
			t.Errorf("the digest does not tell %s changed from %s", name, other)
		}
		if seen[got] = name; got.Upstream != unchanged.Upstream {
			t.Errorf("%s is told as another upstream", name)
		}
	}
	if len(seen) < 15 {
		t.Errorf("%d fields were compared, too few to have looked at all there are", len(seen)-1)
	}
}

func TestDigestOfTheUpstream(t *testing.T) {
	digest := func(url string) cluster.Digest {
		r := policed(t)
		r.Upstream = mustParse(t, url)
		return r.Digest()
	}
	const url = "http://upstream.example/path?query=1"
	same := digest(url)
	for _, other := range []string{
		"https://upstream.example/path?query=1", "h2c://upstream.example/path?query=1", "http://upstream.example:81/path?query=1",
		"http://other.example/path?query=1", "http://upstream.example/path", "http://upstream.example/path/?query=1", "http://upstream.example/p%61th?query=1",
	} {
		if got := digest(other); got.Upstream == same.Upstream || got.Policy != same.Policy {
			t.Errorf("%s: got %+v, for %s %+v, want another upstream alone", other, got, url, same)
		}
	}
	for _, equal := range []string{url, "http://user@upstream.example/path?query=1", "http://user:password@upstream.example/path?query=1"} {
		if got := digest(equal); got != same {
			t.Errorf("%s: got %+v, for %s %+v, want the same", equal, got, url, same)
		}
	}
}

// Flags may be given in any order, and header fields have no case.
func TestDigestOfTheSamePolicyIsTheSame(t *testing.T) {
	want := policed(t).Digest()
	r := policed(t)
	slices.Reverse(r.Limits)
	slices.Reverse(r.DedupeHeaders)
	slices.Reverse(r.DedupeJSON)
	slices.Reverse(r.SetHeaders)
	slices.Reverse(r.Hosts)
	r.DedupeHeaders[0] = strings.ToLower(r.DedupeHeaders[0])
	r.Limits[1].By.Header = strings.ToUpper(r.Limits[1].By.Header)
	if got := r.Digest(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if r.Limits[0].Name != "team" || r.DedupeHeaders[0] != "x-api-key" || r.Limits[1].By.Header != "X-TENANT" {
		t.Errorf("the route was changed: %+v", r)
	}
	none, empty := policed(t), policed(t)
	none.Limits, none.DedupeHeaders, none.SetHeaders = nil, nil, nil
	empty.Limits, empty.DedupeHeaders, empty.SetHeaders = []Limit{}, []string{}, []Field{}
	none.Candidates, none.Concurrency = nil, nil
	empty.Candidates, empty.Concurrency = []Limit{}, []Concurrency{}
	if a, b := none.Digest(), empty.Digest(); a != b {
		t.Errorf("got %+v and %+v for nothing", a, b)
	}
}

func TestDigestTellsNoSecret(t *testing.T) {
	d := policed(t).Digest()
	wantNoCanary(t, "digest", fmt.Sprintf("%+v", d))
	for _, half := range []string{d.Upstream, d.Policy} {
		if sum, err := hex.DecodeString(half); err != nil || len(sum) != 8 {
			t.Errorf("got %q, want eight bytes as hex", half)
		}
	}
}
