package main

import (
	"reflect"
	"strings"
	"testing"
)

// given returns what a flag is set to: all values if it can be repeated.
func given(t *testing.T, flag string, environ []string, args ...string) any {
	t.Helper()
	parser, _ := grammar(t, environ)
	ctx, err := parser.Parse(args)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range ctx.Flags() {
		if f.Name == flag {
			return f.Target.Interface()
		}
	}
	t.Fatalf("no flag --%s", flag)
	return nil
}

func TestEveryFlagHasAVariable(t *testing.T) {
	for _, command := range []string{"serve", "check", "health"} {
		for _, flag := range flagsOf(t, command) {
			t.Run(command+" --"+flag.Name, func(t *testing.T) {
				var fromVariable, fromFlag any = "a,b c", "x, y"
				if flag.IsSlice() { // split at white space, and only in the variable
					fromVariable, fromFlag = []string{"a,b", "c"}, []string{"x, y"}
				}
				variable := "THROTTLE_PROXY_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
				environ := []string{variable + "=a,b c"}
				if got := given(t, flag.Name, environ, command); !reflect.DeepEqual(got, fromVariable) {
					t.Errorf("%s: got %q, want %q", environ[0], got, fromVariable)
				}
				if got := given(t, flag.Name, environ, command, "--"+flag.Name+"=x, y"); !reflect.DeepEqual(got, fromFlag) {
					t.Errorf("the flag in place of its variable: got %q, want %q", got, fromFlag)
				}
			})
		}
	}
}

func TestWhichVariableCounts(t *testing.T) {
	for _, test := range []struct{ line, flag, want string }{
		{"", "port", "44444"},
		{"PORT=8080", "port", "8080"},
		{"PORT=", "port", "44444"},
		{"PORT=8080 THROTTLE_PROXY_PORT=8081", "port", "8081"},
		{"PORT=8080 THROTTLE_PROXY_PORT=8081 --port 8082", "port", "8082"},
		{"THROTTLE_PROXY_PORT=tcp://10.0.0.1:44444", "port", "44444"},
		{"PORT=8080 THROTTLE_PROXY_PORT=tcp://10.0.0.1:44444", "port", "8080"},
		{"PORT=8080 health", "port", "8080"},
		{"", "redis", "none"},
		{"REDIS_URL=redis://a", "redis", "redis://a"},
		{"REDIS_URL=redis://a THROTTLE_PROXY_REDIS=redis://b", "redis", "redis://b"},
		{"REDIS_URL=redis://a --redis none", "redis", "none"},
		{"LISTEN=:1", "listen", ""},
	} {
		args, environ := shell(test.line)
		if got := given(t, test.flag, environ, args...); got != test.want {
			t.Errorf("%s: got --%s %q, want %q", test.line, test.flag, got, test.want)
		}
	}
}

func TestUnknownVariablesAreWarnedAboutByName(t *testing.T) {
	_, _, got := execute("THROTTLE_PROXY_RATES=CANARY THROTTLE_PROXY_DEDUPE_HEADERS=CANARY " +
		"THROTTLE_PROXY_REGSTER=a THROTTLE_PROXY_XYZ=1 THROTTLE_PROXY_REDIS_URL=redis://CANARY THROTTLE_PROXY_RATE=1/s THROTTLE_PROXY_LOCK_TTL=5s THROTTLE=1 PATH=/bin " +
		// Kubernetes sets these, for a Service that is called throttle-proxy.
		"THROTTLE_PROXY_PORT=tcp://10.0.0.1:44444 THROTTLE_PROXY_PORT_44444_TCP=tcp://10.0.0.1:44444 " +
		"THROTTLE_PROXY_PORT_44444_TCP_ADDR=10.0.0.1 THROTTLE_PROXY_SERVICE_HOST=10.0.0.1 " +
		"THROTTLE_PROXY_SERVICE_PORT=44444 THROTTLE_PROXY_SERVICE_PORT_HTTP=44444 version")
	want := "throttle-proxy: warning: unknown variable THROTTLE_PROXY_DEDUPE_HEADERS has no effect, did you mean THROTTLE_PROXY_DEDUPE_HEADER?\n" +
		"throttle-proxy: warning: unknown variable THROTTLE_PROXY_RATES has no effect, did you mean THROTTLE_PROXY_RATE?\n" +
		"throttle-proxy: warning: unknown variable THROTTLE_PROXY_REDIS_URL has no effect: on the command line, write --redis URL, as in --redis redis://host:6379\n" +
		"throttle-proxy: warning: unknown variable THROTTLE_PROXY_REGSTER has no effect, did you mean THROTTLE_PROXY_REGISTER?\n" +
		"throttle-proxy: warning: unknown variable THROTTLE_PROXY_XYZ has no effect\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
