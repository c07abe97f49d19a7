//go:build linux

package cases

import (
	"encoding/xml"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// h2specModule is the scratch module that h2spec is built in: it has no go.mod
// of its own, and is none of our dependencies.
const h2specModule = `module scratch

go 1.26.0

require (
	github.com/fatih/color v1.19.0
	github.com/mattn/go-colorable v0.1.14
	github.com/mattn/go-isatty v0.0.20
	github.com/spf13/cobra v1.10.2
	github.com/summerwind/h2spec v2.2.1+incompatible
	golang.org/x/net v0.62.0
)
`

const h2specMain = `package main

import _ "github.com/summerwind/h2spec/spec"
`

// deviations are the tests of h2spec that Go's HTTP/2 server is known to fail,
// each with the reason why that is no danger.
var deviations = map[string]string{
	"http2/6.5.3 Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE": "a SETTINGS frame that says one thing twice ends the connection, where the last value should win: no client sends one",
	// RFC 9113, 8.1.1 allows an answer before the stream is reset.
	"http2/8.1.2.2 Sends a HEADERS frame that contains the connection-specific header field":                       "answered 400 instead of reset",
	"http2/8.1.2.2 Sends a HEADERS frame that contains the TE header field with any value other than \"trailers\"": "answered 400 instead of reset",
}

// outOfReach are what "go build" says when the module proxy cannot be asked.
var outOfReach = []string{"dial tcp", "no such host", "i/o timeout", "connection refused", "network is unreachable", "module lookup disabled", "TLS handshake timeout"}

// h2spec builds the program, once for all runs of the tests.
func h2spec(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	program := filepath.Join(cache, "standin-cases", "h2spec-2.2.1")
	if _, err := os.Stat(program); err == nil {
		return program
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": h2specModule, "use.go": h2specMain} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	built := filepath.Join(dir, "h2spec")
	cmd := exec.Command("go", "build", "-mod=mod", "-o", built, "github.com/summerwind/h2spec/cmd/h2spec")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		if slices.ContainsFunc(outOfReach, func(s string) bool { return strings.Contains(string(out), s) }) {
			t.Skipf("h2spec cannot be fetched: %s", out)
		}
		t.Fatalf("build h2spec: %v\n%s", err, out)
	}
	if err := os.MkdirAll(filepath.Dir(program), 0o700); err != nil {
		t.Fatal(err)
	}
	// Another run may do the same at this moment: a rename is whole.
	data, err := os.ReadFile(built)
	beside := fmt.Sprintf("%s.%d", program, os.Getpid())
	if err == nil {
		err = os.WriteFile(beside, data, 0o700)
	}
	if err == nil {
		err = os.Rename(beside, program)
	}
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// h2specReport is the report of h2spec, in the form of JUnit.
type h2specReport struct {
	Suites []struct {
		Package string `xml:"package,attr"`
		Cases   []struct {
			Package string `xml:"package,attr"`
			Name    string `xml:"classname,attr"`
			Failure *struct {
				Text string `xml:",chardata"`
			} `xml:"failure"`
			Error *struct {
				Text string `xml:",chardata"`
			} `xml:"error"`
			Skipped *struct{} `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// TestH2Spec holds the decrypted server to the conformance tests of HTTP/2 and
// HPACK. h2spec speaks to a port, so a forwarder makes each of its connections a
// tunnel: its TLS ends at the gateway.
func TestH2Spec(t *testing.T) {
	program := h2spec(t)
	c := newCase(t, "h2spec")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := ln.Addr().String() // what h2spec takes for the authority
	c.Rules.Add("{name: conformance, hosts: [\"" + target + "\"], substitute: [{secret: github, in: header Authorization}]}")
	u := c.Upstream(target, Serve{TLS: c.Certificate("127.0.0.1"), Handler: func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "long enough for tests of windows\n")
	}})
	s := c.S1()
	var forwarding sync.WaitGroup
	forwarding.Go(func() { s.forward(ln, target, &forwarding) })
	report := filepath.Join(c.Dir, "h2spec.xml")
	cmd := exec.Command(program, "-h", "127.0.0.1", "-p", portOfAddr(target), "-t", "-k", "-o", "2", "--strict", "-j", report)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	t.Logf("h2spec took %v", time.Since(began).Round(100*time.Millisecond))
	ln.Close()
	forwarding.Wait()
	if _, failed := err.(*exec.ExitError); err != nil && !failed {
		t.Fatalf("run h2spec: %v\n%s", err, out)
	}
	c.readReport(report, string(out))
	for _, q := range u.Received() {
		if q.Host != target || strings.HasPrefix(q.Method, "malformed") {
			t.Errorf("%s %s for %q arrived", q.Method, q.Target, q.Host)
		}
	}
	if len(u.Received()) < 20 {
		t.Errorf("only %d requests were sent on: h2spec did not reach the server", len(u.Received()))
	}
}

func portOfAddr(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// forward makes each connection to ln a tunnel.
func (s *Session) forward(ln net.Listener, target string, tasks *sync.WaitGroup) {
	for {
		near, err := ln.Accept()
		if err != nil {
			return
		}
		tasks.Go(func() {
			defer near.Close()
			far, err := net.DialTimeout("tcp", s.Proxy.Host, patience)
			if err != nil {
				return
			}
			defer far.Close()
			if _, err := fmt.Fprintf(far, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", target, target, s.Credentials()); err != nil || statusOf(far) != 200 {
				return
			}
			tasks.Go(func() {
				_, _ = io.Copy(near, far)
				_ = near.Close()
			})
			_, _ = io.Copy(far, near)
		})
	}
}

// readReport fails the test for each failure that is not allowed by name, and
// for each name that has become needless.
func (c *Case) readReport(path, out string) {
	c.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		c.Fatalf("%v\n%s", err, clip(out))
	}
	var report h2specReport
	if err := xml.Unmarshal(text, &report); err != nil {
		c.Fatalf("read the report of h2spec: %v", err)
	}
	passed, known := 0, map[string]bool{}
	for _, suite := range report.Suites {
		for _, one := range suite.Cases {
			name := one.Package + " " + one.Name
			switch {
			case one.Failure == nil && one.Error == nil && one.Skipped == nil:
				passed++
			case deviations[name] != "":
				known[name] = true
			default:
				c.Errorf("%s: %+v %+v", name, one.Failure, one.Error)
			}
		}
	}
	for name := range deviations {
		if !known[name] {
			c.Errorf("%q passes now: the deviation is needless", name)
		}
	}
	c.Logf("%d tests of h2spec passed, %d deviations", passed, len(known))
	if passed+len(known) < 146 {
		c.Errorf("only %d tests passed: %s", passed, clip(out))
	}
}
