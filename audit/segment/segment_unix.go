//go:build unix

package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// openFile never follows a link in the last place and never hands the descriptor on to a child.
func openFile(path string, flags int) (*os.File, error) {
	return os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o600)
}

func tryLock(f *os.File, how lockKind) error {
	flag := unix.LOCK_EX
	if how == probing {
		flag = unix.LOCK_SH
	}
	err := unix.Flock(int(f.Fd()), flag|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func private(path string, info fs.FileInfo) *ModeError {
	if !info.Mode().IsRegular() {
		return &ModeError{path, "not a regular file", "ls -l " + quote(path)}
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return &ModeError{path, "the owner cannot be read", "ls -l " + quote(path)}
	case int(stat.Uid) != os.Geteuid():
		return &ModeError{path, fmt.Sprintf("owned by uid %d", stat.Uid), "chown $(id -u) " + quote(path)}
	case stat.Nlink != 1:
		return &ModeError{path, fmt.Sprintf("has %d names", stat.Nlink), "find / -xdev -samefile " + quote(path)}
	case info.Mode().Perm() != 0o600:
		return &ModeError{path, fmt.Sprintf("has mode %04o, not 0600", info.Mode().Perm()), "chmod 600 " + quote(path)}
	}
	return nil
}

func privateDir(path string, info fs.FileInfo) *ModeError {
	if !info.IsDir() {
		return &ModeError{path, "not a directory", "ls -ld " + quote(path)}
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return &ModeError{path, "the owner cannot be read", "ls -ld " + quote(path)}
	case int(stat.Uid) != os.Geteuid():
		return &ModeError{path, fmt.Sprintf("owned by uid %d", stat.Uid), "chown $(id -u) " + quote(path)}
	case info.Mode().Perm() != 0o700:
		return &ModeError{path, fmt.Sprintf("has mode %04o, not 0700", info.Mode().Perm()), "chmod 700 " + quote(path)}
	}
	return nil
}
