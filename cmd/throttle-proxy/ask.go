package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"throttle-proxy/proxy"
)

// local is a replica on this host, by the flags of serve that say where it
// listens: so the same variables in the same container lead to it.
type local struct {
	Port    string `default:"44444" placeholder:"N" help:"Port of the replica (${default})."`
	Listen  string `placeholder:"ADDRESS" help:"host:port or unix:/path of the replica, in place of --port."`
	TLSCert string `name:"tls-cert" placeholder:"FILE" help:"The replica's certificate: with one it is asked by TLS."`
}

// client returns what asks the replica, the beginning of URLs for it, and the
// flag that says where it is.
func (l local) client(timeout time.Duration) (client *http.Client, base, flag string, err error) {
	problems := &parsing{}
	var c config
	(&flags{Port: l.Port, Listen: l.Listen}).parseListen(problems, &c)
	if len(problems.problems) > 0 {
		return nil, "", "", usageError{problems.problems[0]}
	}
	host, port, err := net.SplitHostPort(c.address) // a path has neither
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		c.address = net.JoinHostPort("localhost", port)
	}
	base = "http://replica"
	if l.TLSCert != "" {
		base = "https://replica"
	}
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			// It is asked whether it answers, not who it is.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, c.network, c.address)
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, base, c.listenFlag, nil
}

type healthCommand struct{ local }

// Run fails unless the replica is ready.
func (h *healthCommand) Run(p *process) error {
	client, base, flag, err := h.client(5 * time.Second)
	if err != nil {
		return err
	}
	res, err := client.Get(base + "/-/ready")
	if err != nil {
		return fmt.Errorf("%s: the replica does not answer: start it, or write where it listens: %w", flag, cause(err))
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	_, _ = p.stdout.Write(text)
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the replica is not ready")
	}
	return nil
}

// tryTimeout is longer than an upstream has to answer, unless told otherwise.
const tryTimeout = 65 * time.Second

type tryCommand struct {
	Route string `arg:"" placeholder:"NAME" help:"The route, as --register calls it."`
	Data  string `default:"{\"text\":\"hello from throttle-proxy\"}" placeholder:"JSON" help:"What to send (${default})."`
	local
}

// Run posts one message to a route of a replica on this host, and says in plain
// words what came back. It fails unless the upstream took it.
func (t *tryCommand) Run(p *process) error { return t.send(p, tryTimeout) }

// send is Run, for as long as patience lasts.
func (t *tryCommand) send(p *process, patience time.Duration) error {
	client, base, flag, err := t.client(patience)
	switch {
	case err != nil:
		return err
	case !proxy.ValidName(t.Route):
		return usageError{errors.New("throttle-proxy: try: write the name of a route, as in throttle-proxy try slack")}
	}
	began := time.Now()
	res, err := client.Post(base+"/"+t.Route, "application/json", strings.NewReader(t.Data))
	if failed, ok := errors.AsType[*url.Error](err); ok && failed.Timeout() {
		return fmt.Errorf("no answer within %s: it may still be waiting for its turn (--wait), or the upstream takes long (--timeout): look at the replica's log", patience)
	}
	if err != nil {
		return fmt.Errorf("%s: no replica answers there: start one with throttle-proxy --register %s=URL, in another terminal: %w", flag, t.Route, cause(err))
	}
	defer res.Body.Close()
	const longest = 1 << 10 // of what is shown
	body, _ := io.ReadAll(io.LimitReader(res.Body, longest))
	words := plainWords(res, body)
	_, _ = fmt.Fprintf(p.stdout, "%s after %s: %s\n", res.Status, time.Since(began).Round(time.Millisecond), words)
	if res.StatusCode >= 300 {
		return errors.New("the message was not taken")
	}
	return nil
}

// plainWords says whose an answer is, and what it says.
func plainWords(res *http.Response, body []byte) string {
	var ours struct{ Reason, Detail string }
	fault, isOurs := strings.CutPrefix(res.Header.Get("Proxy-Status"), "throttle-proxy; error=")
	if isOurs && json.Unmarshal(body, &ours) == nil && ours.Reason != "" {
		words := fmt.Sprintf("throttle-proxy refused it (%s): %s", ours.Reason, ours.Detail)
		if todo := advice[fault]; todo != "" {
			words += fmt.Sprintf(" %s: %s.", fault, todo)
		}
		if after := res.Header.Get("Retry-After"); after != "" {
			words += fmt.Sprintf(" Come back in %ss.", after)
		}
		return words
	}
	text := strings.Join(strings.FieldsFunc(string(body), func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r) // a terminal would obey some
	}), " ")
	if text == "" {
		return "the upstream answered, with nothing in it"
	}
	return "the upstream answered: " + text
}
