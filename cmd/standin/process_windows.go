package main

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"

	"standin/launch/peer"
)

// leaveTerminal is not needed where no session is bound to a shell.
func leaveTerminal() error { return peer.ErrUnsupported }

// keepBrokenPipes has nothing to do: no signal comes of them here.
func keepBrokenPipes() {}

// maxConnections has no limit here.
func maxConnections() int { return 0 }

func exhausted(error) bool { return false }

// tryLock takes the lock of an open file, or says that somebody has it.
func tryLock(f *os.File) (bool, error) {
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}

// writable leaves it to the writing itself.
func writable(string) error { return nil }
