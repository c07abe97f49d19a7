//go:build linux

package cases

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
)

// Confusion of names: which host a connection, a greeting and a request are for.

func sectionC() []entry {
	return slices.Concat([]entry{
		{"C01", greetingOfAnotherName},
		{"C02", hostOfAnotherName},
		{"C04", authorityOfAnotherName},
		{"C06", greetingWithoutAName},
		{"C07", strangeGreetings},
		{"C08", literalAddresses},
		{"C09", upperCaseNames},
		{"C10", trailingDots},
		{"C11", bracketsAndOddNumbers},
		{"C14", anotherPort},
		{"C15", namesBesideAWildcard},
		{"C16", namesLikeAnother},
		{"C17", internationalNames},
		{"C19", lookAlikesOfAName},
	}, sectionCAddresses(), sectionCPaths())
}

// plainTexts are the answers of net/http to what it cannot read. They are all
// fixed: nothing of a request is repeated.
var plainTexts = []string{
	"400 Bad Request",
	"400 Bad Request: missing required Host header",
	"400 Bad Request: too many Host headers",
	"400 Bad Request: malformed Host header",
	"400 Bad Request: invalid header name",
	"400 Bad Request: invalid header value",
	"400 Bad Request: unsupported transfer encoding",
	"431 Request Header Fields Too Large",
	"Unsupported transfer encoding",
	"505 HTTP Version Not Supported: unsupported protocol version",
}

// Malformed asserts an answer to what is no request at all: one of those
// statuses, in our own words or in one of the fixed texts of net/http.
func (c *Case) Malformed(r *Response, statuses ...int) {
	c.Helper()
	if r.Err != nil || !slices.Contains(statuses, r.Status) {
		c.Errorf("got %s, not one of %v", r, statuses)
		return
	}
	if r.Code() != "" {
		c.Refused(r, r.Status, r.Code())
	} else if !slices.Contains(plainTexts, string(r.Body)) {
		c.Errorf("the text of the refusal is not a fixed one: %s", r)
	}
}

// ends is Response where a connection that is closed without a word is an
// answer, too: then it is nil.
func (d *Conn) ends(method string) *Response {
	if r := d.Response(method); r.Err == nil {
		return r
	}
	return nil
}

// itself begins TLS with the upstream itself, at the other end of a tunnel that
// is not opened.
func (s *Session) itself(d *Conn, name string) *Conn {
	s.c.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(s.c.ca().cert)
	t, err := s.TLS(d, &tls.Config{ServerName: name, NextProtos: []string{"http/1.1"}, RootCAs: roots})
	if err != nil {
		s.c.Fatalf("%s: TLS with the upstream %s itself: %v", s.Name, name, err)
	}
	return t
}

func greetingOfAnotherName(c *Case) {
	s := c.S1()
	for _, name := range []string{evil, "allowed.test", "x." + api, scripts, "127.0.0.2.test"} {
		_, err := s.TLS(s.Dialled(api+":443"), &tls.Config{ServerName: name})
		if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
			c.Errorf("greeting with %q: %v", name, err)
		}
	}
	c.U1.Undialled()
	c.U2.Undialled()
	c.Recorded(5, Want{"type": "deny", "code": "sni_mismatch", "host": api})
}

func hostOfAnotherName(c *Case) {
	s := c.S1()
	for _, host := range []string{
		evil, evil + ":443", api + ":8443", api + ":80", api + ".", "x." + api, "allowed.test", scripts,
		api + "@" + evil, evil + "@" + api, api + "," + evil, "127.0.0.1", "[" + api + "]", "\"" + api + "\"", api + ":", ":443", api + "/x",
	} {
		r := s.Do(api, get("/", host, bearer(c.P)))
		c.Malformed(r, 421, 400)
		if r.Status == 421 && r.Code() != "authority_mismatch" {
			c.Errorf("%q: %s", host, r)
		}
	}
	for _, request := range []string{
		"GET / HTTP/1.1\r\n" + bearer(c.P) + "\r\n\r\n",
		"GET / HTTP/1.1\r\nHost:\r\n" + bearer(c.P) + "\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: " + api + "\r\nHost: " + evil + "\r\n" + bearer(c.P) + "\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: " + api + "\r\nhost: " + api + "\r\n" + bearer(c.P) + "\r\n\r\n",
		"GET / HTTP/1.0\r\n" + bearer(c.P) + "\r\n\r\n",
	} {
		c.Malformed(s.Do(api, request), 400)
	}
	// The absolute form names a host, too, and net/http lets it win over Host.
	for _, target := range []string{"https://" + evil + "/", "https://" + api + ":8443/", "https://x@" + api + "/", "http://" + api + "/", "ftp://" + api + "/"} {
		c.Malformed(s.Do(api, get(target, api, bearer(c.P))), 421, 400)
	}
	c.U1.Undialled()
	// Host is ignored then (RFC 9112, 3.2.2), and never sent on.
	c.Status(s.Do(api, get("https://"+api+"/", evil, bearer(c.P))), 200)
	q := c.arrivedAt(c.U1, 1)[0]
	c.Equal([]string{q.Host, q.Target}, []string{api, "/"})
	c.U2.Undialled()
	c.U3.Undialled()
}

func authorityOfAnotherName(c *Case) {
	s := c.S1()
	head := func(lines ...Field) []Field {
		return append([]Field{{":method", "GET"}, {":scheme", "https"}, {":path", "/"}}, lines...)
	}
	token := Field{"authorization", "Bearer " + c.P}
	for name, fields := range map[string][]Field{
		"other authority":              head(Field{":authority", evil}, token),
		"other port":                   head(Field{":authority", api + ":8443"}, token),
		"trailing dot":                 head(Field{":authority", api + "."}, token),
		"user":                         head(Field{":authority", "u@" + api}, token),
		"two in one":                   head(Field{":authority", api + "," + evil}, token),
		"other host field":             head(Field{":authority", api}, Field{"host", evil}, token),
		"two host fields":              head(Field{":authority", api}, Field{"host", api}, Field{"host", evil}, token),
		"no authority, other host":     head(Field{"host", evil}, token),
		"empty authority, other host":  head(Field{":authority", ""}, Field{"host", evil}, token),
		"no authority, no host":        head(token),
		"empty authority":              head(Field{":authority", ""}, token),
		"no authority, two host field": head(Field{"host", api}, Field{"host", evil}, token),
	} {
		h := s.H2(api)
		r := h.Ask(fields, "")
		if _, reset := r.Reset(); !reset && h.GoAway == nil {
			c.Malformed(r, 421, 400)
		}
		if c.Failed() {
			c.Fatalf("with %s", name)
		}
		h.Close()
	}
	c.U1.Undialled()
	c.U2.Undialled()
	// One host in both places is what clients of a proxy that translates send.
	h := s.H2(api)
	c.Status(h.Ask(head(Field{":authority", api}, Field{"host", api}, token), ""), 200)
	c.Status(h.Ask(head(Field{":authority", api + ":443"}, token), ""), 200)
	for _, q := range c.arrivedAt(c.U1, 2) {
		c.Equal(append(q.Values("host"), q.Host), []string{api})
		c.Equal(q.Value("authorization"), "Bearer "+R)
	}
}

// arrivedAt is Requests for cases that asserted silence before: what was silent
// has spoken since, as it should.
func (c *Case) arrivedAt(u *Upstream, n int) []*Request {
	c.Helper()
	c.mu.Lock()
	c.silent = nil
	c.mu.Unlock()
	all := u.Requests(n)
	for _, other := range []*Upstream{c.U2, c.U3} {
		if other != u {
			other.Undialled()
		}
	}
	return all
}

func greetingWithoutAName(c *Case) {
	s := c.S1()
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, VerifyConnection: func(state tls.ConnectionState) error {
		between := x509.NewCertPool()
		for _, cert := range state.PeerCertificates[1:] {
			between.AddCert(cert)
		}
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: s.Roots, Intermediates: between, DNSName: api})
		return err
	}}
	t, err := s.TLS(s.Dialled(api+":443"), config)
	if err != nil {
		c.Fatalf("a greeting without a name: %v", err)
	}
	t.Send(get("/user", api, bearer(c.P)))
	c.Status(t.Response("GET"), 200)
	t.Send(get("/user", evil, bearer(c.P)))
	c.Refused(t.Response("GET"), 421, "authority_mismatch")
	q := c.U1.Requests(1)[0]
	c.Equal([]string{q.Host, q.Value("Authorization")}, []string{api, "Bearer " + R})
	c.U2.Undialled()
}

func literalAddresses(c *Case) {
	port := portOf(c.U1)
	local := net.JoinHostPort("127.0.0.1", port)
	c.Rules.Add("{name: literal, hosts: [\"" + local + "\"], substitute: [{secret: github, in: header Authorization}]}")
	c.Rules.Upstream(local, c.U1, caFile)
	s := c.S1()
	// The rules name the address: it is intercepted, under its own name only.
	t := s.tunnel(local, "http/1.1")
	t.Send(get("/", api, bearer(c.P)))
	c.Refused(t.Response("GET"), 421, "authority_mismatch")
	t.Send(get("/", net.JoinHostPort("127.0.0.1", portOf(c.U1b)), bearer(c.P)))
	c.Refused(t.Response("GET"), 421, "authority_mismatch")
	c.U1.Undialled()
	// They do not name it: it passes unopened, and so does the placeholder.
	t = s.itself(s.Dialled(net.JoinHostPort("127.0.0.1", portOf(c.U1b))), api)
	t.Send(get("/", api, bearer(c.P)))
	c.Status(t.Response("GET"), 200)
	c.Equal(c.U1b.Requests(1)[0].Value("Authorization"), "Bearer "+c.P)
	c.Recorded(1, Want{"type": "passthrough", "host": "127.0.0.1", "port": portOf(c.U1b)})
	c.Recorded(0, Want{"type": "substitute"})
	t.Close()
}

func portOf(u *Upstream) string {
	_, port, err := net.SplitHostPort(u.Addr())
	if err != nil {
		u.c.Fatal(err)
	}
	return port
}

func upperCaseNames(c *Case) {
	s := c.S1()
	for i, name := range []string{"API.Allowed.TEST", "api.allowed.TEST", "API.ALLOWED.TEST"} {
		for _, greeted := range []string{api, name} {
			t, err := s.TLS(s.Dialled(name+":443"), &tls.Config{ServerName: greeted, NextProtos: []string{"http/1.1"}})
			if err != nil {
				c.Fatalf("%s, greeted as %s: %v", name, greeted, err)
			}
			path := fmt.Sprintf("/%d", i)
			t.Send(get(path, name, bearer(c.P)))
			c.Status(t.Response("GET"), 200)
			t.Send(get(path, api+":443", bearer(c.P)))
			c.Status(t.Response("GET"), 200)
		}
	}
	for _, q := range c.U1.Requests(12) {
		c.Equal([]string{q.Host, q.Value("Authorization")}, []string{api, "Bearer " + R})
	}
	c.Recorded(12, Want{"type": "substitute", "host": api})
	for _, r := range c.Records() {
		if text, _ := json.Marshal(r); strings.Contains(strings.ToLower(string(text)), api) && !strings.Contains(string(text), "\""+api+"\"") {
			c.Errorf("a record holds the name as the client wrote it: %s", text)
		}
	}
}

// refusedNames asserts that a host is refused wherever a name can stand: as the
// target of CONNECT, in a plain request, as Host, and in the rules.
func (c *Case) refusedNames(names ...string) {
	c.Helper()
	s := c.S1()
	for _, name := range names {
		d, r := s.Connect(name + ":443")
		c.Malformed(r, 400)
		_ = d.Closed()
		c.Malformed(s.plain("GET", "http://"+name+"/", name), 400)
		c.Malformed(s.Do(api, get("/", name, bearer(c.P))), 421, 400)
		h := s.H2(api)
		r = h.Ask(h2fields("GET", name, "/", "authorization: Bearer "+c.P), "")
		if _, reset := r.Reset(); !reset && h.GoAway == nil {
			c.Malformed(r, 421, 400)
		}
		h.Close()
		if c.Failed() {
			c.Fatalf("with %q", name)
		}
	}
	c.U1.Undialled()
	c.U2.Undialled()
	c.U3.Undialled()
}

// plain sends a request in absolute form to the front door.
func (s *Session) plain(method, target, host string, fields ...string) *Response {
	s.c.Helper()
	d := s.Door()
	defer d.Close()
	d.Send(message(method, target, host, "", append([]string{s.Credentials()}, fields...)...))
	return d.Response(method)
}

// refusedInRules asserts that hosts cannot be written so in the rules, neither
// in a rule nor under "upstreams:".
func (c *Case) refusedInRules(hosts ...string) {
	c.Helper()
	for _, host := range hosts {
		text, err := json.Marshal(host)
		if err != nil {
			c.Fatal(err)
		}
		c.rejects("version: 1\nrules:\n  - {name: x, hosts: [" + string(text) + "]}\n")
	}
}

func trailingDots(c *Case) {
	c.refusedNames(api+".", api+"..", ".", "."+api, "api..allowed.test")
	c.refusedInRules(api+".", "*."+api+".", "."+api, "api..allowed.test")
	c.equalTo(c.greet(greeting{names: []string{api + "."}}), "alert")
	c.U1.Undialled()
}

func bracketsAndOddNumbers(c *Case) {
	c.refusedNames("["+api+"]", "[["+api+"]]", "["+api, api+"]", "[]", "[127.0.0.1]", "[::1", "[::1]]", "[[::1]]", "[::1%25lo]", "[::1%lo]",
		"[0:0:0:0:0:0:0:1]", "[::FFFF:127.0.0.1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::01]",
		"127.1", "127.0.1", "0177.0.0.1", "127.0.0.01", "0x7f.0.0.1", "0x7f000001", "2130706433", "017700000001", "127.0.0.256", "127.0.0.1.", "1.2.3.4.5", "x.0x7f")
	for _, target := range []string{"::1:443", "[::1]443", "[::1]:443:443", api, api + ":", api + ":0", api + ":65536", api + ":0443", api + ":443x", api + ":-1", api + ":٤٤٣", api + ":443/", "https://" + api + ":443", "//" + api + ":443", "u@" + api + ":443", "*:443", ":443", "/"} {
		d, r := c.S1().Connect(target)
		if c.Malformed(r, 400); c.Failed() {
			c.Fatalf("with %q", target)
		}
		_ = d.Closed()
	}
	c.refusedInRules("["+api+"]", "[::1", "127.1", "0177.0.0.1", "0x7f000001", "2130706433", "[::ffff:127.0.0.1]", "[::1%lo]", "[0:0:0:0:0:0:0:1]")
}

func anotherPort(c *Case) {
	s := c.S1()
	t := s.itself(s.Dialled(api+":8443"), api)
	t.Send(get("/", api+":8443", bearer(c.P)))
	c.Status(t.Response("GET"), 200)
	t.Close()
	c.Equal(c.U1b.Requests(1)[0].Value("Authorization"), "Bearer "+c.P)
	c.Recorded(1, Want{"type": "passthrough", "host": api, "port": "8443"})

	c.Rules.written = false
	c.Rules.Top("unmatched: deny")
	strict := c.Start(Start{Name: "strict"})
	_, r := strict.Connect(api + ":8443")
	c.Refused(r, 403, "unmatched_denied")
	c.U1b.Requests(1)
	c.U1.Undialled()
	c.Recorded(1, Want{"type": "deny", "code": "unmatched_denied", "host": api, "port": "8443"})
	c.Recorded(0, Want{"type": "substitute"})
}

// onlyThese asserts which of the names a rule reaches: a name of the first list
// is substituted at, one of the second is denied as no rule names it.
func (c *Case) onlyThese(pattern string, reached, denied []string) {
	c.Helper()
	c.Rules.Add("{name: narrow, hosts: [\"" + pattern + "\"], substitute: [{secret: github, in: header Authorization}]}")
	c.Rules.Top("unmatched: deny")
	ups := map[string]*Upstream{}
	for _, name := range slices.Concat(reached, denied) {
		ups[name] = c.Upstream(name+":443", Serve{TLS: c.Certificate(name)})
	}
	s := c.S1()
	for _, name := range reached {
		c.Status(s.Do(name, get("/", name, bearer(c.P))), 200)
		c.Equal(ups[name].Requests(1)[0].Value("Authorization"), "Bearer "+R)
	}
	for _, name := range denied {
		_, r := s.Connect(name + ":443")
		c.Refused(r, 403, "unmatched_denied")
		c.Refused(s.plain("GET", "http://"+name+"/", name, bearer(c.P)), 403, "unmatched_denied")
		// Nor does a tunnel to a name that is reached lead there.
		c.Refused(s.Do(reached[0], get("/", name, bearer(c.P))), 421, "authority_mismatch")
		ups[name].Undialled()
		c.Recorded(2, Want{"type": "deny", "code": "unmatched_denied", "host": name})
	}
	c.Recorded(len(reached), Want{"type": "substitute"})
}

func namesBesideAWildcard(c *Case) {
	c.onlyThese("*.wild.test", []string{"a.wild.test", "evil-wild.wild.test", "xn--bcher-kva.wild.test"},
		[]string{"evil-wild.test", "wild.test", "a.b.wild.test", "wild.test.evil.test", "a.wild.test.evil.test", "a-wild.test"})
	for _, name := range []string{".wild.test", "*.wild.test", "a..wild.test", "%61.wild.test"} {
		_, r := c.S1().Connect(name + ":443")
		c.Malformed(r, 400)
	}
}

func namesLikeAnother(c *Case) {
	c.onlyThese("github.com", []string{"github.com"}, []string{"github.com.evil.test", "evil-github.com", "githubxcom", "github.co", "www.github.com", "github.com-evil.test", "ithub.com"})
}

func internationalNames(c *Case) {
	const ascii = "xn--bcher-kva.test"
	c.Rules.Add("{name: books, hosts: [" + ascii + "], substitute: [{secret: github, in: header Authorization}]}")
	u := c.Upstream(ascii+":443", Serve{TLS: c.Certificate(ascii)})
	c.refusedNames("bücher.test", "BÜCHER.test", "bu\u0308cher.test", "b%C3%BCcher.test", "b\xfccher.test")
	s := c.S1()
	for _, name := range []string{ascii, "xn--BCHER-KVA.test", "XN--bcher-kva.TEST"} {
		t, err := s.TLS(s.Dialled(name+":443"), &tls.Config{ServerName: name, NextProtos: []string{"http/1.1"}})
		if err != nil {
			c.Fatalf("%s: %v", name, err)
		}
		t.Send(get("/", name, bearer(c.P)))
		c.Status(t.Response("GET"), 200)
	}
	for _, q := range u.Requests(3) {
		c.Equal([]string{q.Host, q.Value("Authorization")}, []string{ascii, "Bearer " + R})
	}
	c.Recorded(3, Want{"type": "substitute", "host": ascii})
	c.refusedInRules("bücher.test", "BÜCHER.test", "*.bücher.test")
}

func lookAlikesOfAName(c *Case) {
	c.refusedNames("аpi.allowed.test" /* Cyrillic a */, "api.allowed.tеst", "api．allowed.test", "api。allowed.test", "api｡allowed.test",
		"api.al\u00adlowed.test", "api.al\u200dlowed.test", "api.al\u200blowed.test", "ａpi.allowed.test", "api.allowed.teſt", "api.allowed.test\u2024", "api\u2044.allowed.test",
		"api_x.allowed.test", "-api.allowed.test", "api-.allowed.test", "api allowed.test", "api\tallowed.test", strings.Repeat("a", 64)+".test", strings.Repeat("a.", 126)+"test")
	// The Kelvin sign folds to k in Unicode, and not in DNS.
	c.refusedNames("\u212aube.allowed.test")
	c.equalTo(c.greet(greeting{names: []string{"api.a\u0131lowed.test"}}), "alert")
	c.U1.Undialled()
}

// rejects asserts that a rules file is refused, with line and hint, and that no
// session starts with it.
func (c *Case) rejects(text string) {
	c.Helper()
	path := c.file("bad.yaml", text)
	r := c.Standin("rules", "check", "--rules", path)
	c.ErrorAndHint(r, 1, "line ")
	if c.Failed() {
		c.Fatalf("with\n%s", text)
	}
	c.Exit(c.Standin("run", "--rules", path, "--", "true"), 125)
}

// denialByPath: what a server may read as a path that a rule denies is not
// forwarded by the rule for the rest of the host.
func denialByPath(c *Case) {
	const host = "denied.test"
	c.Rules.Add("{name: whole, hosts: [" + host + "], substitute: [{secret: github, in: header Authorization}]}")
	c.Rules.Add("{name: admin, hosts: [" + host + "], paths: [\"/admin/**\"], deny: true}")
	u := c.Upstream(host+":443", Serve{TLS: c.Certificate(host)})
	paths := []string{"/admin/x", "//admin/x", "/x/../admin/x", "/%2e/admin/x", "/admin%2fx", "/admin%00/x", "/admin;a=b/x", "/admin%3Ba/x", "/./admin/x"}
	for _, path := range paths {
		c.Refused(c.S1().Do(host, get(path, host, bearer(c.P))), 403, "rule_denied")
	}
	c.Equal(len(u.Received()), 0)
	c.Recorded(len(paths), Want{"type": "deny", "code": "rule_denied", "host": host})
	c.Status(c.S1().Do(host, get("/administrator", host, bearer(c.P))), 200)
	c.Equal(u.Requests(1)[0].Value("Authorization"), "Bearer "+R)
	// At a host without such a rule they are forwarded as before.
	c.Status(c.S1().Do(api, get("/admin;a=b/x", api, bearer(c.P))), 200)
	c.U1.Requests(1)
	r := c.Standin("rules", "explain", "--rules", c.Rules.Path, "GET", "https://"+host+"/admin;a=b/x")
	c.Exit(r, 0)
	if !strings.Contains(r.Out, "rule_denied") || !strings.Contains(r.Out, "semicolon") {
		c.Errorf("rules explain: %s", r.Out)
	}
}
