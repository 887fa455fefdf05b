package main

import (
	"fmt"

	"github.com/alecthomas/kong"
)

// printHelp is kong's help, but for the root command: kong leaves out the
// flags of a default command, which are most of what there is to know.
func printHelp(options kong.HelpOptions, ctx *kong.Context) error {
	options.WrapUpperBound = 110
	options.NoExpandSubcommands = true
	if ctx.Selected() != nil {
		return kong.DefaultHelpPrinter(options, ctx)
	}
	if err := kong.DefaultHelpPrinter(options, ctx); err != nil {
		return err
	}
	serve, err := kong.Trace(ctx.Kong, []string{"serve"})
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(ctx.Stdout)
	return kong.DefaultHelpPrinter(options, serve)
}
