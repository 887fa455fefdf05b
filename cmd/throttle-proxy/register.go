package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"throttle-proxy/proxy"
	"throttle-proxy/proxy/upstream"
)

// parseRegister reads the routes. All of a value may be a secret, but for a
// name that can be a route's.
func (f *flags) parseRegister(p *parsing, c *config) {
	if len(f.Register) == 0 {
		p.fail("register", "no route: write --register NAME=URL, as in --register slack=env:WEBHOOK_URL (throttle-proxy demo shows what happens)")
	}
	for i, value := range f.Register {
		name, reference, ok := strings.Cut(value, "=")
		valid := ok && proxy.ValidName(name)
		twice := valid && p.names[name]
		upstream, err := p.parseRoute(name, reference, ok)
		switch {
		case twice:
			p.fail("register", "route %s is registered twice: write one URL for each name", name)
		case err != nil && valid:
			p.fail("register", "route %s: %w", name, err)
		case err != nil:
			p.fail("register", "%s%w", nth(f.Register, i), err)
		default:
			c.routes = append(c.routes, proxy.Route{Name: name, Upstream: upstream, SecretURL: isReference(reference)})
		}
		if valid {
			p.names[name] = true
		}
	}
}

// another is where a second route begins in the value of one.
var another = regexp.MustCompile(`[,;\s][a-z0-9][a-z0-9._-]*=(env:|file:|https?:|h2c:|(http|h2c)\+unix:)`)

// parseRoute reads what NAME=URL refers to. named says that there is a NAME.
func (p *parsing) parseRoute(name, reference string, named bool) (*upstream.URL, error) {
	switch {
	case quoted(name) || quoted(reference):
		return nil, errors.New("quotation marks are a part of the value: take them out")
	case !named || strings.ContainsAny(name, ":@?"): // a URL may have a = too
		return nil, errors.New("a value without a name: write NAME=URL, as in slack=env:WEBHOOK_URL")
	case strings.Contains(name, "/"):
		if bare := strings.Trim(name, "/"); proxy.ValidName(bare) {
			return nil, fmt.Errorf("the name of a route has no slash: write %s=URL", bare)
		}
		return nil, errors.New("the name of a route has no slash: write NAME=URL, as in slack=env:WEBHOOK_URL")
	case strings.ToLower(name) != name && proxy.ValidName(strings.ToLower(name)):
		return nil, errors.New("the name of a route has no capital letters: write it in small ones")
	case !proxy.ValidName(name):
		return nil, errors.New("this cannot name a route: write up to 63 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit")
	case strings.TrimSpace(reference) == "":
		return nil, errors.New("the URL is empty: is the variable set? Write https://host/path, env:VARIABLE or file:PATH")
	case strings.HasPrefix(reference, "$"):
		return nil, errors.New("a $ that nothing has replaced by a value: take out single quotes, or write env:VARIABLE, without a $")
	case strings.HasPrefix(reference, "<"):
		return nil, errors.New("this is a place for the URL: write the URL itself, without < and >")
	case p.environment[reference] != "" && variable.MatchString(reference):
		return nil, fmt.Errorf("this is a variable's name: write %s=env:%s", name, reference)
	case strings.HasPrefix(reference, "@"):
		return nil, errors.New("a file is written file:PATH here, without @")
	case strings.HasPrefix(reference, "="):
		return nil, errors.New("two = between name and URL: write one")
	case another.MatchString(reference):
		return nil, errors.New("a second route in one value: write --register for each; in a variable they stand apart by white space")
	}
	rawURL, err := p.environment.reference(reference)
	if err != nil {
		return nil, err
	}
	parsed, err := upstream.Parse(name, rawURL)
	if err == nil && strings.ContainsAny(rawURL, " \t\r\n") {
		return nil, errors.New("the URL has white space in it: write one URL for each --register, and %20 for a space that is a part of it")
	}
	return parsed, err
}

// quoted reports whether text has quotation marks about it, as files of
// variables have them, or as text editors make them.
func quoted(text string) bool {
	return strings.Trim(text, "\"'`“”‘’„«»") != text
}

// variable is what can be quoted of env:VARIABLE: capital words. Where the
// shell has put the secret in its place, it is not that.
var variable = regexp.MustCompile(`^[A-Z]{1,16}(_[A-Z0-9]{1,16}){0,6}[0-9]?$`)

// isReference reports whether value stands for another, which is kept secret.
func isReference(value string) bool {
	kind, _, _ := strings.Cut(value, ":")
	return kind == "env" || kind == "file"
}

// reference returns what env:VARIABLE or file:PATH refers to, or value itself.
// The error does not quote a path, which may be the secret by mistake.
func (e environment) reference(value string) (string, error) {
	kind, name, _ := strings.Cut(value, ":")
	if !isReference(value) {
		return value, nil
	}
	// The shell puts the secret itself there for env:$WEBHOOK_URL.
	if name == "" || strings.Contains(name, "://") || kind == "env" && strings.Contains(name, "/") {
		return "", fmt.Errorf("%s: without a name: write env:VARIABLE, without a $, or file:PATH", kind)
	}
	if kind == "file" {
		content, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("file: %w: write the path of a file that holds the value", cause(err))
		}
		secret := strings.TrimSpace(string(content))
		if secret == "" {
			return "", errors.New("the file is empty: put the value there")
		}
		return secret, nil
	}
	secret := strings.TrimSpace(e[name])
	switch {
	case secret == "" && !variable.MatchString(name):
		return "", errors.New("the variable after env: is empty or not set: write its name, without a $, and put the value there")
	case secret == "":
		return "", fmt.Errorf("env:%s is empty or not set: put the value there, and export it", name)
	}
	return secret, nil
}
