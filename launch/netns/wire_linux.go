package netns

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// pipe is the connection between the gateway and the first process of a room.
// A message is its length and JSON; descriptors travel with the length.
type pipe struct{ conn *net.UnixConn }

// Bounds of one message. The environment of a command may be some MiB.
const (
	maxMessage     = 16 << 20
	maxDescriptors = 250
)

// newPipe makes both ends; the second is for the child.
func newPipe() (*pipe, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	there := os.NewFile(uintptr(fds[1]), "room")
	here, err := pipeOf(os.NewFile(uintptr(fds[0]), "room"))
	if err != nil {
		return nil, nil, errors.Join(err, there.Close())
	}
	return here, there, nil
}

// pipeOf takes over a file.
func pipeOf(file *os.File) (*pipe, error) {
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("not a unix socket")
	}
	return &pipe{unixConn}, nil
}

func (p *pipe) close() error { return p.conn.Close() }

func (p *pipe) send(v any, fds ...int) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > maxMessage {
		return fmt.Errorf("message of %d bytes", len(body))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	head := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	if _, _, err := p.conn.WriteMsgUnix(head, rights, nil); err != nil {
		return err
	}
	_, err = p.conn.Write(body)
	return err
}

// receive returns the files that came with the message; the caller closes them.
func (p *pipe) receive(v any) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	head, rights := make([]byte, 4), make([]byte, unix.CmsgSpace(4*maxDescriptors))
	n, oobn, _, _, err := p.conn.ReadMsgUnix(head, rights)
	if err != nil {
		return nil, err
	}
	if oobn > 0 {
		if files, err = filesOf(rights[:oobn]); err != nil {
			return files, err
		}
	}
	if n == 0 {
		return files, io.EOF
	}
	if _, err := io.ReadFull(p.conn, head[n:]); err != nil {
		return files, err
	}
	length := binary.BigEndian.Uint32(head)
	if length > maxMessage {
		return files, fmt.Errorf("message of %d bytes", length)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(p.conn, body); err != nil {
		return files, err
	}
	return files, json.Unmarshal(body, v)
}

func filesOf(rights []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "descriptor"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// The messages, in their order. The first process answers each of the first
// three; then it tells of the command's statuses.
type (
	// opening asks for the network.
	opening struct {
		UID, GID int
		Ports    []uint16
	}
	// opened comes with the descriptors of sockets, in the order of Kinds.
	opened struct {
		Fault *fault
		Kinds []string
	}
	// furnishing asks for the rest of the room, and the self-test.
	furnishing struct {
		Furniture
		Dir     string
		Environ []string
		Working uint64   // inode of the working directory
		Sockets []string // those of other programs
		Probe   probe
	}
	furnished struct {
		Fault *fault
		Leak  *LeakError
		Tests []string
	}
	// starting asks for the command.
	starting struct {
		Argv, Env  []string
		TimerSlack int
	}
	// started comes with a pidfd.
	started struct {
		Code   int // of the launch.StartError
		Cause  string
		Failed bool
	}
	// noted says that the command's number was read, before it could be given to
	// another: from now on it may be reaped.
	noted struct{}
	// changed is a status of the command, as wait4 has it.
	changed struct{ Status uint32 }
)

// fault is an error that crosses the pipe.
type fault struct {
	Step  string
	Errno int // 0: Text says it
	Text  string
}

func (f *fault) err() error {
	if f.Errno != 0 {
		return unix.Errno(f.Errno)
	}
	return errors.New(f.Text)
}

// faultOf says which step failed. A nil err is none.
func faultOf(step string, err error) *fault {
	if err == nil {
		return nil
	}
	f := &fault{Step: step, Text: err.Error()}
	var named *stepError
	if errors.As(err, &named) {
		f.Step, err = named.step, named.err
		f.Text = err.Error()
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		f.Errno = int(errno)
	}
	return f
}

// stepError names the step that failed.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// step names what err came from.
func step(name string, err error) error {
	if err == nil {
		return nil
	}
	return &stepError{name, err}
}
