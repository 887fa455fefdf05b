package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"throttle-proxy/proxy"
	"throttle-proxy/proxy/upstream"
)

// checkTimeout is how long check waits for each server.
const checkTimeout = 5 * time.Second

type checkCommand struct{ flags }

// Run says what serve would do, and whether it could reach whom it needs.
func (c *checkCommand) Run(p *process) error {
	conf, err := c.parse(p.environment)
	if err != nil {
		return err
	}
	conf.warn(p.stderr)
	redis.SetLogger(quiet{})
	for _, line := range conf.describe() {
		_, _ = fmt.Fprintln(p.stdout, line)
	}
	failed := false
	report := func(what string, err error) {
		result := "ok"
		if err != nil {
			result, failed = err.Error(), true
		}
		_, _ = fmt.Fprintf(p.stdout, "%s: %s\n", what, result)
	}
	for _, r := range conf.routes {
		if r.Upstream.Wild() {
			_, _ = fmt.Fprintf(p.stdout, "upstream of %s: not tried, clients name it\n", r.Name)
			continue
		}
		report("upstream of "+r.Name, reachUpstream(r))
	}
	if conf.endpoint != nil {
		found, err := conf.examineRedis()
		report("redis "+conf.redisAddress, err)
		if err == nil {
			for _, warning := range conf.warnOfRedis(found) {
				_, _ = fmt.Fprintf(p.stdout, "redis %s: warning: %s\n", conf.redisAddress, warning)
			}
		}
	}
	if failed {
		return errors.New("not everything can be reached: correct what is not ok")
	}
	return nil
}

// advice is what to look at where an upstream cannot be reached.
var advice = map[string]string{
	"dns_error":             "the host is not known here: correct the URL, or how names are resolved",
	"connection_refused":    "nothing listens there: correct the port, or start it",
	"connection_timeout":    "nothing answers: correct the host, or let connections out",
	"tls_certificate_error": "its certificate is not trusted, or another host's: correct the host, or the certificates of this system",
	"tls_protocol_error":    "it does not speak TLS: correct the port, or write http",
}

// reachUpstream connects to a route's upstream as requests would. It says nothing
// of the address in its error.
func reachUpstream(r proxy.Route) error {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	err := upstream.Reach(ctx, r.Upstream, upstream.Options{Timeout: checkTimeout, TLS: r.TLS})
	if err != nil {
		_, fault := upstream.ConnectFault(err)
		return fmt.Errorf("%s: %s", fault, cmp.Or(advice[fault], "look at the way there"))
	}
	return nil
}
