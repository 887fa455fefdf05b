package main

import (
	"net/http"
	"time"
)

// answerWriter is a ResponseWriter that knows whether an answer has begun. Of an
// HTTP/2 client, whose connection does not tell which stream it reads, it bounds
// the time for which it may leave unread what was written.
type answerWriter struct {
	http.ResponseWriter
	began bool

	stream *http.ResponseController // of HTTP/2; nil for none
	idle   time.Duration            // longest that a write may take
	until  time.Time                // when writes are to fail
}

// pace bounds the next write. Setting a deadline is not free: it is moved once it
// is a tenth used up.
func (w *answerWriter) pace() {
	if w.stream == nil {
		return
	}
	if now := time.Now(); w.until.Sub(now) < w.idle-w.idle/10 {
		w.until = now.Add(w.idle)
		_ = w.stream.SetWriteDeadline(w.until) // a write tells
	}
}

func (w *answerWriter) WriteHeader(status int) {
	w.began = w.began || status >= 200
	w.pace()
	w.ResponseWriter.WriteHeader(status)
}

func (w *answerWriter) Write(p []byte) (int, error) {
	w.began = true
	w.pace()
	return w.ResponseWriter.Write(p)
}

// FlushError is what http.ResponseController looks for.
func (w *answerWriter) FlushError() error {
	w.began = true
	w.pace()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
