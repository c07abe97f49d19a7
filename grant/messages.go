package grant

import (
	"slices"
	"unicode/utf8"

	"standin/grant/body"
	"standin/rules"
)

// Messages is what a client says over a WebSocket, with values in its text
// messages where the rule allows their placeholders. Each message is decided
// about by itself, as a request is: it asks for the grant, takes a use, and is
// recorded before the value goes out. It is used in one goroutine.
type Messages struct {
	plan *Plan
	late Late
	s    *stream
	kept []byte
}

// Messages begins the messages of a connection that p opened. Errors of its
// methods are *Refusal, or those of late.
func (p *Plan) Messages(late Late) *Messages { return &Messages{plan: p, late: late} }

// Begin begins a message. In one that is not text nothing is put in.
func (m *Messages) Begin(text bool) error {
	if err := m.plan.Live(); err != nil {
		return err
	}
	opened := m.plan.prep
	p := &prep{ctx: opened.ctx, s: opened.s, r: opened.r, rule: opened.rule, plan: &Plan{}}
	m.s = &stream{p: p, layout: body.Raw{}, part: body.Outside, outside: rules.Surface{Kind: rules.WebSocket}}
	m.s.put, m.s.misplaced = p.whileItStreams(m.late)
	if !text {
		m.s.outside = rules.Surface{}
	}
	m.kept = m.kept[:0]
	return nil
}

// Next takes the next bytes of the message and returns what can go out, which
// lies in b or is valid until the next call. What could still become a
// placeholder is held back, unless b is the last of the message. The result does
// not depend on how a message is cut.
func (m *Messages) Next(b []byte, last bool) ([]byte, error) {
	s := m.s
	if s.in = b; len(m.kept) > 0 {
		s.in = append(m.kept, b...)
	}
	s.scanned, s.settled, s.out, s.to = 0, 0, nil, -1
	if err := s.scan(last); err != nil {
		return nil, err
	}
	if rest := s.in[s.settled:]; len(rest) > 0 || len(m.kept) > 0 {
		m.kept = slices.Clone(rest)
	}
	return s.out, nil
}

// Control looks at the payload of a control frame, where no placeholder belongs.
func (m *Messages) Control(b []byte) error {
	p := m.plan.prep
	_, misplaced := p.whileItStreams(m.late)
	for _, hit := range p.s.index.All(view(b)) {
		if err := misplaced(hit.Placeholder.Secret); err != nil {
			return err
		}
	}
	return nil
}

// Live refuses when the session has ended, or has lost a grant that the plan uses.
func (p *Plan) Live() error {
	s := p.prep.s
	if err := s.Live(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range p.prep.granted {
		if s.grants[name] == nil {
			return &Refusal{Code: "no_grant", Secret: name}
		}
	}
	return nil
}

// utf8Only refuses values that cannot stand in a text message. They are written
// as they are: what quotes or escapes the message has is not known.
type utf8Only struct{ body.Raw }

func (utf8Only) Encode(value string, _ []byte) (string, bool) { return value, utf8.ValidString(value) }
