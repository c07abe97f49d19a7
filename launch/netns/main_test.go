//go:build linux

package netns

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"standin/launch"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == InitArgument {
		os.Exit(Init())
	}
	if err := launch.Harden(); err != nil { // as the gateway
		panic(err)
	}
	os.Exit(m.Run())
}

// house is a folder with one of the gateway's own in it.
type house struct{ dir, private, kept, secret string }

func newHouse(t testing.TB) house {
	t.Helper()
	h := house{dir: t.TempDir()}
	h.private = filepath.Join(h.dir, "state")
	h.kept = filepath.Join(h.private, "run/s1")
	h.secret = filepath.Join(h.dir, "identity")
	if err := os.MkdirAll(h.kept, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{h.secret, filepath.Join(h.private, "vault.age"), filepath.Join(h.kept, "bundle.pem")} {
		if err := os.WriteFile(path, []byte("content of "+filepath.Base(path)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h house) furniture() Furniture {
	return Furniture{Private: []string{h.private}, Scratch: h.private, Kept: []string{h.kept}, Blank: []string{h.secret}}
}

// stage is a room, and what comes out of it on standard output.
type stage struct {
	testing.TB
	*Room
	house
	out *os.File
}

// newStage skips visibly where the system gives no room.
func newStage(t testing.TB, cfg Config) *stage {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	h := newHouse(t)
	cfg.Stdout, cfg.Stderr, cfg.Environ = in, in, os.Environ()
	if cfg.Dir == "" {
		cfg.Dir = h.dir
	}
	r, err := Open(cfg)
	if err == nil {
		err = r.Ready()
	}
	var lacking *LackingError
	if errors.As(err, &lacking) {
		t.Skipf("no room here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		out.Close()
	})
	return &stage{t, r, h, out}
}

// run runs a shell script in the room and returns its exit code and output.
func (s *stage) run(script string, env ...string) (int, string) {
	s.Helper()
	command, err := launch.Start(launch.Spec{Argv: []string{"sh", "-c", script}, Env: append(os.Environ(), env...), Host: s.Room})
	if err != nil {
		s.Fatal(err)
	}
	code, err := command.Wait()
	if err != nil {
		s.Fatal(err)
	}
	text, err := io.ReadAll(s.out)
	if err != nil {
		s.Fatal(err)
	}
	return code, string(text)
}
