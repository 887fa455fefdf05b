package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync/atomic"

	"throttle-proxy/proxy"
)

// panics is where those of handlers are told, and how many there were.
type panics struct {
	logger *slog.Logger
	seen   atomic.Int64
}

// recovering answers an operator's request whose handler panics, and tells of the
// panic.
func recovering(next http.Handler, to *panics) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := &answerWriter{ResponseWriter: w}
		defer answer.recover(to, r, false)
		next.ServeHTTP(answer, r)
	})
}

// recover ends the panic of a handler, if it is in one: it tells of it, and answers
// 500 where no answer has begun, or else cuts the connection. It is to be
// deferred. A panic that only means a cut goes on. sent says whether the handler
// may have sent r to an upstream.
func (w *answerWriter) recover(to *panics, r *http.Request, sent bool) {
	value := recover()
	switch value {
	case nil:
		return
	case http.ErrAbortHandler:
		panic(value)
	}
	to.seen.Add(1)
	to.logger.LogAttrs(context.Background(), slog.LevelError, "panic", panicAttrs(value, debug.Stack())...)
	if w.began {
		panic(http.ErrAbortHandler)
	}
	clear(w.Header())
	proxy.AnswerPanic(w, r, sent)
}

// panicAttrs tells what a handler panicked with, and where. Of an error that
// may have a client's or an upstream's words in it only the type is told.
func panicAttrs(value any, stack []byte) []slog.Attr {
	text := fmt.Sprintf("a %T", value)
	switch value := value.(type) {
	case runtime.Error:
		text = value.Error()
	case string:
		text = value
	}
	return []slog.Attr{slog.String("panic", text), slog.String("stack", string(stack))}
}
