//go:build linux

package cases

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// The names of the upstreams.
const (
	api     = "api.allowed.test"  // U1 on 443, U1b on 8443, U3 on 80
	evil    = "evil.test"         // U2 on 443, U3 on 80: intercepted, nothing granted
	echo    = "echo.allowed.test" // UE
	scripts = "raw.allowed.test"  // UR
)

// Case is one case while it runs. It is a testing.T, and everything that the
// case needs: its files, its upstreams, its sessions.
type Case struct {
	*testing.T
	ID    string
	Dir   string // everything of this case
	Home  string
	Temp  string // TMPDIR of the gateways
	Rules *Rules
	P     string // the placeholder of R

	U1, U1b, U2, U3, UE, UR *Upstream

	Replay bool     // this run of the case is part of B28: every log is at its loudest
	Values []string // what must not leak: R, and what Rules.Secret added

	mu        sync.Mutex
	wired     bool
	heard     []heard
	late      []func() heard // what connections have received by the end
	open      []net.Conn     // of the clients
	sessions  map[string]*Session
	order     []*Session
	servings  []*Serving
	upstreams []*Upstream
	silent    []func() string // asserted once more at the end
	pardons   []string        // files that may hold a value, with a reason at the call
	quiet     bool            // no gateway of this case need be alive at its end
	crashes   bool            // crashes are what this case is about
	torn      bool            // a gateway was killed: its last record may be unfinished
}

// heard is something that reached the client or the user, kept for NOLEAK.
type heard struct {
	what string
	data []byte
}

func newCase(t *testing.T, id string) *Case {
	t.Helper()
	if err := ground.setup(); err != nil {
		t.Fatalf("make the ground of all cases: %v", err)
	}
	c := &Case{T: t, ID: id, P: ground.p, Values: []string{R}, sessions: map[string]*Session{}}
	dir, err := os.MkdirTemp(ground.dir, strings.ReplaceAll(id, "/", ""))
	if err != nil {
		t.Fatal(err)
	}
	c.Dir, c.Home, c.Temp = dir, filepath.Join(dir, "h"), filepath.Join(dir, "tmp")
	copyHome(t, ground.home, c.Home)
	if err := os.Mkdir(c.Temp, 0o700); err != nil {
		t.Fatal(err)
	}
	c.Rules = newRules(c)
	c.serveFixture()
	t.Cleanup(c.finish)
	return c
}

// copyHome copies the vault and what belongs to it, without logs and sockets.
func copyHome(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !f.Type().IsRegular() || strings.HasSuffix(f.Name(), ".lock") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(from, f.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, f.Name()), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (c *Case) serveFixture() {
	c.U1 = c.Upstream(api+":443", Serve{TLS: c.Certificate(api)})
	c.U1b = c.Upstream(api+":8443", Serve{TLS: c.Certificate(api)})
	c.U2 = c.Upstream(evil+":443", Serve{TLS: c.Certificate(evil)})
	c.U3 = c.Upstream(api+":80", Serve{})
	c.Rules.Upstream(evil+":80", c.U3, "")
	c.UE = c.Upstream(echo+":443", Serve{TLS: c.Certificate(echo), Handler: echoHandler})
	c.UR = c.Upstream(scripts+":443", Serve{TLS: c.Certificate(scripts), Script: func(*wireConn) {}})
}

// Hear keeps bytes that reached the client or the user, for NOLEAK.
func (c *Case) Hear(what string, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = append(c.heard, heard{what, bytes.Clone(data)})
}

// Pardon takes files (by path or folder) out of NOLEAK. The caller says why.
func (c *Case) Pardon(path, why string) {
	if why == "" {
		c.Fatal("a pardon without a reason")
	}
	c.pardons = append(c.pardons, path)
}

// Result is what a command of the program said.
type Result struct {
	Code        int
	Out, Err    string
	Duration    time.Duration
	description string
}

// Standin runs the program in this case's home and returns what it said.
func (c *Case) Standin(args ...string) Result {
	c.Helper()
	return c.StandinInput("", nil, args...)
}

// StandinInput is Standin with a text on standard input and more variables.
func (c *Case) StandinInput(stdin string, env []string, args ...string) Result {
	c.Helper()
	cmd := c.Command(env, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return c.Finish(cmd)
}

// Command prepares the program, in this case's home, for Finish. "--home" goes
// before a "--".
func (c *Case) Command(env []string, args ...string) *exec.Cmd {
	full := append([]string{args[0], "--home", c.Home}, args[1:]...)
	cmd := exec.Command(ground.program, full...)
	cmd.Env = append(plainEnvironment(c.Temp), env...)
	cmd.Dir = c.Dir
	return cmd
}

// Finish runs a prepared command for at most 30 seconds.
func (c *Case) Finish(cmd *exec.Cmd) Result {
	c.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	if err := cmd.Start(); err != nil {
		c.Fatalf("start %q: %v", cmd.Args, err)
	}
	timer := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !timer.Stop() {
		c.Errorf("%q did not end within 30 s", cmd.Args)
	}
	r := Result{Code: cmd.ProcessState.ExitCode(), Out: out.String(), Err: errs.String(), Duration: time.Since(began)}
	r.description = fmt.Sprintf("%q: %v\nstdout: %s\nstderr: %s", cmd.Args[1:], err, clip(r.Out), clip(r.Err))
	c.Hear("stdout of "+cmd.Args[1], out.Bytes())
	c.Hear("stderr of "+cmd.Args[1], errs.Bytes())
	c.noCrash(cmd.Args[1], r.Err)
	return r
}

// noCrash fails the case if a Go program says that it crashed or raced.
func (c *Case) noCrash(who, stderr string) {
	c.Helper()
	if c.crashes {
		return
	}
	for _, mark := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: ", "goroutine 1 ["} {
		if strings.Contains(stderr, mark) {
			c.Errorf("%s: %q on stderr:\n%s", who, mark, clip(stderr))
		}
	}
}

// Exit asserts the exit code of a command.
func (c *Case) Exit(r Result, code int) {
	c.Helper()
	if r.Code != code {
		c.Errorf("exit code is %d, not %d: %s", r.Code, code, r.description)
	}
}

// ErrorAndHint asserts that a command failed with that code, said why in a
// "standin: error:" line that holds each of the words, and gave a hint.
func (c *Case) ErrorAndHint(r Result, code int, words ...string) {
	c.Helper()
	c.Exit(r, code)
	if !strings.Contains(r.Err, "standin: error: ") || !strings.Contains(r.Err, "standin: hint: ") {
		c.Errorf("no error line or no hint: %s", r.description)
	}
	for _, w := range words {
		if !strings.Contains(r.Err, w) {
			c.Errorf("the error does not say %q: %s", w, r.description)
		}
	}
}

// Equal compares two values.
func (c *Case) Equal(got, want any) {
	c.Helper()
	if !reflect.DeepEqual(got, want) {
		c.Errorf("got  %s\nwant %s", clip(fmt.Sprintf("%#v", got)), clip(fmt.Sprintf("%#v", want)))
	}
}

// Status asserts the status of a response.
func (c *Case) Status(r *Response, status int) {
	c.Helper()
	if r.Status != status || r.Err != nil {
		c.Errorf("got %s, not a whole %d", r, status)
	}
}

// Refused asserts a refusal by the proxy: the status, the code in a fixed JSON
// body with id and hint, and Proxy-Status.
func (c *Case) Refused(r *Response, status int, code string) {
	c.Helper()
	if r.Status != status || r.Code() != code || r.Err != nil {
		c.Errorf("got %s, not %d %s", r, status, code)
		return
	}
	if r.Refusal().ID == "" || r.Header.Get("Proxy-Status") == "" || r.Header.Get("Content-Type") != "application/json" {
		c.Errorf("the refusal lacks an id, Proxy-Status or Content-Type: %s", r)
	}
	if strings.Contains(string(r.Raw), c.P) {
		c.Errorf("the refusal repeats the placeholder: %s", r)
	}
}

// Eventually asserts that something becomes true within a few seconds.
func (c *Case) Eventually(what string, ok func() bool) bool {
	c.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(15 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	c.Errorf("not within ten seconds: %s", what)
	return false
}

// Crashes says that processes of this case are made to crash.
func (c *Case) Crashes() { c.crashes = true }

// NoGateway says that this case needs no gateway that lives to its end.
func (c *Case) NoGateway() { c.quiet = true }

// clip shortens what is printed about a failure.
func clip(s string) string {
	if len(s) > 1500 {
		return fmt.Sprintf("%s … (%d bytes)", s[:1500], len(s))
	}
	return s
}
