package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// chunked hides the length of a body.
func chunked(body string) io.Reader { return io.MultiReader(strings.NewReader(body)) }

func TestWhichRequestsAreEqual(t *testing.T) {
	base := func() *http.Request { return post("body", "Content-Type", "text/plain") }
	for name, tt := range map[string]struct {
		a, b  *http.Request // base if nil
		equal bool
	}{
		"itself":               {nil, nil, true},
		"another method":       {nil, request("PUT", "/hook", "body", "Content-Type", "text/plain"), false},
		"another path":         {nil, request("POST", "/hook/", "body", "Content-Type", "text/plain"), false},
		"another query":        {nil, request("POST", "/hook?a", "body", "Content-Type", "text/plain"), false},
		"another body":         {nil, post("Body", "Content-Type", "text/plain"), false},
		"another type":         {nil, post("body", "Content-Type", "text/html"), false},
		"no type":              {nil, post("body"), false},
		"an encoding":          {nil, post("body", "Content-Type", "text/plain", "Content-Encoding", "gzip"), false},
		"a credential":         {nil, post("body", "Content-Type", "text/plain", "Authorization", "Bearer a"), false},
		"another tenant":       {post("", "Tenant", "a"), post("", "Tenant", "b"), false}, // who has a budget of their own
		"a session":            {nil, post("body", "Content-Type", "text/plain", "Cookie", "a=1"), false},
		"a later part":         {post("", "Content-Range", "bytes 0-1/4"), post("", "Content-Range", "bytes 2-3/4"), false},
		"a later offset":       {post("", "Upload-Offset", "0"), post("", "Upload-Offset", "4"), false},
		"another range":        {post("", "Range", "bytes=0-1"), post("", "Range", "bytes=2-3"), false},
		"another version":      {post("", "If-Match", `"a"`), post("", "If-Match", `"b"`), false},
		"no version":           {post("", "If-None-Match", "*"), post(""), false},
		"an action":            {post("", "SOAPAction", "a"), post("", "SOAPAction", "b"), false},
		"another verb":         {post("", "X-HTTP-Method-Override", "PUT"), post(""), false},
		"another spelt key":    {post("", "X-Idempotency-Key", "1"), post("", "X-Idempotency-Key", "2"), false},
		"an idempotency key":   {post("", "Idempotency-Key", "1"), post("", "Idempotency-Key", "2"), false},
		"other fields":         {nil, post("body", "Content-Type", "text/plain", "User-Agent", "b", "Traceparent", "c", "X-Request-Id", "d"), true},
		"another spelling":     {post("", "authorization", "a"), post("", "AUTHORIZATION", "a"), true},
		"one field twice":      {post("", "Authorization", "a, b"), post("", "Authorization", "a", "Authorization", "b"), false},
		"fields that swap":     {post("", "Authorization", "a"), post("", "Idempotency-Key", "a"), false},
		"an empty field":       {post("", "Authorization", ""), post(""), false},
		"a scheme's case":      {post("", "Authorization", "Bearer aB"), post("", "Authorization", "BEARER aB"), true},
		"a token's case":       {post("", "Authorization", "Bearer aB"), post("", "Authorization", "Bearer ab"), false},
		"a lone token's case":  {post("", "Authorization", "aB"), post("", "Authorization", "ab"), false},
		"another key's case":   {post("", "X-Api-Key", "A"), post("", "X-Api-Key", "a"), false},
		"cookies in lines":     {post("", "Cookie", "a=1; b=2"), post("", "Cookie", "a=1", "Cookie", "b=2"), true},
		"query order":          {request("POST", "/hook?a=1&b=2", ""), request("POST", "/hook?b=2&a=1", ""), false},
		"an encoded slash":     {request("POST", "/hook/a/b", ""), request("POST", "/hook/a%2Fb", ""), false},
		"escapes' case":        {request("POST", "/hook/a%2Fb", ""), request("POST", "/hook/a%2fb", ""), false},
		"path or query":        {request("POST", "/hook/a?b", ""), request("POST", "/hook/a%3Fb", ""), false},
		"no body, empty body":  {httptest.NewRequest("POST", "/hook", nil), httptest.NewRequest("POST", "/hook", chunked("")), true},
		"empty body, declared": {httptest.NewRequest("POST", "/hook", http.NoBody), post(""), true},
		"chunked, declared":    {httptest.NewRequest("POST", "/hook", chunked("body")), post("body"), true},
		"another host":         {nil, request("POST", "http://elsewhere/hook", "body", "Content-Type", "text/plain"), true},
	} {
		bubble(t, name, func(t *testing.T) {
			tenants := limit(t, "tenants", "9/s")
			tenants.By = By{Header: "tenant"}
			r := newRig(t, answers(ok, ""), hold(time.Hour), limits(tenants), func(r *Route) {
				r.DedupeHeaders = append(r.DedupeHeaders, "Cookie", "X-Api-Key", "X-Idempotency-Key", "Content-Range", "Upload-Offset",
					"Range", "If-Match", "If-None-Match", "SOAPAction", "X-HTTP-Method-Override")
			})
			for i, req := range []**http.Request{&tt.a, &tt.b} {
				if *req == nil {
					*req = base()
				}
				want := "200"
				if i == 1 && tt.equal {
					want = "held"
				}
				wantOutcome(t, r.do(*req), want)
			}
		})
	}
}

func TestHostIsPartOfWhatIsEqualWhereItIsNamed(t *testing.T) {
	for host, equal := range map[string]bool{"tenant-a.example": true, "TENANT-A.example:80": true, "tenant-b.example": false} {
		bubble(t, host, func(t *testing.T) {
			r := newRig(t, answers(ok, ""), hold(time.Hour), func(r *Route) { r.DedupeHeaders = []string{"host"} })
			wantOutcome(t, r.do(request("POST", "http://tenant-a.example/hook", "")), "200")
			want := "200"
			if equal {
				want = "held"
			}
			wantOutcome(t, r.do(request("POST", "http://"+host+"/hook", "")), want)
		})
	}
}

func TestRoutesShareNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := mustParse(t, "https://upstream.example")
		p, err := New([]Route{
			{Name: "a", Upstream: u, Pool: "pool", Dedupe: DedupeOn, Hold: Hold{Success: time.Hour}},
			{Name: "b", Upstream: u, Pool: "pool", Dedupe: DedupeOn, Hold: Hold{Success: time.Hour}},
		}, newRig(t, answers(ok, "")).options)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b"} {
			p.routes[name].over(answers(ok, ""))
			res := (&rig{Proxy: p}).do(request(http.MethodPost, "/"+name, "same"))
			wantOutcome(t, res, "200")
		}
	})
}

// FuzzFingerprint moves bytes from one part of a request to another.
func FuzzFingerprint(f *testing.F) {
	f.Add("POST", "/hook?a=1", "Bearer a", "text/plain", "body", "curl/8", uint8(0), uint8(1))
	f.Add("P", "\x00\x00\x00\x00\x00\x00\x00\x01", "", "\x00", "", "", uint8(1), uint8(4))
	f.Add("", "", "a", "", "", "", uint8(2), uint8(3))
	f.Add("", "", "\x00\x00\x00\x00\x00\x00\x00\x01a", "", "", "", uint8(2), uint8(4))
	rt := newRig(f, answers(ok, "")).routes["hook"]
	f.Fuzz(func(t *testing.T, method, target, auth, kind, body, ignored string, from, to uint8) {
		parts := [...]string{method, target, auth, kind, body}
		hash := func(p [len(parts)]string, ignored ...string) string {
			r := &http.Request{Method: p[0], Header: http.Header{"Authorization": {p[2]}, "Content-Type": {p[3]}, "User-Agent": ignored}}
			sum := rt.fingerprint(r, p[1], held(p[4]))
			return string(sum[:])
		}
		same := hash(parts)
		if hash(parts, ignored) != same || hash(parts, ignored, ignored) != same {
			t.Error("a field that was not chosen matters")
		}
		moved := parts
		source, sink := &moved[int(from)%len(parts)], &moved[int(to)%len(parts)]
		if n := len(*source); n > 0 {
			last := (*source)[n-1:]
			*source = (*source)[:n-1]
			*sink = last + *sink
		}
		if got, want := hash(moved) == same, moved == parts; got != want {
			t.Errorf("%q and %q: equal fingerprints: got %v, want %v", parts, moved, got, want)
		}
		for i := range moved {
			changed := parts
			changed[i] += "\x00"
			if hash(changed) == same {
				t.Errorf("%q and %q have one fingerprint", parts, changed)
			}
		}
	})
}

func TestDigestTellsValuesApart(t *testing.T) {
	seen := map[string]bool{}
	for _, values := range [][]string{nil, {""}, {"", ""}, {"a"}, {"a", "b"}, {"ab"}, {"a,b"}, {"b", "a"}} {
		d := digest(values...)
		if seen[d] {
			t.Errorf("%q has the digest of another", values)
		}
		if seen[d] = true; len(d) != 32 {
			t.Errorf("got %d digits, want 32", len(d))
		}
	}
}

// Where only requests with a key are compared, another key is another request,
// whatever the route compares besides.
func TestKeysThatAreAskedForAreCompared(t *testing.T) {
	r := newRig(t, answers(ok, ""), dedupe(DedupeKey), hold(time.Hour), func(r *Route) { r.DedupeHeaders = []string{"X-Tenant"} })
	for _, want := range []string{"1 200", "2 200", "1 held", "2 held"} {
		key, outcome, _ := strings.Cut(want, " ")
		wantOutcome(t, r.do(post("same", "Idempotency-Key", key)), outcome)
	}
}

func BenchmarkFingerprint(b *testing.B) {
	rt := newRig(b, answers(ok, "")).routes["hook"]
	r := post("", "Content-Type", "application/json", "Authorization", "Bearer 0123456789")
	target := rt.Upstream.Target("/chat.postMessage", "")
	body := held(strings.Repeat("x", 1<<10))
	b.ReportAllocs()
	b.SetBytes(body.size)
	for b.Loop() {
		rt.fingerprint(r, target, body)
	}
}
