package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/elazarl/goproxy"

	"standin/audit"
	"standin/grant"
	"standin/rules"
)

// gatedListener marks its connections with the gate that admits them.
type gatedListener struct {
	net.Listener
	p      *Proxy
	gate   Gate
	direct bool // its clients name no proxy
}

func (l *gatedListener) Accept() (net.Conn, error) {
	l.p.room()
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &gatedConn{Conn: conn, gate: l.gate, direct: l.direct}, nil
}

// gatedConn is a connection at the front door.
type gatedConn struct {
	net.Conn
	gate   Gate
	direct bool
}

// CloseWrite lets net/http end its own side first, so that a client which still
// sends gets the answer that it is refused with.
func (c *gatedConn) CloseWrite() error {
	if half, ok := unwrapped(c.Conn).(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// unwrapped is the connection itself, below what a gate may have put round it.
func unwrapped(conn net.Conn) net.Conn {
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return wrapped.NetConn()
	}
	return conn
}

type connKey struct{}

// withConn lets a handler find the connection that its request came by.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// caller is who sent a request to the front door.
type caller struct {
	client  *Client
	process audit.Process
}

type callerKey struct{}

// serveFront admits the client, and then serves CONNECT by goproxy's dispatch,
// and http:// requests itself.
func (p *Proxy) serveFront(w http.ResponseWriter, r *http.Request) {
	defer p.contain(w, "front door")
	conn, _ := r.Context().Value(connKey{}).(*gatedConn)
	if conn == nil {
		writeRefusal(w, "internal", newID())
		return
	}
	client, process, err := conn.gate.Admit(conn.Conn, r.Header.Values("Proxy-Authorization"))
	if err != nil {
		code, id := p.noteStranger(client, process, err)
		writeStranger(w, code, id, process)
		return
	}
	r.Header.Del("Proxy-Authorization")
	c := &caller{client, process}
	grant.Fault("front", r.URL.Hostname())
	if conn.direct {
		p.servePlainDirect(w, r, c)
		return
	}
	if r.Method != http.MethodConnect {
		p.servePlain(w, r, c)
		return
	}
	p.connect.ServeHTTP(&replayWriter{w}, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
}

// newConnect sets goproxy up to dispatch CONNECT and nothing else: one handler
// that always decides, by our own action or by a reject.
func (p *Proxy) newConnect() *goproxy.ProxyHttpServer {
	g := goproxy.NewProxyHttpServer()
	g.Logger = log.New(io.Discard, "", 0)
	g.Tr = nil
	g.ConnectDial = nil
	g.CertStore = nil
	g.OnRequest().HandleConnect(goproxy.FuncHttpsHandler(func(_ string, ctx *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
		return p.dispatch(ctx)
	}))
	return g
}

// dispatch decides what becomes of a CONNECT.
func (p *Proxy) dispatch(ctx *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
	r := ctx.Req
	c, _ := r.Context().Value(callerKey{}).(*caller)
	id := newID()
	t, err := p.newTunnel(c, r)
	if err != nil {
		code := p.refusalOf(err, "connect").Code
		p.noteDeny(c, t, id, code)
		ctx.Resp = refusalResponse(r, code, id)
		return goproxy.RejectConnect, ""
	}
	return &goproxy.ConnectAction{Action: goproxy.ConnectHijack, Hijack: func(_ *http.Request, conn net.Conn, _ *goproxy.ProxyCtx) {
		t.Conn = conn
		p.run(t)
	}}, ""
}

// newTunnel checks a CONNECT before anything is answered.
func (p *Proxy) newTunnel(c *caller, r *http.Request) (*tunnel, error) {
	if c == nil {
		return nil, errors.New("serve CONNECT: no caller")
	}
	a, err := rules.ParseAuthority(r.RequestURI)
	if err != nil || r.ContentLength > 0 || len(r.TransferEncoding) > 0 {
		return nil, &grant.Refusal{Code: "bad_request"}
	}
	t := &tunnel{caller: *c, p: p, authority: a, scheme: "https"}
	if err := c.client.Session.Live(); err != nil {
		return t, err
	}
	t.verdict = c.client.Session.Host(a)
	if t.verdict.Action == rules.UnmatchedDeny {
		return t, &grant.Refusal{Code: "unmatched_denied"}
	}
	return t, nil
}

// servePlain serves an absolute-form http:// request, in the clear.
func (p *Proxy) servePlain(w http.ResponseWriter, r *http.Request, c *caller) {
	id := newID()
	if !strings.HasPrefix(strings.ToLower(r.RequestURI), "http://") {
		code := "bad_request"
		if strings.HasPrefix(r.RequestURI, "/") {
			code = "unmatched_denied" // the front door has no pages of its own
		}
		p.noteDeny(c, nil, id, code)
		writeRefusal(w, code, id)
		return
	}
	a, err := rules.ParseHost(r.URL.Host, 80)
	if err != nil || r.URL.User != nil {
		p.noteDeny(c, nil, id, "bad_request")
		writeRefusal(w, "bad_request", id)
		return
	}
	p.exchange(w, r, &tunnel{caller: *c, p: p, authority: a, scheme: "http"})
}

// replayWriter gives out the hijacked connection together with the bytes that
// the server had already read behind the CONNECT.
type replayWriter struct{ http.ResponseWriter }

func (w *replayWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if gated, ok := conn.(*gatedConn); ok {
		conn = gated.Conn
	}
	// What a gate has wrapped around the connection has done its work.
	conn = unwrapped(conn)
	if n := rw.Reader.Buffered(); n > 0 {
		early, _ := rw.Reader.Peek(n)
		conn = &replayConn{Conn: conn, early: bytes.Clone(early)}
	}
	return conn, bufio.NewReadWriter(bufio.NewReaderSize(conn, 16), bufio.NewWriterSize(conn, 16)), nil
}

// replayConn reads early first.
type replayConn struct {
	net.Conn
	early []byte
}

func (c *replayConn) Read(p []byte) (int, error) {
	if len(c.early) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.early)
	if c.early = c.early[n:]; len(c.early) == 0 {
		c.early = nil
	}
	return n, nil
}

// contain keeps a panic in its connection, and its text, which may hold
// anything, out of every log.
func (p *Proxy) contain(w http.ResponseWriter, where string) {
	switch v := recover(); v {
	case nil:
	case http.ErrAbortHandler:
		panic(v)
	default:
		p.cfg.Log.Error("panic", slog.String("where", where), slog.String("stack", stack()))
		if w == nil {
			return
		}
		if s, ok := w.(interface{ started() bool }); ok && s.started() {
			panic(http.ErrAbortHandler)
		}
		writeRefusal(w, "internal", newID())
	}
}

// Credentials is the gate of isolation "session": a connection belongs to the
// session whose id and token it shows. Tokens are kept as hashes, in memory only.
type Credentials struct {
	mu   sync.RWMutex
	byID map[string]credential
}

type credential struct {
	hash   [sha256.Size]byte
	client *Client
}

// NewCredentials makes a gate that admits nobody.
func NewCredentials() *Credentials { return &Credentials{byID: map[string]credential{}} }

// Add admits connections that show the token of c's session.
func (g *Credentials) Add(c *Client, token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.byID[c.Session.ID] = credential{sha256.Sum256([]byte(token)), c}
}

// Remove forgets a session: its credentials are wrong from then on.
func (g *Credentials) Remove(session string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.byID, session)
}

// Admit takes the session from "Basic" credentials. What is wrong with them is
// not said, and takes no different time.
func (g *Credentials) Admit(_ net.Conn, lines []string) (*Client, audit.Process, error) {
	id, token := "", ""
	if len(lines) == 1 {
		id, token = basicCredentials(lines[0])
	}
	g.mu.RLock()
	known := g.byID[id]
	g.mu.RUnlock()
	shown := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(shown[:], known.hash[:]) != 1 || known.client == nil {
		return nil, audit.Process{}, ErrCredentials
	}
	return known.client, audit.Process{}, nil
}

func basicCredentials(line string) (user, password string) {
	scheme, coded, ok := strings.Cut(line, " ")
	if !ok || !strings.EqualFold(scheme, "Basic") || len(coded) > 1024 {
		return "", ""
	}
	plain, err := base64.StdEncoding.DecodeString(coded)
	if err != nil {
		return "", ""
	}
	user, password, _ = strings.Cut(string(plain), ":")
	return user, password
}
