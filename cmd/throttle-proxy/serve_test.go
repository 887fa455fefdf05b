package main

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestDescribe(t *testing.T) {
	const alone = "store: this process alone; with --redis replicas would decide together"
	for _, test := range []struct {
		line string
		want []string
	}{
		{"--register slack=https://hooks.slack.com/services/CANARY", []string{
			"slack  1/s, burst 5 (Slack's published limit); repeats refused while in flight, 1s after success and 1m after an unknown outcome",
			alone,
		}},
		{"--register d=https://discord.com/api/webhooks/1/CANARY --register t=https://x.webhook.office.com/CANARY --register g=https://api.github.com --cool-down g=learn", []string{
			"d  30/m, burst 5 (Discord's limit, which is not published); repeats refused while in flight, 1s after success and 1m after an unknown outcome",
			"t  60/30s, burst 4 (Microsoft's published limit) and 100/h, burst 100 (Microsoft's published limit); repeats refused while in flight, 1s after success and 1m after an unknown outcome",
			"g  5000/h, burst 100 (GitHub's published limit of a user); repeats refused while in flight, 1s after success and 1m after an unknown outcome; rests also when its upstream says that nothing is left",
			alone,
		}},
		{"--register slack=https://hooks.slack.com/services/CANARY --rate 1/s", []string{
			"slack  1/s, burst 1; repeats refused while in flight, 1s after success and 1m after an unknown outcome",
			alone,
		}},
		{"--register a=http://host --register longer=http://host --rate off --rate longer=10/s --rate longer=100/90s,by=client --hold 0s --cool-down a=off", []string{
			"a       no limit; repeats refused while in flight and 1m after an unknown outcome; never rests",
			"longer  10/s, burst 10 and 100/1m30s, burst 100 by client; repeats refused while in flight and 1m after an unknown outcome",
			alone,
		}},
		{"--register a=http://host --register b=http://host --rate off --hold 5s,unknown=0s --hold b=0s,unknown=0s --duplicate-status a=200", []string{
			"a  no limit; repeats refused with 200 while in flight and 5s after success",
			"b  no limit; repeats refused while in flight",
			alone,
		}},
		{"--register a=http://host --rate off --hold 2h,unknown=90m", []string{
			"a  no limit; repeats refused while in flight, 2h after success and 1h30m after an unknown outcome",
			alone,
		}},
		{"--register slack=https://hooks.slack.com/services/CANARY --rate slack=2/s", []string{
			"slack  2/s, burst 2; repeats refused while in flight, 1s after success and 1m after an unknown outcome",
			alone,
		}},
		{"--register team-a=http://host --pool team=team-a --rate team=7/s", []string{
			"team-a  10/s, burst 20 and 7/s, burst 7 (shared by pool team); repeats refused while in flight, 1s after success and 1m after an unknown outcome",
			alone,
		}},
		{pooled + "--rate p=7/s --dedupe off --dedupe b=all --shadow b=on", []string{
			"a  10/s, burst 20 and 7/s, burst 7 (shared by pool p); repeats are forwarded",
			"b  10/s, burst 20 and 7/s, burst 7 (shared by pool p); repeats, of any method, refused while in flight, 1s after success and 1m after an unknown outcome; shadow: nothing is refused, only reported",
			alone,
		}},
		{"--register a=http://host --rate 1/s,by=client/56 --dedupe-json $.event.id,-$.event.at --shadow on", []string{
			"a  1/s, burst 1 by client/56; repeats refused while in flight, 1s after success and 1m after an unknown outcome, JSON compared by $.event.id -$.event.at; shadow: nothing is refused, only reported",
			alone,
		}},
		{"--register a=http://host --rate 1/s --concurrency 8 --wait 1m --dedupe off", []string{
			"a  1/s, burst 1 and 8 at once; what would be too many waits up to 1m; repeats are forwarded",
			alone,
		}},
		{"REDIS_URL=rediss://user:CANARY@host:6380/1 --register a=http://host --rate 2/m --dedupe key --redis-prefix team --replica-name web-1", []string{
			"a  2/m, burst 2; repeats with an Idempotency-Key refused while in flight, 1s after success and 1m after an unknown outcome",
			"store: rediss://host:6380/1 (from REDIS_URL), keys under team:, this replica is web-1",
		}},
	} {
		if got := parse(t, test.line).describe(); !slices.Equal(got, test.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", test.line, got, test.want)
		}
	}
}

func TestStaleUnixSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	listener, err := (&config{network: "unix", address: path}).listen(t.Context(), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	_ = listener.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("got %v for the socket of a listener that is closed, want none", err)
	}
}

func TestUnixSocketInUseIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	status, _, stderr := execute("--register a=http://host --listen unix:" + path)
	if want := "--listen: something else listens on " + path; status != exitFailed || !strings.Contains(stderr, want) {
		t.Errorf("got status %d and %q, want %d and %q", status, stderr, exitFailed, want)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first listener is gone: %v", err)
	}
	_ = conn.Close()
}

func TestFileInPlaceOfAUnixSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("notes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := execute("--register a=http://host --listen unix:" + path); status != exitFailed || !strings.Contains(stderr, path) {
		t.Errorf("got status %d and %q, want %d and the path", status, stderr, exitFailed)
	}
	if got, err := os.ReadFile(path); string(got) != "notes" {
		t.Errorf("got %q and %v, want the file as it was", got, err)
	}
}
