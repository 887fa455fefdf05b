package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// vocabulary is the words and flags that there are, to say what was meant.
type vocabulary struct {
	commands []string
	flags    map[string]*kong.Flag // by name, of any command
	owner    map[string]string     // of a flag: the first command that has it
	names    []string              // of flags
	args     []string
}

// complaint says what kong has found wrong with the command line, and what to
// write. kong quotes it, and what it quotes may be a secret: nothing of its text
// is taken over but names of flags and commands that there are, and what
// [quote] lets through.
func complaint(err error, model *kong.Application, args []string) string {
	v := vocabulary{commands: commandsOf(model), flags: map[string]*kong.Flag{}, owner: map[string]string{}, args: args}
	for _, command := range model.Leaves(false) {
		for _, flag := range command.Flags {
			if v.flags[flag.Name] == nil {
				v.names, v.owner[flag.Name] = append(v.names, flag.Name), command.Name
			}
			v.flags[flag.Name] = flag
		}
	}
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "unknown flag "); ok {
		name, _, _ = strings.Cut(name, ", did you mean ")
		return v.unknownFlag(name)
	}
	if arg, ok := strings.CutPrefix(text, "unexpected argument "); ok {
		arg, _, _ = strings.Cut(arg, ", did you mean ")
		return v.unexpected(arg)
	}
	if strings.HasPrefix(text, "expected ") {
		for _, command := range model.Leaves(false) {
			if len(args) > 0 && args[0] == command.Name {
				return "a word is missing: write throttle-proxy " + command.Summary()
			}
		}
	}
	name, _, _ := strings.Cut(text, ": ")
	flag := v.flags[strings.TrimPrefix(name, "--")]
	switch {
	case flag == nil:
	case flag.IsBool():
		return name + ": it has no value: take it out"
	case strings.Contains(flag.PlaceHolder, "on|off"):
		return fmt.Sprintf("%s: missing value: write %[1]s on", name)
	default:
		return fmt.Sprintf("%s: missing value: write %[1]s %[2]s, or %[1]s=%[2]s if it begins with a dash", name, placeholder(flag))
	}
	// Flags of serve before another command: kong names both, and no value.
	if words := strings.Fields(text); len(words) > 1 && words[0] == "flag" && v.flags[strings.TrimPrefix(words[1], "--")] != nil {
		for _, command := range v.commands {
			if strings.HasSuffix(text, `"`+command+`"`) {
				return fmt.Sprintf("%s: write the command before its flags, and only flags that it has: throttle-proxy %s …", words[1], command)
			}
		}
	}
	return "this command line cannot be read: write each flag as --flag VALUE, and quotation marks around values with spaces"
}

// unknownFlag says what to write in place of a flag that there is none of.
func (v *vocabulary) unknownFlag(name string) string {
	known := func(name, advice string) string { return "unknown flag " + name + ": " + advice }
	if !strings.HasPrefix(name, "--") {
		// kong reads -port as the flags -p, -o, -r and -t.
		for _, arg := range v.args {
			word, _, _ := strings.Cut(arg, "=")
			if strings.HasPrefix(word, name) && len(word) > 3 && v.flags[spelled(word[1:])] != nil {
				return known("-"+spelled(word[1:]), "write --"+spelled(word[1:])+", with two dashes")
			}
		}
		if advice, ok := flagsElsewhere[name]; ok {
			return known(name, advice)
		}
		return "unknown flag of one letter: write one of those in throttle-proxy --help-all, which are words with two dashes"
	}
	word := spelled(name[2:])
	first, _, _ := strings.Cut(name[2:], ".") // of --entrypoints.web.address
	first = spelled(first)
	switch {
	case v.flags[word] != nil && name == "--"+word:
		return known(name, "it is one of "+v.owner[word]+"'s: write throttle-proxy "+v.owner[word]+" … "+name)
	case v.flags[word] != nil:
		return "flags are written in small letters, with dashes between words: write --" + word
	case flagsElsewhere[word] != "":
		return known("--"+word, flagsElsewhere[word])
	case flagsElsewhere[first] != "":
		return known("--"+first, flagsElsewhere[first])
	}
	told := "unknown flag"
	if harmless.MatchString(name[2:]) {
		told += " " + name
	}
	for prefix, value := range map[string]string{"no-": "off", "disable-": "off", "without-": "off", "enable-": "on", "with-": "on", "use-": "on"} {
		rest, ok := strings.CutPrefix(word, prefix)
		if flag := v.flags[rest]; ok && flag != nil && (strings.Contains(flag.PlaceHolder, "on|off") || rest == "dedupe" || rest == "rate" && value == "off") {
			return told + ": write --" + rest + " " + value
		}
	}
	if near := nearest(word, v.names); len(near) > 0 {
		return told + `, did you mean "--` + strings.Join(near, `" or "--`) + `"?`
	}
	return told + ": find the one that is meant in throttle-proxy --help-all, or take it out"
}

// spelled is a name as flags are written here.
func spelled(name string) string {
	return strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name))
}

// unexpected says what to write in place of a word that is neither a command nor
// a value. It is not even quoted: it may be what follows a space in a value.
func (v *vocabulary) unexpected(arg string) string {
	const told = "unexpected argument"
	near := nearest(strings.ToLower(arg), v.commands)
	switch {
	case strings.ContainsFunc(arg, func(r rune) bool { return r == '–' || r == '—' || r == '−' }):
		return told + " with a long dash, as text editors make it of two: write --"
	case wordsElsewhere[arg] != "":
		return told + ": " + wordsElsewhere[arg]
	case slices.Contains(v.commands, arg):
		return told + ": write one command, and before its flags"
	case strings.ContainsAny(arg, "/@="):
		return told + " that looks like a URL: write --register NAME=URL"
	case v.flags[spelled(arg)] != nil:
		return told + ": write --" + spelled(arg) + ", with two dashes"
	case arg != "" && !strings.ContainsFunc(arg, notDigit):
		return told + ": write --port N if a number alone is the port"
	case address.MatchString(arg):
		return told + ": write --listen ADDRESS if that is where to listen"
	case arg == "":
		return told + ", an empty one: take it out, or set the variable that stands there"
	case len(near) > 0:
		return told + `, did you mean "` + strings.Join(near, `" or "`) + `"? The commands are ` + strings.Join(v.commands, ", ") + "."
	}
	return told + ". The commands are " + strings.Join(v.commands, ", ") + "; write quotation marks around a value with spaces."
}

// address is what is most probably host:port.
var address = regexp.MustCompile(`^[a-z0-9.]*:[0-9]{1,5}$`)
