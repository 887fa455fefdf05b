package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"throttle-proxy/proxy"
)

const (
	usualWidth = 80 // of a terminal that does not say
	leastWidth = 20 // that lines are fitted into

	foldAfter = 3           // equal refusals that are shown in each
	foldEvery = time.Second // of these
)

// terminal is the log where a person watches it: a slog.Handler that writes short
// lines, none of them wider than the terminal. Requests come by request, and of
// a flood of equal refusals only the first are shown, and the rest counted.
//
// It is safe for concurrent use.
type terminal struct {
	*display
	out    io.Writer
	level  slog.Level
	routes int // columns for their names

	mu     sync.Mutex
	folds  map[fold]int64   // equal refusals since the timer was set
	timer  *time.Timer      // tells of those that were not shown; nil while there are none
	served map[string]int64 // requests, by outcome
}

// fold is what equal refusals, and failures, have in common.
type fold struct {
	route, outcome string
	limits         string // that refused
	level          slog.Level
}

// display is what shows a terminal's lines.
type display struct {
	width   func() int // in columns
	colours bool
}

// displayOf returns what shows what is written to w, or nil if that is no
// terminal.
func displayOf(w io.Writer, env environment) *display {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	return &display{
		width: func() int {
			columns, _, err := term.GetSize(int(file.Fd()))
			if err != nil || columns <= 0 {
				return usualWidth
			}
			return max(columns, leastWidth)
		},
		colours: env["NO_COLOR"] == "" && env["TERM"] != "dumb",
	}
}

func (c *config) newTerminal(w io.Writer, d *display) *terminal {
	const longest = 24
	routes := 1
	for _, r := range c.routes {
		routes = min(longest, max(routes, len(r.Name)))
	}
	return &terminal{display: d, out: w, level: c.logLevel, routes: routes, folds: map[fold]int64{}, served: map[string]int64{}}
}

// Enabled implements [slog.Handler].
func (t *terminal) Enabled(_ context.Context, level slog.Level) bool { return level >= t.level }

// Handle implements [slog.Handler], for what is told beside requests: nothing of
// it is cut off, but a line goes on in the next.
func (t *terminal) Handle(_ context.Context, r slog.Record) error {
	line := new(strings.Builder)
	if r.Level != slog.LevelInfo {
		line.WriteString(strings.ToLower(r.Level.String()) + ": ")
	}
	line.WriteString(r.Message)
	stack := ""
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "stack" {
			stack = a.Value.String()
		} else {
			fmt.Fprintf(line, "  %s %s", a.Key, a.Value)
		}
		return true
	})
	t.print(r.Time, colourOf(r.Level), line.String())
	for text := range strings.Lines(stack) {
		t.write(fit(printable(strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\t", "  ")), t.width()))
	}
	return nil
}

// WithAttrs implements [slog.Handler].
func (t *terminal) WithAttrs(attrs []slog.Attr) slog.Handler { return withAttrs{t, attrs} }

// WithGroup implements [slog.Handler]: the log has none.
func (t *terminal) WithGroup(string) slog.Handler { return t }

// withAttrs is a terminal that adds attrs to each record.
type withAttrs struct {
	*terminal
	attrs []slog.Attr
}

func (h withAttrs) Handle(ctx context.Context, r slog.Record) error {
	r.AddAttrs(h.attrs...)
	return h.terminal.Handle(ctx, r)
}

func (h withAttrs) WithAttrs(attrs []slog.Attr) slog.Handler {
	return withAttrs{h.terminal, append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)}
}

// Colours, as SGR parameters; the empty one is the terminal's own.
const (
	plain  = ""
	red    = "31"
	green  = "32"
	yellow = "33"
)

func colourOf(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return red
	case level >= slog.LevelWarn:
		return yellow
	}
	return plain
}

// request tells of one that has ended.
func (t *terminal) request(e *proxy.Event) {
	became, level := outcome(e), levelOf(e)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.served[became]++
	if !t.Enabled(context.Background(), level) {
		return
	}
	if e.Reason != "" && e.Panic == nil && t.folded(fold{e.Route, became, strings.Join(e.Limits, ","), level}) {
		return
	}
	t.write(t.requestLine(e, became, level))
	if e.Panic != nil {
		panicked := slog.NewRecord(time.Time{}, level, "panic", 0)
		panicked.AddAttrs(panicAttrs(e.Panic, e.Stack)...)
		_ = t.Handle(context.Background(), panicked)
	}
}

// requestLine is the line of a request: what everybody wants to know first, and
// as much of the rest as there is room for.
func (t *terminal) requestLine(e *proxy.Event, became string, level slog.Level) string {
	route := e.Route
	if route == "" {
		route = "-"
	}
	begin := fmt.Sprintf("%s %-*s %-6s ", clock(e.Started.Add(e.Duration)), t.routes, fit(route, t.routes), fit(printable(e.Method), 7))
	verdict := fmt.Sprintf("%d %-16s", e.Status, became)
	rest := fmt.Sprintf(" %7s", shortTime(e.Duration))
	if e.Waited > 0 {
		rest += "  waited " + shortTime(e.Waited)
	}
	for _, more := range []struct{ name, value string }{
		{"limit", strings.Join(e.Limits, ",")},
		{"holder", e.Holder.RequestID},
		{"fault", e.Fault},
		{"shadowed", string(e.Shadowed)},
		{"candidate", strings.Join(e.Candidates, ",")},
		{"store", e.StoreFault},
		{"unknown route", e.Unknown},
		{"is it", e.Nearest},
		{"id", e.ID},
		{"client", client(e)},
		{"caller", e.Caller},
		{"trace", e.TraceID},
	} {
		if more.value != "" {
			rest += "  " + more.name + " " + printable(more.value)
		}
	}
	colour := colourOf(level)
	switch {
	case colour != plain:
	case e.Reason != "":
		colour = yellow
	case e.Status >= 500:
		colour = red
	case e.Status < 400:
		colour = green
	}
	room := t.width()
	begin = fit(begin, room)
	verdict = fit(verdict, room-columns(begin))
	rest = fit(rest, room-columns(begin)-columns(verdict))
	return begin + t.in(colour, verdict) + rest
}

// folded reports whether one more refusal is not to be shown by itself. The
// caller holds the mutex.
func (t *terminal) folded(f fold) bool {
	t.folds[f]++
	if t.timer == nil {
		t.timer = time.AfterFunc(foldEvery, t.unfold)
	}
	return t.folds[f] > foldAfter
}

// unfold tells of the refusals that were not shown.
func (t *terminal) unfold() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unfoldLocked()
}

func (t *terminal) unfoldLocked() {
	t.timer = nil
	for f, n := range t.folds {
		what := "refusals"
		if f.level >= slog.LevelWarn {
			what = "failures"
		}
		if more := n - foldAfter; more > 0 {
			why := f.outcome
			if f.limits != "" {
				why += ", limit " + f.limits
			}
			t.write(fit(fmt.Sprintf("… %s more %s of %s in %s: %s", humanize.Comma(more), what, cmp.Or(f.route, "no route"), foldEvery, why), t.width()))
		}
	}
	clear(t.folds)
}

// summary tells what was served in all, when the process ends.
func (t *terminal) summary(lasted time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
		t.unfoldLocked()
	}
	t.print(time.Now(), plain, summaryOf(t.served, lasted))
}

// print writes a line that goes on in the next where it is too long.
func (t *terminal) print(at time.Time, colour, text string) {
	if !at.IsZero() {
		text = clock(at) + " " + text
	}
	lines := linesOf(printable(text), t.width())
	for i, line := range lines {
		lines[i] = t.in(colour, line)
	}
	t.write(strings.Join(lines, "\n")) // in one, so that no other's comes between
}

func (t *terminal) write(line string) { _, _ = io.WriteString(t.out, line+"\n") } // never fails

// in returns text in a colour.
func (t *terminal) in(colour, text string) string {
	if colour == plain || !t.colours || text == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[m"
}
