package main

import (
	"bytes"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// canary stands where tests put secrets. No output may contain it.
const canary = "CANARY"

var assignment = regexp.MustCompile(`^[A-Z][A-Z_0-9]*=`)

// shell reads a command line as a shell does: variables stand before the
// arguments. ␣ is a space within a word.
func shell(line string) (args, environ []string) {
	for _, word := range strings.Fields(line) {
		word = strings.ReplaceAll(word, "␣", " ")
		if len(args) == 0 && assignment.MatchString(word) {
			environ = append(environ, word)
		} else {
			args = append(args, word)
		}
	}
	return args, environ
}

// execute runs a command line to its end.
func execute(line string) (status int, stdout, stderr string) {
	args, environ := shell(line)
	var out, err bytes.Buffer
	status = run(args, environ, &out, &err)
	return status, out.String(), err.String()
}

// grammar returns kong's view of the command line, and where it puts flags.
func grammar(t testing.TB, environ []string) (*kong.Kong, *cli) {
	t.Helper()
	c := &cli{}
	parser, err := kong.New(c, kong.Resolvers(kong.ResolverFunc(newEnvironment(environ).resolve)))
	if err != nil {
		t.Fatal(err)
	}
	return parser, c
}

// flagsOf returns the flags of a command, or of all commands for "".
func flagsOf(t *testing.T, command string) (flags []*kong.Flag) {
	t.Helper()
	parser, _ := grammar(t, nil)
	for _, c := range parser.Model.Leaves(false) {
		if command == "" || c.Name == command {
			flags = append(flags, c.Flags...)
		}
	}
	return flags
}

// parse returns what a command line of serve means.
func parse(t *testing.T, line string) *config {
	t.Helper()
	args, environ := shell(line)
	parser, c := grammar(t, environ)
	_, err := parser.Parse(args)
	var conf *config
	if err == nil {
		conf, err = c.Serve.parse(newEnvironment(environ))
	}
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return conf
}

// occupied returns a loopback address that is taken: a replica that should
// have refused to start ends there.
func occupied(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener.Addr().String()
}

func TestAddressInUseFailsTheStart(t *testing.T) {
	addr := occupied(t)
	status, stdout, stderr := execute("--register a=http://host/CANARY --listen " + addr)
	_, port, _ := net.SplitHostPort(addr)
	if status != exitFailed || stdout != "" || strings.Contains(stderr, canary) {
		t.Errorf("got status %d, %q and %q, want %d", status, stdout, stderr, exitFailed)
	}
	for _, want := range []string{"throttle-proxy: --listen: cannot listen", addr, "choose another port", "ip_local_reserved_ports=" + port} {
		if !strings.Contains(stderr, want) {
			t.Errorf("got %q, want %q in it", stderr, want)
		}
	}
}

// What operators' listener lacks is found before clients can connect.
func TestAdminAddressInUseFailsTheStart(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	status, _, stderr := execute("--register a=http://host/CANARY --listen unix:" + socket + " --admin " + occupied(t))
	if want := "throttle-proxy: --admin: cannot listen: bind: address already in use: write another address, or end what listens there\n"; status != exitFailed || stderr != want {
		t.Errorf("got status %d and %q, want %d and %q", status, stderr, exitFailed, want)
	}
}

// What the system refuses is told with what to write, too.
func TestAddressThatCannotBeListenedOn(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1:0":              "bind: cannot assign requested address: write an address that this host has, or none, as in :44444",
		"nowhere.invalid:0":        "write an address of this host in place of the name",
		"unix:/nowhere/dir/socket": "bind: no such file or directory: write a path in a directory that exists",
		"unix:main_test.go":        "address already in use: write another path, or remove what is there",
	} {
		status, _, stderr := execute("--register a=http://host/CANARY --listen " + address)
		if status != exitFailed || !strings.HasPrefix(stderr, "throttle-proxy: --listen: cannot listen") || !strings.HasSuffix(stderr, want+"\n") {
			t.Errorf("%s: got status %d and %q, want %q", address, status, stderr, want)
		}
	}
}

func TestVersionIsOneLine(t *testing.T) {
	defer func() { version, commit = "", "" }()
	on := " go\\S+ \\w+/\\w+\n$"
	for _, line := range []string{"version", "--version", "-V", "-version"} {
		for _, test := range []struct{ version, commit, want, name string }{ // as they are linked
			{"v1.2.3", "1a2b3c4d5e6f7a8b", "^throttle-proxy v1\\.2\\.3, commit 1a2b3c4d5e6f\\+?," + on, "^v1.2.3$"},
			{"", "", "^throttle-proxy devel, commit \\w+\\+?," + on, "^devel-\\w+\\+?$"},
		} {
			version, commit = test.version, test.commit
			status, stdout, stderr := execute(line)
			if status != 0 || stderr != "" || !regexp.MustCompile(test.want).MatchString(stdout) {
				t.Errorf("%s: got status %d, %q and %q, want %s", line, status, stdout, stderr, test.want)
			}
			if got := buildName(); !regexp.MustCompile(test.name).MatchString(got) {
				t.Errorf("got %s, want %s", got, test.name)
			}
		}
	}
}

func TestWarningsAreTold(t *testing.T) {
	_, stdout, stderr := execute("check --register a=http://127.0.0.1:1 --max-body 10")
	if want := "throttle-proxy: warning: --max-body: 10 is a number of bytes"; !strings.HasPrefix(stderr, want) || !strings.Contains(stdout, "upstream of a") {
		t.Errorf("got %q and %q, want %q and then the check", stdout, stderr, want)
	}
}
