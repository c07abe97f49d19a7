package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"standin/grant"
	"standin/proxy/dial"
	"standin/rules"
)

// maxPools bounds the pools of one session: a wildcard may name many hosts.
const maxPools = 256

// poolKey names a pool of connections: those of one rule to one upstream.
type poolKey struct {
	rule      string
	authority rules.Authority
	scheme    string
	h1        bool // for WebSockets
}

// upstreams are the connections of one session. No session uses another's.
type upstreams struct {
	files map[*rules.Upstream]*tls.Config // what "ca", "client-cert" and "client-key" say

	mu     sync.Mutex
	pools  *lru.Cache[poolKey, *http.Transport]
	closed bool
}

// load reads the files that the policy's upstreams name.
func (u *upstreams) load(policy *rules.Policy) error {
	u.files = map[*rules.Upstream]*tls.Config{}
	for name, up := range policy.Upstreams {
		cfg := &tls.Config{}
		ca, cert, key := up.Files()
		if up.CA != "" {
			cfg.RootCAs = x509.NewCertPool()
			if !cfg.RootCAs.AppendCertsFromPEM(ca) {
				return fmt.Errorf("read ca of upstream %q: %q holds no certificate", name, up.CA)
			}
		}
		if up.ClientCert != "" {
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				return fmt.Errorf("read client-cert of upstream %q: %w", name, err)
			}
			cfg.Certificates = []tls.Certificate{pair}
		}
		u.files[up] = cfg
	}
	var err error
	u.pools, err = lru.NewWithEvict(maxPools, func(_ poolKey, t *http.Transport) { t.CloseIdleConnections() })
	return err
}

// close drops the idle connections of all pools.
func (u *upstreams) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	u.pools.Purge()
}

// pool is the pool of a request's rule to its authority. Connections are never
// shared between rules, since a server may tie what was granted to the connection.
func (p *Proxy) pool(x *exchange) (*http.Transport, error) {
	t, rule := x.t, x.decision.Rule
	key := poolKey{authority: t.authority, scheme: t.scheme, h1: x.opens}
	if rule != nil {
		key.rule = rule.Name
	}
	u := &t.client.upstreams
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return nil, &grant.Refusal{Code: "session_closed"}
	}
	if pool, ok := u.pools.Get(key); ok {
		return pool, nil
	}
	pool := p.newPool(t, rule, !x.opens)
	u.pools.Add(key, pool)
	return pool, nil
}

// newPool makes the pool of one rule to one authority. It follows no redirect,
// adds no header, unpacks nothing, and goes through no proxy of the environment.
func (p *Proxy) newPool(t *tunnel, rule *rules.Rule, h2 bool) *http.Transport {
	client, a := t.client, t.authority
	guard := dial.Public
	if rule == nil && t.verdict.Action != rules.Intercept {
		guard = client.blind()
	}
	base := &tls.Config{RootCAs: p.cfg.Roots}
	up := client.Session.Policy.Upstream(a)
	if up != nil {
		base = client.upstreams.files[up].Clone()
		if base.RootCAs == nil {
			base.RootCAs = p.cfg.Roots
		}
	}
	base.ServerName = a.Host
	base.MinVersion = tls.VersionTLS12
	if base.NextProtos = []string{"http/1.1"}; h2 {
		base.NextProtos = []string{"h2", "http/1.1"}
	}
	base.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	base.VerifyConnection = weakKey
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ctx, cancel := whileAsked(ctx)
			defer cancel()
			return p.dialer.Dial(ctx, a, up, guard)
		},
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ctx, cancel := whileAsked(ctx)
			defer cancel()
			conn, err := p.dialer.Dial(ctx, a, up, guard)
			if err != nil {
				return nil, err
			}
			return handshake(ctx, conn, base)
		},
		Protocols:              protocols(h2),
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second, MaxReceiveBufferPerStream: streamBuffer},
		DisableCompression:     true,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        90 * time.Second,
		ExpectContinueTimeout:  300 * time.Millisecond,
		ResponseHeaderTimeout:  answerTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
	}
}

// askedBy is the key of a request's own context among its values.
type askedBy struct{}

// whileAsked ends a dial with the request that it was begun for. The transport
// would go on dialling for requests to come, so that a client which asks and
// leaves, over and over, makes the gateway hold a socket for each.
func whileAsked(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	request, ok := ctx.Value(askedBy{}).(context.Context)
	if !ok {
		return ctx, cancel
	}
	stop := context.AfterFunc(request, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// endedConn makes an end without close_notify an error, which crypto/tls lets
// pass for an end: whoever cuts a connection must not shorten an answer unseen
// (RFC 8446, 6.1). After close_notify the connection is not read again.
type endedConn struct{ net.Conn }

func (c endedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF {
		err = errCut
	}
	return n, err
}

// errCut says that a connection ended without saying so.
var errCut = errors.New("connection was cut")

// handshake greets an upstream. Whatever goes wrong with its certificate or its
// TLS happens before a byte of the request is sent.
func handshake(ctx context.Context, conn net.Conn, cfg *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	wire := dial.NewGathered(endedConn{conn})
	secure := tls.Client(wire, cfg)
	err := secure.HandshakeContext(ctx)
	if err == nil {
		if secure.ConnectionState().NegotiatedProtocol == "h2" {
			wire.Gather()
		}
		return secure, nil
	}
	conn.Close()
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return nil, &grant.Refusal{Code: "upstream_timeout", Cause: err}
	}
	return nil, &grant.Refusal{Code: "upstream_tls", Cause: err}
}
