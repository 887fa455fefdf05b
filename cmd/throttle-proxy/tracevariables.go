package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Variables of OpenTelemetry that say more than one thing.
const (
	exporterVariable = "OTEL_TRACES_EXPORTER"
	resourceVariable = "OTEL_RESOURCE_ATTRIBUTES"
	samplerVariable  = "OTEL_TRACES_SAMPLER"
)

// collector is who gets the traces.
type collector struct {
	address string // host and port; empty if nobody does
	source  string // the variable that says so
	queue   int64  // spans that may wait for it
}

// traceVariables are those of OpenTelemetry that its libraries obey by themselves,
// and how each is read: what they cannot use they would at most tell of. Those that
// begin with OTEL_EXPORTER_OTLP_ are there for traces alone, too.
var traceVariables = []struct {
	name string
	read func(string) error
}{
	{"OTEL_EXPORTER_OTLP_PROTOCOL", oneWord("http/protobuf", "http/json")},
	{"OTEL_EXPORTER_OTLP_HEADERS", checkPairs},
	{"OTEL_EXPORTER_OTLP_COMPRESSION", oneWord("gzip", "none")},
	{"OTEL_EXPORTER_OTLP_TIMEOUT", wholeNumber("milliseconds", 1)},
	{"OTEL_EXPORTER_OTLP_CERTIFICATE", checkAuthorities},
	{samplerVariable, oneWord("always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio")},
	{"OTEL_TRACES_SAMPLER_ARG", checkRatio},
	{resourceVariable, checkPairs},
	{"OTEL_PROPAGATORS", checkPropagators},
	{"OTEL_BSP_SCHEDULE_DELAY", wholeNumber("milliseconds", 1)},
	{"OTEL_BSP_EXPORT_TIMEOUT", wholeNumber("milliseconds", 1)},
	{"OTEL_BSP_MAX_QUEUE_SIZE", wholeNumber("spans", 1)},
	{"OTEL_BSP_MAX_EXPORT_BATCH_SIZE", wholeNumber("spans", 1)},
	{"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", wholeNumber("characters", 0)},
	{"OTEL_ATTRIBUTE_COUNT_LIMIT", wholeNumber("attributes", 0)},
	{"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", wholeNumber("characters", 0)},
	{"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", wholeNumber("attributes", 0)},
}

// otlpVariables returns the names of a variable of the exporter; the first that is
// set counts.
func otlpVariables(name string) []string {
	if what, ok := strings.CutPrefix(name, "OTEL_EXPORTER_OTLP_"); ok {
		return []string{"OTEL_EXPORTER_OTLP_TRACES_" + what, name}
	}
	return []string{name}
}

// failVariable notes what is wrong with the value of a variable that is no flag's.
func (p *parsing) failVariable(name string, err error) {
	p.problems = append(p.problems, fmt.Errorf("throttle-proxy: %s: %w", name, err))
}

// variable returns the value of one.
func (e environment) variable(name string) string { return strings.TrimSpace(e[name]) }

// first returns the one that counts of the variables of the exporter, and its value.
func (e environment) first(name string) (source, value string) {
	for _, source := range otlpVariables(name) {
		if value := e.variable(source); value != "" {
			return source, value
		}
	}
	return "", ""
}

// parseTraces reads the variables of OpenTelemetry. Unless they say where traces go,
// or that they do, nothing of them is looked at: they may be for others.
func (p *parsing) parseTraces(c *config) {
	e := p.environment
	if disabled := e.variable("OTEL_SDK_DISABLED"); strings.EqualFold(disabled, "true") {
		return
	}
	exporter := e.variable(exporterVariable)
	if _, err := oneOf("otlp", "none", "")(exporter); err != nil {
		p.failVariable(exporterVariable, fmt.Errorf("%s is no exporter of this program: write otlp or none", quote(exporter)))
		return
	}
	source, endpoint := e.first("OTEL_EXPORTER_OTLP_ENDPOINT")
	switch {
	case exporter == "none", exporter == "" && endpoint == "":
		return
	case endpoint == "":
		source, endpoint = exporterVariable, "http://localhost:4318"
	}
	u, err := parseCollector(endpoint)
	if err != nil {
		p.failVariable(source, err)
		return
	}
	c.collector = collector{address: u.Host, source: source, queue: 2048}
	if source == "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" && strings.Trim(u.Path, "/") == "" {
		c.warnings = append(c.warnings, source+": it has no path, and none is added: write /v1/traces behind it if that is meant")
	}
	for _, v := range traceVariables {
		for _, name := range otlpVariables(v.name) {
			if value := e.variable(name); value != "" {
				if err := v.read(value); err != nil {
					p.failVariable(name, err)
				}
			}
		}
	}
	p.checkCollectorTLS(u)
	if most := e.variable("OTEL_BSP_MAX_QUEUE_SIZE"); most != "" {
		c.collector.queue, _ = strconv.ParseInt(most, 10, 64)
	}
}

// parseCollector reads where the collector is. What the URL has of secrets, nobody
// would send.
func parseCollector(endpoint string) (*url.URL, error) {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("this is no URL of a collector: write http://host:4318 or https://host:4318")
	case u.User != nil:
		return nil, errors.New("user and password are not sent from a URL: write OTEL_EXPORTER_OTLP_HEADERS=Authorization=Basic%20…")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("what follows ? or # is not sent: write http://host:4318/path, and keys into OTEL_EXPORTER_OTLP_HEADERS")
	}
	return u, nil
}

// checkCollectorTLS looks at what is about the connection to the collector at u.
func (p *parsing) checkCollectorTLS(u *url.URL) {
	e := p.environment
	if name, insecure := e.first("OTEL_EXPORTER_OTLP_INSECURE"); name != "" && strings.EqualFold(insecure, "true") != (u.Scheme == "http") {
		p.failVariable(name, errors.New("the scheme of the endpoint says something else: leave the variable out, and write http:// or https://"))
	}
	for _, name := range append(otlpVariables("OTEL_EXPORTER_OTLP_CERTIFICATE"), otlpVariables("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE")...) {
		if e.variable(name) != "" && u.Scheme == "http" {
			p.failVariable(name, errors.New("the endpoint has no TLS: write https://host:4318 there, or leave the variable out"))
		}
	}
	for i, name := range otlpVariables("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE") {
		key := otlpVariables("OTEL_EXPORTER_OTLP_CLIENT_KEY")[i]
		switch certificate, file := e.variable(name), e.variable(key); {
		case certificate == "" && file == "":
		case file == "":
			p.failVariable(name, fmt.Errorf("a certificate without its key: write %s=FILE too", key))
		case certificate == "":
			p.failVariable(key, fmt.Errorf("a key without its certificate: write %s=FILE too", name))
		default:
			if _, err := tls.LoadX509KeyPair(certificate, file); err != nil {
				p.failVariable(name, fmt.Errorf("it and its key cannot be used: write files in PEM: %w", cause(err)))
			}
		}
	}
}

func checkAuthorities(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("the file cannot be read: write one with certificates in PEM: %w", cause(err))
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return errors.New("the file has no certificate: write one with certificates in PEM")
	}
	return nil
}

// checkPairs reads names and values, which may be secrets.
func checkPairs(s string) error {
	for pair := range strings.SplitSeq(s, ",") {
		name, value, ok := strings.Cut(pair, "=")
		_, err := url.PathUnescape(value)
		if !ok || err != nil || !httpguts.ValidHeaderFieldName(strings.TrimSpace(name)) {
			return errors.New("this is no list of names and values: write NAME=VALUE,NAME=VALUE, special characters escaped as in %20")
		}
	}
	return nil
}

// checkPropagators reads by which fields traces go on. Baggage does anyway.
func checkPropagators(s string) error {
	for name := range strings.SplitSeq(s, ",") {
		switch strings.TrimSpace(name) {
		case "tracecontext", "baggage":
		default:
			return fmt.Errorf("%s is not spoken here: write tracecontext or baggage, or leave the variable out", quote(name))
		}
	}
	return nil
}

func checkRatio(s string) error {
	if ratio, err := strconv.ParseFloat(s, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
		return fmt.Errorf("%s is no part of all traces: write a number from 0 to 1, as in 0.1", quote(s))
	}
	return nil
}

func oneWord(words ...string) func(string) error {
	return func(s string) error {
		_, err := oneOf(words...)(s)
		return err
	}
}

func wholeNumber(of string, least int) func(string) error {
	return func(s string) error {
		if n, err := strconv.Atoi(s); err != nil || n < least || n > math.MaxInt32 {
			return fmt.Errorf("%s is not a number of %s: write a whole number from %d", quote(s), of, least)
		}
		return nil
	}
}
