package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"standin/grant"
	"standin/proxy/dial"
)

// passthrough relays a tunnel unopened. One that a rule names must greet with
// that host's name, so that the exception leads nowhere else; one to a host
// that no rule names is relayed as it is.
func (p *Proxy) passthrough(t *tunnel) {
	if t.verdict.Rule != nil {
		if _, err := io.WriteString(t.Conn, established); err != nil {
			t.Close()
			return
		}
		p.passthroughOpened(t)
		return
	}
	up, err := p.dialBlind(t)
	if err != nil {
		p.refuseTunnel(t, err)
		t.Close()
		return
	}
	if _, err := io.WriteString(t.Conn, established); err != nil {
		up.Close()
		t.Close()
		return
	}
	p.relay(t, up)
}

// passthroughOpened goes on with a tunnel that was answered already.
func (p *Proxy) passthroughOpened(t *tunnel) {
	if rule := t.verdict.Rule; rule != nil && !rule.Raw {
		if code := t.sniff(); code != "" {
			p.noteDeny(&t.caller, t, newID(), code)
			t.Close()
			return
		}
	}
	up, err := p.dialBlind(t)
	if err != nil {
		p.noteDeny(&t.caller, t, newID(), p.refusalOf(err, "passthrough").Code)
		t.Close()
		return
	}
	p.relay(t, up)
}

func (p *Proxy) dialBlind(t *tunnel) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dial.Timeout)
	defer cancel()
	return p.dialer.Dial(ctx, t.authority, t.client.Session.Policy.Upstream(t.authority), t.client.blind())
}

// errSniffed ends a handshake that was begun only to read its greeting.
var errSniffed = errors.New("greeting read")

// sniff answers the code to refuse a tunnel with, by its TLS greeting, or "".
func (t *tunnel) sniff() string {
	name, err := t.greeting()
	switch {
	case err != nil:
		return "bad_request"
	case !t.names(name):
		return "sni_mismatch"
	}
	return ""
}

// greeting reads the TLS greeting by the parser of crypto/tls, and keeps its
// bytes to be read again. It returns the host that it names, or "".
func (t *tunnel) greeting() (name string, err error) {
	first, err := t.peek()
	if err != nil {
		return "", err
	}
	if first != tlsHandshake {
		return "", errors.New("it is not TLS")
	}
	listen := &listenConn{Conn: t.Conn, early: t.early}
	listen.SetReadDeadline(time.Now().Add(handshakeTimeout))
	defer listen.SetReadDeadline(time.Time{})
	err = tls.Server(listen, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		name = hello.ServerName
		return nil, errSniffed
	}}).Handshake()
	if !errors.Is(err, errSniffed) {
		return "", err
	}
	t.early = listen.heard
	return name, nil
}

// listenConn reads, remembers what it read, and writes nothing.
type listenConn struct {
	net.Conn
	early, heard []byte
}

func (c *listenConn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		c.heard = append(c.heard, p[:n]...)
		return n, nil
	}
	n, err := c.Conn.Read(p)
	c.heard = append(c.heard, p[:n]...)
	return n, err
}

func (c *listenConn) Write(p []byte) (int, error) { return len(p), nil }

// relay copies both ways until the upstream is done, or the session ends.
func (p *Proxy) relay(t *tunnel, up net.Conn) {
	began := time.Now()
	rec := t.record("passthrough")
	if rec.Scheme = ""; t.verdict.Rule != nil {
		rec.Rule, rec.Reason = t.verdict.Rule.Name, t.verdict.Rule.Reason
	}
	if t.hole {
		rec.Reason = "opened by the user"
	}
	rec.ID = newID()
	p.note(rec)
	if !t.attach(up) {
		return
	}
	var sent int64
	var sending sync.WaitGroup
	sending.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				p.cfg.Log.Error("panic", slog.String("where", "relay"), slog.String("stack", stack()))
				t.Close()
			}
		}()
		grant.Fault("relay", t.authority.Host)
		sent, _ = io.Copy(up, io.MultiReader(bytes.NewReader(t.early), bare(t.Conn)))
		closeWrite(up)
	})
	received, _ := io.Copy(bare(t.Conn), up)
	// The answer is over: what the client still sends has nobody to read it.
	t.Close()
	sending.Wait()
	end := t.record("result")
	end.Scheme, end.ID, end.Rule = "", rec.ID, rec.Rule
	end.BytesOut, end.BytesIn, end.Duration = sent, received, time.Since(began)
	p.note(end)
}

// bare lets io.Copy reach the socket itself, so that the kernel can splice.
func bare(c net.Conn) net.Conn {
	for {
		r, ok := c.(*replayConn)
		if !ok || len(r.early) > 0 {
			return c
		}
		c = r.Conn
	}
}

func closeWrite(c net.Conn) {
	if half, ok := bare(c).(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}
