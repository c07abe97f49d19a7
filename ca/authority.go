package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Config says what an authority is for.
type Config struct {
	// Hosts are the names and addresses that leaves may be issued for:
	// lower-case names, *.example.com, canonical addresses. None is allowed.
	Hosts []string
	// NotAfter ends root, intermediate and leaves. Required.
	NotAfter time.Time
	// Name makes the subjects unique, at most 32 printable characters; a
	// session's id. Random if empty.
	Name string
	// LeafCache is how many leaves are kept; 1024 if 0.
	LeafCache int
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Root signs the intermediate. If nil, the authority makes one of its own
	// and drops its key at once.
	Root *Root
}

// ErrClosed is what Leaf returns after Close.
var ErrClosed = errors.New("authority is closed")

// ErrExpired is what Leaf returns when the authority's time is over.
var ErrExpired = errors.New("authority has expired")

// A NotPermittedError says that the authority is not for a host.
type NotPermittedError struct{ Host string }

func (e *NotPermittedError) Error() string {
	return fmt.Sprintf("issue leaf for %q: not a host of this authority", e.Host)
}

// An Authority issues leaves. It is safe for concurrent use.
type Authority struct {
	root         *x509.Certificate
	intermediate *x509.Certificate
	hosts        *hostSet
	now          func() time.Time
	leaves       *lru.Cache[string, *tls.Certificate]
	leafKeyID    []byte
	limiter      limiter

	mu  sync.Mutex
	key *ecdsa.PrivateKey // of the intermediate; nil once closed
	// leafKey serves every leaf. A key for each would cost a tenth of an issue
	// more and keep nothing safer: all of them would lie in the same memory,
	// beside the key that can sign more, and die with it.
	leafKey *ecdsa.PrivateKey
	issuing map[string]*issue
}

// An issue is a leaf that is being made; done is closed when it is, and nil if
// it was made long ago.
type issue struct {
	done chan struct{}
	cert *tls.Certificate
	err  error
}

// New makes an authority for cfg.Hosts.
func New(cfg Config) (*Authority, error) {
	cfg, hosts, err := cfg.check()
	if err != nil {
		return nil, err
	}
	root := cfg.Root
	if root == nil {
		if root, err = newRoot(cfg, hosts); err != nil {
			return nil, err
		}
	} else if problem := checkRoot(root.cert, root.key, cfg.Now()); problem != "" {
		return nil, &RootError{Problem: problem}
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	leafKey, err := newKey()
	if err != nil {
		return nil, err
	}
	a := &Authority{root: root.cert, hosts: hosts, now: cfg.Now, key: key, leafKey: leafKey, issuing: map[string]*issue{}}
	if a.intermediate, err = newIntermediate(cfg, hosts, root, key.Public()); err != nil {
		return nil, err
	}
	if a.leafKeyID, err = keyID(leafKey.Public()); err != nil {
		return nil, err
	}
	if a.leaves, err = lru.New[string, *tls.Certificate](cfg.LeafCache); err != nil {
		return nil, fmt.Errorf("make leaf cache: %w", err)
	}
	if cfg.Root != nil {
		if err := a.checkReach(cfg); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (cfg Config) check() (Config, *hostSet, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if !cfg.NotAfter.After(cfg.Now()) {
		return cfg, nil, errors.New("make authority: its end lies in the past")
	}
	if cfg.LeafCache == 0 {
		cfg.LeafCache = 1024
	}
	if cfg.LeafCache < 0 {
		return cfg, nil, errors.New("make authority: negative leaf cache")
	}
	if cfg.Name == "" {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return cfg, nil, fmt.Errorf("make authority: %w", err)
		}
		cfg.Name = hex.EncodeToString(b[:])
	}
	// A common name has at most 64 characters.
	if len(cfg.Name) > 32 || strings.ContainsFunc(cfg.Name, func(r rune) bool { return r < ' ' || r > '~' }) {
		return cfg, nil, fmt.Errorf("make authority %q: not a short printable name", cfg.Name)
	}
	hosts, err := parseHosts(cfg.Hosts)
	return cfg, hosts, err
}

// checkReach tries the chain as a client would: a root that is not for all the
// hosts would be refused by every client, in words that name no cause.
func (a *Authority) checkReach(cfg Config) error {
	if len(cfg.Hosts) == 0 {
		return nil
	}
	probe, err := sign(a.leafTemplate(cfg.Now(), cfg.Hosts...), a.intermediate, a.leafKey.Public(), a.key)
	if err != nil {
		return err
	}
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: cfg.Now()}
	options.Roots.AddCert(a.root)
	options.Intermediates.AddCert(a.intermediate)
	if _, err := probe.Verify(options); err != nil {
		return &RootError{Problem: "certificate does not cover the hosts of this session: " + err.Error()}
	}
	return nil
}

// Leaf returns the certificate to show for host, a canonical name or address:
// leaf and intermediate, with the key. It is shared: do not change it. Errors:
// *NotPermittedError, ErrClosed, ErrExpired, or the cause of ctx.
func (a *Authority) Leaf(ctx context.Context, host string) (*tls.Certificate, error) {
	if !a.hosts.permits(host) {
		return nil, &NotPermittedError{Host: host}
	}
	for {
		work, mine, err := a.begin(host)
		if err != nil {
			return nil, err
		}
		if work.done == nil {
			return work.cert, nil
		}
		if mine {
			a.finish(ctx, host, work)
			return work.cert, work.err
		}
		select {
		case <-work.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		// Whoever made it may have given up: that is not our end.
		if work.err == nil || errors.Is(work.err, ErrClosed) || errors.Is(work.err, ErrExpired) {
			return work.cert, work.err
		}
	}
}

// begin returns the cached leaf, the issue under way, or a new one, which is
// the caller's to finish.
func (a *Authority) begin(host string) (work *issue, mine bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.key == nil {
		return nil, false, ErrClosed
	}
	if !a.now().Before(a.intermediate.NotAfter) {
		return nil, false, ErrExpired
	}
	if cert, ok := a.leaves.Get(host); ok && a.fresh(cert) {
		return &issue{cert: cert}, false, nil
	}
	if work, ok := a.issuing[host]; ok {
		return work, false, nil
	}
	work = &issue{done: make(chan struct{})}
	a.issuing[host] = work
	return work, true, nil
}

func (a *Authority) finish(ctx context.Context, host string, work *issue) {
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.key == nil {
			work.cert, work.err = nil, ErrClosed
		}
		if work.err == nil && work.cert != nil {
			a.leaves.Add(host, work.cert)
		}
		delete(a.issuing, host)
		close(work.done)
	}()
	work.err = errors.New("issue leaf: interrupted") // stands if issuing panics
	if err := a.limiter.wait(ctx); err != nil {
		work.err = err
		return
	}
	work.cert, work.err = a.issue(host)
}

func (a *Authority) issue(host string) (*tls.Certificate, error) {
	a.mu.Lock()
	key, leafKey := a.key, a.leafKey
	a.mu.Unlock()
	if key == nil {
		return nil, ErrClosed
	}
	leaf, err := sign(a.leafTemplate(a.now(), host), a.intermediate, leafKey.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{
		Certificate: [][]byte{leaf.Raw, a.intermediate.Raw},
		PrivateKey:  leafKey,
		Leaf:        leaf,
	}, nil
}

// fresh reports whether a leaf will outlast a handshake and more, or cannot be
// bettered.
func (a *Authority) fresh(cert *tls.Certificate) bool {
	return a.now().Add(skew).Before(cert.Leaf.NotAfter) || cert.Leaf.NotAfter.Equal(a.intermediate.NotAfter)
}

// Root returns the certificate that clients must trust.
func (a *Authority) Root() *x509.Certificate { return a.root }

// RootPEM returns the certificate that clients must trust, in PEM.
func (a *Authority) RootPEM() []byte { return encodeCertificate(a.root) }

// Close drops the keys and the leaves. Later calls of Leaf fail.
func (a *Authority) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.key, a.leafKey = nil, nil
	a.leaves.Purge()
}
