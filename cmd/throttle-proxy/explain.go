package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
	"throttle-proxy/proxy"
)

type explainCommand struct {
	Target string   `arg:"" name:"route" placeholder:"ROUTE[/PATH]" help:"The route, and what may follow it: slack/path?query."`
	Method string   `short:"X" placeholder:"METHOD" help:"The request's method (GET, or POST with a body)."`
	Header []string `name:"field" short:"H" sep:"none" placeholder:"'NAME: VALUE'" help:"A field of the request. Repeatable."`
	Data   *string  `short:"d" placeholder:"BODY" help:"The request's body, or @FILE without its line ends; a form's, unless -H says otherwise, as with curl."`
	Binary *string  `name:"data-binary" placeholder:"BODY" help:"Likewise, with the line ends of @FILE."`
	Client string   `placeholder:"ADDRESS" help:"Whom it comes from, where budgets go by client."`
	operator
}

// requestToExplain is a request that is not sent.
type requestToExplain struct {
	Method string      `json:"method"`
	Target string      `json:"target"` // with the route
	Header http.Header `json:"header"`
	Body   []byte      `json:"body"`
	Client string      `json:"client"`
}

// explanation is what would become of it. It has nothing of what is in its fields
// and body.
type explanation struct {
	Route     string        `json:"route"`
	Verdict   string        `json:"verdict"` // "admitted", "waits", "replayed", or the reason of a refusal
	After     float64       `json:"after_seconds"`
	Message   string        `json:"message,omitempty"`
	Shares    string        `json:"on_duplicate,omitempty"` // what it gets as a duplicate in place of a refusal: "join" or "fresh"
	Compared  []string      `json:"compared"`               // what equal requests have in common; empty if it is not compared
	Lock      string        `json:"lock"`                   // its key in Redis, behind the prefix
	Holder    *explainHeld  `json:"holder"`                 // null where the lock is free
	CoolDowns []float64     `json:"cool_downs_seconds"`
	Budgets   []explainFill `json:"budgets"`
	Slots     []explainFill `json:"slots"`
}

type explainHeld struct {
	RequestID string  `json:"request_id"`
	Replica   string  `json:"replica"`
	Seconds   float64 `json:"age_seconds"`
	Held      bool    `json:"held"` // its exchange is over
}

type explainFill struct {
	Name   string  `json:"limit"`
	Rate   string  `json:"rate,omitempty"`   // of a budget
	Caller string  `json:"caller,omitempty"` // whose it is, as a digest
	Left   int     `json:"left"`
	Next   float64 `json:"next_after_seconds"` // until there is one more; 0 if nobody knows, or all is there
}

// Run says what would become of a request.
func (c *explainCommand) Run(p *process) error {
	request, err := c.request()
	if err != nil {
		return err
	}
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	text, err := c.ask(true, http.MethodPost, "/-/explain", body)
	if err != nil {
		return err
	}
	if c.JSON {
		_, _ = p.stdout.Write(text)
		return nil
	}
	var e explanation
	if err := json.Unmarshal(text, &e); err != nil {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	e.print(p.stdout)
	return nil
}

// request is the one that curl would send by the same words: the operator has them
// from whoever complains. What curl adds by itself is compared by no route but for
// the type of a body.
func (c *explainCommand) request() (r requestToExplain, err error) {
	r = requestToExplain{Method: c.Method, Target: "/" + strings.TrimPrefix(c.Target, "/"), Header: http.Header{}, Client: c.Client}
	if c.Client != "" {
		if _, err := netip.ParseAddr(c.Client); err != nil {
			return r, usageError{errors.New("throttle-proxy: --client: not an address: write one, as in 192.0.2.1")}
		}
	}
	omitted := false
	for i, field := range c.Header {
		name, value, ok := strings.Cut(field, ":")
		value = textproto.TrimString(value)
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return r, usageError{fmt.Errorf("throttle-proxy: -H: %snot a field: write 'NAME: VALUE'", nth(c.Header, i))}
		}
		if value != "" {
			r.Header.Add(name, value)
		} else if strings.EqualFold(name, "Content-Type") {
			omitted = true
		}
	}
	if err := c.read(&r); err != nil {
		return r, err
	}
	sends := c.Data != nil || c.Binary != nil
	if sends && !omitted && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if r.Method == "" {
		r.Method = http.MethodGet
		if sends {
			r.Method = http.MethodPost
		}
	}
	return r, nil
}

// read reads the body of r.
func (c *explainCommand) read(r *requestToExplain) (err error) {
	data := cmp.Or(c.Binary, c.Data)
	if c.Binary != nil && c.Data != nil {
		return usageError{errors.New("throttle-proxy: --data-binary: there is -d too: write one of them")}
	}
	if data == nil {
		return nil
	}
	path, isFile := strings.CutPrefix(*data, "@")
	switch {
	case !isFile:
		r.Body = []byte(*data)
	case path == "-":
		r.Body, err = io.ReadAll(os.Stdin)
	default:
		r.Body, err = os.ReadFile(path)
	}
	if err != nil {
		return usageError{fmt.Errorf("throttle-proxy: -d: the file cannot be read: %w", cause(err))}
	}
	if isFile && c.Data != nil {
		r.Body = slices.DeleteFunc(r.Body, func(b byte) bool { return b == '\r' || b == '\n' || b == 0 })
	}
	return nil
}

// explain answers what would become of a request.
func (a *admin) explain(w http.ResponseWriter, r *http.Request) {
	var request requestToExplain
	if !readOrder(w, r, a.config.maxBody*4/3+1<<20, &request) { // in base64
		return
	}
	in, err := request.read()
	if err != nil {
		writeJSON(w, http.StatusBadRequest, errorAnswer{err.Error()})
		return
	}
	e, err := a.replica.proxy.Explain(in.WithContext(r.Context()), request.Body)
	switch {
	case errors.Is(err, cluster.ErrStoreAway):
		writeJSON(w, http.StatusServiceUnavailable, errorAnswer{"the store does not answer, so that nobody knows"})
	case err != nil:
		writeJSON(w, http.StatusInternalServerError, errorAnswer{err.Error()})
	case e.Reason == proxy.ReasonUnknownRoute:
		writeJSON(w, http.StatusBadRequest, errorAnswer{"there is no such route here: write one of " + strings.Join(a.config.targets(), ", ")})
	default:
		writeJSON(w, http.StatusOK, explained(e))
	}
}

// read returns the request as a server would have read it.
func (r requestToExplain) read() (*http.Request, error) {
	target, err := url.ParseRequestURI(r.Target)
	if err != nil || !httpguts.ValidHeaderFieldName(r.Method) || strings.ContainsAny(r.Target, " #") {
		return nil, errors.New("explain: this is no request: write ROUTE/PATH?QUERY, and a method")
	}
	in := &http.Request{
		Method: r.Method, RequestURI: r.Target, URL: target, Header: http.Header{},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody, ContentLength: int64(len(r.Body)), RemoteAddr: r.Client,
	}
	for name, values := range r.Header {
		for _, value := range values {
			in.Header.Add(name, value)
		}
	}
	in.Host = in.Header.Get("Host")
	in.Header.Del("Host")
	if r.Client != "" && !strings.Contains(r.Client, "]:") {
		in.RemoteAddr = "[" + r.Client + "]:0"
		if !strings.Contains(r.Client, ":") {
			in.RemoteAddr = r.Client + ":0"
		}
	}
	return in, nil
}

// explained is e as it is told.
func explained(e proxy.Explanation) explanation {
	out := explanation{
		Route: e.Route, Verdict: string(e.Reason), After: e.Wait.Seconds(), Message: e.Message, Compared: e.Compared, Lock: e.Lock, Shares: string(e.Shares),
		CoolDowns: []float64{}, Budgets: []explainFill{}, Slots: []explainFill{},
	}
	if out.Compared == nil {
		out.Compared = []string{}
	}
	if out.Verdict == "" {
		out.Verdict = map[cluster.Outcome]string{
			cluster.Admitted: "admitted", cluster.Duplicate: string(proxy.ReasonDuplicate), cluster.Held: string(proxy.ReasonHeld),
			cluster.Paused: string(proxy.ReasonPaused), cluster.CoolingDown: string(proxy.ReasonCoolingDown),
			cluster.Busy: string(proxy.ReasonBusy), cluster.Limited: string(proxy.ReasonLimited),
			cluster.Replayed: "replayed", cluster.KeyReused: string(proxy.ReasonKeyReused),
			cluster.NotKept: string(proxy.ReasonNotKept), cluster.OutcomeUnknown: string(proxy.ReasonOutcomeUnknown),
		}[e.Outcome]
	}
	if e.Ask.Wait > 0 && (e.Outcome == cluster.Busy || e.Outcome == cluster.Limited && e.Wait <= e.Ask.Wait) {
		out.Verdict = "waits"
	}
	if e.Outcome == cluster.Duplicate || e.Outcome == cluster.Held {
		out.Holder = &explainHeld{e.Holder.RequestID, e.Holder.Replica, e.Holder.Age.Seconds(), e.Outcome == cluster.Held}
	}
	for _, left := range e.Cooling {
		if left > 0 {
			out.CoolDowns = append(out.CoolDowns, left.Seconds())
		}
	}
	for i, d := range e.Decisions {
		c := e.Ask.Charges[i]
		if e.Limits != nil {
			c.Limit = e.Limits[i]
		}
		out.Budgets = append(out.Budgets, explainFill{c.Name, c.Limit.String(), c.Caller, leftOf(d), d.NextAfter.Seconds()})
	}
	for i, used := range e.Used {
		s := e.Ask.Slots[i]
		out.Slots = append(out.Slots, explainFill{Name: s.Name, Caller: s.Caller, Left: max(0, s.Most-used)})
	}
	return out
}

func leftOf(d limiter.Decision) int {
	if !d.Allowed {
		return 0
	}
	return d.Remaining
}

// print writes e for people.
func (e explanation) print(w io.Writer) {
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	line("route      %s", e.Route)
	if len(e.Compared) == 0 {
		line("compared   not: it is no duplicate of any")
	} else {
		there := slices.DeleteFunc(slices.Clone(e.Compared), func(part string) bool { return strings.HasSuffix(part, " (not sent)") })
		line("compared   %s; %d more fields are not sent", strings.Join(there, ", "), len(e.Compared)-len(there))
		line("lock       %s", e.Lock)
	}
	if h := e.Holder; h != nil {
		state := "in flight"
		if h.Held {
			state = "over, and held"
		}
		line("           taken by %s on %s for %s, %s", h.RequestID, h.Replica, seconds(h.Seconds), state)
	}
	if e.Shares != "" {
		line("           who is equal gets the answer: --on-duplicate %s", e.Shares)
	}
	for _, left := range e.CoolDowns {
		line("cool-down  another %s", seconds(left))
	}
	of := func(f explainFill) string {
		if f.Caller == "" {
			return f.Name
		}
		return f.Name + " of caller " + f.Caller
	}
	for _, b := range e.Budgets {
		line("budget     %s: %d left of %s", of(b), b.Left, b.Rate)
	}
	for _, s := range e.Slots {
		line("slots      %s: %d left", of(s), s.Left)
	}
	verdict := e.Verdict
	if e.After > 0 {
		verdict += fmt.Sprintf(", for %s", seconds(e.After))
	}
	if e.Message != "" {
		verdict += " (" + e.Message + ")"
	}
	line("verdict    %s", verdict)
}
