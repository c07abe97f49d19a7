//go:build linux

package cases

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
)

// Handshakes of WebSockets, and those in the clear.

func strangeHandshakes(c *Case) {
	c.Rules.Add(wsRule)
	c.listen()
	s := c.S1()
	// Requests that two servers would read in two ways.
	plain := strings.TrimSuffix(webSocketFields, "\r\n")
	for name, request := range map[string]string{
		"no key":        message("GET", "/ws", scripts, "", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
		"two keys":      message("GET", "/ws", scripts, "", plain, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
		"a short key":   strings.Replace(wsHead(scripts, "/ws"), "dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 1),
		"no base64":     strings.Replace(wsHead(scripts, "/ws"), "dGhlIHNhbXBsZSBub25jZQ==", "the sample nonce", 1),
		"version 8":     strings.Replace(wsHead(scripts, "/ws"), "Version: 13", "Version: 8", 1),
		"two versions":  message("GET", "/ws", scripts, "", plain, "Sec-WebSocket-Version: 8"),
		"no Connection": strings.Replace(wsHead(scripts, "/ws"), "Connection: Upgrade", "Connection: keep-alive", 1),
		"two protocols": strings.Replace(wsHead(scripts, "/ws"), "Upgrade: websocket", "Upgrade: h2c, websocket", 1),
		"POST":          strings.Replace(wsHead(scripts, "/ws"), "GET", "POST", 1),
		"a body":        message("GET", "/ws", scripts, "body", plain),
		"chunks":        message("GET", "/ws", scripts, "", plain, "Transfer-Encoding: chunked") + "0\r\n\r\n",
		"HTTP/1.0":      strings.Replace(wsHead(scripts, "/ws"), "HTTP/1.1", "HTTP/1.0", 1),
	} {
		if r := s.Do(scripts, request); r.Status != 400 || r.Err != nil {
			c.Errorf("%s: %s", name, r)
		}
	}
	// Placeholders in it are judged as in any request.
	c.Refused(s.Do(scripts, wsHead(scripts, "/ws", "Sec-WebSocket-Protocol: key."+c.P)), 403, "placeholder_misplaced")
	c.Refused(s.Do(scripts, wsHead(scripts, "/ws?key="+c.P)), 403, "placeholder_misplaced")
	c.Refused(c.S2().Do(scripts, wsHead(scripts, "/ws", bearer(c.P))), 403, "no_grant")
	c.Refused(s.Do(scripts, wsHead(scripts, "/other")), 426, "upgrade_refused")
	c.UR.Nothing()
	c.strangeAnswers(s)
}

// strangeAnswers: answers that do not fit, and one that is none.
func (c *Case) strangeAnswers(s *Session) {
	c.mu.Lock()
	c.silent = nil
	c.mu.Unlock()
	const right = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
	var conns atomic.Int64
	n := 0
	for name, answer := range map[string]string{
		"a wrong proof":          strings.Replace(right, "s3pP", "S3pP", 1),
		"no proof":               strings.Replace(right, "Sec-WebSocket-Accept", "X-Accept", 1),
		"two proofs":             right + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
		"an extension":           right + "Sec-WebSocket-Extensions: permessage-deflate\r\n",
		"another protocol":       strings.Replace(right, "Upgrade: websocket", "Upgrade: h2c", 1),
		"no Upgrade":             strings.Replace(right, "Upgrade: websocket\r\n", "", 1),
		"no Connection":          strings.Replace(right, "Connection: Upgrade\r\n", "", 1),
		"a subprotocol":          right + "Sec-WebSocket-Protocol: other\r\n",
		"a subprotocol by case":  right + "Sec-WebSocket-Protocol: Chat\r\n",
		"two subprotocols":       right + "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: more\r\n",
		"a list of subprotocols": right + "Sec-WebSocket-Protocol: chat, more\r\n",
	} {
		c.UR.closeConns()
		c.UR.Script(func(conn *wireConn) {
			conns.Add(1)
			if readHead(conn) {
				_, _ = io.WriteString(conn, answer+"\r\n"+wsFrame(wsText|wsFin, "early", false))
				_, _ = io.Copy(io.Discard, conn)
			}
		})
		n++
		if r := s.Do(scripts, wsHead(scripts, "/ws", bearer(c.P), "Sec-WebSocket-Protocol: chat, more")); r.Status != 502 || r.Code() != "upstream_protocol" {
			c.Errorf("%s: %s", name, r)
		}
	}
	c.Equal(conns.Load(), int64(n)) // none is used again
	// What accepts: a subprotocol that was offered, and what is echoed in fields is scrubbed.
	c.UR.Script(func(conn *wireConn) {
		if readHead(conn) {
			_, _ = io.WriteString(conn, right+"Sec-WebSocket-Protocol: more\r\nSec-WebSocket-Extensions:\r\nX-Echo: "+R+"\r\nSet-Cookie: t="+R+"\r\nAlt-Svc: h3\r\n\r\n"+wsFrame(wsText|wsFin, "early", false))
			_, _ = io.Copy(io.Discard, conn)
		}
	})
	t := s.Tunnel(scripts)
	t.Send(wsHead(scripts, "/ws", bearer(c.P), "Sec-WebSocket-Protocol: chat, more") + wsFrame(wsPing|wsFin, "at once", true))
	r := t.Response("GET")
	c.Status(r, 101)
	c.Equal([]string{r.Header.Get("Sec-WebSocket-Protocol"), r.Header.Get("X-Echo"), r.Header.Get("Set-Cookie"), r.Header.Get("Alt-Svc")}, []string{"more", c.P, "t=" + c.P, ""})
	_, extensions := r.Header["Sec-Websocket-Extensions"]
	c.Equal(extensions, false)
	ws := &wsPeer{Conn: t, c: c, in: t.in, client: true}
	ws.Says(wsText, "early")
	_ = ws.Close()
	// A plain answer to the handshake is an answer like any other.
	c.UR.Script(func(conn *wireConn) {
		for readHead(conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nContent-Length: "+fmt.Sprint(len(R))+"\r\n\r\n"+R)
		}
	})
	r = s.Do(scripts, wsHead(scripts, "/ws", bearer(c.P)))
	c.Status(r, 401)
	c.Equal(string(r.Body), c.P)
	for _, q := range c.UR.Received() {
		if q.Method == "GET" && !slices.Equal(q.Values("Authorization"), []string{"Bearer " + R}) {
			c.Errorf("a handshake arrived with %q", q.Values("Authorization"))
		}
	}
}

// socketsInTheClear: ws:// by CONNECT to port 80, and as an absolute request.
func socketsInTheClear(c *Case) {
	const plain = "plain.allowed.test"
	c.Rules.Add("{name: plain, hosts: [\"" + plain + ":80\"], scheme: http, websocket: true, substitute: [{secret: github, in: [header Authorization, websocket]}]}")
	u := c.Upstream(plain+":80", Serve{})
	c.wsServe(u, parrot)
	s := c.S1()
	d := s.Dialled(plain + ":80")
	d.Send(wsHead(plain, "/ws", bearer(c.P)))
	c.Status(d.Response("GET"), 101)
	e := s.Door()
	e.Send(strings.Replace(wsHead(plain, "/ws", bearer(c.P), s.Credentials()), "GET /ws", "GET http://"+plain+"/ws", 1))
	c.Status(e.Response("GET"), 101)
	c.Equal(s.Status().Tunnels, 2)
	for _, conn := range []*Conn{d, e} {
		ws := &wsPeer{Conn: conn, c: c, in: conn.in, client: true}
		ws.Send(wsText|wsFin, "echo "+c.P)
		ws.Says(wsText, "echo "+c.P)
		ws.Goodbye()
	}
	for _, q := range c.heads(u, 2) {
		c.Equal(q.Values("Authorization"), []string{"Bearer " + R})
	}
	c.Recorded(2, Want{"type": "substitute", "surface": "websocket", "scheme": "http"})
}
