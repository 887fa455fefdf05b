package proxy

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// Fails if a success that its client has not got counts as one: whoever left may
// well try again by itself.
func TestAnswerThatItsClientHasNotGotIsUnknown(t *testing.T) {
	for name, tt := range map[string]struct {
		status   int
		midway   bool // the client leaves while the body comes, or else before the header
		wantHeld time.Duration
	}{
		"success":                {ok, false, time.Minute},
		"success, midway":        {ok, true, time.Minute},
		"success without a body": {204, false, time.Minute},
		"refusal":                {400, false, 0},
		"failure, midway":        {500, true, 0},
	} {
		bubble(t, name, func(t *testing.T) {
			g := newGate(t)
			r := newRig(t, g, func(r *Route) { r.Hold = Hold{Success: time.Second, Unknown: time.Minute} })
			ctx, leave := context.WithCancel(t.Context())
			left := r.start(post("same").WithContext(ctx))
			synctest.Wait()
			res := answer(tt.status, "")
			if tt.midway {
				sent := g.last.Load().Context()
				res.ContentLength, res.Body = 10, io.NopCloser(readerFunc(func([]byte) (int, error) { <-sent.Done(); return 0, sent.Err() }))
			} else {
				leave()
				synctest.Wait()
			}
			g.answers <- res
			synctest.Wait()
			leave()
			<-left
			r.over(answers(created, ""))
			if tt.wantHeld > 0 {
				time.Sleep(tt.wantHeld - 1)
				wantOutcome(t, r.do(post("same")), "held")
				time.Sleep(time.Nanosecond)
			}
			wantOutcome(t, r.do(post("same")), "201")
		})
	}
}
