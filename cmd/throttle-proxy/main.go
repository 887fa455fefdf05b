// Command throttle-proxy is a reverse proxy that refuses duplicates of
// requests in flight with 409 and requests beyond a budget with 429, over all
// replicas that share a Redis, or in one process without one.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2 // something on the command line or in the environment cannot be used
)

func main() {
	os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// cli is the command line: the commands of kong.
type cli struct {
	Serve   serveCommand   `cmd:"" default:"withargs" help:"Run a replica. This is what happens without a command."`
	Demo    demoCommand    `cmd:"" help:"Show duplicates and limits at work: three replicas and a slow upstream in this process."`
	Check   checkCommand   `cmd:"" help:"Validate what serve would, and whether Redis and the upstreams can be reached. Sends no request."`
	Health  healthCommand  `cmd:"" help:"Ask a running replica whether it is ready: exit status 0 or 1."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

// process is what commands need of the process that they run in.
type process struct {
	environment environment
	stdout      io.Writer
	stderr      io.Writer
}

// usageError is an error of whoever started the process.
type usageError struct{ error }

// run is the whole command. It returns the exit status.
func run(args, environ []string, stdout, stderr io.Writer) int {
	p := &process{environment: newEnvironment(environ), stdout: stdout, stderr: stderr}
	helped := false
	parser, err := kong.New(&cli{},
		kong.Name("throttle-proxy"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { helped = true }),
		kong.Resolvers(kong.ResolverFunc(p.environment.resolve)),
		kong.ExplicitGroups(groups),
		kong.Help(printHelp),
		kong.Bind(p),
	)
	if err != nil {
		panic(err) // the structs above are wrong
	}
	command, err := parser.Parse(args)
	switch {
	case helped:
		return 0
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "throttle-proxy: %s\nRun throttle-proxy --help for commands and flags.\n", complaint(err, args))
		return exitUsage
	}
	p.environment.warn(parser.Model, stderr)
	err = command.Run()
	usage := usageError{}
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		_, _ = fmt.Fprintln(stderr, err)
		return exitUsage
	}
	_, _ = fmt.Fprintf(stderr, "throttle-proxy: %v\n", err)
	return exitFailed
}

// complaint is what kong says of args, but not an argument itself that may be
// a URL whose path is its password.
func complaint(err error, args []string) string {
	text := strings.Replace(err.Error(), `expected string value but got "EOL" (<EOL>)`, "missing value", 1)
	for _, arg := range args {
		if !strings.HasPrefix(arg, "-") && strings.ContainsAny(arg, "/@") {
			text = strings.ReplaceAll(text, arg, "that looks like a URL: write --register NAME=URL")
		}
	}
	return text
}

// untilSignal returns a context that ends with the first SIGTERM or interrupt.
// The second one ends the process, also as process 1 of a container, to which
// a signal that nobody handles does nothing.
func untilSignal() (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for range signals {
			if ctx.Err() != nil {
				os.Exit(exitFailed)
			}
			cancel()
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel()
	}
}

type versionCommand struct{}

func (versionCommand) Run(p *process) error {
	_, err := fmt.Fprintf(p.stdout, "throttle-proxy %s\n", version())
	return err
}

// version is what the build knows of itself: a release's tag, or the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (version == "" || version == "(devel)") {
			version = s.Value[:min(12, len(s.Value))]
		}
	}
	return version + " " + info.GoVersion
}
