//go:build !linux

package segment

import "os"

// syncData on macOS is F_FULLFSYNC, on Windows FlushFileBuffers.
func syncData(f *os.File) error { return f.Sync() }

// reserve does nothing here: only Linux can set disk space aside without making the file longer.
func reserve(*os.File, int64, int64) error { return nil }
