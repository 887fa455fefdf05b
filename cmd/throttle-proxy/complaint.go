package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// habits returns args with what people type by habit spelled as a command.
func habits(args []string) []string {
	if len(args) == 0 {
		return args
	}
	switch args[0] {
	case "help":
		return append(slices.Clone(args[1:]), "--help")
	case "--version", "-V":
		return []string{"version"}
	}
	return args
}

// meant are flags of other programs, with what to write here.
var meant = map[string]string{
	"-p":         "write --port",
	"-r":         "write --register",
	"-v":         "write version",
	"--route":    "write --register",
	"--config":   "there are flags and environment variables, and no configuration file",
	"--env-file": "there are flags and environment variables, and no configuration file",
}

// complaint says what kong has found wrong with the command line. kong quotes
// it, and what it quotes may be a secret: nothing of its text is taken over but
// names of flags and commands that there are, and what [quote] lets through.
func complaint(err error, model *kong.Application) string {
	var names, commands []string // of flags, and of commands
	flags := map[string]*kong.Flag{}
	for _, command := range model.Leaves(false) {
		commands = append(commands, command.Name)
		for _, flag := range command.Flags {
			name := "--" + flag.Name
			names, flags[name] = append(names, name), flag
		}
	}
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "unknown flag "); ok {
		name, _, _ = strings.Cut(name, ", did you mean ")
		if harmless.MatchString(strings.TrimLeft(name, "-")) {
			return "unknown flag " + name + cmp.Or(replaced[name], hint(name, names))
		}
		return "unknown flag" + hint(name, names)
	}
	if arg, ok := strings.CutPrefix(text, "unexpected argument "); ok {
		arg, _, _ = strings.Cut(arg, ", did you mean ")
		if strings.ContainsAny(arg, "/@=") {
			return "unexpected argument that looks like a URL: write --register NAME=URL"
		}
		// It may be what follows a space in a value, and is not even quoted.
		return "unexpected argument" + cmp.Or(hint(arg, commands), ".") + " The commands are " + strings.Join(commands, ", ") + "; a value with spaces needs quotation marks."
	}
	name, _, _ := strings.Cut(text, ": ")
	flag, known := flags[name]
	switch {
	case known && flag.IsBool():
		return name + ": it has no value: take it out"
	case known && strings.Contains(flag.PlaceHolder, "on|off"):
		return fmt.Sprintf("%s: missing value: write %[1]s on", name)
	case known:
		return fmt.Sprintf("%s: missing value: write %[1]s %[2]s, or %[1]s=%[2]s if it begins with a dash", name, cmp.Or(flag.PlaceHolder, "VALUE"))
	}
	// Flags of serve before another command: kong names both, and no value.
	if words := strings.Fields(text); len(words) > 1 && words[0] == "flag" && flags[words[1]] != nil {
		return text
	}
	return "this command line cannot be read"
}

// hint is what to write in place of name: what else it is elsewhere, or those
// of names that are much like it.
func hint(name string, names []string) string {
	if instead, ok := meant[name]; ok {
		return ": " + instead
	}
	var near []string
	for _, candidate := range names {
		if len(name) < 40 && !slices.Contains(near, candidate) && (distance(candidate, name) <= 2 || len(name) > 3 && strings.HasPrefix(candidate, name)) {
			near = append(near, candidate)
		}
	}
	if len(near) == 0 {
		return ""
	}
	return `, did you mean "` + strings.Join(near, `" or "`) + `"?`
}

// distance is how many letters are to be put in, taken out or changed to make
// b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0]++
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			corner, row[j+1] = row[j+1], min(corner+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// replaced says what to write in place of flags that are no more.
var replaced = map[string]string{
	"--redis-ca":   ": write --redis-tls ca=FILE",
	"--redis-cert": ": write --redis-tls cert=FILE,key=FILE",
	"--redis-key":  ": write --redis-tls cert=FILE,key=FILE",
}
