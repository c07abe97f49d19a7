package grant

import (
	"slices"
	"sync"
	"time"

	"standin/rules"
)

// limits are later states of a session's rules. What they do not allow is taken
// away; what they add counts for sessions that are opened under them.
type limits struct {
	policies []*rules.Policy

	mu    sync.Mutex
	known map[[2]*rules.Rule]*rules.Rule // a rule within another
}

// maxLimits is how often the rules may change under one session.
const maxLimits = 64

// Limit takes away what a later state of the rules does not allow: from the next
// request on. It never widens, so the state needs no trust.
func (s *Session) Limit(p *rules.Policy) {
	var before []*rules.Policy
	if l := s.limits.Load(); l != nil {
		before = l.policies
	}
	if p.Hash == s.Policy.Hash && len(before) == 0 || slices.ContainsFunc(before, func(b *rules.Policy) bool { return b.Hash == p.Hash }) {
		return
	}
	if len(before) == maxLimits {
		s.Revoke("the rules have changed too often")
		return
	}
	s.limits.Store(&limits{policies: append(slices.Clip(before), p), known: map[[2]*rules.Rule]*rules.Rule{}})
	name := s.Profile.Name
	if name == "default" {
		name = "" // also where no profile is spelled out
	}
	profile, err := p.Profile(name)
	if err != nil {
		s.Narrow(nil)
		return
	}
	s.Narrow(profile.Secrets)
	s.shorten(profile)
}

// Limits are the later states of the rules that limit the session.
func (s *Session) Limits() []*rules.Policy {
	if l := s.limits.Load(); l != nil {
		return slices.Clone(l.policies)
	}
	return nil
}

// shorten brings the end of the session forward to what a profile allows, and the
// uses down.
func (s *Session) shorten(profile *rules.Profile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if expires := s.Opened.Add(profile.TTL); expires.Before(s.Expires) {
		s.Expires = expires
		s.timer.Reset(time.Until(expires))
	}
	for _, g := range s.grants {
		if profile.Uses > 0 && (!g.limited || g.left+g.used > profile.Uses) {
			g.limited, g.left = true, max(profile.Uses-g.used, 0)
		}
	}
}

// A Decision is what the rules say about one request: one version of them.
type Decision struct {
	rules.Match
	Hash string // of the version
}

// Match decides about a request by the session's rules, less what later states of
// them have taken away.
func (s *Session) Match(t rules.Target) Decision {
	d := Decision{s.Policy.Match(t), s.Policy.Hash}
	l := s.limits.Load()
	if l == nil {
		return d
	}
	for _, p := range l.policies {
		m := p.Match(t)
		d.Hash, d.Rule = p.Hash, l.within(d.Rule, m.Rule)
		if m.Segment != d.Segment { // another part of the path: no placeholder stands in both
			d.Segment = -1
		}
	}
	return d
}

// Host decides about a tunnel likewise: a host that is intercepted stays so, since
// it may answer with what it was sent before.
func (s *Session) Host(a rules.Authority) rules.Verdict {
	v := s.Policy.Host(a)
	l := s.limits.Load()
	if l == nil {
		return v
	}
	for _, p := range l.policies {
		if later := p.Host(a); later.Action == rules.UnmatchedDeny {
			return later
		}
	}
	return v
}

// within is a rule with only what another allows, too. Nil matches nothing, and
// allows nothing.
func (l *limits) within(rule, limit *rules.Rule) *rules.Rule {
	if rule == nil {
		if limit != nil && limit.Deny {
			return limit
		}
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	key := [2]*rules.Rule{rule, limit}
	if known := l.known[key]; known != nil {
		return known
	}
	both := lessened(*rule, limit)
	l.known[key] = both
	return both
}

// lessened leaves of a rule what a limit allows, too.
func lessened(rule rules.Rule, limit *rules.Rule) *rules.Rule {
	if limit == nil {
		rule.Substitute, rule.WebSocket = nil, false
		return &rule
	}
	var kept []rules.Substitution
	for _, sub := range rule.Substitute {
		var in []rules.Surface
		for _, surface := range sub.In {
			if slices.ContainsFunc(limit.Substitute, func(l rules.Substitution) bool { return l.Secret == sub.Secret && slices.Contains(l.In, surface) }) {
				in = append(in, surface)
			}
		}
		if len(in) > 0 {
			sub.In = in
			kept = append(kept, sub)
		}
	}
	rule.Substitute = kept
	rule.Deny = rule.Deny || limit.Deny
	rule.WebSocket = rule.WebSocket && limit.WebSocket
	if !limit.Expires.IsZero() && (rule.Expires.IsZero() || limit.Expires.Before(rule.Expires)) {
		rule.Expires = limit.Expires
	}
	if limit.Misplaced == rules.Refuse {
		rule.Misplaced = rules.Refuse
	}
	if limit.ResponseCredentials == rules.Strip {
		rule.ResponseCredentials = rules.Strip
	}
	if limit.Scrub == rules.ScrubDefault && rule.Scrub == rules.ScrubNever || limit.Scrub == rules.ScrubAlways {
		rule.Scrub = limit.Scrub
	}
	return &rule
}
