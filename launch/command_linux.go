package launch

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Command is a process that was started for a session.
type Command struct {
	pid       int
	pidfd     int  // -1 if the kernel has none
	host      Host // nil: the command is a child of this process
	startTime uint64
	terminal  *terminal // nil without a controlling terminal
	signals   chan os.Signal
	ended     chan os.Signal // some child did
	changes   chan unix.WaitStatus
	stop      chan struct{}
	running   sync.WaitGroup
}

// Start starts the command as a child in this process's own process group, so
// that a terminal treats both as one job, and makes this process the subreaper
// of what the command leaves behind. Errors are *StartError. Wait must be
// called once.
//
// The signals that it takes are this process's no more: those that come after the
// command has ended, or could not be started, do nothing. One that a terminal sent
// to both may come that late, and what is left to be done must not be ended by it.
func Start(spec Spec) (*Command, error) {
	if len(spec.Argv) == 0 {
		return nil, startError("", exec.ErrNotFound)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, &StartError{Name: spec.Argv[0], Code: codeCannotStart, Cause: fmt.Errorf("become subreaper: %w", err)}
	}
	c := &Command{
		pidfd:    -1,
		host:     spec.Host,
		terminal: openTerminal(),
		signals:  spec.Signals,
		ended:    make(chan os.Signal, 1),
		changes:  make(chan unix.WaitStatus, 1),
		stop:     make(chan struct{}),
	}
	// From here on no signal is lost to the default action: one that arrives
	// before the command is there waits in the channel.
	if c.signals == nil {
		c.signals = make(chan os.Signal, 32)
		signal.Notify(c.signals, Handled()...)
	}
	signal.Notify(c.ended, unix.SIGCHLD)
	if err := c.start(spec); err != nil {
		c.release()
		return nil, err
	}
	var err error
	if c.startTime, err = StartTime(c.pid); err != nil {
		c.startTime = 0 // /proc is not mounted: unknown, as the API says
	}
	c.running.Go(c.watch)
	c.running.Go(c.reap)
	return c, nil
}

func (c *Command) start(spec Spec) (err error) {
	if c.host == nil {
		c.pid, c.pidfd, err = Fork(spec)
		return err
	}
	var own *StartError
	c.pidfd, err = c.host.Start(spec)
	switch {
	case errors.As(err, &own):
		c.pidfd = -1
		return own
	case err != nil:
		c.pidfd = -1
		return startError(spec.Argv[0], err)
	}
	if c.pid, err = numberOf(c.pidfd); err != nil {
		return startError(spec.Argv[0], err)
	}
	return nil
}

// numberOf reads the number of a process that is held by a pidfd, as this
// process sees it.
func numberOf(pidfd int) (int, error) {
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(pidfd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if number, ok := strings.CutPrefix(line, "Pid:"); ok {
			if pid, err := strconv.Atoi(strings.TrimSpace(number)); err == nil && pid > 0 {
				return pid, nil
			}
		}
	}
	return 0, errors.New("it has ended")
}

// Fork starts the command as a child of the calling thread, and nothing else. A
// script without a first line is run by a shell, as execvp does. Errors are
// *StartError; pidfd is -1 if the kernel has none.
func Fork(spec Spec) (pid, pidfd int, err error) {
	path, err := find(spec)
	if err != nil {
		return 0, -1, err
	}
	pid, pidfd, err = fork(path, spec)
	if err != nil {
		return 0, -1, startError(spec.Argv[0], err)
	}
	return pid, pidfd, nil
}

func fork(path string, spec Spec) (pid, pidfd int, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, -1, err
	}
	defer null.Close()
	pidfd = -1
	attr := &syscall.ProcAttr{Dir: spec.Dir, Env: spec.Env, Sys: &syscall.SysProcAttr{PidFD: &pidfd}}
	for _, file := range []*os.File{spec.Stdin, spec.Stdout, spec.Stderr} {
		if file == nil {
			file = null
		}
		attr.Files = append(attr.Files, file.Fd())
	}
	if spec.TimerSlack > 0 {
		// A child gets the slack of the thread that forks it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		ours, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
		if err == nil {
			err = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(spec.TimerSlack), 0, 0, 0)
		}
		if err != nil {
			return 0, -1, fmt.Errorf("restore timer slack: %w", err)
		}
		defer unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(ours), 0, 0, 0)
	}
	pid, err = syscall.ForkExec(path, spec.Argv, attr)
	if errors.Is(err, syscall.ENOEXEC) {
		argv := append([]string{"sh", path}, spec.Argv[1:]...)
		pid, err = syscall.ForkExec("/bin/sh", argv, attr)
	}
	return pid, pidfd, err
}

// PID returns the command's process id. It stays the command's until Wait
// returns.
func (c *Command) PID() int { return c.pid }

// StartTime returns when the command started, in clock ticks since boot, as in
// /proc/PID/stat; with the PID it names a process beyond its life. 0 where
// /proc is not mounted.
func (c *Command) StartTime() uint64 { return c.startTime }

// Wait returns the command's exit code, 128+n if signal n ended it. Until then
// it passes on signals and follows the command into a stop.
func (c *Command) Wait() (code int, err error) {
	defer c.release()
	for {
		select {
		case got := <-c.signals:
			if number, ok := got.(syscall.Signal); ok {
				c.handle(number)
			}
		case status := <-c.changes:
			switch {
			case status.Stopped():
				c.stopped()
			case status.Exited():
				return status.ExitStatus(), nil
			case status.Signaled():
				return 128 + int(status.Signal()), nil
			default:
				return 0, fmt.Errorf("wait for command: status %#x", uint32(status))
			}
		}
	}
}

func (c *Command) release() {
	signal.Stop(c.ended)
	close(c.stop)
	c.running.Wait()
	c.terminal.close()
	if c.pidfd >= 0 {
		unix.Close(c.pidfd)
		c.pidfd = -1
	}
}

// next waits for the next status of the command.
func (c *Command) next() (status unix.WaitStatus, err error) {
	if c.host != nil {
		number, err := c.host.Wait()
		return unix.WaitStatus(number), err
	}
	_, err = unix.Wait4(c.pid, &status, unix.WUNTRACED, nil)
	return status, err
}

// watch is the only one to take the command's status.
func (c *Command) watch() {
	for {
		status, err := c.next()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			// Somebody else in this process took it, or the host has ended: say
			// that it failed rather than wait for ever. No status has these bits.
			status = ^unix.WaitStatus(0)
		}
		select {
		case c.changes <- status:
		case <-c.stop:
			return
		}
		if !status.Stopped() {
			return
		}
	}
}

// send signals the command; never a process that took over its number.
func (c *Command) send(number syscall.Signal) {
	if c.pidfd >= 0 {
		if err := unix.PidfdSendSignal(c.pidfd, number, nil, 0); !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
			return
		}
	}
	_ = unix.Kill(c.pid, number) // it may have ended by now, which is no matter
}

// stat returns the fields of /proc/PID/stat from the state on. The name before
// them may hold spaces and parentheses.
func stat(pid int) ([][]byte, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil, err
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return nil, fmt.Errorf("read stat of process %d: too short", pid)
	}
	return fields, nil
}

// StartTime reads when a process started, as Command.StartTime has it.
func StartTime(pid int) (uint64, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// isStopped reports whether a process is stopped by job control now.
func isStopped(pid int) bool {
	fields, err := stat(pid)
	return err == nil && fields[0][0] == 'T'
}

// hideMemory makes this process not dumpable: its /proc entry belongs to root,
// and no other process of the user may attach to it.
func hideMemory() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make process not dumpable: %w", err)
	}
	return nil
}
