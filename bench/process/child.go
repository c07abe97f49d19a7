package process

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Child is a process that ends when its standard input is closed.
type Child struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs *Tail
}

// Start starts a process and leaves hearing its first line to the caller.
func Start(cmd *exec.Cmd) (*Child, error) {
	c := &Child{cmd: cmd, errs: &Tail{}}
	var err error
	if c.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	cmd.Stderr = c.errs
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return c, nil
}

// patience is how long a child may take to answer or to end.
const patience = 90 * time.Second

// PID is the process's number.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Said is the last that the process said on standard error.
func (c *Child) Said() string { return c.errs.String() }

// Hear reads one line of JSON. An error means that the process has ended.
func (c *Child) Hear(into any) error {
	type heard struct {
		line []byte
		err  error
	}
	lines := make(chan heard, 1)
	go func() {
		line, err := c.out.ReadBytes('\n')
		lines <- heard{line, err}
	}()
	select {
	case h := <-lines:
		if h.err != nil {
			c.Stop()
			return fmt.Errorf("%s ended: %s", c.cmd.Args[0], c.errs)
		}
		return json.Unmarshal(h.line, into)
	case <-time.After(patience):
		c.kill()
		return fmt.Errorf("%s does not answer: %s", c.cmd.Args[0], c.errs)
	}
}

// Tell writes one line of JSON.
func (c *Child) Tell(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.in.Write(append(line, '\n'))
	return err
}

// Stop lets the process end by itself, and kills it if it will not.
func (c *Child) Stop() {
	_ = c.in.Close()
	timer := time.AfterFunc(10*time.Second, c.kill)
	defer timer.Stop()
	_, _ = io.Copy(io.Discard, c.out)
	_ = c.cmd.Wait()
}

func (c *Child) kill() { _ = c.cmd.Process.Kill() }

// Tail keeps the last that a process said on standard error.
type Tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-2000):]
	return len(p), nil
}

func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.Join(strings.Fields(string(bytes.TrimSpace(t.text))), " ")
	if text == "" {
		return "it said nothing"
	}
	return text
}

// Output runs a command to its end and returns what it said. One that does not
// end with 0 is a *Complaint.
func Output(cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	errs := &Tail{}
	cmd.Stdout, cmd.Stderr = &out, errs
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return "", err
		}
		return out.String(), &Complaint{exit.ExitCode(), fmt.Sprintf("%s ended with %d: %s", strings.Join(cmd.Args, " "), exit.ExitCode(), errs)}
	}
	return out.String(), nil
}

// Complaint is a command that did not end with 0.
type Complaint struct {
	Code int
	text string
}

func (c *Complaint) Error() string { return c.text }
