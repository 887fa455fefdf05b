package page

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser is one tab of a real one. It fails the test over everything that the
// page asks for elsewhere, that its policy refuses, and that its console says.
type browser struct {
	t    *testing.T
	ctx  context.Context
	host string // of the page: the only one that may be asked

	mu         sync.Mutex
	complaints []string
}

// openBrowser starts a browser that ends with the test.
func openBrowser(t *testing.T, address string) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Fatal("there is no chromium: make test-page installs it")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.Flag("disable-dev-shm-usage", true))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	at, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, ctx: ctx, host: at.Host}
	if err := chromedp.Listen(ctx, b.hear); err != nil {
		t.Fatalf("the browser does not start: %v", err)
	}
	none := cdp.Empty{}
	command(b, log.Enable, none)
	command(b, audits.Enable, none)
	command(b, network.Enable, network.EnableParams{})
	command(b, runtime.Enable, none)
	return b
}

// hear notes what must not happen.
func (b *browser) hear(event any) {
	complaint := ""
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if at, err := url.Parse(e.Request.URL); err != nil || at.Scheme != "data" && at.Host != b.host {
			complaint = "a request to elsewhere: " + e.Request.URL
		}
	case *log.EventEntryAdded:
		complaint = fmt.Sprintf("the browser's log, %s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL)
	case *audits.EventIssueAdded:
		complaint = fmt.Sprintf("the browser's issue: %s", e.Issue.Code)
	case *runtime.EventConsoleAPICalled:
		complaint = fmt.Sprintf("the console, %s", e.Type)
	case *runtime.EventExceptionThrown:
		complaint = "an exception: " + e.ExceptionDetails.Text
	}
	if complaint == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = append(b.complaints, complaint)
}

// heard returns what has been noted, and forgets it.
func (b *browser) heard() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	heard := b.complaints
	b.complaints = nil
	return heard
}

// command has the browser do something, which must succeed.
func command[P, R any](b *browser, do cdp.Command[P, R], params P) R {
	b.t.Helper()
	return act(b, do.Method, func(ctx context.Context, tab *chromedp.Target) (R, error) {
		return cdp.Call(ctx, tab, do, params)
	})
}

// act likewise.
func act[R any](b *browser, what string, action chromedp.Action[R]) R {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
	return result
}

// open goes to an address.
func (b *browser) open(address string) {
	b.t.Helper()
	act(b, "open "+address, chromedp.Navigate(address))
}

// value evaluates an expression in the page. What the page's policy refuses to
// scripts does not concern it.
func value[T any](b *browser, expression string) T {
	b.t.Helper()
	return act(b, expression[:min(len(expression), 80)], chromedp.Evaluate[T](expression))
}

// glance evaluates an expression in a page that may just be loading again, and so
// may not answer.
func glance[T any](b *browser, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression))
}

// eventually returns once condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in %s: %s", patience, what)
		}
	}
}

// size makes the window so wide; below 600 it is a phone's.
func (b *browser) size(width int64) {
	b.t.Helper()
	command(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: 900, DeviceScaleFactor: 1, Mobile: width < 600,
	})
}

// scheme says which of the two themes the reader prefers.
func (b *browser) scheme(name string) {
	b.t.Helper()
	command(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
	})
}

// picture writes what is seen of the page from its top, so high at most.
func (b *browser) picture(path string, width, most float64) {
	b.t.Helper()
	beyond := true
	got := command(b, page.CaptureScreenshot, page.CaptureScreenshotParams{
		CaptureBeyondViewport: &beyond,
		Clip:                  &page.Viewport{Width: width, Height: min(most, value[float64](b, "document.documentElement.scrollHeight")), Scale: 1},
	})
	picture, err := png.Decode(bytes.NewReader(got.Data))
	if err != nil {
		b.t.Fatal(err)
	}
	var small bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, picture); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, small.Bytes(), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// tree returns what a screen reader is told.
func (b *browser) tree() []*accessibility.Node {
	b.t.Helper()
	command(b, accessibility.Enable, cdp.Empty{})
	return command(b, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes
}

// text returns what a node's value says.
func text(v *accessibility.Value) string {
	if v == nil {
		return ""
	}
	return strings.Trim(string(v.Value), `"`)
}
