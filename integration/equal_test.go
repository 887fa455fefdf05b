package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Pairs of requests that are equal to every replica, or to none.
func TestWhatIsEqualIsEqualEverywhere(t *testing.T) {
	t.Parallel()
	const one, other = "----WebKitFormBoundary7MA4YWxkTrZu0gW", "b0undary"
	form := func(boundary, text string) string {
		return strings.ReplaceAll("--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a\"\r\n\r\n"+text+"\r\n--B--\r\n", "--B", "--"+boundary)
	}
	of := func(boundary string) string { return "Content-Type: multipart/form-data; boundary=" + boundary }
	large := strings.Repeat("0123456789\r\n", 8<<10)
	type sent struct {
		body   string
		fields []string
	}
	type row struct {
		name, route string
		a, b        sent
		equal       bool
	}
	rows := []row{
		{"boundaries", "hook", sent{form(one, "x"), []string{of(one)}}, sent{form(other, "x"), []string{of(other)}}, true},
		{"boundaries of large forms", "hook", sent{form(one, large), []string{of(one)}}, sent{form(other, large), []string{of(other)}}, true},
		{"forms", "hook", sent{form(one, "y"), []string{of(one)}}, sent{form(other, "z"), []string{of(other)}}, false},
		{"a scheme", "hook", sent{"scheme", []string{"Authorization: Bearer aB"}}, sent{"scheme", []string{"authorization: bearer aB"}}, true},
		{"a member", "id", sent{`{"id":1,"at":1}`, nil}, sent{`{"at":2, "id":1.0}`, nil}, true},
		{"another member", "id", sent{`{"id":9007199254740992}`, nil}, sent{`{"id":9007199254740993}`, nil}, false},
		{"no member", "id", sent{`{"at":1}`, nil}, sent{`{"at":2}`, nil}, false},
		{"no JSON", "id", sent{`id=1`, nil}, sent{`id=1&at=2`, nil}, false},
		{"all but a member", "but", sent{`{"id":1,"at":1}`, nil}, sent{` {"at":2,"id":1}`, nil}, true},
		{"a host", "host", sent{"host", []string{"Host: a.example"}}, sent{"host", []string{"Host: A.example:80"}}, true},
		{"another host", "host", sent{"hosts", []string{"Host: a.example"}}, sent{"hosts", []string{"Host: b.example"}}, false},
	}
	// Fields that are compared unless other ones are named.
	for _, field := range []string{"X-Idempotency-Key", "Content-Range", "Upload-Offset", "Range", "If-Match", "If-None-Match", "SOAPAction", "X-HTTP-Method-Override"} {
		rows = append(rows, row{field, "hook", sent{field, []string{field + ": 1"}}, sent{field, []string{field + ": 2"}}, false})
	}
	for name, start := range map[string]func(*testing.T, ...string) (at, elsewhere *replica){
		"memory": func(t *testing.T, words ...string) (_, _ *replica) {
			r := startReplica(t, words...)
			return r, r
		},
		"Redis": func(t *testing.T, words ...string) (_, _ *replica) {
			f := startFleet(t, 2, words...)
			return f.replicas[0], f.replicas[1]
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			defer u.open()
			at, elsewhere := start(t, "--register", "hook="+u.URL, "--register", "id="+u.URL, "--register", "but="+u.URL, "--register", "host="+u.URL,
				"--rate", "off", "--hold", "0s", "--dedupe-json", "id=$.id", "--dedupe-json", "but=-$.at", "--dedupe-header", "host=Host")
			var inFlight []<-chan answer
			for _, row := range rows {
				inFlight = append(inFlight, u.occupy(t, at.url+"/"+row.route, row.a.body, row.a.fields...))
				want := "200"
				if row.equal {
					want = "409 duplicate"
				}
				expect(t, row.name, decided(func() answer { return post(t, elsewhere.url+"/"+row.route, row.b.body, row.b.fields...) }), want)
			}
			u.open()
			for i, a := range inFlight {
				expect(t, rows[i].name, <-a, "200")
			}
		})
	}
}

// A form that was sent from a browser is answered so that "back" does not send
// it again.
func TestSeeOtherIsASuccess(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	u.does["elsewhere"] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/done")
		w.WriteHeader(http.StatusSeeOther)
	}
	r := startReplica(t, "--register", "hook="+u.URL, "--rate", "off", "--hold", "1h")
	direct := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer direct.CloseIdleConnections()
	for _, want := range []string{"303", "409 held"} {
		a, err := try(t.Context(), direct, http.MethodPost, r.url+"/hook", "form", doesField+": elsewhere")
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "a form", a, want)
	}
}

// As gateways write whom they speak for.
func TestCallersBehindProxiesHaveBudgetsOfTheirOwn(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	for name, test := range map[string]struct {
		trusted, rate string
		fields        string // of caller X.Y
	}{
		"ports":          {"127.0.0.1", "2/d,by=client", "X-Forwarded-For: 203.0.X.Y:4711"},
		"quotes, spaces": {"127.0.0.1", "2/d,by=client", `X-Forwarded-For: evil, "203.0.X.Y" , `},
		"networks":       {"127.0.0.1", "2/d,by=client/56", "X-Forwarded-For: [2001:db8:0:X0Y::1]:443"},
		"Forwarded":      {"127.0.0.1,header=Forwarded", "2/d,by=client", "Forwarded: for=192.0.2.1, for=203.0.X.Y;proto=https"},
		"one address":    {"127.0.0.1,header=CF-Connecting-IP", "2/d,by=client", "CF-Connecting-IP: 203.0.X.Y"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startReplica(t, "--register", "hook="+u.URL, "--rate", test.rate, "--trusted-proxy", test.trusted)
			for x := 1; x <= 2; x++ {
				var answers []answer
				for y := range 4 {
					if name != "networks" {
						y = x // one address, where a network has many
					}
					field := strings.NewReplacer("X0Y", fmt.Sprintf("%d0%d", x, y), "X.Y", fmt.Sprintf("%d.%d", x, y)).Replace(test.fields)
					answers = append(answers, do(t, http.MethodGet, r.url+"/hook", "", field))
				}
				expectCounts(t, answers, "2 × 200", "2 × 429 limited")
			}
			if log := r.stderr.String(); strings.Contains(log, "is trusted, and") {
				t.Errorf("got %s, want no warning of the proxy", log)
			}
		})
	}
}

// Who counts as one by mistake is told of, once.
func TestOperatorsAreToldOfCallersThatCountAsOne(t *testing.T) {
	t.Parallel()
	u := newUpstream(t)
	for name, test := range map[string]struct {
		words []string
		want  string
	}{
		"a proxy that is not trusted":    {nil, "is --trusted-proxy missing?"},
		"a proxy that is not understood": {[]string{"--trusted-proxy", "127.0.0.1"}, `the proxy 127.0.0.1 is trusted, and its X-Forwarded-For has no address but \"unknown\"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startReplica(t, append(test.words, "--register", "hook="+u.URL, "--rate", "1000000/s,by=client")...)
			each(120, 4, func(int) { do(t, http.MethodGet, r.url+"/hook", "", "X-Forwarded-For: unknown") })
			eventually(t, "the warning", func() bool { return strings.Contains(r.stderr.String(), test.want) })
			if n := strings.Count(r.stderr.String(), test.want); n != 1 {
				t.Errorf("%d warnings in\n%s", n, r.stderr.String())
			}
		})
	}
}
