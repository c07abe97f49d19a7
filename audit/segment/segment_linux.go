package segment

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncData leaves the times of the file to the kernel: they are not part of the record, and cost a second journal write.
func syncData(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// reserve keeps the size as it is: readers must not meet zeros where no record was written.
func reserve(f *os.File, from, length int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, from, length)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}
