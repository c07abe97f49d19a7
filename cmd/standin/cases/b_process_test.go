//go:build linux

package cases

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
)

// What the processes let out: crashes, debugging aids, argument lists, errors.

func sectionBProcess() []entry {
	return []entry{
		{"B22", panicWithTheValueInHand},
		{"B23", crashesLeaveNothing},
		{"B24", processListsHoldNothing},
		{"B25", debuggingOfTheRuntime},
		{"B26", keyLogOfTheRuntime},
		{"B27", noDebuggingPages},
		{"B28", everythingOnceMoreAtTheLoudest},
		{"B29", errorsHoldNoValue},
		{"B30", whatIsHandedInWithAReport},
	}
}

func panicWithTheValueInHand(c *Case) {
	c.Crashes()
	program, err := ground.faulty()
	if err != nil {
		c.Fatal(err)
	}
	s := c.Start(Start{Name: "S1", Program: program})
	t, h := s.Tunnel(api), s.H2(api)
	fields := h2fields("GET", api, "/standin-fault-panic", "authorization: Bearer "+c.P)
	for range 3 {
		s.Each(Message{"GET", api, "/standin-fault-panic", []string{bearer(c.P)}, ""}, func(r *Response) {
			c.Refused(r, 500, "internal")
		})
		// A panic stays in its request, or in its connection at most.
		c.Refused(h.Ask(fields, ""), 500, "internal")
	}
	t.Send(get("/user", api))
	c.Status(t.Response("GET"), 200)
	for _, q := range c.U1.Requests(1) {
		c.Equal(q.Target, "/user")
	}
	log, err := os.ReadFile(s.Log)
	if err != nil || !bytes.Contains(log, []byte("panic")) {
		c.Errorf("the log does not say that there was a panic: %v", err)
	}
	c.judge("log", log)
}

func crashesLeaveNothing(c *Case) {
	c.Crashes()
	c.NoGateway()
	held := make(chan bool)
	c.U1.Handle(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-held:
		case <-r.Context().Done():
		}
	})
	defer close(held)
	for i, signal := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGILL, syscall.SIGBUS, syscall.SIGTRAP} {
		s := c.Start(Start{Name: "crash " + strconv.Itoa(i), Env: []string{"GOTRACEBACK=crash"}, Cores: true})
		limits, err := os.ReadFile(procFile(s.Gateway, "limits"))
		if err != nil || !coreLimitIsZero(string(limits)) {
			c.Errorf("the gateway may leave a core: %v\n%s", err, limits)
		}
		// The value is in memory, and in a request under way.
		s.Tunnel(api).Send(get("/user", api, bearer(c.P)))
		c.Eventually("the request is under way", func() bool { return len(c.U1.Received()) > i })
		if err := syscall.Kill(s.Gateway, signal); err != nil {
			c.Fatal(err)
		}
		select {
		case <-s.exited:
		case <-time.After(time.Second): // it was passed on to the command, or ignored
			s.kill()
		}
		_ = syscall.Kill(s.Command, syscall.SIGKILL)
		s.End()
	}
	for _, dir := range []string{c.Dir, c.Home, c.Temp} {
		for _, pattern := range []string{"core", "core.*", "*.core"} {
			if found, _ := filepath.Glob(filepath.Join(dir, pattern)); len(found) > 0 {
				c.Errorf("core files: %q", found)
			}
		}
	}
	c.Equal(strings.Count(c.U1.Text(), "Bearer "+R), 6)
}

func coreLimitIsZero(limits string) bool {
	for line := range strings.Lines(limits) {
		if f := strings.Fields(line); strings.HasPrefix(line, "Max core file size") && len(f) > 5 {
			return f[4] == "0" // the hard limit stays, for the command
		}
	}
	return false
}

func processListsHoldNothing(c *Case) {
	s := c.S1()
	hold := make(chan bool)
	c.U1.Handle(func(_ http.ResponseWriter, _ *http.Request) { <-hold })
	t := s.Tunnel(api)
	t.Send(get("/user", api, bearer(c.P)))
	c.Eventually("the value is on its way", func() bool { return strings.Contains(c.U1.Text(), R) })
	token, _ := s.Proxy.User.Password()
	for pid := range processes() {
		line, err := os.ReadFile(procFile(pid, "cmdline"))
		if err != nil {
			continue
		}
		c.judge(fmt.Sprintf("command line of %d", pid), line)
		if bytes.Contains(line, []byte(token)) || bytes.Contains(line, []byte(c.P)) {
			c.Errorf("the command line of %d holds the token or the placeholder: %q", pid, line)
		}
	}
	environ, err := os.ReadFile(procFile(s.Command, "environ"))
	if err != nil || !bytes.Contains(environ, []byte("GITHUB_TOKEN="+c.P)) {
		c.Errorf("the environment of the command: %v %q", err, environ)
	}
	c.judge("environment of the command", environ)
	own, err := os.ReadFile(procFile(s.Gateway, "environ"))
	if err != nil {
		c.Error(err)
	}
	c.judge("environment of the gateway", own)
	close(hold)
	c.Status(t.Response("GET"), 200)
	c.arrived(c.U1, 1)
}

// debuggingOfTheRuntime: with these variables a Go program prints the header
// fields of all its HTTP/2 connections.
func debuggingOfTheRuntime(c *Case) {
	s := c.Start(Start{Name: "S1", Env: []string{"GODEBUG=http2debug=2,tlsdebug=1,gctrace=1", "GOTRACEBACK=crash", "GOGC=150"}})
	s.Each(Message{"GET", api, "/user", []string{bearer(c.P)}, ""}, func(r *Response) { c.Status(r, 200) })
	c.arrived(c.U1, 2)
	if text := s.Stderr(); text != "" {
		c.Errorf("the gateway prints: %s", clip(text))
	}
	environ, err := os.ReadFile(procFile(s.Gateway, "environ"))
	if err != nil || bytes.Contains(environ, []byte("http2debug")) {
		c.Errorf("the gateway runs with the debugging variables: %v %q", err, environ)
	}
	// The command gets what the user set.
	c.Equal(s.Env["GODEBUG"], "http2debug=2,tlsdebug=1,gctrace=1")
}

func keyLogOfTheRuntime(c *Case) {
	path := filepath.Join(c.Dir, "keys.log")
	s := c.Start(Start{Name: "S1", Env: []string{"SSLKEYLOGFILE=" + path}})
	s.Each(Message{"GET", api, "/user", []string{bearer(c.P)}, ""}, func(r *Response) { c.Status(r, 200) })
	c.arrived(c.U1, 2)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		c.Errorf("the key log exists: %v", err)
	}
	environ, err := os.ReadFile(procFile(s.Gateway, "environ"))
	if err != nil || bytes.Contains(environ, []byte("SSLKEYLOGFILE")) {
		c.Errorf("the gateway runs with SSLKEYLOGFILE: %v %q", err, environ)
	}
}

func noDebuggingPages(c *Case) {
	s := c.S1()
	c.Status(s.Do(api, get("/user", api, bearer(c.P))), 200)
	c.arrived(c.U1, 1)
	listeners := listenersOf(c, s.Gateway)
	if !slices.Contains(listeners, "tcp "+s.Proxy.Host) || !slices.Contains(listeners, "unix "+s.Env["STANDIN_CONTROL"]) {
		c.Fatalf("the listeners of the gateway are %q", listeners)
	}
	for _, listener := range listeners {
		network, address, _ := strings.Cut(listener, " ")
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/debug/vars", "/metrics", "/", "/v1", "/v1/secrets"} {
			for _, credentials := range []string{"", s.Credentials() + "\r\n"} {
				conn, err := (&net.Dialer{Timeout: patience}).DialContext(context.Background(), network, address)
				if err != nil {
					c.Fatal(err)
				}
				d := c.conn(listener, conn)
				d.Send("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + credentials + "\r\n")
				if r := d.Response("GET"); r.Status < 400 || r.Status >= 500 {
					c.Errorf("%s%s: %s", listener, path, r)
				}
			}
		}
	}
	_, own := s.Connect(s.Proxy.Host)
	c.Refused(own, 403, "denied_address")
	_, status := s.Control("GET", "/v1/status", "")
	_, sessions := s.Control("GET", "/v1/sessions", "")
	if bytes.Contains(append(status, sessions...), []byte("/user")) {
		c.Errorf("the control socket tells paths: %s %s", status, sessions)
	}
}

// listenersOf are the sockets on which a process listens: "tcp ADDR", "unix PATH".
func listenersOf(c *Case, pid int) []string {
	c.Helper()
	inodes := map[string]bool{}
	fds, err := os.ReadDir(procFile(pid, "fd"))
	if err != nil {
		c.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(procFile(pid, "fd/"+fd.Name())); err == nil {
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				inodes[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	var found []string
	table := func(name string, listener func([]string) string) {
		file, err := os.Open(procFile(pid, "net/"+name))
		if err != nil {
			return
		}
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if l := listener(strings.Fields(lines.Text())); l != "" {
				found = append(found, l)
			}
		}
	}
	for _, name := range []string{"tcp", "tcp6"} {
		table(name, func(f []string) string {
			if len(f) < 10 || f[3] != "0A" || !inodes[f[9]] {
				return ""
			}
			_, port, _ := strings.Cut(f[1], ":")
			n, _ := strconv.ParseUint(port, 16, 16)
			return fmt.Sprintf("tcp 127.0.0.1:%d", n)
		})
	}
	table("unix", func(f []string) string {
		if len(f) < 8 || f[3] != "00010000" || !inodes[f[6]] {
			return ""
		}
		return "unix " + f[7]
	})
	return found
}

// everythingOnceMoreAtTheLoudest runs sections A and B again with each variable
// that makes a runtime talk.
func everythingOnceMoreAtTheLoudest(c *Case) {
	c.NoGateway()
	for _, e := range append(sectionA(), sectionB()...) {
		if e.id == "B28" {
			continue
		}
		c.Run(e.id, func(t *testing.T) {
			t.Parallel()
			inner := newCase(t, "B28/"+e.id)
			inner.Replay = true
			e.run(inner)
		})
	}
	c.U1.Undialled() // the cases within assert what theirs received
}

// whatIsHandedInWithAReport is all that the program has to say of itself, as
// somebody would attach it to a report of a fault: of a session at work, and
// after it has crashed.
func whatIsHandedInWithAReport(c *Case) {
	c.Crashes()
	c.NoGateway()
	receipt := filepath.Join(c.Dir, "receipt.json")
	s := c.Start(Start{Name: "S1", Flags: []string{"--receipt", receipt}, Env: []string{"GOTRACEBACK=crash"}})
	c.Status(s.Do(api, get("/user", api, bearer(c.P))), 200)
	c.Status(s.Do(echo, get("/", echo, bearer(c.P))), 200)
	c.Refused(s.Do(api, get("/?x="+c.P, api)), 403, "placeholder_misplaced")
	c.Equal(strings.Count(c.U1.Text(), R), 1)
	bundle := func(more ...[]string) {
		for _, args := range append(more, []string{"version"}, []string{"vault", "status", "--json"}, []string{"session", "list", "--json"},
			[]string{"rules", "check", "--rules", c.Rules.Path}, []string{"rules", "explain", "GET", "https://" + api + "/user", "--rules", c.Rules.Path, "--json"},
			[]string{"audit", "show", "--json"}, []string{"audit", "show", "--summary"}, []string{"audit", "verify", "--json"}) {
			r := c.Standin(args...) // NOLEAK looks at what it says
			if r.Out == "" || strings.Contains(r.Out+r.Err, "zstandin_") {
				c.Errorf("%q says nothing, or a placeholder: %s", args, r.description)
			}
		}
		log, err := os.ReadFile(s.Log)
		if err != nil || len(log) == 0 || bytes.Contains(log, []byte("zstandin_")) {
			c.Errorf("the log holds nothing, or a placeholder: %v %q", err, log)
		}
	}
	bundle([]string{"session", "show", s.Proxy.User.Username(), "--json"})
	if err := syscall.Kill(s.Gateway, syscall.SIGSEGV); err != nil {
		c.Fatal(err)
	}
	select {
	case <-s.exited:
	case <-time.After(time.Second): // it was passed on to the command
	}
	s.End()
	bundle()
	c.judge("what was said at the end", []byte(s.out.String()+s.errs.String()))
}

func errorsHoldNoValue(c *Case) {
	c.NoGateway()
	c.U1.Undialled()
	const passphrase = "correct horse battery staple"
	bad := filepath.Join(c.Dir, "bad")
	c.Pardon(bad, "the files of this folder are made with the value in them")
	if err := os.Mkdir(bad, 0o700); err != nil {
		c.Fatal(err)
	}
	write := func(path, text string) string {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			c.Fatal(err)
		}
		return path
	}
	// A value where something else belongs: in the rules, in a dotenv file, in an argument.
	for i, text := range []string{
		"version: 1\nsecrets:\n  a: {source: " + R + "}\n",
		"version: 1\nsecrets:\n  a: {source: \"vault:" + R + "\"}\n",
		"version: 1\nsecrets:\n  a: {source: \"env:" + R + " x\"}\n",
		"version: 1\nsecrets:\n  a: {source: \"vault:a/b\", placeholder: " + R + "}\n",
		"version: 1\nsecrets:\n  a: {source: \"vault:a/b\", value: " + R + "}\n",
		"version: 1\nsecrets:\n  a: {source: \"vault:a/b\", env: " + R + "}\n",
		"version: 1\nsecrets:\n  a: " + R + "\n",
		"version: " + R + "\n",
		R + "\n",
	} {
		path := write(filepath.Join(bad, fmt.Sprintf("rules%d.yaml", i)), text)
		r := c.Standin("rules", "check", "--rules", path)
		if i != 1 && r.Code == 0 {
			c.Errorf("%q is accepted", text)
		}
		if r := c.Standin("run", "--rules", path, "--", "true"); r.Code != 125 {
			c.Errorf("run with %q: %s", text, r.description)
		}
	}
	dotenv := write(filepath.Join(bad, "env"), "A B="+R+"\n"+R+"\nX='"+R+"\n")
	if r := c.Standin("vault", "import", dotenv); r.Code == 0 {
		c.Errorf("a malformed dotenv file is imported: %s", r.description)
	}
	// The vault: damaged, and well encrypted but malformed within.
	path := filepath.Join(c.Home, "vault.age")
	whole, err := os.ReadFile(path)
	if err != nil {
		c.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-10] ^= 1
	for what, data := range map[string][]byte{
		"flipped": flipped, "cut": whole[:len(whole)/2], "empty": {}, "plain": []byte(R),
		"not JSON": c.sealed([]byte(`{"format":1,"secrets":[{"name":"x","value":"` + R)), "wrong JSON": c.sealed([]byte(`{"format":1,"secrets":"` + R + `"}`)),
		"wrong value": c.sealed([]byte(`{"format":1,"secrets":[{"name":"` + R + `","version":1,"value":"` + R + `"}]}`)),
	} {
		write(path, string(data))
		for _, args := range [][]string{{"vault", "list"}, {"vault", "rm", "github/token"}} {
			if r := c.Standin(args...); r.Code != 1 || !strings.Contains(r.Err, "standin: error: ") {
				c.Errorf("%q of a vault that is %s: %s", args, what, r.description)
			}
		}
	}
	write(path, string(whole))
	// A wrong passphrase, and the value as one.
	other := filepath.Join(c.Dir, "p")
	c.Exit(c.Standin("vault", "init", "--home", other, "--passphrase-file", write(filepath.Join(bad, "right"), passphrase), "--recovery-key-out", filepath.Join(bad, "key")), 0)
	c.ErrorAndHint(c.Standin("vault", "list", "--home", other, "--passphrase-file", write(filepath.Join(bad, "wrong"), R)), 1)
	c.Exit(c.Standin("vault", "list", "--home", other, "--passphrase-file", filepath.Join(bad, "right")), 0)
}

// sealed encrypts a text to the identity of the vaults of the cases.
func (c *Case) sealed(text []byte) []byte {
	c.Helper()
	file, err := os.Open(ground.identity)
	if err != nil {
		c.Fatal(err)
	}
	defer file.Close()
	all, err := age.ParseIdentities(file)
	if err != nil {
		c.Fatal(err)
	}
	own, ok := all[0].(*age.X25519Identity)
	if !ok {
		c.Fatalf("the identity is a %T", all[0])
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, own.Recipient())
	if err == nil {
		_, err = io.Copy(w, bytes.NewReader(text))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		c.Fatal(err)
	}
	return out.Bytes()
}
