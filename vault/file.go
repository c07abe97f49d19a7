package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ModeError says that others can reach a file that must be private, and what to
// type to mend it.
type ModeError struct {
	Path    string
	Problem string
	Fix     string // a command of the shell
}

func (e *ModeError) Error() string { return fmt.Sprintf("check file %q: it %s", e.Path, e.Problem) }

// PrivateDir makes the folder with mode 0700, whatever the umask, or checks that
// it is a real folder of this user that nobody else may enter. The folder above
// must be there.
func PrivateDir(path string) error {
	err := os.Mkdir(path, 0o700)
	if err == nil {
		return os.Chmod(path, 0o700) // a umask may have taken our own bits
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make folder %q: %w", path, cause(err))
	}
	return checkDir(path)
}

func checkDir(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("check folder %q: %w", path, cause(err))
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return &ModeError{path, "is a symbolic link, not a folder", "rm " + quote(path) + " && mkdir -m 700 " + quote(path)}
	case !info.IsDir():
		return &ModeError{path, "is not a folder", "mv " + quote(path) + " " + quote(path+".old")}
	}
	return checkOwner(path, info, "700")
}

// ReadPrivate reads a file that must be a regular one, of this user, that nobody
// else can read or write: *ModeError otherwise. Links are not followed. A file
// that is missing is fs.ErrNotExist.
func ReadPrivate(path string) ([]byte, error) {
	// The look before the opening tells a link, or a file of somebody else,
	// from a plain "permission denied"; the look after it is the one that counts.
	info, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("read file %q: %w", path, cause(err))
	}
	if err := checkPrivate(path, info); err != nil {
		return nil, err
	}
	f, err := openNoFollow(path, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("read file %q: %w", path, cause(err))
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, fmt.Errorf("read file %q: %w", path, cause(err))
	}
	if err := checkPrivate(path, info); err != nil {
		return nil, err
	}
	return readAll(f, path)
}

// readAll reads a file of at most maxFile bytes.
func readAll(f *os.File, path string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read file %q: %w", path, cause(err))
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("read file %q: it is larger than %d MiB", path, maxFile>>20)
	}
	return data, nil
}

func checkPrivate(path string, info fs.FileInfo) error {
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return &ModeError{path, "is a symbolic link", `mv "$(readlink -f ` + quote(path) + `)" ` + quote(path)}
	case !info.Mode().IsRegular():
		return &ModeError{path, "is not a regular file", "mv " + quote(path) + " " + quote(path+".old")}
	}
	return checkOwner(path, info, "600")
}

// checkOwner refuses other owners, and any bit for the group or for others.
func checkOwner(path string, info fs.FileInfo, want string) error {
	uid, known := owner(info)
	if !known {
		return nil
	}
	if me := os.Geteuid(); uid != me {
		return &ModeError{path, fmt.Sprintf("belongs to user %d, not to you (%d)", uid, me),
			fmt.Sprintf("sudo chown %d %s", me, quote(path))}
	}
	if bits := info.Mode().Perm() & 0o077; bits != 0 {
		return &ModeError{path, fmt.Sprintf("can be reached by others (mode %04o)", info.Mode().Perm()),
			"chmod " + want + " " + quote(path)}
	}
	return nil
}

// ReplaceFile puts data in place of what is at path, or makes it, with mode 0600
// whatever the umask: a reader sees the old file or the new one, whole, also
// after a kill or a power cut. If it fails the old file is in place. What dead
// writers left behind is removed. Writers that read before they write must hold
// WithLock; without it the last one wins.
func ReplaceFile(path string, data []byte) error {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	prefix := "." + base + ".tmp-"
	removeStale(dir, prefix)
	temp, err := createTemp(dir, prefix)
	if err != nil {
		return fmt.Errorf("write file %q: %w", path, cause(err))
	}
	defer temp.Close()
	defer os.Remove(temp.Name()) // after the rename there is nothing to remove
	if _, err = temp.Write(data); err == nil {
		err = temp.Sync()
	}
	if err == nil && !renamesOpen {
		err = temp.Close()
	}
	if err == nil {
		err = swap(temp.Name(), path, filepath.Join(dir, prefix+"old-"+rand.Text()))
	}
	if err != nil {
		return fmt.Errorf("write file %q: %w", path, cause(err))
	}
	return nil
}

// swap renames temp to path and makes that durable. A second name for the old
// file is held meanwhile, so that an error of the folder's sync, which comes
// after the new file can be seen, still leaves the old value in place.
func swap(temp, path, backup string) error {
	linked := os.Link(path, backup) == nil
	if linked {
		defer os.Remove(backup)
	}
	_, err := os.Lstat(path)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	err = syncDir(filepath.Dir(path))
	switch {
	case err == nil:
	case linked:
		os.Rename(backup, path)
	case fresh:
		os.Remove(path)
	}
	return err
}

// createTemp makes an empty file of mode 0600 and locks it for as long as it is
// open: the lock tells a writer at work from one that died.
func createTemp(dir, prefix string) (*os.File, error) {
	for range 100 {
		f, err := os.OpenFile(filepath.Join(dir, prefix+rand.Text()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := f.Chmod(0o600); err != nil && renamesOpen {
			f.Close()
			os.Remove(f.Name())
			return nil, err
		}
		// Between the making and the locking another writer may have taken
		// it for a dead one's.
		if locked, err := tryLock(f); err == nil && locked && stillThere(f) {
			return f, nil
		}
		f.Close()
		os.Remove(f.Name())
	}
	return nil, errors.New("no temporary file could be kept")
}

func stillThere(f *os.File) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(f.Name())
	return err == nil && os.SameFile(open, named)
}

// removeStale removes temporary files whose writers are gone.
func removeStale(dir, prefix string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // the write that follows says what is wrong with the folder
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || !e.Type().IsRegular() {
			continue
		}
		name := filepath.Join(dir, e.Name())
		f, err := openNoFollow(name, os.O_RDWR)
		if err != nil {
			continue
		}
		if locked, err := tryLock(f); err == nil && locked {
			os.Remove(name)
		}
		f.Close()
		if !renamesOpen {
			os.Remove(name) // refused by the system while a writer has it open
		}
	}
}

// WithLock runs f while no other process, and no other caller in this one, runs
// under the lock of the same path. The lock is the file path+".lock", which
// stays; the system frees it when the holder dies. It waits until ctx ends. It
// guards files: memory that callers share needs a mutex of its own.
func WithLock(ctx context.Context, path string, f func() error) error {
	lock, err := openLock(path + ".lock")
	if err != nil {
		return err
	}
	defer lock.Close()
	for wait := time.Millisecond; ; wait = min(2*wait, 16*time.Millisecond) {
		locked, err := tryLock(lock)
		if err != nil {
			return fmt.Errorf("lock file %q: %w", path, cause(err))
		}
		if locked {
			return f()
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("lock file %q: another process holds it: %w", path, ctx.Err())
		case <-timer.C:
		}
	}
}

func openLock(name string) (*os.File, error) {
	f, err := openNoFollow(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, fmt.Errorf("lock file %q: %w", name, cause(err))
	}
	info, err := f.Stat()
	if err == nil && renamesOpen && info.Mode().Perm() != 0o600 {
		if err = f.Chmod(0o600); err == nil { // made under an odd umask
			info, err = f.Stat()
		}
	}
	if err == nil {
		err = checkPrivate(name, info)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// cause is the error of the system without the path, which stands in ours.
func cause(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &link):
		return link.Err
	}
	return err
}

// quote makes one word of the shell of a path.
func quote(path string) string {
	if path != "" && strings.IndexFunc(path, func(r rune) bool {
		return !strings.ContainsRune("/._-+,:@%", r) && !(r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z')
	}) < 0 && path[0] != '-' {
		return path
	}
	if strings.ContainsFunc(path, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return "$" + strconv.QuoteToASCII(path) // nobody can type it; show it safely
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
