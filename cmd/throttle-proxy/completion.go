package main

import (
	_ "embed" // the scripts
	"errors"
	"strings"
	"text/template"

	"github.com/alecthomas/kong"
)

// completionCommand prints what a shell needs to complete our command line:
// commands, and the flags of the command that is being written.
type completionCommand struct {
	Shell string `arg:"" optional:"" placeholder:"bash|zsh|fish" help:"The shell: bash, zsh or fish."`
}

// Run prints a script, which the shell is to evaluate, or finds in a file of a
// name of its own.
func (c *completionCommand) Run(p *process, k *kong.Kong) error {
	script := completionScripts.Lookup(c.Shell)
	if c.Shell == "" || script == nil {
		return usageError{errors.New("throttle-proxy: completion: write for which shell: completion bash, zsh or fish")}
	}
	return script.Execute(p.stdout, completions(k.Model))
}

// completion is a command, or a flag or argument of one.
type completion struct {
	Name, Help string
	Switch     bool         // a flag without a value
	Words      []completion // that may follow
	Pattern    string       // of a command: how bash and zsh tell that it is the one that is written,
	Fish       string       // and how fish does
}

// completions returns the commands, the one that need not be written last.
func completions(model *kong.Application) []completion {
	var commands, last []completion
	var names []string
	for _, node := range model.Leaves(true) {
		c := completion{Name: node.Name, Help: node.Help, Pattern: node.Name, Fish: "__fish_seen_subcommand_from " + node.Name}
		for _, group := range node.AllFlags(true) {
			for _, flag := range group {
				c.Words = append(c.Words, completion{Name: "--" + flag.Name, Help: flag.Help, Switch: flag.IsBool()})
			}
		}
		for _, argument := range node.Positional {
			for _, word := range strings.Split(argument.Tag.PlaceHolder, "|") {
				c.Words = append(c.Words, completion{Name: word, Help: argument.Help})
			}
		}
		if node == model.DefaultCmd {
			last = append(last, c)
			continue
		}
		commands, names = append(commands, c), append(names, c.Name)
	}
	for i := range last {
		last[i].Pattern, last[i].Fish = "*", "not __fish_seen_subcommand_from "+strings.Join(names, " ")
	}
	return append(commands, last...)
}

// Flag returns the name of a flag without its dashes, and "" of anything else.
func (c completion) Flag() string {
	name, ok := strings.CutPrefix(c.Name, "--")
	if !ok {
		return ""
	}
	return name
}

// Names returns the words that may follow, as one.
func (c completion) Names() string {
	var names []string
	for _, word := range c.Words {
		names = append(names, word.Name)
	}
	return strings.Join(names, " ")
}

// Short returns as much of the help as has room beside a suggestion.
func (c completion) Short() string {
	short := c.Help
	for _, end := range []string{". ", ": ", "; ", " ("} {
		short, _, _ = strings.Cut(short, end)
	}
	return strings.TrimSuffix(short, ".")
}

//go:embed completion.tmpl
var completionText string

// completionScripts are by the shell's name.
var completionScripts = template.Must(template.New("").Funcs(template.FuncMap{
	"quote": func(s ...string) string { return "'" + strings.ReplaceAll(strings.Join(s, ""), "'", `'\''`) + "'" },
}).Parse(completionText))
