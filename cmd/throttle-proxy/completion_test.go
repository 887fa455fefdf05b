package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// completers ask each shell what it suggests for a command line, of which $@
// is what has been written, the last word unfinished.
var completers = map[string]string{
	"bash": `COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _throttle_proxy; printf '%s\n' "${COMPREPLY[@]}"`,
	// What zsh itself would filter by the unfinished word.
	"zsh": `compdef() { }; _describe() { print -rl -- "${(@P)${@[-1]}}" }
		words=("$@"); CURRENT=$#; _throttle_proxy | cut -d: -f1 | grep "^${@[-1]}"`,
	"fish": `complete -C (string join ' ' -- $argv) | string split -f 1 \t`,
}

func TestShellsComplete(t *testing.T) {
	for shell, ask := range completers {
		_, script, _ := execute("completion " + shell)
		for line, want := range map[string][]string{
			"ver":          {"version"},
			"--redis-p":    {"--redis-pipeline", "--redis-prefix"},
			"check --regi": {"--register"},
			"health --li":  {"--listen"},
			"health --reg": {},
			"completion z": {"zsh"},
		} {
			args := append(strings.Fields("throttle-proxy"), strings.Fields(line)...)
			if shell != "fish" {
				args = append([]string{shell}, args...) // $0
			}
			cmd := exec.Command(shell, append([]string{"-c", script + "\n" + ask}, args...)...)
			cmd.Dir = t.TempDir() // has no files to suggest
			cmd.Env = []string{"HOME=" + cmd.Dir, "PATH=/usr/bin:/bin"}
			out, _ := cmd.Output() // grep fails where nothing fits
			got := strings.Fields(string(out))
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s: %s: got %v, want %v", shell, line, got, want)
			}
		}
	}
}

func TestCompletionNeedsAShellThatItKnows(t *testing.T) {
	for _, line := range []string{"completion", "completion tcsh"} {
		status, _, stderr := execute(line)
		if status != exitUsage || !strings.Contains(stderr, "completion bash, zsh or fish") {
			t.Errorf("%s: got status %d, %q", line, status, stderr)
		}
	}
}

// The manual page has every flag, and no line of a text is taken for a request.
func TestManualPage(t *testing.T) {
	_, page, _ := execute("man")
	for _, flag := range flagsOf(t, "serve") {
		if flag.Name != "help" && !strings.Contains(page, "\n"+`.B \-\-\&`+strings.ReplaceAll(flag.Name, "-", `\-`)+" ") {
			t.Errorf("--%s is not in the page", flag.Name)
		}
	}
	requests := []string{"TH", "SH", "TP", "B", "PP", "EX", "EE", "br"}
	for line := range strings.Lines(page) {
		request, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name, ok := strings.CutPrefix(request, "."); ok && !slices.Contains(requests, name) || strings.HasPrefix(line, "'") {
			t.Errorf("taken for a request: %s", line)
		}
	}
}
