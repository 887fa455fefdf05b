// Package page looks at the operators' page with a real browser, while the fleet
// behind it has load, differs, loses a replica, and loses its Redis.
package page

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"throttle-proxy/integration/redistest"
)

var write = flag.Bool("write", false, "write the pictures of docs/page.md")

// sentence is how the page says that all is.
const sentence = `document.querySelector('h1').textContent.trim()`

// TestPage has parts that follow each other as the hours of a shift do.
func TestPage(t *testing.T) {
	server := redistest.Start(t)
	upstream := startUpstream(t)
	socket := filepath.Join(t.TempDir(), "admin.sock")
	words := []string{
		"--redis", server.URL(), "--store-timeout", "2s", "--lock-ttl", "20s", "--timeout", "5m",
		"--register", "slack=" + upstream, "--rate", "slack=2/s,burst=5", "--rate", "slack=1/s,burst=3,by=header:X-Api-Key,name=slack-key",
		"--register", "payments=" + upstream, "--rate", "payments=100/s",
		"--register", "search=http://" + nobody(t), "--rate", "search=1000/s",
		"--register", "github=" + upstream, "--rate", "github=5000/h,burst=5000",
	}
	var fleet []*replica
	for i := range 3 {
		more := words
		if i == 0 {
			more = append(words, "--admin", "unix:"+socket)
		}
		fleet = append(fleet, startReplica(t, fmt.Sprint("web-", i), more...))
	}
	address := fleet[0].page
	b := openBrowser(t, address)
	b.size(1200)
	b.scheme("light")
	b.open(address)
	says := func(what string) func() bool {
		return func() bool {
			got, err := glance[string](b, "document.querySelector('main').textContent")
			return err == nil && strings.Contains(got, what)
		}
	}
	expectAll := func(t *testing.T, when string) {
		t.Helper()
		b.open(address + "?still")
		b.expectLooks(when)
		b.expectTold(when)
		b.open(address)
	}
	if !t.Run("all is well", func(t *testing.T) {
		eventually(t, "it says so", says("All is well: 3 replicas, Redis answers in "))
		expectAll(t, "quiet")
	}) {
		return
	}

	// What follows is seen without asking again: the page comes by itself.
	l := &load{stop: make(chan struct{})}
	distinct := func(name string) func(n int64) string {
		return func(n int64) string { return name + strconv.FormatInt(n, 10) }
	}
	l.send(fleet, 150*time.Millisecond, "/slack", distinct("a"), "X-Api-Key: cron")
	l.send(fleet, 900*time.Millisecond, "/slack", distinct("b"), "X-Api-Key: web")
	l.send(fleet, 40*time.Millisecond, "/payments", func(n int64) string { return "order " + strconv.FormatInt(n/3, 10) }, "X-Takes: 90ms")
	l.send(fleet, 400*time.Millisecond, "/search", distinct("q"))
	l.send(fleet, 250*time.Millisecond, "/github", distinct("g"), "X-Takes: 30ms")
	ctx, leave := context.WithCancel(t.Context())
	l.all.Go(func() {
		request, _ := http.NewRequestWithContext(ctx, http.MethodPost, fleet[1].url+"/payments", strings.NewReader("the long one"))
		request.Header.Set("X-Takes", "4m")
		if response, err := http.DefaultClient.Do(request); err == nil {
			_ = response.Body.Close()
		}
	})

	t.Run("figures change while load runs", func(t *testing.T) {
		figures := [][2]string{{"slack", "forwarded"}, {"slack", "429"}, {"payments", "409"}, {"search", "errors"}}
		seen := make([]map[string]bool, len(figures))
		eventually(t, "each of them has had two values", func() bool {
			all := true
			for i, of := range figures {
				if got, err := glance[string](b, figure(of[0], of[1])); err == nil && got != "" && got != "0" {
					if seen[i] == nil {
						seen[i] = map[string]bool{}
					}
					seen[i][got] = true
				}
				all = all && len(seen[i]) >= 2
			}
			return all
		})
		plots := value[int](b, `[...document.querySelectorAll('.plot path.limited, .plot path.forwarded')].filter(p => p.getBBox().height > 1).length`)
		if plots < 2 {
			t.Errorf("got %d areas in plots, want those of the loaded routes", plots)
		}
		eventually(t, "who holds a lock", says("web-1"))
		eventually(t, "the budget near its end", func() bool {
			got, err := glance[bool](b, `!!document.querySelector('#budgets').parentElement.querySelector('.meter')`)
			return err == nil && got
		})
		eventually(t, "who is refused most", func() bool {
			got, err := glance[string](b, `(document.querySelector('#callers').parentElement.querySelector('tbody code') || {}).textContent || ''`)
			return err == nil && len(got) == 8
		})
	})

	t.Run("what is changed by hand", func(t *testing.T) {
		if out, err := exec.Command(binary, "limit", "github", "100/m", "--for", "10m", "--admin", "unix:"+socket).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		eventually(t, "the change", says("throttle-proxy restore github"))
		if *write { // with something to see in the plots
			time.Sleep(2 * time.Minute)
		}
		b.open(address + "?still")
		if *write {
			pictures(b)
		}
		b.expectLooks("loaded")
		b.expectTold("loaded")
		b.expectKeyboard()
		b.open(address)
	})

	t.Run("a replica that differs", func(t *testing.T) {
		other := append([]string{}, words...)
		for i, word := range other {
			other[i] = strings.Replace(word, "payments=100/s", "payments=200/s", 1)
		}
		odd := startReplica(t, "web-3", other...)
		eventually(t, "the difference", says("web-3 differs"))
		if got, err := glance[string](b, sentence); err == nil && strings.HasPrefix(got, "All is well") {
			t.Errorf("it says %q while a replica differs", got)
		}
		expectAll(t, "differing")
		odd.end(syscall.SIGTERM)
		eventually(t, "all is well again", says("All is well: 3 replicas"))
	})

	t.Run("a replica that died", func(t *testing.T) {
		fleet[2].end(syscall.SIGKILL)
		eventually(t, "it is missed", says("web-2 is missing"))
		expectAll(t, "missing")
	})

	t.Run("a dead Redis", func(t *testing.T) {
		server.Kill()
		eventually(t, "it is missed", says("Redis has been away since "))
		expectAll(t, "without Redis")
		if *write {
			b.open(address + "?still")
			b.picture("../../docs/page-away.png", 1200, 620)
			b.open(address)
		}
		server.Restart()
		eventually(t, "it is there again", func() bool {
			got, err := glance[string](b, sentence)
			return err == nil && !strings.Contains(got, "away")
		})
	})
	leave()
	l.end()

	for _, complaint := range b.heard() {
		t.Error(complaint)
	}
	t.Run("the browser would have said", func(t *testing.T) {
		value[bool](b, `(() => {
			const style = document.createElement('style'), image = new Image();
			style.textContent = 'h1{color:red}';
			image.src = 'http://127.0.0.1:1/elsewhere.png';
			document.body.append(style, image);
			return true;
		})()`)
		eventually(t, "two complaints", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(b.complaints) >= 2
		})
	})
}

// pictures writes what the documentation shows.
func pictures(b *browser) {
	for _, scheme := range []string{"light", "dark"} {
		b.scheme(scheme)
		b.picture("../../docs/page-"+scheme+".png", 1200, 1040)
	}
	b.size(375)
	b.scheme("light")
	b.picture("../../docs/page-phone.png", 375, 1400)
	b.size(1200)
}
