package vault

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"

	"golang.org/x/sys/windows"
)

// renamesOpen says that a file can be renamed and removed while it is open.
const renamesOpen = false

func openNoFollow(path string, flag int) (*os.File, error) {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	return os.OpenFile(path, flag, 0o600)
}

// owner is not known: see the package comment.
func owner(fs.FileInfo) (uid int, known bool) { return 0, false }

func tryLock(f *os.File) (bool, error) {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	// One byte far behind the end: the lock is mandatory here, and must not
	// keep the holder itself from reading through another handle.
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{OffsetHigh: 1 << 30})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}

// syncDir has nothing to do: NTFS journals the rename.
func syncDir(string) error { return nil }

// ownGroup leaves the command's children to themselves: only the command is ended.
func ownGroup(*exec.Cmd) {}
