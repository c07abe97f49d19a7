//go:build linux

package cases

import (
	"crypto/tls"
	"os"
	"strings"
)

// panicsStay: a panic in any kind of goroutine that serves somebody ends what it
// served, and nothing else.
func panicsStay(c *Case) {
	program, err := ground.panicky()
	if err != nil {
		c.Fatal(err)
	}
	for _, place := range []string{"tunnel", "exchange", "upload"} {
		host := "panic-" + place + ".test"
		c.Upstream(host+":443", Serve{TLS: c.Certificate(host)})
		c.Rules.Add("{name: " + place + ", hosts: [" + host + "], substitute: [{secret: github, in: [header Authorization, body]}]}")
	}
	c.Upstream("panic-relay.test:443", Serve{TLS: c.Certificate("panic-relay.test")})
	c.Rules.Add("{name: relay, hosts: [panic-relay.test], passthrough: true, reason: a test}")
	for _, place := range []string{"watch", "conversation", "lifeline", "shell"} {
		c.Rules.Profile("panic-" + place + ".test: {secrets: [github], isolation: session}")
	}
	g := c.serveWith(program)
	s := g.Session(Start{Name: "S1"})
	panics := func(place string) int {
		log, err := os.ReadFile(g.Log)
		if err != nil {
			c.Fatal(err)
		}
		return strings.Count(string(log), `"msg":"panic","where":"`+place)
	}
	still := func(place, where string) {
		c.Helper()
		c.Eventually("the panic at "+place+" is in the log", func() bool { return panics(where) == 1 })
		c.Status(s.Do(api, get("/after-"+place, api, bearer(c.P))), 200)
		if !g.Running() {
			c.Fatalf("the gateway has gone after the panic at %s", place)
		}
	}
	// At the front door, and behind it.
	d := s.Door()
	d.Send("GET http://panic-front.test/ HTTP/1.1\r\nHost: panic-front.test\r\n" + s.Credentials() + "\r\n\r\n")
	c.Refused(d.Response("GET"), 500, "internal")
	still("front", "front door")
	d = s.Door()
	d.Send("CONNECT panic-tunnel.test:443 HTTP/1.1\r\nHost: panic-tunnel.test:443\r\n" + s.Credentials() + "\r\n\r\n")
	_ = d.Closed()
	still("tunnel", "tunnel")
	c.Refused(s.Do("panic-exchange.test", get("/", "panic-exchange.test", bearer(c.P))), 500, "internal")
	still("exchange", "exchange")
	if _, err := s.TLS(s.Dialled("panic-relay.test:443"), &tls.Config{ServerName: "panic-relay.test", InsecureSkipVerify: true}); err == nil {
		c.Errorf("a tunnel goes on after a panic in it")
	}
	still("relay", "relay")
	// A body that is read in the background while something is held back.
	up := s.Tunnel("panic-upload.test")
	up.Send("POST / HTTP/1.1\r\nHost: panic-upload.test\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nzstandin_\r\n")
	if r := up.Response("POST"); r.Err == nil && r.Status < 400 {
		c.Errorf("a body goes on after a panic in it: %s", r)
	}
	c.Status(s.Do(api, get("/after-upload", api, bearer(c.P))), 200)

	// What keeps a session: it ends, and what it had open is cut.
	watched := g.Session(Start{Name: "watched", Profile: "panic-watch.test"})
	open := watched.Tunnel(api)
	open.Send(get("/watched", api, bearer(c.P)))
	c.Status(open.Response("GET"), 200)
	c.Exit(c.Standin("session", "revoke", watched.ID()), 0)
	_ = open.Closed()
	_, r := watched.Connect(api + ":443")
	c.Refused(r, 403, "session_closed")
	still("watch", "watch")
	c.Exit(c.Standin("run", "--gateway", g.Socket, "--profile", "panic-conversation.test", "--", "true"), 125)
	still("conversation", "conversation")
	cut := g.Session(Start{Name: "cut", Profile: "panic-lifeline.test"})
	c.Eventually("a session without its life line is over", func() bool { return cut.attempt(api, get("/late", api, bearer(c.P))) == 0 })
	c.Eventually("its panic is in the log", func() bool { return panics("conversation") == 2 })
	bound := c.Standin("env", "--gateway", g.Socket, "--profile", "panic-shell.test", "--json")
	c.Exit(bound, 0)
	still("shell", "shell")
	for _, q := range c.U1.Received() {
		if q.Target == "/late" {
			c.Errorf("a session without its life line is served")
		}
	}
	c.wired = true
}
