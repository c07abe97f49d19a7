//go:build unix

package rules

import (
	"io/fs"
	"os"
	"syscall"
)

// nonBlocking keeps a FIFO in the place of a file from holding the program up.
const nonBlocking = syscall.O_NONBLOCK

// othersMayWrite says who else could change the file, and the command that ends
// it. A file of root is as good as one's own.
func othersMayWrite(path string, info fs.FileInfo) (problem, fix string) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "its owner cannot be told", ""
	}
	if int(st.Uid) != os.Geteuid() && st.Uid != 0 {
		return "it belongs to another user", "sudo chown \"$USER\" " + shellQuote(path)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return "others may write it", "chmod go-w " + shellQuote(path)
	}
	return "", ""
}

// belongsToSystem reports whether a program is root's and we are not.
func belongsToSystem(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == 0 && os.Geteuid() != 0 && info.Mode().Perm()&0o022 == 0
}
