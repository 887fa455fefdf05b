package cluster

import (
	"os"
	"path/filepath"
	"testing"

	"throttle-proxy/integration/redistest"
)

// rotating returns a replica whose URL and files are read again for each
// connection.
func rotating(t *testing.T, source func() (string, error), files TLSFiles) *Redis {
	t.Helper()
	e, err := NewEndpoint(source, files, storeTimeout)
	if err != nil {
		t.Fatal(err)
	}
	return join(t, "", Options{Timeout: storeTimeout, Connect: e.Connect, Watch: e.Watch, Dialled: e.Dialled})
}

func decidedByTheStore(t *testing.T, r *Redis) {
	t.Helper()
	eventually(t, "decided by the store", func() bool {
		v := ask(t, r, by(Open, request("a")))
		v.Grant.Release(0)
		return !v.Degraded
	})
}

func TestRedis_PasswordThatIsChangedIsFollowed(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	server := redistest.Start(t, "--requirepass", "old")
	client := server.Client()
	path := filepath.Join(t.TempDir(), "url")
	write := func(password string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("redis://:"+password+"@"+server.Addr), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	r := rotating(t, func() (string, error) {
		content, err := os.ReadFile(path)
		return string(content), err
	}, TLSFiles{})
	decidedByTheStore(t, r)
	must(t, client.ConfigSet(t.Context(), "requirepass", "new"))
	must(t, client.Do(t.Context(), "client", "kill", "type", "normal", "skipme", "yes"))
	eventually(t, "refused", func() bool { return ask(t, r, by(Open, request("b"))).Fault == "auth" })
	write("new")
	decidedByTheStore(t, r)
}

// Certificates of a single Redis, and of a master and its sentinels.
func TestRedis_CertificatesThatAreChangedAreFollowed(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	for name, start := range map[string]func(*testing.T) (url string, theirs redistest.TLSFiles, renew func() redistest.TLSFiles){
		"single": func(t *testing.T) (string, redistest.TLSFiles, func() redistest.TLSFiles) {
			server, files := redistest.StartTLS(t)
			return server.URL(), files, server.RenewTLS
		},
		"Sentinel": func(t *testing.T) (string, redistest.TLSFiles, func() redistest.TLSFiles) {
			sentinels, files := redistest.StartTLSSentinels(t)
			return sentinels.URL(), files, sentinels.RenewTLS
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, theirs, renew := start(t)
			dir := t.TempDir()
			ours := TLSFiles{CA: filepath.Join(dir, "ca"), Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}
			install := func(files redistest.TLSFiles) {
				t.Helper()
				for to, from := range map[string]string{ours.CA: files.CA, ours.Cert: files.Cert, ours.Key: files.Key} {
					content, err := os.ReadFile(from)
					if err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(to, content, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			install(theirs)
			r := rotating(t, func() (string, error) { return url, nil }, ours)
			decidedByTheStore(t, r)
			renewed := renew()
			eventually(t, "not trusted", func() bool {
				ask(t, r, by(Open, unlocked(charge("many", "1000/h"))))
				return r.Status().Faults["tls"] > 0
			})
			install(renewed)
			decidedByTheStore(t, r)
		})
	}
}

// A user who needs no password is that user all the same.
func TestRedis_UserWithoutAPassword(t *testing.T) {
	t.Parallel()
	skipIfShort(t)
	server := redistest.Start(t, "--user", "nopw", "on", "nopass", "~*", "+@all", "--user", "default", "off")
	r := join(t, "redis://nopw@"+server.Addr, Options{})
	admit(t, r, request("a"))
}
