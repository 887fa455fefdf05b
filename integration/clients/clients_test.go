// Package clients tests what real clients make of the proxy's answers: each of
// them sends one message in each situation that the proxy answers by itself, and
// an upstream counts how often the message reaches it. It is a module of its
// own, so that the product depends on none of them: make test-clients.
package clients

import (
	"bytes"
	"context"
	"flag"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds everything that a client may do, and every wait of the test.
const patience = time.Minute

var (
	binary = flag.String("binary", "", "another build of the proxy to put the clients to: its table is printed, not compared")
	write  = flag.Bool("write", false, "write the table to the documentation instead of comparing it")
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Clients wait most of the time, also on few cores.
	if err := flag.Set("test.parallel", "40"); err != nil {
		panic(err)
	}
	if *binary != "" {
		proxy = *binary
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "throttle-proxy-")
	if err != nil {
		panic(err)
	}
	proxy = filepath.Join(dir, "throttle-proxy")
	build := exec.Command("go", "build", "-o", proxy, "./cmd/throttle-proxy")
	build.Dir, build.Stdout, build.Stderr = "../..", os.Stdout, os.Stderr
	status := 1
	if err := build.Run(); err == nil {
		status = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(status)
}

var proxy string // the path of its binary, set by TestMain

// client is one that many programs use.
type client struct {
	name   string
	words  []string // that the proxy is started with for it
	route  string   // what its paths begin with, where it takes no base URL with a path
	answer string   // what it understands as a success
	deaf   bool     // it does not wait for as long as it is told
	// repeats says why it repeats a duplicate's 409 whatever that says, if it does:
	// when the hold is over, the upstream gets the message a second time.
	repeats string
	send    func(ctx context.Context, url, text string) error
}

const (
	ordinaryAnswer = `{"ok":true,"id":"1","object":"charge","choices":[],"content":[]}`
	snsAnswer      = `<PublishResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishResult><MessageId>1</MessageId></PublishResult></PublishResponse>`
)

// allClients returns the rows of the table.
func allClients(t *testing.T) []client {
	node := startWorker(t, "node", "node/adapters.mjs")
	byNode := func(name string) func(context.Context, string, string) error {
		return func(ctx context.Context, url, text string) error { return node.send(ctx, name, url, text) }
	}
	python := startWorker(t, pythonWithRequests(t), "python/adapters.py")
	byPython := func(ctx context.Context, url, text string) error { return python.send(ctx, "requests", url, text) }

	// Each call has a random Idempotency-Key, so two clicks are never equal by it.
	withoutKey := []string{"--dedupe-header", "Authorization"}
	// Each attempt has another signature.
	withoutHeader := []string{"--dedupe-header", "none"}
	clients := []client{
		{name: "openai (node)", send: byNode("openai")},
		{name: "openai-go", send: sendOpenAI},
		{name: "@anthropic-ai/sdk", send: byNode("anthropic")},
		{name: "anthropic-sdk-go", send: sendAnthropic},
		{name: "stripe (node)", send: byNode("stripe"), words: withoutKey, route: "v1", deaf: true},
		{name: "stripe-go", send: sendStripe, words: withoutKey, route: "v1", deaf: true},
		{name: "@slack/web-api", send: byNode("slack"), repeats: "all but 200 and 429 means nothing to it"},
		{name: "@slack/web-api with `--duplicate-status 200`", send: byNode("slack"), words: []string{"--duplicate-status", "200"}},
		{name: "octokit, plugin-retry", send: byNode("octokit"), repeats: "all but seven statuses of 4xx and 5xx are worth a retry to it"},
		{name: "octokit with `--duplicate-status 422`", send: byNode("octokit"), words: []string{"--duplicate-status", "422"}},
		{name: "discordgo", send: sendDiscord, answer: `{"id":"1","content":"hello"}`},
		{name: "AWS SDK (node)", send: byNode("sns"), words: withoutHeader, answer: snsAnswer},
		{name: "aws-sdk-go-v2", send: sendSNS, words: withoutHeader, answer: snsAnswer},
		{name: "go-retryablehttp", send: sendRetryable},
		{name: "got", send: byNode("got")},
		{name: "axios-retry", send: byNode("axios")},
		{name: "undici, retry", send: byNode("undici")},
		{name: "requests, urllib3 Retry", send: byPython},
		{name: "curl --retry", send: sendCurl},
	}
	for i := range clients {
		c := &clients[i]
		if c.route == "" {
			c.route = "api"
		}
		if c.answer == "" {
			c.answer = ordinaryAnswer
		}
	}
	return clients
}

// pythonWithRequests returns an interpreter that has it: the system's, whose
// package make test-clients installs, where the first on the path has not.
func pythonWithRequests(t *testing.T) string {
	t.Helper()
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(python, "-c", "import requests").Run() == nil {
			return python
		}
	}
	t.Fatal("no python3 with requests (make test-clients installs it)")
	return ""
}

var listening = regexp.MustCompile(`listening on ([^\s"]+)`)

// startReplica starts the proxy and returns its process and address.
func startReplica(t *testing.T, words ...string) (*os.Process, string) {
	t.Helper()
	cmd := exec.Command(proxy, append([]string{"--listen", "127.0.0.1:0"}, words...)...)
	var stderr output
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if match := listening.FindStringSubmatch(stderr.String()); match != nil {
			return cmd.Process, match[1]
		}
		select {
		case <-exited:
			t.Fatalf("the replica ended: %s", stderr.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the replica does not listen: %s", stderr.String())
		}
	}
}

// output collects what a process writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// cut closes the connection of a request that is not answered.
func cut(w http.ResponseWriter) {
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		_ = conn.Close()
	}
}
