//go:build linux

package cases

import (
	"bytes"
	"fmt"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// screen is a shell on a terminal of its own, which knows the program, with
// flags, as "run".
type screen struct {
	*Case
	write func(string) (int, error)
	size  func(rows, columns uint16) error
	mu    sync.Mutex
	text  bytes.Buffer
	read  int
}

func (c *Case) screen(flags ...string) *screen {
	c.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		c.Skip("bash is not installed")
	}
	shell := &exec.Cmd{Path: bash, Args: []string{"bash", "--norc", "--noprofile", "-i"}, Dir: c.Dir}
	shell.Env = append(plainEnvironment(c.Temp), "PS1=$ ", "TERM=dumb", "HISTFILE=")
	file, err := pty.StartWithAttrs(shell, &pty.Winsize{Rows: 24, Cols: 200}, &syscall.SysProcAttr{Setsid: true, Setctty: true})
	if err != nil {
		c.Fatal(err)
	}
	s := &screen{Case: c, write: file.WriteString, size: func(rows, columns uint16) error {
		return pty.Setsize(file, &pty.Winsize{Rows: rows, Cols: columns})
	}}
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
	c.Cleanup(func() {
		_ = shell.Process.Kill()
		_ = shell.Wait()
		file.Close()
		reading.Wait()
		c.Hear("the terminal", s.text.Bytes())
	})
	args := append([]string{ground.program, "run", "--home", c.Home, "--rules", c.Rules.Path, "--profile", "granted"}, flags...)
	s.send("run() { '" + strings.Join(args, "' '") + "' -- \"$@\"; }; echo rea''dy\n")
	s.expect("ready")
	return s
}

func (s *screen) send(keys string) {
	s.Helper()
	if _, err := s.write(keys); err != nil {
		s.Fatal(err)
	}
}

// expect waits for text after what was expected before.
func (s *screen) expect(text string) {
	s.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		seen := s.text.String()[s.read:]
		i := strings.Index(seen, text)
		if i >= 0 {
			s.read += i + len(text)
		}
		s.mu.Unlock()
		if i >= 0 {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("the terminal never showed %q, but %q", text, seen)
		}
	}
}

// TestNetnsOnATerminal: keys, jobs, the size of the window and exit codes are as
// without a room.
func TestNetnsOnATerminal(t *testing.T) {
	if !inARoom(t) {
		return
	}
	c := newCase(t, "netns-terminal")
	c.NoGateway()
	c.U1.Undialled()
	if _, had := c.netns(nil, "true"); !had {
		c.Skip("no namespaces for users here")
	}
	s := c.screen("--isolation", "netns", "--log", filepath.Join(c.Dir, "terminal.log"))
	// Ctrl-C reaches the command, once, and ends it.
	s.send("run bash -c 'trap \"echo caught-$((++n))\" INT; echo star''ted; while [ -z \"$n\" ]; do sleep 0.05; done; sleep 0.3; echo n=$n; exit 6'; echo co''de=$?\n")
	s.expect("started")
	s.send("\x03")
	s.expect("n=1")
	s.expect("code=6")
	s.send("run sh -c 'echo star''ted; exec sleep 100'; echo co''de=$?\n")
	s.expect("started")
	s.send("\x03")
	s.expect("code=130")
	// Ctrl-Z stops the job; the shell takes over, and gives it back.
	s.send("run bash -c 'while ! read -t 0.1 line; do echo ti\"\"ck; done; echo \"got $line\"; exit 7'\n")
	for range 2 {
		s.expect("tick")
		s.send("\x1a")
		s.expect("Stopped")
		s.send("echo back in sh''ell\n")
		s.expect("back in shell")
		s.send("fg\n")
	}
	s.expect("tick")
	s.send("one\n")
	s.expect("got one")
	s.send("echo co''de=$?\n")
	s.expect("code=7")
	// A shell in there has jobs of its own, and sees the window.
	s.send("run bash --norc --noprofile -i\n")
	s.send("echo in''side $PPID\n")
	s.expect("inside 1\r")
	s.send("sh -c 'echo star\"\"ted; exec sleep 100'\n")
	s.expect("started")
	s.send("\x03")
	s.send("echo aft''er=$?\n")
	s.expect("after=130")
	s.send("stty size\n")
	s.expect("24 200")
	if err := s.size(30, 100); err != nil {
		t.Fatal(err)
	}
	s.send("stty size\n")
	s.expect("30 100")
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

// TestNetnsPassesSignalsOn without a terminal, and ends as the command does.
func TestNetnsPassesSignalsOn(t *testing.T) {
	if !inARoom(t) {
		return
	}
	c := newCase(t, "netns-signals")
	c.NoGateway()
	c.U1.Undialled()
	if _, had := c.netns(nil, "true"); !had {
		c.Skip("no namespaces for users here")
	}
	run := func(script string, number syscall.Signal) int {
		ready := filepath.Join(c.Dir, fmt.Sprint("ready-", int(number)))
		cmd := c.Command(nil, "run", "--rules", c.Rules.Path, "--profile", "granted", "--isolation", "netns", "--", "sh", "-c", script+"; : > "+ready+"; while :; do sleep 0.05; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			c.Fatal(err)
		}
		c.Eventually("the command runs", func() bool { found, _ := filepath.Glob(ready); return len(found) == 1 })
		_ = cmd.Process.Signal(number)
		_ = cmd.Wait()
		return cmd.ProcessState.ExitCode()
	}
	c.Equal(run("trap 'exit 8' TERM", syscall.SIGTERM), 8)
	c.Equal(run("trap 'exit 9' USR1", syscall.SIGUSR1), 9)
	plain := syscall.SIGHUP
	if signal.Ignored(plain) { // as under nohup
		plain = syscall.SIGUSR2
	}
	c.Equal(run("true", plain), 128+int(plain))
	r := c.Netns("kill -KILL $$")
	c.Exit(r, 128+9)
	c.Exit(c.Netns("kill -TERM 1; kill -INT 1; kill -KILL 1; sleep 0.1; exit 5"), 5) // the room's first process is out of reach
	r = c.Netns("echo out; echo err >&2; cat; exit 3")
	if r.Code != 3 || r.Out != "out\n" || r.Err != "err\n" {
		c.Error(r.description)
	}
	r, _ = c.netns(nil, filepath.Join(c.Dir, "no-such-program"))
	c.ErrorAndHint(r, 127, "no-such-program")
}
