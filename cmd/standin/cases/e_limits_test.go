//go:build linux

package cases

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Where grants end, and what a command's own environment can do to them.

func sectionELimits() []entry {
	return []entry{
		{"E05", cutInFlight},
		{"E13", usesOfFailures},
		{"E14", usesInOneFlight},
		{"E25", pagesOfABrowser},
		{"E27", emptyLists},
		{"E28", theCommandMoves},
		{"E29", theEnvironmentOfTheGateway},
	}
}

// cutInFlight: whatever is open when the grants end is cut then, and on record.
func cutInFlight(c *Case) {
	c.Rules.Add(wsRule)
	u := c.pinned("pin.test")
	c.Rules.Profile("short: {secrets: [github], isolation: session, ttl: 5s}")
	var under atomic.Int64 // requests that an upstream serves
	c.U1.Handle(func(w http.ResponseWriter, r *http.Request) {
		under.Add(1)
		defer under.Add(-1)
		if r.Method == "POST" {
			_, _ = io.Copy(io.Discard, r.Body)
			return
		}
		for r.Context().Err() == nil {
			fmt.Fprintln(w, "more")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	})
	c.wsServe(c.UR, parrot)
	for _, how := range []string{"expired", "revoked"} {
		profile := map[string]string{"expired": "short", "revoked": "granted"}[how]
		s := c.Start(Start{Name: how, Profile: profile})
		down, up := s.Tunnel(api), s.Tunnel(api)
		down.Send(get("/down", api, bearer(c.P)))
		up.Send("POST /up HTTP/1.1\r\nHost: " + api + "\r\n" + bearer(c.P) + "\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nmore\r\n")
		pass := s.itself(s.Dialled("pin.test:443"), "pin.test")
		pass.Send(get("/pass", "pin.test"))
		c.Status(pass.Response("GET"), 200)
		ws := s.WebSocket(scripts, "/ws", bearer(c.P))
		ws.Send(wsText|wsFin, "hello")
		ws.Says(wsText, "hello")
		c.Eventually("both streams are under way", func() bool { return under.Load() == 2 })
		began := time.Now()
		if how == "revoked" {
			r := c.Standin("session", "revoke", s.ID())
			c.Exit(r, 0)
		}
		stop := make(chan struct{})
		go func() { // the upload goes on for as long as it can
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
					up.Send("4\r\nmore\r\n")
				}
			}
		}()
		if r := down.Response("GET"); r.Err == nil {
			c.Errorf("%s: a download ends well: %s", how, r)
		}
		if r := up.Response("POST"); r.Err == nil && r.Status == 200 {
			c.Errorf("%s: an upload ends well: %s", how, r)
		}
		close(stop)
		_ = pass.Closed()
		ws.Cut()
		if took := time.Since(began); how == "revoked" && took > 5*time.Second {
			c.Errorf("they are cut after %v", took)
		}
		c.Eventually("the upstreams are left alone", func() bool { return under.Load() == 0 })
		c.Equal(s.Status().Tunnels, 0)
		_, r := s.Connect(api + ":443")
		c.Refused(r, 403, map[string]string{"expired": "grant_expired", "revoked": "session_closed"}[how])
		shown := c.Standin("session", "list")
		if !strings.Contains(shown.Out, how) {
			c.Errorf("session list does not say that it has %s: %s", how, shown.description)
		}
		c.Recorded(1, Want{"type": "revoke", "session": s.ID(), "reason": how})
		for _, path := range []string{"/down", "/up", "/ws"} {
			c.Recorded(1, Want{"type": "result", "session": s.ID(), "path": path, "reason": "cut", "code": map[string]string{"expired": "grant_expired", "revoked": "session_closed"}[how]})
		}
		c.Recorded(1, Want{"type": "result", "session": s.ID(), "host": "pin.test"})
	}
	u.Requests(2)
	c.Equal(len(c.U1.Received()), 4) // two of them cut
}

func usesOfFailures(c *Case) {
	s := c.S3()
	c.U1.Handle(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for range 2 {
		if r := s.Do(api, get("/aborted", api, bearer(c.P))); r.Status != 502 {
			c.Errorf("an upstream that hangs up: %s", r)
		}
	}
	// The client goes away before the answer.
	hold := make(chan struct{})
	c.U1.Handle(func(http.ResponseWriter, *http.Request) { <-hold })
	gone := s.Tunnel(api)
	gone.Send(get("/gone", api, bearer(c.P)))
	c.Eventually("it has arrived", func() bool { return len(c.U1.Received()) == 3 })
	_ = gone.Close()
	close(hold)
	c.U1.Handle(okHandler)
	for range 3 {
		c.Refused(s.Do(api, get("/late", api, bearer(c.P))), 403, "uses_exhausted")
	}
	c.Status(s.Do(api, get("/without", api)), 200)
	with := 0
	for _, q := range c.U1.Requests(4) {
		if slices.Contains(q.Values("Authorization"), "Bearer "+R) {
			with++
		}
	}
	c.Equal(with, 3)
	c.Recorded(3, Want{"type": "substitute", "secret": "github"})
}

func usesInOneFlight(c *Case) {
	s := c.S3()
	h := s.H2(api)
	const flight = 100
	var ids []uint32
	for i := range flight {
		ids = append(ids, h.Open(h2fields("GET", api, fmt.Sprintf("/%d", i), "authorization: Bearer "+c.P), true))
	}
	served, refused := 0, 0
	for _, id := range ids {
		switch r := h.Await(id); {
		case r.Status == 200:
			served++
		case r.Status == 403 && r.Code() == "uses_exhausted":
			refused++
		default:
			c.Errorf("stream %d: %s", id, r)
		}
	}
	c.Equal([]int{served, refused}, []int{3, flight - 3})
	for _, q := range c.U1.Requests(3) {
		c.Equal(q.Values("Authorization"), []string{"Bearer " + R})
	}
	c.Recorded(3, Want{"type": "substitute", "secret": "github"})
	c.Status(s.Do(api, get("/without", api)), 200)
}

// pagesOfABrowser: a page whose name was bound to loopback anew posts to whatever
// listens there.
func pagesOfABrowser(c *Case) {
	s := c.S1()
	c.Status(s.Do(api, get("/before", api, bearer(c.P))), 200)
	tcp := 0
	for _, l := range listenersOf(c, s.Gateway) {
		if strings.HasPrefix(l, "tcp ") {
			tcp++
			c.Equal(l, "tcp "+s.Proxy.Host)
		}
	}
	c.Equal(tcp, 1)
	_, port, _ := net.SplitHostPort(s.Proxy.Host)
	for _, credentials := range []string{"", s.Credentials() + "\r\n"} {
		for _, path := range []string{"/v1/sessions/" + s.ID() + "/revoke", "/v1/sessions", "/v1/status", "/v1/conversation", "/metrics", "/"} {
			d := s.Door()
			d.Send("POST " + path + " HTTP/1.1\r\nHost: rebound.evil.test:" + port + "\r\nOrigin: https://evil.test\r\nContent-Type: text/plain\r\n" + credentials + "Content-Length: 2\r\n\r\n{}")
			if r := d.Response("POST"); credentials == "" {
				c.Refused(r, 407, "credentials_required")
			} else {
				c.Refused(r, 403, "unmatched_denied")
			}
		}
	}
	c.Status(s.Do(api, get("/after", api, bearer(c.P))), 200)
	c.U1.Requests(2)
	c.U3.Undialled()
}

func emptyLists(c *Case) {
	c.NoGateway()
	for name, text := range map[string]string{
		"nothing":    "version: 1\n",
		"no rules":   "version: 1\nrules: []\nprofiles:\n  default: {secrets: []}\n",
		"no secrets": "version: 1\nsecrets: {}\nrules: []\nupstreams: {" + api + ": {dial: \"" + c.U1.Addr() + "\"}}\n",
	} {
		path := c.rulesFile("empty.yaml", text)
		c.Exit(c.Standin("rules", "trust", "--yes", "--rules", path), 0)
		r := c.Standin("run", "--rules", path, "--isolation", "tree", "--", "sh", "-c",
			`for u in https://`+api+` https://example.com http://`+api+`; do curl -s -o /dev/null -w '%{http_code} %{http_connect}\n' $u; done; exit 0`)
		c.Exit(r, 0)
		for line := range strings.Lines(r.Out) {
			if !strings.Contains(line, "403") {
				c.Errorf("%s: a host is reached: %s", name, r.description)
			}
		}
		c.Equal(strings.Count(r.Out, "\n"), 3)
	}
	c.U1.Undialled()
	c.U3.Undialled()
}

// theCommandMoves: the command calls the program with another home, other folders,
// or from where rules of its own lie.
func theCommandMoves(c *Case) {
	elsewhere := filepath.Join(c.Dir, "elsewhere")
	if err := os.MkdirAll(filepath.Join(elsewhere, "standin"), 0o700); err != nil {
		c.Fatal(err)
	}
	evilRules := "version: 1\nsecrets:\n  " + githubEntry + "\nrules:\n  - {name: evil, hosts: [" + evil + "], substitute: [{secret: github, in: header Authorization}]}\n"
	for _, dir := range []string{elsewhere, filepath.Join(elsewhere, "standin")} {
		if err := os.WriteFile(filepath.Join(dir, "standin.yaml"), []byte(evilRules), 0o600); err != nil {
			c.Fatal(err)
		}
	}
	g := c.Serve()
	for script, says := range map[string]string{
		"cd " + elsewhere + "; STANDIN_HOME=" + c.Home + " PROGRAM run -- true":                                                                   "never been trusted",
		"cd " + elsewhere + "; STANDIN_HOME=" + c.Home + " PROGRAM serve":                                                                         "never been trusted",
		"cd /; HOME=" + elsewhere + " XDG_CONFIG_HOME=" + elsewhere + " XDG_STATE_HOME=" + elsewhere + "/s PROGRAM run -- true":                   "vault",
		"cd " + elsewhere + "; STANDIN_HOME=" + c.Home + " PROGRAM run --profile default --rules standin.yaml --gateway " + g.Socket + " -- true": "other rules",
	} {
		r := g.Run("env -u STANDIN_SESSION " + strings.Replace("sh -c '"+script+"'", "PROGRAM", ground.program, 1) + "; true")
		c.Exit(r, 0)
		if !strings.Contains(r.Err, "standin: error: ") || !strings.Contains(r.Err, says) && !strings.Contains(r.Err, "open a session inside session") {
			c.Errorf("%s: %s", script, r.description)
		}
	}
	// The gateway that runs looks at nothing of the caller's.
	s := g.Session(Start{Name: "S1", Env: []string{"XDG_CONFIG_HOME=" + elsewhere, "STANDIN_RULES=" + elsewhere}, Change: inFolder(elsewhere)})
	c.Refused(s.Do(evil, get("/", evil, bearer(c.P))), 403, "placeholder_misplaced")
	c.Status(s.Do(api, get("/", api, bearer(c.P))), 200)
	c.U1.Requests(1)
	c.U2.Nothing()
}

func theEnvironmentOfTheGateway(c *Case) {
	heard := make(chan string, 16)
	thief, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.Fatal(err)
	}
	defer thief.Close()
	go func() {
		for {
			conn, err := thief.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 1024)
			n, _ := conn.Read(b)
			heard <- string(b[:n])
			conn.Close()
		}
	}()
	// An authority that would vouch for a server of anybody's.
	forged := filepath.Join(c.Dir, "forged.pem")
	if err := os.WriteFile(forged, c.ca().pem, 0o644); err != nil {
		c.Fatal(err)
	}
	u := c.Upstream("real.test:443", Serve{TLS: c.Certificate("forged.test")})
	c.Rules.Add("{name: forged, hosts: [forged.test], substitute: [{secret: github, in: header Authorization}]}")
	c.Rules.Dial("forged.test:443", u.Addr(), "") // the system's roots are to vouch for it
	proxy := "http://" + thief.Addr().String()
	s := c.Start(Start{Name: "S1", Env: []string{
		"LD_PRELOAD=" + filepath.Join(c.Dir, "none.so"), "GODEBUG=x509usefallbackroots=1,http2debug=2,netdns=cgo", "SSL_CERT_FILE=" + forged, "SSL_CERT_DIR=" + c.Dir,
		"HTTPS_PROXY=" + proxy, "HTTP_PROXY=" + proxy, "https_proxy=" + proxy, "ALL_PROXY=" + proxy, "RES_OPTIONS=debug", "LOCALDOMAIN=evil.test", "HOSTALIASES=" + forged,
	}})
	c.Status(s.Do(api, get("/", api, bearer(c.P))), 200)
	c.Refused(s.Do("forged.test", get("/", "forged.test", bearer(c.P))), 502, "upstream_tls")
	select {
	case text := <-heard:
		c.Errorf("the gateway went by the proxy of its environment: %q", text)
	default:
	}
	if own, err := os.ReadFile(procFile(s.Gateway, "environ")); err == nil { // for root only
		for _, name := range []string{"LD_PRELOAD", "GODEBUG", "SSL_CERT", "PROXY", "proxy", "RES_OPTIONS", "LOCALDOMAIN", "HOSTALIASES"} {
			if bytes.Contains(own, []byte(name)) {
				c.Errorf("%s is in the gateway's own environment: %q", name, own)
			}
		}
	}
	if text := s.Stderr(); strings.Contains(text, "http2:") {
		c.Errorf("the gateway prints: %s", clip(text))
	}
	c.U1.Requests(1)
	u.Nothing()
}

// inFolder starts a command in a folder.
func inFolder(dir string) func(*exec.Cmd) { return func(cmd *exec.Cmd) { cmd.Dir = dir } }
