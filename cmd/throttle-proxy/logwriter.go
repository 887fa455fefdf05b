package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	logBound = 1 << 20               // bytes of lines that wait, and as many that are being written
	logPause = 10 * time.Millisecond // between two writes, so that one takes many lines
	logFlush = time.Second           // for what waits when the process ends
)

// logWriter is the process's standard error, and never waits for whoever reads
// that. Lines wait in a buffer for the one goroutine that writes them; what
// does not fit is dropped, counted, and told where it would have stood.
//
// A Write is one or several whole lines. It may be called concurrently.
type logWriter struct {
	out     io.Writer
	wake    chan struct{} // something waits
	hurry   chan struct{} // so much that there is to be no pause
	closing chan struct{}
	written chan struct{}
	dropped atomic.Int64 // lines, in all

	mu      sync.Mutex
	waiting []byte
	missing int64                    // lines dropped after those that wait
	tell    func(lines int64) []byte // the line about lines that were dropped
}

// newLogWriter returns a logWriter to out, which [logWriter.close] ends.
func newLogWriter(out io.Writer) *logWriter {
	w := &logWriter{
		out:     out,
		wake:    make(chan struct{}, 1),
		hurry:   make(chan struct{}, 1),
		closing: make(chan struct{}),
		written: make(chan struct{}),
		tell:    func(n int64) []byte { return fmt.Appendf(nil, "throttle-proxy: %d lines were dropped\n", n) },
	}
	go w.run()
	return w
}

// Write never fails.
func (w *logWriter) Write(lines []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// After the first line that is dropped all are, or the order would be lost.
	if w.missing > 0 || len(w.waiting)+len(lines) > logBound {
		n := countLines(lines)
		w.missing += n
		w.dropped.Add(n)
	} else {
		w.waiting = append(w.waiting, lines...)
	}
	nudge(w.wake)
	if len(w.waiting) > logBound/2 {
		nudge(w.hurry)
	}
	return len(lines), nil
}

// nudge wakes whoever receives from c, or will.
func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// tellDrops sets how lines that were dropped are told of.
func (w *logWriter) tellDrops(tell func(lines int64) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tell = tell
}

// close writes what waits, and gives up after a second.
func (w *logWriter) close() {
	close(w.closing)
	select {
	case <-w.written:
	case <-time.After(logFlush):
	}
}

func (w *logWriter) run() {
	defer close(w.written)
	var lines []byte
	untold := int64(0) // lines that are lost, and nobody was told of
	for open := true; open; {
		select {
		case <-w.wake:
		case <-w.closing:
			open = false
		}
		lines, untold = w.drain(lines, untold)
		select {
		case <-time.After(logPause):
		case <-w.hurry:
		case <-w.closing:
		}
	}
}

// drain writes until nothing waits, or out fails. It returns buffer, which it
// uses, and how many lines are lost without a word.
func (w *logWriter) drain(buffer []byte, untold int64) ([]byte, int64) {
	for {
		w.mu.Lock()
		lines, missing, tell := w.waiting, w.missing, w.tell
		w.waiting, w.missing = buffer[:0], 0
		w.mu.Unlock()
		buffer = lines
		if len(lines) == 0 && missing == 0 && untold == 0 {
			return buffer, 0
		}
		if untold > 0 {
			lines = append(tell(untold), lines...)
		}
		if _, err := w.out.Write(lines); err != nil {
			n := countLines(buffer)
			w.dropped.Add(n)
			return buffer, untold + n + missing
		}
		untold = missing
	}
}

func countLines(b []byte) int64 { return int64(bytes.Count(b, []byte("\n"))) }
