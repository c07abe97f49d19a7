package proxy

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"time"

	"standin/audit"
	"standin/grant"
	"standin/rules"
)

// tunnel is one CONNECT: who asked for it, the authority that it leads to, and
// the client's end of it. Requests that came without a CONNECT have a tunnel
// without a connection.
type tunnel struct {
	net.Conn
	caller
	p         *Proxy
	authority rules.Authority
	scheme    string // of the requests inside
	verdict   rules.Verdict
	scrub     bool // the session holds a grant at this host
	misnamed  bool // the TLS greeting names another host
	hole      bool // the user opened the way to the authority

	early []byte // read already, to be read again

	mu       sync.Mutex
	closed   bool
	upstream net.Conn // of a tunnel that passes unopened
}

// Read reads what was read ahead, and then the connection.
func (t *tunnel) Read(b []byte) (int, error) {
	if len(t.early) == 0 {
		return t.Conn.Read(b)
	}
	n := copy(b, t.early)
	if t.early = t.early[n:]; len(t.early) == 0 {
		t.early = nil
	}
	return n, nil
}

// Close closes both ends and strikes the tunnel off, once.
func (t *tunnel) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return net.ErrClosed
	}
	t.closed = true
	t.client.remove(t)
	t.p.tunnels.Add(-1)
	if t.upstream != nil {
		t.upstream.Close()
	}
	return t.Conn.Close()
}

// abandon closes a tunnel of which it is not known whether it was counted.
func (t *tunnel) abandon() {
	if t.client.has(t) {
		t.Close()
		return
	}
	t.Conn.Close()
}

// attach gives the tunnel an upstream that ends with it. It answers false, and
// closes the upstream, when the tunnel has ended already.
func (t *tunnel) attach(up net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		up.Close()
		return false
	}
	t.upstream = up
	return true
}

// open counts the tunnel, or refuses it.
func (t *tunnel) open() error {
	if t.p.tunnels.Add(1) > int64(t.p.cfg.MaxTunnels) {
		t.p.tunnels.Add(-1)
		return &grant.Refusal{Code: "busy"}
	}
	if err := t.client.add(t, t.p.cfg.MaxClientTunnels); err != nil {
		t.p.tunnels.Add(-1)
		return err
	}
	return nil
}

// host is the authority as a Host field writes it: without the scheme's own port.
func (t *tunnel) host() string {
	a := t.authority
	switch {
	case t.scheme == "https" && a.Port != 443, t.scheme == "http" && a.Port != 80:
		return a.String()
	case strings.Contains(a.Host, ":"):
		return "[" + a.Host + "]"
	}
	return a.Host
}

const established = "HTTP/1.1 200 Connection established\r\n\r\n"

// run serves a hijacked CONNECT until its connection is handed on or closed.
func (p *Proxy) run(t *tunnel) {
	defer func() {
		if v := recover(); v != nil {
			p.cfg.Log.Error("panic", slog.String("where", "tunnel"), slog.String("stack", stack()))
			t.abandon()
		}
	}()
	grant.Fault("tunnel", t.authority.Host)
	if err := t.open(); err != nil {
		p.refuseTunnel(t, err)
		t.Conn.Close()
		return
	}
	// Port 80 may carry plain requests through a CONNECT, which are served
	// like any other http:// request instead of passing unseen.
	blind := t.verdict.Action != rules.Intercept
	if blind && t.authority.Port != 80 {
		p.passthrough(t)
		return
	}
	if _, err := io.WriteString(t.Conn, established); err != nil {
		t.Close()
		return
	}
	first, err := t.peek()
	switch {
	case err != nil:
		t.Close()
	case first != tlsHandshake && t.authority.Port == 80:
		t.scheme = "http"
		p.opened.push(t)
	case first != tlsHandshake:
		p.noteDeny(&t.caller, t, newID(), "bad_request")
		t.Close()
	case blind:
		p.passthroughOpened(t)
	default:
		p.intercept(t)
	}
}

// tlsHandshake is the first byte of a TLS connection (RFC 8446, 5.1).
const tlsHandshake = 0x16

// peek waits for the client's first bytes and returns the first.
func (t *tunnel) peek() (byte, error) {
	t.Conn.SetReadDeadline(time.Now().Add(handshakeTimeout))
	defer t.Conn.SetReadDeadline(time.Time{})
	b := make([]byte, 2048)
	for len(t.early) == 0 {
		n, err := t.Conn.Read(b)
		if n == 0 && err != nil {
			return 0, err
		}
		t.early = b[:n]
	}
	return t.early[0], nil
}

// intercept ends TLS and hands the connection to the one server.
func (p *Proxy) intercept(t *tunnel) {
	t.scrub = t.client.Session.GrantsAt(t.authority)
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	conn := tls.Server(t, p.tls.base)
	if err := conn.HandshakeContext(ctx); err != nil {
		p.noteHandshake(t, err)
		t.Close()
		return
	}
	p.opened.push(conn)
}

// noteHandshake records what a failed handshake says: a client that refuses our
// leaf needs the authority, or a pinning exception.
func (p *Proxy) noteHandshake(t *tunnel, err error) {
	var alert tls.AlertError
	rec := t.record("deny")
	switch {
	case t.misnamed:
		rec.Code = "sni_mismatch"
	case errors.As(err, &alert) || strings.Contains(err.Error(), "remote error"):
		rec.Type, rec.Reason = "client_rejected_leaf", fixedAlert(err)
		p.cfg.Log.Warn("client rejected leaf", slog.String("host", t.authority.Host),
			slog.String("hint", "trust the authority in that client, or add a rule with \"passthrough: true\" for this host"))
	default:
		rec.Code = "bad_request"
	}
	p.note(rec)
}

// fixedAlert names the alerts by which a client says that it does not trust a leaf.
func fixedAlert(err error) string {
	for _, name := range []string{"unknown certificate authority", "bad certificate", "certificate unknown", "unknown certificate", "expired certificate", "unsupported certificate"} {
		if strings.Contains(err.Error(), name) {
			return name
		}
	}
	return "alert"
}

// refuseTunnel answers a CONNECT that was hijacked already.
func (p *Proxy) refuseTunnel(t *tunnel, err error) {
	code, id := p.refusalOf(err, "tunnel").Code, newID()
	p.noteDeny(&t.caller, t, id, code)
	t.Conn.SetWriteDeadline(time.Now().Add(handshakeTimeout))
	refusalResponse(nil, code, id).Write(t.Conn)
}

// record begins a record that says who and where.
func (t *tunnel) record(kind string) *audit.Record {
	return &audit.Record{
		Type: kind, Session: t.client.Session.ID, Profile: t.client.Session.Profile.Name,
		Isolation: t.client.Isolation, Process: t.process,
		Host: t.authority.Host, Port: int(t.authority.Port), Scheme: t.scheme,
	}
}

// noteDeny records a refusal, of which t may be nil.
func (p *Proxy) noteDeny(c *caller, t *tunnel, id, code string) {
	rec := &audit.Record{Type: "deny"}
	if t != nil {
		rec = t.record("deny")
	} else if c != nil {
		rec = (&tunnel{caller: *c}).record("deny")
	}
	rec.ID, rec.Code = id, code
	p.note(rec)
}

// note writes a record that nothing waits for. A log that is down refuses
// substitutions, which is where it counts; here it is said to the operator.
func (p *Proxy) note(rec *audit.Record) {
	if err := p.cfg.Recorder.Note(rec); err != nil {
		p.cfg.Log.Warn("record lost", slog.String("type", rec.Type), slog.Any("cause", err))
	}
}

// connections is the listener from which the one server takes every decrypted
// connection.
type connections struct {
	ready  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newConnections() *connections {
	return &connections{ready: make(chan net.Conn), closed: make(chan struct{})}
}

func (c *connections) push(conn net.Conn) {
	select {
	case c.ready <- conn:
	case <-c.closed:
		conn.Close()
	}
}

func (c *connections) Accept() (net.Conn, error) {
	select {
	case conn := <-c.ready:
		return conn, nil
	case <-c.closed:
		return nil, net.ErrClosed
	}
}

func (c *connections) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *connections) Addr() net.Addr { return decrypted{} }

// decrypted is the address of connections that have none of their own.
type decrypted struct{}

func (decrypted) Network() string { return "tunnel" }
func (decrypted) String() string  { return "decrypted" }

// newID names a request, for the record and for the error body.
func newID() string { return rand.Text()[:16] }

// stack is the stack of a panic without the panic's text.
func stack() string {
	b := make([]byte, 16<<10)
	return string(b[:runtime.Stack(b, false)])
}
