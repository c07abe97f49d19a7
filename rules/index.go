package rules

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// hostKey finds what stands at one host pattern.
type hostKey struct {
	name     string
	port     uint16
	wildcard bool
}

func (h HostPattern) key() hostKey { return hostKey{h.Name, h.Port, h.Wildcard} }

// entry is one way in which a rule can match at a host pattern.
type entry struct {
	rule *Rule
	path *PathPattern
	any  bool // the rule has no paths
}

// hostRules is all that the rules say about one host pattern. Either
// passthrough is set, or entries are, the most specific first.
type hostRules struct {
	passthrough *Rule
	entries     []entry
	denies      bool // some deny rule has paths
}

// index is the policy compiled for lookups.
type index struct {
	hosts     map[hostKey]*hostRules
	secured   map[string]bool     // names with an https rule, on any port
	wild      map[string][]uint16 // parents of wildcards with an https rule
	upstreams map[Authority]*Upstream
}

// A file within these bounds is checked in well under a second.
const (
	maxEntries = 100_000
	maxAlike   = 64
)

// check looks at the file as a whole: references, doubles, overlaps. It builds
// the index on the way.
func (p *parser) check() {
	p.checkNames()
	p.checkVariables()
	p.checkPlaceholders()
	ix := index{hosts: map[hostKey]*hostRules{}, secured: map[string]bool{}, wild: map[string][]uint16{}, upstreams: map[Authority]*Upstream{}}
	for _, u := range p.pol.Upstreams {
		ix.upstreams[u.Name] = u
	}
	total := 0
	for _, r := range p.pol.Rules {
		if total += len(r.Hosts) * max(1, len(r.Paths)); total > maxEntries {
			p.fail(r.Line, "use wildcards", "too many combinations of hosts and paths")
			return
		}
		for _, h := range r.Hosts {
			p.add(&ix, r, h)
		}
	}
	for _, key := range sortedHosts(ix.hosts) {
		p.checkOverlaps(key, ix.hosts[key].entries)
		slices.SortStableFunc(ix.hosts[key].entries, func(a, b entry) int {
			if c := moreSpecific(b.path.segments, a.path.segments); c != 0 {
				return c
			}
			return cmp.Compare(min(1, len(b.rule.Methods)), min(1, len(a.rule.Methods)))
		})
	}
	p.pol.index = ix
}

func sortedHosts(m map[hostKey]*hostRules) []hostKey {
	return slices.SortedFunc(maps.Keys(m), func(a, b hostKey) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.port, b.port), compareBool(a.wildcard, b.wildcard))
	})
}

func compareBool(a, b bool) int {
	if a == b {
		return 0
	} else if b {
		return -1
	}
	return 1
}

// add puts a rule under one of its hosts.
func (p *parser) add(ix *index, r *Rule, h HostPattern) {
	at := ix.hosts[h.key()]
	if at == nil {
		at = &hostRules{}
		ix.hosts[h.key()] = at
	}
	other := at.passthrough
	if other == nil && r.Passthrough && len(at.entries) > 0 {
		other = at.entries[0].rule
	}
	if other != nil {
		// Inside a tunnel that is relayed no rule can be kept.
		p.fail(r.Line, "keep one of them for this host", "rules %q (line %d) and %q: %s is in both, and one of them is passthrough", other.Name, other.Line, r.Name, h)
		return
	}
	if r.Passthrough {
		at.passthrough = r
		return
	}
	if len(r.Paths) == 0 {
		at.entries = append(at.entries, entry{rule: r, path: &everyPath, any: true})
	}
	for i := range r.Paths {
		at.entries = append(at.entries, entry{rule: r, path: &r.Paths[i]})
		at.denies = at.denies || r.Deny
	}
	switch {
	case r.Scheme != "https":
	case h.Wildcard:
		ix.wild[h.Name] = append(ix.wild[h.Name], h.Port)
	default:
		ix.secured[h.Name] = true
	}
}

// checkOverlaps finds two entries that match one request and are equally
// specific. Such entries have the same kinds of segments and the same literals,
// so that they meet in one group.
func (p *parser) checkOverlaps(host hostKey, entries []entry) {
	groups := map[string][]entry{}
	for _, e := range entries {
		methods := e.rule.Methods
		if len(methods) == 0 {
			methods = []string{""}
		}
		for _, method := range methods {
			key := e.rule.Scheme + " " + method + " " + shapeOf(e.path.segments)
			for _, other := range groups[key] {
				if other.rule != e.rule && overlap(other.path.segments, e.path.segments) {
					p.overlapError(host, other, e, method)
					return
				}
			}
			if groups[key] = append(groups[key], e); len(groups[key]) > maxAlike {
				p.fail(e.rule.Line, "use one rule for them", "rule %q: too many paths that are alike", e.rule.Name)
				return
			}
		}
	}
}

// shapeOf is equal for patterns that could overlap and be equally specific.
func shapeOf(segments []segment) string {
	var b strings.Builder
	for _, s := range segments {
		switch s.kind {
		case affixed:
			fmt.Fprintf(&b, "/?%d", len(s.text)+len(s.suffix))
		case literal:
			fmt.Fprintf(&b, "/=%q", s.text)
		default:
			fmt.Fprintf(&b, "/%d", s.kind)
		}
	}
	return b.String()
}

func (p *parser) overlapError(host hostKey, a, b entry, method string) {
	where := HostPattern{Name: host.name, Wildcard: host.wildcard, Port: host.port}.String()
	what := "every request"
	if method != "" {
		what = method
	}
	if !b.any {
		what += " of " + b.path.text
	}
	p.fail(b.rule.Line, "narrow one of them by paths or methods, or merge them",
		"rules %q (line %d) and %q both match %s at %s, and neither is the more specific", a.rule.Name, a.rule.Line, b.rule.Name, what, where)
}

// checkNames checks references between the parts of the file.
func (p *parser) checkNames() {
	names := map[string]int{}
	for _, r := range p.pol.Rules {
		if line := names[r.Name]; line != 0 {
			p.fail(r.Line, "give it another name", "two rules with the name %q, the other in line %d", r.Name, line)
		}
		names[r.Name] = r.Line
		for _, s := range r.Substitute {
			secret := p.known(s.Secret, s.line, "rule "+quote(r.Name))
			if secret != nil && secret.Deliver != Wire {
				p.fail(s.line, "remove deliver, or this substitution", "rule %q: secret %q is delivered as it is, and has no placeholder", r.Name, s.Secret)
			}
		}
	}
	for _, name := range sortedKeys(p.pol.Profiles) {
		pr := p.pol.Profiles[name]
		for _, secret := range pr.Secrets {
			p.known(secret, pr.Line, "profile "+quote(name))
		}
	}
	for _, name := range p.pol.secretNames() {
		s := p.pol.Secrets[name]
		if _, ok := p.pol.Sources[s.Source]; !ok && strings.HasPrefix(s.Source, "exec:") {
			p.fail(s.Line, "add sources: {"+s.Source+": {command: [PROGRAM]}}", "secret %q: the source's command is not defined", name)
		}
	}
}

func (p *parser) known(name string, line int, what string) *Secret {
	if s := p.pol.Secrets[name]; s != nil {
		return s
	}
	if len(p.errs) == maxErrors {
		return nil
	}
	known := p.pol.secretNames()
	fix := "define it under secrets"
	if near := nearest(name, known); near != "" {
		fix = fmt.Sprintf("did you mean %q?", near)
	}
	p.fail(line, fix, "%s names a secret that is not defined%s", what, show(name))
	return nil
}

// checkVariables refuses two secrets for one variable in one session.
func (p *parser) checkVariables() {
	sessions := p.pol.Profiles
	if len(sessions) == 0 {
		sessions = map[string]*Profile{"": {Secrets: p.pol.secretNames()}}
	}
	for _, name := range sortedKeys(sessions) {
		owner := map[string]string{}
		for _, secret := range sessions[name].Secrets {
			s := p.pol.Secrets[secret]
			if s == nil {
				continue
			}
			for _, v := range s.Env {
				if other := owner[v]; other != "" {
					p.fail(s.Line, "use one of them, or a profile for each", "secrets %q and %q both want one variable of the command%s", other, secret, show(v))
				}
				owner[v] = secret
			}
		}
	}
}

// checkPlaceholders refuses two static placeholders with one random part: the
// one could then stand inside the other.
func (p *parser) checkPlaceholders() {
	owner := map[string]string{}
	for _, name := range p.pol.secretNames() {
		s := p.pol.Secrets[name]
		if s.Placeholder == "" {
			continue
		}
		random := s.Placeholder[len(s.Placeholder)-26:]
		if other := owner[random]; other != "" {
			p.fail(s.Line, "make one with: standin rules placeholder "+name, "secrets %q and %q have the same placeholder", other, name)
		}
		owner[random] = name
	}
}
