//go:build linux

package cases

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Serving is one "standin serve".
type Serving struct {
	c      *Case
	PID    int
	Socket string
	Listen string // of --listen, as it was printed
	Log    string

	cmd    *exec.Cmd
	out    *lockedBuffer
	errs   *lockedBuffer
	exited chan struct{}
	gone   bool // it was ended by the case
}

// Serve starts a serving gateway and waits until it says where it is.
func (c *Case) Serve(flags ...string) *Serving {
	c.Helper()
	return c.serveBy(nil, flags...)
}

// serveWith is Serve with another build of the program.
func (c *Case) serveWith(program string) *Serving {
	c.Helper()
	return c.serveBy(func(cmd *exec.Cmd) { cmd.Path, cmd.Args[0] = program, program })
}

func (c *Case) serveBy(change func(*exec.Cmd), flags ...string) *Serving {
	c.Helper()
	c.Rules.Write()
	g := &Serving{c: c, Log: filepath.Join(c.Dir, "serving.log"), out: newLockedBuffer(), errs: newLockedBuffer(), exited: make(chan struct{})}
	g.cmd = c.Command(c.loudness(), append([]string{"serve", "--rules", c.Rules.Path, "--log", g.Log, "--grace", "2s"}, flags...)...)
	g.cmd.Stdout, g.cmd.Stderr = g.out, g.errs
	g.cmd.WaitDelay = 500 * time.Millisecond
	if change != nil {
		change(g.cmd)
	}
	if err := g.cmd.Start(); err != nil {
		c.Fatal(err)
	}
	go func() {
		_ = g.cmd.Wait()
		close(g.exited)
	}()
	c.servings = append(c.servings, g)
	if _, err := g.out.line(g.exited, 20*time.Second); err != nil {
		c.Fatalf("serve: %v\n%s", err, g.errs)
	}
	wanted := 1
	for _, f := range flags {
		if strings.HasPrefix(f, "--listen") {
			wanted = 2
		}
	}
	c.Eventually("serve says where it is", func() bool { return strings.Count(g.out.String(), "\n") >= wanted })
	for line := range strings.Lines(g.out.String()) {
		what, where, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch what {
		case "serving":
			g.Socket = where
		case "listening":
			g.Listen = where
		}
	}
	g.PID = g.cmd.Process.Pid
	return g
}

// Signal sends the gateway a signal.
func (g *Serving) Signal(number syscall.Signal) {
	g.c.Helper()
	if err := syscall.Kill(g.PID, number); err != nil {
		g.c.Fatal(err)
	}
}

// End tells the gateway to end and returns its exit code.
func (g *Serving) End() int {
	g.c.Helper()
	if !g.gone {
		g.gone = true
		_ = syscall.Kill(g.PID, syscall.SIGTERM)
	}
	return g.wait()
}

// Kill ends the gateway as a crash would.
func (g *Serving) Kill() {
	g.c.Helper()
	g.gone = true
	g.Signal(syscall.SIGKILL)
	g.wait()
}

func (g *Serving) wait() int {
	g.c.Helper()
	select {
	case <-g.exited:
	case <-time.After(30 * time.Second):
		g.c.Errorf("the serving gateway does not end")
		_ = g.cmd.Process.Kill()
		<-g.exited
	}
	g.c.Hear("stdout of serve", g.out.Bytes())
	g.c.Hear("stderr of serve", g.errs.Bytes())
	g.c.noCrash("serve", g.errs.String())
	if log, err := os.ReadFile(g.Log); err == nil {
		g.c.noCrash("log of serve", string(log))
	}
	return g.cmd.ProcessState.ExitCode()
}

// Running says whether the gateway lives.
func (g *Serving) Running() bool {
	select {
	case <-g.exited:
		return false
	default:
		return true
	}
}

// Session starts a session of a serving gateway.
func (g *Serving) Session(o Start) *Session {
	g.c.Helper()
	o.at = g
	return g.c.Start(o)
}

// Run runs a shell script as the command of a session of a serving gateway.
func (g *Serving) Run(script string, flags ...string) Result {
	g.c.Helper()
	args := append([]string{"run", "--gateway", g.Socket, "--profile", "granted"}, flags...)
	return g.c.Standin(append(args, "--", "sh", "-c", script)...)
}
