package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// furnish hides what leads out of the room, and puts in what the command needs.
// Nothing of it is seen outside, and none of it can be undone from the inside:
// the command has no capability in here, and where it makes namespaces of its
// own the kernel holds these mounts locked.
func furnish(f *furnishing) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return step("set the room's mounts apart", err)
	}
	saved, err := saveAll(slices.Concat(f.Kept, f.Holes, f.Trust.sources(), []string{f.Dir}))
	if err != nil {
		return err
	}
	defer saved.close()
	folders, links := f.folders(), linksOf("/run")
	for _, dir := range folders {
		if err := hide(dir); err != nil {
			return step("hide a folder", err)
		}
	}
	if err := saved.restore(f, folders, links); err != nil {
		return err
	}
	empty := filepath.Join(f.Scratch, "nothing")
	if err := os.WriteFile(empty, nil, 0o000); err != nil {
		return step("write the room's files", err)
	}
	// By now some are gone with their folders.
	for _, path := range slices.Concat(f.Blank, f.Sockets) {
		if err := over(empty, path); err != nil {
			return step("hide a file", err)
		}
	}
	if err := f.names(); err != nil {
		return err
	}
	if err := saved.trust(f.Trust); err != nil {
		return err
	}
	if os.Getuid() == 0 {
		if err := withoutDevices(); err != nil {
			return err
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return step("mount /proc", err)
	}
	if os.Getuid() == 0 {
		if err := withoutSettings(); err != nil {
			return err
		}
	}
	return f.enter()
}

// folders are all that are hidden, those above before those below. A folder
// below a hidden one need not be hidden again, but for the gateway's own.
func (f *furnishing) folders() []string {
	all := slices.Concat(socketFolders(f.Environ), f.Private)
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(all, func(dir string) bool {
		return !slices.Contains(f.Private, dir) && slices.ContainsFunc(all, func(above string) bool { return inside(dir, above) })
	})
}

// inside reports whether path is below dir.
func inside(path, dir string) bool { return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/") }

// hide puts an empty folder of the room's own over a folder. One that is not
// there needs no hiding, one below a folder that is hidden already is made.
func hide(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700,size=64m")
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

// saved are files that were opened before anything was hidden, by their paths.
type saved map[string]int

func saveAll(paths []string) (saved, error) {
	s := saved{}
	for _, path := range paths {
		if path == "" {
			continue
		}
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			s.close()
			return nil, step("open what the command needs", fmt.Errorf("%s: %w", path, err))
		}
		if old, ok := s[path]; ok {
			_ = unix.Close(old)
		}
		s[path] = fd
	}
	return s, nil
}

func (s saved) close() {
	for _, fd := range s {
		_ = unix.Close(fd)
	}
}

func (s saved) source(path string) string { return "/proc/self/fd/" + strconv.Itoa(s[path]) }

// restore brings back, at their places below hidden folders, what the command
// needs: the session's files, the working directory and the holes.
func (s saved) restore(f *furnishing, hidden []string, links map[string]string) error {
	for _, dir := range hidden {
		if dir == "/run" {
			if err := makeRun(f.Environ, links); err != nil {
				return step("make /run", err)
			}
		}
	}
	below := func(path string) bool {
		return slices.ContainsFunc(hidden, func(dir string) bool { return inside(path, dir) || path == dir })
	}
	for _, path := range f.Kept {
		if err := s.bind(path, path, true); err != nil {
			return step("bring back the session's files", err)
		}
	}
	if below(f.Dir) {
		if slices.ContainsFunc(f.Private, func(dir string) bool { return inside(f.Dir, dir) || f.Dir == dir || inside(dir, f.Dir) }) || slices.Contains(hidden, f.Dir) {
			return step("enter the working directory", fmt.Errorf("%s is hidden in the room: start the command somewhere else", f.Dir))
		}
		if err := s.bind(f.Dir, f.Dir, false); err != nil {
			return step("enter the working directory", err)
		}
	}
	for _, path := range f.Holes {
		if below(path) {
			if err := s.bind(path, path, false); err != nil {
				return step("open a hole", err)
			}
		}
	}
	return nil
}

// bind puts what was saved under a path to a place, which is made if it is not
// there.
func (s saved) bind(path, place string, readOnly bool) error {
	var stat unix.Stat_t
	if err := unix.Fstat(s[path], &stat); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := os.MkdirAll(place, 0o700); err != nil {
			return err
		}
	} else if _, err := os.Lstat(place); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(place, nil, 0o600); err != nil {
			return err
		}
	}
	if err := unix.Mount(s.source(path), place, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("%s: %w", place, err)
	}
	if readOnly {
		return attribute(place, unix.MOUNT_ATTR_RDONLY, 0)
	}
	return nil
}

// attribute sets attributes of a mount.
func attribute(path string, set uint64, flags uint) error {
	if err := unix.MountSetattr(unix.AT_FDCWD, path, flags, &unix.MountAttr{Attr_set: set}); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// over puts a file over another; what is not there needs nothing over it.
func over(source, path string) error {
	err := unix.Mount(source, path, "", unix.MS_BIND, "")
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EACCES) {
		return nil // nor can the command reach it, which the self-test looks at
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// makeRun gives programs the folders that they expect in /run, empty, and the
// links that lead out of it: a NixOS has its programs behind them.
func makeRun(environ []string, links map[string]string) error {
	if err := os.Chmod("/run", 0o755); err != nil {
		return err
	}
	for path, target := range links {
		if err := os.Symlink(target, path); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/run/lock", "/run/user"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if dir := variable(environ, "XDG_RUNTIME_DIR"); inside(dir, "/run") {
		return os.MkdirAll(dir, 0o700)
	}
	return nil
}

// linksOf are the symbolic links in a folder, and where they lead.
func linksOf(dir string) map[string]string {
	links := map[string]string{}
	entries, _ := os.ReadDir(dir) // one that cannot be read has none to offer
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if target, err := os.Readlink(path); err == nil {
			links[path] = target
		}
	}
	return links
}

// names makes the resolver ask the room.
func (f *furnishing) names() error {
	path := filepath.Join(f.Scratch, "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver 127.0.0.1\n"), 0o444); err != nil {
		return step("write the room's files", err)
	}
	// It may be a link into a folder that is hidden by now.
	target, err := os.Readlink("/etc/resolv.conf")
	if err == nil {
		if !filepath.IsAbs(target) {
			target = filepath.Join("/etc", target)
		}
		if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) && inside(target, "/run") {
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
				return step("answer names", err)
			}
			if err := os.WriteFile(target, nil, 0o644); err != nil {
				return step("answer names", err)
			}
		}
	}
	return step("answer names", over(path, "/etc/resolv.conf"))
}

func (t Trust) sources() []string { return []string{t.Bundle, t.Java} }

// trust puts the session's roots over those of the system.
func (s saved) trust(t Trust) error {
	for _, to := range []struct {
		source string
		places []string
	}{{t.Bundle, t.Systems}, {t.Java, t.Javas}} {
		for _, place := range to.places {
			err := over(s.source(to.source), place)
			if err == nil {
				err = attribute(place, unix.MOUNT_ATTR_RDONLY, 0)
			}
			if err != nil {
				return step("trust the session's authority", err)
			}
		}
	}
	return nil
}

// withoutDevices leaves root the devices that every user has. Without a
// capability it still owns the files of all others, a disk's among them.
func withoutDevices() error {
	const dev = "/dev"
	kept := []string{"null", "zero", "full", "random", "urandom", "tty", "pts", "shm"}
	s := saved{}
	defer s.close()
	for _, name := range kept {
		if fd, err := unix.Open(filepath.Join(dev, name), unix.O_PATH|unix.O_CLOEXEC, 0); err == nil {
			s[filepath.Join(dev, name)] = fd
		}
	}
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err != nil {
		return step("hide devices", err)
	}
	for path := range s {
		if err := s.bind(path, path, false); err != nil {
			return step("hide devices", err)
		}
	}
	for name, target := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return step("hide devices", err)
		}
	}
	return nil
}

// withoutSettings makes the kernel's settings read-only for root, who owns them
// also without a capability.
func withoutSettings() error {
	for _, path := range []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi", "/proc/mtrr"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return step("protect the kernel's settings", fmt.Errorf("%s: %w", path, err))
		}
		if err := attribute(path, unix.MOUNT_ATTR_RDONLY, unix.AT_RECURSIVE); err != nil {
			return step("protect the kernel's settings", err)
		}
	}
	if _, err := os.Stat("/sys"); err != nil {
		return nil
	}
	if err := unix.Mount("/sys", "/sys", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return step("protect the kernel's settings", err)
	}
	return step("protect the kernel's settings", attribute("/sys", unix.MOUNT_ATTR_RDONLY, unix.AT_RECURSIVE))
}

// enter goes to the working directory by its path: the one that this process
// inherited may be beneath what hides it.
func (f *furnishing) enter() error {
	if err := unix.Chdir(f.Dir); err != nil {
		return step("enter the working directory", err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(".", &stat); err != nil {
		return step("enter the working directory", err)
	}
	if stat.Ino != f.Working {
		return step("enter the working directory", fmt.Errorf("%s is hidden in the room: start the command somewhere else", f.Dir))
	}
	return nil
}
