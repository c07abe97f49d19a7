package rules

import (
	"encoding/json"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// A pattern is what a word looks like, and how many bytes it may have: an
// expression that counts them is compiled, at every start, to as many copies.
type pattern struct {
	*regexp.Regexp
	most int
}

func (p pattern) MatchString(s string) bool { return len(s) <= p.most && p.Regexp.MatchString(s) }

var (
	methodPattern = pattern{regexp.MustCompile(`^[A-Z][A-Z-]*$`), 32}
	tokenPattern  = pattern{regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"), 128}
	sizePattern   = regexp.MustCompile(`^([0-9]{1,9})(KiB|MiB)?$`)
)

// written says which keys of a rule stand in the file, with their lines.
type written map[string]int

func (p *parser) rule(n *yaml.Node) {
	r := &Rule{Line: n.Line, Scheme: "https", ReadFirst: DefaultReadFirst}
	what := "rule"
	if name := p.ruleName(n); name != "" {
		r.Name = name
		what = "rule " + quote(name)
	}
	var hosts *yaml.Node
	lists := fields{
		"name":       func(*yaml.Node) {},
		"hosts":      func(n *yaml.Node) { hosts = n },
		"methods":    func(n *yaml.Node) { p.methods(r, n, what) },
		"paths":      func(n *yaml.Node) { p.paths(r, n, what) },
		"substitute": func(n *yaml.Node) { p.substitute(r, n, what) },
	}
	for key, read := range p.ruleSettings(r, what) {
		lists[key] = read
	}
	if !p.mapping(n, what, lists) {
		return
	}
	keys := written{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		keys[n.Content[i].Value] = n.Content[i].Line
	}
	if r.Name == "" && keys["name"] == 0 {
		p.fail(n.Line, "add name: "+"my-rule; it stands in errors and in the log", "a rule has no name")
	}
	if hosts == nil {
		p.fail(n.Line, "add hosts: [api.example.com]", "%s has no hosts", what)
	} else {
		p.hosts(r, hosts, what)
	}
	p.together(r, keys, what)
	p.pol.Rules = append(p.pol.Rules, r)
}

// ruleName is read first, as all other errors of the rule carry it.
func (p *parser) ruleName(n *yaml.Node) string {
	if n.Kind != yaml.MappingNode {
		return ""
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != "name" || n.Content[i+1].Tag == "!!null" {
			continue
		}
		name, ok := p.text(n.Content[i+1], "rule: name")
		if ok && !namePattern.MatchString(name) {
			p.fail(n.Content[i].Line, nameFix, "a rule's name that is not a name")
			return ""
		}
		return name
	}
	return ""
}

func (p *parser) ruleSettings(r *Rule, what string) fields {
	flag := func(to *bool, key string) func(*yaml.Node) {
		return func(n *yaml.Node) { *to = p.flag(n, what+": "+key) }
	}
	return fields{
		"passthrough": flag(&r.Passthrough, "passthrough"),
		"raw":         flag(&r.Raw, "raw"),
		"deny":        flag(&r.Deny, "deny"),
		"websocket":   flag(&r.WebSocket, "websocket"),
		"reason":      func(n *yaml.Node) { r.Reason, _ = p.text(n, what+": reason") },
		"scheme": func(n *yaml.Node) {
			r.Scheme = []string{"https", "http"}[p.choice(n, what+": scheme", "https", "http")]
		},
		"scrub": func(n *yaml.Node) {
			r.Scrub = []Scrub{ScrubAlways, ScrubNever}[p.choice(n, what+": scrub", "always", "never")]
		},
		"misplaced": func(n *yaml.Node) {
			r.Misplaced = []Misplaced{Forward, Refuse}[p.choice(n, what+": misplaced", "forward", "refuse")]
		},
		"response-credentials": func(n *yaml.Node) {
			r.ResponseCredentials = []ResponseCredentials{Pass, Strip}[p.choice(n, what+": response-credentials", "pass", "strip")]
		},
		"read-first": func(n *yaml.Node) { r.ReadFirst = p.size(n, what+": read-first") },
		"expires":    func(n *yaml.Node) { r.Expires = p.date(n, what+": expires") },
	}
}

func (p *parser) size(n *yaml.Node, what string) int64 {
	m := sizePattern.FindStringSubmatch(n.Value)
	if n.Kind != yaml.ScalarNode || m == nil {
		p.fail(n.Line, "write it like 64KiB or 4MiB", "%s is not a size", what)
		return 0
	}
	size, _ := strconv.ParseInt(m[1], 10, 64)
	size <<= map[string]int{"": 0, "KiB": 10, "MiB": 20}[m[2]]
	if size > 64<<20 {
		p.fail(n.Line, "write at most 64MiB; what is larger streams", "%s is too large to be held in memory", what)
	}
	return size
}

// date reads a day, of which the whole counts (UTC), or a moment.
func (p *parser) date(n *yaml.Node, what string) time.Time {
	if n.Kind == yaml.ScalarNode {
		if t, err := time.Parse(time.DateOnly, n.Value); err == nil {
			return t.AddDate(0, 0, 1)
		}
		if t, err := time.Parse(time.RFC3339, n.Value); err == nil {
			return t
		}
	}
	p.fail(n.Line, "write it like 2030-12-31 or 2030-12-31T18:00:00Z", "%s is not a date", what)
	return time.Time{}
}

func (p *parser) hosts(r *Rule, n *yaml.Node, what string) {
	port := uint16(443)
	if r.Scheme == "http" {
		port = 80
	}
	seen := map[HostPattern]bool{}
	p.texts(n, what+": hosts", func(n *yaml.Node, s string) {
		h, problem, fix := parseHostPattern(s, port)
		switch {
		case problem != "":
			p.fail(n.Line, fix, "%s: hosts: %s%s", what, problem, show(s))
		case seen[h]:
			p.fail(n.Line, "keep one of them", "%s: a host twice%s", what, show(s))
		default:
			seen[h] = true
			r.Hosts = append(r.Hosts, h)
		}
	})
}

func (p *parser) methods(r *Rule, n *yaml.Node, what string) {
	p.texts(n, what+": methods", func(n *yaml.Node, s string) {
		switch upper := strings.ToUpper(s); {
		case upper != s && methodPattern.MatchString(upper) && show(s) != "":
			p.fail(n.Line, "write "+upper, "%s: a method in lower case", what)
		case !methodPattern.MatchString(s):
			p.fail(n.Line, "write methods like GET or POST", "%s: what is not a method", what)
		case s == "CONNECT" || s == "TRACE":
			p.fail(n.Line, "remove it", "%s: %s is never forwarded", what, s)
		default:
			r.Methods = append(r.Methods, s)
		}
	})
}

func (p *parser) paths(r *Rule, n *yaml.Node, what string) {
	alike := map[string][]PathPattern{}
	p.texts(n, what+": paths", func(n *yaml.Node, s string) {
		path, problem, fix := parsePathPattern(s)
		if problem != "" {
			p.fail(n.Line, fix, "%s: paths: %s%s", what, problem, show(s))
			return
		}
		shape := shapeOf(path.segments)
		for _, other := range alike[shape] {
			if overlap(path.segments, other.segments) {
				p.fail(n.Line, "keep one of them", "%s: two paths that mean the same", what)
				return
			}
		}
		if alike[shape] = append(alike[shape], path); len(alike[shape]) > maxAlike {
			p.fail(n.Line, "write * for what differs", "%s: too many paths that are alike", what)
		}
		r.Paths = append(r.Paths, path)
	})
}

func (p *parser) substitute(r *Rule, n *yaml.Node, what string) {
	what += ": substitute"
	type place struct {
		secret  string
		surface Surface
	}
	seen := map[place]bool{}
	for _, item := range p.list(n, what) {
		s := Substitution{line: item.Line}
		var in []*yaml.Node
		p.mapping(item, what, fields{
			"secret": func(n *yaml.Node) { s.Secret, _ = p.text(n, what+": secret") },
			"in": func(n *yaml.Node) {
				if in = []*yaml.Node{n}; n.Kind == yaml.SequenceNode {
					in = p.list(n, what+": in")
				}
			},
		})
		if s.Secret == "" || len(in) == 0 {
			p.fail(item.Line, "write {secret: NAME, in: header Authorization}", "%s: an entry needs a secret and where it may stand", what)
		}
		for _, n := range in {
			surface, ok := p.surface(n, what)
			if ok && seen[place{s.Secret, surface}] {
				p.fail(n.Line, "keep one of them", "%s: a surface twice for one secret", what)
			}
			seen[place{s.Secret, surface}] = true
			s.In = append(s.In, surface)
		}
		r.Substitute = append(r.Substitute, s)
	}
}

const surfaceFix = "write header NAME, basic user, basic password, cookie NAME, query NAME, path, form NAME, json /pointer, multipart NAME, body or websocket"

func (p *parser) surface(n *yaml.Node, what string) (Surface, bool) {
	text, ok := p.text(n, what+": in")
	if !ok {
		return Surface{}, false
	}
	for k := range kindNames {
		if text == kindNames[k] && !slices.Contains([]Kind{Header, Cookie, Query, Form, JSON, Multipart}, Kind(k)) {
			return Surface{Kind: Kind(k)}, true
		}
	}
	word, name, _ := strings.Cut(text, " ")
	s := Surface{Name: name}
	problem, fix := "no such surface", surfaceFix
	switch word {
	case "header":
		s.Kind, s.Name = Header, textproto.CanonicalMIMEHeaderKey(name)
		problem, fix = headerProblem(s.Name)
	case "cookie":
		s.Kind = Cookie
		problem, fix = "", ""
		if !tokenPattern.MatchString(name) {
			problem, fix = "the cookie has no name that a cookie can have", "write cookie NAME"
		}
	case "query", "form", "multipart":
		s.Kind = map[string]Kind{"query": Query, "form": Form, "multipart": Multipart}[word]
		problem, fix = "", ""
		if name == "" || strings.TrimSpace(name) != name || len(name) > 256 {
			problem, fix = "the field has no name", "write "+word+" NAME"
		}
	case "json":
		s.Kind = JSON
		problem, fix = pointerProblem(name)
	}
	if problem != "" {
		p.fail(n.Line, fix, "%s: %s", what, problem)
	}
	return s, problem == ""
}

// framing are headers that say how a request is read or routed: a value there
// would change what the request is.
var framing = []string{"Host", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Connection", "Keep-Alive",
	"Te", "Trailer", "Upgrade", "Expect", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate", "Http2-Settings"}

func headerProblem(name string) (problem, fix string) {
	switch {
	case !tokenPattern.MatchString(name):
		return "the header has no name that a header can have", "write header NAME, like header Authorization"
	case name == "Cookie":
		return "a cookie is a surface of its own", "write cookie NAME"
	case slices.Contains(framing, name):
		return "no secret can stand in header " + name, "name the header that carries the credential, like header Authorization"
	}
	return "", ""
}

// pointerProblem checks a JSON pointer (RFC 6901).
func pointerProblem(s string) (problem, fix string) {
	if !strings.HasPrefix(s, "/") || len(s) > 512 {
		return "the JSON pointer does not begin with a slash", "write json /auth/token"
	}
	for i := range len(s) {
		if s[i] == '~' && (i+1 == len(s) || s[i+1] != '0' && s[i+1] != '1') {
			return "a bad escape in the JSON pointer", "write ~0 for ~ and ~1 for /"
		}
	}
	return "", ""
}

// together checks what the keys of a rule mean with each other.
func (p *parser) together(r *Rule, keys written, what string) {
	only := func(kind string, allowed ...string) {
		for _, key := range sortedKeys(keys) {
			if !slices.Contains(allowed, key) {
				p.fail(keys[key], "remove it, or make two rules", "%s: %s has no meaning with %s: true", what, key, kind)
			}
		}
	}
	switch {
	case r.Passthrough:
		only("passthrough", "name", "hosts", "passthrough", "deny", "reason", "raw", "expires")
		if r.Reason == "" {
			p.fail(r.Line, "add reason: why it cannot be intercepted", "%s: passthrough without a reason", what)
		}
		if r.Deny {
			p.fail(keys["deny"], "keep one of them", "%s: both passthrough and deny", what)
		}
	case r.Deny:
		only("deny", "name", "hosts", "methods", "paths", "deny", "passthrough", "reason", "raw", "scheme", "expires")
	case keys["reason"] != 0:
		p.fail(keys["reason"], "remove it, or add passthrough: true", "%s: reason belongs to passthrough or deny", what)
	}
	if r.Raw && !r.Passthrough {
		p.fail(keys["raw"], "add passthrough: true and a reason", "%s: raw without passthrough", what)
	}
	p.pathSurface(r, what)
	for _, s := range r.Substitute {
		for _, in := range s.In {
			if in.Kind == WebSocket && !r.WebSocket {
				p.fail(s.line, "add websocket: true", "%s: a websocket surface, but upgrades are refused", what)
			}
		}
	}
}

// pathSurface checks that braces and the path surface come together.
func (p *parser) pathSurface(r *Rule, what string) {
	surface, slot := false, false
	for _, s := range r.Substitute {
		surface = surface || slices.Contains(s.In, Surface{Kind: Path})
	}
	for _, path := range r.Paths {
		slot = slot || path.slot >= 0
	}
	switch {
	case surface && !slot:
		p.fail(r.Line, "mark the segment that holds the placeholder, like /bot{}/**", "%s: in: path, but no path has {}", what)
	case slot && !surface:
		p.fail(r.Line, "add in: path, or write * for {}", "%s: {} in a path, but nothing is substituted there", what)
	}
}

// MarshalJSON shows a surface as the rules file writes it.
func (s Surface) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }
