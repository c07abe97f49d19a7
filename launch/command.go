package launch

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Spec says what to start.
type Spec struct {
	Argv []string // Argv[0] is looked up in Env's PATH
	Env  []string // as Environ made it
	Dir  string   // the working directory; empty: the caller's
	// TimerSlack is what the timers of the command get, in nanoseconds, where the
	// launcher has another; 0: as the launcher.
	TimerSlack int
	// Standard files; nil is the null device.
	Stdin, Stdout, Stderr *os.File
	// Signals is where the caller has Handled notified already; nil: Start does it.
	Signals chan os.Signal
	// Host starts the command below a process of its own; nil: right below this one.
	Host Host
}

// A Host starts a command in a place of its own, below a process of its own. The
// standard files of the Spec are for the Host to have.
type Host interface {
	// Start starts the command and returns a pidfd of it, which the caller
	// closes. An error is a *StartError if it is the command's.
	Start(spec Spec) (pidfd int, err error)
	// Wait returns the next status of the command, as wait4 has it: a stop, or
	// the end, which is the last. The command keeps its number, also when it has
	// ended, until Wait is called.
	Wait() (status uint32, err error)
}

// Exit codes of a command that did not start, as shells have them.
const (
	codeCannotStart = 126
	codeNotFound    = 127
)

// A StartError says that the command did not start. Code is 126 or 127.
type StartError struct {
	Name  string
	Code  int
	Cause error
}

func (e *StartError) Error() string {
	return "start " + strconv.Quote(e.Name) + ": " + e.Cause.Error()
}

func (e *StartError) Unwrap() error { return e.Cause }

func startError(name string, cause error) *StartError {
	code := codeCannotStart
	if errors.Is(cause, fs.ErrNotExist) || errors.Is(cause, exec.ErrNotFound) {
		code = codeNotFound
	}
	// The path is in the message already.
	var path *fs.PathError
	if errors.As(cause, &path) {
		cause = path.Err
	}
	return &StartError{Name: name, Code: code, Cause: cause}
}

// find looks up a command as execvp does, but in the command's own PATH. The
// first that can be executed wins; if there is none but one that cannot be, the
// error says so.
func find(spec Spec) (string, error) {
	if len(spec.Argv) == 0 || spec.Argv[0] == "" {
		return "", startError("", exec.ErrNotFound)
	}
	name := spec.Argv[0]
	if runtime.GOOS == "windows" { // with its own rules for extensions
		path, err := exec.LookPath(name)
		if err != nil {
			return "", startError(name, exec.ErrNotFound)
		}
		return path, nil
	}
	if strings.ContainsRune(name, '/') {
		return name, nil // the kernel judges it
	}
	var denied error
	for _, dir := range filepath.SplitList(parseEnviron(spec.Env)["PATH"]) {
		if dir == "" {
			dir = "."
		}
		path := dir + "/" + name
		onDisk := path
		if !filepath.IsAbs(path) && spec.Dir != "" {
			onDisk = filepath.Join(spec.Dir, path)
		}
		info, err := os.Stat(onDisk)
		switch {
		case err != nil:
			if errors.Is(err, fs.ErrPermission) {
				denied = err
			}
		case info.IsDir():
		case info.Mode()&0o111 == 0:
			denied = fs.ErrPermission
		default:
			return path, nil
		}
	}
	if denied != nil {
		return "", startError(name, denied)
	}
	return "", startError(name, exec.ErrNotFound)
}
