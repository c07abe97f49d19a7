package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpproxy"

	"standin/audit"
	"standin/ca"
	"standin/grant"
	"standin/proxy"
	"standin/rules"
	"standin/vault"
)

// gateway is the wire and what it needs, for one policy.
type gateway struct {
	home     home
	store    *vault.Store
	environ  []string
	current  atomic.Pointer[edition]
	shared   net.Addr // of the front door for all who show credentials, or nil
	record   *audit.Log
	proxy    *proxy.Proxy
	gate     *proxy.Credentials
	log      *slog.Logger
	logFile  io.Closer
	scrubbed *scrubbedWriter

	life    context.Context // ends when the gateway does
	endLife context.CancelFunc
	marking sync.WaitGroup
	living  atomic.Int64 // sessions that have not ended

	mu        sync.Mutex
	resolvers []*vault.Resolver // of all editions: a session may still use an old one
}

// gatewayConfig is what a gateway is made from.
type gatewayConfig struct {
	home     home
	store    *vault.Store
	policy   *rules.Policy
	environ  []string // the user's
	logFile  string   // "": that of the home
	upstream upstreamConfig
	// The most tunnels of all sessions, and of each; 0: the usual.
	tunnels, sessionTunnels int
}

// upstreamConfig is what vouches for upstreams, and the proxy towards them.
type upstreamConfig struct {
	roots *x509.CertPool
	via   func(*url.URL) (*url.URL, error)
}

// newGateway opens the log and the record. Without a record there is no gateway.
func newGateway(ctx context.Context, cfg gatewayConfig) (*gateway, error) {
	file, err := openLog(cfg.home, cfg.logFile)
	if err != nil {
		return nil, err
	}
	g := &gateway{home: cfg.home, store: cfg.store, environ: cfg.environ,
		gate: proxy.NewCredentials(), logFile: file, scrubbed: &scrubbedWriter{to: file}}
	g.log = newLogger(g.scrubbed)
	first, err := g.newEdition(ctx, cfg.policy)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	g.current.Store(first)
	g.record, err = audit.Open(cfg.home.Audit(), auditKeys(cfg.store), auditConfig(cfg.store))
	if err != nil {
		file.Close()
		return nil, err
	}
	g.proxy, err = proxy.New(proxy.Config{Recorder: g.record, Log: g.log, Roots: cfg.upstream.roots, Via: cfg.upstream.via, MaxTunnels: cfg.tunnels, MaxClientTunnels: cfg.sessionTunnels, MaxConns: maxConnections()})
	if err != nil {
		return nil, errors.Join(err, g.record.Close(), file.Close())
	}
	g.life, g.endLife = context.WithCancel(context.Background())
	g.marking.Go(g.mark)
	return g, nil
}

// markEvery is how often the record says that the gateway lives. In the system's
// journal, where there is one, a mark is an anchor out of the user's reach.
const markEvery = 5 * time.Minute

// mark writes marks until the gateway ends, while there is a session to speak of.
func (g *gateway) mark() {
	ticker := time.NewTicker(markEvery)
	defer ticker.Stop()
	for {
		select {
		case <-g.life.Done():
			return
		case <-ticker.C:
			if g.living.Load() == 0 {
				continue
			}
			if _, err := g.record.Mark(g.life); err != nil {
				g.log.Warn("no mark", slog.Any("cause", err))
			}
		}
	}
}

// markNow writes one mark. A fault of it costs that mark only.
func (g *gateway) markNow() {
	defer g.contain("mark")
	if _, err := g.record.Mark(g.life); err != nil {
		g.log.Warn("no mark", slog.Any("cause", err))
	}
}

// execSources are the commands of the rules file that print a secret.
func execSources(policy *rules.Policy) map[string]vault.ExecSource {
	found := map[string]vault.ExecSource{}
	for name, source := range policy.Sources {
		if source.Kind == "exec" {
			found[strings.TrimPrefix(name, "exec:")] = vault.ExecSource{Command: source.Command, Env: source.Env, Timeout: source.Timeout, TTL: source.TTL}
		}
	}
	return found
}

// lastRequests is how long requests under way may take after the command has ended.
const lastRequests = 2 * time.Second

// drain gives the requests and tunnels under way time until the context ends, and
// serves no new ones.
func (g *gateway) drain(ctx context.Context) {
	err := g.proxy.Close(ctx)
	for err == nil && g.proxy.Tunnels() > 0 && ctx.Err() == nil {
		pause()
	}
	if err != nil || g.proxy.Tunnels() > 0 {
		g.log.Warn("not everything ended within its time; what is left is cut", slog.Int("tunnels", g.proxy.Tunnels()))
	}
}

// pause waits for a moment before something is looked at, or tried, again.
func pause() { time.Sleep(20 * time.Millisecond) }

// close ends the wire, seals the record, and closes the log.
func (g *gateway) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), lastRequests)
	defer cancel()
	err := g.proxy.Close(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	g.endLife()
	g.marking.Wait()
	g.closeSources()
	return errors.Join(err, g.record.Close(), g.logFile.Close())
}

// live is a session and all that belongs to it.
type live struct {
	g            *gateway
	placeholders map[string]string
	session      *grant.Session
	client       *proxy.Client
	authority    *ca.Authority
	token        string
	process      atomic.Pointer[audit.Process] // the command, once it runs
	handingFiles sync.Mutex
	owner        *os.File        // locked while values lie in files, or nil
	left         error           // why delivered files are left, once watched is closed
	watched      chan struct{}   // closed when the end of the grants is on record
	resolver     *vault.Resolver // of the edition that it was opened under

	handing sync.Mutex
	handed  map[string]*granted // what the command gets itself
}

// sessionConfig is what a session is opened with.
type sessionConfig struct {
	edition   *edition
	profile   *rules.Profile
	isolation string
	command   string  // base name of the executable
	room      *room   // in which the command lives, or nil
	relayed   bool    // the command is in another network: its launcher relays
	outer     *hosted // the session that this one is a part of, or nil
}

// open starts a session: its secrets are read, its authority is made, its
// opening is on record.
func (g *gateway) open(ctx context.Context, cfg sessionConfig) (*live, error) {
	e := cfg.edition
	s, err := grant.Open(ctx, grant.Config{
		ID: sessionID(), Policy: e.policy, Profile: cfg.profile, Placeholders: e.placeholders,
		Source: e.resolver, Fingerprint: g.record.Fingerprint,
	})
	if err != nil {
		return nil, err
	}
	g.scrubbed.add(s)
	authority, err := ca.New(ca.Config{Hosts: e.policy.InterceptedHosts(), NotAfter: s.Expires.Add(time.Hour), Name: s.ID})
	if err != nil {
		return nil, err
	}
	client, err := proxy.NewClient(s, authority, cfg.isolation)
	if err != nil {
		return nil, err
	}
	l := &live{g: g, placeholders: e.placeholders, session: s, client: client, authority: authority, token: strings.ToLower(rand.Text() + rand.Text()),
		watched: make(chan struct{}), resolver: e.resolver}
	l.grantDeliveries()
	rec := l.record("open")
	rec.Command, rec.RulesHash = cfg.command, e.policy.Hash
	if err := g.record.Append(ctx, rec); err != nil {
		return nil, err
	}
	for _, name := range cfg.profile.Secrets {
		rec := l.record("grant")
		rec.Secrets = []string{name}
		if err := g.record.Note(rec); err != nil {
			return nil, err
		}
	}
	if cfg.isolation == isolationSession {
		g.gate.Add(client, l.token)
	}
	g.living.Add(1)
	go l.watch()
	return l, nil
}

// watch cuts the session's connections when its time is over or it is revoked.
func (l *live) watch() {
	defer close(l.watched)
	defer l.g.contain("watch")
	defer func() { l.left = l.withdraw() }()
	defer l.client.Cut() // whatever happens here
	<-l.session.Ended()
	grant.Fault("watch", l.session.Profile.Name)
	l.client.Cut()
	rec := l.record("revoke")
	rec.Reason = l.session.Reason()
	if err := l.g.record.Note(rec); err != nil {
		l.g.log.Warn("record lost", slog.String("type", "revoke"), slog.Any("cause", err))
	}
}

// end revokes the session, cuts its connections and records its end.
func (l *live) end(reason string, began time.Time) error {
	l.session.Revoke(reason)
	<-l.watched
	defer l.g.living.Add(-1)
	l.authority.Close()
	rec := l.record("close")
	rec.Reason, rec.Duration = reason, time.Since(began)
	return errors.Join(l.left, l.g.record.Append(context.Background(), rec))
}

func (l *live) record(kind string) *audit.Record {
	rec := &audit.Record{Type: kind, Session: l.session.ID, Profile: l.session.Profile.Name, Isolation: l.client.Isolation}
	if process := l.process.Load(); process != nil {
		rec.Process = *process
	}
	return rec
}

// proxyURL is what the command's environment names as its proxy.
func (l *live) proxyURL(listener net.Addr) string {
	u := url.URL{Scheme: "http", Host: listener.String()}
	if l.client.Isolation == isolationSession {
		u.User = url.UserPassword(l.session.ID, l.token)
	}
	return u.String()
}

// sessionID names a session in the record and in its proxy credentials, which
// some clients take only when they hold letters and digits.
func sessionID() string { return "s" + strings.ToLower(rand.Text()[:12]) }

// upstreams reads --upstream-ca and --upstream-proxy. Nothing of the gateway's
// own environment reaches its connections unless they say "env".
func (p *program) upstreams(caFlag, proxyFlag string) (upstreamConfig, error) {
	var cfg upstreamConfig
	if caFlag == "env" {
		if caFlag = p.getenv("SSL_CERT_FILE"); caFlag == "" {
			return cfg, usageError("--upstream-ca env: $SSL_CERT_FILE is not set")
		}
	}
	if caFlag != "" {
		pem, err := readLimited(caFlag, 16<<20)
		if err != nil {
			return cfg, fmt.Errorf("read --upstream-ca: %w", err)
		}
		cfg.roots = x509.NewCertPool()
		if !cfg.roots.AppendCertsFromPEM(pem) {
			return cfg, fmt.Errorf("read --upstream-ca %q: it holds no certificate", caFlag)
		}
	}
	switch proxyFlag {
	case "":
	case "env":
		env := httpproxy.Config{HTTPSProxy: p.first("HTTPS_PROXY", "https_proxy"), HTTPProxy: p.first("HTTP_PROXY", "http_proxy"), NoProxy: p.first("NO_PROXY", "no_proxy")}
		cfg.via = env.ProxyFunc()
	default:
		via, err := url.Parse(proxyFlag)
		if err != nil || via.Host == "" || via.Scheme != "http" && via.Scheme != "https" {
			return cfg, usageError("--upstream-proxy takes \"env\" or a URL like http://proxy.example:3128")
		}
		cfg.via = func(*url.URL) (*url.URL, error) { return via, nil }
	}
	return cfg, nil
}

// first is the value of the first variable that is set.
func (p *program) first(names ...string) string {
	for _, name := range names {
		if value := p.getenv(name); value != "" {
			return value
		}
	}
	return ""
}

// logged tells the operator of an error that nobody else is told of.
func (g *gateway) logged(err error) {
	if err != nil {
		g.log.Warn("ended with an error", slog.Any("cause", err))
	}
}

// contain keeps a panic in the goroutine of one caller or session. Its text, which
// may hold anything, is in no log.
func (g *gateway) contain(where string) {
	if v := recover(); v != nil {
		b := make([]byte, 16<<10)
		g.log.Error("panic", slog.String("where", where), slog.String("stack", string(b[:runtime.Stack(b, false)])))
	}
}
