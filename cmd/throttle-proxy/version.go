package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// What a release says of itself, set when it is linked:
// -ldflags "-X main.version=v1.2.3 -X main.commit=1a2b3c…".
var version, commit string

type versionCommand struct{}

// Run prints one line: version, commit, and what it was compiled by and for.
func (versionCommand) Run(p *process) error {
	release, revision := build()
	_, err := fmt.Fprintf(p.stdout, "throttle-proxy %s, commit %s, %s %s/%s\n", release, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// build is what is known of this binary: the release, or "devel" where it is
// none, and the commit, with a + where files differed from it, or "unknown".
func build() (release, revision string) {
	release, revision = version, commit
	settings := map[string]string{}
	if info, ok := debug.ReadBuildInfo(); ok {
		release = cmp.Or(release, info.Main.Version)
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
	}
	if revision == "" {
		revision = cmp.Or(settings["vcs.revision"], "unknown")
	}
	revision = revision[:min(12, len(revision))]
	if settings["vcs.modified"] == "true" {
		revision += "+"
	}
	if release == "" || release == "(devel)" || strings.HasPrefix(release, "v0.0.0-") {
		release = "devel" // the commit says it
	}
	return release, revision
}

// buildName is one word for this binary, by which replicas tell theirs apart.
func buildName() string {
	release, revision := build()
	if release == "devel" {
		return "devel-" + revision
	}
	return release
}
