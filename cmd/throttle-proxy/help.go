package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/alecthomas/kong"
)

// screen is what most people need of the help: with what this is before it, and
// where the rest is behind it, it fits a terminal of 80 columns and 24 lines.
const screen = `
  throttle-proxy --register slack=env:WEBHOOK_URL
  throttle-proxy --register api=https://api.example.com --rate api=100/m
  throttle-proxy --register slack=env:WEBHOOK_URL --wait 30s

  --register NAME=URL    /NAME goes to URL, or to env:VARIABLE or file:PATH
  --port N               where clients connect (44444)
  --rate [R=]N/PERIOD    budget of R, or of each route: 100/m,burst=20 or off
  --wait [R=]TIME        wait for the budget that long, in place of a 429 (off)
  --dedupe [R=]MODE      which requests may not repeat: on, all, key or off (on)
  --hold [R=]TIME        after a success, refuse a repeat (1s,unknown=1m)
  --redis URL            redis://HOST:6379: replicas decide together (none)
  --set-header [R=]N=V   a credential that clients need not have; env: too
  --shadow [R=]on|off    decide and report, refuse nothing (off)
  --admin ADDRESS        metrics and status, as 127.0.0.1:9090 (off)

Every flag has a variable: --port is THROTTLE_PROXY_PORT.
`

// reading is how flags are to be read, before the list of them.
const reading = `[R=]VALUE is ROUTE=VALUE for one route, or VALUE as the default of all; a route's own values replace the default's. Every flag has a variable: --lock-ttl is THROTTLE_PROXY_LOCK_TTL. Where a flag can be repeated, its variable's values stand apart by white space. Flags replace variables.`

const (
	helpColumns = 80 // of the longest line
	helpIndent  = 26 // before what a flag means: wide enough for most of them
)

// printHelp is a kong.HelpPrinter: one screen, or all about one command.
func printHelp(_ kong.HelpOptions, ctx *kong.Context) error {
	command := ctx.Selected()
	if command == nil {
		_, _ = io.WriteString(ctx.Stdout, "Usage: throttle-proxy [COMMAND] [FLAGS]\n\n")
		wrap(ctx.Stdout, description, 0)
		_, _ = io.WriteString(ctx.Stdout, screen)
		wrap(ctx.Stdout, "Commands: "+strings.Join(commandsOf(ctx.Model), ", ")+". All flags: throttle-proxy --help-all; of a command: throttle-proxy help COMMAND.", 0)
		return nil
	}
	usage := "Usage: throttle-proxy " + command.Summary()
	if command == ctx.Model.DefaultCmd {
		usage = "Usage: throttle-proxy [serve] [flags]"
	}
	wrap(ctx.Stdout, usage, 0)
	_, _ = fmt.Fprintln(ctx.Stdout)
	wrap(ctx.Stdout, command.Help, 0)
	listed := flagsByGroup(command)
	if _, grouped := listed[groups[0].Key]; grouped {
		_, _ = fmt.Fprintln(ctx.Stdout)
		wrap(ctx.Stdout, reading, 0)
	}
	if len(command.Positional) > 0 {
		_, _ = fmt.Fprint(ctx.Stdout, "\nArguments:\n")
	}
	for _, argument := range command.Positional {
		printMeaning(ctx.Stdout, "  "+argument.Summary(), argument.Help)
	}
	for _, group := range append([]kong.Group{{Title: "Flags:"}}, groups...) {
		if len(listed[group.Key]) == 0 {
			continue
		}
		_, _ = fmt.Fprintf(ctx.Stdout, "\n%s\n", group.Title)
		for _, flag := range listed[group.Key] {
			printFlag(ctx.Stdout, flag)
		}
	}
	return nil
}

// commandsOf returns the names of the commands that are shown.
func commandsOf(app *kong.Application) (names []string) {
	for _, command := range app.Leaves(true) {
		names = append(names, command.Name)
	}
	return names
}

// flagsByGroup returns the flags of command by the key of their group, without
// those of all commands.
func flagsByGroup(command *kong.Node) map[string][]*kong.Flag {
	of := map[string][]*kong.Flag{}
	for _, flag := range command.Flags {
		key := ""
		if flag.Group != nil {
			key = flag.Group.Key
		}
		of[key] = append(of[key], flag)
	}
	return of
}

func printFlag(w io.Writer, flag *kong.Flag) {
	name := "  --" + flag.Name
	if !flag.IsBool() {
		name += " " + placeholder(flag)
	}
	printMeaning(w, name, flag.Help)
}

// printMeaning writes what a flag or an argument means, in a column beside it.
func printMeaning(w io.Writer, name, meaning string) {
	var help strings.Builder
	wrap(&help, meaning, helpIndent)
	text := help.String()
	if room := helpIndent - utf8.RuneCountInString(name); room >= 2 {
		text = name + text[len(name):]
	} else {
		_, _ = fmt.Fprintln(w, name)
	}
	_, _ = io.WriteString(w, text)
}

// placeholder is what stands for the value of flag.
func placeholder(flag *kong.Flag) string {
	if flag.PlaceHolder == "" {
		return "VALUE"
	}
	return flag.PlaceHolder
}

// wrap writes text in lines of at most helpColumns, each indented. What is longer
// than a line is broken behind a comma.
func wrap(w io.Writer, text string, indent int) {
	margin := strings.Repeat(" ", indent)
	line := margin
	for word := range strings.FieldsSeq(text) {
		if len(word) > helpColumns-indent {
			word = strings.ReplaceAll(word, ",", ",\x00")
		}
		for i, part := range strings.Split(word, "\x00") {
			space := ""
			if i == 0 && line != margin {
				space = " "
			}
			if utf8.RuneCountInString(line+space+part) > helpColumns {
				_, _ = fmt.Fprintln(w, line)
				line, space = margin, ""
			}
			line += space + part
		}
	}
	_, _ = fmt.Fprintln(w, line)
}
