// Package segment keeps one append-only file of a log: private, locked, durable after each Append, its disk space
// reserved ahead, and watched, so that a file that was moved, cut, linked or replaced is noticed.
//
// It does not know what is written. It never writes to a file again after a write or a sync has gone wrong: the
// kernel may report such an error once and then forget the lost pages.
//
// Invariant: what lies before Size is on the disk; nothing but Append makes the file longer.
package segment

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// A File is a segment being written. It is not safe for concurrent use.
type File struct {
	f        *os.File
	dir      string
	path     string
	self     fs.FileInfo // what the file and its directory were when it was made
	parent   fs.FileInfo
	size     int64
	reserved int64
	failed   error
}

// A LostError says that a path does not lead to the file it led to, or no longer in the state it was left in.
type LostError struct{ Path, Problem string }

func (e *LostError) Error() string { return fmt.Sprintf("watch %q: %s", e.Path, e.Problem) }

// A ModeError says that a file or directory is not private. Fix is a command that mends it.
type ModeError struct{ Path, Problem, Fix string }

func (e *ModeError) Error() string { return fmt.Sprintf("check %q: %s", e.Path, e.Problem) }

// A lockKind says whether a lock is for the one writer, or only to learn whether there is one.
type lockKind bool

const (
	writing lockKind = true
	probing lockKind = false
)

// ErrLocked is returned where another process holds the lock.
var ErrLocked = errors.New("held by another process")

// Create makes dir/name, which must not exist, with mode 0600 whatever the umask, and locks it until Close.
// The name itself is durable when Create returns.
func Create(dir, name string) (*File, error) {
	path := filepath.Join(dir, name)
	parent, err := os.Lstat(dir)
	if err != nil {
		return nil, err
	}
	f, err := openFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	s := &File{f: f, dir: dir, path: path, parent: parent}
	if err := s.begin(); err != nil {
		f.Close()
		os.Remove(path)
		return nil, err
	}
	return s, nil
}

func (s *File) begin() error {
	if err := s.f.Chmod(0o600); err != nil {
		return err
	}
	err := tryLock(s.f, writing)
	for range 50 { // a reader may be asking right now whether the file is being written
		if !errors.Is(err, ErrLocked) {
			break
		}
		time.Sleep(time.Millisecond)
		err = tryLock(s.f, writing)
	}
	if err != nil {
		return fmt.Errorf("lock %q: %w", s.path, err)
	}
	if s.self, err = s.f.Stat(); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// Path returns the path the file was made at.
func (s *File) Path() string { return s.path }

// Size returns the number of bytes that are durable.
func (s *File) Size() int64 { return s.size }

// Append writes b with one write and makes it durable with one sync. After an error the file takes nothing more.
func (s *File) Append(b []byte) error {
	if s.failed != nil {
		return s.failed
	}
	n, err := s.f.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err == nil {
		err = syncData(s.f)
	}
	if err != nil {
		s.failed = err
		return err
	}
	s.size += int64(len(b))
	return nil
}

// Reserve sees to it that at least half of ahead bytes can still be written when others have filled the disk.
// Where the system or the file system has no such thing it does nothing.
func (s *File) Reserve(ahead int64) error {
	if s.failed != nil || s.reserved-s.size > ahead/2 {
		return nil
	}
	if err := reserve(s.f, s.size, ahead); err != nil {
		return err
	}
	s.reserved = s.size + ahead
	return nil
}

// Check returns a *LostError unless the path still leads to this file, private, linked once and as long as it was left,
// in the directory it was made in.
func (s *File) Check() error {
	dir, err := os.Lstat(s.dir)
	if err != nil {
		return &LostError{s.dir, "the directory is gone"}
	}
	if !os.SameFile(dir, s.parent) {
		return &LostError{s.dir, "the directory was replaced"}
	}
	now, err := os.Lstat(s.path)
	if err != nil {
		return &LostError{s.path, "the file is gone"}
	}
	if !os.SameFile(now, s.self) {
		return &LostError{s.path, "the file was replaced"}
	}
	if now.Size() != s.size {
		return &LostError{s.path, fmt.Sprintf("the file has %d bytes where %d were written", now.Size(), s.size)}
	}
	if err := private(s.path, now); err != nil {
		return &LostError{s.path, err.Problem}
	}
	return nil
}

// GiveUp cuts off what was written but never became durable, as far as that still works. It does not sync.
func (s *File) GiveUp() {
	if s.failed == nil {
		s.failed = fs.ErrClosed
	}
	_ = s.f.Truncate(s.size)
}

// Trim returns the space that was reserved and not used.
func (s *File) Trim() {
	if s.reserved > s.size {
		s.reserved = s.size
		_ = s.f.Truncate(s.size)
	}
}

// Close unlocks and closes the file.
func (s *File) Close() error {
	if s.failed == nil {
		s.failed = fs.ErrClosed
	}
	return s.f.Close()
}

// Remove closes the file and deletes it, if its path still leads to it.
func (s *File) Remove() error {
	now, err := os.Lstat(s.path)
	same := err == nil && os.SameFile(now, s.self)
	s.Close()
	if !same {
		return &LostError{s.path, "the file was replaced"}
	}
	return os.Remove(s.path)
}

// Open opens a file of the log for reading: no symbolic link, regular, ours, linked once, mode 0600; else *ModeError.
func Open(path string) (*os.File, error) {
	before, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if err := private(path, before); err != nil { // before the open: opening a FIFO would wait for a writer
		return nil, err
	}
	f, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	after, err := f.Stat()
	if err == nil {
		if bad := private(path, after); bad != nil {
			err = bad
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Read opens a file for reading that need not be ours: a copy of a log may be checked by somebody else. It must be a
// regular file and no symbolic link; what else is wrong with it is returned as a *ModeError beside the open file.
func Read(path string) (*os.File, *ModeError, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, nil, err
	}
	bad := private(path, info)
	if !info.Mode().IsRegular() {
		return nil, nil, bad
	}
	f, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	if now, err := f.Stat(); err != nil || !os.SameFile(now, info) {
		f.Close()
		return nil, nil, &LostError{path, "the file was replaced"}
	}
	return f, bad, nil
}

// Running tells whether a process holds the lock of the file, that is, is still writing.
func Running(path string) bool {
	f, err := Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	err = tryLock(f, probing)
	return errors.Is(err, ErrLocked)
}

// Lock takes the lock at path, which it makes where it is missing, and waits at most for the given time.
func Lock(path string, wait time.Duration) (io.Closer, error) {
	deadline := time.Now().Add(wait)
	for {
		f, err := openFile(path, os.O_RDWR|os.O_CREATE)
		if err != nil {
			return nil, err
		}
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			f.Close()
			return nil, &ModeError{path, "not a regular file", "rm -r " + quote(path)}
		}
		err = tryLock(f, writing)
		if err == nil && leadsTo(path, f) {
			return f, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, ErrLocked) {
			return nil, fmt.Errorf("lock %q: %w", path, err)
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("lock %q: %w", path, ErrLocked)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func leadsTo(path string, f *os.File) bool {
	a, errA := os.Lstat(path)
	b, errB := f.Stat()
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// PrivateDir makes dir with mode 0700, or checks that it is a directory of ours with that mode; else *ModeError.
func PrivateDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
		return syncDir(filepath.Dir(dir))
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	return CheckDir(dir)
}

// CheckDir checks that dir is a directory of ours with mode 0700; else *ModeError.
func CheckDir(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if bad := privateDir(dir, info); bad != nil {
		return bad
	}
	return nil
}

// quote makes a path safe to paste into a shell.
func quote(path string) string {
	out := []byte{'\''}
	for i := 0; i < len(path); i++ {
		if path[i] == '\'' {
			out = append(out, `'\''`...)
		} else {
			out = append(out, path[i])
		}
	}
	return string(append(out, '\''))
}
