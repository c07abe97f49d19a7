package rules

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// FileName is what a rules file is called where it is looked for.
const FileName = "standin.yaml"

// FileError is a file that is not read because of what it is or who may write
// it. Fix is a command to type, or "".
type FileError struct{ Path, Problem, Fix string }

func (e *FileError) Error() string {
	return fmt.Sprintf("load rules: read %s: %s", quote(e.Path), e.Problem)
}

// NoRulesError is returned by Find where there is no rules file.
type NoRulesError struct{ Looked []string }

func (e *NoRulesError) Error() string {
	return "find rules: there is no " + FileName + " here, above here, or in the config folder"
}

// Find names the rules file: explicit if given, else standin.yaml in cwd or a
// folder above it, else the one in configDir. It does not judge the file.
func Find(explicit, cwd, configDir string) (string, error) {
	if explicit != "" {
		if filepath.IsAbs(explicit) {
			return filepath.Clean(explicit), nil
		}
		return filepath.Join(cwd, explicit), nil
	}
	var dirs []string
	for dir := filepath.Clean(cwd); ; dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
		if dir == filepath.Dir(dir) {
			break
		}
	}
	if configDir != "" {
		dirs = append(dirs, configDir)
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, FileName)
		if _, err := os.Lstat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			// A file that may be there must not be passed over for a wider one.
			return "", fmt.Errorf("find rules: look at %s: %w", quote(path), cause(err))
		}
	}
	return "", &NoRulesError{dirs}
}

// cause drops the path that an error of the os package repeats.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// Load reads a rules file and every file that it names, once: what is hashed is
// what is used. It refuses files that others may write.
//
// Named files are ca, client-cert and client-key of upstreams, ca of sources,
// and, for commands of exec sources, the program and those arguments that are
// paths. Programs that belong to the system are left out, so that an update of
// them does not undo the trust in the rules. Files of file: sources are not policy but
// values, and their hash would be a trace of the value; they are not read.
func Load(path string) (*Policy, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("load rules %s: %w", quote(path), cause(err))
	}
	data, err := readFile(abs)
	if err != nil {
		return nil, err
	}
	p, err := Parse(abs, data)
	if err != nil {
		return nil, err
	}
	l := loader{seen: map[string]string{}}
	for _, key := range sortedKeys(p.Upstreams) {
		if err := l.upstream(p.Upstreams[key]); err != nil {
			return nil, err
		}
	}
	for _, key := range sortedKeys(p.Sources) {
		if err := l.source(p.Sources[key]); err != nil {
			return nil, err
		}
	}
	if len(l.seen) > 0 {
		sum := sha256.New()
		fmt.Fprintf(sum, "standin rules 1\n%s\n", p.Hash)
		for _, name := range sortedKeys(l.seen) {
			p.Files = append(p.Files, NamedFile{Path: name, Hash: l.seen[name]})
			fmt.Fprintf(sum, "%q %s\n", name, l.seen[name])
		}
		p.Hash = hex.EncodeToString(sum.Sum(nil))
	}
	return p, nil
}

// loader collects the hashes of the named files.
type loader struct{ seen map[string]string }

func (l *loader) read(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	data, err := readFile(path)
	if err == nil {
		sum := sha256.Sum256(data)
		l.seen[path] = hex.EncodeToString(sum[:])
	}
	return data, err
}

func (l *loader) upstream(u *Upstream) error {
	ca, err := l.read(u.CA)
	if err != nil {
		return err
	}
	cert, err := l.read(u.ClientCert)
	if err != nil {
		return err
	}
	key, err := l.read(u.ClientKey)
	if err != nil {
		return err
	}
	u.files = func() ([]byte, []byte, []byte) { return bytes.Clone(ca), bytes.Clone(cert), bytes.Clone(key) }
	return nil
}

func (l *loader) source(s Source) error {
	if _, err := l.read(s.Settings["ca"]); err != nil {
		return err
	}
	for i, arg := range s.Command {
		if !filepath.IsAbs(arg) {
			continue
		}
		if err := l.program(arg); err != nil && (i == 0 || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// program hashes what an exec source runs, or hands to what it runs.
func (l *loader) program(path string) error {
	f, info, err := open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if info.IsDir() || !info.Mode().IsRegular() || belongsToSystem(info) {
		return nil
	}
	if problem, fix := othersMayWrite(path, info); problem != "" {
		return &FileError{path, problem, fix}
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("load rules: read %s: %w", quote(path), cause(err))
	}
	l.seen[path] = hex.EncodeToString(sum.Sum(nil))
	return nil
}

// open opens a path that may be anything. The checks that follow are on the
// open file, so that a symlink swapped in between changes nothing.
func open(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|nonBlocking, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("load rules: read %s: %w", quote(path), cause(err))
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("load rules: read %s: %w", quote(path), cause(err))
	}
	return f, info, nil
}

// readFile reads a regular file of at most 1 MiB that only its owner may write.
func readFile(path string) ([]byte, error) {
	f, info, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !info.Mode().IsRegular() {
		return nil, &FileError{Path: path, Problem: "not a regular file", Fix: "name the file itself: --rules FILE"}
	}
	if problem, fix := othersMayWrite(path, info); problem != "" {
		return nil, &FileError{path, problem, fix}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("load rules: read %s: %w", quote(path), cause(err))
	}
	if len(data) > maxSize {
		return nil, &FileError{Path: path, Problem: "larger than 1 MiB", Fix: splitFix}
	}
	return slices.Clip(data), nil
}

// shellQuote makes a path safe to paste into a shell.
func shellQuote(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
