package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"throttle-proxy/integration/redistest"
)

// namesFile is what a replica knows hosts by, in place of /etc/hosts; it is
// written before the first starts.
const namesFile = `
127.0.0.1 a.example.com b.example.com a.b.example.com www.example.com
169.254.169.254 metadata.example.com
::ffff:169.254.169.254 mapped.example.com
::1 six.example.com
10.0.0.1 private.example.com
0.0.0.0 any.example.com
`

var buildNamed = sync.OnceValues(func() (string, error) {
	names, path := filepath.Join(buildDir, "hosts"), filepath.Join(buildDir, "throttle-proxy-named")
	if err := os.WriteFile(names, []byte(namesFile), 0o600); err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-race", "-ldflags", "-X net.hostsFilePath="+names, "-o", path, "throttle-proxy/cmd/throttle-proxy").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// startNamed starts a replica that knows the names of namesFile.
func startNamed(t *testing.T, words ...string) *replica {
	t.Helper()
	return startBuilt(t, buildNamed, "127.0.0.1:0", append([]string{"GODEBUG=netdns=go"}, words...)...)
}

// TestForwardingByName is chocon's job: what a host's * stands for stands in the
// URL.
func TestForwardingByName(t *testing.T) {
	t.Parallel()
	u, made := echoes(t)
	_, port, _ := strings.Cut(u.Listener.Addr().String(), ":")
	r := startNamed(t, "--register", "partner=http://*.example.com:"+port+"/v1", "--host", "partner=*.example.com.ccnproxy,*.example.com",
		"--allow-private", "partner=on", "--rate", "off", "--dedupe", "off")
	for _, test := range []struct{ host, target, want string }{
		{"a.example.com.ccnproxy", "/x?y=1&y=2", "200 a.example.com:" + port + " /v1/x?y=1&y=2 "},
		{"a.example.com.ccnproxy:44444", "/", "200 a.example.com:" + port + " /v1 "},
		{"A.Example.Com.CCNProxy.", "//x%2Fy", "200 a.example.com:" + port + " /v1//x%2Fy "},
		{"a.b.example.com.ccnproxy", "/", "200 a.b.example.com:" + port + " /v1 "},
		{"example.com.ccnproxy", "/", "404 unknown-route"},
		{"ccnproxy", "/", "404 unknown-route"},
		{".example.com.ccnproxy", "/", "404 unknown-route"},
		{"a.example.com.ccnproxy.evil.example", "/", "404 unknown-route"},
		{"a.example.org.ccnproxy", "/", "404 unknown-route"},
		{"localhost", "/partner/x", "404 unknown-route"},
		{"unknown.example.com.ccnproxy", "/", "502 upstream-refused"},
	} {
		got := ask(t, client, http.MethodGet, r.url+test.target, "", test.host)
		text := got.String()
		if got.Reason == "" {
			text += " " + got.body
		}
		if text != test.want {
			t.Errorf("%s%s: got %q, want %q", test.host, test.target, text, test.want)
		}
		if got.Reason == "unknown-route" && !strings.Contains(got.Detail, "--host") {
			t.Errorf("%s: got %q, which does not name --host", test.host, got.Detail)
		}
	}

	// As curl does it, which is told a proxy.
	for url, want := range map[string]string{
		"http://a.example.com/x?y":           "a.example.com:" + port + " /v1/x?y 200",
		"http://b.example.com:99":            "b.example.com:" + port + " /v1 200",
		"http://a.example.org/":              "404",
		"http://169.254.169.254/latest/meta": "404",
		"http://localhost:" + port + "/":     "404",
	} {
		cmd := exec.Command("curl", "-s", "-w", " %{http_code}", url)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "http_proxy=" + r.url}
		out, err := cmd.CombinedOutput()
		got := strings.Join(strings.Fields(string(out)), " ")
		if err != nil || got != want && !(want == "404" && strings.HasSuffix(got, " 404")) {
			t.Errorf("curl %s: got %q, %v, want %q", url, got, err, want)
		}
	}
	conn := dial(t, r.addr)
	conn.say("CONNECT a.example.com:443 HTTP/1.1\r\nHost: a.example.com:443\r\n\r\n")
	if res, text, _ := conn.hear(t, http.MethodGet); res.StatusCode != 405 || !strings.Contains(text, "within a tunnel nothing could be compared") {
		t.Errorf("CONNECT: got %d %s", res.StatusCode, text)
	}

	before := made.Load()
	for range 1000 {
		if got := ask(t, client, http.MethodGet, r.url+"/", "", "a.example.com.ccnproxy"); got.status != 200 {
			t.Fatal(got)
		}
	}
	if got := made.Load() - before; got > 2 {
		t.Errorf("1,000 requests opened %d connections, want at most 2", got)
	}
}

// TestForwardingByNameLeadsOut, and nowhere else: attempts to escape.
func TestForwardingByNameLeadsOut(t *testing.T) {
	t.Parallel()
	u := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://169.254.169.254/latest/meta-data/")
		w.WriteHeader(http.StatusFound)
	}))
	t.Cleanup(u.Close)
	_, port, _ := strings.Cut(u.Listener.Addr().String(), ":")
	public := startNamed(t, "--register", "partner=http://*.example.com:"+port, "--host", "partner=*.example.com", "--rate", "off")
	private := startNamed(t, "--register", "partner=http://*.example.com:"+port, "--host", "partner=*.example.com", "--rate", "off", "--allow-private", "on", "--forwarded", "off")
	for _, label := range []string{"metadata", "mapped", "a", "six", "private", "any"} {
		for _, body := range []string{"", strings.Repeat("b", 20<<10)} {
			got := ask(t, client, http.MethodPost, public.url+"/"+label, body, label+".example.com")
			if got.String() != "502 upstream-refused" || got.header.Get("Proxy-Status") != "throttle-proxy; error=destination_ip_prohibited" {
				t.Errorf("%s: got %v, %s", label, got, got.header.Get("Proxy-Status"))
			}
		}
	}
	for _, label := range []string{"metadata", "mapped", "any"} {
		got := ask(t, client, http.MethodGet, private.url+"/", "", label+".example.com")
		if got.String() != "502 upstream-refused" || got.header.Get("Proxy-Status") != "throttle-proxy; error=destination_ip_prohibited" {
			t.Errorf("%s where private addresses are allowed: got %v, %s", label, got, got.header.Get("Proxy-Status"))
		}
	}
	// A redirect is the client's to follow, and that is refused.
	follows := &http.Client{Timeout: patience, Transport: client.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	got := ask(t, follows, http.MethodGet, private.url+"/", "", "a.example.com")
	if to := got.header.Get("Location"); got.status != 302 || to != "http://169.254.169.254/latest/meta-data/" {
		t.Errorf("a redirect: got %v to %s, want it as it was", got, to)
	}
	expect(t, "the place it leads to", ask(t, client, http.MethodGet, private.url+"/latest/meta-data/", "", "169.254.169.254"), "404 unknown-route")
	// No port but the registered one.
	expect(t, "another port", ask(t, follows, http.MethodGet, private.url+"/", "", "a.example.com:22"), "302")
}

// TestLoopsEnd: a request that comes round is 508, by whatever way, also where
// nothing is told upstream of whom it comes from.
func TestLoopsEnd(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		words  []string
		target string
		host   string
	}{
		"by name":                    {[]string{"--register", "loop=http://*.example.com:PORT", "--host", "loop=*.example.com", "--allow-private", "on"}, "/", "a.example.com"},
		"by name, forwarded off":     {[]string{"--register", "loop=http://*.example.com:PORT", "--host", "loop=*.example.com", "--allow-private", "on", "--forwarded", "off"}, "/", "a.example.com"},
		"by a host that leads to us": {[]string{"--register", "loop=http://www.example.com:PORT", "--host", "loop=www.example.com"}, "/", "www.example.com"},
		"by a path":                  {[]string{"--register", "loop=http://127.0.0.1:PORT/loop"}, "/loop", "x"},
	} {
		t.Run(name, func(t *testing.T) {
			port := redistest.FreePort(t)
			for i, word := range test.words {
				test.words[i] = strings.Replace(word, "PORT", port, 1)
			}
			r := startBuilt(t, buildNamed, "127.0.0.1:"+port, append([]string{"GODEBUG=netdns=go", "--rate", "off"}, test.words...)...)
			for _, by := range []*http.Client{client, protoClient(t, &http.Transport{}, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })} {
				got := ask(t, by, http.MethodGet, r.url+test.target, "", test.host)
				if got.String() != "508 loop" || !strings.Contains(got.header.Get("Proxy-Status"), "proxy_loop_detected") {
					t.Errorf("got %v, %s, want 508 loop", got, got.header.Get("Proxy-Status"))
				}
			}
			if n := strings.Count(r.stderr.String(), "status=508"); n > 20 {
				t.Errorf("the two requests went round %d times", n)
			}
		})
	}
}
