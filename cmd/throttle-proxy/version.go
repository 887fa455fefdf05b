package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// version is the release's, which is set when it is linked:
// -ldflags "-X main.version=v1.2.3".
var version string

type versionCommand struct{}

// Run prints one line: version, commit, and what it was compiled by and for.
func (versionCommand) Run(p *process) error {
	release, commit := build()
	_, err := fmt.Fprintf(p.stdout, "throttle-proxy %s, commit %s, %s %s/%s\n", release, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// build is what is known of this binary: the release, or "devel" where it is
// none, and the commit, with a + where files differed from it, or "unknown".
func build() (release, commit string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return cmp.Or(version, "devel"), "unknown"
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	commit = settings["vcs.revision"]
	commit = cmp.Or(commit[:min(12, len(commit))], "unknown")
	if settings["vcs.modified"] == "true" {
		commit += "+"
	}
	release = cmp.Or(version, info.Main.Version)
	if release == "" || release == "(devel)" || strings.HasPrefix(release, "v0.0.0-") {
		release = "devel" // the commit says it
	}
	return release, commit
}

// buildName is one word for this binary, by which replicas tell theirs apart.
func buildName() string {
	release, commit := build()
	if release == "devel" {
		return "devel-" + commit
	}
	return release
}
