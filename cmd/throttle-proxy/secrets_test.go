package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// token is like most secrets. Where a flag is for secrets, a word and a number
// are planted too, which messages may repeat of any other flag.
const token = "S3cr3t"

var weak = []string{"hunter", "987654"}

// spellings are ways in which people write a value with a secret, $ in its
// place; file: and env: are completed by the test.
var spellings = []string{
	"$", "$\n", " $ ", `"$"`, "'$'", "-$", "--$", "a=$", "a= $", `a="$"`, "a=a=$", "b=$", "a=$=", "A=$", "=$", "$,$", "a:$", "a: $",
	"X-Key=$", "X-Key: $", "X-Key $", "X-Key:$", `"X-Key=$"`, "a=X-Key=$", "a=X-Key: $", "b=X-Key=$", "Authorization=Bearer $", "Authorization: Bearer $",
	"Authorization=Basic $==", "a=Authorization=Bearer $", "X-Key=$\n", "X-Key=a\x01$", "X Key=$", "Content-Length=$", "X-Key=env:$", "X-Key=file:$",
	"env:$", "env:a/$", "env:https://127.0.0.1:1/$", "a=env:$", "a=env:$/b", "file:$", "file:/nowhere/$", "a=file:$", "a=file:/nowhere/$", "a=file://$",
	"https://127.0.0.1:1/$", "a=https://127.0.0.1:1/$", "a=https://127.0.0.1:1/?k=$", "a=https://user:$@127.0.0.1:1/", "a=https://user:$", "a=https://user:$/",
	"a=https://127.0.0.1:1/#$", "a=https://127.0.0.1:1/%zz$", "a=htps://127.0.0.1:1/$", "a=https:/127.0.0.1:1/$", "a=//127.0.0.1:1/$", "a=127.0.0.1:1/$", "a=https:///$",
	"a/$=https://127.0.0.1:1/", "A=https://127.0.0.1:1/$", "a=https://127.0.0.1:1/$,b=https://127.0.0.1:1/$", "a https://127.0.0.1:1/$", "a='https://127.0.0.1:1/$'",
	"redis://user:$", "redis://user:$/0", "redis://:$@127.0.0.1:1", "redis://$@127.0.0.1:1", "redis://user:$@", "redis://127.0.0.1:1/$", "redis://127.0.0.1:1/0/$", "redis://127.0.0.1:1?password=$",
	"redis://127.0.0.1:1?$", "redis://127.0.0.1:1#$", "redis://user:%zz$@127.0.0.1:1", "redis://user:a/$@127.0.0.1:1", "redis:$@127.0.0.1:1", "redis+tls://:$@127.0.0.1:1",
	"redis+sentinel://:$@127.0.0.1:1", "redis+cluster://:$@127.0.0.1:1/1", "redis://:$@127.0.0.1:1,127.0.0.1:1", "unix://$", "unix:$", "unix:/nowhere/$", "$://127.0.0.1:1",
	"1/s,$", "1/s,by=$", "1/s,by=client,$", "1/s,burst=$", "1/$", "$/s", "1$", "1s$", "$1s", "10$MiB", "10.0.0.0/$", "127.0.0.1:$",
}

// FuzzNoMessageQuotesASecret plants a secret in the value of each flag, in each
// spelling, and with noise about it, for each command and by each way to give
// it: no output may have it.
func FuzzNoMessageQuotesASecret(f *testing.F) {
	flags, takesSecrets := []string{}, map[string]bool{}
	parser, _ := grammar(f, nil)
	for _, command := range parser.Model.Leaves(false) {
		for _, flag := range command.Flags {
			if !slices.Contains(flags, flag.Name) {
				flags = append(flags, flag.Name)
				takesSecrets[flag.Name] = strings.Contains(flag.Help, "env:")
			}
		}
	}
	for i, flag := range flags {
		for j := range spellings {
			if takesSecrets[flag] || j == 0 || (i+j)%49 == 0 { // which is all of it, but for time
				f.Add(uint8(i), uint8(j), "")
			}
		}
	}
	path := filepath.Join(f.TempDir(), "file")
	f.Fuzz(func(t *testing.T, i, j uint8, noise string) {
		if strings.Trim(noise, "'\" \t\n,;:=-") != "" {
			return // it could make a name of the secret
		}
		name, spelling := flags[int(i)%len(flags)], spellings[int(j)%len(spellings)]
		route, wrong := "THROTTLE_PROXY_REGISTER=a=http://127.0.0.1:1", "THROTTLE_PROXY_REPLICAS=0" // so that nothing serves
		tell := func(secret string, environ []string, args ...string) {
			var stdout, stderr bytes.Buffer
			run(args, environ, &stdout, &stderr)
			if out := stdout.String() + stderr.String(); strings.Contains(out, secret) {
				t.Errorf("%q with %q: got %q", args, environ, out)
			}
		}

		flag, value := "--"+name, strings.ReplaceAll(spelling, "$", token+noise)
		tell(token, []string{route}, "check", flag+"="+value)
		tell(token, []string{route, wrong, variableOf(name) + "=" + value}, "serve")
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		switch (int(i) + int(j)) % 12 { // other commands and words
		case 0:
			tell(token, []string{route, wrong}, flag, value)
		case 1:
			tell(token, []string{route, wrong}, flag+"x="+value)
		case 2:
			tell(token, []string{route, wrong}, "serve", flag, "a", value)
		case 3:
			tell(token, nil, "demo", flag+"="+value)
		case 4:
			tell(token, nil, "version", value)
		case 5:
			tell(token, []string{"THROTTLE_PROXY_LISTEN=unix:/nowhere/socket"}, "health", flag+"="+value)
		case 6:
			tell(token, []string{route, wrong}, flag+"="+value)
		case 7:
			tell(token, []string{variableOf(name) + "X=" + value}, "version")
		default:
			reference := [...]string{"env:SECRET", "file:" + path, "a=env:SECRET", "X-Key=file:" + path}[j%4]
			tell(token, []string{route, wrong, "SECRET=" + value}, flag+"="+reference)
		}

		asName := strings.HasPrefix(spelling, "-") || strings.Contains(spelling, "$=")
		if secret := weak[j%2]; takesSecrets[name] && !asName && noise == "" {
			tell(secret, []string{route}, "check", flag+"="+strings.ReplaceAll(spelling, "$", secret))
		}
	})
}
