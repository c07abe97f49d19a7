package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"standin/audit/segment"
)

var kills = flag.Int("kills", 60, "how many processes TestKilledProcesses… kills")

// TestMain lets this binary play the process that writes a log and is killed, or whose disk is full.
func TestMain(m *testing.M) {
	switch role, dir := os.Getenv("STANDIN_TEST_ROLE"), os.Getenv("STANDIN_TEST_DIR"); role {
	case "append":
		fmt.Println(playAppend(dir))
		os.Exit(1)
	case "small disk":
		if err := playSmallDisk(dir); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func childKeys() Keys {
	vault, _ := hex.DecodeString(os.Getenv("STANDIN_TEST_VAULT"))
	return Keys{vault, os.Getenv("STANDIN_TEST_RECOVERY")}
}

func (h house) child(t testing.TB, role string, wrap ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(wrap, self)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "STANDIN_TEST_ROLE="+role, "STANDIN_TEST_DIR="+h.dir,
		"STANDIN_TEST_VAULT="+hex.EncodeToString(h.keys.Vault), "STANDIN_TEST_RECOVERY="+h.keys.Recovery)
	return cmd
}

// playAppend appends with 16 callers at once, and prints what was confirmed.
func playAppend(dir string) error {
	l, err := Open(dir, childKeys(), Config{SegmentBytes: 40_000})
	if err != nil {
		return err
	}
	fmt.Println("begun", l.Anchor().Stream)
	var all sync.WaitGroup
	for caller := range 16 {
		all.Go(func() {
			for i := range 400 {
				path := fmt.Sprintf("/%s/%d/%d", l.Anchor().Stream, caller, i)
				if err := l.Append(context.Background(), &Record{Type: TypeSubstitute, Path: path, Host: strings.Repeat("x", i%300)}); err != nil {
					fmt.Println("refused", path)
					time.Sleep(10 * time.Millisecond)
					continue
				}
				fmt.Println("confirmed", path)
				l.Note(&Record{Type: TypeResult, Path: path})
			}
		})
	}
	all.Wait()
	return l.Close()
}

// words returns the second words of the lines that begin with the first.
func words(out []byte, first string) (found []string) {
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) == 2 && f[0] == first && strings.Count(f[1], "/") == 3 {
			found = append(found, f[1])
		}
	}
	return found
}

// heard is what a child says; begun is closed with its first word.
type heard struct {
	text  bytes.Buffer
	once  sync.Once
	begun chan struct{}
}

func (h *heard) Write(p []byte) (int, error) {
	h.once.Do(func() { close(h.begun) })
	return h.text.Write(p)
}

// TestKilledProcessesLoseNothingThatWasConfirmed is F13.
func TestKilledProcessesLoseNothingThatWasConfirmed(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	confirmed, torn := map[string]bool{}, 0
	check := func() {
		if _, err := os.Stat(h.dir); errors.Is(err, fs.ErrNotExist) && len(confirmed) == 0 {
			return // killed before it had begun
		}
		r := h.verify(t)
		if r.Code != Unproven && r.Code != Torn {
			t.Fatalf("code %d: %v", r.Code, r.Problems)
		}
		torn = 0
		for _, s := range r.Streams {
			if s.Torn {
				torn++
			}
		}
		got := h.count(t, TypeSubstitute)
		for path := range confirmed {
			if got[path] == 0 {
				t.Fatalf("%s was confirmed and is not there", path)
			}
		}
	}
	for i := range *kills {
		cmd := h.child(t, "append")
		out := &heard{begun: make(chan struct{})}
		cmd.Stdout = out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if i%4 > 0 { // else it may be killed before it has begun
			<-out.begun
		}
		time.Sleep(time.Duration(random.IntN(60_000)) * time.Microsecond)
		cmd.Process.Kill()
		cmd.Wait()
		for _, path := range words(out.text.Bytes(), "confirmed") {
			confirmed[path] = true
		}
		if i%20 == 19 {
			check()
		}
	}
	check()
	if len(confirmed) < *kills {
		t.Errorf("only %d records were confirmed before the kills", len(confirmed))
	}
	t.Logf("%d processes killed, %d records confirmed, %d streams torn", *kills, len(confirmed), torn)
}

// TestAFailedSyncIsFatalForItsFile is F10: after an error of fdatasync nothing is written to the file again.
func TestAFailedSyncIsFatalForItsFile(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	h := newHouse(t)
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := h.child(t, "append", strace, "-f", "-y", "-o", trace, "-e", "trace=write,fdatasync,ftruncate", "-e", "inject=fdatasync:error=EIO:when=5+6")
	out, _ := cmd.Output()
	if strings.Contains(string(out), "begun") == false {
		t.Skipf("strace cannot trace here: %s", out)
	}
	got := h.count(t, TypeSubstitute)
	confirmed, refused := words(out, "confirmed"), words(out, "refused")
	if len(confirmed) < 100 || len(refused) == 0 {
		t.Fatalf("%d confirmed, %d refused", len(confirmed), len(refused))
	}
	for _, path := range confirmed {
		if got[path] != 1 {
			t.Errorf("%s was confirmed and is there %d times", path, got[path])
		}
	}
	for _, path := range refused {
		if got[path] != 0 {
			t.Errorf("%s was refused and is there", path)
		}
	}
	if r := h.verify(t); r.Code != Unproven {
		t.Errorf("code %d: %v", r.Code, r.Problems)
	}
	broken, writes := map[string]bool{}, 0
	for line := range strings.Lines(string(read(t, trace))) {
		_, rest, _ := strings.Cut(line, "<")
		file, _, ok := strings.Cut(rest, ">")
		if !ok || !strings.HasSuffix(file, ".jsonl") {
			continue
		}
		if (strings.Contains(line, " write(") || strings.Contains(line, " fdatasync(")) && broken[file] {
			t.Errorf("touched after an error: %s", line)
		}
		if strings.Contains(line, "INJECTED") {
			broken[file] = true
		}
		writes++
	}
	if len(broken) == 0 || writes < 10 {
		t.Errorf("%d files broke, %d calls", len(broken), writes)
	}
}

// TestASmallDiskFillsAndEmpties is F09 and the space of F24, on a real file system of 512 KiB.
func TestASmallDiskFillsAndEmpties(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	if err := os.Mkdir(h.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := h.child(t, "small disk")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN}}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || bytes.Contains(out, []byte("cannot mount")) {
		t.Skipf("no user namespaces here: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func playSmallDisk(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k,mode=0700"); err != nil {
		return fmt.Errorf("cannot mount: %w", err)
	}
	l, err := Open(filepath.Join(dir, "audit"), childKeys(), Config{})
	if err != nil {
		return err
	}
	ballast := filepath.Join(dir, "ballast")
	fill := func() {
		f, _ := os.OpenFile(ballast, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		defer f.Close()
		for n := 4096; n > 0; {
			if _, err := f.Write(make([]byte, n)); err != nil {
				n /= 2
			}
		}
	}
	fill() // others take all that is left
	ctx := context.Background()
	substituted, refusals := 0, 0
	for ; substituted < 10_000; substituted++ {
		for range 20 { // the child floods the log with refusals meanwhile
			if l.Note(&Record{Type: TypeDeny, Session: "s1", Code: "no_grant"}) == nil {
				refusals++
			}
		}
		if err = l.Append(ctx, substitution(1)); err != nil {
			break
		}
		fill()
	}
	var u *UnavailableError
	if !errors.As(err, &u) || !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("after %d records on a full disk: %w", substituted, err)
	}
	if substituted < reserveAhead/2/800 {
		return fmt.Errorf("only %d substitutions had space", substituted)
	}
	for range 3 {
		waitRetry()
		if err := l.Append(ctx, substitution(1)); err == nil {
			return errors.New("a record was confirmed on a full disk")
		}
	}
	os.Remove(ballast)
	waitRetry()
	for range 10 {
		if err := l.Append(ctx, substitution(1)); err != nil {
			return fmt.Errorf("when there is space again: %w", err)
		}
	}
	if err := l.Close(); err != nil {
		return err
	}
	r, err := Verify(filepath.Join(dir, "audit"), VerifyOptions{VaultKey: childKeys().Vault, Anchors: []Anchor{l.Anchor()}})
	if err != nil || r.Code != OrderOnly {
		return fmt.Errorf("verify: %+v, %w", r, err)
	}
	there, counted := 0, 0
	if err := Query(filepath.Join(dir, "audit"), Filter{}, func(e *Entry) error {
		switch e.Type {
		case TypeSubstitute:
			there++
		case TypeDeny:
			counted += max(1, e.Count)
		}
		return nil
	}); err != nil {
		return err
	}
	if there != substituted+10 || counted != refusals {
		return fmt.Errorf("%d substitutions of %d and %d refusals of %d are there", there, substituted+10, counted, refusals)
	}
	return nil
}

// A gate is a file whose disk answers when it is told to.
type gate struct {
	file
	begun  chan int
	answer chan error
}

func (g *gate) Append(b []byte) error {
	g.begun <- bytes.Count(b, []byte("\n"))
	if err := <-g.answer; err != nil {
		return err
	}
	return g.file.Append(b)
}

// TestCallersOfOneBatchAreReleasedTogether: one write and one sync for all who wait, and nobody before it is done.
func TestCallersOfOneBatchAreReleasedTogether(t *testing.T) {
	h := newHouse(t)
	g := &gate{begun: make(chan int), answer: make(chan error)}
	go func() { <-g.begun; g.answer <- nil }() // the opening record
	l, err := open(h.dir, h.keys, Config{}, func(dir, name string) (file, error) {
		f, err := segment.Create(dir, name)
		g.file = f
		return g, err
	})
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan error, 64)
	ask := func() { results <- l.Append(context.Background(), substitution(1)) }
	go ask()
	if n := <-g.begun; n != 1 {
		t.Fatalf("%d records in the first batch", n)
	}
	for range 63 {
		go ask()
	}
	for l.waiting() < 63 {
		time.Sleep(time.Millisecond)
	}
	select {
	case <-results:
		t.Fatal("released before the disk answered")
	default:
	}
	g.answer <- nil
	if n := <-g.begun; n != 63 {
		t.Errorf("%d records in the second batch, want 63", n)
	}
	if err := <-results; err != nil || len(results) != 0 {
		t.Fatalf("%v, %d more released", err, len(results))
	}
	g.answer <- nil
	for range 63 {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	go func() { <-g.begun; g.answer <- nil }()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func (l *Log) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pending.waiting
}
