package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"standin/audit"
	"standin/grant"
	"standin/proxy/dial"
	"standin/rules"
)

// Holes are addresses, as a client in a network of its own knows them, that a
// connection is relayed from unopened, and where to.
type Holes map[netip.AddrPort]rules.Authority

// ServeDirect admits the connections of clients that name no proxy, in a network
// in which every address is this listener's, until l is closed. What a client
// wants is read from what it says: the name in its TLS greeting, or Host. The
// address that it connected to decides nothing, unless it is that of a hole.
func (p *Proxy) ServeDirect(l net.Listener, gate Gate, holes Holes) error {
	port := local(l.Addr()).Port()
	plain := newConnections()
	defer plain.Close()
	if port == 80 {
		p.serving.Go(func() { p.front.Serve(&gatedListener{Listener: plain, gate: gate, direct: true, p: p}) })
	}
	for wait := time.Duration(0); ; {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // as when too many descriptors are open
			wait = min(2*wait+5*time.Millisecond, time.Second)
			time.Sleep(wait)
			continue
		}
		wait = 0
		hole, opened := holes[local(conn.LocalAddr())]
		switch {
		case opened:
			p.serving.Go(func() { p.serveDirect(conn, gate, hole, true) })
		case port == 443:
			p.serving.Go(func() { p.serveDirect(conn, gate, rules.Authority{Port: port}, false) })
		case port == 80:
			p.serving.Go(func() { plain.push(conn) })
		default:
			reset(conn) // a port of some hole, at another address
		}
	}
}

// local is an address without what tells how it came to be known.
func local(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// reset ends a connection as if nobody had listened.
func reset(conn net.Conn) {
	if tcp, ok := unwrapped(conn).(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// serveDirect serves one connection that is relayed, or that begins with TLS.
func (p *Proxy) serveDirect(conn net.Conn, gate Gate, a rules.Authority, hole bool) {
	defer func() {
		if v := recover(); v != nil {
			p.cfg.Log.Error("panic", slog.String("where", "direct"), slog.String("stack", stack()))
			conn.Close()
		}
	}()
	client, process, err := gate.Admit(conn, nil)
	if err != nil {
		p.noteStranger(client, process, err)
		reset(conn)
		return
	}
	t := &tunnel{Conn: unwrapped(conn), caller: caller{client, process}, p: p, authority: a, scheme: "https", hole: hole}
	if err := t.open(); err != nil {
		p.denyDirect(t, err, "")
		conn.Close()
		return
	}
	if err := client.Session.Live(); err != nil {
		p.denyDirect(t, err, "")
		t.Close()
		return
	}
	if hole {
		p.relayHole(t)
		return
	}
	p.serveNamed(t)
}

// relayHole relays a connection through a hole. The user named the address, so
// any will do.
func (p *Proxy) relayHole(t *tunnel) {
	ctx, cancel := context.WithTimeout(context.Background(), dial.Timeout)
	defer cancel()
	up, err := p.dialer.Dial(ctx, t.authority, nil, dial.Named)
	if err != nil {
		p.denyDirect(t, err, "")
		reset(t.Conn)
		t.Close()
		return
	}
	p.relay(t, up)
}

// serveNamed goes on with a connection to port 443 as with a CONNECT to the host
// that its TLS greeting names.
func (p *Proxy) serveNamed(t *tunnel) {
	name, err := t.greeting()
	var a rules.Authority
	if err == nil {
		a, err = rules.ParseHost(name, t.authority.Port)
	}
	if err != nil || a.IsIP() || a.Port != t.authority.Port {
		p.denyDirect(t, &grant.Refusal{Code: "bad_request"}, "the TLS greeting names no host")
		t.Close()
		return
	}
	t.authority = a
	switch t.verdict = t.client.Session.Host(a); t.verdict.Action {
	case rules.UnmatchedDeny:
		p.denyDirect(t, &grant.Refusal{Code: "unmatched_denied"}, "")
		t.Conn.SetWriteDeadline(time.Now().Add(handshakeTimeout))
		io.WriteString(t.Conn, accessDenied)
		t.Close()
	case rules.Intercept:
		p.intercept(t)
	default:
		p.passthroughOpened(t)
	}
}

// accessDenied is a fatal TLS alert (RFC 8446, 6.2): a client that is refused
// says so, instead of trying again.
const accessDenied = "\x15\x03\x03\x00\x02\x02\x31"

func (p *Proxy) denyDirect(t *tunnel, err error, reason string) {
	rec := t.record("deny")
	rec.ID, rec.Code, rec.Reason = newID(), p.refusalOf(err, "direct").Code, reason
	p.note(rec)
}

// servePlainDirect serves a request to port 80 for the host that it names.
func (p *Proxy) servePlainDirect(w http.ResponseWriter, r *http.Request, c *caller) {
	code := ""
	a, err := rules.ParseHost(r.Host, 80)
	switch {
	case err != nil, r.Method == http.MethodConnect, !strings.HasPrefix(r.RequestURI, "/") && r.RequestURI != "*":
		code = "bad_request"
	case a.Port != 80:
		code = "authority_mismatch"
	}
	if code != "" {
		id := newID()
		p.noteDeny(c, nil, id, code)
		writeRefusal(w, code, id)
		return
	}
	p.exchange(w, r, &tunnel{caller: *c, p: p, authority: a, scheme: "http"})
}

// noteStranger records a connection that was not admitted, and says its code.
func (p *Proxy) noteStranger(client *Client, process audit.Process, err error) (code, id string) {
	code, id = "credentials_required", newID()
	if !errors.Is(err, ErrCredentials) {
		// Strangers must not fill the log: it tells of those that have a cause.
		refusal := grant.AsRefusal(err)
		if code = refusal.Code; refusal.Cause != nil {
			p.refusalOf(err, "admission")
		}
	}
	rec := &audit.Record{Type: "deny", ID: id, Code: code, Process: process}
	if client != nil {
		rec.Session, rec.Profile, rec.Isolation = client.Session.ID, client.Session.Profile.Name, client.Isolation
	}
	p.note(rec)
	return code, id
}
