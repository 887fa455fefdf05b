package redistest

import (
	_ "embed"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/skew.c
var skewSource string

// StartSkewed starts a server whose wall clock is off by skew, and can be
// stepped.
func StartSkewed(tb testing.TB, skew time.Duration, args ...string) *Server {
	tb.Helper()
	library, clock := filepath.Join(tb.TempDir(), "skew.so"), filepath.Join(tb.TempDir(), "skew")
	compile := exec.Command("gcc", "-shared", "-fPIC", "-o", library, "-xc", "-")
	compile.Stdin = strings.NewReader(skewSource)
	if out, err := compile.CombinedOutput(); err != nil {
		tb.Fatalf("gcc: %v (make test installs it)\n%s", err, out)
	}
	port := FreePort(tb)
	s := &Server{
		Addr:  net.JoinHostPort("127.0.0.1", port),
		tb:    tb,
		args:  append(defaults(tb, "--port", port), args...),
		env:   []string{"LD_PRELOAD=" + library, "SKEW_FILE=" + clock},
		clock: clock,
	}
	s.StepClock(skew)
	return launch(s)
}

// StepClock moves the wall clock of a server that was started by [StartSkewed],
// at once and while it runs: forward, or back if d is negative.
func (s *Server) StepClock(d time.Duration) {
	s.tb.Helper()
	s.skew += d
	file, err := os.OpenFile(s.clock, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer file.Close()
	// The server has the file mapped: it must not be cut in between.
	if _, err := file.Write(binary.NativeEndian.AppendUint64(nil, uint64(s.skew))); err != nil {
		s.tb.Fatal(err)
	}
}
