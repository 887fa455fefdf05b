package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// unread is standard error that nobody reads until it is told to go on.
type unread struct {
	read  chan struct{} // closed when somebody does
	lines bytes.Buffer
	gone  atomic.Bool // each Write fails
}

func (u *unread) Write(p []byte) (int, error) {
	<-u.read
	if u.gone.Load() {
		return 0, errors.New("broken pipe")
	}
	return u.lines.Write(p)
}

// Far more is written than the buffer holds: nothing waits, and afterwards each
// line is there in order or counted in the line that stands in its place.
func TestLogNeverWaitsForItsReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &unread{read: make(chan struct{})}
		w := newLogWriter(out)
		began, lines := time.Now(), 0
		write := func(n int) {
			for range n {
				_, _ = fmt.Fprintf(w, "line %06d %s\n", lines, strings.Repeat("x", 100))
				lines++
			}
		}
		write(1)
		synctest.Wait() // for the first to be on its way
		write(20_000)
		if waited := time.Since(began); waited > 0 {
			t.Errorf("writing took %s", waited)
		}
		if got := len(w.waiting); got > logBound {
			t.Errorf("got %d bytes that wait, want at most %d", got, logBound)
		}
		close(out.read)
		time.Sleep(2 * logPause)
		write(10)
		w.close()

		next, told := 0, 0
		for line := range strings.Lines(out.lines.String()) {
			n, missing := 0, 0
			if _, err := fmt.Sscanf(line, "throttle-proxy: %d lines were dropped", &missing); err == nil {
				next, told = next+missing, told+missing
				continue
			}
			if _, err := fmt.Sscanf(line, "line %d", &n); err != nil || n != next {
				t.Fatalf("got %q, want line %d", line, next)
			}
			next++
		}
		if next != lines || told == 0 || int64(told) != w.dropped.Load() {
			t.Errorf("got %d lines, with %d that were told as dropped, want %d with %d", next, told, lines, w.dropped.Load())
		}
	})
}

// Lines that come close together are written together.
func TestLogWritesManyLinesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var writes []string
		w := newLogWriter(writerFunc(func(p []byte) (int, error) { writes = append(writes, string(p)); return len(p), nil }))
		for i := range 100 {
			_, _ = fmt.Fprintf(w, "%d\n", i)
			time.Sleep(logPause / 10)
		}
		w.close()
		if text := strings.Join(writes, ""); strings.Count(text, "\n") != 100 || !strings.HasPrefix(text, "0\n1\n2\n") {
			t.Errorf("got %q, want 100 lines in order", text)
		}
		if len(writes) > 20 {
			t.Errorf("got %d writes for 100 lines in 10 pauses, want few", len(writes))
		}
	})
}

func TestLogEndsWithinItsBoundWhereNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &unread{read: make(chan struct{})}
		defer close(out.read)
		w := newLogWriter(out)
		_, _ = io.WriteString(w, "a line\n")
		began := time.Now()
		w.close()
		if took := time.Since(began); took != logFlush {
			t.Errorf("took %s, want %s", took, logFlush)
		}
	})
}

// A reader that has left loses lines, which are counted, and is tried again.
func TestLogCountsWhatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &unread{read: make(chan struct{})}
		out.gone.Store(true)
		close(out.read)
		w := newLogWriter(out)
		for range 3 {
			_, _ = io.WriteString(w, "lost\nlost\n")
			time.Sleep(2 * logPause)
		}
		out.gone.Store(false)
		_, _ = io.WriteString(w, "a line\n")
		w.close()
		if got, want := out.lines.String(), "throttle-proxy: 6 lines were dropped\na line\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := w.dropped.Load(); got != 6 {
			t.Errorf("got %d dropped lines, want 6", got)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
