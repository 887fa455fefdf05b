package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// worker is a process of another language that sends messages by its clients,
// as many at once as it is asked to.
type worker struct {
	mu      sync.Mutex
	stdin   io.Writer
	waiting map[int]chan<- error // for what the client's caller saw, by the message's id
	last    int                  // id
	ended   error
}

// startWorker starts a process that ends with the test.
func startWorker(tb testing.TB, words ...string) *worker {
	tb.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), "AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED=true")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("%v (make test-clients installs what is missing)", err)
	}
	w := &worker{stdin: stdin, waiting: map[int]chan<- error{}}
	read := make(chan struct{})
	go func() {
		defer close(read)
		w.read(stdout)
	}()
	tb.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill() // clients that still retry keep it alive
		<-read
		_ = cmd.Wait()
	})
	return w
}

// read hands out the process's answers until it ends.
func (w *worker) read(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		var answer struct {
			ID   int
			OK   bool
			Said string
		}
		if err := json.Unmarshal(lines.Bytes(), &answer); err != nil {
			fmt.Fprintf(os.Stderr, "a worker said %q\n", lines.Text()) // a client's own log
			continue
		}
		var err error
		if !answer.OK {
			err = errors.New(answer.Said)
		}
		w.mu.Lock()
		told := w.waiting[answer.ID]
		delete(w.waiting, answer.ID)
		w.mu.Unlock()
		if told != nil {
			told <- err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = errors.New("the worker ended")
	for _, told := range w.waiting {
		told <- w.ended
	}
	clear(w.waiting)
}

// send sends text by a client and returns the error that its caller saw.
func (w *worker) send(ctx context.Context, client, url, text string) error {
	told := make(chan error, 1)
	w.mu.Lock()
	if w.ended != nil {
		w.mu.Unlock()
		return w.ended
	}
	w.last++
	id := w.last
	w.waiting[id] = told
	line, err := json.Marshal(map[string]any{"id": id, "client": client, "url": url, "text": text})
	if err == nil {
		_, err = w.stdin.Write(append(line, '\n'))
	}
	w.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case err := <-told:
		return err
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting, id)
		return ctx.Err()
	}
}

// sendCurl sends text by curl --retry.
func sendCurl(ctx context.Context, url, text string) error {
	body, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "curl", "--fail", "--silent", "--show-error", "--noproxy", "*",
		"--retry", "2", "--json", string(body), url)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
