//go:build linux

package cases

import (
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Answers of upstreams that are framed to confuse.

func sectionDResponses() []entry {
	return []entry{
		{"D17", switchingUnasked},
		{"D28", answersBeforeTheEnd},
		{"D29", strangeStatuses},
		{"D30", strangeFieldsInAnswers},
		{"D31", strangeCodingsInAnswers},
		{"D32", bodiesWhereNoneBelong},
		{"D33", fieldsOfTheProxy},
	}
}

// answering has UR answer each request with the next bytes of a list, on one
// connection after the other, and says on how many connections it was asked.
func (c *Case) answering(answer string, keep bool) *atomic.Int64 {
	var conns atomic.Int64
	c.UR.closeConns()
	c.UR.Script(func(conn *wireConn) {
		conns.Add(1)
		for readHead(conn) {
			if _, err := io.WriteString(conn, answer); err != nil || !keep {
				return
			}
		}
	})
	return &conns
}

// asks sends one request over each version of HTTP to UR, which answers so.
func (c *Case) asks(method, answer string, check func(*Response)) {
	c.Helper()
	c.answering(answer, false)
	c.S1().Each(Message{method, scripts, "/x", []string{bearer(c.P)}, ""}, func(r *Response) {
		c.Helper()
		failed := c.Failed()
		if check(r); c.Failed() && !failed {
			c.Errorf("the answer of the upstream was %q", clip(answer))
		}
	})
}

// upstreamRefused asserts that an answer was not passed on.
func (c *Case) upstreamRefused(r *Response) {
	c.Helper()
	c.Refused(r, 502, "upstream_protocol")
}

func switchingUnasked(c *Case) {
	c.Rules.Add(wsRule)
	answers := []string{
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", "HTTP/1.1 101 X\r\nContent-Length: 2\r\n\r\nno",
	}
	for _, answer := range answers {
		c.asks("GET", answer, c.upstreamRefused)
	}
	// The connection is not used again.
	conns := c.answering(answers[0], true)
	for range 3 {
		c.upstreamRefused(c.S1().Do(scripts, get("/x", scripts, bearer(c.P))))
	}
	c.Equal(conns.Load(), int64(3))
	c.arrived(c.UR, 2*len(answers)+3)
	// With a rule for WebSockets, too, unless one was asked for.
	c.answering("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", false)
	c.upstreamRefused(c.S1().Do(scripts, get("/ws", scripts, bearer(c.P))))
}

// unfinished are beginnings of bodies, by the rule that reads them.
func (c *Case) unfinished() map[string]Message {
	c.Rules.Add("{name: early-json, hosts: [" + scripts + "], paths: [/json], substitute: [{secret: github, in: json /auth/token}]}")
	c.Rules.Add("{name: early-body, hosts: [" + scripts + "], paths: [/gzip], substitute: [{secret: github, in: body}]}")
	part := strings.Repeat("GET /smuggled HTTP/1.1\r\nHost: "+scripts+"\r\n\r\n", 4000) // some 200 KiB
	return map[string]Message{
		"known":   {"POST", scripts, "/upload", []string{"Authorization: Bearer {P}", fmt.Sprintf("Content-Length: %d", 3*len(part))}, part},
		"chunked": {"POST", scripts, "/upload", []string{"Authorization: Bearer {P}"}, part},
		"json":    {"POST", scripts, "/json", []string{"Content-Type: application/json"}, `{"auth":{"token":"{P}"},"text":"` + strings.Repeat("x", 200_000)},
		"gzip":    {"POST", scripts, "/gzip", []string{"Content-Encoding: gzip"}, string(encodedIn("gzip", hex.EncodeToString(random(100_000)))[:90_000])},
	}
}

func answersBeforeTheEnd(c *Case) {
	bodies := c.unfinished()
	const early = "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nearly"
	n := 0
	for name, then := range map[string]func(*wireConn){
		"reads on": func(conn *wireConn) { _, _ = io.Copy(io.Discard, conn) },
		"closes":   func(*wireConn) {},
		"cuts":     func(conn *wireConn) { conn.CloseWithoutNotify() },
		"waits":    func(*wireConn) { time.Sleep(300 * time.Millisecond) },
	} {
		c.UR.closeConns()
		c.UR.Script(func(conn *wireConn) {
			if !readHead(conn) {
				return
			}
			_, _ = io.WriteString(conn, early)
			then(conn)
		})
		for kind, m := range bodies {
			c.UR.closeConns() // each of them answers once
			began := time.Now()
			answeredEarly(c, name, m)
			if took := time.Since(began); took > 8*time.Second {
				c.Errorf("%s, %s: it took %v", name, kind, took)
			}
			n++
		}
	}
	c.Equal(len(c.UR.Received()) >= 2*n, true)
	for _, q := range c.UR.Received() {
		if !slices.Contains([]string{"/upload", "/json", "/gzip", "/next"}, q.Target) {
			c.Errorf("a request for %q arrived: bytes of a body were taken for one", q.Target)
		}
	}
}

func answeredEarly(c *Case, name string, m Message) {
	c.Helper()
	s := c.S1()
	filled := strings.NewReplacer("{P}", c.P)
	part, fields := filled.Replace(m.Body), slices.Clone(m.Fields)
	for i := range fields {
		fields[i] = filled.Replace(fields[i])
	}
	// HTTP/1.1: the answer comes while the client still sends.
	t := s.Tunnel(scripts)
	if known := strings.HasPrefix(fields[len(fields)-1], "Content-Length"); known {
		t.Send(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n%s", m.Path, scripts, strings.Join(fields, "\r\n"), part))
		fields = fields[:len(fields)-1]
	} else {
		t.Send(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\n%s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", m.Path, scripts, strings.Join(fields, "\r\n"), len(part), part))
	}
	r := t.Response("POST")
	if name == "cuts" && r.Err != nil {
		r.Status, r.Err, r.Body = 403, nil, []byte("early") // the answer may be lost with the connection
	}
	if r.Status != 502 {
		c.Status(r, 403)
		c.Equal(string(r.Body), "early")
	}
	if name != "cuts" && !r.Closing {
		c.Errorf("%s: the connection goes on in the middle of a body: %s", name, r)
	}
	_ = t.Conn.(*tls.Conn).CloseWrite()
	t.Close()
	// HTTP/2: the stream is answered, and the connection goes on.
	h := s.H2(scripts)
	for i := range fields {
		key, value, _ := strings.Cut(fields[i], ":")
		fields[i] = strings.ToLower(key) + ":" + value
	}
	id := h.Open(h2fields("POST", scripts, m.Path, fields...), false)
	h.Data(id, []byte(part[:60000]), false)
	r = h.Await(id)
	if _, reset := r.Reset(); !reset && r.Status != 502 {
		c.Status(r, 403)
		c.Equal(string(r.Body), "early")
	}
	if next := h.Ask(h2fields("GET", scripts, "/next"), ""); next.Status != 403 && next.Status != 502 || next.Err != nil {
		if _, reset := next.Reset(); !reset {
			c.Errorf("%s: the next answer over HTTP/2 is %s", name, next)
		}
	}
	h.Close()
}

func strangeStatuses(c *Case) {
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	n := 0
	few := func(r *Response) {
		c.Helper()
		n++
		if r.Status == 200 && r.Err == nil && string(r.Body) == "ok" {
			if len(r.Interim) > 5 {
				c.Errorf("%d interim answers came through", len(r.Interim))
			}
			return
		}
		c.upstreamRefused(r)
	}
	for _, line := range []string{"100 Continue", "103 Early Hints", "102 Processing", "150 X"} {
		c.asks("GET", strings.Repeat("HTTP/1.1 "+line+"\r\nLink: <x>\r\n\r\n", 1000)+ok, few)
	}
	c.asks("GET", "HTTP/1.1 199 X\r\nX-A: "+R+"\r\n\r\n"+ok, func(r *Response) {
		c.Helper()
		n++
		c.Status(r, 200)
		c.Equal(len(r.Interim) <= 1, true)
	})
	c.asks("GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"+ok, func(r *Response) {
		c.Helper()
		n++
		c.Status(r, 200)
		c.Equal(len(r.Interim), 1)
	})
	for _, status := range []string{"0 X", "00 X", "000 X", "099 X", "1000 X", "-01 X", "+20 X", "2xx X", "20", "٢٠٠ X", "0x0 X", "2e2 X", "", "407 Proxy Authentication Required", "199 alone"} {
		c.asks("GET", "HTTP/1.1 "+status+"\r\nContent-Length: 2\r\n\r\nok", func(r *Response) {
			c.Helper()
			n++
			c.upstreamRefused(r)
		})
	}
	for _, status := range []string{"200", "299 X", "599 X", "600 X", "999 X"} {
		c.asks("GET", "HTTP/1.1 "+status+"\r\nContent-Length: 2\r\n\r\nok", func(r *Response) {
			c.Helper()
			n++
			if r.Status != 502 {
				c.Status(r, atoi(status[:3]))
				c.Equal(string(r.Body), "ok")
			}
		})
	}
	for _, text := range []string{"HTTP/2.0 200 OK\r\n\r\n", "HTTP/0.9 200 OK\r\n\r\n", "ICY 200 OK\r\n\r\n", "hello\r\n\r\n", "\x00\x00\x00\x04\x00\x00\x00\x00\x00", "HTTP/1.1 200 OK", "\r\n\r\n", R} {
		c.asks("GET", text, func(r *Response) {
			c.Helper()
			n++
			if r.Status != 200 { // of an old version, perhaps
				c.upstreamRefused(r)
			}
		})
	}
	c.arrived(c.UR, n)
}

func atoi(s string) (n int) {
	_, _ = fmt.Sscan(s, &n)
	return n
}

func strangeFieldsInAnswers(c *Case) {
	n := 0
	send := func(fields string, check func(*Response)) {
		c.Helper()
		c.asks("GET", "HTTP/1.1 200 OK\r\n"+fields+"\r\nContent-Length: 2\r\n\r\nok", func(r *Response) {
			c.Helper()
			n++
			check(r)
		})
	}
	for _, fields := range []string{
		"X-A: b\x00c", "X\x00A: b", "X-A: b\rX-B: c", "X-A: \x01", ": b", "nothing", " X-A: first", "X-\xff: b", "Content-Length: 3", "Content-Length: +2", "Content-Length: 2, 3", "Content-Length: x", "X-A: b\x7fc",
	} {
		send(fields, c.upstreamRefused)
	}
	// Folding is undone, and a bare LF ends a line: what comes through is clean.
	send("X-A: b\r\n c\r\n\td", func(r *Response) {
		if r.Status != 502 {
			c.Status(r, 200)
			c.Equal(r.Header.Values("X-A"), []string{"b c d"})
		}
	})
	send("X-A: b\nX-C: d", func(r *Response) {
		if r.Status != 502 {
			c.Status(r, 200)
			c.Equal([]string{r.Header.Get("X-A"), r.Header.Get("X-C")}, []string{"b", "d"})
		}
	})
	send("X-A: b\r\n "+R+"\r\n\t"+R, func(r *Response) {
		if r.Status != 502 {
			c.Equal(r.Header.Values("X-A"), []string{"b " + c.P + " " + c.P})
		}
	})
	for _, field := range []string{"X A: b", "X-A : b", "X-A\t: b"} { // a field that is none is dropped
		send(field, func(r *Response) {
			if r.Status != 502 {
				c.Status(r, 200)
				c.Equal(strings.Contains(string(r.Raw), "A"), false)
			}
		})
	}
	send("X-A: \x80\xff", func(r *Response) {
		if r.Status != 502 {
			c.Equal(r.Header.Values("X-A"), []string{"\x80\xff"})
		}
	})
	send("Content-Length: 2", func(r *Response) { c.Status(r, 200); c.Equal(string(r.Body), "ok") })
	c.asks("GET", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", func(r *Response) {
		n++
		if r.Status != 502 {
			c.Status(r, 200)
			c.Equal(string(r.Body), "ok")
			c.Equal(len(r.Header.Values("Content-Length")), 0)
		}
	})
	c.arrived(c.UR, n)
}

func strangeCodingsInAnswers(c *Case) {
	n := 0
	for _, coding := range []string{
		"gzip, chunked", "gzip", "identity", "chunked, chunked", "chunked\r\nTransfer-Encoding: chunked", "xchunked", "chunked, identity", "deflate,chunked", "", ",", "chunked\x00",
	} {
		c.asks("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: "+coding+"\r\n\r\n2\r\nok\r\n0\r\n\r\n", func(r *Response) {
			c.Helper()
			n++
			c.upstreamRefused(r)
		})
	}
	for _, body := range []string{"0x2\r\nok\r\n0\r\n\r\n", "2\nok\n0\n\n", "-2\r\nok\r\n0\r\n\r\n", "2;x=\nok\r\n0\r\n\r\n", "3\r\nok\r\n0\r\n\r\n", "1\r\nok\r\n0\r\n\r\n", "10000000000000002\r\nok\r\n0\r\n\r\n"} {
		c.asks("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+body, func(r *Response) {
			c.Helper()
			n++
			if r.Status == 200 && r.Err == nil {
				c.Errorf("it came through as a whole answer: %s", r)
			}
		})
	}
	c.arrived(c.UR, n)
}

func bodiesWhereNoneBelong(c *Case) {
	inner := "HTTP/1.1 200 OK\r\nX-Smuggled: 1\r\nContent-Length: 8\r\n\r\nsmuggled"
	s := c.S1()
	n := 0
	for _, one := range []struct{ method, answer string }{
		{"HEAD", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(inner))},
		{"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"HEAD", "HTTP/1.1 404 Not Found\r\n\r\n"},
		{"GET", "HTTP/1.1 204 No Content\r\n\r\n"},
		{"GET", fmt.Sprintf("HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n\r\n", len(inner))},
		{"GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"},
		{"GET", fmt.Sprintf("HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n\r\n", len(inner))},
		// What the transport finds on an idle connection it says in a log, value and all.
		{"HEAD", "HTTP/1.1 200 OK\r\n\r\n" + R},
		{"GET", "HTTP/1.1 204 No Content\r\n\r\n" + R},
		{"GET", "HTTP/1.1 304 Not Modified\r\n\r\n" + R},
	} {
		for _, proto := range []string{"http/1.1", "h2"} {
			conns := c.answering(one.answer+inner, true)
			ask := c.asker(s, proto)
			r := ask(one.method, "/first")
			c.Status(r, atoi(strings.Fields(one.answer)[1]))
			c.Equal(string(r.Body), "")
			if r.Header.Get("X-Smuggled") != "" {
				c.Errorf("what follows an answer came through with it: %s", r)
			}
			c.UR.Script(func(conn *wireConn) {
				conns.Add(1)
				for readHead(conn) {
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfresh")
				}
			})
			r = ask("GET", "/second")
			c.Status(r, 200)
			c.Equal(string(r.Body), "fresh")
			c.Equal(r.Header.Get("X-Smuggled"), "")
			c.Equal(conns.Load(), int64(2))
			n += 2
		}
	}
	// An answer has the fields that the upstream gave it, and no others.
	c.asks("GET", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", func(r *Response) {
		c.Helper()
		n++
		c.Status(r, 200)
		if len(r.Header["Content-Type"])+len(r.Header["Date"]) > 0 {
			c.Errorf("fields that nobody sent: %s", r)
		}
	})
	c.arrived(c.UR, n)
}

// asker sends requests to UR through one tunnel.
func (c *Case) asker(s *Session, proto string) func(method, target string) *Response {
	if proto == "h2" {
		h := s.H2(scripts)
		return func(method, target string) *Response {
			return h.Ask(h2fields(method, scripts, target, "authorization: Bearer "+c.P), "")
		}
	}
	t := s.Tunnel(scripts)
	return func(method, target string) *Response {
		t.Send(message(method, target, scripts, "", bearer(c.P)))
		return t.Response(method)
	}
}

func fieldsOfTheProxy(c *Case) {
	ofProxy := []string{"Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate", "Proxy-Authentication-Info"}
	check := func(w http.ResponseWriter, r *http.Request) {
		for _, name := range append(ofProxy, "X-Hop", "Keep-Alive", "Te", "Upgrade") {
			w.Header()[name] = []string{"Basic eHh4Onl5eQ=="}
		}
		if r.ProtoMajor == 1 {
			w.Header().Set("Connection", "X-Hop")
		} else {
			w.Header().Del("X-Hop")
		}
		w.Header().Set("X-End", "1")
		_, _ = io.WriteString(w, "ok\n")
	}
	s := c.S1()
	for _, u := range []*Upstream{c.U1, c.UE} {
		u.Handle(check)
	}
	c.UE.HTTP1()
	var fields []string
	for _, name := range ofProxy {
		fields = append(fields, name+": "+strings.TrimPrefix(s.Credentials(), "Proxy-Authorization: "))
	}
	clean := func(r *Response) {
		c.Helper()
		c.Status(r, 200)
		c.Equal(r.Header.Get("X-End"), "1")
		for _, name := range append(ofProxy, "X-Hop", "Keep-Alive", "Te", "Upgrade") {
			if v := r.Header.Values(name); len(v) > 0 {
				c.Errorf("%s %q came back", name, v)
			}
		}
	}
	for _, host := range []string{api, echo} {
		more := append([]string{bearer(c.P), "Connection: X-Hop, close", "X-Hop: 1", "X-End: 1", "Keep-Alive: 5"}, fields...)
		clean(s.Do(host, get("/x", host, more...)))
		h := s.H2(host)
		list := h2fields("GET", host, "/x", "authorization: Bearer "+c.P, "x-end: 1")
		for _, f := range fields[1:] {
			name, value, _ := strings.Cut(f, ": ")
			list = append(list, Field{strings.ToLower(name), value})
		}
		clean(h.Ask(list, ""))
		h.Close()
	}
	for _, u := range []*Upstream{c.U1, c.UE} {
		for _, q := range u.Requests(2) {
			c.Equal(q.Values("X-End"), []string{"1"})
			c.Equal(q.Values("Authorization"), []string{"Bearer " + R})
			for _, name := range append(ofProxy, "X-Hop", "Keep-Alive", "Connection") {
				if v := q.Values(name); len(v) > 0 {
					c.Errorf("%s %q arrived", name, v)
				}
			}
		}
	}
	// A server that asks for the credentials of the proxy does not get them.
	c.asks("GET", "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n", func(r *Response) {
		c.upstreamRefused(r)
		c.Equal(r.Header.Get("Proxy-Authenticate"), "")
	})
	c.arrived(c.UR, 2)
}
