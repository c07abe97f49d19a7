package launch

import (
	"bytes"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Handled are the signals that the gateway takes while the command runs: all
// that can be caught and mean something to a program. Left out are faults,
// ABRT (which must end the gateway, with a trace and no core), PIPE, CHLD, and
// URG and PROF, by which Go's runtime talks to itself. HUP and INT that are ignored
// already (nohup) stay so, for the command too; Go's runtime takes all others back
// before anybody can see it.
func Handled() []os.Signal {
	numbers := []syscall.Signal{
		unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM,
		unix.SIGTSTP, unix.SIGCONT, unix.SIGWINCH, unix.SIGIO, unix.SIGPWR, unix.SIGVTALRM,
	}
	const firstRealTime, lastRealTime = 35, 64 // 32 to 34 belong to the C library
	for number := firstRealTime; number <= lastRealTime; number++ {
		numbers = append(numbers, syscall.Signal(number))
	}
	var signals []os.Signal
	for _, number := range numbers {
		if !signal.Ignored(number) {
			signals = append(signals, number)
		}
	}
	return signals
}

// handle passes a signal on, unless the command got it, too: the terminal
// sends what a key or a new window size means to every process of the job.
func (c *Command) handle(number syscall.Signal) {
	switch number {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGWINCH:
		if !c.terminal.foreground() {
			c.send(number)
		}
	case unix.SIGCONT:
		c.resume()
	default:
		c.send(number)
	}
}

// stopped follows the command into a stop, so that the shell sees the job stop
// and takes the terminal back. Without a terminal nobody would wake the
// gateway again; there it stays.
//
// The key that stopped the command has sent TSTP here, too. It must not be found
// when the job runs again, in the background: it would be passed on, and stop the
// command once more. So none is taken from here on, what is on its way is waited
// for, and all that came before the stop is handled before it.
func (c *Command) stopped() {
	if c.terminal == nil || !isStopped(c.pid) {
		return
	}
	if !signal.Ignored(unix.SIGTSTP) {
		signal.Ignore(unix.SIGTSTP)
		defer signal.Notify(c.signals, unix.SIGTSTP)
	}
	settle()
	c.drain()
	if !isStopped(c.pid) {
		return // it was woken meanwhile
	}
	c.terminal.remember(c.pid)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// A signal to this very thread takes effect before the call returns.
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGSTOP) // cannot fail for oneself
}

// settle returns when every signal that this process has taken is in its channel.
// A thread that the kernel has sent to its handler may not have run since; until it
// does, it blocks every signal. That it ran is not enough: signal.Stop returns when
// what handlers have taken is passed on.
func settle() {
	for end := time.Now().Add(longestSettle); handling() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	none := make(chan os.Signal, 1)
	signal.Notify(none, unix.SIGCHLD) // which is taken anyway
	signal.Stop(none)
}

// longestSettle bounds the wait for handlers, should a thread block every signal
// for another reason.
const longestSettle = 5 * time.Second

// handling reports whether a thread of this process is in a signal's handler, or
// about to be.
func handling() bool {
	const all = "SigBlk:\tfffffffffffbfeff\n"               // but KILL and STOP
	threads, _ := filepath.Glob("/proc/self/task/*/status") // a fixed pattern
	for _, thread := range threads {
		if status, err := os.ReadFile(thread); err == nil && bytes.Contains(status, []byte(all)) {
			return true
		}
	}
	return false
}

// drain handles the signals that came before a stop, less those that the stop has
// overtaken.
func (c *Command) drain() {
	for {
		select {
		case got := <-c.signals:
			if number, ok := got.(syscall.Signal); ok && number != unix.SIGTSTP && number != unix.SIGCONT {
				c.handle(number)
			}
		default:
			return
		}
	}
}

// resume wakes the command with the gateway. The shell's "fg" woke it already
// if it is in the same process group; an interactive shell is not, and has to
// be given the terminal back that it held.
func (c *Command) resume() {
	c.terminal.restore()
	if c.terminal == nil || isStopped(c.pid) {
		c.send(unix.SIGCONT)
	}
}

// A terminal is the controlling terminal of this process. A nil one is none.
type terminal struct {
	file *os.File
	own  int // this process's group
	held int // the group that held the terminal when the command stopped, or 0
}

func openTerminal() *terminal {
	file, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return &terminal{file: file, own: unix.Getpgrp()}
}

func (t *terminal) close() {
	if t != nil {
		t.file.Close()
	}
}

// holder returns the process group in the foreground, or 0.
func (t *terminal) holder() int {
	if t == nil {
		return 0
	}
	group := 0
	conn, err := t.file.SyscallConn()
	if err != nil {
		return 0
	}
	err = conn.Control(func(fd uintptr) {
		if got, err := unix.IoctlGetInt(int(fd), unix.TIOCGPGRP); err == nil {
			group = got
		}
	})
	if err != nil {
		return 0
	}
	return group
}

// foreground reports whether keys reach this process and the command alike.
func (t *terminal) foreground() bool { return t != nil && t.holder() == t.own }

// remember notes who holds the terminal, if that is somebody below the command: a
// shell that runs in there. A shell above has it for itself.
func (t *terminal) remember(command int) {
	if t.held = t.holder(); t.held == t.own || !descends(t.held, command) {
		t.held = 0
	}
}

// descends reports whether a process is another, or below it.
func descends(pid, from int) bool {
	for range 256 { // deeper than any tree
		if pid == from {
			return true
		}
		fields, err := stat(pid)
		if err != nil {
			return false
		}
		if pid, err = strconv.Atoi(string(fields[1])); err != nil || pid <= 1 {
			return false
		}
	}
	return false
}

// restore gives the terminal to the group that held it, if it is this
// process's to give.
func (t *terminal) restore() {
	if t == nil || t.held == 0 || !t.foreground() {
		return
	}
	held := t.held
	t.held = 0
	if conn, err := t.file.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) {
			_ = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPGRP, held) // the group may be gone
		})
	}
}

// graceOfOthers is how long a process that ended is left to whoever started it
// in this program. What the command left behind waits as long.
const graceOfOthers = time.Second

// reap takes what the command left behind when it ends. Children that other
// parts of this program started look just the same to the kernel; their own
// waiters take them at once, so what lies for longer is nobody's.
func (c *Command) reap() {
	timer := time.NewTimer(graceOfOthers)
	defer timer.Stop()
	lying := map[int]bool{}
	for {
		select {
		case <-c.stop:
			return
		case <-c.ended:
			if len(lying) == 0 {
				timer.Reset(graceOfOthers)
			}
			continue
		case <-timer.C:
		}
		next := map[int]bool{}
		for _, pid := range zombies() {
			if pid != c.pid && lying[pid] {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // nobody asks how it ended
			} else if pid != c.pid {
				next[pid] = true
			}
		}
		if lying = next; len(lying) > 0 {
			timer.Reset(graceOfOthers)
		}
	}
}

// zombies returns this process's children that have ended. Where the kernel
// does not list children there are none: they lie until this process ends.
func zombies() (ended []int) {
	lists, _ := filepath.Glob("/proc/self/task/*/children") // a fixed pattern
	for _, list := range lists {
		data, err := os.ReadFile(list)
		if err != nil {
			continue // a thread that ended
		}
		for _, field := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			if fields, err := stat(pid); err == nil && fields[0][0] == 'Z' {
				ended = append(ended, pid)
			}
		}
	}
	return ended
}

// Childless takes the children of this process that have ended, and says whether
// there is none left. As this process is the subreaper of its command, nothing
// that the command started then runs any more. Nobody else may be waiting for a
// child.
func Childless() bool {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR), err == nil && pid > 0:
		default:
			return errors.Is(err, unix.ECHILD)
		}
	}
}
