package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"

	"standin/bench/load"
	"standin/bench/process"
	"standin/bench/reference"
	"standin/bench/upstream"
)

// standinName is how the product is called among the programs.
const standinName = "standin"

// program is a running proxy.
type program struct {
	name   string
	pid    int    // of the process that is measured
	proxy  string // its URL
	roots  []string
	port   string // that it must be asked for, "": 443
	token  string // what the client shows
	header bool   // it puts the secret into a header
	body   bool   // it puts the secret into a body
	scrubs bool   // it takes the secret out of answers
	end    []func()
}

// example stands for the placeholder where a program does not hand out one.
const example = upstream.Marker + "abcdefghijklmnopqrstuvwxyz"

// start starts a program for a scenario.
func (l *lab) start(ctx context.Context, name string, s scenario) (*program, error) {
	p, err := l.launch(ctx, name, s)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

func (l *lab) launch(ctx context.Context, name string, s scenario) (*program, error) {
	switch name {
	case standinName:
		return l.home.start(ctx, s)
	case mitmproxyName:
		return l.startMitmproxy(ctx)
	case squidName:
		return l.startSquid(ctx)
	}
	profile := ""
	if l.profile != "" {
		profile = filepath.Join(l.profile, s.id+"-"+name+".pprof")
	}
	c, err := process.Start(exec.Command(l.self, roleWord, "reference", name, l.dir, l.addr, profile))
	if err != nil {
		return nil, err
	}
	var said announced
	if err := c.Hear(&said); err != nil {
		return nil, err
	}
	rewrites := name != reference.Tunnel && name != reference.Relay
	return &program{
		name: name, pid: c.PID(), proxy: "http://" + said.Proxy, roots: []string{l.ca()},
		token: example, header: rewrites, end: []func(){c.Stop},
	}, nil
}

func (p *program) stop() {
	for _, end := range p.end {
		end()
	}
}

// perf writes what perf sees of the program, if it is installed.
func (p *program) perf(l *lab, s scenario) {
	if l.profile == "" {
		return
	}
	file := filepath.Join(l.profile, s.id+"-"+p.name+".perf")
	cmd := exec.Command("perf", "record", "-q", "-g", "-F", "997", "-o", file, "-p", fmt.Sprint(p.pid))
	if err := cmd.Start(); err != nil {
		return
	}
	p.end = append([]func(){func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
	}}, p.end...)
}

// job is what a client of this program does in a scenario.
func (p *program) job(s scenario) load.Job {
	job := s.job
	job.Proxy, job.Roots, job.Port = p.proxy, p.roots, p.port
	job.Expect = upstream.SawNone
	if s.bearer {
		job.Bearer, job.Expect = p.token, upstream.SawMarker
		if p.header {
			job.Expect = upstream.SawSecret
		}
	}
	if job.Body.Size > 0 {
		job.Body.Token, job.Expect = p.token, upstream.SawMarker
		if p.body {
			job.Expect = upstream.SawSecret
		}
	}
	if s.scrubbed && p.scrubs {
		job.Scrubs = p.token
	}
	return job
}
