package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"standin/bench/load"
	"standin/bench/process"
	"standin/bench/upstream"
)

// carrier is the variable that carries the placeholder.
const carrier = "GITHUB_TOKEN"

// home is a home of Standin, with a vault that an identity file opens and one
// secret in it.
type home struct {
	lab      *lab
	dir      string
	recovery string
	trusted  map[ruleset]string // rules files that are trusted
}

// ruleset is one rules file.
type ruleset string

const (
	rulesPlain ruleset = "plain" // header, JSON
	rulesHosts ruleset = "hosts" // a wildcard host, and where each of its names is dialled
	rulesBody  ruleset = "body"  // the placeholder anywhere in a body
)

func newHome(ctx context.Context, l *lab) (*home, error) {
	h := &home{lab: l, dir: l.path("home"), recovery: l.path("recovery.txt"), trusted: map[ruleset]string{}}
	init := h.command(ctx, "vault", "init", "--identity-file", l.path("identity.txt"), "--recovery-key-out", h.recovery)
	if _, err := process.Output(init); err != nil {
		return nil, err
	}
	set := h.command(ctx, "vault", "set", "github/token")
	set.Stdin = strings.NewReader(upstream.Secret)
	_, err := process.Output(set)
	return h, err
}

// command is a call of the built program.
func (h *home) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, h.lab.standin, append([]string{"--home", h.dir}, args...)...)
	cmd.Dir = h.lab.dir
	return cmd
}

// rules writes and trusts a rules file, once.
func (h *home) rules(ctx context.Context, set ruleset) (string, error) {
	if path := h.trusted[set]; path != "" {
		return path, nil
	}
	path := h.lab.path("rules-" + string(set) + ".yaml")
	if err := os.WriteFile(path, []byte(h.text(set)), 0o600); err != nil {
		return "", err
	}
	if _, err := process.Output(h.command(ctx, "rules", "trust", "--yes", "--rules", path)); err != nil {
		return "", err
	}
	h.trusted[set] = path
	return path, nil
}

func (h *home) text(set ruleset) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\nsecrets:\n  github: {source: vault:github/token, env: [%s]}\nrules:\n", carrier)
	rule := func(name, host, more, in string) {
		fmt.Fprintf(&b, "  - name: %s\n    hosts: [%q]\n%s    substitute: [{secret: github, in: %s}]\n", name, host, more, in)
	}
	hosts := []string{upstream.Host}
	switch set {
	case rulesHosts:
		rule("many", "*."+upstream.Many, "", "header Authorization")
		for i := range hostCount {
			hosts = append(hosts, load.HostName(i))
		}
	case rulesBody:
		rule("body", upstream.Host, "    methods: [POST]\n    paths: ["+upstream.Body+"]\n", "body")
	}
	rule("json", upstream.Host, "    methods: [POST]\n    paths: ["+upstream.JSON+"]\n", "json /auth/token")
	rule("header", upstream.Host, "", "header Authorization")
	b.WriteString("upstreams:\n")
	for _, host := range hosts {
		fmt.Fprintf(&b, "  %s: {dial: %q, ca: %s}\n", host, h.lab.addr, filepath.Base(h.lab.ca()))
	}
	return b.String()
}

// start starts "standin run" with a command that says what it was given.
func (h *home) start(ctx context.Context, s scenario) (*program, error) {
	path, err := h.rules(ctx, s.rules)
	if err != nil {
		return nil, err
	}
	cmd := h.command(context.WithoutCancel(ctx), "run", "--rules", path, "--isolation", "session", "--", h.lab.self, roleWord, "hold")
	c, err := process.Start(cmd)
	if err != nil {
		return nil, err
	}
	var said announced
	if err := c.Hear(&said); err != nil {
		return nil, err
	}
	p := &program{
		name: standinName, pid: cmd.Process.Pid, proxy: said.Proxy, roots: []string{said.Roots},
		token: said.Token, header: true, body: true, scrubs: true, end: []func(){c.Stop},
	}
	if !strings.Contains(p.token, upstream.Marker) || p.proxy == "" {
		p.stop()
		return nil, errors.New("the command was given no proxy or no placeholder")
	}
	p.perf(h.lab, s)
	return p, nil
}

// verify checks the whole log that the measurements left.
func (h *home) verify(ctx context.Context) string {
	_, err := process.Output(h.command(ctx, "audit", "verify", "--recovery-key-file", h.recovery))
	var c *process.Complaint
	switch {
	case err == nil, errors.As(err, &c) && c.Code == 12:
		return "The log of all measured requests verifies."
	}
	return "The log of all measured requests does NOT verify: " + err.Error()
}
