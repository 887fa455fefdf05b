package main

import (
	_ "embed" // the page
	"fmt"
	"strings"
	"text/template"
	"unicode"

	"github.com/alecthomas/kong"
)

// manCommand prints the manual page that comes with a release.
type manCommand struct{}

func (manCommand) Run(p *process, k *kong.Kong) error {
	return manPage.Execute(p.stdout, struct {
		Description string
		Commands    []*kong.Node
		Groups      []manGroup
	}{description, k.Model.Leaves(true), manGroups(k.Model.DefaultCmd)})
}

// manGroup is flags of one purpose.
type manGroup struct {
	Title string
	Flags []*kong.Flag
}

// manGroups returns the flags of a command in the order of its --help.
func manGroups(command *kong.Node) []manGroup {
	var all []manGroup
	for _, group := range groups {
		g := manGroup{Title: strings.TrimSuffix(group.Title, ":")}
		for _, flag := range command.Flags {
			if flag.Group != nil && flag.Group.Key == group.Key && !flag.Hidden {
				g.Flags = append(g.Flags, flag)
			}
		}
		all = append(all, g)
	}
	return all
}

// roff returns text of one line as it is to be read.
func roff(text string) string {
	var b strings.Builder
	b.WriteString(`\&`) // or a point or apostrophe in front is a request
	for _, r := range text {
		switch {
		case r == '\\':
			b.WriteString(`\e`)
		case r == '-':
			b.WriteString(`\-`)
		case r > unicode.MaxASCII:
			fmt.Fprintf(&b, `\[u%04X]`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

//go:embed man.tmpl
var manText string

var manPage = template.Must(template.New("").Funcs(template.FuncMap{
	"upper": strings.ToUpper,
	"roff":  roff,
}).Parse(manText))
