//go:build linux

package cases

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Ways around: plain requests, passthrough, direct connections, other protocols.

func sectionCPaths() []entry {
	return []entry{
		{"C26", ownListeners},
		{"C27", placeholderInTheClear},
		{"C28", httpsAtTheFrontDoor},
		{"C29", otherSchemes},
		{"C32", pinnedHosts},
		{"C33", passthroughAndInterception},
		{"C34", frontingWithinAPassthrough},
		{"C35", otherProtocolsInAPassthrough},
		{"C36", asNobody(aroundTheProxy)},
		{"C37", oneCertificateForTwoNames},
		{"C38", otherWaysToAServer},
		{"C39", hostsThatAreNone},
		{"C40", wildcardsOverSuffixes},
		{"C41", denialByPath},
	}
}

func ownListeners(c *Case) {
	c.Rules.Add("{name: unseen, hosts: [pin.test], passthrough: true, reason: pins}")
	s := c.S1()
	_, port, err := net.SplitHostPort(s.Proxy.Host)
	if err != nil {
		c.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "localhost", "0.0.0.0", "[::]"} {
		_, r := s.Connect(host + ":" + port)
		c.Refused(r, 403, "denied_address")
		c.Refused(s.plain("GET", "http://"+host+":"+port+"/", host+":"+port), 403, "denied_address")
	}
	for _, host := range []string{"[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "127.1", "2130706433"} {
		_, r := s.Connect(host + ":" + port)
		c.Malformed(r, 400)
	}
	c.Recorded(8, Want{"code": "denied_address"})
	// The control socket is no port, so no CONNECT leads there. Only root can see
	// the descriptors of a process that is not dumpable.
	if os.Geteuid() == 0 {
		for _, l := range listenersOf(c, s.Gateway) {
			if l != "tcp "+s.Proxy.Host && !strings.HasPrefix(l, "unix /") {
				c.Errorf("the gateway listens on %s, too", l)
			}
		}
	}
	c.U1.Undialled()
	c.U3.Undialled()
}

func placeholderInTheClear(c *Case) {
	c.Rules.Add("{name: clear, hosts: [clear.test], scheme: http, substitute: [{secret: github, in: header Authorization}]}")
	clear := c.Upstream("clear.test:80", Serve{})
	open := c.Upstream("open.test:80", Serve{})
	s := c.S1()
	for _, host := range []string{api, evil} {
		for _, fields := range [][]string{{bearer(c.P)}, {"Cookie: a=" + c.P}, nil} {
			c.Refused(s.plain("GET", "http://"+host+"/", host, fields...), 403, "cleartext_credential")
			for _, port := range []string{":443", ":8080"} {
				c.Refused(s.plain("POST", "http://"+host+port+"/", host+port, fields...), 403, "cleartext_credential")
			}
			d := s.Dialled(host + ":80") // as some clients tunnel http:// URLs
			d.Send(get("/", host, fields...))
			c.Refused(d.Response("GET"), 403, "cleartext_credential")
			d.Close()
		}
	}
	c.Recorded(24, Want{"type": "deny", "code": "cleartext_credential"})
	c.U1.Undialled()
	c.U3.Undialled()
	// A host that no rule intercepts is served, but for the placeholder.
	c.Refused(s.plain("GET", "http://open.test/", "open.test", bearer(c.P)), 403, "placeholder_misplaced")
	open.Nothing()
	c.Status(s.plain("GET", "http://open.test/", "open.test", bearer("nothing")), 200)
	c.Status(s.plain("GET", "http://clear.test/", "clear.test", bearer(c.P)), 200)
	d := s.Dialled("clear.test:80")
	d.Send(get("/", "clear.test", bearer(c.P)))
	c.Status(d.Response("GET"), 200)
	for _, q := range clear.Requests(2) {
		c.Equal([]string{q.Target, q.Host, q.Value("Authorization")}, []string{"/", "clear.test", "Bearer " + R})
		c.Equal(q.Values("Proxy-Authorization"), []string(nil))
	}
	c.Recorded(2, Want{"type": "substitute", "host": "clear.test", "scheme": "http"})
	c.arrivedAt(open, 1)
}

func httpsAtTheFrontDoor(c *Case) {
	s := c.S1()
	for _, method := range []string{"GET", "POST", "HEAD", "OPTIONS"} {
		for _, target := range []string{"https://" + api + "/", "HTTPS://" + api + "/", "https://" + api + ":443/user?x=1"} {
			c.Status(s.plain(method, target, api, bearer(c.P)), 400)
		}
	}
	c.Refused(s.plain("GET", "https://"+api+"/", api, bearer(c.P)), 400, "bad_request")
	c.U1.Undialled()
	c.U3.Undialled()
	c.Recorded(13, Want{"type": "deny", "code": "bad_request"})
}

func otherSchemes(c *Case) {
	open := c.Upstream("open.test:80", Serve{})
	s := c.S1()
	for _, target := range []string{
		"ftp://open.test/", "file:///etc/passwd", "unix:/x", "unix:///run/x.sock", "gopher://open.test/", "ws://open.test/", "wss://open.test/",
		"http:open.test/", "http:/open.test/", "http:///open.test", "http://", "open.test", "open.test/", "javascript:alert(1)", "http+unix://%2frun%2fx/",
		"http://u:p@open.test/", "http://@open.test/", "http://open.test:x/", "http://open.test:0/", "http://open.test#x", "http://open.test/#x", " http://open.test/",
	} {
		if c.Malformed(s.plain("GET", target, "open.test"), 400); c.Failed() {
			c.Fatalf("with %q", target)
		}
	}
	for _, target := range []string{"/", "//open.test/", "/http://open.test/"} {
		c.Refused(s.plain("GET", target, "open.test"), 403, "unmatched_denied")
	}
	c.Status(s.plain("OPTIONS", "*", "open.test"), 400)
	open.Undialled()
	for _, target := range []string{"HTTP://open.test/", "Http://OPEN.test:80/"} {
		c.Status(s.plain("GET", target, "open.test"), 200)
	}
	for _, q := range c.arrivedAt(open, 2) {
		c.Equal([]string{q.Target, q.Host}, []string{"/", "open.test"})
	}
}

// pinned adds a host that passes unopened.
func (c *Case) pinned(host string) *Upstream {
	c.Helper()
	c.Rules.Add("{name: pin, hosts: [" + host + "], passthrough: true, reason: pins its certificate}")
	return c.Upstream(host+":443", Serve{TLS: c.Certificate(host)})
}

func pinnedHosts(c *Case) {
	u := c.pinned("pin.test")
	c.Rules.Top("unmatched: deny")
	s := c.S1()
	d := s.Dialled("pin.test:443")
	// The greeting arrives in pieces, as it may.
	t := s.itself(s.c.conn("in pieces", &pieces{Conn: d.Conn}), "pin.test")
	t.Send(get("/"+c.P, "pin.test", bearer(c.P)))
	c.Status(t.Response("GET"), 200)
	t.Close()
	q := u.Requests(1)[0]
	c.Equal([]string{q.Target, q.Value("Authorization")}, []string{"/" + c.P, "Bearer " + c.P})
	c.Recorded(1, Want{"type": "passthrough", "host": "pin.test", "port": "443", "rule": "pin", "reason": "pins its certificate"})
	c.Recorded(1, Want{"type": "result", "host": "pin.test", "rule": "pin"})
	c.Recorded(0, Want{"type": "substitute"})
	c.Recorded(0, Want{"type": "misplaced"})
	// The exception leads to that name and port only.
	for _, name := range []string{evil, api, "x.pin.test", "pin.test.evil.test"} {
		_, err := s.TLS(s.Dialled("pin.test:443"), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err == nil {
			c.Errorf("a greeting of %q passes", name)
		}
	}
	c.Recorded(4, Want{"type": "deny", "code": "sni_mismatch", "host": "pin.test"})
	_, r := s.Connect("pin.test:8443")
	c.Refused(r, 403, "unmatched_denied")
	_, r = s.Connect("x.pin.test:443")
	c.Refused(r, 403, "unmatched_denied")
	c.Equal(u.Dials(), 1)
	c.U2.Undialled()
}

// pieces writes byte by byte, to begin with.
type pieces struct {
	net.Conn
	sent int
}

func (p *pieces) Write(b []byte) (int, error) {
	for i := range b {
		if p.sent++; p.sent > 700 {
			n, err := p.Conn.Write(b[i:])
			return i + n, err
		}
		if _, err := p.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func passthroughAndInterception(c *Case) {
	c.rejects("version: 1\nsecrets: {github: {source: \"vault:github/token\"}}\nrules:\n" +
		"  - {name: a, hosts: [one.test], passthrough: true, reason: pins}\n" +
		"  - {name: b, hosts: [one.test], substitute: [{secret: github, in: header Authorization}]}\n")
	c.rejects("version: 1\nsecrets: {github: {source: \"vault:github/token\"}}\nrules:\n" +
		"  - {name: a, hosts: [\"*.wild.test\"], passthrough: true, reason: pins}\n" +
		"  - {name: b, hosts: [\"*.wild.test\"], paths: [/x], substitute: [{secret: github, in: header Authorization}]}\n")
	c.Rules.Add("{name: wide, hosts: [\"*.wild.test\"], substitute: [{secret: github, in: header Authorization}]}")
	u := c.pinned("pin.wild.test")
	other := c.Upstream("a.wild.test:443", Serve{TLS: c.Certificate("a.wild.test")})
	s := c.S1()
	t := s.itself(s.Dialled("pin.wild.test:443"), "pin.wild.test")
	t.Send(get("/", "pin.wild.test", bearer(c.P)))
	c.Status(t.Response("GET"), 200)
	t.Close()
	c.Equal(u.Requests(1)[0].Value("Authorization"), "Bearer "+c.P)
	c.Status(s.Do("a.wild.test", get("/", "a.wild.test", bearer(c.P))), 200)
	c.Equal(other.Requests(1)[0].Value("Authorization"), "Bearer "+R)
	c.Recorded(0, Want{"type": "substitute", "host": "pin.wild.test"})
	c.Recorded(1, Want{"type": "passthrough", "host": "pin.wild.test"})
	// Nor in the clear.
	c.Status(s.plain("GET", "http://pin.wild.test/", "pin.wild.test", bearer(c.P)), 403)
	c.U3.Undialled()
}

func frontingWithinAPassthrough(c *Case) {
	u := c.pinned("pin.test")
	s := c.S1()
	t := s.itself(s.Dialled("pin.test:443"), "pin.test")
	t.Send(get("/", evil, bearer(c.P)))
	c.Status(t.Response("GET"), 200)
	t.Close()
	q := u.Requests(1)[0]
	c.Equal([]string{q.Host, q.Value("Authorization")}, []string{evil, "Bearer " + c.P})
	c.Recorded(1, Want{"type": "passthrough", "host": "pin.test"})
	c.Recorded(0, Want{"host": evil})
}

func otherProtocolsInAPassthrough(c *Case) {
	u := c.pinned("pin.test")
	c.Rules.Add("{name: mail, hosts: [\"mail.test:25\"], passthrough: true, raw: true, reason: speaks SMTP}")
	heard := make(chan string, 1)
	mail := c.Upstream("mail.test:25", Serve{Raw: func(conn net.Conn) {
		_, _ = io.WriteString(conn, "220 mail.test\r\n")
		line := make([]byte, 64)
		n, _ := conn.Read(line)
		heard <- string(line[:n])
		_, _ = io.WriteString(conn, "250 ok\r\n")
	}})
	s := c.S1()
	for _, greeting := range []string{
		"SSH-2.0-OpenSSH_9.9\r\n", "EHLO me\r\n", "GET / HTTP/1.1\r\nHost: pin.test\r\n" + bearer(c.P) + "\r\n\r\n", "\x80\x2e\x01\x00\x02", "\x00", "\x15\x03\x01\x00\x02\x02\x28",
		"\x16\x03\x01\x00\x05hello", "\x16\x03\x01\xff\xff" + strings.Repeat("x", 1000) + "\r\n",
	} {
		d := s.Dialled("pin.test:443")
		d.Send(greeting)
		if half, ok := d.Conn.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
		_ = d.Closed()
	}
	u.Undialled()
	c.Recorded(8, Want{"type": "deny", "code": "bad_request", "host": "pin.test"})
	// "raw: true" lets either side speak first.
	d := s.Dialled("mail.test:25")
	line := make([]byte, 15)
	_, err := io.ReadFull(d.in, line)
	if err != nil || string(line) != "220 mail.test\r\n" {
		c.Errorf("the server's greeting: %q %v", line, err)
	}
	d.Send("EHLO " + c.P + "\r\n")
	c.Equal(<-heard, "EHLO "+c.P+"\r\n")
	rest, _ := io.ReadAll(d.in)
	c.Equal(string(rest), "250 ok\r\n")
	c.Equal(mail.Dials(), 1)
	c.Recorded(1, Want{"type": "passthrough", "host": "mail.test", "port": "25", "rule": "mail"})
}

func aroundTheProxy(c *Case) {
	s := c.Start(Start{Name: "S1", Env: []string{"NO_PROXY=" + api + ",*,.allowed.test,other.test", "no_proxy=" + api, "ALL_PROXY=http://127.0.0.1:1"}})
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		for entry := range strings.SplitSeq(s.Env[name], ",") {
			if entry = strings.TrimSpace(entry); entry == "*" || entry == api || entry == ".allowed.test" {
				c.Errorf("$%s of the command leads around the proxy: %q", name, s.Env[name])
			}
		}
	}
	if !strings.Contains(s.Env["NO_PROXY"], "other.test") {
		c.Errorf("the user's NO_PROXY is lost: %q", s.Env["NO_PROXY"])
	}
	if _, there := s.Env["ALL_PROXY"]; there {
		c.Errorf("ALL_PROXY stays: %q", s.Env["ALL_PROXY"])
	}
	// A command that sets it for itself gets there, with nothing but the placeholder.
	n, err := net.DialTimeout("tcp", c.U1.Addr(), patience)
	if err != nil {
		c.Fatal(err)
	}
	t := s.itself(c.conn("directly", n), api)
	t.Send(get("/", api, bearer(s.Placeholder("GITHUB_TOKEN"))))
	c.Status(t.Response("GET"), 200)
	t.Close()
	// So it does under "tree".
	around := "NO_PROXY=" + api + " " + curlTo + " --noproxy '*' --insecure"
	r := c.Tree(around + " --connect-to " + api + ":443:" + c.U1.Addr())
	c.Equal(r.Out, "200\n")
	// Under "netns" there is no such way, and the host itself is the gateway's.
	if r, had := c.netns(nil, "sh", "-c", around+" --connect-to "+api+":443:"+c.U1.Addr()); had && (r.Out != "000\n" || r.Code != 7) {
		c.Errorf("netns: around the proxy: %s", r.description)
	}
	for _, q := range c.U1.Requests(2) {
		c.Equal(q.Value("Authorization"), "Bearer "+c.P)
	}
	c.Recorded(0, Want{"type": "substitute"})
}

func oneCertificateForTwoNames(c *Case) {
	names := []string{"one.co.test", "two.co.test"}
	cert, err := c.ca().leaf(names[0], func(t *x509.Certificate) { t.DNSNames = names })
	if err != nil {
		c.Fatal(err)
	}
	c.Rules.Add("{name: one, hosts: [one.co.test], substitute: [{secret: github, in: header Authorization}]}")
	c.Rules.Add("{name: two, hosts: [two.co.test]}")
	u := c.Upstream(names[0]+":443", Serve{TLS: &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}})
	c.Rules.Upstream(names[1]+":443", u, caFile)
	s := c.S1()
	for range 2 {
		for i, name := range names {
			fields := [][]string{{bearer(c.P)}, nil}[i]
			c.Status(s.DoH2(Message{"GET", name, "/", fields, ""}), 200)
		}
	}
	c.Equal(u.Dials(), 2)
	u.Requests(4)
	for _, w := range u.list() {
		var hosts []string
		for _, q := range parseWire(w) {
			hosts = append(hosts, q.Host)
		}
		if len(hosts) != 2 || hosts[0] != hosts[1] {
			c.Errorf("one connection carries requests for %v", hosts)
		}
	}
}

func otherWaysToAServer(c *Case) {
	ways := []string{`h3=":443"; ma=86400`, `h2="` + evil + `:443"`}
	handler := func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Alt-Svc"] = ways
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("X-Kept", "1")
		_, _ = io.WriteString(w, "ok\n")
	}
	c.UR.HTTP1().Script(func(conn *wireConn) {
		if readHead(conn) {
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\naLT-sVC: %s\r\nAlt-Svc: %s\r\nX-Kept: 1\r\nContent-Length: 3\r\n\r\nok\n", ways[0], ways[1])
		}
	})
	for host, u := range map[string]*Upstream{api: c.U1, evil: c.U2, scripts: c.UR} {
		if u != c.UR {
			u.Handle(handler)
		}
		c.S1().Each(Message{"GET", host, "/", nil, ""}, func(r *Response) {
			c.Status(r, 200)
			for _, answer := range append(slices.Clone(r.Interim), r) {
				if got := answer.Header.Values("Alt-Svc"); len(got) > 0 {
					c.Errorf("%s: Alt-Svc %q came through", host, got)
				}
			}
			c.Equal([]string{r.Header.Get("X-Kept"), string(r.Body)}, []string{"1", "ok\n"})
		})
		u.Requests(2)
	}
}

func hostsThatAreNone(c *Case) {
	c.NoGateway()
	c.refusedInRules("API.allowed.test", "api.Allowed.test", api+".", api+":0", api+":0443", api+":65536", api+":x", api+":", api+"/", api+"/path", "https://"+api,
		"//"+api, "u@"+api, " "+api, api+" ", "api allowed.test", api+"?x", api+"#x", "", "*", "*.", "*.*.test", "a.*.allowed.test", "*api.allowed.test", "**.allowed.test", "api.allowed.*",
		"api_x.allowed.test", "-a.test", strings.Repeat("a", 64)+".test", "api.allowed.test\x00", "api.allowed.test\n")
	for _, key := range []string{api + ".", "API.allowed.test", api + "/x"} {
		c.rejects("version: 1\nupstreams:\n  \"" + key + "\": {dial: \"127.0.0.1:1\"}\n")
	}
	c.Exit(c.Standin("rules", "check", "--rules", c.file("good.yaml", "version: 1\nrules:\n  - {name: x, hosts: ["+api+", \""+api+":8443\", \"*.allowed.test\", \"127.0.0.1\", \"[::1]:8443\"]}\n")), 0)
	c.U1.Undialled()
}

func wildcardsOverSuffixes(c *Case) {
	c.NoGateway()
	c.refusedInRules("*.github.io", "*.s3.amazonaws.com", "*.test", "*.com", "*.co.uk", "*.localhost", "*.kawasaki.jp", "*.github.io:8443")
	c.Exit(c.Standin("rules", "check", "--rules", c.file("good.yaml", "version: 1\nrules:\n  - {name: x, hosts: [\"*.me.github.io\", \"*.example.co.uk\", \"*.allowed.test\"]}\n")), 0)
	c.U1.Undialled()
}

// dialsOf counts connections to a listener that answers none.
type dialsOf struct {
	net.Listener
	n atomic.Int64
}

func (d *dialsOf) count() {
	for {
		conn, err := d.Accept()
		if err != nil {
			return
		}
		d.n.Add(1)
		_ = conn.SetDeadline(time.Now())
		_ = conn.Close()
	}
}
