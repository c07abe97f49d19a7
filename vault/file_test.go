package vault

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestReplaceFileTakesTheFixedMode(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	os.WriteFile(path, []byte("old"), 0o644)
	if err := ReplaceFile(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if data, err := ReadPrivate(path); err != nil || string(data) != "new" {
		t.Errorf("%q %v", data, err)
	}
	if err := ReplaceFile(filepath.Join(path, "f"), nil); err == nil {
		t.Error("a file was made below a file")
	}
}

func TestFilesOfDeadWritersAreRemovedAndOthersKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	dead := filepath.Join(dir, ".f.tmp-DEAD")
	other := filepath.Join(dir, ".g.tmp-DEAD")
	os.WriteFile(dead, nil, 0o600)
	os.WriteFile(other, nil, 0o600)
	alive, err := createTemp(dir, ".f.tmp-")
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	if err := ReplaceFile(path, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dead); err == nil {
		t.Error("a dead writer's file was left")
	}
	for _, kept := range []string{alive.Name(), other} {
		if _, err := os.Lstat(kept); err != nil {
			t.Errorf("%s was removed", kept)
		}
	}
}

func TestReplaceFileWithoutLockIsWholeAllTheSame(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 20 {
				if err := ReplaceFile(path, []byte{byte('a' + i), byte('a' + i)}); err != nil {
					t.Error(err)
				}
				if data, err := ReadPrivate(path); err != nil || len(data) != 2 || data[0] != data[1] {
					t.Errorf("%q %v", data, err)
				}
			}
		})
	}
	all.Wait()
}

func TestLockHoldsOneAtATimeAndWaitingEnds(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	var count atomic.Int64 // kept by load and store: a second holder at work would lose counts
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				if err := WithLock(t.Context(), path, func() error { count.Store(count.Load() + 1); return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if count.Load() != 400 {
		t.Errorf("%d of 400 ran alone", count.Load())
	}
	want := errors.New("mine")
	err := WithLock(t.Context(), path, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		if err := WithLock(ctx, path, func() error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second holder: %v", err)
		}
		return want
	})
	if err != want {
		t.Error(err)
	}
}

func TestQuoteMakesOneWord(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"/a/b-c.d": "/a/b-c.d", "/a b": "'/a b'", "it's": `'it'\''s'`, "-rf": "'-rf'", "$(x)": "'$(x)'", "": "''"} {
		if got := quote(path); got != want {
			t.Errorf("%q became %s", path, got)
		}
	}
	if got := quote("a\x1b[0m"); got != `$"a\x1b[0m"` {
		t.Errorf("control characters: %s", got)
	}
}
