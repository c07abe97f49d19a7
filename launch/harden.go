//go:build unix

package launch

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Harden keeps this process's memory from other processes of the user: no
// core file, and on Linux neither ptrace nor /proc/PID/mem. Commands that it
// starts can be traced as usual; they inherit the soft limit on core files and
// may raise it again.
func Harden() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return fmt.Errorf("read core limit: %w", err)
	}
	limit.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return fmt.Errorf("set core limit: %w", err)
	}
	return hideMemory()
}
