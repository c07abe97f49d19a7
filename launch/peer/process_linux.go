package peer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is one process, held by its directory in /proc: when it has ended,
// every read fails, also if its number has been given to another.
type process struct {
	dir    int
	pid    int
	parent int
	start  uint64
	ended  bool // it is a zombie
}

// openProcess returns a process that lives, or an error.
func openProcess(pid int) (*process, error) {
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &process{dir: dir, pid: pid}
	if err := p.look(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *process) close() { _ = unix.Close(p.dir) } // nothing was written

// read reads the beginning of one of the process's files.
func (p *process) read(name string, buf []byte) ([]byte, error) {
	fd, err := unix.Openat(p.dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	total := 0
	for total < len(buf) {
		n, err := unix.Read(fd, buf[total:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		total += n
	}
	return buf[:total], nil
}

// look reads who the parent is now, and whether the process has ended.
func (p *process) look() error {
	var buf [1024]byte
	line, err := p.read("stat", buf[:])
	if err != nil {
		return fmt.Errorf("read stat of process %d: %w", p.pid, err)
	}
	// The name in front may hold spaces and parentheses.
	fields := bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:])
	if len(fields) < 20 {
		return fmt.Errorf("read stat of process %d: too short", p.pid)
	}
	p.ended = fields[0][0] == 'Z' || fields[0][0] == 'X'
	if p.parent, err = strconv.Atoi(string(fields[1])); err != nil {
		return fmt.Errorf("read stat of process %d: %w", p.pid, err)
	}
	if p.start, err = strconv.ParseUint(string(fields[19]), 10, 64); err != nil {
		return fmt.Errorf("read stat of process %d: %w", p.pid, err)
	}
	return nil
}

// holds reports whether the process has a descriptor of that socket. A process
// that may not be looked into has none.
func (p *process) holds(inode uint32) bool {
	fds, err := unix.Openat(p.dir, "fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fds)
	want := "socket:[" + strconv.FormatUint(uint64(inode), 10) + "]"
	var entries [8192]byte
	var target [64]byte
	for {
		n, err := unix.ReadDirent(fds, entries[:])
		if err != nil || n <= 0 {
			return false
		}
		_, _, names := unix.ParseDirent(entries[:n], -1, nil)
		for _, name := range names {
			if n, err := unix.Readlinkat(fds, name, target[:]); err == nil && string(target[:n]) == want {
				return true
			}
		}
	}
}

// children are those that the kernel lists; one that ends meanwhile can hide
// another. None where the kernel lists none.
func (p *process) children() []int {
	tasks, err := unix.Openat(p.dir, "task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	dir := os.NewFile(uintptr(tasks), "task")
	defer dir.Close()
	threads, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var found []int
	buf := make([]byte, 64<<10)
	for _, thread := range threads {
		list, err := p.read(filepath.Join("task", thread, "children"), buf)
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(list)) {
			if pid, err := strconv.Atoi(field); err == nil {
				found = append(found, pid)
			}
		}
	}
	return found
}

// maxEnviron is more than the kernel lets a program be started with on a stack
// of the usual size.
const maxEnviron = 4 << 20

// marked reports whether the process was started with that entry in its
// environment.
func (p *process) marked(entry string) bool {
	if entry == "" {
		return false
	}
	var environ []byte
	for size := 16 << 10; ; size *= 2 {
		var err error
		if environ, err = p.read("environ", make([]byte, size)); err != nil {
			return false
		}
		if len(environ) < size || size >= maxEnviron {
			break
		}
	}
	whole := []byte(entry + "\x00")
	return bytes.HasPrefix(environ, whole) || bytes.Contains(environ, append([]byte{0}, whole...))
}

// exe is the program's path, "" where it may not be known.
func (p *process) exe() string {
	var buf [4096]byte
	n, err := unix.Readlinkat(p.dir, "exe", buf[:])
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// user is the effective user, -1 if that is not known.
func (p *process) user() int {
	var buf [4096]byte
	status, err := p.read("status", buf[:])
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "Uid:" {
			if uid, err := strconv.Atoi(f[2]); err == nil {
				return uid
			}
		}
	}
	return -1
}
