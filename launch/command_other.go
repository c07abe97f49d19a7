//go:build !linux

package launch

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

// A Command is a process that was started for a session.
type Command struct {
	process *os.Process
	signals chan os.Signal
}

// Start starts the command as a child. Errors are *StartError. Wait must be
// called once.
//
// Only Linux has subreapers and tells of a child's stop: elsewhere a process
// that the command leaves behind goes to init, and on Ctrl-Z the terminal stops
// both, each by its own default action.
//
// As on Linux, the signals that it takes do nothing when the command has ended.
func Start(spec Spec) (*Command, error) {
	path, err := find(spec)
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: path, Args: spec.Argv, Env: append([]string{}, spec.Env...), Dir: spec.Dir}
	for _, file := range []struct {
		from *os.File
		give func(*os.File)
	}{
		{spec.Stdin, func(f *os.File) { cmd.Stdin = f }},
		{spec.Stdout, func(f *os.File) { cmd.Stdout = f }},
		{spec.Stderr, func(f *os.File) { cmd.Stderr = f }},
	} {
		if file.from != nil { // a nil file in an interface is not nil
			file.give(file.from)
		}
	}
	c := &Command{signals: spec.Signals}
	if c.signals == nil {
		c.signals = make(chan os.Signal, 32)
		signal.Notify(c.signals, Handled()...)
	}
	if err := cmd.Start(); err != nil {
		return nil, startError(spec.Argv[0], err)
	}
	c.process = cmd.Process
	return c, nil
}

// Handled are the signals that the gateway takes while the command runs.
func Handled() []os.Signal {
	return []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
}

// PID returns the command's process id.
func (c *Command) PID() int { return c.process.Pid }

// StartTime is known on Linux only; here it is 0.
func (c *Command) StartTime() uint64 { return 0 }

// Wait returns the command's exit code, 128+n if signal n ended it. Until then
// it passes on signals, but for those that a terminal sends to both.
func (c *Command) Wait() (code int, err error) {
	onTerminal := term.IsTerminal(int(os.Stdin.Fd()))
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case got := <-c.signals:
				if !onTerminal || got != os.Interrupt && got != syscall.SIGQUIT {
					_ = c.process.Signal(got) // it may have ended by now
				}
			case <-stop:
				return
			}
		}
	}()
	state, err := c.process.Wait()
	close(stop)
	<-done
	if err != nil {
		return 0, err
	}
	if status, ok := state.Sys().(interface {
		Signaled() bool
		Signal() syscall.Signal
	}); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	if code = state.ExitCode(); code < 0 {
		return 0, errors.New("wait for command: no exit status")
	}
	return code, nil
}

// hideMemory has nothing to offer beyond the limit on core files.
func hideMemory() error { return nil }

// Childless does not know: only Linux gives a launcher what its command leaves
// behind.
func Childless() bool { return false }
