// Package grant keeps what one launched command may do: the session, its
// grants, the placeholders that stand for secrets, the substitution of
// placeholders in what the command sends, and the scrubbing of values in what
// comes back.
//
// It opens no connection, writes no record and reads no file: the wire, the
// record and the sources belong to others.
//
// Invariant: a value leaves this package only inside a Plan, for a secret that
// is granted, live and allowed by the matched rule at that very surface.
package grant

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"standin/grant/scrub"
	"standin/rules"
	"standin/vault"
)

// Source reads the value of a secret. It is called for each request, so a hit
// in its cache must be cheap. *vault.Resolver is one.
type Source interface {
	Resolve(ctx context.Context, source string, minLength int) (vault.Value, error)
}

// Config describes a session. All fields but Now are required.
type Config struct {
	ID           string
	Policy       *rules.Policy
	Profile      *rules.Profile
	Placeholders map[string]string // secret -> placeholder, for every secret of the policy
	Source       Source
	Fingerprint  func(value []byte) string // keyed; for the record
}

// Session is what one launched command may do, from start to exit. It is safe
// for concurrent use.
type Session struct {
	ID      string
	Profile *rules.Profile
	Policy  *rules.Policy
	Opened  time.Time
	Expires time.Time

	index       *Index
	source      Source
	fingerprint func([]byte) string
	ended       chan struct{}
	timer       *time.Timer
	limits      atomic.Pointer[limits]

	mu     sync.Mutex
	grants map[string]*grant
	values map[string]*held
	reason string // why the session ended, "" while it lives

	scrubber atomic.Pointer[scrub.Scrubber]
	replaced []replaced           // values that rotation has replaced
	places   map[place]scrub.Form // where hosts have put values themselves, and how
	alarms   int                  // placeholders that were noticed where none belongs
}

// grant is one secret in one session.
type grant struct {
	secret    *rules.Secret
	limited   bool
	left      int // uses left, when limited
	used      int
	misplaced int
	lastUsed  time.Time
}

// replaced is a value that a secret had, and that may still come back.
type replaced struct {
	name   string
	secret vault.Secret
}

// held is the value of a secret as the source last gave it.
type held struct {
	vault.Value
	fingerprint string
}

// Open starts a session: it reads every secret that the profile grants, so that
// a source that cannot be read is found before the command starts, and arms the
// clock of its ttl. Errors of the source are wrapped.
func Open(ctx context.Context, cfg Config) (*Session, error) {
	index, err := NewIndex(cfg.Placeholders)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	s := &Session{
		ID: cfg.ID, Profile: cfg.Profile, Policy: cfg.Policy,
		Opened: now, Expires: now.Add(cfg.Profile.TTL),
		index: index, source: cfg.Source, fingerprint: cfg.Fingerprint,
		ended:  make(chan struct{}),
		grants: map[string]*grant{}, values: map[string]*held{}, places: map[place]scrub.Form{},
	}
	for _, name := range cfg.Profile.Secrets {
		secret := cfg.Policy.Secrets[name]
		if secret == nil {
			return nil, fmt.Errorf("open session: profile %q names unknown secret %q", cfg.Profile.Name, name)
		}
		if secret.Deliver == rules.Wire {
			s.grants[name] = &grant{secret: secret, limited: cfg.Profile.Uses > 0, left: cfg.Profile.Uses}
		}
		if _, err := s.value(ctx, secret); err != nil {
			return nil, fmt.Errorf("open session: read secret %q: %w", name, err)
		}
	}
	s.rebuild()
	s.timer = time.AfterFunc(cfg.Profile.TTL, func() { s.end(reasonExpired) })
	return s, nil
}

const reasonExpired = "expired"

// Ended is closed when the session ends, by Revoke or by its ttl.
func (s *Session) Ended() <-chan struct{} { return s.ended }

// Revoke ends the session. Every request from now on is refused. It is
// harmless to call it twice; the first reason stays.
func (s *Session) Revoke(reason string) {
	s.timer.Stop()
	s.end(reason)
}

func (s *Session) end(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == "" {
		s.reason = reason
		close(s.ended)
	}
}

// Reason says why the session ended, "" while it lives. The clock of the ttl is
// the monotonic one and the wall clock, whichever is past it first: setting the
// clock back revives nothing.
func (s *Session) Reason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == "" && (time.Now().After(s.Expires) || time.Now().Round(0).After(s.Expires.Round(0))) {
		s.reason = reasonExpired
		close(s.ended)
	}
	return s.reason
}

// Live refuses when the session has ended.
func (s *Session) Live() error {
	select {
	case <-s.ended:
	default:
		if s.Reason() == "" {
			return nil
		}
	}
	if s.Reason() == reasonExpired {
		return refuse("grant_expired")
	}
	return refuse("session_closed")
}

// Narrow keeps only the named secrets. It never widens; unknown names are ignored.
func (s *Session) Narrow(secrets []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.grants {
		if !slices.Contains(secrets, name) {
			delete(s.grants, name)
		}
	}
}

// Delivered is the value of a secret that the rules hand to the command itself.
// It has no grant on the wire, but is scrubbed like the others.
func (s *Session) Delivered(ctx context.Context, name string) (vault.Secret, error) {
	secret := s.Policy.Secrets[name]
	if secret == nil || secret.Deliver == rules.Wire || !slices.Contains(s.Profile.Secrets, name) {
		return vault.Secret{}, fmt.Errorf("deliver secret %q: the rules do not hand it out", name)
	}
	value, err := s.value(ctx, secret)
	if err != nil {
		return vault.Secret{}, err
	}
	return value.Secret, nil
}

// GrantsAt says whether the session was opened with a secret that some rule
// substitutes at this authority: such a host's responses are scrubbed. It does
// not follow Narrow, since a host may echo what it was sent before.
func (s *Session) GrantsAt(a rules.Authority) bool {
	for _, rule := range s.Policy.At(a) {
		for _, sub := range rule.Substitute {
			if slices.Contains(s.Profile.Secrets, sub.Secret) {
				return true
			}
		}
	}
	return false
}

// Logged is text as a record may say it: without placeholders and values.
func (s *Session) Logged(text string) string {
	return s.index.Template(s.Scrubber().String(text))
}

// LoggedPath is the path of a request as a record may say it, however what must
// not stand there is escaped.
func (s *Session) LoggedPath(raw string) string {
	logged := s.Logged(raw)
	if !strings.Contains(logged, "%") {
		return logged
	}
	segments := strings.Split(logged, "/")
	for i, segment := range segments {
		plain := unescaped(segment)
		if logged := s.Logged(plain); logged != plain {
			segments[i] = logged
		}
	}
	return strings.Join(segments, "/")
}

// unescaped is text with its good escapes decoded, as lenient servers read it.
func unescaped(text string) string {
	var b strings.Builder
	for ; text != ""; text = text[1:] {
		if len(text) > 2 && text[0] == '%' {
			if c, err := hex.DecodeString(text[1:3]); err == nil {
				b.WriteByte(c[0])
				text = text[2:]
				continue
			}
		}
		b.WriteByte(text[0])
	}
	return b.String()
}

// Index finds the placeholders of every secret of the policy.
func (s *Session) Index() *Index { return s.index }

// value asks the source, and rebuilds the scrubber when the value has changed.
func (s *Session) value(ctx context.Context, secret *rules.Secret) (*held, error) {
	v, err := s.source.Resolve(ctx, secret.Source, secret.MinLength)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	old := s.values[secret.Name]
	if old != nil && old.Version == v.Version {
		s.mu.Unlock()
		return old, nil
	}
	now := &held{v, s.fingerprint(v.Secret.Reveal())}
	if old != nil && old.fingerprint == now.fingerprint {
		now = &held{v, old.fingerprint}
	} else if old != nil {
		s.replaced = append(s.replaced, replaced{secret.Name, old.Secret})
	}
	s.values[secret.Name] = now
	s.mu.Unlock()
	if old != nil {
		s.rebuild()
	}
	return now, nil
}

func (s *Session) placeholderOf(name string) string {
	for _, p := range s.index.byTail {
		if p.Secret == name {
			return p.Text
		}
	}
	return "standin_redacted"
}

// rebuild makes the scrubber for every value that this session holds or held.
func (s *Session) rebuild() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var values []scrub.Value
	add := func(name string, v vault.Secret) {
		values = append(values, scrub.Value{Text: string(v.Reveal()), Placeholder: s.placeholderOf(name)})
	}
	for _, old := range s.replaced {
		add(old.name, old.secret)
	}
	for name, v := range s.values {
		add(name, v.Secret)
	}
	if fault == "scrubbing" {
		values = nil
	}
	s.scrubber.Store(scrub.New(values))
}

// Scrubber returns the scrubber of all values that this session holds or held.
func (s *Session) Scrubber() *scrub.Scrubber { return s.scrubber.Load() }

// Refusal says why a request is not sent on. Code is one of DESIGN's error
// codes; Secret and Surface are names, never values.
type Refusal struct {
	Code    string
	Secret  string
	Surface string
	Cause   error // for the log of the operator; holds no value
}

func (r *Refusal) Error() string {
	text := "refuse request: " + r.Code
	if r.Secret != "" {
		text += fmt.Sprintf(" (secret %q)", r.Secret)
	}
	if r.Surface != "" {
		text += fmt.Sprintf(" (at %s)", r.Surface)
	}
	return text
}

func (r *Refusal) Unwrap() error { return r.Cause }

func refuse(code string) *Refusal { return &Refusal{Code: code} }

// AsRefusal returns the refusal in err's chain, or one with the code "internal".
func AsRefusal(err error) *Refusal {
	var r *Refusal
	if errors.As(err, &r) {
		return r
	}
	return &Refusal{Code: "internal", Cause: err}
}
