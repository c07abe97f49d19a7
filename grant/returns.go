package grant

import (
	"net/url"
	"slices"
	"strings"

	"standin/rules"
)

// place is where a host has put a value itself: the client was shown the
// placeholder there, and what it sends back there is the host's own again.
type place struct {
	at      rules.Authority
	surface rules.Surface
	path    string // of the request that the place is in; "" for cookies: any
	secret  string
}

// maxPlaces bounds what hosts can make a session remember.
const maxPlaces = 1024

// Returns notes where placeholders stand in a scrubbed Set-Cookie or Location
// field of an answer of at to a request for path. Sent back to at in that cookie,
// or in that part of that target, they are substituted again: under a rule that
// substitutes the same secret somewhere. The host has the value already.
func (s *Session) Returns(at rules.Authority, path, field, value string) {
	if field == "Set-Cookie" {
		name, content, _ := strings.Cut(value, "=")
		content, _, _ = strings.Cut(content, ";")
		s.returns(place{at: at, surface: rules.Surface{Kind: rules.Cookie, Name: strings.TrimSpace(name)}}, content)
		return
	}
	base := url.URL{Scheme: "https", Host: at.String(), Path: path}
	if decoded, err := url.PathUnescape(path); err == nil {
		base.Path, base.RawPath = decoded, path
	}
	target, err := base.Parse(value)
	if err != nil {
		return
	}
	if to, err := rules.ParseHost(target.Host, 443); err != nil || to != at || target.Scheme != "https" {
		return
	}
	here := place{at: at, surface: rules.Surface{Kind: rules.Path}, path: target.EscapedPath()}
	s.returns(here, here.path)
	for pair := range strings.SplitSeq(target.RawQuery, "&") {
		rawName, content, _ := strings.Cut(pair, "=")
		if name, err := url.QueryUnescape(rawName); err == nil {
			here.surface = rules.Surface{Kind: rules.Query, Name: name}
			s.returns(here, content)
		}
	}
}

func (s *Session) returns(here place, content string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, hit := range s.index.All(content) {
		here.secret = hit.Placeholder.Secret
		if !slices.Contains(s.places, here) && len(s.places) < maxPlaces {
			s.places = append(s.places, here)
		}
	}
}

// returned says whether the host itself has put this secret there, and the rule
// lets the secret be used in this request.
func (p *prep) returned(secret string, at rules.Surface) bool {
	here := place{at: p.r.At, surface: at, secret: secret}
	if at.Kind != rules.Cookie {
		here.path = p.r.Path
	}
	if !slices.ContainsFunc(p.rule.Substitute, func(sub rules.Substitution) bool { return sub.Secret == secret }) {
		return false
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return slices.Contains(p.s.places, here)
}

// returnedInPath says whether the placeholder of a segment is one that the host
// has put there.
func (p *prep) returnedInPath(segment string) bool {
	hit, ok := p.s.index.Next(segment, 0)
	return ok && p.returned(hit.Placeholder.Secret, rules.Surface{Kind: rules.Path})
}
