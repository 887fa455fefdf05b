package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"throttle-proxy/cluster"
	"throttle-proxy/proxy"
)

// orderRequest is what an operator's command asks of a replica.
type orderRequest struct {
	Do         string  `json:"do"` // a cluster.Deed
	Route      string  `json:"route"`
	Limit      string  `json:"limit,omitempty"`
	Rate       string  `json:"rate,omitempty"`
	ForSeconds float64 `json:"for_seconds,omitempty"`
	Message    string  `json:"message,omitempty"`
	Caller     string  `json:"caller,omitempty"`
	RequestID  string  `json:"request_id,omitempty"`
}

// orderAnswer says what was done.
type orderAnswer struct {
	Done    string   `json:"done"` // in words
	Version uint64   `json:"version"`
	Holds   []string `json:"holds_on"` // names of replicas
	Missing []string `json:"missing"`  // those that did not say in time that it holds
	Freed   int      `json:"locks_freed"`
}

type errorAnswer struct {
	Error string `json:"error"`
}

// control has an order followed by all replicas.
func (a *admin) control(w http.ResponseWriter, r *http.Request) {
	const longest = 64 << 10
	var request orderRequest
	if !readOrder(w, r, longest, &request) {
		return
	}
	order, err := a.config.order(request)
	if err != nil {
		writeJSON(w, http.StatusBadRequest, errorAnswer{err.Error()})
		return
	}
	order.By = peerIn(r.Context()).String()
	receipt, err := a.store.Control(order)
	switch {
	case errors.Is(err, cluster.ErrStoreAway):
		writeJSON(w, http.StatusServiceUnavailable, errorAnswer{err.Error()})
		return
	case err != nil:
		writeJSON(w, http.StatusConflict, errorAnswer{err.Error()})
		return
	}
	if a.config.endpoint == nil { // or its store tells of it
		receipt.Holds = []string{a.config.replica}
		logOrder(a.replica.logger, order.Text, order.By, receipt.Version)
	}
	writeJSON(w, http.StatusOK, answerTo(order, request, receipt))
}

// readOrder reads JSON of at most so many bytes, which no page of another site can
// send by a form. It answers what is none.
func readOrder(w http.ResponseWriter, r *http.Request, longest int64, order any) (ok bool) {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		writeJSON(w, http.StatusUnsupportedMediaType, errorAnswer{"send JSON"})
		return false
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, longest))
	decoder.DisallowUnknownFields() // what is misspelled is not left out
	err := decoder.Decode(order)
	if err == nil && decoder.Decode(&json.RawMessage{}) != io.EOF {
		err = errors.New("something follows it")
	}
	if err != nil {
		writeJSON(w, http.StatusBadRequest, errorAnswer{"this is no order: " + err.Error()})
		return false
	}
	return true
}

func logOrder(logger *slog.Logger, text, by string, version uint64) {
	logger.Warn("changed by hand: "+text, slog.String("by", by), slog.Uint64("version", version))
}

// answerTo says in words what became of an order.
func answerTo(o cluster.Order, request orderRequest, receipt cluster.Receipt) orderAnswer {
	answer := orderAnswer{Version: receipt.Version, Holds: receipt.Holds, Missing: receipt.Missing, Freed: receipt.Freed}
	if answer.Holds == nil {
		answer.Holds = []string{}
	}
	if answer.Missing == nil {
		answer.Missing = []string{}
	}
	while := ""
	if o.For > 0 {
		while = " for " + brief(o.For)
	}
	switch o.Deed {
	case cluster.SetLimit:
		answer.Done = fmt.Sprintf("limit %s of %s is %s", o.Limits[0], request.Route, describeLimit(proxy.Limit{Limit: o.Rate}))
		if while != "" {
			answer.Done += "," + while
		}
	case cluster.SetPause:
		answer.Done = request.Route + " is paused" + while
	case cluster.TakeBack:
		answer.Done = request.Route + " is as it was configured"
	case cluster.FillBudget:
		answer.Done = "nothing is spent of " + strings.Join(o.Limits, " and ")
	case cluster.FreeLock:
		answer.Done = fmt.Sprintf("the lock of %s is free", o.RequestID)
		if receipt.Freed == 0 {
			answer.Done = fmt.Sprintf("no replica that answers has a lock of %s; wherever it turns up within 1m, it counts as free", o.RequestID)
		}
	}
	return answer
}

var (
	callerDigest = regexp.MustCompile(`^[0-9a-f]{32}$`)
	lockHolder   = regexp.MustCompile(`^[A-Z2-7]{16}$`)
)

const (
	maxMessage = 200
	minFor     = time.Second // what is shorter may be over before all replicas follow
	maxFor     = 365 * 24 * time.Hour
)

// order reads an operator's order. The error says what to write instead.
func (c *config) order(r orderRequest) (o cluster.Order, err error) {
	limits, tag, isPool, ok := c.target(r.Route)
	if !ok {
		return o, c.noTarget(r.Route)
	}
	o = cluster.Order{Deed: cluster.Deed(r.Do), Route: r.Route, Tag: tag, For: time.Duration(r.ForSeconds * float64(time.Second))}
	if r.ForSeconds != 0 && o.For < minFor || r.ForSeconds > maxFor.Seconds() { // which is without end only if it is not there
		return o, errors.New("--for: write a time from 1s to 8760h, as in 10m")
	}
	o.Text = strings.TrimSpace(r.Do + " " + r.Route)
	switch o.Deed {
	case cluster.SetLimit:
		if err = setLimit(&o, r, limits); err == nil && slices.Contains(namesOf(c.shared[tag]), o.Limits[0]) {
			o.Route = tag // it is the pool's, by whichever of its routes it was set
		}
	case cluster.SetPause:
		if isPool {
			return o, fmt.Errorf("%s is a pool: pause each of its routes", r.Route)
		}
		if len(r.Message) > maxMessage || strings.ContainsFunc(r.Message, func(c rune) bool { return !unicode.IsPrint(c) }) {
			return o, fmt.Errorf("--message: write one line of up to %d bytes", maxMessage)
		}
		o.Message = r.Message
	case cluster.TakeBack:
		for _, l := range limits {
			o.Limits = append(o.Limits, l.Name)
		}
	case cluster.FillBudget:
		err = fill(&o, r, limits)
	case cluster.FreeLock:
		if !lockHolder.MatchString(r.RequestID) {
			return o, errors.New("unlock: write the id of the request that has the lock: holder.request_id of the 409, or the one that status lists")
		}
		o.RequestID = r.RequestID
		o.Text += " " + r.RequestID
	default:
		return o, fmt.Errorf("%s is nothing that can be done", quote(r.Do))
	}
	if o.For > 0 {
		o.Text += " for " + brief(o.For)
	}
	return o, err
}

// setLimit reads which limit is to be what.
func setLimit(o *cluster.Order, r orderRequest, limits []proxy.Limit) error {
	limit, kind, err := parseRate(r.Rate)
	switch {
	case err != nil:
		return err
	case kind != enforcedRate:
		return errors.New("a limit can be another one, but neither off nor a candidate: write a rate that is high enough")
	case limit.By != (proxy.By{}):
		return errors.New("whose budget it is cannot be changed: leave by= out")
	case len(limits) == 0:
		return fmt.Errorf("%s has no limit that could be another: start it with a --rate", r.Route)
	case limit.Name == "" && len(limits) > 1:
		return fmt.Errorf("%s has several limits: write which, as in %s,name=%s (%s)", r.Route, r.Rate, limits[0].Name, strings.Join(namesOf(limits), ", "))
	case limit.Name == "":
		limit.Name = limits[0].Name
	case !slices.Contains(namesOf(limits), limit.Name):
		return fmt.Errorf("%s has no limit %s: write one of %s", r.Route, limit.Name, strings.Join(namesOf(limits), ", "))
	}
	o.Limits, o.Rate = []string{limit.Name}, limit.Limit
	o.Text += " " + limit.String() + ",name=" + limit.Name
	return nil
}

// fill reads which budgets are to be full.
func fill(o *cluster.Order, r orderRequest, limits []proxy.Limit) error {
	if r.Caller != "" && !callerDigest.MatchString(r.Caller) {
		return errors.New("--caller: write the 32 digits that explain tells, as of a request of that caller")
	}
	for _, l := range limits {
		byCaller := l.By != (proxy.By{})
		switch {
		case r.Limit != "" && l.Name != r.Limit:
		case byCaller == (r.Caller != ""):
			o.Limits = append(o.Limits, l.Name)
		case r.Limit != "" && byCaller:
			return fmt.Errorf("each caller has a budget of %s: write whose, as in --caller HEX", l.Name)
		case r.Limit != "":
			return fmt.Errorf("all callers share the budget of %s: leave --caller out", l.Name)
		}
	}
	if len(o.Limits) == 0 {
		return fmt.Errorf("%s has no such budget: write one of %s, and --caller HEX for one that each caller has", r.Route, strings.Join(namesOf(limits), ", "))
	}
	o.Caller = r.Caller
	o.Text += " " + strings.Join(o.Limits, " ")
	if o.Caller != "" {
		o.Text += " of caller " + o.Caller
	}
	return nil
}

func namesOf(limits []proxy.Limit) (names []string) {
	for _, l := range limits {
		names = append(names, l.Name)
	}
	return names
}

// target returns the limits of a route, its pool's among them, or of a pool, and
// what their keys have in common.
func (c *config) target(name string) (limits []proxy.Limit, tag string, isPool, ok bool) {
	for _, r := range c.routes {
		if r.Name == name {
			return r.Limits, cmp.Or(r.Pool, r.Name), false, true
		}
	}
	return c.shared[name], name, true, slices.Contains(c.pools, name)
}

// noTarget is why a name, which may be none, cannot be used.
func (c *config) noTarget(name string) error {
	what := "no such route or pool"
	if harmless.MatchString(name) {
		what = "no route or pool " + strconv.Quote(name)
	}
	return fmt.Errorf("there is %s here: write one of %s", what, strings.Join(c.targets(), ", "))
}

// targets names what there is.
func (c *config) targets() (names []string) {
	for _, r := range c.routes {
		names = append(names, r.Name)
	}
	return append(names, c.pools...)
}
