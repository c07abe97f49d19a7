package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/zalando/go-keyring"
)

// maxOutput is the most that a command may print, or a file hold, for one secret.
const maxOutput = 1 << 20

// Source is a source as the rules file names it: SCHEME:NAME[#KEY].
type Source struct{ Scheme, Name, Key string }

// UnsupportedSourceError says that a source is well formed, and that this
// version cannot read from there.
type UnsupportedSourceError struct{ Scheme string }

func (e *UnsupportedSourceError) Error() string {
	return fmt.Sprintf("sources of the kind %s: are not served by this version", e.Scheme)
}

// grammars are what may follow the scheme.
var grammars = map[string]*regexp.Regexp{
	"vault":   regexp.MustCompile(`^([a-z0-9][a-z0-9_./-]*)()$`),
	"env":     regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)()$`),
	"file":    regexp.MustCompile(`^([^\x00-\x1f#]+)(?:#([^\x00-\x1f#]+))?$`),
	"exec":    regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9_-]*)()$`),
	"keyring": regexp.MustCompile(`^([^\x00-\x1f/]+/[^\x00-\x1f]+)()$`),
	"hcp":     regexp.MustCompile(`^([^\x00-\x20#/]+/[^\x00-\x20#]+)#([^\x00-\x20#]+)$`),
	"aws-sm":  regexp.MustCompile(`^([^\x00-\x20#]+)(?:#([^\x00-\x20#]+))?$`),
	"op":      regexp.MustCompile(`^([^\x00-\x1f/]+/[^\x00-\x1f/]+/[^\x00-\x1f/]+)()$`),
}

// ParseSource reads the text of a source. The error does not hold it: a value
// written there by mistake would be printed.
func ParseSource(text string) (Source, error) {
	scheme, rest, found := strings.Cut(text, ":")
	grammar := grammars[scheme]
	switch {
	case !found || grammar == nil:
		return Source{}, &SourceError{"", CauseMalformed, errors.New("a source is vault:NAME, env:NAME, file:PATH, exec:NAME, keyring:SERVICE/ACCOUNT, hcp:, aws-sm: or op:")}
	case len(text) > 4096 || grammar.FindStringSubmatch(rest) == nil:
		return Source{}, &SourceError{"", CauseMalformed, fmt.Errorf("what follows %s: cannot be read", scheme)}
	}
	m := grammar.FindStringSubmatch(rest)
	return Source{scheme, m[1], m[2]}, nil
}

// fetch reads a source, whatever is kept of it.
func (r *Resolver) fetch(text string) (Secret, time.Duration, *SourceError) {
	src, err := ParseSource(text)
	if err != nil {
		return Secret{}, 0, err.(*SourceError)
	}
	fail := func(cause Cause, err error) (Secret, time.Duration, *SourceError) {
		return Secret{}, 0, &SourceError{text, cause, err}
	}
	if r.life.Err() != nil {
		return fail(CauseUnavailable, nil)
	}
	var value []byte
	var why Cause
	ttl := time.Duration(0)
	switch src.Scheme {
	case "env":
		ttl, why = envTTL, CauseNotFound
		if value = []byte(r.environ[src.Name]); len(value) == 0 {
			err = errors.New("the variable is not set")
		}
	case "file":
		ttl = fileTTL
		value, why, err = readSource(r.expandHome(src.Name), src.Key)
	case "exec":
		settings, known := r.exec[src.Name]
		if !known {
			return fail(CauseNotFound, errors.New("the rules file has no such entry under sources"))
		}
		if ttl = settings.TTL; ttl == 0 {
			ttl = execTTL
		}
		value, why, err = r.run(settings)
	case "keyring":
		ttl = keyringTTL
		value, why, err = r.fromKeyring(src.Name)
	default:
		return fail(CauseUnsupported, &UnsupportedSourceError{src.Scheme})
	}
	defer clear(value)
	if err != nil {
		return fail(why, err)
	}
	return NewSecret(value), ttl, nil
}

func (r *Resolver) expandHome(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok && r.environ["HOME"] != "" {
		return filepath.Join(r.environ["HOME"], rest)
	}
	return path
}

// readSource reads a file that others may see (a mounted secret is often 0444)
// but not write. Links are followed: orchestrators mount secrets through them.
func readSource(path, key string) ([]byte, Cause, error) {
	if !filepath.IsAbs(path) {
		return nil, CauseMalformed, errors.New("the path must be absolute, or begin with ~/")
	}
	info, err := os.Stat(path) // before opening: a pipe would wait for its other end
	if errors.Is(err, fs.ErrNotExist) {
		return nil, CauseNotFound, &missingFileError{}
	}
	if err == nil && !info.Mode().IsRegular() {
		return nil, CauseUnavailable, &ModeError{path, "is not a regular file", "ls -l " + quote(path)}
	}
	if err != nil {
		return nil, CauseUnavailable, cause(err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, CauseUnavailable, cause(err)
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return nil, CauseUnavailable, cause(err)
	}
	if err := checkWriters(path, info); err != nil {
		return nil, CauseUnavailable, err
	}
	if info.Size() > maxOutput {
		return nil, CauseUnavailable, fmt.Errorf("the file is larger than %d KiB", maxOutput>>10)
	}
	data, err := readAll(f, path)
	if err != nil {
		return nil, CauseUnavailable, err
	}
	if key == "" {
		return dropNewline(data), "", nil
	}
	return pick(data, key)
}

// missingFileError is fs.ErrNotExist, and needs no path: its SourceError has it.
type missingFileError struct{}

func (*missingFileError) Error() string        { return "there is no such file" }
func (*missingFileError) Is(target error) bool { return target == fs.ErrNotExist }

func checkWriters(path string, info fs.FileInfo) error {
	uid, known := owner(info)
	switch {
	case !info.Mode().IsRegular():
		return &ModeError{path, "is not a regular file", "ls -l " + quote(path)}
	case !known:
		return nil
	case uid != 0 && uid != os.Geteuid():
		return &ModeError{path, fmt.Sprintf("belongs to user %d, neither to you nor to root", uid),
			fmt.Sprintf("sudo chown %d %s", os.Geteuid(), quote(path))}
	case info.Mode().Perm()&0o022 != 0:
		return &ModeError{path, fmt.Sprintf("can be written by others (mode %04o)", info.Mode().Perm()), "chmod go-w " + quote(path)}
	}
	return nil
}

// pick takes one key of a file: of a JSON object (a name, or a /pointer into it), else of dotenv.
func pick(data []byte, key string) ([]byte, Cause, error) {
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' {
		return pickJSON(trimmed, key)
	}
	pairs, err := ParseDotenv(data)
	if err != nil {
		return nil, CauseUnavailable, err
	}
	for i := len(pairs) - 1; i >= 0; i-- { // the last one counts
		if pairs[i].Name == key {
			return bytes.Clone(pairs[i].Value.Reveal()), "", nil
		}
	}
	return nil, CauseNotFound, errors.New("the file has no such key")
}

func pickJSON(data []byte, key string) ([]byte, Cause, error) {
	path := []string{key}
	if rest, ok := strings.CutPrefix(key, "/"); ok {
		path = strings.Split(rest, "/")
	}
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for _, step := range path {
		var object map[string]json.RawMessage
		if json.Unmarshal(data, &object) != nil {
			return nil, CauseUnavailable, errors.New("the file is not the JSON that the key asks for")
		}
		if len(path) > 1 || key[0] == '/' {
			step = unescape.Replace(step)
		}
		inner, found := object[step]
		if !found {
			return nil, CauseNotFound, errors.New("the file has no such key")
		}
		data = inner
	}
	var text string
	if json.Unmarshal(data, &text) != nil || string(data) == "null" {
		return nil, CauseUnavailable, errors.New("what the key names is not a JSON string")
	}
	return []byte(text), "", nil
}

// dropNewline drops one newline at the end, which editors and echo put there.
func dropNewline(data []byte) []byte {
	if n := len(data); n > 0 && data[n-1] == '\n' {
		data = data[:n-1]
		if n > 1 && data[n-2] == '\r' {
			data = data[:n-2]
		}
	}
	return data
}

// fromKeyring asks the keyring of the system. Its client knows no timeout (it
// may show a dialog), so the waiting is ours; the asking ends when it is answered.
func (r *Resolver) fromKeyring(name string) ([]byte, Cause, error) {
	service, account, _ := strings.Cut(name, "/")
	type answer struct {
		text string
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		text, err := keyring.Get(service, account)
		answered <- answer{text, err}
	}()
	timer := time.NewTimer(sourceTimeout)
	defer timer.Stop()
	select {
	case a := <-answered:
		switch {
		case a.err == nil:
			return []byte(a.text), "", nil
		case errors.Is(a.err, keyring.ErrNotFound):
			return nil, CauseNotFound, errors.New("the keyring has no such entry")
		}
		return nil, CauseUnavailable, &KeyringError{a.err}
	case <-timer.C:
		return nil, CauseTimeout, nil
	case <-r.life.Done():
		return nil, CauseUnavailable, errors.New("the gateway is ending")
	}
}

// run runs the command of an exec source and returns what it printed, without
// one trailing newline. What it writes to stderr goes nowhere: it may quote values.
func (r *Resolver) run(s ExecSource) ([]byte, Cause, error) {
	if len(s.Command) == 0 {
		return nil, CauseMalformed, errors.New("the command is empty")
	}
	program, err := r.lookPath(s.Command[0])
	if err != nil {
		return nil, CauseNotFound, err
	}
	timeout := s.Timeout
	if timeout == 0 {
		timeout = sourceTimeout
	}
	ctx, cancel := context.WithTimeout(r.life, timeout)
	defer cancel()
	out := &capped{full: cancel}
	cmd := exec.CommandContext(ctx, program)
	cmd.Args = s.Command
	cmd.Env = r.commandEnv(s.Env)
	cmd.Dir = string(filepath.Separator) // not where the agent works: a file there could steer the command
	cmd.Stdout = out
	cmd.WaitDelay = time.Second // a daemon that it leaves behind may hold its stdout
	ownGroup(cmd)
	err = cmd.Run()
	defer clear(out.data)
	var ended *exec.ExitError
	switch {
	case out.over:
		return nil, CauseUnavailable, fmt.Errorf("the command printed more than %d KiB", maxOutput>>10)
	case r.life.Err() != nil:
		return nil, CauseUnavailable, errors.New("the gateway is ending")
	case ctx.Err() != nil:
		return nil, CauseTimeout, fmt.Errorf("the command took longer than %v", timeout)
	case errors.As(err, &ended):
		return nil, CauseUnavailable, fmt.Errorf("the command ended with code %d", ended.ExitCode())
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return nil, CauseUnavailable, errors.New("the command cannot be started")
	}
	return bytes.Clone(dropNewline(out.data)), "", nil
}

// capped keeps at most maxOutput bytes and ends the command at the first one beyond.
type capped struct {
	data []byte
	over bool
	full func()
}

func (c *capped) Write(p []byte) (int, error) {
	if len(c.data)+len(p) > maxOutput {
		c.over = true
		c.full()
		return 0, errors.New("too much output")
	}
	c.data = append(c.data, p...)
	return len(p), nil
}

// passed on to every command of a source: what programs need to find themselves
// and the user's agents, and nothing that holds a secret or steers a loader.
var basicEnv = []string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TERM", "XDG_CONFIG_HOME",
	"XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "SYSTEMROOT", "USERPROFILE", "APPDATA", "LOCALAPPDATA"}

func (r *Resolver) commandEnv(extra []string) []string {
	env := []string{}
	pass := func(name string) {
		if value, ok := r.environ[name]; ok {
			env = append(env, name+"="+value)
		}
	}
	for _, name := range basicEnv {
		pass(name)
	}
	for _, entry := range extra {
		if strings.Contains(entry, "=") {
			env = append(env, entry)
		} else {
			pass(entry)
		}
	}
	return env
}

// lookPath finds a program in the user's PATH, not in this process's, and never
// relative to a folder: a command that the agent put there would be run.
func (r *Resolver) lookPath(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	if strings.ContainsAny(name, `/\`) {
		return "", errors.New("the command must be an absolute path, or a name in $PATH")
	}
	endings := []string{""}
	if runtime.GOOS == "windows" {
		endings = []string{".exe", ".com", ""}
	}
	for _, dir := range filepath.SplitList(r.environ["PATH"]) {
		for _, ending := range endings {
			path := filepath.Join(dir, name+ending)
			info, err := os.Stat(path)
			if filepath.IsAbs(dir) && err == nil && info.Mode().IsRegular() &&
				(runtime.GOOS == "windows" || info.Mode()&0o111 != 0) {
				return path, nil
			}
		}
	}
	return "", errors.New("the command is not in $PATH")
}
