package audit

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"standin/audit/segment"
)

var errTestDisk = errors.New("no space left on this test's device")

// faults makes files that are real, but whose writes fail when told so.
type faults struct {
	mu      sync.Mutex
	err     error
	partial int  // bytes that reach the file before the error
	keep    bool // what reached it stays: even cutting it off fails
	made    []string
}

func (f *faults) fail(err error, partial int, keep bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.partial, f.keep = err, partial, keep
}

func (f *faults) state() (error, int, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err, f.partial, f.keep
}

func (f *faults) create(dir, name string) (file, error) {
	s, err := segment.Create(dir, name)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.made = append(f.made, name)
	return &faultyFile{s, f, false}, nil
}

type faultyFile struct {
	*segment.File
	faults *faults
	broken bool
}

func (f *faultyFile) Append(b []byte) error {
	if f.broken {
		panic("written to after an error")
	}
	err, partial, _ := f.faults.state()
	if err == nil {
		return f.File.Append(b)
	}
	f.broken = true
	raw, openErr := os.OpenFile(f.Path(), os.O_WRONLY|os.O_APPEND, 0)
	if openErr == nil {
		raw.Write(b[:min(partial, len(b))])
		raw.Close()
	}
	return err
}

func (f *faultyFile) GiveUp() {
	if _, _, keep := f.faults.state(); !keep {
		f.File.GiveUp()
	}
}

func (f *faultyFile) Remove() error {
	if _, _, keep := f.faults.state(); keep {
		f.Close()
		return errTestDisk
	}
	return f.File.Remove()
}

// waitRetry waits until the log tries to write again.
func waitRetry() { time.Sleep(retryDelay + 20*time.Millisecond) }

// withDisk opens a log on a disk that can fail.
func (h house) withDisk(t testing.TB, c Config) (*Log, *faults) {
	t.Helper()
	f := &faults{}
	l, err := open(h.dir, h.keys, c, f.create)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, f
}

func unavailable(t testing.TB, err error) {
	t.Helper()
	var u *UnavailableError
	if !errors.As(err, &u) {
		t.Fatalf("got %v, want an UnavailableError", err)
	}
}

// count returns how many records of a type there are, by their path.
func (h house) count(t testing.TB, kind string) map[string]int {
	t.Helper()
	n := map[string]int{}
	if err := Query(h.dir, Filter{}, func(e *Entry) error {
		if e.Type == kind {
			n[e.Path] += max(1, e.Count)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFailedWriteRefusesAndLaterRecovers(t *testing.T) {
	t.Parallel()
	for _, partial := range []int{0, 1, 300, 1 << 20} {
		for _, keep := range []bool{false, true} {
			h := newHouse(t)
			l, disk := h.withDisk(t, Config{})
			appendTo(t, l, &Record{Type: TypeSubstitute, Path: "/before"})
			disk.fail(errTestDisk, partial, keep)
			if err := l.Note(&Record{Type: TypeResult, Path: "/noted"}); err != nil {
				t.Fatal(err)
			}
			err := l.Append(context.Background(), &Record{Type: TypeSubstitute, Path: "/refused"})
			unavailable(t, err)
			if !errors.Is(err, errTestDisk) {
				t.Errorf("the cause is lost: %v", err)
			}
			unavailable(t, l.Append(context.Background(), &Record{Type: TypeSubstitute, Path: "/refused"}))
			waitRetry()
			unavailable(t, l.Append(context.Background(), &Record{Type: TypeSubstitute, Path: "/refused"}))
			disk.fail(nil, 0, false)
			waitRetry()
			appendTo(t, l, &Record{Type: TypeSubstitute, Path: "/after"})
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			r := h.verify(t, l.Anchor())
			left := keep && partial > 0
			if want := map[bool]int{false: Whole, true: Unproven}[left]; r.Code != want {
				t.Errorf("partial %d, keep %v: code %d, want %d: %v %+v", partial, keep, r.Code, want, r.Problems, r.Streams)
			}
			if (r.Streams[0].GivenUp > 0) != left {
				t.Errorf("partial %d, keep %v: %d bytes given up", partial, keep, r.Streams[0].GivenUp)
			}
			got := h.count(t, TypeSubstitute)
			if got["/before"] != 1 || got["/after"] != 1 || got["/refused"] != 0 {
				t.Errorf("partial %d, keep %v: substitutions %v", partial, keep, got)
			}
			if n := h.count(t, TypeResult)["/noted"]; n != 1 {
				t.Errorf("partial %d, keep %v: the note is there %d times", partial, keep, n)
			}
		}
	}
}

func TestNotesOutliveAFailureThatNobodyAsksAbout(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	l, disk := h.withDisk(t, Config{})
	disk.fail(errTestDisk, 10, false)
	if err := l.Note(&Record{Type: TypeResult, Path: "/noted"}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(noteDelay + 50*time.Millisecond)
	disk.fail(nil, 0, false)
	for range 100 {
		if h.count(t, TypeResult)["/noted"] == 1 {
			h.wants(t, Unproven)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the note was never written")
}

func TestNoteFailsWhereNoMoreCanBeKept(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	l, disk := h.withDisk(t, Config{})
	disk.fail(errTestDisk, 0, false)
	accepted := 0
	var err error
	for accepted = 0; accepted < 100_000; accepted++ {
		if err = l.Note(&Record{Type: TypeResult, Path: "/noted"}); err != nil {
			break
		}
	}
	unavailable(t, err)
	disk.fail(nil, 0, false)
	// An attempt with very many notes may be under way, and fail late.
	for range 50 {
		if err = l.Append(context.Background(), substitution(1)); err == nil {
			break
		}
		waitRetry()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	h.wants(t, Whole, l.Anchor())
	if n := h.count(t, TypeResult)["/noted"]; n != accepted {
		t.Errorf("%d notes were accepted and %d written", accepted, n)
	}
}

func TestCloseOnAFailedDiskSaysSo(t *testing.T) {
	h := newHouse(t)
	l, disk := h.withDisk(t, Config{})
	appendTo(t, l, substitution(1))
	disk.fail(errTestDisk, 5, true)
	if err := l.Close(); !errors.Is(err, errTestDisk) {
		t.Fatalf("close: %v", err)
	}
	unavailable(t, l.Append(context.Background(), substitution(2)))
	unavailable(t, l.Note(substitution(2)))
	h.wants(t, Torn)
}
