package segment

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func create(t *testing.T, dir, name string) *File {
	t.Helper()
	f, err := Create(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func privateTemp(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "private")
	if err := PrivateDir(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAFileIsMadeOnceAndLocked(t *testing.T) {
	dir := privateTemp(t)
	f := create(t, dir, "a")
	if _, err := Create(dir, "a"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made twice: %v", err)
	}
	if !Running(f.Path()) {
		t.Error("not locked")
	}
	f.Close()
	if Running(f.Path()) {
		t.Error("locked after Close")
	}
	if err := f.Append([]byte("x")); err == nil {
		t.Error("written to after Close")
	}
}

func TestAFileIsNotMadeThroughALink(t *testing.T) {
	dir := privateTemp(t)
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), filepath.Join(dir, "a")); err != nil {
		t.Skip(err)
	}
	if _, err := Create(dir, "a"); err == nil {
		t.Error("a symbolic link was followed")
	}
	if _, err := Open(filepath.Join(dir, "a")); err == nil {
		t.Error("a symbolic link was read")
	}
	if _, _, err := Read(filepath.Join(dir, "a")); err == nil {
		t.Error("a symbolic link was read by a stranger")
	}
}

func TestReservedSpaceIsNoPartOfTheFile(t *testing.T) {
	f := create(t, privateTemp(t), "a")
	if err := f.Reserve(1 << 20); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := f.Append([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(f.Path()); err != nil || string(b) != "line\nline\nline\n" || f.Size() != 15 {
		t.Errorf("%q, %v", b, err)
	}
	if err := f.Check(); err != nil {
		t.Error(err)
	}
	f.Trim()
	if err := f.Append([]byte("line\n")); err != nil {
		t.Error(err)
	}
}

func TestAFileThatWasGivenUpIsNotWrittenToAgain(t *testing.T) {
	f := create(t, privateTemp(t), "a")
	if err := f.Append([]byte("durable\n")); err != nil {
		t.Fatal(err)
	}
	other, err := os.OpenFile(f.Path(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	other.WriteString("never confirmed")
	other.Close()
	f.GiveUp()
	if err := f.Append([]byte("more\n")); err == nil {
		t.Error("written to")
	}
	if b, _ := os.ReadFile(f.Path()); string(b) != "durable\n" {
		t.Errorf("%q", b)
	}
}

func TestLocksAreHeldByOneAtATime(t *testing.T) {
	path := filepath.Join(privateTemp(t), ".lock")
	var all sync.WaitGroup
	var inside, most int
	var mu sync.Mutex
	for range 8 {
		all.Go(func() {
			l, err := Lock(path, 10*time.Second)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			inside++
			most = max(most, inside)
			mu.Unlock()
			time.Sleep(time.Millisecond)
			mu.Lock()
			inside--
			mu.Unlock()
			l.Close()
		})
	}
	all.Wait()
	if most != 1 {
		t.Errorf("%d at once", most)
	}
	l, err := Lock(path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := Lock(path, 5*time.Millisecond); !errors.Is(err, ErrLocked) {
		t.Errorf("%v", err)
	}
}

func TestFixesCanBeTyped(t *testing.T) {
	if os.Geteuid() < 0 {
		t.Skip("modes mean nothing here")
	}
	dir := filepath.Join(t.TempDir(), "it's mine")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	var mode *ModeError
	if err := PrivateDir(dir); !errors.As(err, &mode) || mode.Fix != "chmod 700 '"+filepath.Dir(dir)+`/it'\''s mine'` {
		t.Errorf("%v: %+v", err, mode)
	}
}
