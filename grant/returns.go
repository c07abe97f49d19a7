package grant

import (
	"crypto/rand"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"standin/grant/scrub"
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

// Returns notes where values stand in a Set-Cookie or Location field of an answer
// of at to a request for path, as it came, before scrubbing put placeholders there.
// Sent back to at in that cookie, or in that part of that target, these are
// substituted again, in the form in which the value stood there: under a rule that
// substitutes the same secret somewhere. The host has the value already. A
// placeholder that stands in the field itself is one that the command has planted,
// and opens nothing.
func (s *Session) Returns(at rules.Authority, path, field, value string) {
	f := s.found(value)
	if field == "Set-Cookie" {
		name, content, _ := strings.Cut(f.text, "=")
		content, _, _ = strings.Cut(content, ";")
		s.returns(f, place{at: at, surface: rules.Surface{Kind: rules.Cookie, Name: strings.TrimSpace(name)}}, content)
		return
	}
	base := url.URL{Scheme: "https", Host: at.String(), Path: path}
	if decoded, err := url.PathUnescape(path); err == nil {
		base.Path, base.RawPath = decoded, path
	}
	target, err := base.Parse(f.text)
	if err != nil {
		return
	}
	if to, err := rules.ParseHost(target.Host, 443); err != nil || to != at || target.Scheme != "https" {
		return
	}
	here := place{at: at, surface: rules.Surface{Kind: rules.Path}, path: f.shown(target.EscapedPath())}
	s.returns(f, here, target.EscapedPath())
	for pair := range strings.SplitSeq(target.RawQuery, "&") {
		rawName, content, _ := strings.Cut(pair, "=")
		if name, err := url.QueryUnescape(rawName); err == nil {
			here.surface = rules.Surface{Kind: rules.Query, Name: name}
			s.returns(f, here, content)
		}
	}
}

// field is the text of a field in which a mark that nobody could foresee stands
// for each value: url.Parse keeps it, and it cannot be planted.
type field struct {
	text, mark string
	values     []value
}

// value is one that stood in a field.
type value struct {
	secret, placeholder string
	how                 scrub.Form
}

const markDigits = 4

func (s *Session) found(text string) *field {
	f := &field{mark: rand.Text()}
	f.text = s.Scrubber().Replace(text, func(placeholder string, how scrub.Form) string {
		hit, ok := s.index.Next(placeholder, 0)
		if !ok || len(f.values) == maxPlaces {
			return placeholder
		}
		f.values = append(f.values, value{hit.Placeholder.Secret, placeholder, how})
		return fmt.Sprintf("%s%0*d", f.mark, markDigits, len(f.values)-1)
	})
	return f
}

// each calls do for each value that stood in content, and returns what follows
// the last of them.
func (f *field) each(content string, do func(before string, v value)) string {
	for {
		before, rest, ok := strings.Cut(content, f.mark)
		if !ok || len(rest) < markDigits {
			return content
		}
		if n, err := strconv.ParseUint(rest[:markDigits], 10, 16); err == nil && int(n) < len(f.values) {
			do(before, f.values[n])
		}
		content = rest[markDigits:]
	}
}

// shown is content as the client saw it.
func (f *field) shown(content string) string {
	var out strings.Builder
	rest := f.each(content, func(before string, v value) { out.WriteString(before + v.placeholder) })
	return out.String() + rest
}

func (s *Session) returns(f *field, here place, content string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.each(content, func(_ string, v value) {
		here.secret = v.secret
		if _, known := s.places[here]; known || len(s.places) < maxPlaces {
			s.places[here] = v.how
		}
	})
}

// returned says whether the host itself has put this secret there, in which form,
// and whether the rule lets the secret be used in this request.
func (p *prep) returned(secret string, at rules.Surface) (scrub.Form, bool) {
	here := place{at: p.r.At, surface: at, secret: secret}
	if at.Kind != rules.Cookie {
		here.path = p.r.Path
	}
	if !slices.ContainsFunc(p.rule.Substitute, func(sub rules.Substitution) bool { return sub.Secret == secret }) {
		return 0, false
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	how, ok := p.s.places[here]
	return how, ok
}

// returnedInPath says whether the placeholder of a segment is one that the host
// has put there.
func (p *prep) returnedInPath(segment string) bool {
	hit, ok := p.s.index.Next(segment, 0)
	if ok {
		_, ok = p.returned(hit.Placeholder.Secret, rules.Surface{Kind: rules.Path})
	}
	return ok
}

// givenBack puts the value where the one placeholder of a raw part stands, as the
// host had written it there. It answers false where the host has not.
func (p *prep) givenBack(raw string, at rules.Surface) (string, bool, error) {
	hit, ok := p.s.index.Next(raw, 0)
	if !ok {
		return "", false, nil
	}
	secret := hit.Placeholder.Secret
	how, ok := p.returned(secret, at)
	if _, more := p.s.index.Next(raw, hit.End); !ok || more {
		return "", false, nil
	}
	value, err := p.place(secret, at)
	if err != nil {
		return "", false, err
	}
	text := how.Write(value.text())
	switch {
	case at.Kind == rules.Cookie:
		ok = httpguts.ValidHeaderFieldValue(text) && !strings.Contains(text, ";")
	case at.Kind == rules.Query && !plainInURL(text, "&"): // as a browser does with what a URL cannot hold
		text = escapeQuery(value.text())
	case at.Kind == rules.Path && !(plainInURL(text, "/?") && safeInPath(text)):
		text, ok = url.PathEscape(value.text()), safeInPath(value.text())
	}
	if !ok {
		return "", false, &Refusal{Code: "unsafe_value", Secret: secret, Surface: at.String()}
	}
	return raw[:hit.Start] + text + raw[hit.End:], true, nil
}

// plainInURL says whether text can stand in a URL as it is, in a part that ends
// with any of ends.
func plainInURL(text, ends string) bool {
	_, err := url.PathUnescape(text)
	return err == nil && !strings.ContainsAny(text, ends) && !strings.ContainsFunc(text, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("#;\"<>\\^`{|}[]", r)
	})
}
