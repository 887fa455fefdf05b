package main

import (
	"bufio"
	"bytes"
	"container/heap"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"throttle-proxy/proxy"
)

// arrival is a request that an access log tells of and that came as far as the
// budgets.
type arrival struct {
	at     int64  // nanoseconds since 1970
	route  string // of a log that is not ours, the first segment of the path
	client string // address, or whatever stands for one
	caller string // digits by which our log tells callers apart; empty in others
	ours   bool   // from a log of throttle-proxy
}

const (
	longestLine = 1 << 20
	// outOfOrder is how many requests are kept to put them in the order in which
	// they came: logs are written when requests end.
	outOfOrder = 100_000
)

// logRead is what a log had.
type logRead struct {
	Lines, Requests int64
	Late            int64 // requests that came before others that were read much earlier
	First, Last     time.Time
}

// readLog calls arrived for each request in r, in the order in which they came. It
// keeps outOfOrder of them in memory.
func readLog(r io.Reader, arrived func(*arrival)) (read logRead, err error) {
	var waiting arrivals
	last := int64(math.MinInt64)
	next := func() {
		a := heap.Pop(&waiting).(*arrival)
		if a.at < last {
			a.at = last // no clock steps back
			read.Late++
		}
		if last = a.at; read.Requests == 0 {
			read.First = time.Unix(0, a.at)
		}
		read.Requests, read.Last = read.Requests+1, time.Unix(0, a.at)
		arrived(a)
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), longestLine)
	for lines.Scan() {
		read.Lines++
		a, ok := parseLine(lines.Bytes())
		if !ok {
			continue
		}
		heap.Push(&waiting, a)
		if len(waiting) > outOfOrder {
			next()
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return read, fmt.Errorf("line %d is longer than %d bytes: this is no access log", read.Lines+1, longestLine)
	} else if err != nil {
		return read, err
	}
	for len(waiting) > 0 {
		next()
	}
	return read, nil
}

// parseLine reads a line of our log, as text or JSON, or of nginx's in the
// combined format. ok is false for what is no request that asked a budget.
func parseLine(line []byte) (a *arrival, ok bool) {
	switch {
	case bytes.HasPrefix(line, []byte("{")):
		return parseJSONLine(line)
	case bytes.HasPrefix(line, []byte("time=")):
		return parseTextLine(string(line))
	}
	return parseCombined(string(line))
}

// logLine is what matters of a line of our own.
type logLine struct {
	Time     time.Time `json:"time"`
	Message  string    `json:"msg"`
	Route    string    `json:"route"`
	Outcome  string    `json:"outcome"`
	Client   string    `json:"client"`
	Caller   string    `json:"caller"`
	Duration float64   `json:"duration_ms"`
}

func parseJSONLine(line []byte) (*arrival, bool) {
	var l logLine
	if json.Unmarshal(line, &l) != nil {
		return nil, false
	}
	return l.arrival()
}

func parseTextLine(line string) (*arrival, bool) {
	var l logLine
	for line != "" {
		key, rest, ok := strings.Cut(line, "=")
		if !ok {
			return nil, false
		}
		value := rest
		if strings.HasPrefix(rest, `"`) {
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return nil, false
			}
			rest = strings.TrimPrefix(rest[len(quoted):], " ")
			value, _ = strconv.Unquote(quoted) // it is a prefix that can be
		} else {
			value, rest, _ = strings.Cut(rest, " ")
		}
		var err error
		switch key {
		case "time":
			l.Time, err = time.Parse(time.RFC3339Nano, value)
		case "msg":
			l.Message = value
		case "route":
			l.Route = value
		case "outcome":
			l.Outcome = value
		case "client":
			l.Client = value
		case "caller":
			l.Caller = value
		case "duration_ms":
			l.Duration, err = strconv.ParseFloat(value, 64)
		}
		if err != nil {
			return nil, false
		}
		line = rest
	}
	return l.arrival()
}

// asked are the outcomes of requests that came as far as the budgets.
var asked = map[string]bool{
	"forwarded":                         true,
	string(proxy.ReasonLimited):         true,
	string(proxy.ReasonClientGone):      true,
	string(proxy.ReasonUpstreamRefused): true,
	string(proxy.ReasonUpstreamTimeout): true,
	string(proxy.ReasonUpstreamClosed):  true,
	string(proxy.ReasonDraining):        true,
	string(proxy.ReasonInternal):        true,
}

func (l *logLine) arrival() (*arrival, bool) {
	if l.Message != "request" || l.Route == "" || !asked[l.Outcome] || l.Time.IsZero() {
		return nil, false
	}
	lasted := time.Duration(math.Round(l.Duration * 1e6))
	return &arrival{
		at:    l.Time.Add(-lasted).UnixNano(),
		route: strings.Clone(l.Route), client: strings.Clone(l.Client), caller: strings.Clone(l.Caller),
		ours: true,
	}, true
}

// combinedTime is the time of nginx's combined format.
const combinedTime = "02/Jan/2006:15:04:05 -0700"

func parseCombined(line string) (*arrival, bool) {
	client, rest, ok := strings.Cut(line, " ")
	if !ok {
		return nil, false
	}
	_, rest, _ = strings.Cut(rest, " [")
	when, rest, ok := strings.Cut(rest, `] "`)
	if !ok {
		return nil, false
	}
	at, err := time.Parse(combinedTime, when)
	if err != nil {
		return nil, false
	}
	_, target, ok := strings.Cut(rest, " ") // after the method
	if !ok {
		return nil, false
	}
	route := ""
	if path, ok := strings.CutPrefix(target, "/"); ok {
		if i := strings.IndexAny(path, `/? "`); i >= 0 {
			route = path[:i]
		}
	}
	return &arrival{at: at.UnixNano(), route: strings.Clone(route), client: strings.Clone(client)}, true
}

// arrivals implements [heap.Interface]: the first that came is on top.
type arrivals []*arrival

func (h arrivals) Len() int           { return len(h) }
func (h arrivals) Less(i, j int) bool { return h[i].at < h[j].at }
func (h arrivals) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *arrivals) Push(x any)        { *h = append(*h, x.(*arrival)) }
func (h *arrivals) Pop() any {
	last := len(*h) - 1
	a := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return a
}
