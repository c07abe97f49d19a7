package netns

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"standin/launch"
)

// Room is one room, from the outside. It implements launch.Host. Close must be
// called; a command in it lives on, and what it leaves behind, without a network.
type Room struct {
	Proxy   net.Listener     // on the room's 127.0.0.1
	Direct  []net.Listener   // on all addresses, one port and family each
	Names   []net.PacketConn // UDP, port 53
	Streams []net.Listener   // TCP, port 53
	Sockets *os.File         // sock_diag of the room; the caller takes it over

	pid   int
	start uint64
	pipe  *pipe

	cfg     Config
	near    chan []string // the sockets that lie near
	waiting bool          // Wait was called
}

// Open begins to make a room; Ready waits for it. Errors are *LackingError, and
// most of what a system forbids is known at once.
func Open(cfg Config) (*Room, error) {
	here, there, err := newPipe()
	if err != nil {
		return nil, fmt.Errorf("make a room: %w", err)
	}
	defer there.Close()
	var attr syscall.ProcAttr
	attr.Env = []string{"GOTRACEBACK=none"}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a room: %w", err), here.close())
	}
	defer null.Close()
	for _, file := range []*os.File{cfg.Stdin, cfg.Stdout, cfg.Stderr} {
		if file == nil {
			file = null
		}
		attr.Files = append(attr.Files, file.Fd())
	}
	attr.Files = append(attr.Files, there.Fd())
	attr.Sys = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
		AmbientCaps: needed,
	}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"standin", InitArgument}, &attr)
	runtime.KeepAlive(there)
	if err != nil {
		return nil, errors.Join(lacking("make namespaces", err), here.close())
	}
	r := &Room{pid: pid, pipe: here, cfg: cfg, near: make(chan []string, 1)}
	go func() { r.near <- lookAround(cfg.Environ, cfg.Dir) }() // whoever furnishes the room waits for it
	if r.start, err = launch.StartTime(pid); err == nil {
		err = r.pipe.send(opening{UID: os.Getuid(), GID: os.Getgid(), Ports: cfg.Ports})
	}
	if err != nil {
		return nil, errors.Join(lacking("make the room", err), r.Close())
	}
	return r, nil
}

// Ready waits until the network of the room is made. Errors are *LackingError.
func (r *Room) Ready() error {
	var answer opened
	files, err := r.pipe.receive(&answer)
	if err != nil {
		return lacking("make the room", ended(err))
	}
	defer closeAll(files)
	if answer.Fault != nil {
		return lacking(answer.Fault.Step, answer.Fault.err())
	}
	if len(files) != len(answer.Kinds) {
		return lacking("make the room", errors.New("a socket is missing"))
	}
	for i, kind := range answer.Kinds {
		if err := r.take(kind, files[i]); err != nil {
			return lacking("make the room", err)
		}
	}
	return nil
}

// ended says what an end of the pipe means.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return errors.New("its first process has ended")
	}
	return err
}

func (r *Room) take(kind string, file *os.File) error {
	switch kind {
	case kindDiag:
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return err
		}
		r.Sockets = os.NewFile(uintptr(fd), "sock_diag")
	case kindNames:
		conn, err := net.FilePacketConn(file)
		if err != nil {
			return err
		}
		r.Names = append(r.Names, conn)
	default:
		listener, err := net.FileListener(file)
		if err != nil {
			return err
		}
		switch kind {
		case kindProxy:
			r.Proxy = listener
		case kindStream:
			r.Streams = append(r.Streams, listener)
		default:
			r.Direct = append(r.Direct, listener)
		}
	}
	return nil
}

// Init is the first process of the room, and its start time as in /proc/PID/stat:
// the parent of the command, and of what it leaves behind.
func (r *Room) Init() (pid int, start uint64) { return r.pid, r.start }

// Furnish makes the rest of the room and tests it. Errors are *LackingError or
// *LeakError; the room is no good then.
func (r *Room) Furnish(f Furniture) (Report, error) {
	ask := furnishing{Furniture: f, Dir: r.cfg.Dir, Environ: r.cfg.Environ, Sockets: findSockets(r.cfg.Environ, <-r.near), Working: identityOf(r.cfg.Dir).Ino}
	ask.Sockets = slices.DeleteFunc(ask.Sockets, func(path string) bool { return slices.Contains(f.Holes, path) })
	for _, path := range slices.Concat(f.Private, f.Blank) {
		ask.Probe.Secrets = append(ask.Probe.Secrets, identityOf(path))
	}
	trap, err := setTrap()
	if err != nil {
		return Report{}, lacking("prepare the self-test", err)
	}
	defer trap.close()
	if ask.Probe.Namespaces, err = namespacesOf(); err != nil {
		return Report{}, lacking("prepare the self-test", err)
	}
	ask.Probe.Gateway, ask.Probe.Addresses, ask.Probe.Abstract = os.Getpid(), trap.addresses, trap.name
	ask.Probe.Foreign = r.foreign()
	if err := r.pipe.send(ask); err != nil {
		return Report{}, lacking("make the room", ended(err))
	}
	var answer furnished
	files, err := r.pipe.receive(&answer)
	closeAll(files)
	switch {
	case err != nil:
		return Report{}, lacking("make the room", ended(err))
	case answer.Fault != nil:
		return Report{}, lacking(answer.Fault.Step, answer.Fault.err())
	case answer.Leak != nil:
		return Report{}, answer.Leak
	}
	if found := trap.sprung(); found != "" {
		return Report{}, &LeakError{"nothing came out", found}
	}
	return Report{Tests: append(answer.Tests, "nothing came out"), Hidden: ask.Sockets}, nil
}

// foreign are addresses, of this machine and others, with ports that the room
// does not listen on.
func (r *Room) foreign() (found []netip.AddrPort) {
	used := map[uint16]bool{}
	for _, l := range slices.Concat([]net.Listener{r.Proxy}, r.Direct, r.Streams) {
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			used[uint16(tcp.Port)] = true
		}
	}
	hosts := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("2001:db8::1")}
	own, _ := net.InterfaceAddrs() // more to try, no more than that
	for _, a := range own {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && !prefix.Addr().IsLinkLocalUnicast() {
			hosts = append(hosts, prefix.Addr())
		}
	}
	for _, host := range hosts {
		for _, port := range []uint16{22, 25, 2375, 3128, 5432, 6379, 8080} {
			if !used[port] {
				found = append(found, netip.AddrPortFrom(host, port))
			}
		}
	}
	return found
}

// Start implements launch.Host.
func (r *Room) Start(spec launch.Spec) (pidfd int, err error) {
	if err := r.pipe.send(starting{Argv: spec.Argv, Env: spec.Env, TimerSlack: spec.TimerSlack}); err != nil {
		return -1, ended(err)
	}
	var answer started
	files, err := r.pipe.receive(&answer)
	if err != nil {
		return -1, ended(err)
	}
	defer closeAll(files)
	if answer.Failed {
		return -1, &launch.StartError{Name: spec.Argv[0], Code: answer.Code, Cause: errors.New(answer.Cause)}
	}
	if len(files) != 1 {
		return -1, errors.New("the command has no descriptor")
	}
	return unix.FcntlInt(files[0].Fd(), unix.F_DUPFD_CLOEXEC, 3)
}

// Wait implements launch.Host.
func (r *Room) Wait() (status uint32, err error) {
	if !r.waiting {
		r.waiting = true
		if err := r.pipe.send(noted{}); err != nil {
			return 0, ended(err)
		}
	}
	var answer changed
	files, err := r.pipe.receive(&answer)
	closeAll(files)
	if err != nil {
		return 0, ended(err)
	}
	return answer.Status, nil
}

// Close closes what the room handed out, but for Sockets, and takes the status
// of its first process if that has ended.
func (r *Room) Close() error {
	var err error
	if r.Proxy != nil {
		err = errors.Join(err, r.Proxy.Close())
	}
	for _, l := range slices.Concat(r.Direct, r.Streams) {
		err = errors.Join(err, l.Close())
	}
	for _, c := range r.Names {
		err = errors.Join(err, c.Close())
	}
	err = errors.Join(err, r.pipe.close())
	_, _ = unix.Wait4(r.pid, nil, unix.WNOHANG, nil) // else it is reaped like any other
	if errors.Is(err, net.ErrClosed) {
		return nil // whoever served them closed them
	}
	return err
}
