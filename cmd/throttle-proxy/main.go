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
	"syscall"

	"github.com/alecthomas/kong"
)

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2 // something on the command line or in the environment cannot be used
	// 3 is exitPartly.
)

func main() {
	os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// cli is the command line: the commands of kong.
type cli struct {
	Serve    serveCommand    `cmd:"" default:"withargs" help:"Run a replica. This is what happens without a command."`
	Demo     demoCommand     `cmd:"" help:"Show duplicates and limits at work: three replicas and a slow upstream in this process."`
	Try      tryCommand      `cmd:"" help:"Send one message to a route of a replica on this host, and say what came back."`
	Check    checkCommand    `cmd:"" help:"Validate what serve would, and whether Redis and the upstreams can be reached. Sends no request."`
	Health   healthCommand   `cmd:"" help:"Ask a running replica whether it is ready: exit status 0 or 1."`
	Simulate simulateCommand `cmd:"" help:"Read an access log and say what budgets would have refused, when and of whom."`
	Version  versionCommand  `cmd:"" help:"Print the version."`

	Status  statusCommand  `cmd:"" help:"Say what a replica knows: its routes, budgets and locks, and what was changed by hand. As in: throttle-proxy status slack --admin unix:/run/throttle-proxy/admin.sock"`
	Explain explainCommand `cmd:"" help:"Say what would become of a request: what it is compared by, which lock, cool-down, slot or budget stands in its way. Takes nothing. As in: throttle-proxy explain slack -d '{\"text\":\"hello\"}'"`
	Limit   limitCommand   `cmd:"" help:"Put another limit in place of a route's, on all replicas, from when this returns. As in: throttle-proxy limit slack 2/s --for 10m"`
	Pause   pauseCommand   `cmd:"" help:"Refuse all requests of a route with 503, on all replicas. As in: throttle-proxy pause slack --for 10m --message 'back at noon'"`
	Restore restoreCommand `cmd:"" help:"Take limit and pause back: the route is as it was configured. As in: throttle-proxy restore slack"`
	Reset   resetCommand   `cmd:"" help:"Have nothing spent of a route's budgets. As in: throttle-proxy reset slack"`
	Unlock  unlockCommand  `cmd:"" help:"Free the lock of a request in flight, or its hold: equal requests pass. As in: throttle-proxy unlock slack RJVSEWOA4L4QOT6Z"`

	Completion completionCommand `cmd:"" help:"Print what a shell needs to complete this command line."`
	Man        manCommand        `cmd:"" help:"Print the manual page."`
}

// process is what commands need of the process that they run in.
type process struct {
	environment environment
	stdout      io.Writer
	stderr      *logWriter
}

// usageError is an error of whoever started the process.
type usageError struct{ error }

// run is the whole command. It returns the exit status.
func run(args, environ []string, stdout, stderr io.Writer) int {
	p := &process{environment: newEnvironment(environ), stdout: stdout, stderr: newLogWriter(stderr)}
	defer p.stderr.close()
	err := p.run(args)
	_, partly := errors.AsType[partlyError](err)
	switch _, usage := errors.AsType[usageError](err); {
	case err == nil:
		return 0
	case partly:
		_, _ = fmt.Fprintf(p.stderr, "throttle-proxy: %v\n", err)
		return exitPartly
	case usage:
		_, _ = fmt.Fprintln(p.stderr, err)
		return exitUsage
	}
	_, _ = fmt.Fprintf(p.stderr, "throttle-proxy: %v\n", err)
	return exitFailed
}

func (p *process) run(args []string) error {
	helped := false
	parser, err := kong.New(&cli{},
		kong.Name("throttle-proxy"),
		kong.Writers(p.stdout, p.stderr),
		kong.Exit(func(int) { helped = true }),
		kong.Resolvers(kong.ResolverFunc(p.environment.resolve)),
		kong.ExplicitGroups(groups),
		kong.Help(printHelp),
		kong.Bind(p),
	)
	if err != nil {
		panic(err) // the structs above are wrong
	}
	command, err := parser.Parse(habits(args))
	switch {
	case helped:
		return nil
	case err != nil:
		return usageError{fmt.Errorf("throttle-proxy: %s\nRun throttle-proxy --help for commands and flags", complaint(err, parser.Model, args))}
	case onCommandLine(command, "listen") && onCommandLine(command, "port"):
		return usageError{errors.New("throttle-proxy: --listen: --port says where to listen too: write one of them")}
	}
	p.environment.warn(parser.Model, p.stderr)
	return command.Run()
}

// untilSignal returns a context that ends with the first SIGTERM or interrupt,
// or one of more.
// The second one ends the process, after a call of forced, also as process 1 of a
// container, to which a signal that nobody handles does nothing.
func untilSignal(forced func(), more ...os.Signal) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, append(more, os.Interrupt, syscall.SIGTERM)...)
	go func() {
		for range signals {
			if ctx.Err() != nil {
				forced()
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
