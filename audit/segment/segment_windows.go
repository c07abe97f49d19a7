package segment

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

func openFile(path string, flags int) (*os.File, error) { return os.OpenFile(path, flags, 0o600) }

// tryLock locks one byte far behind the end: locks on Windows are binding, and readers must be able to read.
func tryLock(f *os.File, how lockKind) error {
	flag := uint32(windows.LOCKFILE_FAIL_IMMEDIATELY)
	if how == writing {
		flag |= windows.LOCKFILE_EXCLUSIVE_LOCK
	}
	at := &windows.Overlapped{Offset: 0xfffffffe, OffsetHigh: 0x7fffffff}
	err := windows.LockFileEx(windows.Handle(f.Fd()), flag, 0, 1, 0, at)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrLocked
	}
	return err
}

// syncDir does nothing: Windows makes names durable by itself.
func syncDir(string) error { return nil }

// private and privateDir check the kind only: who may read a file stands in access lists that are inherited from the
// user's profile directory, and mode bits mean nothing.
func private(path string, info fs.FileInfo) *ModeError {
	if !info.Mode().IsRegular() {
		return &ModeError{path, "not a regular file", "dir " + path}
	}
	return nil
}

func privateDir(path string, info fs.FileInfo) *ModeError {
	if !info.IsDir() {
		return &ModeError{path, "not a directory", "dir " + path}
	}
	return nil
}
