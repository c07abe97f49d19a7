//go:build linux

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// onTerminal runs standin with a terminal of its own, types each answer the
// moment its prompt appears, and returns all that the terminal showed.
func onTerminal(t *testing.T, home string, answers []string, args ...string) (shown string, code int, echo bool) {
	t.Helper()
	program, err := exec.LookPath("standin")
	if err != nil {
		t.Fatal(err)
	}
	screen, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	defer tty.Close()
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"STANDIN_HOME=" + home, "HOME=" + home, "PATH=" + os.Getenv("PATH")}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		seen := 0
		buf := make([]byte, 4096)
		for {
			n, err := screen.Read(buf)
			all.Write(buf[:n])
			if text := all.String(); len(answers) > 0 && strings.HasSuffix(text, ": ") && len(text) > seen {
				seen = len(text)
				screen.WriteString(answers[0])
				answers = answers[1:]
			}
			if err != nil || strings.Contains(all.String(), "<end>") {
				return
			}
		}
	}()
	cmd.Wait()
	state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	tty.WriteString("<end>")
	<-read
	return all.String(), cmd.ProcessState.ExitCode(), state.Lflag&unix.ECHO != 0
}

func TestTypedValuesAreNeverShown(t *testing.T) {
	t.Parallel()
	home := filepath.Join(t.TempDir(), "home")
	shown, code, _ := onTerminal(t, home, nil, "vault", "init", "--identity-file", filepath.Join(t.TempDir(), "id"))
	if code != 0 {
		t.Fatal(shown)
	}
	const value = "Typed4711-value"
	shown, code, echo := onTerminal(t, home, []string{value + "\n", value + "\n"}, "vault", "set", "a")
	if code != 0 || !strings.Contains(shown, "set a (version 1)") || !strings.Contains(shown, "Value of a, once more: ") {
		t.Errorf("ended with %d: %s", code, shown)
	}
	if strings.Contains(shown, "Typed4711") {
		t.Errorf("the terminal shows the value: %s", shown)
	}
	if !echo {
		t.Error("the terminal is left without echo")
	}
}

func TestInterruptGivesTheTerminalBack(t *testing.T) {
	t.Parallel()
	home := filepath.Join(t.TempDir(), "home")
	shown, code, echo := onTerminal(t, home, []string{"half\x03"}, "vault", "init")
	if code != 130 || !strings.Contains(shown, "interrupted") || strings.Contains(shown, "half") {
		t.Errorf("ended with %d: %s", code, shown)
	}
	if !echo {
		t.Error("the terminal is left without echo")
	}
	if _, err := os.Stat(filepath.Join(home, "vault.age")); err == nil {
		t.Error("a vault was made")
	}
}
