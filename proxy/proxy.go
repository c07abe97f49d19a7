// Package proxy is the wire: the front door that clients connect to, the
// tunnels behind it, one HTTP server for all decrypted connections, and the
// forwarder that sends requests to their upstreams.
//
// It holds no policy, no key and no value. Which rule matches, what may be
// substituted and what the client is shown come from packages rules and grant,
// and through the one-method interfaces that are declared here.
//
// Invariant: a request that carries a substituted value leaves only through
// exchange.send, which has recorded it first; and what comes back reaches the
// client only through exchange.receive, which scrubs it.
package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/elazarl/goproxy"

	"standin/audit"
	"standin/grant"
	"standin/proxy/dial"
)

// Limits of the gateway. They bound what a hostile command can make it hold.
const (
	maxTunnels        = 16384 // of the whole gateway
	maxClientTunnels  = 4096  // of one session
	maxHeaderBytes    = 64 << 10
	maxResponseHeader = 256 << 10
	maxStreams        = 250      // of one HTTP/2 connection
	maxFrame          = 16 << 10 // of HTTP/2: what clients send unless they are told to send more
	streamBuffer      = 1 << 20  // of an answer over HTTP/2 whose client reads more slowly
	readHeaderTimeout = 10 * time.Second
	handshakeTimeout  = 10 * time.Second
	idleTimeout       = 5 * time.Minute
	answerTimeout     = 10 * time.Minute // to the first byte of an answer: some models think that long
	stallTimeout      = 2 * time.Minute  // for a client that does not read
	quietTimeout      = 10 * time.Minute // for a WebSocket on which nobody says anything
	cutTimeout        = 2 * time.Second  // for the last records of a session's WebSockets
	silence           = 5 * time.Minute  // of an upstream within an answer that is no stream of events
)

// Recorder takes records. Append returns when the record is durable; Note does
// not wait, and keeps the order. *audit.Log is one.
type Recorder interface {
	Append(ctx context.Context, r *audit.Record) error
	Note(r *audit.Record) error
}

// Leaves issues the certificate that a client is shown for a host.
type Leaves interface {
	Leaf(ctx context.Context, host string) (*tls.Certificate, error)
}

// Gate says which session a connection belongs to, and which process is at the
// other end of it where that is known. The error is ErrCredentials (the client
// is asked for credentials) or a *grant.Refusal.
type Gate interface {
	Admit(conn net.Conn, credentials []string) (*Client, audit.Process, error)
}

// ErrCredentials says that a connection shows no credentials, or wrong ones.
var ErrCredentials = errors.New("proxy credentials are missing or wrong")

// Config assembles a Proxy.
type Config struct {
	Recorder Recorder
	Log      *slog.Logger
	Roots    *x509.CertPool                        // what vouches for upstreams; nil: the system's
	Via      func(host *url.URL) (*url.URL, error) // the proxy towards upstreams; nil: none
	Resolver *net.Resolver                         // nil: Go's own
	// Bounds of the tunnels of all sessions and of each; 0: maxTunnels, maxClientTunnels.
	MaxTunnels, MaxClientTunnels int
	// MaxConns is how many connections of clients may be open before further ones
	// have to wait; 0: as many as come.
	MaxConns int
}

// Proxy is a gateway's wire. Serve may be called for several listeners.
type Proxy struct {
	cfg     Config
	connect *goproxy.ProxyHttpServer
	front   *http.Server
	inner   *http.Server
	opened  *connections
	tls     *tlsConfigs
	dialer  *dial.Dialer
	tunnels atomic.Int64
	doors   atomic.Int64 // connections at the front door that are no tunnel yet
	serving sync.WaitGroup
}

// New makes a Proxy and starts the server of decrypted connections, which Close
// stops.
func New(cfg Config) (*Proxy, error) {
	if cfg.Recorder == nil || cfg.Log == nil {
		return nil, errors.New("make proxy: a recorder and a log are required")
	}
	if cfg.Resolver == nil {
		cfg.Resolver = &net.Resolver{PreferGo: true}
	}
	if cfg.MaxTunnels == 0 {
		cfg.MaxTunnels = maxTunnels
	}
	if cfg.MaxClientTunnels == 0 {
		cfg.MaxClientTunnels = maxClientTunnels
	}
	p := &Proxy{cfg: cfg, opened: newConnections(), tls: newTLSConfigs(),
		dialer: &dial.Dialer{Resolver: cfg.Resolver, Via: cfg.Via, Roots: cfg.Roots}}
	p.connect = p.newConnect()
	quiet := slog.NewLogLogger(dropText{cfg.Log.Handler()}, slog.LevelDebug)
	p.front = &http.Server{
		Handler:                      http.HandlerFunc(p.serveFront),
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is a request like any other
		ReadHeaderTimeout:            readHeaderTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     quiet,
		ConnContext:                  withConn,
		ConnState:                    p.countDoors,
		Protocols:                    protocols(false),
	}
	p.inner = &http.Server{
		Handler:                      http.HandlerFunc(p.serveDecrypted),
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is a request like any other
		ReadHeaderTimeout:            readHeaderTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     quiet,
		ConnContext:                  withConn,
		Protocols:                    protocols(true),
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReadFrameSize: maxFrame, SendPingTimeout: time.Minute},
	}
	p.serving.Go(func() { p.inner.Serve(p.opened) })
	return p, nil
}

// countDoors counts the connections at the front door.
func (p *Proxy) countDoors(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		p.doors.Add(1)
	case http.StateClosed, http.StateHijacked:
		p.doors.Add(-1)
	}
}

// waitPause is how long a full front door waits before it looks again.
const waitPause = 10 * time.Millisecond

// room waits until one more connection may be open.
func (p *Proxy) room() {
	for p.cfg.MaxConns > 0 && p.doors.Load()+p.tunnels.Load() >= int64(p.cfg.MaxConns) {
		time.Sleep(waitPause)
	}
}

func protocols(h2 bool) *http.Protocols {
	var ps http.Protocols
	ps.SetHTTP1(true)
	ps.SetHTTP2(h2)
	return &ps
}

// Serve admits the connections of l by gate until l is closed.
func (p *Proxy) Serve(l net.Listener, gate Gate) error {
	p.dialer.Reserve(l.Addr())
	defer p.dialer.Release(l.Addr())
	err := p.front.Serve(&gatedListener{Listener: l, gate: gate, p: p})
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Tunnels is how many tunnels are open.
func (p *Proxy) Tunnels() int { return int(p.tunnels.Load()) }

// Close drains the requests under way until ctx ends, then cuts them, and
// waits for what it started. Tunnels are cut by Client.Cut.
func (p *Proxy) Close(ctx context.Context) error {
	err := errors.Join(p.front.Shutdown(ctx), p.inner.Shutdown(ctx))
	if err != nil {
		err = errors.Join(p.front.Close(), p.inner.Close())
	}
	p.serving.Wait()
	return err
}

// Client is a session as the wire sees it.
type Client struct {
	Session   *grant.Session
	Leaves    Leaves
	Isolation string

	upstreams upstreams
	relays    sync.WaitGroup // of WebSockets
	mu        sync.Mutex
	open      map[*tunnel]struct{}
	cut       bool
}

// NewClient makes the wire's side of a session. Errors are those of the files
// that the policy's upstreams name.
func NewClient(s *grant.Session, leaves Leaves, isolation string) (*Client, error) {
	c := &Client{Session: s, Leaves: leaves, Isolation: isolation, open: map[*tunnel]struct{}{}}
	if err := c.upstreams.load(s.Policy); err != nil {
		return nil, err
	}
	return c, nil
}

// blind is what a host may lead to that passes unopened: under "netns" not to
// this machine itself, which the command cannot reach without the gateway.
func (c *Client) blind() dial.Guard {
	if c.Isolation == "netns" {
		return dial.Apart
	}
	return dial.Blind
}

// Tunnels is how many tunnels of this session are open.
func (c *Client) Tunnels() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// Cut closes every tunnel of the session, at once, and every later one. It waits
// for what WebSockets have to put on record, if that takes no longer than a moment.
func (c *Client) Cut() {
	c.mu.Lock()
	c.cut = true
	open := c.open
	c.open = map[*tunnel]struct{}{}
	c.mu.Unlock()
	for t := range open {
		t.Close()
	}
	c.upstreams.close()
	recorded := make(chan struct{})
	go func() {
		c.relays.Wait()
		close(recorded)
	}()
	select {
	case <-recorded:
	case <-time.After(cutTimeout):
	}
}

// relaying counts a relay whose end Cut waits for. It answers false when the
// session was cut already.
func (c *Client) relaying() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.cut {
		c.relays.Add(1)
	}
	return !c.cut
}

// add counts a tunnel of the session, of which there are at most so many.
func (c *Client) add(t *tunnel, most int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return &grant.Refusal{Code: "session_closed"}
	}
	if len(c.open) >= most {
		return &grant.Refusal{Code: "too_many_tunnels"}
	}
	c.open[t] = struct{}{}
	return nil
}

func (c *Client) has(t *tunnel) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.open[t]
	return ok
}

func (c *Client) remove(t *tunnel) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, t)
}
