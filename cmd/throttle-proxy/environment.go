package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

const variablePrefix = "THROTTLE_PROXY_"

// fallbacks are variables that platforms set, by the flag that they stand for.
var fallbacks = map[string]string{"port": "PORT", "redis": "REDIS_URL"}

// environment holds the process's variables by name.
type environment map[string]string

func newEnvironment(environ []string) environment {
	e := environment{}
	for _, variable := range environ {
		if name, value, ok := strings.Cut(variable, "="); ok {
			e[name] = value
		}
	}
	return e
}

func variableOf(flag string) string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// source returns the variable that a flag has its value from unless it is on
// the command line, or "".
func (e environment) source(flag string) string {
	for _, name := range []string{variableOf(flag), fallbacks[flag]} {
		if e[name] != "" && !kubernetesInjected(name, e[name]) {
			return name
		}
	}
	return ""
}

// resolve is a kong.ResolverFunc: it gives a flag the value of its variable.
// The values of a flag that can be repeated stand apart by white space.
func (e environment) resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	name := e.source(flag.Name)
	switch {
	case name == "":
		return nil, nil
	case flag.Name == "listen" && onCommandLine(ctx, "port"):
		return nil, nil // --port is the same thing, and flags replace variables
	case !flag.IsSlice():
		return e[name], nil
	}
	values := []any{}
	for _, value := range strings.Fields(e[name]) {
		values = append(values, value)
	}
	return values, nil
}

func onCommandLine(ctx *kong.Context, flag string) bool {
	return slices.ContainsFunc(ctx.Path, func(p *kong.Path) bool { return p.Flag != nil && p.Flag.Name == flag && !p.Resolved })
}

// kubernetesInjected reports whether Kubernetes has set the variable, for a
// Service that is called throttle-proxy.
func kubernetesInjected(name, value string) bool {
	rest, ok := strings.CutPrefix(name, variablePrefix)
	return ok && (rest == "PORT" && strings.Contains(value, "://") ||
		strings.HasPrefix(rest, "PORT_") || strings.HasPrefix(rest, "SERVICE_"))
}

// warn tells of variables that look like ours and are none.
func (e environment) warn(model *kong.Application, w io.Writer) {
	known := map[string]bool{}
	for _, command := range model.Leaves(false) {
		for _, flag := range command.Flags {
			known[variableOf(flag.Name)] = true
		}
	}
	var unknown []string
	for name, value := range e {
		if strings.HasPrefix(name, variablePrefix) && !known[name] && !kubernetesInjected(name, value) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		_, _ = fmt.Fprintf(w, "throttle-proxy: warning: unknown variable %s has no effect%s\n", name, meantVariable(name, slices.Collect(maps.Keys(known))))
	}
}

// meantVariable says what to write in place of an unknown variable, if that is
// known: it may be a flag of another program in capitals.
func meantVariable(name string, known []string) string {
	if near := nearest(name, known); len(near) > 0 {
		return ", did you mean " + strings.Join(near, " or ") + "?"
	}
	if advice := flagsElsewhere[spelled(strings.TrimPrefix(name, variablePrefix))]; advice != "" {
		return ": on the command line, " + advice
	}
	return ""
}
