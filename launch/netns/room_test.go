//go:build linux

package netns

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"standin/launch"
)

func TestRoomIsMadeTestedAndRunsTheCommand(t *testing.T) {
	s := newStage(t, Config{})
	report, err := s.Furnish(s.furniture())
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Tests) != len(attempts)+1 {
		t.Errorf("these tests passed: %q", report.Tests)
	}
	code, out := s.run(`pwd; cat state/run/s1/bundle.pem identity; ls state; cat /etc/resolv.conf; exit 3`)
	if code != 3 {
		t.Errorf("the exit code is %d", code)
	}
	for _, want := range []string{s.dir + "\n", "content of bundle.pem\n", "nameserver 127.0.0.1\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %s", want, out)
		}
	}
	for _, secret := range []string{"content of identity", "vault.age"} {
		if strings.Contains(out, secret) {
			t.Errorf("%q is in %s", secret, out)
		}
	}
}

// TestRoomTellsWhyACommandDoesNotStart as shells do.
func TestRoomTellsWhyACommandDoesNotStart(t *testing.T) {
	for name, code := range map[string]int{"/no/such/program": 127, "no-such-program": 127, "/etc/passwd": 126} {
		s := newStage(t, Config{})
		if _, err := s.Furnish(s.furniture()); err != nil {
			t.Fatal(err)
		}
		_, err := launch.Start(launch.Spec{Argv: []string{name}, Env: os.Environ(), Host: s.Room})
		var start *launch.StartError
		if !errors.As(err, &start) || start.Code != code || start.Name != name {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRoomOfAFolderThatIsHidden is refused before the command starts.
func TestRoomOfAFolderThatIsHidden(t *testing.T) {
	h := newHouse(t)
	s := newStage(t, Config{Dir: h.private})
	f := s.furniture()
	f.Private, f.Kept, f.Scratch = append(f.Private, h.private), nil, h.private
	_, err := s.Furnish(f)
	var lacking *LackingError
	if !errors.As(err, &lacking) || !strings.Contains(err.Error(), "is hidden in the room") {
		t.Errorf("a hidden working directory: %v", err)
	}
}

// TestLackingSaysWhatForbidsIt for what this system does not do by itself.
func TestLackingSaysWhatForbidsIt(t *testing.T) {
	for want, err := range map[string]error{
		"user.max_user_namespaces is":  unix.ENOSPC,
		"the kernel has no such thing": unix.EINVAL,
		"this user may not":            unix.EPERM,
	} {
		if got := lacking("make namespaces", err); !strings.Contains(got.Error(), want) || !errors.Is(got, err) {
			t.Errorf("%v: %v", err, got)
		}
	}
	if text := profileCommand(); !strings.Contains(text, "userns,") || !strings.Contains(text, "apparmor_parser -r") {
		t.Errorf("the profile to load: %s", text)
	}
}

// BenchmarkRoom is what a room takes besides the session: made, tested, and its
// command ended. The processor's time holds on a busy machine.
func BenchmarkRoom(b *testing.B) {
	processor := func() (total int64) {
		for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
			var usage unix.Rusage
			if err := unix.Getrusage(who, &usage); err != nil {
				b.Fatal(err)
			}
			total += (usage.Utime.Sec+usage.Stime.Sec)*1e6 + int64(usage.Utime.Usec+usage.Stime.Usec)
		}
		return total
	}
	before := processor()
	for b.Loop() {
		s := newStage(b, Config{})
		if _, err := s.Furnish(s.furniture()); err != nil {
			b.Fatal(err)
		}
		if code, _ := s.run("true"); code != 0 {
			b.Fatal(code)
		}
		s.Close()
		_, _ = unix.Wait4(s.pid, nil, 0, nil) // unless it was reaped already
	}
	b.ReportMetric(float64(processor()-before)/float64(b.N), "cpu-µs/op")
}

// TestRoomOfRootHasNoDiskAndNoSettings: root without a capability still owns
// root's files, the kernel's among them.
func TestRoomOfRootHasNoDiskAndNoSettings(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root owns them")
	}
	s := newStage(t, Config{})
	if _, err := s.Furnish(s.furniture()); err != nil {
		t.Fatal(err)
	}
	_, out := s.run(`
find /dev -type b | grep . && echo FOUND a disk
echo x > /proc/sys/kernel/core_pattern && echo FOUND core_pattern
echo x > /proc/sysrq-trigger && echo FOUND sysrq
for f in $(find /sys -maxdepth 3 -type f -perm -200 2>/dev/null | head -40); do test -w $f && echo FOUND $f; done
mknod x b 7 0 && echo FOUND mknod
mount -o remount,rw /sys && echo FOUND remount
for f in null zero full random urandom; do test -c /dev/$f || echo MISSING $f; done
echo x > /dev/null && test -d /dev/shm -a -d /dev/pts && head -c 4 /dev/urandom > /dev/null && echo usable`)
	if strings.Contains(out, "FOUND") || strings.Contains(out, "MISSING") || !strings.Contains(out, "usable") {
		t.Error(out)
	}
}
