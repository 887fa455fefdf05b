package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"throttle-proxy/cluster"
	"throttle-proxy/limiter"
	"throttle-proxy/proxy"
)

type simulateCommand struct {
	Log  string   `arg:"" optional:"" default:"-" help:"Access log: this proxy's, as text or JSON, or nginx's in the combined format; - for standard input (${default})."`
	Rate []string `sep:"none" placeholder:"[R=]RATE" help:"A candidate: N/PERIOD[,burst=B][,by=client|header:NAME][,strict]. Repeatable: each is tried by itself."`
	JSON bool     `name:"json" help:"Print JSON."`
}

// Run prints what each candidate would have refused.
func (s *simulateCommand) Run(p *process) error {
	candidates, err := s.candidates()
	if err != nil {
		return err
	}
	var in io.Reader = os.Stdin
	if s.Log != "-" {
		file, err := os.Open(s.Log)
		if err != nil {
			return usageError{fmt.Errorf("throttle-proxy: the log cannot be read: %w: write the path of an access log, or - for standard input", cause(err))}
		}
		defer file.Close()
		in = file
	}
	read, err := readLog(in, func(a *arrival) {
		for _, c := range candidates {
			c.take(a)
		}
	})
	switch {
	case err != nil:
		return err
	case read.Requests == 0:
		return errors.New("no line is a request that came as far as a budget: write a log of throttle-proxy (text or JSON), or nginx's in the combined format")
	case s.JSON:
		return printJSON(p.stdout, read, candidates)
	}
	printSimulation(p.stdout, read, candidates)
	return nil
}

func (s *simulateCommand) candidates() (all []*candidate, err error) {
	if len(s.Rate) == 0 {
		return nil, usageError{errors.New("throttle-proxy: --rate: write a candidate, as in --rate slack=1/s,burst=5")}
	}
	for i, text := range s.Rate {
		route, rate, named := strings.Cut(text, "=")
		if !named || !proxy.ValidName(route) { // the = is an option's
			route, rate = "", text
		}
		l, kind, err := parseRate(rate)
		if err == nil && kind == noRate {
			err = errors.New("off refuses nothing: write a rate, as in 10/s")
		}
		if err != nil {
			return nil, usageError{fmt.Errorf("throttle-proxy: --rate: %s%w", nth(s.Rate, i), err)}
		}
		all = append(all, newCandidate(text, route, l))
	}
	return all, nil
}

const (
	// countedCallers is of how many a candidate counts what it refused them.
	countedCallers = 10_000
	// toldCallers is how many are told of.
	toldCallers = 5
)

// candidate is a limit that is tried on requests of the past, by the budgets
// that serve has, on the log's clock.
type candidate struct {
	text    string
	route   string // empty for all, each with a budget of its own
	limit   proxy.Limit
	budgets *limiter.Budgets
	epoch   int64

	asked, refused, nameless int64
	first, last              int64
	minute, inMinute         int64 // that goes on, and refusals in it
	worst, inWorst           int64
	whom                     map[string]int64 // refusals of callers
	others                   int64            // of those beyond countedCallers
}

func newCandidate(text, route string, l proxy.Limit) *candidate {
	return &candidate{text: text, route: route, limit: l, budgets: limiter.NewBudgets(cluster.Capacity), whom: map[string]int64{}}
}

// take spends a from its budget, and reports whether that refuses. Arrivals come
// in order.
func (c *candidate) take(a *arrival) (refused bool) {
	if c.route != "" && a.route != c.route {
		return false
	}
	who := a.client
	if c.limit.By.Header != "" {
		if who = a.caller; who == "" {
			c.nameless++
			return false
		}
	}
	charge := limiter.Charge{Limit: c.limit.Limit, ByCaller: true}
	if a.ours || c.route != "" {
		charge.Key = a.route
	}
	if c.limit.By != (proxy.By{}) {
		charge.Key += " " + c.network(who)
	}
	if c.asked == 0 {
		c.epoch = a.at
	}
	c.asked++
	if _, _, admitted := c.budgets.Take(time.Duration(a.at-c.epoch), []limiter.Charge{charge}); admitted {
		return false
	}
	c.count(a.at, cmp.Or(who, "unknown"))
	return true
}

// network returns what counts as who: of an IPv6 address its network.
func (c *candidate) network(who string) string {
	if !c.limit.By.Client {
		return who
	}
	addr, err := netip.ParseAddr(who)
	if err != nil {
		return who // unix, or a host's name
	}
	return c.limit.By.Network(addr.Unmap().WithZone(""))
}

func (c *candidate) count(at int64, who string) {
	if c.refused == 0 {
		c.first = at
	}
	c.refused, c.last = c.refused+1, at
	if minute := at - at%int64(time.Minute); minute != c.minute {
		c.minute, c.inMinute = minute, 0
	}
	if c.inMinute++; c.inMinute > c.inWorst {
		c.worst, c.inWorst = c.minute, c.inMinute
	}
	if _, counted := c.whom[who]; !counted && len(c.whom) >= countedCallers {
		c.others++
		return
	}
	c.whom[who]++
}

// mostRefused returns the callers that were refused most.
func (c *candidate) mostRefused() []string {
	all := slices.SortedFunc(maps.Keys(c.whom), func(a, b string) int {
		return cmp.Or(cmp.Compare(c.whom[b], c.whom[a]), strings.Compare(a, b))
	})
	return all[:min(len(all), toldCallers)]
}

func printSimulation(w io.Writer, read logRead, candidates []*candidate) {
	const format = "2006-01-02 15:04:05"
	day := func(at int64) string { return time.Unix(0, at).UTC().Format(format) }
	_, _ = fmt.Fprintf(w, "%s requests in %s lines, from %s to %s UTC\n", humanize.Comma(read.Requests), humanize.Comma(read.Lines), read.First.UTC().Format(format), read.Last.UTC().Format(format))
	if read.Late > 0 {
		_, _ = fmt.Fprintf(w, "%s of them stood too far from their place, and were taken as later than they came\n", humanize.Comma(read.Late))
	}
	for _, c := range candidates {
		_, _ = fmt.Fprintf(w, "\n%s  refuses %s of %s (%.1f %%)\n", c.text, humanize.Comma(c.refused), humanize.Comma(c.asked), 100*float64(c.refused)/float64(max(1, c.asked)))
		if c.nameless > 0 {
			_, _ = fmt.Fprintf(w, "  left out: %s requests of which the log does not say caller=\n", humanize.Comma(c.nameless))
		}
		if c.refused == 0 {
			continue
		}
		_, _ = fmt.Fprintf(w, "  when: from %s to %s, most of all, %s, in the minute of %s\n", day(c.first), day(c.last), humanize.Comma(c.inWorst), day(c.worst))
		var whom []string
		told := int64(0)
		for _, who := range c.mostRefused() {
			whom, told = append(whom, fmt.Sprintf("%s %s", printable(who), humanize.Comma(c.whom[who]))), told+c.whom[who]
		}
		if rest := c.refused - told; rest > 0 {
			whom = append(whom, "others "+humanize.Comma(rest))
		}
		_, _ = fmt.Fprintf(w, "  whom: %s\n", strings.Join(whom, ", "))
	}
}

// simulation is the output of --json.
type simulation struct {
	Lines      int64                `json:"lines"`
	Requests   int64                `json:"requests"`
	Late       int64                `json:"late"`
	First      time.Time            `json:"first"`
	Last       time.Time            `json:"last"`
	Candidates []simulatedCandidate `json:"candidates"`
}

type simulatedCandidate struct {
	Rate     string            `json:"rate"`
	Asked    int64             `json:"asked"`
	Refused  int64             `json:"refused"`
	Nameless int64             `json:"without_caller"`
	When     *simulatedWhen    `json:"when,omitempty"` // absent where nothing is refused
	Whom     []simulatedCaller `json:"whom"`           // most refused first
}

type simulatedWhen struct {
	First         time.Time `json:"first"`
	Last          time.Time `json:"last"`
	Worst         time.Time `json:"worst_minute"`
	RefusedInThat int64     `json:"refused_in_worst_minute"`
}

type simulatedCaller struct {
	Caller  string `json:"caller"`
	Refused int64  `json:"refused"`
}

func printJSON(w io.Writer, read logRead, candidates []*candidate) error {
	out := simulation{Lines: read.Lines, Requests: read.Requests, Late: read.Late, First: read.First.UTC(), Last: read.Last.UTC()}
	for _, c := range candidates {
		s := simulatedCandidate{Rate: c.text, Asked: c.asked, Refused: c.refused, Nameless: c.nameless, Whom: []simulatedCaller{}}
		if c.refused > 0 {
			day := func(at int64) time.Time { return time.Unix(0, at).UTC() }
			s.When = &simulatedWhen{day(c.first), day(c.last), day(c.worst), c.inWorst}
		}
		for _, who := range c.mostRefused() {
			s.Whom = append(s.Whom, simulatedCaller{who, c.whom[who]})
		}
		out.Candidates = append(out.Candidates, s)
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(out)
}
