package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"throttle-proxy/cluster"
)

// exitPartly is the exit status of a command that was followed, but not by all
// replicas in time.
const exitPartly = 3

// partlyError is why.
type partlyError struct{ error }

// operator is who asks a replica by its admin listener.
type operator struct {
	Admin []string `sep:"none" placeholder:"unix:PATH" help:"The replica's admin socket, as it was started with."`
	JSON  bool     `name:"json" help:"Print JSON."`
}

type (
	statusCommand struct {
		Route string `arg:"" optional:"" placeholder:"ROUTE" help:"Only what is of this route."`
		operator
	}
	limitCommand struct {
		Route string  `arg:"" placeholder:"ROUTE" help:"The route, or pool."`
		Rate  string  `arg:"" placeholder:"RATE" help:"N/PERIOD[,burst=B][,strict][,name=LIMIT], as --rate takes it."`
		For   *string `placeholder:"TIME" help:"Until then, in place of until it is restored."`
		operator
	}
	pauseCommand struct {
		Route   string  `arg:"" placeholder:"ROUTE" help:"The route."`
		For     *string `placeholder:"TIME" help:"Until then, in place of until it is restored; callers are told by Retry-After."`
		Message string  `placeholder:"TEXT" help:"What callers are told."`
		operator
	}
	restoreCommand struct {
		Route string `arg:"" placeholder:"ROUTE" help:"The route, or pool."`
		operator
	}
	resetCommand struct {
		Route  string `arg:"" placeholder:"ROUTE" help:"The route, or pool."`
		Limit  string `arg:"" optional:"" placeholder:"LIMIT" help:"The name of the limit; without it all that callers share."`
		Caller string `placeholder:"HEX" help:"Whose budget, where each caller has one."`
		operator
	}
	unlockCommand struct {
		Route     string `arg:"" placeholder:"ROUTE" help:"The route, or pool."`
		RequestID string `arg:"" name:"id" placeholder:"ID" help:"The request that has the lock: holder.request_id of the 409."`
		operator
	}
)

// Run puts another limit in place of a route's.
func (c *limitCommand) Run(p *process) error {
	return c.order(p, orderRequest{Do: string(cluster.SetLimit), Route: c.Route, Rate: c.Rate}, c.For)
}

// Run has all requests of a route refused.
func (c *pauseCommand) Run(p *process) error {
	return c.order(p, orderRequest{Do: string(cluster.SetPause), Route: c.Route, Message: c.Message}, c.For)
}

// Run takes a limit and a pause back.
func (c *restoreCommand) Run(p *process) error {
	return c.order(p, orderRequest{Do: string(cluster.TakeBack), Route: c.Route}, nil)
}

// Run has nothing spent of a budget.
func (c *resetCommand) Run(p *process) error {
	return c.order(p, orderRequest{Do: string(cluster.FillBudget), Route: c.Route, Limit: c.Limit, Caller: c.Caller}, nil)
}

// Run lets the equal requests of one in flight pass.
func (c *unlockCommand) Run(p *process) error {
	return c.order(p, orderRequest{Do: string(cluster.FreeLock), Route: c.Route, RequestID: c.RequestID}, nil)
}

// order gives an order, lasting until it is taken back where that is nil, and says
// on how many replicas it holds.
func (o operator) order(p *process, request orderRequest, lasting *string) error {
	if lasting != nil {
		d, err := parseTime(*lasting)
		if err != nil {
			return usageError{fmt.Errorf("throttle-proxy: --for: %w", err)}
		}
		request.ForSeconds = d.Seconds()
	}
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	text, err := o.ask(true, http.MethodPost, "/-/control", body)
	if err != nil {
		return err
	}
	var answer orderAnswer
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	if o.JSON {
		_, _ = p.stdout.Write(text)
	} else {
		_, _ = fmt.Fprintf(p.stdout, "%s, on %s\n", answer.Done, replicasOf(answer))
	}
	if len(answer.Missing) > 0 {
		return partlyError{fmt.Errorf("no word within 2s from %s: it holds there as soon as they look again", strings.Join(answer.Missing, ", "))}
	}
	return nil
}

// replicasOf says on how many of them something was done.
func replicasOf(a orderAnswer) string {
	all := len(a.Holds) + len(a.Missing)
	switch {
	case len(a.Missing) > 0:
		return fmt.Sprintf("%d of %d replicas", len(a.Holds), all)
	case all == 1:
		return "1 replica"
	}
	return fmt.Sprintf("all %d replicas", all)
}

// ask asks the replica. What changes something is asked by its unix socket.
func (o operator) ask(changes bool, method, path string, body []byte) (answer []byte, err error) {
	at, err := o.address(changes)
	if err != nil {
		return nil, err
	}
	client := &http.Client{
		Timeout: 10 * time.Second, // longer than an order takes
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, at.network, at.address)
		}},
	}
	req, err := http.NewRequest(method, "http://replica"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("--admin: no replica answers there: write where one was started with --admin, as the same user: %w", cause(err))
	}
	defer res.Body.Close()
	const longest = 64 << 20
	answer, err = io.ReadAll(io.LimitReader(res.Body, longest))
	switch {
	case err != nil:
		return nil, fmt.Errorf("--admin: the replica has broken off: %w", cause(err))
	case res.StatusCode == http.StatusOK:
		return answer, nil
	}
	var said errorAnswer
	if json.Unmarshal(answer, &said) != nil || said.Error == "" {
		said.Error = cmp.Or(strings.TrimSpace(string(answer)), res.Status)
	}
	if res.StatusCode == http.StatusBadRequest {
		return nil, usageError{errors.New("throttle-proxy: " + said.Error)}
	}
	return nil, errors.New(said.Error)
}

// address is where the replica is asked: by a unix socket, or to read also
// elsewhere.
func (o operator) address(changes bool) (adminAddress, error) {
	p, c := &parsing{}, &config{}
	(&flags{Admin: o.Admin}).parseAdmin(p, c)
	if len(p.problems) > 0 {
		return adminAddress{}, usageError{p.problems[0]}
	}
	for _, a := range c.admins {
		if a.network == "unix" {
			return a, nil
		}
	}
	if len(c.admins) > 0 && !changes {
		return c.admins[0], nil
	}
	return adminAddress{}, usageError{errors.New("throttle-proxy: --admin: write the unix socket of a replica, as in --admin unix:/run/throttle-proxy/admin.sock, or set THROTTLE_PROXY_ADMIN; the replica is to be started with the same")}
}
