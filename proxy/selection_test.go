package proxy

import (
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func selectionOf(tb testing.TB, paths string) *selection {
	tb.Helper()
	list, err := ParseJSONPaths(paths)
	if err != nil {
		tb.Fatalf("%s: %v", paths, err)
	}
	return selects(list)
}

// bytewise stands for a body that is compared byte by byte.
const bytewise = "byte by byte"

func TestWhatIsComparedOfJSON(t *testing.T) {
	const event = `{"type":"message", "event": {"id":"E1","ts":5,"user":{"id":7}}, "items":[{"id":1,"at":2},{"at":3}], "timestamp":99}`
	nested := func(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }
	for _, tt := range []struct{ paths, body, want string }{
		// All of it, whatever its order and white space.
		{"$", " { \"b\" : 1 ,\n\t\"a\" : [ 1 , true , null ] } \r\n", `{"a":[1,true,null],"b":1}`},
		{"$", `[{"b":1,"a":2},[]]`, `[{"a":2,"b":1},[]]`},
		{"$", `{}`, `{}`},
		{"$", `[]`, `[]`},
		{"$", `{"":0}`, `{"":0}`},
		{"$", `{"\u0061":"\u00e9\/\ud83d\udca9\u000a"}`, `{"a":"é/💩\n"}`},
		{"$", "{\"\u20ac\":1,\"\\r\":2,\"\ufb33\":3,\"1\":4,\"\U0001f600\":5,\"\u0080\":6,\"\u00f6\":7}",
			"{\"\\r\":2,\"1\":4,\"\u0080\":6,\"\u00f6\":7,\"\u20ac\":1,\"\U0001f600\":5,\"\ufb33\":3}"}, // RFC 8785 3.2.3
		// Some members.
		{"$.event.id", event, `{"event":{"id":"E1"}}`},
		{"$.event", event, `{"event":{"id":"E1","ts":5,"user":{"id":7}}}`},
		{"$.event.user.id,$.type", event, `{"event":{"user":{"id":7}},"type":"message"}`},
		{"$['event']['id']", event, `{"event":{"id":"E1"}}`},
		{"$['a name'],$['b.c'],$['d,e']", `{"a name":1,"b.c":2,"d,e":3,"b":{"c":4}}`, `{"a name":1,"b.c":2,"d,e":3}`},
		{"$.é", `{"\u00e9":1,"e":2}`, `{"é":1}`},
		{"$.items[*].id", event, `{"items":[{"id":1},{}]}`},
		{"$.items[*]", event, `{"items":[{"at":2,"id":1},{"at":3}]}`},
		{"$[*].id", `[{"id":1,"x":2},{"id":3},4,[5]]`, `[{"id":1},{"id":3}]`},
		{"$.a", `{"a":null,"b":1}`, `{"a":null}`},
		// All but some.
		{"-$.timestamp,-$.items", event, `{"event":{"id":"E1","ts":5,"user":{"id":7}},"type":"message"}`},
		{"-$.items[*].at,-$.event,-$.type", event, `{"items":[{"id":1},{}],"timestamp":99}`},
		{"-$[*]", `[1,2]`, `[]`},
		{"-$.a", `{"a":1}`, `{}`},
		{"$,-$.a", `{"a":1,"b":2}`, `{"b":2}`},
		{"$.event,-$.event.ts", event, `{"event":{"id":"E1","user":{"id":7}}}`},
		// Members that are missing.
		{"$.event.id", `{"type":"ping"}`, bytewise},
		{"$.event.id", `{"event":"E1"}`, bytewise},
		{"$.event.id", `{"event":[{"id":1}]}`, bytewise},
		{"$.event.id", `[1]`, bytewise},
		{"$.items[*].id", `{"items":{"id":1}}`, bytewise},
		{"$.items[*]", `{"items":[]}`, bytewise},
		{"$.type,$.thread", `{"type":"message","ts":1}`, `{"type":"message"}`},
		{"-$.none", `{"a":1}`, `{"a":1}`},
		{"-$.a.b", `{"a":1}`, `{"a":1}`},
		// Names that are there twice.
		{"$", `{"a":1,"a":1}`, bytewise},
		{"$.a", `{"a":1,"a":2}`, bytewise},
		{"$.a", `{"a":1,"b":{"c":1,"\u0063":2}}`, bytewise},
		{"-$.a", `{"a":1,"a":2,"b":3}`, bytewise},
		{"$", `{"a":{"x":1},"b":{"x":1}}`, `{"a":{"x":1},"b":{"x":1}}`},
		// Numbers.
		{"$", `[1,1.0,1e0,10e-1,0.1e1,1E+0]`, `[1,1,1,1,1,1]`},
		{"$", `[0,-0,0.0,0e5,-0.0E-9]`, `[0,0,0,0,0]`},
		{"$", `[100,1e2,-1.50,0.05]`, `[1e2,1e2,-15e-1,5e-2]`},
		{"$", `[9007199254740992,9007199254740993,9007199254740993.0]`, `[9007199254740992,9007199254740993,9007199254740993]`},
		{"$", `[0.1,0.10000000000000000555]`, `[1e-1,10000000000000000555e-20]`},
		{"$", `[1e400,10e399,1e-400]`, `[1e400,1e400,1e-400]`},
		{"$", `[1e99999999999]`, `[1e99999999999]`},
		{"$", `["1","1.0"]`, `["1","1.0"]`},
		{"$", `[01]`, bytewise},
		{"$", `[.5]`, bytewise},
		{"$", `[NaN]`, bytewise},
		// What is no JSON.
		{"$", ``, bytewise},
		{"$", `  `, bytewise},
		{"$", `payload={"a":1}`, bytewise},
		{"$", `{"a":1}{"a":1}`, bytewise},
		{"$", "{\"a\":1}\n{\"a\":1}", bytewise},
		{"$", `{"a":1},`, bytewise},
		{"$", `{"a":1`, bytewise},
		{"$", `{a:1}`, bytewise},
		{"$", `{'a':1}`, bytewise},
		{"$", `{"a":1,}`, bytewise},
		{"$", `{"a":1}//`, bytewise},
		{"$", "{\"a\":\"\n\"}", bytewise},
		{"$.b", `{"b":1,"a":tru}`, bytewise},
		{"$", `1`, bytewise},
		{"$", `"a"`, bytewise},
		{"$", `null`, bytewise},
		// Other charsets.
		{"$", "\ufeff{\"a\":1}", bytewise},
		{"$", "{\"a\":\"\xff\"}", bytewise},
		{"$", "{\"a\":\"\xe9\"}", bytewise},
		{"$.b", "{\"a\":\"\xff\",\"b\":1}", bytewise},
		{"$", "{\"a\":\"\xed\xa0\x80\"}", bytewise},
		{"$", `{"a":"\ud800"}`, bytewise},
		{"$", "{\x00\"\x00a\x00\"\x00:\x001\x00}\x00", bytewise},
		// Bounds.
		{"$", nested(maxJSONDepth), nested(maxJSONDepth)},
		{"$", nested(maxJSONDepth + 1), bytewise},
		{"$", nested(1 << 19), bytewise},
		{"$.b", `{"a":` + nested(1<<19) + `,"b":1}`, bytewise},
		{"$", strings.Repeat(`{"a":`, 100_000), bytewise},
		{"$", `["` + strings.Repeat("x", maxJSON) + `"]`, bytewise},
	} {
		got := bytewise
		if text, ok := selectionOf(t, tt.paths).of(http.Header{}, held(tt.body)); ok {
			got = string(text)
		}
		if got != tt.want {
			t.Errorf("%s of %.80q: got %.200s, want %.200s", tt.paths, tt.body, got, tt.want)
		}
	}
}

func TestOnlyUTF8IsReadAsJSON(t *testing.T) {
	for kind, want := range map[string]bool{
		"": true, "application/json": true, "text/plain; charset=UTF-8": true, "application/json; charset=utf-8": true,
		"application/json; charset=us-ascii": true, "application/x-www-form-urlencoded": true, "application/vnd.a+json": true,
		"application/json; charset=utf-16": false, "application/json; charset=iso-8859-1": false, "text/plain; CHARSET=\"Shift_JIS\"": false,
	} {
		if _, got := selectionOf(t, "$").of(http.Header{"Content-Type": {kind}}, held(`{"a":1}`)); got != want {
			t.Errorf("%q: got %v, want %v", kind, got, want)
		}
	}
}

// What is compared of JSON is equal to no bytes, and to nothing of a route
// without it.
func TestEqualJSON(t *testing.T) {
	for _, tt := range []struct {
		a, b  string
		equal bool
	}{
		{`{"id":"E1","ts":1}`, ` {"ts":2, "id":"E1"}`, true},
		{`{"id":"E1"}`, `{"id":"E2"}`, false},
		{`{"id":9007199254740992}`, `{"id":9007199254740993}`, false},
		{`{"ts":1}`, `{"ts":2}`, false},
		{`{"ts":1}`, `{ "ts":1}`, false},
		{`no JSON`, `no JSON`, true},
		{`{"id":"E1","id":"E1"}`, `{"id":"E1"}`, false},
	} {
		t.Run(tt.a+" and "+tt.b, func(t *testing.T) {
			bubble(t, "", func(t *testing.T) {
				r := newRig(t, answers(ok, ""), func(r *Route) { r.DedupeJSON = []string{"$.id"} })
				wantOutcome(t, r.do(post(tt.a)), "200")
				want := "200"
				if tt.equal {
					want = "held"
				}
				wantOutcome(t, r.do(post(tt.b)), want)
			})
		})
	}
}

func TestParseJSONPaths(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"$", "$"},
		{"$.a,$.b.c", "$.a $.b.c"},
		{"-$.a", "-$.a"},
		{"$['a'],$['b c'][*].d", "$.a $['b c'][*].d"},
		{"$['a,b'],$['.']", "$['a,b'] $['.']"},
		{"$.event-id,$.@type,$.$x", "$.event-id $.@type $.$x"},
		{"$.a,-$.ab", "$.a -$.ab"},
		{"$.a,-$.a.b", "$.a -$.a.b"},
		{"$[*],-$[*].b", "$[*] -$[*].b"},
	} {
		got, err := ParseJSONPaths(tt.text)
		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("%s: got %q and %v, want %s", tt.text, got, err, tt.want)
		}
	}
	for _, text := range []string{"", ",", "$,", ",$", "a", "$a", "$.", "$..a", "$.*", "$.a[0]", "$[?(@.a)]", `$["a"]`, "$['']", "$['a", "$.a b", "$ ", "--$.a",
		"-$", "$.a,$.a", "$.a,$['a']", "$.a,-$.a", "$.a.b,-$.a", "$.a[*],-$.a", "$['\n']"} {
		if got, err := ParseJSONPaths(text); err == nil {
			t.Errorf("%q: got %q, want an error", text, got)
		}
	}
}

// Numbers are equal if they are, and only then.
func FuzzAppendNumber(f *testing.F) {
	for _, seed := range []string{"0", "-0.0", "1e2", "100", "1.50e-7", "9007199254740993"} {
		f.Add(seed, "1")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		texts := []string{a, b}
		var numbers []*big.Rat
		for _, text := range texts {
			if i := strings.IndexAny(text, "eE"); i >= 0 && len(text)-i > 4 || len(text) > 20 {
				return // which big.Rat takes long for
			}
			n, ok := new(big.Rat).SetString(text)
			if !ok || strings.ContainsAny(text, "_/pPxXoObB+") || strings.HasPrefix(strings.TrimPrefix(text, "-"), ".") {
				return
			}
			numbers = append(numbers, n)
		}
		got := string(appendNumber(nil, []byte(a))) == string(appendNumber(nil, []byte(b)))
		if want := numbers[0].Cmp(numbers[1]) == 0; got != want {
			t.Errorf("%q and %q: equal: got %v, want %v", a, b, got, want)
		}
	})
}

func BenchmarkFingerprintJSON(b *testing.B) {
	event := func(size int) string {
		return `{"token":"z26uFbvR1xHJEdHE1OQiO6t8","team_id":"T061EG9RZ","type":"event_callback","event":{"type":"message","id":"Ev0LAN670R","ts":"1515449438.000011","text":"` +
			strings.Repeat("hello ", size/6) + `"},"event_time":1515449522716}`
	}
	for _, size := range []int{1 << 10, 64 << 10} {
		for _, paths := range []string{"none", "$", "$.event.id", "-$.event_time"} {
			b.Run(fmt.Sprintf("%s of %d KiB", paths, size>>10), func(b *testing.B) {
				rt := newRig(b, answers(ok, ""), func(r *Route) {
					if paths != "none" {
						r.DedupeJSON = slices.Clone([]string{paths})
					}
				}).routes["hook"]
				r := post("", "Content-Type", "application/json", "Authorization", "Bearer 0123456789")
				body := held(event(size))
				b.ReportAllocs()
				b.SetBytes(body.size)
				for b.Loop() {
					rt.fingerprint(r, "/", body)
				}
			})
		}
	}
}
