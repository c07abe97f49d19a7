//go:build unix

package rules

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, path string) *Policy {
	t.Helper()
	p, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const namingFile = `version: 1
secrets: {a: {source: 'exec:get'}, f: {source: 'file:value.txt'}}
sources: {'exec:get': {command: [./get.sh, ../helper, /dev/null, missing]}, hcp: {ca: hcp.pem}}
upstreams: {a.test: {ca: ca.pem, client-cert: c.pem, client-key: k.pem}}
`

func naming(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "project")
	for _, name := range []string{"get.sh", "../helper", "hcp.pem", "ca.pem", "c.pem", "k.pem", "value.txt"} {
		write(t, filepath.Join(dir, name), "content of "+name)
	}
	return write(t, filepath.Join(dir, FileName), namingFile)
}

func TestTheHashCoversTheFileAndEveryFileItNames(t *testing.T) {
	t.Parallel()
	path := naming(t)
	dir := filepath.Dir(path)
	before := load(t, path)
	if len(before.Hash) != 64 || load(t, path).Hash != before.Hash {
		t.Fatalf("hash %q is not stable", before.Hash)
	}
	if len(before.Files) != 6 {
		t.Errorf("files: %v", before.Files)
	}
	seen := map[string]bool{before.Hash: true}
	for _, name := range []string{"get.sh", "../helper", "hcp.pem", "ca.pem", "c.pem", "k.pem", FileName} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString("\n# changed\n")
		f.Close()
		if h := load(t, path).Hash; seen[h] {
			t.Errorf("a change of %s does not show", name)
		} else {
			seen[h] = true
		}
	}
	now := load(t, path).Hash
	write(t, filepath.Join(dir, "value.txt"), "rotated")
	if load(t, path).Hash != now {
		t.Error("the hash tells of the value of a file: source")
	}
}

func TestNamedFilesAreReadOnce(t *testing.T) {
	t.Parallel()
	path := naming(t)
	p := load(t, path)
	write(t, filepath.Join(filepath.Dir(path), "ca.pem"), "swapped")
	ca, cert, key := p.Upstream(Authority{"a.test", 443}).Files()
	if string(ca) != "content of ca.pem" || string(cert) != "content of c.pem" || string(key) != "content of k.pem" {
		t.Errorf("%q %q %q", ca, cert, key)
	}
}

func TestH12FilesThatOthersMayWriteAreRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{FileName, "ca.pem", "k.pem", "get.sh"} {
		path := naming(t)
		target := filepath.Join(filepath.Dir(path), name)
		for mode, ok := range map[fs.FileMode]bool{0o644: true, 0o444: true, 0o755: true, 0o664: false, 0o646: false, 0o666: false} {
			if err := os.Chmod(target, mode); err != nil {
				t.Fatal(err)
			}
			_, err := Load(path)
			var bad *FileError
			if ok != (err == nil) || !ok && (!errors.As(err, &bad) || bad.Fix != "chmod go-w "+target || bad.Path != target) {
				t.Errorf("%s with mode %o: %v", name, mode, err)
			}
		}
	}
	if os.Geteuid() == 0 {
		path := naming(t)
		if err := os.Chown(path, 12345, -1); err != nil {
			t.Fatal(err)
		}
		var bad *FileError
		if _, err := Load(path); !errors.As(err, &bad) || !strings.HasPrefix(bad.Fix, "sudo chown") {
			t.Errorf("another owner: %v", err)
		}
	}
}

func TestWhatIsNoFileIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	large := write(t, filepath.Join(dir, "large"), strings.Repeat("#", maxSize+1))
	for _, path := range []string{fifo, dir, large} {
		var bad *FileError
		if _, err := Load(path); !errors.As(err, &bad) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := Load(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), "missing") != 1 {
		t.Errorf("a missing file: %v", err)
	}
	// A symlink is followed; what counts is the file that was opened.
	link := filepath.Join(dir, "link")
	if err := os.Symlink(write(t, filepath.Join(dir, "real"), "version: 1\n"), link); err != nil {
		t.Fatal(err)
	}
	if p := load(t, link); p.Path != link {
		t.Errorf("path %q", p.Path)
	}
	if err := os.Chmod(filepath.Join(dir, "real"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(link); err == nil {
		t.Error("a symlink hides that others may write the file")
	}
	write(t, filepath.Join(dir, "naming"), strings.Replace(namingFile, "ca: ca.pem", "ca: "+fifo, 1))
	if _, err := Load(filepath.Join(dir, "naming")); err == nil {
		t.Error("a FIFO for a CA")
	}
}

func TestRulesAreLookedForUpwardsThenInTheConfigFolder(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	cwd := filepath.Join(root, "a", "b")
	config := filepath.Join(root, "config")
	for _, dir := range []string{cwd, config} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	find := func(want string) {
		t.Helper()
		if got, err := Find("", cwd, config); err != nil || got != want {
			t.Errorf("Find = %q, %v; want %q", got, err, want)
		}
	}
	var none *NoRulesError
	if _, err := Find("", cwd, config); !errors.As(err, &none) || none.Looked[0] != cwd || none.Looked[len(none.Looked)-1] != config {
		t.Errorf("%v", err)
	}
	find(write(t, filepath.Join(config, FileName), ""))
	find(write(t, filepath.Join(root, FileName), ""))
	find(write(t, filepath.Join(cwd, FileName), ""))
	if got, err := Find("x/../own.yaml", cwd, config); err != nil || got != filepath.Join(cwd, "own.yaml") {
		t.Errorf("explicit: %q %v", got, err)
	}
}
