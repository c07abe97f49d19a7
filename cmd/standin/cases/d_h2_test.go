//go:build linux

package cases

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

// Smuggling and framing of requests over HTTP/2.

func sectionDFrames() []entry {
	return []entry{
		{"D22", strangeHeaderLists},
		{"D24", lengthsThatLie},
		{"D25", extendedConnect},
		{"D26", connectStreams},
	}
}

// plainTextsH2 are the answers of net/http to header lists that it refuses.
var plainTextsH2 = []string{
	"request header \"Connection\" is not valid in HTTP/2\n", "request header \"Keep-Alive\" is not valid in HTTP/2\n", "request header \"Proxy-Connection\" is not valid in HTTP/2\n",
	"request header \"Transfer-Encoding\" is not valid in HTTP/2\n", "request header \"Upgrade\" is not valid in HTTP/2\n", "request header \"TE\" may only be \"trailers\" in HTTP/2\n",
	"<h1>HTTP Error 431</h1><p>Request Header Field(s) Too Large</p>",
}

// streamRefused asserts that a request over HTTP/2 came to nothing: the stream
// or the connection is ended, or it is answered with a fixed text.
func (c *Case) streamRefused(h *H2, r *Response) {
	c.Helper()
	if _, reset := r.Reset(); reset || h.GoAway != nil || h.Lost != nil {
		return
	}
	if slices.Contains(plainTextsH2, string(r.Body)) && (r.Status == 400 || r.Status == 431) {
		return
	}
	c.Malformed(r, 400, 421, 431)
}

func strangeHeaderLists(c *Case) {
	s := c.S1()
	token := Field{"authorization", "Bearer " + c.P}
	without := func(name string) []Field {
		return slices.DeleteFunc(append(h2fields("GET", api, "/x"), token), func(f Field) bool { return f.Name == name })
	}
	with := func(name, value string) []Field {
		list := append(h2fields("GET", api, "/x"), token)
		i := slices.IndexFunc(list, func(f Field) bool { return f.Name == name })
		list[i].Value = value
		return list
	}
	and := func(name, value string) []Field {
		return append(h2fields("GET", api, "/x"), token, Field{name, value})
	}
	pseudo := func(name, value string) []Field {
		return append(h2fields("GET", api, "/x"), Field{name, value}, token)
	}
	for name, fields := range map[string][]Field{
		"two paths": pseudo(":path", "/y"), "two methods": pseudo(":method", "POST"), "two schemes": pseudo(":scheme", "https"), "two authorities": pseudo(":authority", evil), "the same authority twice": pseudo(":authority", api),
		"no path": without(":path"), "no method": without(":method"), "no scheme": without(":scheme"),
		"empty path": with(":path", ""), "absolute path": with(":path", "https://"+evil+"/x"), "absolute path of the host": with(":path", "https://"+api+"/x"), "path without slash": with(":path", "x"), "asterisk": with(":path", "*"), "query only": with(":path", "?x"),
		"path with CRLF": with(":path", "/x HTTP/1.1\r\nHost: "+evil+"\r\n\r\nGET /y"), "path with CR": with(":path", "/x\ry"), "path with LF": with(":path", "/x\ny"), "path with NUL": with(":path", "/x\x00y"), "path with space": with(":path", "/x y"), "path with tab": with(":path", "/x\ty"), "path with fragment": with(":path", "/x#y"), "path with 8 bits": with(":path", "/\xff"), "path that would change": with(":path", "//x{y}"), "path with a bad escape": with(":path", "//x%zz"),
		"scheme ftp": with(":scheme", "ftp"), "empty scheme": with(":scheme", ""), "scheme with CRLF": with(":scheme", "https://x/\r\nX: y"),
		"empty method": with(":method", ""), "method with space": with(":method", "GET /y"), "method with CRLF": with(":method", "GET / HTTP/1.1\r\nX: y\r\n\r\nGET"), "method in lower case": with(":method", "get"), "method with NUL": with(":method", "G\x00T"),
		"authority with CRLF": with(":authority", api+"\r\nX: y"), "authority with path": with(":authority", api+"/x"), "authority with user": with(":authority", "u@"+api), "authority with space": with(":authority", api+" "),
		"unknown pseudo": pseudo(":foo", "bar"), "status": pseudo(":status", "200"), "protocol": pseudo(":protocol", "websocket"), "bare colon": pseudo(":", "x"),
		"pseudo after regular": and(":path", "/y"), "authority after regular": append(without(":authority"), Field{":authority", api}),
		"upper case name": and("X-Upper", "1"), "upper case authorization": append(without("authorization"), Field{"Authorization", "Bearer " + c.P}), "name with space": and("x y", "1"), "name with colon": and("x:y", "1"), "name with CRLF": and("x\r\ny", "1"), "name with NUL": and("x\x00", "1"), "empty name": and("", "1"), "name with 8 bits": and("x\xff", "1"), "name with parenthesis": and("(x)", "1"),
		"value with CRLF": and("x-a", "1\r\nX-B: 2"), "value with LF": and("x-a", "1\n2"), "value with CR": and("x-a", "1\r2"), "value with NUL": and("x-a", "1\x002"), "value with DEL": and("x-a", "1\x7f2"),
		"connection": and("connection", "close"), "connection of a field": and("connection", "authorization"), "transfer-encoding": and("transfer-encoding", "chunked"), "te: gzip": and("te", "gzip"), "te: trailers, gzip": and("te", "trailers, gzip"), "keep-alive": and("keep-alive", "5"), "proxy-connection": and("proxy-connection", "close"), "upgrade": and("upgrade", "h2c"),
	} {
		h := s.H2(api)
		r := h.Ask(fields, "")
		if c.streamRefused(h, r); c.Failed() {
			c.Fatalf("with %s", name)
		}
		h.Close()
	}
	c.U1.Nothing()
	c.Recorded(0, Want{"type": "substitute"})
	// What is allowed arrives as it was meant. net/http does not tell a handler
	// the scheme; it is https that such a request is sent on by, all the same.
	h := s.H2(api)
	c.Status(h.Ask(with(":scheme", "http"), ""), 200)
	c.Status(h.Ask(and("te", "trailers"), ""), 200)
	c.Status(h.Ask(append(h2fields("GET", api, "//"+evil+"/x?y=//z"), token), ""), 200)
	var targets []string
	for _, q := range c.arrivedAt(c.U1, 3) {
		targets = append(targets, q.Target)
		c.Equal([]string{q.Host, q.Value("authorization")}, []string{api, "Bearer " + R})
	}
	c.Equal(targets, []string{"/x", "/x", "//" + evil + "/x?y=//z"})
}

func lengthsThatLie(c *Case) {
	const old = "h1.allowed.test"
	c.Rules.Add("{name: h1, hosts: [" + old + "], substitute: [{secret: github, in: header Authorization}]}")
	c.Rules.Add("{name: h1-login, hosts: [" + old + "], methods: [POST], paths: [/login], substitute: [{secret: github, in: json /auth/token}]}")
	h1 := c.Upstream(old+":443", Serve{TLS: c.Certificate(old)}).HTTP1()
	c.streamLengths(api, c.U1)
	c.streamLengths(old, h1)
}

// streamLengths sends streams that say a length and have another.
func (c *Case) streamLengths(host string, u *Upstream) {
	c.Helper()
	s := c.S1()
	for _, length := range []string{"5", "0", "1000000"} {
		for _, body := range []string{"abc", "abcdefg"} {
			h := s.H2(host)
			id := h.Open(append(h2fields("POST", host, "/short"), Field{"content-length", length}), false)
			if length == "0" {
				time.Sleep(50 * time.Millisecond) // for a gateway that would not wait for the end
			}
			h.Data(id, []byte(body[:2]), false)
			h.Data(id, []byte(body[2:]), true)
			r := h.Await(id)
			if _, reset := r.Reset(); !reset && h.GoAway == nil && h.Lost == nil {
				c.Malformed(r, 400)
			}
			h.Close()
		}
	}
	// On a rule that reads the body the length is needed, and held to.
	h := s.H2(host)
	r := h.Ask(append(h2fields("POST", host, "/login"), Field{"content-type", "application/json"}, Field{"content-length", "500"}), `{"auth":{"token":"`+c.P+`"}}`)
	if _, reset := r.Reset(); !reset && h.GoAway == nil {
		c.Malformed(r, 400)
	}
	h.Close()
	for _, q := range u.Received() {
		if q.Whole && !q.Aborted {
			c.Errorf("a whole request arrived: %s %s %q", q.Method, q.Target, q.Body)
		}
		if strings.Contains(q.text(), R) {
			c.Errorf("a value arrived with a request that was not whole: %s", q.text())
		}
	}
	// Lengths that are no numbers, or not one, come to nothing or arrive as what was sent.
	for i, lengths := range [][]string{{"+3"}, {"3, 3"}, {"3", "4"}, {"3", "3"}, {"-1"}, {"0x3"}, {""}, {"18446744073709551619"}, {"٣"}} {
		h := s.H2(host)
		target := fmt.Sprintf("/odd%d", i)
		fields := h2fields("POST", host, target)
		for _, l := range lengths {
			fields = append(fields, Field{"content-length", l})
		}
		r := h.Ask(fields, "abc")
		if r.Status == 200 && r.Err == nil {
			c.arrivedOnce(u, target, "abc")
		} else if _, reset := r.Reset(); !reset && h.GoAway == nil && h.Lost == nil {
			c.Malformed(r, 400)
		}
		h.Close()
	}
}

// arrivedOnce asserts that one request with that target and body arrived.
func (c *Case) arrivedOnce(u *Upstream, target, body string) {
	c.Helper()
	var bodies []string
	for _, q := range u.Received() {
		if q.Target == target {
			bodies = append(bodies, string(q.Body))
			if lengths := q.Values("content-length"); len(lengths) > 1 || len(lengths) == 1 && lengths[0] != fmt.Sprint(len(body)) {
				c.Errorf("%s arrived with lengths %q", target, lengths)
			}
		}
	}
	c.Equal(bodies, []string{body})
}

func extendedConnect(c *Case) {
	s := c.S1()
	for _, fields := range [][]Field{
		{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":path", "/ws"}, {":authority", api}, {"sec-websocket-version", "13"}, {"authorization", "Bearer " + c.P}},
		{{":method", "CONNECT"}, {":protocol", "websocket"}, {":authority", api}},
		{{":method", "GET"}, {":protocol", "websocket"}, {":scheme", "https"}, {":path", "/ws"}, {":authority", api}},
	} {
		h := s.H2(api)
		r := h.Await(h.Open(fields, false))
		if h.Peer[http2.SettingEnableConnectProtocol] != 0 {
			c.Errorf("extended CONNECT is advertised: %v", h.Peer)
		}
		if _, reset := r.Reset(); !reset && h.GoAway == nil && h.Lost == nil {
			c.Malformed(r, 400, 405)
		}
		h.Close()
	}
	c.U1.Nothing()
}

func connectStreams(c *Case) {
	s := c.S1()
	for _, authority := range []string{api + ":443", api, evil + ":443", "127.0.0.1:22"} {
		h := s.H2(api)
		id := h.Open([]Field{{":method", "CONNECT"}, {":authority", authority}}, false)
		c.Refused(h.Await(id), 405, "method_not_allowed")
		h.Close()
	}
	// With a path or a scheme it is malformed (RFC 9113, 8.5).
	h := s.H2(api)
	c.streamRefusedOr405(h, h.Await(h.Open(h2fields("CONNECT", api, "/"), false)))
	h.Close()
	c.U1.Nothing()
	c.U2.Nothing()
	c.Recorded(4, Want{"type": "deny", "code": "method_not_allowed", "host": api})
}

func (c *Case) streamRefusedOr405(h *H2, r *Response) {
	c.Helper()
	if r.Status == 405 {
		c.Refused(r, 405, "method_not_allowed")
		return
	}
	c.streamRefused(h, r)
}
