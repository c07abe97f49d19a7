//go:build linux

package cases

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Session is one "standin run" and the command that it started.
type Session struct {
	c       *Case
	Name    string
	Gateway int               // pid of the gateway
	Command int               // pid of the command
	Env     map[string]string // of the command
	Proxy   *url.URL          // with the session's credentials
	Roots   *x509.CertPool    // what the command trusts
	Relay   string            // where the command relays to its proxy
	Log     string            // the log file
	Before  Status            // counts when the session was new
	Served  *Serving          // the serving gateway that has it, or nil

	cmd    *exec.Cmd
	stdin  io.Closer
	out    *lockedBuffer
	errs   *lockedBuffer
	exited chan struct{}
	once   sync.Once
}

// Status is what the control socket says of the gateway.
type Status struct {
	PID         int `json:"pid"`
	Goroutines  int `json:"goroutines"`
	Descriptors int `json:"descriptors"`
	Tunnels     int `json:"tunnels"`
}

// Start says how a session is started.
type Start struct {
	Name    string   // for messages and for Case.sessions
	Profile string   // "granted" if empty
	Flags   []string // more flags of run
	Env     []string // more variables of the user's environment
	Program string   // another build of the program
	Cores   bool     // without a limit on the size of core files
	// Change has its way with the command line before it is started, Began with
	// the process before anybody waits for it.
	Change func(*exec.Cmd)
	Began  func(*exec.Cmd)
	at     *Serving // see Serving.Session
}

// S1 is granted everything.
func (c *Case) S1() *Session { c.Helper(); return c.session("S1", "granted") }

// S2 is granted nothing.
func (c *Case) S2() *Session { c.Helper(); return c.session("S2", "none") }

// S3 has three uses.
func (c *Case) S3() *Session { c.Helper(); return c.session("S3", "thrice") }

// S4 has expired.
func (c *Case) S4() *Session {
	c.Helper()
	_, had := c.sessions["S4"]
	s := c.session("S4", "brief")
	if !had {
		time.Sleep(1100 * time.Millisecond) // its whole life is one second
	}
	return s
}

func (c *Case) session(name, profile string) *Session {
	c.Helper()
	if s := c.sessions[name]; s != nil {
		return s
	}
	return c.Start(Start{Name: name, Profile: profile})
}

// Start starts a session.
func (c *Case) Start(o Start) *Session {
	c.Helper()
	c.Rules.Write()
	if o.Name == "" {
		o.Name = fmt.Sprintf("session %d", len(c.order)+1)
	}
	if o.Profile == "" {
		o.Profile = "granted"
	}
	s := &Session{c: c, Name: o.Name, Log: filepath.Join(c.Dir, strings.ReplaceAll(o.Name, " ", "-")+".log"), exited: make(chan struct{})}
	args := []string{"run", "--rules", c.Rules.Path, "--profile", o.Profile, "--isolation", "session", "--log", s.Log}
	if o.at != nil {
		s.Served, s.Log = o.at, o.at.Log
		args = []string{"run", "--gateway", o.at.Socket, "--profile", o.Profile, "--isolation", "session"}
	}
	args = append(append(args, o.Flags...), "--", os.Args[0], commandRole)
	s.cmd = c.Command(append(c.loudness(), o.Env...), args...)
	if o.Program != "" {
		s.cmd.Path, s.cmd.Args[0] = o.Program, o.Program
	}
	if o.Cores {
		s.cmd.Args = append([]string{"sh", "-c", `ulimit -c unlimited; exec "$0" "$@"`}, append([]string{s.cmd.Path}, s.cmd.Args[1:]...)...)
		s.cmd.Path = "/bin/sh"
	}
	if o.Change != nil {
		o.Change(s.cmd)
	}
	s.launch(o.Began)
	c.sessions[o.Name] = s
	c.order = append(c.order, s)
	return s
}

// launch starts the program and reads what its command says of itself.
func (s *Session) launch(began func(*exec.Cmd)) {
	c := s.c
	c.Helper()
	s.out, s.errs = newLockedBuffer(), newLockedBuffer()
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.errs
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		c.Fatal(err)
	}
	s.stdin = stdin
	s.cmd.WaitDelay = 500 * time.Millisecond // a command that outlives its gateway holds the pipes
	if err := s.cmd.Start(); err != nil {
		c.Fatalf("start %s: %v", s.Name, err)
	}
	if began != nil {
		began(s.cmd)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.exited)
	}()
	line, err := s.out.line(s.exited, 20*time.Second)
	var report commandReport
	if err == nil {
		err = json.Unmarshal(line, &report)
	}
	if err != nil {
		s.kill()
		c.Fatalf("%s did not start its command: %v\nstderr: %s\n%s", s.Name, err, clip(s.errs.String()), c.Rules.Text())
	}
	s.meet(report)
}

func (s *Session) meet(report commandReport) {
	c := s.c
	c.Helper()
	s.Gateway, s.Command, s.Relay, s.Env = s.cmd.Process.Pid, report.PID, report.Relay, map[string]string{}
	for _, entry := range report.Env {
		name, value, _ := strings.Cut(entry, "=")
		s.Env[name] = value
	}
	if s.Env["STANDIN_CONTROL"] == "" { // out of the command's reach, not of this test's
		s.Env["STANDIN_CONTROL"] = filepath.Join(c.Home, "run", s.Env["STANDIN_SESSION"]+".sock")
	}
	var err error
	if s.Proxy, err = url.Parse(s.Env["HTTPS_PROXY"]); err != nil || s.Proxy.Host == "" {
		c.Fatalf("%s: HTTPS_PROXY of the command is %q", s.Name, s.Env["HTTPS_PROXY"])
	}
	pem, err := os.ReadFile(s.Env["SSL_CERT_FILE"])
	if err != nil {
		c.Fatalf("%s: read the roots of the command: %v", s.Name, err)
	}
	s.Roots = x509.NewCertPool()
	if !s.Roots.AppendCertsFromPEM(pem) {
		c.Fatalf("%s: no root in SSL_CERT_FILE", s.Name)
	}
	if p := s.Env["GITHUB_TOKEN"]; p != "" && p != c.P {
		c.Errorf("%s: the placeholder is %q; in this home it is %q", s.Name, p, c.P)
	}
	s.Before = s.Status()
	if want := s.gateway(); s.Before.PID != want {
		c.Errorf("%s: the control socket answers with pid %d, the gateway is %d", s.Name, s.Before.PID, want)
	}
}

// gateway is the process that serves the session.
func (s *Session) gateway() int {
	if s.Served != nil {
		return s.Served.PID
	}
	return s.Gateway
}

// Placeholder is what the command holds in that variable.
func (s *Session) Placeholder(variable string) string {
	s.c.Helper()
	p := s.Env[variable]
	if !strings.Contains(p, "zstandin_") {
		s.c.Fatalf("$%s of the command is no placeholder: %q", variable, p)
	}
	return p
}

// Control speaks to the control socket and returns status and body.
func (s *Session) Control(method, path, body string) (int, []byte) {
	s.c.Helper()
	status, out, err := s.control(method, path, body)
	if err != nil {
		s.c.Fatalf("%s: control %s %s: %v\nstderr: %s", s.Name, method, path, err, clip(s.errs.String()))
	}
	return status, out
}

func (s *Session) control(method, path, body string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.Env["STANDIN_CONTROL"])
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://standin"+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	s.c.Hear("control socket of "+s.Name, out)
	return resp.StatusCode, out, err
}

// Status asks the gateway for its counts.
func (s *Session) Status() Status {
	s.c.Helper()
	status, out := s.Control("GET", "/v1/status", "")
	var st Status
	if err := json.Unmarshal(out, &st); err != nil || status != 200 {
		s.c.Fatalf("%s: status %d: %s", s.Name, status, out)
	}
	return st
}

// ID is the session's id, as the control socket and the record call it.
func (s *Session) ID() string { return s.Proxy.User.Username() }

// Running says whether the gateway still lives.
func (s *Session) Running() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// End lets the command end and returns the exit code of run.
func (s *Session) End() int {
	s.c.Helper()
	s.once.Do(func() {
		_ = s.stdin.Close()
		select {
		case <-s.exited:
		case <-time.After(10 * time.Second):
			s.c.Errorf("%s did not end within 10 s of its command", s.Name)
			s.kill()
		}
		s.c.Hear("stdout of "+s.Name, s.out.Bytes())
		s.c.Hear("stderr of "+s.Name, s.errs.Bytes())
	})
	return s.cmd.ProcessState.ExitCode()
}

// Stderr is what the gateway and its command wrote to stderr so far.
func (s *Session) Stderr() string { return s.errs.String() }

func (s *Session) kill() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}

// lockedBuffer collects the output of a process.
type lockedBuffer struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{}
}

func newLockedBuffer() *lockedBuffer { return &lockedBuffer{more: make(chan struct{}, 1)} }

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.more <- struct{}{}:
	default:
	}
	return b.buf.Write(p)
}

func (b *lockedBuffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf.Bytes())
}

func (b *lockedBuffer) String() string { return string(b.Bytes()) }

// line waits for the first line.
func (b *lockedBuffer) line(exited <-chan struct{}, limit time.Duration) ([]byte, error) {
	timeout := time.After(limit)
	for {
		if line, err := bufio.NewReader(bytes.NewReader(b.Bytes())).ReadBytes('\n'); err == nil {
			return line, nil
		}
		select {
		case <-b.more:
		case <-exited:
			if line, err := bufio.NewReader(bytes.NewReader(b.Bytes())).ReadBytes('\n'); err == nil {
				return line, nil
			}
			return nil, fmt.Errorf("it exited")
		case <-timeout:
			return nil, fmt.Errorf("no line within %v", limit)
		}
	}
}

// loudness are the variables that make every log as loud as it gets.
func (c *Case) loudness() []string {
	if !c.Replay {
		return nil
	}
	return []string{"GODEBUG=http2debug=2,tlsdebug=1,netdns=2", "GOTRACEBACK=all", "DEBUG=*", "NODE_DEBUG=http,net,tls", "LOG_LEVEL=trace"}
}
