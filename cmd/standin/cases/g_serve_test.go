//go:build linux

package cases

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A serving gateway: signals, reloads, its end.

func sectionGServe() []entry {
	return []entry{
		{"G17", fewDescriptors},
		{"G24", endsInOrder},
		{"G25", signalsAndStops},
		{"G28", panicsStay},
		{"H29", rulesChangeUnderRequests},
	}
}

func endsInOrder(c *Case) {
	c.NoGateway()
	g := c.Serve()
	release := make(chan struct{})
	c.U1.Handle(func(w http.ResponseWriter, r *http.Request) {
		flush := http.NewResponseController(w)
		fmt.Fprintln(w, "begun")
		_ = flush.Flush()
		if r.URL.Path == "/short" {
			<-release
			fmt.Fprintln(w, "finished")
			return
		}
		for r.Context().Err() == nil {
			time.Sleep(50 * time.Millisecond)
			fmt.Fprintln(w, "more")
			_ = flush.Flush()
		}
	})
	receipt := filepath.Join(c.Dir, "receipt")
	one, two := g.Session(Start{Name: "one", Flags: []string{"--receipt", receipt}}), g.Session(Start{Name: "two"})
	short, long := one.Tunnel(api), two.Tunnel(api)
	short.Send(get("/short", api, bearer(c.P)))
	long.Send(get("/long", api, bearer(c.P)))
	c.Eventually("both have arrived", func() bool { return len(c.U1.Received()) == 2 })
	g.gone = true
	g.Signal(syscall.SIGTERM)
	began := time.Now()
	// What is under way may finish, and what does not is cut; nothing new begins.
	c.Eventually("nothing new is let in", func() bool {
		return c.Standin("run", "--gateway", g.Socket, "--profile", "granted", "--", "true").Code == 125
	})
	close(release)
	r := short.Response("GET")
	c.Status(r, 200)
	if !strings.HasSuffix(string(r.Body), "finished\n") {
		c.Errorf("the short answer was cut: %s", r)
	}
	if r := long.Response("GET"); r.Err == nil {
		c.Errorf("an endless answer has ended well: %s", r)
	}
	c.Equal(g.wait(), 0)
	if took := time.Since(began); took < 1900*time.Millisecond {
		c.Errorf("it ended after %v, within its grace of 2 s, with a request under way", took)
	}
	c.U1.Requests(2)
	for _, s := range []*Session{one, two} {
		c.Recorded(1, Want{"type": "close", "session": s.ID(), "reason": "the gateway has ended"})
	}
	c.Recorded(1, Want{"type": "seal"})
	if _, err := os.Stat(g.Socket); !os.IsNotExist(err) {
		c.Errorf("the socket is still there: %v", err)
	}
	// The launcher has the receipt of what was used until then, and says so.
	c.Equal(one.End(), 0)
	text, err := os.ReadFile(receipt)
	if err != nil || !strings.Contains(string(text), `"ended": "the gateway has ended"`) || !strings.Contains(string(text), `"used": 1`) || !strings.Contains(one.Stderr(), "has gone before the command") {
		c.Errorf("the receipt is %s, %v; and said is %q", text, err, one.Stderr())
	}
	// A gateway that is killed leaves none.
	g = c.Serve()
	lost := g.Session(Start{Name: "lost", Flags: []string{"--receipt", receipt + "2"}})
	g.Kill()
	c.Equal(lost.End(), 0)
	if _, err := os.Stat(receipt + "2"); err == nil || !strings.Contains(lost.Stderr(), "write receipt") {
		c.Errorf("of a killed gateway there is a receipt, or nothing is said: %q", lost.Stderr())
	}
}

func signalsAndStops(c *Case) {
	g := c.Serve()
	s := g.Session(Start{Name: "S1"})
	c.Status(s.Do(api, get("/before", api, bearer(c.P))), 200)
	for _, number := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGHUP, syscall.SIGHUP, syscall.SIGWINCH, syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE} {
		g.Signal(number)
	}
	c.Status(s.Do(api, get("/signals", api, bearer(c.P))), 200)
	// Stopped: clients wait, and are served when it goes on. A ttl that is over by
	// then is over.
	open := s.Tunnel(api)
	open.Send(get("/open", api, bearer(c.P)))
	c.Status(open.Response("GET"), 200)
	brief := g.Session(Start{Name: "brief", Profile: "brief"})
	g.Signal(syscall.SIGSTOP)
	open.Send(get("/stopped", api, bearer(c.P)))
	time.Sleep(3 * time.Second)
	g.Signal(syscall.SIGCONT)
	c.Status(open.Response("GET"), 200)
	_, r := brief.Connect(api + ":443")
	c.Refused(r, 403, "grant_expired")
	c.Status(s.Do(api, get("/after", api, bearer(c.P))), 200)
	c.U1.Requests(5)
}

func rulesChangeUnderRequests(c *Case) {
	c.Rules.Add("{name: b, hosts: [" + api + "], paths: [/b], substitute: [{secret: github, in: header Authorization}]}")
	g := c.Serve()
	s := g.Session(Start{Name: "S1"})
	whole := c.Rules.Text()
	narrow := strings.Replace(whole, "paths: [/b], substitute: [{secret: github, in: header Authorization}]", "paths: [/b]", 1)
	wide := strings.Replace(whole, "paths: [/b], substitute: [{secret: github, in: header Authorization}]",
		"paths: [/b], substitute: [{secret: github, in: [header Authorization, header X-Wide]}]", 1)
	if narrow == whole || wide == whole {
		c.Fatal("the rules are not changed")
	}
	reload := func(text string) {
		c.Helper()
		if err := os.WriteFile(c.Rules.Path, []byte(text), 0o644); err != nil {
			c.Fatal(err)
		}
		before := c.reloads(g)
		g.Signal(syscall.SIGHUP)
		c.Eventually("the rules are read", func() bool { return c.reloads(g) > before })
	}
	b := func(s *Session, header string) int { return s.attempt(api, get("/b", api, header+": "+c.P)) }
	c.Equal(b(s, "Authorization: Bearer"), 200)

	// Wider rules that nobody has trusted add nothing, to no session.
	reload(wide)
	c.Equal(b(s, "X-Wide"), 403)
	c.Equal(b(s, "Authorization: Bearer"), 200)
	early := g.Session(Start{Name: "early"})
	c.Equal(b(early, "X-Wide"), 403)
	// Trusted, they count for new sessions.
	c.Rules.Trust()
	reload(wide)
	c.Equal(b(s, "X-Wide"), 403)
	c.Equal(b(early, "X-Wide"), 403)
	late := g.Session(Start{Name: "late"})
	c.Equal(b(late, "X-Wide"), 200)

	// Narrower ones count at once, for all, while requests run: each is decided by
	// one version, and says by which.
	var stop atomic.Bool
	var served, refused atomic.Int64
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			for !stop.Load() {
				switch b(s, "Authorization: Bearer") {
				case 200:
					served.Add(1)
				case 403:
					refused.Add(1)
				}
			}
		})
	}
	before := served.Load()
	c.Eventually("clients are served", func() bool { return served.Load() > before+5 })
	reload(narrow)
	c.Eventually("clients are refused", func() bool { return refused.Load() > 5 })
	stop.Store(true)
	clients.Wait()
	for _, session := range []*Session{s, early, late} {
		c.Equal(b(session, "Authorization: Bearer"), 403)
		c.Status(session.Do(api, get("/elsewhere", api, bearer(c.P))), 200)
	}
	// And back: what was taken from a session is not given back to it.
	reload(whole)
	c.Equal(b(s, "Authorization: Bearer"), 403)
	// Rules that cannot be read change nothing.
	reload("version: 1\nrules: [")
	c.Status(s.Do(api, get("/elsewhere", api, bearer(c.P))), 200)

	narrowHash := ""
	for _, r := range c.Records() {
		if has(r, Want{"type": "substitute", "path": "/elsewhere"}) {
			narrowHash = fmt.Sprint(r["rules_hash"])
			break
		}
	}
	hashes := map[string]int{}
	for _, r := range c.Records() {
		if has(r, Want{"type": "substitute"}) {
			hashes[fmt.Sprint(r["rules_hash"])]++
		}
		if has(r, Want{"type": "substitute", "path": "/b", "rules_hash": narrowHash}) {
			c.Errorf("a substitution that the rules %s do not have: %v", narrowHash, r)
		}
	}
	if len(narrowHash) != 64 || len(hashes) < 3 {
		c.Errorf("the substitutions were decided by %v, the narrow rules are %q", hashes, narrowHash)
	}
	c.U1.Received() // all of them have their record: checked at the end
	c.wired = true
}

// reloads counts the reloads in the gateway's log.
func (c *Case) reloads(g *Serving) int {
	log, err := os.ReadFile(g.Log)
	if err != nil {
		c.Fatal(err)
	}
	return strings.Count(string(log), `"msg":"rules`)
}

// fewDescriptors: clients wait, and the gateway is asked and told all the same.
func fewDescriptors(c *Case) {
	few := func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"sh", "-c", `ulimit -n 64; exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
	}
	s := c.Start(Start{Name: "S1", Change: few})
	c.Status(s.Do(api, get("/before", api, bearer(c.P))), 200)
	var held []net.Conn
	for i := range 200 {
		conn, err := net.DialTimeout("tcp", s.Proxy.Host, patience)
		if err != nil {
			c.Fatal(err)
		}
		defer conn.Close()
		held = append(held, conn)
		if i%2 == 0 {
			fmt.Fprintf(conn, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n%s\r\n\r\n", api, api, s.Credentials())
		}
	}
	for range 5 {
		status := s.Status()
		if status.PID != s.Gateway || status.Descriptors > 64 {
			c.Errorf("the gateway says %+v", status)
		}
	}
	c.Exit(c.Standin("session", "list"), 0)
	for _, conn := range held {
		conn.Close()
	}
	c.Status(s.Do(api, get("/after", api, bearer(c.P))), 200)
	// The serving gateway, too, and it is told to end a session.
	g := c.serveBy(few)
	served := g.Session(Start{Name: "served"})
	for range 100 {
		conn, err := net.DialTimeout("tcp", served.Proxy.Host, patience)
		if err != nil {
			c.Fatal(err)
		}
		defer conn.Close()
	}
	c.Exit(c.Standin("session", "revoke", served.ID()), 0)
	c.U1.Requests(2)
}
