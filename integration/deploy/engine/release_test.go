package engine

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const releaseDir = "../../../bin/release"

// archived returns the files of an archive, by name.
func archived(t *testing.T, file string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	add := func(name string, r io.Reader) {
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatalf("%s: %s: %v", file, name, err)
		}
		files[name] = text
	}
	if strings.HasSuffix(file, ".zip") {
		archive, err := zip.OpenReader(file)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = archive.Close() }()
		for _, entry := range archive.File {
			r, err := entry.Open()
			if err != nil {
				t.Fatal(err)
			}
			add(entry.Name, r)
		}
		return files
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(unzipped); ; {
		entry, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		} else if err != nil {
			t.Fatal(err)
		}
		add(entry.Name, archive)
	}
}

func TestReleaseHasAnArchiveForEachPlatform(t *testing.T) {
	sums, err := os.ReadFile(filepath.Join(releaseDir, "checksums.txt"))
	if err != nil {
		t.Fatalf("%v (make release SNAPSHOT=1 writes it)", err)
	}
	var platforms []string
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		text, err := os.ReadFile(filepath.Join(releaseDir, name))
		if err != nil || fmt.Sprintf("%x", sha256.Sum256(text)) != sum {
			t.Errorf("%s: %v, or another checksum", name, err)
		}
		platform := strings.TrimPrefix(name, "throttle-proxy_"+os.Getenv("VERSION")+"_")
		platforms = append(platforms, platform)
		files := archived(t, filepath.Join(releaseDir, name))
		binary := "throttle-proxy"
		if strings.HasSuffix(name, ".zip") {
			binary += ".exe"
		}
		for _, want := range []string{
			binary, "LICENSE", "README.md", "CHANGELOG.md", "docs/deploy.md", "deploy/throttle-proxy.service", "deploy/throttle-proxy.socket",
			"extras/throttle-proxy.bash", "extras/throttle-proxy.zsh", "extras/throttle-proxy.fish", "extras/throttle-proxy.1",
		} {
			if len(files[want]) == 0 {
				t.Errorf("%s: no %s", name, want)
			}
		}
		if platform == "linux_amd64.tar.gz" {
			versionIs(t, files[binary])
		}
	}
	slices.Sort(platforms)
	if got, want := strings.Join(platforms, " "), "darwin_amd64.tar.gz darwin_arm64.tar.gz linux_amd64.tar.gz linux_arm64.tar.gz windows_amd64.zip windows_arm64.zip"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// versionIs runs a released program.
func versionIs(t *testing.T, binary []byte) {
	t.Helper()
	file := path.Join(t.TempDir(), "throttle-proxy")
	if err := os.WriteFile(file, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	said, err := exec.Command(file, "version").CombinedOutput()
	if want := os.Getenv("VERSION"); err != nil || want == "" || !strings.Contains(string(said), want) {
		t.Errorf("version says %q, %v, want %q in it", said, err, want)
	}
}
