package grant

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"standin/rules"
)

// Request is what a client sent, as far as substitution looks at it.
type Request struct {
	Header http.Header // canonical names, one entry a line
	Path   string      // raw, as on the wire, without the query
	Query  string      // raw, without "?"
	Body   []byte      // a body that was read first; nil when there is none or it streams
	Sent   [][]byte    // once a plan was applied: what goes out instead of Body, in pieces; nil when it is Body
	Coding string      // the content coding of the body, as package coding names it
	Match  rules.Match
	At     rules.Authority // the host that the request is for
}

// Use is one secret that a plan puts at one surface.
type Use struct {
	Secret, Version, Fingerprint, Surface string
	Count                                 int
}

// Plan is what Prepare decided. Applying it is the only way in which a value
// reaches a request.
type Plan struct {
	Uses      []Use
	Misplaced []string // secrets whose placeholders stand in the body, and stay there
	edits     []edit
	prep      *prep // for a body that streams
}

// edit puts a value into a request.
type edit func(*Request)

// Apply puts the values where the placeholders stand. Header is changed in
// place; Path and Query are replaced, and Sent is set.
func (p *Plan) Apply(r *Request) {
	if fault == "substitution" {
		return
	}
	for _, e := range p.edits {
		e(r)
	}
}

// prep is the work of one Prepare.
type prep struct {
	ctx     context.Context
	s       *Session
	r       *Request
	rule    *rules.Rule
	plan    *Plan
	granted map[string]*held // the values that this plan uses
}

// Prepare decides what a request may carry, and reserves the uses that it
// takes. It changes nothing in the request. The error is a *Refusal: a known
// placeholder where no rule allows it, a missing or used-up grant, a value that
// cannot stand at its surface, a malformed part that a surface names, or a
// source that does not answer.
func (s *Session) Prepare(ctx context.Context, r *Request) (*Plan, error) {
	if err := s.Live(); err != nil {
		return nil, err
	}
	p := &prep{ctx: ctx, s: s, r: r, rule: r.Match.Rule, plan: &Plan{}}
	if p.rule == nil {
		p.rule = &noRule
	}
	for _, look := range []func() error{p.headers, p.path, p.query, p.body} {
		if err := look(); err != nil {
			s.refused(err)
			return nil, err
		}
	}
	if err := s.reserve(p.granted); err != nil {
		return nil, err
	}
	s.NoteMisplaced(p.plan.Misplaced)
	p.plan.prep = p
	return p.plan, nil
}

// noRule stands where no rule matches: it allows no surface.
var noRule = rules.Rule{}

// reserve counts one use of each secret, or none of any.
func (s *Session) reserve(granted map[string]*held) error {
	if len(granted) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range granted {
		g := s.grants[name]
		if g == nil {
			return &Refusal{Code: "no_grant", Secret: name}
		}
		if g.limited && g.left == 0 {
			return &Refusal{Code: "uses_exhausted", Secret: name}
		}
	}
	for name := range granted {
		g := s.grants[name]
		g.left--
		g.used++
		g.lastUsed = time.Now()
	}
	return nil
}

// place decides about one placeholder at one surface and returns the value.
func (p *prep) place(secret string, at rules.Surface) (*held, error) {
	if !p.allows(secret, at) && fault != "refusal" {
		return nil, &Refusal{Code: "placeholder_misplaced", Secret: secret, Surface: at.String()}
	}
	p.s.mu.Lock()
	g := p.s.grants[secret]
	p.s.mu.Unlock()
	if g == nil {
		return nil, &Refusal{Code: "no_grant", Secret: secret, Surface: at.String()}
	}
	value, err := p.s.value(p.ctx, g.secret)
	if err != nil {
		return nil, &Refusal{Code: "vault_unavailable", Secret: secret, Cause: err}
	}
	if p.granted == nil {
		p.granted = map[string]*held{}
	}
	p.granted[secret] = value
	p.use(Use{secret, value.Version, value.fingerprint, at.String(), 1})
	if fault == "panic" {
		panic(string(value.Secret.Reveal()))
	}
	return value, nil
}

// use adds one use to the plan.
func (p *prep) use(u Use) {
	for i := range p.plan.Uses {
		if have := &p.plan.Uses[i]; have.Secret == u.Secret && have.Surface == u.Surface && have.Fingerprint == u.Fingerprint {
			have.Count++
			return
		}
	}
	p.plan.Uses = append(p.plan.Uses, u)
}

func (p *prep) allows(secret string, at rules.Surface) bool {
	for _, sub := range p.rule.Substitute {
		if sub.Secret == secret && slices.Contains(sub.In, at) {
			return true
		}
	}
	_, returned := p.returned(secret, at)
	return returned
}

// named lists the names of the rule's surfaces of one kind.
func (p *prep) named(kind rules.Kind) []string {
	var names []string
	for _, sub := range p.rule.Substitute {
		for _, surface := range sub.In {
			if surface.Kind == kind && !slices.Contains(names, surface.Name) {
				names = append(names, surface.Name)
			}
		}
	}
	return names
}

// replaced puts the value where the one placeholder of decoded stands. Two
// placeholders in one part are misplaced: no client writes that. It answers ""
// and false when there is none.
func (p *prep) replaced(decoded string, at rules.Surface, safe func(string) bool) (string, bool, error) {
	hit, ok := p.s.index.Next(decoded, 0)
	if !ok {
		return "", false, nil
	}
	if _, more := p.s.index.Next(decoded, hit.End); more {
		return "", false, &Refusal{Code: "placeholder_misplaced", Secret: hit.Placeholder.Secret, Surface: at.String()}
	}
	value, err := p.place(hit.Placeholder.Secret, at)
	if err != nil {
		return "", false, err
	}
	text := value.text()
	if !safe(text) {
		return "", false, &Refusal{Code: "unsafe_value", Secret: hit.Placeholder.Secret, Surface: at.String()}
	}
	return decoded[:hit.Start] + text + decoded[hit.End:], true, nil
}

// text is the value itself, for the place where it goes.
func (h *held) text() string { return string(h.Secret.Reveal()) }

// misplaced refuses when a placeholder stands in text, at a place that no
// surface covers.
func (p *prep) misplaced(text, place string) error {
	if hit, ok := p.s.index.Next(text, 0); ok {
		return &Refusal{Code: "placeholder_misplaced", Secret: hit.Placeholder.Secret, Surface: place}
	}
	return nil
}

// refused counts what a refusal says about a secret.
func (s *Session) refused(err error) {
	if r := AsRefusal(err); r.Code == "placeholder_misplaced" {
		s.NoteMisplaced([]string{r.Secret})
	}
}

// NoteMisplaced counts placeholders that were noticed where none belongs.
func (s *Session) NoteMisplaced(secrets []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range secrets {
		if g := s.grants[name]; g != nil {
			g.misplaced++
		}
		s.alarms++
	}
}

// headers looks at every header: names, values, the parts of Basic credentials
// and of cookies.
func (p *prep) headers() error {
	for name, values := range p.r.Header {
		if len(name) >= len(Marker)+tailLength {
			if err := p.misplaced(strings.ToLower(name), "header name"); err != nil {
				return err
			}
		}
		if err := p.header(name, values); err != nil {
			return err
		}
	}
	return nil
}

func (p *prep) header(name string, values []string) error {
	at := rules.Surface{Kind: rules.Header, Name: name}
	if len(values) > 1 && p.namesHeader(at) {
		return &Refusal{Code: "bad_request", Surface: at.String()}
	}
	for i, value := range values {
		if name == "Cookie" {
			if err := p.cookies(i, value); err != nil {
				return err
			}
			continue
		}
		if name == "Authorization" {
			if done, err := p.basic(value); done || err != nil {
				return err
			}
		}
		text, ok, err := p.replaced(value, at, safeInHeader)
		if err != nil {
			return err
		}
		if ok {
			hit, _ := p.s.index.Next(value, 0)
			if losesBlanks(text, hit.Start, len(value)-hit.End) {
				return &Refusal{Code: "unsafe_value", Secret: hit.Placeholder.Secret, Surface: at.String()}
			}
			p.plan.edits = append(p.plan.edits, func(r *Request) { r.Header[name] = []string{text} })
		}
	}
	return nil
}

// losesBlanks says whether the blanks with which a value begins or ends are those
// of the field, where HTTP cuts them off (RFC 9110, 5.5). Before and after are the
// sizes of what stands around the value.
func losesBlanks(field string, before, after int) bool {
	const blanks = " \t"
	value, end := field[before:len(field)-after], len(field)-after
	return strings.Trim(field[:before], blanks) == "" && strings.TrimLeft(value, blanks) != value ||
		strings.Trim(field[end:], blanks) == "" && strings.TrimRight(value, blanks) != value
}

// namesHeader says whether the rule substitutes in this header, in any form.
func (p *prep) namesHeader(at rules.Surface) bool {
	for _, sub := range p.rule.Substitute {
		for _, surface := range sub.In {
			basic := surface.Kind == rules.BasicUser || surface.Kind == rules.BasicPassword
			if surface == at || basic && at.Name == "Authorization" {
				return true
			}
		}
	}
	return false
}

// Late is how a body that streams makes known what is found in it. Both are
// called in the goroutine that reads: Record once for each secret and surface,
// Misplaced for each placeholder that stays.
type Late struct {
	Record    func(Use) error           // makes a use durable; until it returns nil, nothing of the value goes out
	Misplaced func(secret string) error // an error ends the body
}

// Stream is src with values where the rule allows their placeholders. A grant is
// asked for, a use is taken and recorded when a placeholder is met, before the
// value goes out. The caller reads it in one goroutine at a time, and closes it
// when the request is over; src stays open. It says whether the length stays
// what it is. Errors are *Refusal, or those of src.
func (p *Plan) Stream(src io.Reader, late Late) (substituted *Upload, sameLength bool, err error) {
	put, misplaced := p.prep.whileItStreams(late)
	r, s, done, err := p.prep.pipe(src, put, misplaced)
	if err != nil {
		return nil, false, err
	}
	return &Upload{r, s, done}, r == io.Reader(s) && len(s.surfaces) == 0 && len(p.prep.named(rules.Body)) == 0, nil
}

// whileItStreams decides about placeholders that are met on the way.
func (p *prep) whileItStreams(late Late) (put func(string, rules.Surface) (*held, error), misplaced func(string) error) {
	var recorded []Use
	put = func(secret string, at rules.Surface) (*held, error) {
		if err := p.s.Live(); err != nil {
			return nil, err
		}
		_, reserved := p.granted[secret]
		value, err := p.place(secret, at)
		if err != nil {
			return nil, err
		}
		if !reserved {
			if err := p.s.reserve(map[string]*held{secret: value}); err != nil {
				return nil, err
			}
		}
		use := Use{secret, value.Version, value.fingerprint, at.String(), 1}
		if slices.Contains(recorded, use) {
			return value, nil
		}
		if err := late.Record(use); err != nil {
			return nil, err
		}
		recorded = append(recorded, use)
		return value, nil
	}
	misplaced = func(secret string) error {
		p.s.NoteMisplaced([]string{secret})
		return late.Misplaced(secret)
	}
	return put, misplaced
}

// Upload is a body on its way, with values in it.
type Upload struct {
	r    io.Reader
	s    *stream
	done func()
}

// Read gives what can go out. Between two calls a read of the source may be
// under way.
func (u *Upload) Read(p []byte) (int, error) {
	if u.r == nil {
		return 0, io.ErrClosedPipe
	}
	return u.r.Read(p)
}

// Waits says whether a read of the source is under way that has brought nothing
// yet. Whoever can ends it before Close, which waits for it.
func (u *Upload) Waits() bool { return u.s.ahead != nil && len(u.s.ahead) == 0 }

// Close frees what the body holds.
func (u *Upload) Close() error {
	if u.r != nil {
		u.done()
		u.r = nil
	}
	return nil
}
