package launch

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// A screen is a shell on a terminal of its own.
type screen struct {
	t    *testing.T
	file *os.File
	mu   sync.Mutex
	text bytes.Buffer
	read int
}

// newScreen starts an interactive bash, which knows the launcher as "run".
func newScreen(t *testing.T) *screen {
	t.Helper()
	bash := need(t, "bash")
	shell := launcher(t)
	self := shell.Path
	shell.Path, shell.Args = bash, []string{"bash", "--norc", "--noprofile", "-i"}
	shell.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + t.TempDir(), "PS1=$ ", "TERM=dumb", "SELF=" + self, "HISTFILE="}
	file, err := pty.StartWithAttrs(shell, &pty.Winsize{Rows: 24, Cols: 200}, &syscall.SysProcAttr{Setsid: true, Setctty: true})
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, file: file}
	var reading sync.WaitGroup
	reading.Go(func() {
		chunk := make([]byte, 4096)
		for {
			n, err := file.Read(chunk)
			s.mu.Lock()
			s.text.Write(chunk[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		_ = shell.Process.Kill()
		_ = shell.Wait()
		file.Close()
		reading.Wait()
	})
	s.send("run() { " + asLauncher + "=1 \"$SELF\" \"$@\"; }; echo rea''dy\n")
	s.expect("ready")
	return s
}

func (s *screen) send(keys string) {
	s.t.Helper()
	if _, err := s.file.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// expect waits for text after what was expected before.
func (s *screen) expect(text string) {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		seen := s.text.String()[s.read:]
		if i := strings.Index(seen, text); i >= 0 {
			s.read += i + len(text)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if time.Now().After(end) {
			s.t.Fatalf("the terminal never showed %q, but %q", text, seen)
		}
	}
}

// holder is the process group that holds the terminal.
func (s *screen) holder() (group int) {
	s.t.Helper()
	conn, err := s.file.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { group, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPGRP) }); err != nil || failed != nil {
		s.t.Fatal(err, failed)
	}
	return group
}

// wake has the shell bring a job back, and waits until it has given it the
// terminal: until then keys are the shell's.
func (s *screen) wake(line string) {
	s.t.Helper()
	shell := s.holder()
	s.send(line)
	eventually(s.t, "the job holds the terminal", func() bool { return s.holder() != shell })
}

func TestControlCEndsTheCommandOnce(t *testing.T) {
	t.Parallel()
	s := newScreen(t)
	s.send("run bash -c 'trap \"echo caught-$((++n))\" INT; echo star''ted; while [ -z \"$n\" ]; do sleep 0.05; done; sleep 0.3; echo n=$n; exit 6'; echo co''de=$?\n")
	s.expect("started")
	s.send("\x03")
	s.expect("n=1") // two would mean that the gateway passed on what the terminal sent
	s.expect("code=6")
	s.send("run sh -c 'echo star''ted; exec sleep 100'; echo co''de=$?\n")
	s.expect("started")
	s.send("\x03")
	s.expect("code=130")
}

func TestControlZAndFgWorkUnderAShell(t *testing.T) {
	t.Parallel()
	s := newScreen(t)
	s.send("run bash -c 'while ! read -t 0.1 line; do echo ti\"\"ck; done; echo \"got $line\"; exit 7'\n")
	for range 3 {
		s.expect("tick")
		s.send("\x1a")
		s.expect("Stopped")
		s.send("jobs; echo back in sh''ell\n")
		s.expect("Stopped")
		s.expect("back in shell")
		s.send("fg\n")
		s.expect("$SELF")
	}
	s.expect("tick")
	s.send("one\n")
	s.expect("got one")
	s.send("echo co''de=$?\n")
	s.expect("code=7")
}

// TestAJobThatIsSentToTheBackgroundRunsThere: the stop that the terminal has
// ordered is not passed on when the job runs again, and its keys are its own when
// it is brought back.
func TestAJobThatIsSentToTheBackgroundRunsThere(t *testing.T) {
	t.Parallel()
	s := newScreen(t)
	for range 12 {
		s.send("run sh -c 'echo star''ted; exec sleep 100'\n")
		s.expect("started")
		s.send("\x1a")
		s.expect("Stopped")
		s.send("bg\n")
		s.expect("&")
		time.Sleep(150 * time.Millisecond)
		s.send("jobs; echo a''ll\n")
		s.expect("Running")
		s.expect("all")
		s.wake("fg; echo co''de=$?\n")
		s.send("\x03")
		s.expect("code=130")
	}
}

func TestBackgroundJobThatReadsIsStoppedAndComesBack(t *testing.T) {
	t.Parallel()
	s := newScreen(t)
	s.send("set -b; run sh -c 'read line; echo \"got $line\"; exit 3' &\n")
	s.expect("Stopped")
	s.send("fg\n")
	s.send("input\n")
	s.expect("got input")
	s.send("echo co''de=$?\n")
	s.expect("code=3")
}

func TestInteractiveShellUnderTheLauncherHasItsOwnJobs(t *testing.T) {
	t.Parallel()
	s := newScreen(t)
	s.send("run bash --norc --noprofile -i\n")
	s.send("echo in''side $(( $(ps -o ppid= $$) != 1 ))\n")
	s.expect("inside 1")
	s.send("sh -c 'echo star\"\"ted; exec sleep 100'\n")
	s.expect("started")
	s.send("\x03")
	s.send("echo aft''er=$?\n")
	s.expect("after=130")
	s.send("sh -c 'echo star\"\"ted; exec cat'\n")
	s.expect("started")
	s.send("\x1a")
	s.expect("Stopped")
	s.send("kill %1; stty size\n")
	s.expect("24 200")
	if err := pty.Setsize(s.file, &pty.Winsize{Rows: 30, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	s.send("stty size\n")
	s.expect("30 100")
	// The inner shell stops itself, the outer one takes over, and gives back.
	s.send("suspend\n")
	s.expect("Stopped")
	s.send("echo out''side\n")
	s.expect("outside")
	s.send("fg\n")
	s.send("echo inside ag''ain\n")
	s.expect("inside again")
	s.send("exit 11\n")
	s.send("echo co''de=$?\n")
	s.expect("code=11")
}

func TestTerminateOnATerminalIsPassedOn(t *testing.T) {
	t.Parallel()
	s := newScreen(t)
	s.send("run sh -c 'trap \"echo term; exit 8\" TERM; kill -TERM $PPID; while :; do sleep 0.05; done'; echo co''de=$?\n")
	s.expect("term")
	s.expect("code=8")
}
