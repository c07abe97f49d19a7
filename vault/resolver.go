package vault

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	cacheSize = 256

	// How long a value of each source is used before it is read again, unless
	// the rules file says otherwise for an exec source.
	envTTL     = 24 * time.Hour // the environment at start does not change
	fileTTL    = 500 * time.Millisecond
	keyringTTL = time.Minute
	execTTL    = 5 * time.Minute

	// failTTL keeps a source that fails from being tried for each request.
	failTTL = time.Second

	sourceTimeout = 10 * time.Second
)

// Cause is why a source gave no value.
type Cause string

const (
	CauseMalformed   Cause = "not a source" // the text cannot be read
	CauseNotFound    Cause = "not found"
	CauseUnsupported Cause = "not supported"
	CauseUnavailable Cause = "unavailable" // cannot be read, or not now
	CauseTimeout     Cause = "timed out"
	CauseRefused     Cause = "refused" // was read, but the value cannot be used: see WeakError
)

// SourceError says which source gave no value, and why. It never holds a value,
// nor what a command printed. Err, if any, is one of NotFoundError, WeakError,
// ModeError, UnsupportedSourceError, or says more.
type SourceError struct {
	Source string // as in the rules file; "" if it could not be read, for it may be a value
	Cause  Cause
	Err    error
}

func (e *SourceError) Error() string {
	text := "read secret from " + e.Source + ": "
	if e.Source == "" {
		text = "read secret: "
	}
	if e.Err != nil {
		return text + e.Err.Error()
	}
	return text + string(e.Cause)
}

func (e *SourceError) Unwrap() error { return e.Err }

// Value is a secret and its version. Versions of the vault last for its life;
// of other sources they count the changes that this process saw, from "1".
type Value struct {
	Secret  Secret
	Version string
}

// ExecSource is a command of the rules file that prints a secret.
type ExecSource struct {
	Command []string      // the program (absolute, or found in the user's PATH) and its arguments; no shell
	Env     []string      // NAME: passed on from Environ; NAME=value: set
	Timeout time.Duration // 0: 10 s
	TTL     time.Duration // 0: 5 min
}

// ResolverConfig is all that a Resolver knows.
type ResolverConfig struct {
	Store   *Store                // nil: no vault is open
	Environ []string              // the user's environment: env:, and PATH and HOME for exec: and file:
	Exec    map[string]ExecSource // by the name after exec:
	Now     func() time.Time      // nil: time.Now
}

// Resolver reads secrets from where they lie. It keeps what it read for a time,
// reads a source once however many ask at the same time, and gives no value at
// all where a source fails: never an old one. It is safe for concurrent use.
type Resolver struct {
	store   *Store
	environ map[string]string
	exec    map[string]ExecSource
	now     func() time.Time
	life    context.Context
	end     context.CancelFunc
	cache   *lru.Cache[string, *cached]

	mu      sync.Mutex
	flights map[string]*flight
}

type cached struct {
	value Value
	count int // changes seen
	err   *SourceError
	until time.Time
}

type flight struct {
	done  chan struct{}
	entry *cached
}

// NewResolver makes a resolver; Close ends the commands that it runs.
func NewResolver(cfg ResolverConfig) *Resolver {
	r := &Resolver{store: cfg.Store, environ: make(map[string]string), exec: cfg.Exec, now: cfg.Now,
		flights: make(map[string]*flight)}
	if r.now == nil {
		r.now = time.Now
	}
	for _, pair := range cfg.Environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			r.environ[name] = value
		}
	}
	r.life, r.end = context.WithCancel(context.Background())
	r.cache, _ = lru.New[string, *cached](cacheSize) // fails only for a size below 1
	return r
}

// Close ends running commands and lets all later reads fail.
func (r *Resolver) Close() {
	r.end()
	r.cache.Purge()
}

// Resolve returns the value of a source. minLength raises the least length that
// is taken above MinLength. It is called for each request: a hit is a look into
// a map. The error is *SourceError, or that of ctx.
func (r *Resolver) Resolve(ctx context.Context, source string, minLength int) (Value, error) {
	if name, ok := strings.CutPrefix(source, "vault:"); ok {
		return r.fromVault(source, name, minLength)
	}
	entry, ok := r.cache.Get(source)
	if !ok || !r.now().Before(entry.until) {
		var err error
		if entry, err = r.load(ctx, source); err != nil {
			return Value{}, err
		}
	}
	if entry.err != nil {
		return Value{}, entry.err
	}
	return longEnough(entry.value, source, minLength)
}

func (r *Resolver) fromVault(source, name string, minLength int) (Value, error) {
	if r.store == nil {
		return Value{}, &SourceError{source, CauseUnavailable, errors.New("no vault is open")}
	}
	secret, version, err := r.store.Secret(name)
	if err == nil {
		return longEnough(Value{secret, version}, source, minLength)
	}
	var missing *NotFoundError
	if !errors.As(err, &missing) {
		return Value{}, &SourceError{source, CauseUnavailable, err}
	}
	if CheckName(name) != nil {
		return Value{}, &SourceError{"", CauseMalformed, &NameError{"after vault: is not one"}}
	}
	return Value{}, &SourceError{source, CauseNotFound, err}
}

func longEnough(v Value, source string, minLength int) (Value, error) {
	if v.Secret.Len() < minLength {
		return Value{}, &SourceError{source, CauseRefused, &WeakError{fmt.Sprintf("it is shorter than min-length %d", minLength)}}
	}
	return v, nil
}

// load reads a source, or waits for the caller that is reading it.
func (r *Resolver) load(ctx context.Context, source string) (*cached, error) {
	r.mu.Lock()
	if f := r.flights[source]; f != nil {
		r.mu.Unlock()
		select {
		case <-f.done:
			return f.entry, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	old, _ := r.cache.Peek(source)
	if old != nil && r.now().Before(old.until) { // somebody has just read it
		r.mu.Unlock()
		return old, nil
	}
	f := &flight{done: make(chan struct{}), entry: &cached{err: &SourceError{source, CauseUnavailable, nil}}}
	r.flights[source] = f
	r.mu.Unlock()
	defer func() { // also when the source panics: nobody must wait for ever
		r.mu.Lock()
		delete(r.flights, source)
		r.mu.Unlock()
		close(f.done)
	}()
	// This caller reads for all that wait, so its own end must not end the reading.
	f.entry = r.read(source, old)
	if r.life.Err() == nil {
		r.cache.Add(source, f.entry)
	}
	return f.entry, nil
}

// read reads a source now. old is what was read before, for the version.
func (r *Resolver) read(source string, old *cached) *cached {
	secret, ttl, err := r.fetch(source)
	if err == nil {
		if weak := CheckStrength(secret.Reveal()); weak != nil {
			err = &SourceError{source, CauseRefused, weak}
		}
	}
	entry := &cached{count: 1, err: err, until: r.now().Add(ttl)}
	if old != nil {
		entry.count = old.count
	}
	if err != nil {
		entry.until = r.now().Add(failTTL)
		if old != nil {
			entry.value = old.value // only to know a change by; err keeps it from being used
		}
		return entry
	}
	if old != nil && !old.value.Secret.IsZero() && !old.value.Secret.Equal(secret) {
		entry.count++
	}
	entry.value = Value{secret, strconv.Itoa(entry.count)}
	return entry
}
