package rules

import (
	"fmt"
	"slices"
	"strings"
)

// Action is what happens to a tunnel.
type Action uint8

// What Policy.Host can answer.
const (
	Intercept Action = iota
	Passthrough
	UnmatchedPassthrough
	UnmatchedDeny
)

// String names the action.
func (a Action) String() string {
	return [...]string{"intercept", "passthrough", "unmatched: passthrough", "unmatched: deny"}[a]
}

// Verdict is what the rules say of a host. Rule is the passthrough rule, nil
// for every other action.
type Verdict struct {
	Action Action
	Rule   *Rule
}

// at finds what the rules say of an authority: by its name, and by its wildcard
// unless the name is taken out of it.
func (ix *index) at(a Authority) (exact, wild *hostRules) {
	exact = ix.hosts[hostKey{name: a.Host, port: a.Port}]
	if exact != nil && exact.passthrough != nil {
		return exact, nil
	}
	// Neither an address nor a name of one label has a parent that is in the map.
	if i := strings.IndexByte(a.Host, '.'); i > 0 {
		wild = ix.hosts[hostKey{name: a.Host[i+1:], port: a.Port, wildcard: true}]
	}
	return exact, wild
}

// Host says what happens to a tunnel to a. It allocates nothing.
func (p *Policy) Host(a Authority) Verdict {
	exact, wild := p.index.at(a)
	first := exact
	if first == nil {
		first = wild
	}
	switch {
	case first == nil && p.Unmatched == UnmatchedRefuse:
		return Verdict{Action: UnmatchedDeny}
	case first == nil:
		return Verdict{Action: UnmatchedPassthrough}
	case first.passthrough != nil:
		return Verdict{Action: Passthrough, Rule: first.passthrough}
	}
	return Verdict{Action: Intercept}
}

// At lists the rules that can decide requests to a, each once.
func (p *Policy) At(a Authority) []*Rule {
	var found []*Rule
	exact, wild := p.index.at(a)
	for _, at := range [2]*hostRules{exact, wild} {
		if at == nil {
			continue
		}
		for _, e := range at.entries {
			if !slices.Contains(found, e.rule) {
				found = append(found, e.rule)
			}
		}
	}
	return found
}

// InterceptsName reports whether an https rule intercepts this canonical name on
// any port. Such a name is never reached in the clear.
func (p *Policy) InterceptsName(host string) bool {
	if p.index.secured[host] {
		return true
	}
	_, parent, _ := strings.Cut(host, ".")
	for _, port := range p.index.wild[parent] {
		exact := p.index.hosts[hostKey{name: host, port: port}]
		if exact == nil || exact.passthrough == nil {
			return true
		}
	}
	return false
}

// InterceptedHosts lists what the rules intercept, sorted, without ports: names,
// "*.example.com", addresses.
func (p *Policy) InterceptedHosts() []string {
	var hosts []string
	for _, r := range p.Rules {
		for _, h := range r.Hosts {
			name := h.Name
			if h.Wildcard {
				name = "*." + name
			}
			if !r.Passthrough {
				hosts = append(hosts, name)
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// Upstream is the entry for a, the one with its port first, or nil.
func (p *Policy) Upstream(a Authority) *Upstream {
	if u := p.index.upstreams[a]; u != nil {
		return u
	}
	return p.index.upstreams[Authority{Host: a.Host}]
}

// Target is a request to be matched. Path is as it came on the wire, without
// the query.
type Target struct {
	Authority Authority
	Scheme    string
	Method    string
	Path      string
}

// Match is the rule that decides a request, or none. Segment is the index, in
// NormalPath, of the segment that may hold the placeholder, or -1.
type Match struct {
	Rule      *Rule
	Segment   int
	Ambiguous bool // the path can be read in two ways
}

// Match finds the most specific rule for t. A rule with paths never matches an
// ambiguous one, but a deny rule with paths decides it, and any path with a ";" in
// it, wherever it could have matched: the server may read there what it denies.
// Match does not look at passthrough: a tunnel that is relayed shows no requests.
// It allocates nothing.
func (p *Policy) Match(t Target) Match {
	m := Match{Segment: -1, Ambiguous: !unambiguous(t.Path)}
	switch e, doubt := p.index.find(&t, m.Ambiguous); {
	case doubt:
		m.Rule = e.rule
	case e != nil:
		m.Rule, m.Segment = e.rule, e.path.slot
	}
	return m
}

// find is the entry that decides. With doubt it is one of a deny rule, for a path
// that may be meant for it.
func (ix *index) find(t *Target, ambiguous bool) (found *entry, doubt bool) {
	exact, wild := ix.at(t.Authority)
	for _, at := range [2]*hostRules{exact, wild} {
		if at == nil {
			continue
		}
		found = at.first(t, ambiguous)
		if at.denies && (found == nil || !found.rule.Deny) && (ambiguous || hasParameters(t.Path)) {
			for i := range at.entries {
				if e := &at.entries[i]; e.rule.Deny && !e.any && e.fits(t) {
					return e, true
				}
			}
		}
		if found != nil {
			return found, false
		}
	}
	return nil, false
}

// first is the most specific entry that matches.
func (h *hostRules) first(t *Target, ambiguous bool) *entry {
	for i := range h.entries {
		if e := &h.entries[i]; e.fits(t) && (e.any || !ambiguous && e.path.matches(t.Path)) {
			return e
		}
	}
	return nil
}

// fits says whether the entry is for such requests, whatever their path.
func (e *entry) fits(t *Target) bool {
	return e.rule.Scheme == t.Scheme && (len(e.rule.Methods) == 0 || slices.Contains(e.rule.Methods, t.Method))
}

// Explanation says what the policy does with a request, and why.
type Explanation struct {
	Target    Target
	Action    Action
	Rule      *Rule  // that decides, or nil
	Path      string // the pattern of it that matched, or ""
	Ambiguous bool
	Doubt     string // why a deny rule decides without a pattern that matched, or ""
	Places    []Place
	Others    []Other
}

// Place is where one secret would be put in.
type Place struct {
	Secret  string
	Surface Surface
	Segment string // of a path surface: what stands there now
}

// Other is a rule that does not decide, and why.
type Other struct {
	Rule *Rule
	Why  string
}

// Explain says which rule decides t, what it would substitute where, and for
// each other rule why it does not.
func (p *Policy) Explain(t Target) Explanation {
	m := p.Match(t)
	verdict := p.Host(t.Authority)
	x := Explanation{Target: t, Action: verdict.Action, Rule: m.Rule, Ambiguous: m.Ambiguous}
	if verdict.Action == Passthrough {
		x.Rule = verdict.Rule
	}
	switch e, doubt := p.index.find(&t, m.Ambiguous); {
	case doubt && m.Ambiguous:
		x.Doubt = "it denies paths, and this one can be read in two ways"
	case doubt:
		x.Doubt = "it denies paths, and of this one servers may drop what follows the semicolon"
	case e != nil:
		x.Path = e.path.text
		x.Places = places(e.rule, m, t.Path)
	}
	for _, r := range p.Rules {
		if r != x.Rule {
			x.Others = append(x.Others, Other{r, p.whyNot(r, t, x)})
		}
	}
	return x
}

func places(r *Rule, m Match, path string) (list []Place) {
	segments, _ := NormalPath(path)
	for _, s := range r.Substitute {
		for _, in := range s.In {
			place := Place{Secret: s.Secret, Surface: in}
			if in.Kind == Path {
				if m.Segment < 0 {
					continue
				}
				place.Segment = segments[m.Segment]
			}
			list = append(list, place)
		}
	}
	return list
}

func (p *Policy) whyNot(r *Rule, t Target, x Explanation) string {
	if !slices.ContainsFunc(r.Hosts, func(h HostPattern) bool { return h.matches(t.Authority) }) {
		other := "host"
		hosts := make([]string, 0, len(r.Hosts))
		for _, h := range r.Hosts {
			hosts = append(hosts, h.String())
			if h.matches(Authority{t.Authority.Host, h.Port}) {
				other = "port"
			}
		}
		return "another " + other + ": " + strings.Join(hosts, ", ")
	}
	switch {
	case x.Action == Passthrough:
		return fmt.Sprintf("rule %q takes this name out of the wildcard", x.Rule.Name)
	case r.Passthrough:
		return "the exact host of another rule goes before its wildcard"
	case r.Scheme != t.Scheme:
		return "for " + r.Scheme + " only"
	case len(r.Methods) > 0 && !slices.Contains(r.Methods, t.Method):
		return "for other methods: " + strings.Join(r.Methods, ", ")
	case len(r.Paths) > 0 && x.Ambiguous:
		return "has paths, and this path can be read in two ways"
	case len(r.Paths) > 0 && !slices.ContainsFunc(r.Paths, func(pt PathPattern) bool { return pt.matches(t.Path) }):
		paths := make([]string, 0, len(r.Paths))
		for _, pt := range r.Paths {
			paths = append(paths, pt.text)
		}
		return "another path: " + strings.Join(paths, ", ")
	}
	if x.Doubt != "" {
		return fmt.Sprintf("rule %q goes before it: %s", x.Rule.Name, x.Doubt)
	}
	return fmt.Sprintf("matches, but rule %q is more specific", x.Rule.Name)
}
