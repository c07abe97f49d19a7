//go:build linux

package cases

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// Serve says how an upstream serves.
type Serve struct {
	TLS      *tls.Config      // nil: in the clear
	Handler  http.HandlerFunc // nil: reads the body and answers 200 "ok\n"
	Script   func(*wireConn)  // instead of HTTP: speaks on each connection, after TLS
	Raw      func(net.Conn)   // instead of all: speaks on the bare TCP connection; records nothing itself
	CA       string           // the file that vouches for it; test-ca.pem beside the rules if empty
	Nameless bool             // makes no entry of "upstreams:"
}

// Upstream is a server on loopback that records what it receives.
type Upstream struct {
	c     *Case
	Name  string
	ln    net.Listener
	tls   *tls.Config
	queue *connQueue
	http  *http.Server
	raw   func(net.Conn)

	mu      sync.Mutex
	handler http.HandlerFunc
	script  func(*wireConn)
	h2      func(net.Conn)
	conns   []*wireConn
	dials   int
	open    map[net.Conn]struct{}
	tasks   sync.WaitGroup
}

// Upstream starts a server for a name (host:port) and names it in the rules.
func (c *Case) Upstream(name string, s Serve) *Upstream {
	c.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.Fatal(err)
	}
	u := &Upstream{
		c: c, Name: name, ln: ln, tls: s.TLS, queue: newConnQueue(ln.Addr()),
		raw: s.Raw, handler: s.Handler, script: s.Script, open: map[net.Conn]struct{}{},
	}
	if u.handler == nil {
		u.handler = okHandler
	}
	u.http = &http.Server{Handler: http.HandlerFunc(u.serveHTTP), MaxHeaderBytes: 8 << 20, ErrorLog: discardLog()}
	c.upstreams = append(c.upstreams, u)
	if !s.Nameless {
		ca := ""
		if s.TLS != nil || s.Raw != nil {
			if ca = s.CA; ca == "" {
				ca = caFile
				c.ca()
			}
		}
		c.Rules.Upstream(name, u, ca)
	}
	u.tasks.Go(u.accept)
	u.tasks.Go(func() { _ = u.http.Serve(u.queue) })
	return u
}

// Addr is where it listens.
func (u *Upstream) Addr() string { return u.ln.Addr().String() }

// HTTP1 makes it offer HTTP/1.1 only.
func (u *Upstream) HTTP1() *Upstream {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.offer("http/1.1")
	return u
}

// Handle sets what answers from now on.
func (u *Upstream) Handle(h http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.handler = h
}

// Script sets what speaks on connections from now on, after TLS. The ALPN
// protocol is http/1.1.
func (u *Upstream) Script(f func(*wireConn)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.offer("http/1.1")
	u.script = f
}

// H2 sets what serves connections from now on that speak HTTP/2, and offers
// nothing else.
func (u *Upstream) H2(f func(net.Conn)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.offer("h2")
	u.h2 = f
}

// offer sets the protocols of ALPN for connections to come.
func (u *Upstream) offer(protos ...string) {
	if u.tls != nil {
		u.tls = u.tls.Clone()
		u.tls.NextProtos = protos
	}
}

func (u *Upstream) accept() {
	for {
		conn, err := u.ln.Accept()
		if err != nil {
			return
		}
		u.mu.Lock()
		u.dials++
		u.open[conn] = struct{}{}
		config, script, h2 := u.tls, u.script, u.h2
		u.mu.Unlock()
		u.tasks.Go(func() { u.serve(conn, config, script, h2) })
	}
}

func (u *Upstream) serve(conn net.Conn, config *tls.Config, script func(*wireConn), h2 func(net.Conn)) {
	done := func() {
		u.mu.Lock()
		delete(u.open, conn)
		u.mu.Unlock()
		_ = conn.Close()
	}
	if u.raw != nil {
		u.raw(conn)
		done()
		return
	}
	w := &wireConn{Conn: conn, proto: "http/1.1", done: done}
	if config != nil {
		t := tls.Server(conn, config)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if err := t.Handshake(); err != nil {
			done()
			return
		}
		_ = conn.SetDeadline(time.Time{})
		w.Conn = t
		if t.ConnectionState().NegotiatedProtocol == "h2" {
			w.proto = "h2"
		}
	}
	u.mu.Lock()
	u.conns = append(u.conns, w)
	u.mu.Unlock()
	switch {
	case script != nil:
		script(w)
		_ = w.Close()
	case w.proto == "h2" && h2 != nil:
		h2(w)
	case w.proto == "h2":
		(&http2.Server{MaxConcurrentStreams: 1000}).ServeConn(w, &http2.ServeConnOpts{BaseConfig: u.http, Handler: u.http.Handler})
		_ = w.Close()
	default:
		u.queue.put(w)
	}
}

func (u *Upstream) serveHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	h := u.handler
	u.mu.Unlock()
	h(w, r)
}

// closeConns ends all connections, so that the gateway's pools are empty.
func (u *Upstream) closeConns() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for conn := range u.open {
		_ = conn.Close()
	}
}

func (u *Upstream) stop() {
	_ = u.ln.Close()
	_ = u.http.Close()
	u.queue.close()
	u.closeConns()
}

// okHandler reads the whole request and answers.
func okHandler(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, "ok\n")
}

// echoed is what UE answers with.
type echoed struct {
	Method, Host, Target string
	Headers              map[string][]string
	Body                 string
}

func echoHandler(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	out, err := json.Marshal(echoed{r.Method, r.Host, r.RequestURI, r.Header, string(body)})
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(out)
}

// wireConn records what is read from it.
type wireConn struct {
	net.Conn
	proto string
	done  func()
	once  sync.Once

	mu  sync.Mutex
	got bytes.Buffer
}

func (w *wireConn) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.mu.Lock()
		w.got.Write(p[:n])
		w.mu.Unlock()
	}
	return n, err
}

func (w *wireConn) bytes() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.got.Bytes())
}

func (w *wireConn) Close() error {
	err := w.Conn.Close()
	w.once.Do(w.done)
	return err
}

// CloseWithoutNotify ends the TCP connection without a word of TLS.
func (w *wireConn) CloseWithoutNotify() {
	if t, ok := w.Conn.(*tls.Conn); ok {
		_ = t.NetConn().Close()
	}
	w.once.Do(w.done)
}

// connQueue is a listener that is fed with connections.
type connQueue struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newConnQueue(addr net.Addr) *connQueue {
	return &connQueue{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (q *connQueue) put(conn net.Conn) {
	select {
	case q.conns <- conn:
	case <-q.closed:
		_ = conn.Close()
	}
}

func (q *connQueue) Accept() (net.Conn, error) {
	select {
	case conn := <-q.conns:
		return conn, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *connQueue) Close() error   { q.close(); return nil }
func (q *connQueue) Addr() net.Addr { return q.addr }
func (q *connQueue) close()         { q.once.Do(func() { close(q.closed) }) }

// forbidden says whether no secret may ever arrive here.
func (u *Upstream) forbidden() bool {
	return slices.Contains([]*Upstream{u.c.U2, u.c.U3}, u) || strings.HasPrefix(u.Name, evil)
}
