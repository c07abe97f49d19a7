package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"standin/audit/segment"
)

func TestWithoutBothKeysThereIsNoLog(t *testing.T) {
	h := newHouse(t)
	for name, keys := range map[string]Keys{
		"no vault key":      {Recovery: h.keys.Recovery},
		"zero vault key":    {Vault: make([]byte, 32), Recovery: h.keys.Recovery},
		"short vault key":   {Vault: []byte("short"), Recovery: h.keys.Recovery},
		"no recovery key":   {Vault: h.keys.Vault},
		"bad recovery key":  {Vault: h.keys.Vault, Recovery: "age1nonsense"},
		"the private half!": {Vault: h.keys.Vault, Recovery: h.recovery},
	} {
		var key *KeyError
		if _, err := Open(h.dir, keys, Config{}); !errors.As(err, &key) || strings.Contains(err.Error(), "AGE-") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(h.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}
}

func TestADirectoryThatIsNotPrivateIsRefused(t *testing.T) {
	h := newHouse(t)
	h.fill(t, 1, Config{})
	var mode *segment.ModeError
	os.Chmod(h.dir, 0o750)
	if _, err := Open(h.dir, h.keys, Config{}); !errors.As(err, &mode) || !strings.Contains(mode.Fix, "chmod 700") {
		t.Errorf("mode 0750: %v", err)
	}
	os.Chmod(h.dir, 0o700)
	os.Chmod(h.files(t)[0], 0o640)
	if _, err := Open(h.dir, h.keys, Config{}); !errors.As(err, &mode) || !strings.Contains(mode.Fix, "chmod 600") {
		t.Errorf("a stream with mode 0640: %v", err)
	}
	os.Chmod(h.files(t)[0], 0o600)
	os.Link(h.files(t)[0], filepath.Join(t.TempDir(), "link"))
	if _, err := Open(h.dir, h.keys, Config{}); !errors.As(err, &mode) {
		t.Errorf("a stream with two names: %v", err)
	}
	link := filepath.Join(t.TempDir(), "audit")
	os.Symlink(h.dir, link)
	if _, err := Open(link, h.keys, Config{}); !errors.As(err, &mode) {
		t.Errorf("a symbolic link: %v", err)
	}
	empty := newHouse(t)
	os.Mkdir(empty.dir, 0o700)
	os.Symlink("/dev/null", filepath.Join(empty.dir, lockName))
	if _, err := Open(empty.dir, empty.keys, Config{}); err == nil {
		t.Error("a symbolic link in place of the lock was followed")
	}
}

func TestModesDoNotDependOnTheUmask(t *testing.T) {
	h := newHouse(t)
	h.fill(t, 1, Config{})
	for path, want := range map[string]os.FileMode{h.dir: 0o700, h.files(t)[0]: 0o600, filepath.Join(h.dir, lockName): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

// TestTwoGatewaysInOneHome is F15: a stream each, both whole, both known to whoever comes next.
func TestTwoGatewaysInOneHome(t *testing.T) {
	h := newHouse(t)
	a, b := h.open(t, Config{}), h.open(t, Config{})
	var all sync.WaitGroup
	for _, l := range []*Log{a, b} {
		for range 4 {
			all.Go(func() {
				for i := range 25 {
					if err := l.Append(context.Background(), substitution(i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
	a.Close()
	b.Close()
	last := h.fill(t, 0, Config{})
	r := h.wants(t, Whole, last)
	if len(r.Streams) != 3 || r.Streams[0].Records != 102 || r.Streams[1].Records != 102 {
		t.Errorf("%+v", r.Streams)
	}
	os.Remove(h.files(t)[0])
	h.wants(t, Tampered)
}

func TestManyOpenAtOnceWithoutLosingOneAnother(t *testing.T) {
	h := newHouse(t)
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() {
			l, err := Open(h.dir, h.keys, Config{})
			if err != nil {
				t.Error(err)
				return
			}
			appendTo(t, l, substitution(1))
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if r := h.wants(t, Whole, h.fill(t, 0, Config{})); len(r.Streams) != 13 {
		t.Errorf("%d streams", len(r.Streams))
	}
}

func TestASecondWriterOfOneStreamIsRefused(t *testing.T) {
	h := newHouse(t)
	l := h.open(t, Config{})
	name := filepath.Base(h.files(t)[0])
	if _, err := segment.Create(h.dir, name); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second file: %v", err)
	}
	if !segment.Running(h.files(t)[0]) {
		t.Error("the stream is not locked")
	}
	f, err := os.OpenFile(h.files(t)[0], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte("{}\n"))
	f.Close()
	time.Sleep(checkEvery)
	unavailable(t, l.Append(context.Background(), substitution(1)))
}

// TestALogThatIsTakenAwayRefuses is F11, and stays so until it is back.
func TestALogThatIsTakenAwayRefuses(t *testing.T) {
	for name, take := range map[string]func(dir, file string) (back func()){
		"the file is deleted": func(dir, file string) func() { os.Remove(file); return nil },
		"the file is moved": func(dir, file string) func() {
			os.Rename(file, file+".away")
			return func() { os.Rename(file+".away", file) }
		},
		"the file is replaced": func(dir, file string) func() {
			b, _ := os.ReadFile(file)
			os.Remove(file)
			os.WriteFile(file, b, 0o600)
			return nil
		},
		"the file is cut": func(dir, file string) func() { os.Truncate(file, 100); return nil },
		"the file is read-only": func(dir, file string) func() {
			os.Chmod(file, 0o400)
			return func() { os.Chmod(file, 0o600) }
		},
		"the file is linked": func(dir, file string) func() {
			os.Link(file, dir+".link")
			return func() { os.Remove(dir + ".link") }
		},
		"the directory is deleted": func(dir, file string) func() { os.RemoveAll(dir); return nil },
		"the directory is moved": func(dir, file string) func() {
			os.Rename(dir, dir+".away")
			return func() { os.Rename(dir+".away", dir) }
		},
		"the directory is replaced": func(dir, file string) func() {
			os.Rename(dir, dir+".away")
			os.Mkdir(dir, 0o700)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			l := h.open(t, Config{})
			appendTo(t, l, substitution(1))
			back := take(h.dir, h.files(t)[0])
			time.Sleep(checkEvery)
			for range 3 {
				unavailable(t, l.Append(context.Background(), substitution(2)))
				waitRetry()
			}
			if back == nil {
				return
			}
			back()
			waitRetry()
			appendTo(t, l, substitution(3))
			l.Close()
			h.wants(t, Whole, l.Anchor())
		})
	}
}

func TestAppendReturnsWhenTheRecordIsInTheFile(t *testing.T) {
	h := newHouse(t)
	l := h.open(t, Config{})
	for i := range 20 {
		path := fmt.Sprintf("/request/%d/", i)
		appendTo(t, l, &Record{Type: TypeSubstitute, Path: path})
		if !bytes.Contains(read(t, h.files(t)[0]), []byte(path)) {
			t.Fatalf("record %d is not there", i)
		}
	}
}

func TestANoteIsDurableSoonAndInItsPlace(t *testing.T) {
	h := newHouse(t)
	l := h.open(t, Config{})
	for i := range 3 {
		if err := l.Note(&Record{Type: TypeResult, Path: fmt.Sprint("/", i)}); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(2 * time.Second)
	for l.Anchor().Seq < 4 {
		if time.Now().After(deadline) {
			t.Fatal("the notes were not written")
		}
		time.Sleep(5 * time.Millisecond)
	}
	l.Note(&Record{Type: TypeResult, Path: "/3"})
	appendTo(t, l, &Record{Type: TypeSubstitute, Path: "/4"})
	var order []string
	Query(h.dir, Filter{}, func(e *Entry) error { order = append(order, e.Path); return nil })
	if got := strings.Join(order, ""); got != "/0/1/2/3/4" {
		t.Errorf("order %s", got)
	}
}

func TestACallerThatGivesUpIsToldNo(t *testing.T) {
	h := newHouse(t)
	l := h.open(t, Config{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 50 { // either answer is right; a nil one must be true
		if err := l.Append(ctx, substitution(1)); err != nil {
			unavailable(t, err)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		}
	}
	l.Close()
	h.wants(t, Whole, l.Anchor())
}

func TestAfterCloseNothingIsAccepted(t *testing.T) {
	h := newHouse(t)
	l := h.open(t, Config{})
	if l.Fingerprint([]byte("value")) != Fingerprint(h.keys.Vault, []byte("value")) {
		t.Error("fingerprints differ")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	err := l.Append(context.Background(), substitution(1))
	unavailable(t, err)
	if !errors.Is(err, ErrClosed) || !errors.Is(l.Note(substitution(1)), ErrClosed) {
		t.Errorf("%v", err)
	}
	if l.Fingerprint([]byte("value")) != "" {
		t.Error("a closed log still holds a key")
	}
}

// TestAFloodOfRefusalsIsCounted is F24.
func TestAFloodOfRefusalsIsCounted(t *testing.T) {
	h := newHouse(t)
	l := h.open(t, Config{})
	const n = 50_000
	for i := range n {
		if err := l.Note(&Record{Type: TypeDeny, Session: "s1", Code: "no_grant", Host: fmt.Sprintf("h%d.test", i)}); err != nil {
			t.Fatal(err)
		}
	}
	for range 300 {
		l.Note(&Record{Type: TypeMisplaced, Session: "s1", Code: "body"})
	}
	appendTo(t, l, &Record{Type: TypeDeny, Session: "s2", Code: "no_grant", Path: "/other"})
	appendTo(t, l, &Record{Type: TypeClose, Session: "s1"})
	lines, counted, other := 0, map[string]int{}, 0
	closed := false
	if err := Query(h.dir, Filter{}, func(e *Entry) error {
		switch {
		case e.Session == "s2":
			other++
		case e.Type == TypeClose:
			closed = true
		case e.Session == "s1":
			lines++
			counted[e.Type] += max(1, e.Count)
			if closed {
				t.Error("a summary behind the end of its session")
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if counted[TypeDeny] != n || counted[TypeMisplaced] != 300 || other != 1 {
		t.Errorf("counted %v, of another session %d", counted, other)
	}
	if lines > floodBurst*2 {
		t.Errorf("the flood left %d lines", lines)
	}
	for range 1000 { // an install of many packages is no flood
		l.Note(&Record{Type: TypePassthrough, Session: "s3", Path: "/tunnel"})
	}
	l.Close()
	h.wants(t, Whole, l.Anchor())
	tunnels := 0
	Query(h.dir, Filter{Session: "s3"}, func(*Entry) error { tunnels++; return nil })
	if tunnels != 1000 {
		t.Errorf("%d of 1000 tunnels are listed", tunnels)
	}
}

func TestRetentionRemovesOldestStreamsOnTheRecord(t *testing.T) {
	h := newHouse(t)
	for range 4 {
		h.fill(t, 20, Config{})
	}
	size := int64(len(read(t, h.files(t)[0])))
	last := h.fill(t, 1, Config{Retain: Retention{Bytes: 2*size + size/2}})
	files := h.files(t)
	if len(files) != 3 || !strings.HasPrefix(filepath.Base(files[0]), "000003-") {
		t.Fatalf("left are %v", files)
	}
	h.wants(t, Whole, last)
	if r, err := Verify(h.dir, VerifyOptions{RecoveryKey: h.recovery, Anchors: []Anchor{last}}); err != nil || r.Code != Unproven {
		t.Errorf("who retired them is not checked, yet code %d, %v", r.Code, err)
	}
	os.Remove(files[0]) // one more than was recorded
	h.wants(t, Tampered, last)
}

func TestRetentionRemovesNoEvidence(t *testing.T) {
	python := findPython(t)
	h := newHouse(t)
	var anchors []Anchor
	for range 4 {
		anchors = append(anchors, h.fill(t, 20, Config{}))
	}
	saved := h.copyTo(t, filepath.Join(t.TempDir(), "saved"))
	path := h.files(t)[1]
	lines := bytes.SplitAfter(read(t, path), []byte("\n"))
	all := Config{Retain: Retention{Bytes: 1}}
	for what, text := range map[string][]byte{
		"cut":     bytes.Join(lines[:6], nil),
		"changed": bytes.Replace(bytes.Join(lines, nil), []byte("github-api"), []byte("github-apj"), 1),
	} {
		write(t, path, text)
		var evidence *EvidenceError
		if _, err := Open(h.dir, h.keys, all); !errors.As(err, &evidence) || evidence.Problem.Stream != anchors[1].Stream {
			t.Fatalf("%s: %v", what, err)
		}
		if n := len(h.files(t)); n != 4 {
			t.Fatalf("%s: %d files are left", what, n)
		}
	}

	// As one would retire it who does not look.
	write(t, path, bytes.Join(lines[:6], nil))
	streams, _, err := scan(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := prepare(h.dir, h.keys, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if b.opening.Retired, err = all.Retain.choose(h.dir, streams, b.log.wall()); err != nil {
		t.Fatal(err)
	}
	// The third stream stays: it knows how the second ended.
	b.opening.Retired = b.opening.Retired[:2]
	l, err := b.begin(streams)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	b.unlock.Close()
	remove(h.dir, streams, b.opening.Retired)
	r := h.wants(t, Tampered, l.Anchor())
	if p := r.Problems[0]; p.Stream != anchors[1].Stream || p.Seq != anchors[1].Seq {
		t.Errorf("problems %v", r.Problems)
	}
	if code, out := python(h.dir, ""); code != Tampered {
		t.Errorf("the second verifier says %d: %s", code, out)
	}

	// In order, an anchor of what was retired still counts for something.
	restore(t, h, saved)
	last := h.fill(t, 1, all)
	h.wants(t, Whole, last, anchors[1])
	later := anchors[1]
	later.Seq++
	h.wants(t, Tampered, last, later)
	if code, out := python(h.dir, ""); code != OrderOnly {
		t.Errorf("the second verifier says %d: %s", code, out)
	}
}

func TestRetentionByAgeAndNotOfWhatIsBeingWritten(t *testing.T) {
	h := newHouse(t)
	l := h.open(t, Config{})
	h.fill(t, 1, Config{})
	c := &clock{}
	c.jump(48 * time.Hour)
	h.fill(t, 1, Config{Now: c.now, Retain: Retention{Age: time.Hour}})
	if n := len(h.files(t)); n != 3 {
		t.Errorf("%d files are left while the oldest stream is being written", n)
	}
	l.Close()
	last := h.fill(t, 1, Config{Now: c.now, Retain: Retention{Age: time.Hour}})
	if n := len(h.files(t)); n != 2 {
		t.Errorf("%d files are left", n)
	}
	h.wants(t, Whole, last)
}

func TestRecoverMovesABrokenLogAsideOnTheRecord(t *testing.T) {
	h, _ := newLog(t)
	path := h.files(t)[0]
	write(t, path, bytes.Replace(read(t, path), []byte("github-api"), []byte("github-apj"), 1))
	running := h.open(t, Config{})
	if _, _, err := Recover(h.dir, h.keys, Config{}, "a test"); !errors.Is(err, segment.ErrLocked) {
		t.Fatalf("recover beside a running gateway: %v", err)
	}
	running.Close()
	n := len(h.files(t))
	l, archive, err := Recover(h.dir, h.keys, Config{}, "a disk went bad")
	if err != nil {
		t.Fatal(err)
	}
	appendTo(t, l, substitution(1))
	l.Close()
	if left := h.files(t); len(left) != 1 || !strings.HasPrefix(filepath.Base(left[0]), "000005-") {
		t.Errorf("left are %v", left)
	}
	r := h.wants(t, Whole, l.Anchor())
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "a disk went bad") {
		t.Errorf("warnings %v", r.Warnings)
	}
	old := h
	old.dir = filepath.Join(h.dir, archive)
	if len(old.files(t)) != n {
		t.Errorf("%d of %d files are in the archive", len(old.files(t)), n)
	}
	old.wants(t, Tampered) // as it was
	last := h.fill(t, 1, Config{})
	h.wants(t, Whole, last)
	python := findPython(t)
	both := func(what string, code, keyless int) {
		t.Helper()
		r := h.wants(t, code, last)
		if !strings.Contains(strings.Join(r.Warnings, "\n")+fmt.Sprint(r.Problems), what) {
			t.Errorf("nothing says %q: %v, %v", what, r.Warnings, r.Problems)
		}
		if code, out := python(h.dir, ""); code != keyless {
			t.Errorf("%s: the second verifier says %d: %s", what, code, out)
		}
	}
	moved := old.files(t)
	whole := read(t, moved[1])
	write(t, moved[1], bytes.Replace(whole, []byte("/repos/acme"), []byte("/repos/acmf"), 1))
	both("was changed since", Tampered, Tampered)
	write(t, moved[1], whole)
	os.Rename(moved[1], moved[1]+".away")
	both("was changed since", Tampered, Tampered)
	os.Rename(moved[1]+".away", filepath.Join(h.dir, filepath.Base(moved[1]))) // as if the move had been interrupted
	both("files of it remain", Whole, OrderOnly)
	os.Rename(filepath.Join(h.dir, filepath.Base(moved[1])), moved[1])
	write(t, filepath.Join(old.dir, "000009-aaaaaaaa-000001.jsonl"), nil)
	both("was changed since", Tampered, Tampered)
	os.Remove(filepath.Join(old.dir, "000009-aaaaaaaa-000001.jsonl"))
	both("", Whole, OrderOnly)
	os.Rename(old.dir, h.dir+"-elsewhere")
	both("it may be kept elsewhere", Unproven, OrderOnly)
}

// TestAnArchiveOfAnEarlierVersion has no digest of its files: their ends are compared.
func TestAnArchiveOfAnEarlierVersion(t *testing.T) {
	h, _ := newLog(t)
	l, name, err := Recover(h.dir, h.keys, Config{}, "a test")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	streams, _, err := scan(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	o, err := readOpening(h.dir, streams[0])
	if err != nil {
		t.Fatal(err)
	}
	o.Archive.Files = ""
	check := func() (lacks string, broken bool) {
		v, _ := newVerifier(h.dir, VerifyOptions{})
		_, lacks, broken = v.archived(o.Archive, streams[0].number)
		return lacks, broken
	}
	if lacks, broken := check(); lacks != "" || broken {
		t.Errorf("as it was: %q, %v", lacks, broken)
	}
	old := house{dir: filepath.Join(h.dir, name)}
	path := old.files(t)[0]
	lines := bytes.SplitAfter(read(t, path), []byte("\n"))
	write(t, path, bytes.Join(lines[:3], nil))
	if lacks, broken := check(); lacks != "" || !broken {
		t.Errorf("cut: %q, %v", lacks, broken)
	}
	os.Chmod(path, 0o644)
	if lacks, broken := check(); lacks == "" || broken {
		t.Errorf("a copy with other modes: %q, %v", lacks, broken)
	}
	o.Archive.Directory = "archive-/../../x"
	if _, broken := check(); !broken {
		t.Error("a name that leads elsewhere is taken")
	}
}
