//go:build unix

package vault

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be the writers of the tests below: real
// processes, which can be killed.
func TestMain(m *testing.M) {
	if role := os.Getenv("VAULT_TEST_ROLE"); role != "" {
		if err := play(role, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func play(role string, args []string) error {
	runtime.LockOSThread() // strace counts system calls by thread
	switch role {
	case "create": // DIR UMASK
		mask, _ := strconv.ParseInt(args[1], 8, 32)
		syscall.Umask(int(mask))
		dir := filepath.Join(args[0], "home")
		if _, err := Create(dir, Wrap{IdentityFile: filepath.Join(args[0], "identity")}); err != nil {
			return err
		}
		return writeOne(dir, "a", canary)
	case "set": // DIR NAME VALUE
		runtime.LockOSThread() // strace counts the calls of each thread
		return writeOne(args[0], args[1], args[2])
	case "many": // DIR PREFIX COUNT
		s, err := Open(args[0], Unlock{})
		n, _ := strconv.Atoi(args[2])
		for i := 0; i < n && err == nil; i++ {
			err = s.Set(fmt.Sprintf("%s/%d", args[1], i), NewSecret(fmt.Appendf(nil, "%s-%s-%d", canary, args[1], i)))
		}
		return err
	case "forever": // DIR: writes until killed, and says which writes are done
		s, err := Open(args[0], Unlock{})
		fmt.Println("ready")
		for i := 1; err == nil; i++ {
			if err = s.Set("a", NewSecret(fmt.Appendf(nil, "%s-%d-%d", canary, os.Getpid(), i))); err == nil {
				fmt.Printf("%s-%d-%d\n", canary, os.Getpid(), i)
			}
		}
		return err
	case "exhaust": // DIR: what happens on a full disk
		return exhaust(args[0])
	}
	return errors.New("no such role")
}

func writeOne(dir, name, value string) error {
	s, err := Open(dir, Unlock{})
	if err != nil {
		return err
	}
	return s.Set(name, NewSecret([]byte(value)))
}

func role(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "VAULT_TEST_ROLE="+name)
	return cmd
}

func mustRun(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %v: %s", cmd.Args, err, out)
	}
}

// checkClean says whether dir holds private files and no temporary one.
func checkClean(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if strings.Contains(e.Name(), ".tmp-") {
			t.Errorf("%s was left behind", e.Name())
		} else if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v %v", e.Name(), info.Mode(), err)
		}
	}
}

func TestParallelWritersLoseNothing(t *testing.T) {
	t.Parallel()
	dir, _ := newVault(t)
	const writers, each = 8, 10
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() { mustRun(t, role("many", dir, fmt.Sprintf("w%d", w), strconv.Itoa(each))) })
	}
	all.Wait()
	s := open(t, dir)
	for w := range writers {
		for i := range each {
			expect(t, s, fmt.Sprintf("w%d/%d", w, i), fmt.Sprintf("%s-w%d-%d", canary, w, i), "1")
		}
	}
	if got := s.Writes(); got != writers*each+1 {
		t.Errorf("%d writes are counted", got)
	}
	checkClean(t, dir)
}

// G21: a writer that is killed at any moment leaves the old value or the new one.
func TestKilledWritersTearNothing(t *testing.T) {
	t.Parallel()
	rounds := 500
	if testing.Short() {
		rounds = 40
	}
	dir, s := newVault(t)
	set(t, s, "a", canary)
	set(t, s, "bystander", canary)
	left := 0
	for range rounds {
		if err := killOnce(t, dir); err != nil {
			t.Fatal(err)
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if strings.Contains(e.Name(), ".tmp-") {
				left++
				if info, err := e.Info(); err == nil && info.Mode().Perm()&0o077 != 0 {
					t.Fatalf("%s has mode %v", e.Name(), info.Mode())
				}
			}
		}
	}
	expect(t, open(t, dir), "bystander", canary, "1")
	set(t, open(t, dir), "b", canary)
	checkClean(t, dir)
	t.Logf("%d kills left a temporary file behind, which the next writer removed", left)
}

// killOnce kills a writer after a random time and looks at what is there.
func killOnce(t *testing.T, dir string) error {
	cmd := role("forever", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	time.AfterFunc(time.Duration(rand.IntN(6000))*time.Microsecond, func() { cmd.Process.Kill() })
	done := 0 // the last write that was reported durable
	for lines.Scan() {
		fmt.Sscanf(lines.Text(), canary+"-"+strconv.Itoa(cmd.Process.Pid)+"-%d", &done)
	}
	cmd.Wait()
	got, _, err := open(t, dir).Secret("a")
	if err != nil {
		return err
	}
	// What was reported must be there, and at most the one write after it.
	var pid, n int
	fmt.Sscanf(string(got.Reveal()), canary+"-%d-%d", &pid, &n)
	if done > 0 && (pid != cmd.Process.Pid || n < done || n > done+1) {
		return fmt.Errorf("write %d was done, the file holds write %d of process %d", done, n, pid)
	}
	return nil
}

// H14: umasks change nothing.
func TestUmaskChangesNoMode(t *testing.T) {
	t.Parallel()
	for _, mask := range []string{"000", "022", "077", "777"} {
		if mask == "777" && os.Geteuid() != 0 {
			continue // an unprivileged user cannot even open its own lock file then
		}
		base := t.TempDir()
		cmd := role("create", base, mask)
		cmd.Env = append(cmd.Env, "TMPDIR=/nonexistent")
		mustRun(t, cmd)
		home := filepath.Join(base, "home")
		if info, err := os.Stat(home); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("umask %s: folder: %v %v", mask, info, err)
		}
		checkClean(t, home)
		expect(t, open(t, home), "a", canary, "1")
	}
}

// G22: errors of the system come to the user, and the old value stays.
func TestFailingSystemCallsLeaveTheOldValue(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("needs strace")
	}
	for name, inject := range map[string]string{
		"sync of the file":   "fsync:error=EIO:when=1",
		"sync of the folder": "fsync:error=EIO:when=2",
		"rename":             "rename,renameat,renameat2:error=EROFS:when=1",
		"no space to sync":   "fsync:error=ENOSPC:when=1",
		"making the file":    "fchmod,fchmodat:error=EPERM:when=1+",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, s := newVault(t)
			set(t, s, "a", canary)
			before, _ := os.ReadFile(filepath.Join(dir, vaultFile))
			calls, _, _ := strings.Cut(inject, ":")
			cmd := role("set", dir, "a", canary+"new")
			cmd.Path, cmd.Args = strace, append([]string{"strace", "-f", "-qq", "-o", os.DevNull, "-e", "trace=" + calls, "-e", "inject=" + inject}, cmd.Args...)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatal("no error came to the user")
			}
			if strings.Contains(string(out), "PTRACE") {
				t.Skipf("strace cannot trace here: %s", out)
			}
			if !strings.Contains(string(out), "write file ") || leaks(out) != "" {
				t.Errorf("error %s", out)
			}
			if after, _ := os.ReadFile(filepath.Join(dir, vaultFile)); string(after) != string(before) {
				t.Error("the old file is not in place")
			}
			expect(t, open(t, dir), "a", canary, "1")
			checkClean(t, dir)
			set(t, open(t, dir), "a", canary+"new")
		})
	}
}

// G22 with a disk that is really full.
func TestFullDiskLeavesTheOldValue(t *testing.T) {
	t.Parallel()
	mount := t.TempDir()
	cmd := role("exhaust", mount)
	args := append([]string{"unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
		`mount -t tmpfs -o size=64k,mode=700 tmpfs "$1" && exec "$0" "$1"`}, cmd.Args...)
	path, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("needs unshare")
	}
	if out, err := exec.Command(path, "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", mount).CombinedOutput(); err != nil {
		t.Skipf("needs user namespaces: %s", out)
	}
	cmd.Path, cmd.Args = path, args
	mustRun(t, cmd)
}

func exhaust(mount string) error {
	dir := filepath.Join(mount, "home")
	if _, err := Create(dir, Wrap{IdentityFile: filepath.Join(mount, "identity")}); err != nil {
		return err
	}
	s, err := Open(dir, Unlock{})
	if err != nil {
		return err
	}
	if err := s.Set("a", NewSecret([]byte(canary))); err != nil {
		return err
	}
	fill, err := os.Create(filepath.Join(mount, "fill"))
	if err != nil {
		return err
	}
	for err == nil {
		_, err = fill.Write(make([]byte, 4096))
	}
	if err := s.Set("a", NewSecret([]byte(canary+"new"))); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("a write to the full disk: %v", err)
	}
	for _, store := range []func() (*Store, error){func() (*Store, error) { return s, nil }, func() (*Store, error) { return Open(dir, Unlock{}) }} {
		s, err := store()
		if err != nil {
			return err
		}
		if got, version, err := s.Secret("a"); err != nil || version != "1" || string(got.Reveal()) != canary {
			return fmt.Errorf("the old value is gone: version %q, %v", version, err)
		}
	}
	if temps, _ := filepath.Glob(filepath.Join(dir, ".*.tmp-*")); len(temps) > 0 {
		return fmt.Errorf("left behind: %v", temps)
	}
	fill.Close()
	if err := os.Remove(fill.Name()); err != nil {
		return err
	}
	return s.Set("a", NewSecret([]byte(canary+"new")))
}

// H12: what others can reach is refused with the command that mends it.
func TestWiderModesAreRefusedWithTheirMending(t *testing.T) {
	t.Parallel()
	dir, _ := newVault(t)
	identity, err := Inspect(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(dir, vaultFile), filepath.Join(dir, identityFile), dir, identity.IdentityFile} {
		info, _ := os.Stat(path)
		for _, wider := range []os.FileMode{0o004, 0o020, 0o044, 0o060, 0o077} {
			os.Chmod(path, info.Mode().Perm()|wider)
			_, err := Open(dir, Unlock{})
			var mode *ModeError
			if !errors.As(err, &mode) || mode.Path != path {
				t.Errorf("%s with %v: %v", path, wider, err)
				continue
			}
			if out, err := exec.Command("sh", "-c", mode.Fix).CombinedOutput(); err != nil {
				t.Errorf("%s: %v %s", mode.Fix, err, out)
			}
			open(t, dir)
		}
	}
}

func TestForeignFilesAreRefused(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	real := filepath.Join(base, "it's a file")
	os.WriteFile(real, []byte("x"), 0o600)
	link, fifo := filepath.Join(base, "link"), filepath.Join(base, "fifo")
	os.Symlink(real, link)
	syscall.Mkfifo(fifo, 0o600)
	var mode *ModeError
	for _, path := range []string{fifo, base, link} {
		if _, err := ReadPrivate(path); !errors.As(err, &mode) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if out, err := exec.Command("sh", "-c", mode.Fix).CombinedOutput(); err != nil {
		t.Errorf("%s: %v %s", mode.Fix, err, out)
	}
	if data, err := ReadPrivate(link); err != nil || string(data) != "x" {
		t.Errorf("after %s: %v", mode.Fix, err)
	}
	if _, err := ReadPrivate(filepath.Join(base, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	os.Symlink(base, filepath.Join(base, "dirlink"))
	for _, path := range []string{filepath.Join(base, "dirlink"), fifo, link} {
		if err := PrivateDir(path); !errors.As(err, &mode) {
			t.Errorf("%s as a folder: %v", path, err)
		}
	}
	if err := PrivateDir(filepath.Join(base, "a", "b")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if os.Geteuid() != 0 {
		return // only root can give a file away
	}
	os.Chown(link, 12345, -1)
	if _, err := ReadPrivate(link); !errors.As(err, &mode) || !strings.Contains(mode.Fix, "chown 0 ") {
		t.Errorf("a file of somebody else: %v", err)
	}
}
