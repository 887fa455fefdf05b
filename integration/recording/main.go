// Recording draws docs/demo.svg: what `throttle-proxy demo` says, and what the
// commands that it suggests get, as a terminal that types. It takes the
// binary's path, runs it, and writes the drawing to standard output:
//
//	make recording
//
// What differs from run to run without meaning anything is made the same or cut
// off: ports, random ids, and the order of statuses. So a second recording is
// equal to the first unless the program, or a machine that is too slow for 5/s,
// says something else.
package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		_, _ = fmt.Fprintln(os.Stderr, "usage: recording PATH-OF-THE-BINARY > docs/demo.svg")
		os.Exit(2)
	}
	steps, err := record(os.Args[1])
	if err == nil {
		err = draw(os.Stdout, steps)
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "recording:", err)
		os.Exit(1)
	}
}

// step is a command that is typed, and what it prints.
type step struct {
	where  string // the terminal, in words; empty for the one of before
	typed  string
	output []string
	takes  time.Duration // until the output is there, in the drawing
}

// takes is how long each command that the demo suggests takes, in the drawing.
var takes = []time.Duration{500 * time.Millisecond, 500 * time.Millisecond, 500 * time.Millisecond, 2300 * time.Millisecond}

// record runs the demo and the commands that it suggests. Each of the commands
// is a shell line with curl in it.
func record(binary string) ([]step, error) {
	demo := exec.Command(binary, "demo")
	demo.Stderr = os.Stderr
	stdout, err := demo.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := demo.Start(); err != nil {
		return nil, err
	}
	defer func() { // it has nothing to lose, and says no more
		_ = demo.Process.Signal(syscall.SIGTERM)
		_ = demo.Wait()
	}()
	deadline := time.AfterFunc(time.Minute, func() { _ = demo.Process.Kill() })
	defer deadline.Stop()

	steps := []step{{typed: "throttle-proxy demo", takes: 1500 * time.Millisecond}}
	var suggested []string
	lines := bufio.NewScanner(stdout)
	for len(suggested) < len(takes) && lines.Scan() {
		steps[0].output = append(steps[0].output, lines.Text())
		if command, ok := strings.CutPrefix(lines.Text(), "  "); ok && strings.Contains(command, "curl ") {
			suggested = append(suggested, command)
		}
	}
	if len(suggested) < len(takes) {
		return nil, fmt.Errorf("the demo suggested %d commands, want %d", len(suggested), len(takes))
	}
	for i, command := range suggested {
		time.Sleep(2 * time.Second) // as a reader would: the budget is full again
		output, err := exec.Command("sh", "-c", command).Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", command, err)
		}
		next := step{typed: command, output: strings.Split(strings.TrimRight(string(output), " \n"), "\n"), takes: takes[i]}
		for j, line := range next.output {
			next.output[j] = refusalsFirst(line)
		}
		if i == 0 {
			next.where = "another terminal"
		}
		steps = append(steps, next)
	}
	sameAddresses(steps)
	return steps, nil
}

var onlyStatuses = regexp.MustCompile(`^(\d{3} ?)+$`)

// refusalsFirst puts a line of statuses in the order in which they come as a
// rule: a refusal is told at once.
func refusalsFirst(line string) string {
	if !onlyStatuses.MatchString(line) {
		return line
	}
	statuses := strings.Fields(line)
	slices.SortFunc(statuses, func(a, b string) int { return strings.Compare(b, a) })
	return strings.Join(statuses, " ")
}

var address = regexp.MustCompile(`127\.0\.0\.1:\d+`)

// sameAddresses gives the replicas ports in the order in which they are named.
func sameAddresses(steps []step) {
	var seen []string
	same := func(text string) string {
		return address.ReplaceAllStringFunc(text, func(a string) string {
			if !slices.Contains(seen, a) {
				seen = append(seen, a)
			}
			return fmt.Sprintf("127.0.0.1:%d", 4001+slices.Index(seen, a))
		})
	}
	for i := range steps {
		steps[i].typed = same(steps[i].typed)
		for j, line := range steps[i].output {
			steps[i].output[j] = same(line)
		}
	}
}
