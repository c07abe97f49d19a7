package launch

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
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

	"golang.org/x/sys/unix"
)

// run starts argv in this process and returns its code and output.
func run(t *testing.T, spec Spec) (int, string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	spec.Stdout, spec.Stderr = w, w
	command, err := Start(spec)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(&out, r) })
	code, err := command.Wait()
	if err != nil {
		t.Fatal(err)
	}
	reading.Wait()
	return code, out.String()
}

func sh(script string) Spec {
	return Spec{Argv: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}}
}

// eventually waits for what another process does.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

func TestExitCodeIsTheCommands(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]int{
		"exit 0": 0, "exit 7": 7, "exit 255": 255,
		"kill -TERM $$": 143, "kill -KILL $$": 137, "kill -INT $$": 130,
	} {
		if code, _ := run(t, sh(script)); code != want {
			t.Errorf("%s: code %d, want %d", script, code, want)
		}
	}
}

func TestCommandGetsItsOwnEnvironmentDirectoryAndFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	spec := Spec{Argv: []string{"sh", "-c", "pwd; env | sort; cat; ls /proc/self/fd | wc -l"}, Env: []string{"PATH=/usr/bin:/bin", "A=1"}, Dir: dir}
	code, out := run(t, spec)
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	// It gets the three files, and what any other child of this process gets.
	plain := exec.Command("sh", "-c", "ls /proc/self/fd | wc -l")
	count, err := plain.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := real + "\nA=1\nPATH=/usr/bin:/bin\nPWD=" + real + "\n" + string(count)
	if code != 0 || out != want {
		t.Fatalf("code %d, got %q, want %q", code, out, want)
	}
}

func TestCommandIsLookedUpInItsOwnPath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("a/tool", "no program", 0o600)
	write("b/tool", "#!/bin/sh\necho from b\n", 0o700)
	write("a/denied", "no program", 0o600)
	write("b/bare", "echo no first line \"$1\"\n", 0o700)
	write("b/sub/x", "", 0o600)
	broken := write("b/broken", "#!/nonexistent/interpreter\n", 0o700)
	env := []string{"PATH=" + dir + "/a:" + dir + "/b:/usr/bin:/bin"}

	if code, out := run(t, Spec{Argv: []string{"tool"}, Env: env}); code != 0 || out != "from b\n" {
		t.Errorf("tool: code %d, %q", code, out)
	}
	if code, out := run(t, Spec{Argv: []string{"bare", "arg"}, Env: env}); code != 0 || out != "no first line arg\n" {
		t.Errorf("script without a first line: code %d, %q", code, out)
	}
	if code, out := run(t, Spec{Argv: []string{"./tool"}, Env: env, Dir: dir + "/b"}); code != 0 || out != "from b\n" {
		t.Errorf("relative path: code %d, %q", code, out)
	}
	for name, want := range map[string]int{
		"denied": 126, dir + "/a/denied": 126, dir: 126,
		"missing": 127, dir + "/missing": 127, "": 127, "sub": 127, broken: 127,
	} {
		_, err := Start(Spec{Argv: []string{name}, Env: env})
		var start *StartError
		if !errors.As(err, &start) || start.Code != want {
			t.Errorf("%q: got %v, want code %d", name, err, want)
		}
	}
	if _, err := Start(Spec{Argv: []string{"sh"}}); err == nil {
		t.Error("found sh without a PATH")
	}
}

func TestPIDAndStartTimeNameTheProcess(t *testing.T) {
	t.Parallel()
	command, err := Start(Spec{Argv: []string{"sleep", "100"}, Env: []string{"PATH=/usr/bin:/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	started, err := StartTime(command.PID())
	if err != nil || started == 0 || started != command.StartTime() {
		t.Errorf("start time %d (%v), told %d", started, err, command.StartTime())
	}
	if parent, err := stat(command.PID()); err != nil || string(parent[1]) != strconv.Itoa(os.Getpid()) {
		t.Errorf("not a child of this process: %s %v", parent, err)
	}
	command.send(unix.SIGKILL)
	if code, err := command.Wait(); code != 137 || err != nil {
		t.Errorf("code %d, %v", code, err)
	}
}

// TestCaseE07 is the launcher's part of it: the command's end is seen although
// a child of it lives on, holding its output.
func TestCaseE07CommandEndsAlthoughADoubleForkLivesOn(t *testing.T) {
	t.Parallel()
	need(t, "setsid")
	dir := t.TempDir()
	command, err := Start(sh(`(setsid sh -c 'echo $$ > ` + dir + `/pid; exec sleep 100' &) ; while ! [ -s ` + dir + `/pid ]; do sleep 0.01; done; exit 5`))
	if err != nil {
		t.Fatal(err)
	}
	code, err := command.Wait()
	if code != 5 || err != nil {
		t.Fatalf("code %d, %v", code, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	orphan, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	// It stays under the subreaper: that is how its tree is known.
	fields, err := stat(orphan)
	if err != nil || string(fields[1]) != strconv.Itoa(os.Getpid()) {
		t.Errorf("the orphan's parent is %s (%v), want this process", fields, err)
	}
	if err := unix.Kill(orphan, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Wait4(orphan, nil, 0, nil); err != nil {
		t.Fatal(err)
	}
}

// It counts every child of this process, so it is not parallel to tests that have
// some.
func TestStrangersAreReapedAndOthersKeepTheirStatus(t *testing.T) {
	command, err := Start(sh(`for i in 1 2 3 4 5; do (sh -c 'exit 3' &); done; exec sleep 100`))
	if err != nil {
		t.Fatal(err)
	}
	under := func() (count int) {
		for _, pid := range zombies() {
			if pid != command.PID() {
				count++
			}
		}
		return count
	}
	eventually(t, "orphans end under this process", func() bool { return under() >= 5 })
	// Another part of the program starts children meanwhile.
	for i := range 20 {
		err := exec.Command("sh", "-c", fmt.Sprintf("exit %d", i+1)).Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != i+1 {
			t.Fatalf("child %d of another part: %v", i, err)
		}
	}
	eventually(t, "orphans are reaped", func() bool { return under() == 0 })
	command.send(unix.SIGTERM)
	if code, err := command.Wait(); code != 143 || err != nil {
		t.Fatalf("code %d, %v", code, err)
	}
}

// TestSignalsArePassedOnWithoutATerminal runs the launcher in a session of its
// own, which has no terminal.
func TestSignalsArePassedOnWithoutATerminal(t *testing.T) {
	t.Parallel()
	need(t, "bash")
	for _, name := range []string{"HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH", "ALRM", "CONT", "TSTP", "RTMIN+5"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := launcher(t, "bash", "-c", `trap 'echo got; exit 9' `+name+`; echo ready; while :; do sleep 0.01; done`)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			if !lines.Scan() || lines.Text() != "ready" {
				t.Fatalf("command did not start: %q", lines.Text())
			}
			number := unix.SignalNum("SIG" + name)
			if name == "RTMIN+5" {
				number = 39
			}
			if err := cmd.Process.Signal(number); err != nil {
				t.Fatal(err)
			}
			if !lines.Scan() || lines.Text() != "got" {
				t.Errorf("the command saw %q", lines.Text())
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != 9 {
				t.Errorf("code %d, want the command's 9", code)
			}
		})
	}
}

func TestStopWithoutATerminalDoesNotStopTheGateway(t *testing.T) {
	t.Parallel()
	cmd := launcher(t, "sh", "-c", `echo $$; kill -STOP $$; exit 4`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the command stops", func() bool { return isStopped(pid) })
	if isStopped(cmd.Process.Pid) {
		t.Error("the gateway stopped, and nobody is there to wake it")
	}
	if err := cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 4 {
		t.Errorf("code %d, want 4", code)
	}
}

func TestIgnoredHangupStaysIgnoredForTheCommand(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sh", "-c", `trap '' HUP; exec "$0" sh -c 'kill -HUP $$; kill -HUP $PPID; echo alive'`, launcher(t).Path)
	cmd.Env = append(os.Environ(), asLauncher+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "alive\n" {
		t.Fatalf("got %q, %v", out, err)
	}
}

func TestHardenedProcessHasNoCoreAndCannotBeTraced(t *testing.T) {
	t.Parallel()
	if os.Getenv("LAUNCH_TEST_HARDEN") != "" {
		if err := Harden(); err != nil {
			t.Fatal(err)
		}
		dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		if err != nil || dumpable != 0 {
			t.Errorf("dumpable %d, %v", dumpable, err)
		}
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit.Cur != 0 {
			t.Errorf("core limit %d, %v", limit.Cur, err)
		}
		// A hardened gateway still starts, reaps and describes its command.
		command, err := Start(sh("exit 3"))
		if err != nil || command.StartTime() == 0 {
			t.Fatalf("start: %v", err)
		}
		if code, err := command.Wait(); code != 3 || err != nil {
			t.Errorf("code %d, %v", code, err)
		}
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHardenedProcessHasNoCoreAndCannotBeTraced$")
	cmd.Env = append(os.Environ(), "LAUNCH_TEST_HARDEN=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
}

func TestTheCommandGetsItsTimerSlackAndTheThreadThatStartsItKeepsItsOwn(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const own, given = 123_000, 45_000
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, own, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(before), 0, 0, 0)
	out := filepath.Join(t.TempDir(), "slack")
	file, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	c, err := Start(Spec{Argv: []string{"/bin/cat", "/proc/self/timerslack_ns"}, TimerSlack: given, Stdout: file})
	if err != nil {
		t.Fatal(err)
	}
	if code, err := c.Wait(); code != 0 || err != nil {
		t.Fatal(code, err)
	}
	if text, _ := os.ReadFile(out); strings.TrimSpace(string(text)) != strconv.Itoa(given) {
		t.Errorf("the command has the slack %q", text)
	}
	if now, _ := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); now != own {
		t.Errorf("the thread has the slack %d", now)
	}
}
