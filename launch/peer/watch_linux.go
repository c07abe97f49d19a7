package peer

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Watch waits for the end of a process that is nobody's child here.
type Watch struct {
	file *os.File // the process, as a descriptor
	done chan struct{}
	once sync.Once
}

// WatchProcess watches the process of that number and start time. Close must be
// called.
func WatchProcess(pid int, start uint64) (*Watch, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	w := &Watch{file: os.NewFile(uintptr(fd), "process"), done: make(chan struct{})}
	// If it is the right one now, it was when it was opened: its number was not
	// free in between.
	if now, err := Started(pid); err != nil || now != start {
		w.Close()
		return nil, fmt.Errorf("watch process %d: it has ended", pid)
	}
	conn, err := w.file.SyscallConn()
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	go func() {
		err := conn.Read(func(fd uintptr) bool {
			ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return err == nil && ready > 0
		})
		if err == nil {
			close(w.done)
		}
	}()
	return w, nil
}

// Done is closed when the process has ended.
func (w *Watch) Done() <-chan struct{} { return w.done }

// Close ends the watching.
func (w *Watch) Close() error {
	var err error
	w.once.Do(func() { err = w.file.Close() })
	return err
}
