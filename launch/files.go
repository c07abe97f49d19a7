package launch

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// The names of the files in Files.Dir.
const (
	caFile         = "ca.pem"         // the authority, and what the user gave to Node
	bundleFile     = "bundle.pem"     // the user's or the system's roots, and the authority
	truststoreFile = "truststore.p12" // the same for Java, without a password
	preloadFile    = "preload.cjs"    // sends Node's requests to the proxy
	gitconfigFile  = "gitconfig"      // the user's own, the proxy, the placeholders
	phpDir         = "phpini"         // an ini directory for PHP
	phpFile        = "phpini/standin.ini"
	wgetrcFile     = "wgetrc" // the user's own, and the authority
)

//go:embed preload.cjs
var preload []byte

// Files are what a command's tools are pointed at. They outlive the command:
// what it leaves running dies of a missing file.
type Files struct{ Dir string }

// FilesConfig says what to write.
type FilesConfig struct {
	Dir      string          // must not exist yet; made with mode 0700
	RootPEM  []byte          // the session's authority
	Environ  []string        // the user's environment
	ProxyURL string          // as in EnvConfig
	Hosts    []string        // intercepted hosts, as rules.Policy.InterceptedHosts
	GitHosts []GitCredential // hosts at which git answers with a placeholder
}

// A GitCredential is what git is told to send to a host.
type GitCredential struct {
	Host        string // name or name:port, *.example.com allowed
	Username    string // "x-access-token" if empty
	Placeholder string
}

// WriteFiles writes the files of a session. They can be read by all, in a
// directory that only the user can enter.
func WriteFiles(cfg FilesConfig) (_ *Files, err error) {
	if _, err := url.Parse(cfg.ProxyURL); err != nil || cfg.ProxyURL == "" {
		return nil, errors.New("write session files: proxy URL is malformed")
	}
	env := parseEnviron(cfg.Environ)
	roots, err := readRoots(cfg.RootPEM, env)
	if err != nil {
		return nil, fmt.Errorf("write session files: %w", err)
	}
	truststore, err := roots.truststore()
	if err != nil {
		return nil, fmt.Errorf("write session files: %w", err)
	}
	gitconfig, err := gitConfig(cfg, env)
	if err != nil {
		return nil, fmt.Errorf("write session files: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Dir), 0o700); err != nil {
		return nil, fmt.Errorf("write session files: %w", err)
	}
	// Mkdir fails on anything that lies there, a planted link among it.
	for _, dir := range []string{cfg.Dir, filepath.Join(cfg.Dir, phpDir)} {
		err = os.Mkdir(dir, 0o700)
		if err == nil && dir == cfg.Dir {
			defer func() {
				if err != nil {
					err = errors.Join(err, os.RemoveAll(cfg.Dir)) // a part of them is of no use
				}
			}()
		}
		if err == nil {
			err = os.Chmod(dir, 0o700) // whatever the umask took away
		}
		if err != nil {
			return nil, fmt.Errorf("write session files: %w", err)
		}
	}
	f := &Files{Dir: cfg.Dir}
	for _, file := range []struct {
		name string
		data []byte
	}{
		{caFile, roots.node},
		{bundleFile, roots.bundle},
		{truststoreFile, truststore},
		{preloadFile, preload},
		{gitconfigFile, gitconfig},
		{phpFile, phpConfig(f.Path(bundleFile))},
		{wgetrcFile, wgetConfig(f.Path(bundleFile), env)},
	} {
		if err := writeNew(f.Path(file.name), file.data); err != nil {
			return nil, fmt.Errorf("write session files: %w", err)
		}
	}
	return f, nil
}

// Path returns the absolute path of a file of the session.
func (f *Files) Path(name string) string { return filepath.Join(f.Dir, filepath.FromSlash(name)) }

// Bundle is the file of all roots, in PEM.
func (f *Files) Bundle() string { return f.Path(bundleFile) }

// Truststore is the same as a key store of Java.
func (f *Files) Truststore() string { return f.Path(truststoreFile) }

// Remove removes the files of a command that did not start.
func (f *Files) Remove() error {
	if err := os.RemoveAll(f.Dir); err != nil {
		return fmt.Errorf("remove session files: %w", err)
	}
	return nil
}

// Touch says that the files are as old as age, from now on. It is called when a
// session ends, so that Prune keeps them for what the command left running. Files
// that the command has removed are no error.
func (f *Files) Touch(age time.Duration) error {
	then := time.Now().Add(-age)
	if err := os.Chtimes(f.Dir, then, then); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("touch session files: %w", err)
	}
	return nil
}

func writeNew(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, writeErr := file.Write(data)
	return errors.Join(writeErr, file.Chmod(0o644), file.Close())
}

// Prune removes the directories of sessions in parent whose age is more than
// age, which should exceed the longest session. It leaves alone what does not
// look like one, and follows no link. A missing parent is no error.
func Prune(parent string, age time.Duration) error {
	root, err := os.OpenRoot(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("prune session files: %w", err)
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return fmt.Errorf("prune session files: %w", err)
	}
	var failed error
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) <= age {
			continue
		}
		if _, err := root.Lstat(filepath.Join(entry.Name(), preloadFile)); err != nil {
			continue
		}
		if err := root.RemoveAll(entry.Name()); err != nil {
			failed = errors.Join(failed, fmt.Errorf("prune session files: %w", err))
		}
	}
	return failed
}
