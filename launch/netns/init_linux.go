package netns

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"standin/launch"
)

// pipeDescriptor is where the first process finds its pipe.
const pipeDescriptor = 3

// Init is the life of the first process of a room, on the main thread. It
// returns the exit code of this process, which tells nobody anything.
func Init() int {
	runtime.LockOSThread()
	// The first process of a pid namespace hears only what it listens for. From
	// the terminal it hears what the command hears, and leaves it to that.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, launch.Handled()...)
	go func() {
		for range signals {
		}
	}()
	p, err := pipeOf(os.NewFile(pipeDescriptor, "room"))
	if err != nil {
		return 1
	}
	for _, answer := range []func(*pipe) error{answerOpening, answerFurnishing, answerStarting} {
		if answer(p) != nil {
			return 1 // it was said, or nobody is there any more
		}
	}
	return 0
}

// errSaid ends the first process: why was said.
var errSaid = errors.New("said")

func answerOpening(p *pipe) error {
	var o opening
	if _, err := p.receive(&o); err != nil {
		return err
	}
	var answer opened
	var fds []int
	err := mapUsers(o.UID, o.GID)
	if err == nil {
		err = connect()
	}
	if err == nil {
		answer.Kinds, fds, err = listen(o.Ports)
	}
	answer.Fault = faultOf("make the room", err)
	if err := p.send(answer, fds...); err != nil {
		return err
	}
	for _, fd := range fds {
		_ = unix.Close(fd) // the gateway has them
	}
	if err != nil {
		return errSaid
	}
	return nil
}

func answerFurnishing(p *pipe) error {
	var f furnishing
	if _, err := p.receive(&f); err != nil {
		return err
	}
	err := furnish(&f)
	if err == nil {
		err = restrict()
	}
	if err == nil {
		err = step("close descriptors", leaveNothingOpen())
	}
	// From here on no process in the room may look into this one.
	if err == nil {
		err = step("make the process not dumpable", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
	}
	answer := furnished{Fault: faultOf("make the room", err)}
	if err == nil {
		answer.Leak = selfTest(&f.Probe, f.Sockets)
		answer.Tests = testNames()
	}
	if err := p.send(answer); err != nil {
		return err
	}
	if answer.Fault != nil || answer.Leak != nil {
		return errSaid
	}
	return nil
}

// answerStarting starts the command on this thread, which was tested, and then
// reaps the room until nobody is left in it: the command, what it leaves behind
// when it ends, and what that leaves behind, which has no network any more.
func answerStarting(p *pipe) error {
	var s starting
	if _, err := p.receive(&s); err != nil {
		return err
	}
	pid, pidfd, err := launch.Fork(launch.Spec{Argv: s.Argv, Env: s.Env, TimerSlack: s.TimerSlack, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		answer := started{Failed: true, Cause: err.Error()}
		var start *launch.StartError
		if errors.As(err, &start) {
			answer.Code, answer.Cause = start.Code, start.Cause.Error()
		}
		return errors.Join(p.send(answer), errSaid)
	}
	if pidfd < 0 {
		return unix.ENOSYS
	}
	if err := p.send(started{}, pidfd); err != nil {
		return err
	}
	_ = unix.Close(pidfd)
	// Who reads what the command writes waits for the last who could write.
	if err := leaveStandardFiles(); err != nil {
		return err
	}
	var n noted
	_, _ = p.receive(&n) // where the gateway is gone, there is nobody to wait for
	reap(p, pid)
	return nil
}

func leaveStandardFiles() error {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(null, fd, 0); err != nil {
			return err
		}
	}
	return unix.Close(null)
}

// reap takes the status of every process, and tells of those of the command.
func reap(p *pipe, command int) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WUNTRACED, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return // nobody is left
		case pid == command:
			_ = p.send(changed{uint32(status)}) // the gateway may be gone
			if !status.Stopped() {
				_ = p.close()
			}
		}
	}
}
