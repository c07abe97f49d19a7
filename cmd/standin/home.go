package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"standin/vault"
)

// home is where this user's files lie. With --home all three are one folder.
type home struct {
	Config  string // standin.yaml
	State   string // vault.age, identity.age, audit/, placeholders.json
	Runtime string // control sockets, the files of a session
}

func (h home) Vault() string        { return h.State }
func (h home) Audit() string        { return filepath.Join(h.State, "audit") }
func (h home) Run() string          { return filepath.Join(h.Runtime, "run") }
func (h home) Placeholders() string { return filepath.Join(h.State, "placeholders.json") }

// errNoHome says that nothing tells where the files lie.
var errNoHome = errors.New("find the home of standin: neither --home nor $STANDIN_HOME nor $HOME is set")

// home resolves --home, $STANDIN_HOME or the XDG folders. It makes nothing.
func (p *program) home(cmd *cobra.Command) (home, error) {
	dir, _ := cmd.Flags().GetString("home")
	if dir == "" {
		dir = p.getenv("STANDIN_HOME")
	}
	if dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return home{}, fmt.Errorf("find home %q: %w", dir, err)
		}
		return home{Config: abs, State: abs, Runtime: abs}, nil
	}
	return p.xdgHome()
}

func (p *program) xdgHome() (home, error) {
	user := p.getenv("HOME")
	if runtime.GOOS == "windows" && user == "" {
		user = p.getenv("USERPROFILE")
	}
	place := func(variable string, fallback ...string) (string, error) {
		if dir := p.getenv(variable); dir != "" {
			if !filepath.IsAbs(dir) {
				return "", fmt.Errorf("find the home of standin: $%s is not an absolute path", variable)
			}
			return filepath.Join(dir, "standin"), nil
		}
		if user == "" {
			return "", errNoHome
		}
		return filepath.Join(append(append([]string{user}, fallback...), "standin")...), nil
	}
	config, err := place("XDG_CONFIG_HOME", ".config")
	if err != nil {
		return home{}, err
	}
	state, err := place("XDG_STATE_HOME", ".local", "state")
	if err != nil {
		return home{}, err
	}
	h := home{Config: config, State: state, Runtime: state}
	if dir := p.getenv("XDG_RUNTIME_DIR"); dir != "" {
		if h.Runtime, err = place("XDG_RUNTIME_DIR"); err != nil {
			return home{}, err
		}
	}
	return h, nil
}

// prepare makes the folders of state private, or says how to mend them.
func (h home) prepare() error {
	for _, dir := range []string{h.State, h.Runtime, h.Run()} {
		if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
			return fmt.Errorf("make folder %q: %w", filepath.Dir(dir), errors.Unwrap(err))
		}
		if err := vault.PrivateDir(dir); err != nil {
			return err
		}
		if err := writable(dir); err != nil {
			return &hinted{fmt.Errorf("write into folder %q: %w", dir, err), writableHint(dir, err)}
		}
	}
	return nil
}

// writableHint is the way out for a folder that cannot be written.
func writableHint(dir string, err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "chmod u+rwx " + shellWord(dir)
	}
	return placeHint(err)
}
