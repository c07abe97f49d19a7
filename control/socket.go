package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// Listen listens on a socket that only this user can reach. Its folder must be
// private already. A path that is taken is refused, unless it is a socket of this
// user's on which nobody listens any more: what a killed gateway left behind.
// The process's umask must keep others out from the start.
func Listen(path string) (net.Listener, error) {
	if err := vacate(path); err != nil {
		return nil, err
	}
	short, done, err := shortPath(path)
	if err != nil {
		return nil, err
	}
	defer done()
	listener, err := net.Listen("unix", short)
	if err != nil {
		return nil, fmt.Errorf("listen on control socket %q: %w", path, errors.Unwrap(err))
	}
	// The listener would remove the file by the short name, which ends here.
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	l := &privateListener{Listener: listener, path: path}
	if l.made, err = os.Lstat(path); err == nil {
		err = os.Chmod(path, 0o600)
	}
	return l, err
}

// Sweep removes a socket of this user's on which nobody listens any more: what a
// killed gateway left behind. Anything else stays.
func Sweep(path string) error {
	info, err := os.Lstat(path)
	if err != nil || time.Since(info.ModTime()) < startOfAll {
		return nil // it is gone, or its owner may be about to listen
	}
	var taken *TakenError
	if err := vacate(path); err != nil && !errors.As(err, &taken) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// startOfAll is how long a gateway may take between making a socket and listening.
const startOfAll = time.Second

// vacate removes a socket on which nobody listens.
func vacate(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listen on control socket: %w", err)
	}
	if uid, known := owner(info); info.Mode().Type() != fs.ModeSocket || known && uid != os.Getuid() {
		return &TakenError{Path: path}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := Dial(ctx, path)
	if err == nil {
		conn.Close()
		return &TakenError{Path: path, Live: true}
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return &TakenError{Path: path}
	}
	return os.Remove(path)
}

// A TakenError says that something else is where a socket is to be: if Live, a
// gateway that answers.
type TakenError struct {
	Path string
	Live bool
}

func (e *TakenError) Error() string {
	if e.Live {
		return fmt.Sprintf("listen on control socket %q: another gateway listens there", e.Path)
	}
	return fmt.Sprintf("listen on control socket %q: the file exists, and is no socket that a gateway of yours left behind", e.Path)
}

// privateListener removes its file when it is closed, unless somebody else has
// removed or replaced it.
type privateListener struct {
	net.Listener
	path string
	made fs.FileInfo
}

func (l *privateListener) Close() error {
	var removed error
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
		if removed = os.Remove(l.path); errors.Is(removed, fs.ErrNotExist) {
			removed = nil
		}
	}
	return errors.Join(removed, l.Listener.Close())
}

// Dial connects to a socket.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	short, done, err := shortPath(path)
	if err != nil {
		return nil, err
	}
	defer done()
	return (&net.Dialer{}).DialContext(ctx, "unix", short)
}

// maxPath is how long a path the kernel takes for a socket, in bytes, on every
// system.
const maxPath = 100

// shortPath names a file by a path that is short enough for a socket: the path
// itself, or one by way of its folder's open descriptor. Done ends that name.
func shortPath(path string) (short string, done func() error, err error) {
	if len(path) <= maxPath || runtime.GOOS != "linux" {
		return path, func() error { return nil }, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, fmt.Errorf("find control socket: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), dir.Close, nil
}

// A Peer is the process at the other end of a socket. PID is 0 where it cannot be
// seen: on other systems, or from another pid namespace.
type Peer struct {
	PID int
	UID int
}
