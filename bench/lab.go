package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"standin/bench/authority"
	"standin/bench/process"
)

// lab is what all scenarios share: a temporary folder, an authority, a running
// upstream, and the built program with a home of its own.
type lab struct {
	options
	dir      string
	root     string // of the module
	self     string // this program
	standin  string // the built program
	home     *home
	upstream *process.Child
	addr     string // of the upstream
	log      io.Writer
	notes    []string
}

func newLab(ctx context.Context, o options, log io.Writer) (*lab, error) {
	l := &lab{options: o, log: log}
	if runtime.GOOS != "linux" {
		return nil, fmt.Errorf("CPU time and memory of another process can only be read on Linux")
	}
	err := l.open(ctx)
	if err != nil {
		l.close()
	}
	return l, err
}

func (l *lab) open(ctx context.Context) (err error) {
	if l.self, err = os.Executable(); err != nil {
		return err
	}
	module, err := process.Output(exec.CommandContext(ctx, "go", "env", "GOMOD"))
	if err != nil {
		return err
	}
	l.root = filepath.Dir(strings.TrimSpace(module))
	if l.dir, err = os.MkdirTemp("", "standin-bench-"); err != nil {
		return err
	}
	if l.profile != "" {
		if l.profile, err = filepath.Abs(l.profile); err != nil {
			return err
		}
		if err := os.MkdirAll(l.profile, 0o755); err != nil {
			return err
		}
	}
	if _, err := authority.Create(l.dir); err != nil {
		return err
	}
	if err := l.startUpstream(); err != nil {
		return err
	}
	if err := l.build(ctx); err != nil {
		return err
	}
	l.home, err = newHome(ctx, l)
	return err
}

func (l *lab) startUpstream() error {
	up, err := process.Start(exec.Command(l.self, roleWord, "upstream", l.dir))
	if err != nil {
		return err
	}
	l.upstream = up
	var said announced
	if err := up.Hear(&said); err != nil {
		return err
	}
	l.addr = said.Proxy
	return nil
}

func (l *lab) build(ctx context.Context) error {
	if l.options.standin != "" {
		path, err := filepath.Abs(l.options.standin)
		l.standin = path
		return err
	}
	l.say("building standin")
	l.standin = filepath.Join(l.dir, "standin")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", l.standin, "./cmd/standin")
	cmd.Dir = l.root
	_, err := process.Output(cmd)
	return err
}

// afterwards checks what the measured program left behind.
func (l *lab) afterwards(ctx context.Context) []string {
	if l.short {
		return nil
	}
	return []string{l.home.verify(ctx)}
}

func (l *lab) close() {
	if l.upstream != nil {
		l.upstream.Stop()
	}
	if l.dir != "" {
		_ = os.RemoveAll(l.dir)
	}
}

// say tells the person what goes on.
func (l *lab) say(format string, args ...any) { fmt.Fprintf(l.log, format+"\n", args...) }

// path is a file in the lab's folder.
func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// ca is the file of the authority that vouches for the upstream.
func (l *lab) ca() string { return l.path(authority.RootFile) }
