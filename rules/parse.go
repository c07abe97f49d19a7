package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"gopkg.in/yaml.v3"
)

// Parse reads a rules file from memory. It opens nothing: paths in the file are
// made absolute against the folder of path, but the files that they name are
// neither read nor part of Hash. Errors are *Error, joined when several.
func Parse(path string, data []byte) (*Policy, error) {
	p := &parser{file: path, pol: &Policy{
		Path:      path,
		Secrets:   map[string]*Secret{},
		Upstreams: map[string]*Upstream{},
		Profiles:  map[string]*Profile{},
		Sources:   map[string]Source{},
	}}
	p.path = func(name string) string {
		if filepath.IsAbs(name) {
			return filepath.Clean(name)
		}
		return filepath.Join(filepath.Dir(path), name)
	}
	sum := sha256.Sum256(data)
	p.pol.Hash = hex.EncodeToString(sum[:])
	root, err := document(data)
	if err != nil {
		err.File = path
		return nil, err
	}
	unmatched := -1
	if root != nil {
		unmatched = p.contents(root)
	}
	p.pol.Empty = len(p.pol.Rules) == 0
	if unmatched == 1 || p.pol.Empty && unmatched != 0 {
		// An allow list without entries allows nothing.
		p.pol.Unmatched = UnmatchedRefuse
	}
	if len(p.errs) == 0 {
		p.check()
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	return p.pol, nil
}

// contents reads the top level, and returns what it says of unmatched hosts: 0
// passthrough, 1 deny, -1 nothing.
func (p *parser) contents(root *yaml.Node) int {
	unmatched, version := -1, false
	p.mapping(root, "the file", fields{
		"version": func(n *yaml.Node) {
			version = true
			if n.Kind != yaml.ScalarNode || n.Value != "1" || n.Tag != "!!int" {
				p.fail(n.Line, "write version: 1; a higher one belongs to a newer standin", "a version that this standin does not know")
			}
		},
		"secrets": func(n *yaml.Node) {
			p.named(n, "secrets", func(name string, key, value *yaml.Node) { p.secret(name, key.Line, value) })
		},
		"sources": func(n *yaml.Node) { p.entries(n, "sources", p.source) },
		"rules": func(n *yaml.Node) {
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				return
			}
			for _, item := range p.list(n, "rules") {
				p.rule(item)
			}
		},
		"upstreams": func(n *yaml.Node) { p.entries(n, "upstreams", p.upstream) },
		"profiles": func(n *yaml.Node) {
			p.named(n, "profiles", func(name string, key, value *yaml.Node) { p.profile(name, key.Line, value) })
		},
		"unmatched": func(n *yaml.Node) { unmatched = p.choice(n, "unmatched", "passthrough", "deny") },
	})
	if !version && root.Kind == yaml.MappingNode {
		p.fail(root.Line, "begin the file with: version: 1", "the version is missing")
	}
	return unmatched
}

var (
	namePattern     = pattern{regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]*$`), 64}
	variablePattern = pattern{regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`), 128}
	shapePattern    = pattern{regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`), 32}
	vaultPattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9_./-]*$`)
)

// staticPattern is rarely needed.
var staticPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9_-]{0,31})?zstandin_[a-z2-7]{26}$`)
})

const nameFix = "use lower-case letters, digits, hyphens, dots and underscores, like github-api"

// named reads a mapping whose keys are names of the user's choice.
func (p *parser) named(n *yaml.Node, what string, each func(name string, key, value *yaml.Node)) {
	p.entries(n, what, func(key, value *yaml.Node) {
		name, ok := p.text(key, "a name in "+what)
		if ok && !namePattern.MatchString(name) {
			p.fail(key.Line, nameFix, "a name in %s that is not a name", what)
		} else if ok {
			each(name, key, value)
		}
	})
}

func (p *parser) secret(name string, line int, n *yaml.Node) {
	s := &Secret{Name: name, Line: line}
	what := "secret " + quote(name)
	ok := p.mapping(n, what, fields{
		"source": func(n *yaml.Node) { s.Source = p.sourceOf(n, what) },
		"shape": func(n *yaml.Node) {
			if text, ok := p.text(n, what+": shape"); ok && (!shapePattern.MatchString(text) || strings.Contains(text, "zstandin")) {
				p.fail(n.Line, "write the prefix only, like ghp_", "%s: the shape is not a prefix", what)
			} else {
				s.Shape = text
			}
		},
		"env": func(n *yaml.Node) {
			p.texts(n, what+": env", func(n *yaml.Node, v string) {
				if !variablePattern.MatchString(v) {
					p.fail(n.Line, "write the name of the variable, without $", "%s: env holds what is not a variable's name", what)
				}
				s.Env = append(s.Env, v)
			})
		},
		"deliver": func(n *yaml.Node) { s.Deliver = Deliver(p.choice(n, what+": deliver", "wire", "env", "file")) },
		"placeholder": func(n *yaml.Node) {
			if text, ok := p.text(n, what+": placeholder"); ok && !staticPattern().MatchString(text) {
				p.fail(n.Line, "make one with: standin rules placeholder "+name, "%s: the placeholder does not have the form of one", what)
			} else {
				s.Placeholder = text
			}
		},
		"min-length": func(n *yaml.Node) { s.MinLength = p.number(n, what+": min-length", 8, 4096) },
	})
	if ok {
		p.checkSecret(s, what)
	}
	p.pol.Secrets[name] = s
}

func (p *parser) checkSecret(s *Secret, what string) {
	switch {
	case s.Source == "":
		p.fail(s.Line, "add source: vault:"+s.Name, "%s has no source", what)
	case s.Deliver == Env && len(s.Env) != 1:
		p.fail(s.Line, "add env: [NAME] with the one variable that gets it", "%s is delivered by env, but not into one variable", what)
	case s.Deliver == File && len(s.Env) != 1:
		p.fail(s.Line, "add env: [NAME] with the variable that gets the path", "%s is delivered by file, but no one variable says where it is", what)
	case s.Deliver != Wire && (s.Placeholder != "" || s.Shape != ""):
		p.fail(s.Line, "remove placeholder and shape, or deliver", "%s is delivered as it is, and has no placeholder", what)
	case s.Placeholder != "" && s.Shape != "" && !strings.HasPrefix(s.Placeholder, s.Shape+"zstandin_"):
		p.fail(s.Line, "make one with: standin rules placeholder "+s.Name, "%s: the placeholder does not begin with the shape", what)
	}
}

// sourceOf reads a secret's source. It never shows it: the likeliest mistake is
// to write the value itself there.
func (p *parser) sourceOf(n *yaml.Node, what string) string {
	text, ok := p.text(n, what+": source")
	if !ok {
		return ""
	}
	kind, rest, _ := strings.Cut(text, ":")
	fix := ""
	path, key, hasKey := strings.Cut(rest, "#")
	switch kind {
	case "vault":
		ok, fix = vaultPattern.MatchString(rest), "write vault:NAME in lower case, as in: standin vault set NAME"
	case "env":
		ok, fix = variablePattern.MatchString(rest), "write env:NAME with the name of the variable, without $"
	case "file":
		home := strings.HasPrefix(path, "~/")
		ok, fix = path != "" && (home || path[0] != '~') && (!hasKey || key != ""), "write file:PATH or file:PATH#KEY"
		if !home {
			text = "file:" + p.path(path) + strings.TrimPrefix(rest, path)
		}
	case "exec":
		ok, fix = namePattern.MatchString(rest), "write exec:NAME, and the command under sources: exec:NAME"
	case "hcp":
		ok, fix = strings.Contains(path, "/") && key != "", "write hcp:MOUNT/PATH#KEY"
	case "aws-sm":
		ok, fix = path != "" && (!hasKey || key != ""), "write aws-sm:ID or aws-sm:ID#KEY"
	case "op":
		ok, fix = validParts(rest, 3), "write op:VAULT/ITEM/FIELD"
	case "keyring":
		ok, fix = validParts(rest, 2), "write keyring:SERVICE/ACCOUNT"
	default:
		ok, fix = false, "begin with vault: env: file: exec: hcp: aws-sm: op: or keyring:, and keep the value itself out of this file: standin vault set NAME"
	}
	if !ok {
		p.fail(n.Line, fix, "%s: the source is not one", what)
		return "invalid"
	}
	return text
}

func validParts(s string, count int) bool {
	parts := strings.Split(s, "/")
	for _, part := range parts {
		if part == "" {
			return false
		}
	}
	return len(parts) == count
}

// settings are the keys of a source besides timeout and ttl, by its kind.
var settings = map[string][]string{
	"hcp":     {"address", "namespace", "auth", "token", "role-id", "secret-id", "ca"},
	"aws-sm":  {"region", "endpoint", "profile"},
	"op":      {"address", "token"},
	"keyring": {},
}

func (p *parser) source(key, n *yaml.Node) {
	kind, name, isExec := strings.Cut(key.Value, ":")
	keys, known := settings[kind]
	if isExec {
		known = kind == "exec" && namePattern.MatchString(name)
	}
	if !known {
		p.fail(key.Line, "write exec:NAME, hcp, aws-sm, op or keyring", "sources: a name that is not a kind of source%s", showField(key.Value))
		return
	}
	what := "source " + quote(key.Value)
	s := Source{Name: key.Value, Kind: kind, Timeout: 10 * time.Second, TTL: 5 * time.Minute, Settings: map[string]string{}, Line: key.Line}
	f := fields{
		"timeout": func(n *yaml.Node) { s.Timeout = p.duration(n, what+": timeout", 5*time.Minute) },
		"ttl":     func(n *yaml.Node) { s.TTL = p.duration(n, what+": ttl", 24*time.Hour) },
	}
	for _, setting := range keys {
		f[setting] = func(n *yaml.Node) { s.Settings[setting] = p.setting(n, what, setting) }
	}
	if isExec {
		f["command"] = func(n *yaml.Node) { s.Command = p.command(n, what) }
		f["env"] = func(n *yaml.Node) {
			p.texts(n, what+": env", func(n *yaml.Node, v string) {
				if !variablePattern.MatchString(v) {
					p.fail(n.Line, "write the names of the variables that the command needs, without $", "%s: env holds what is not a variable's name", what)
				}
				s.Env = append(s.Env, v)
			})
		}
	}
	if p.mapping(n, what, f) && isExec && len(s.Command) == 0 {
		p.fail(key.Line, "add command: [PROGRAM, ARGUMENT]", "%s has no command", what)
	}
	p.pol.Sources[key.Value] = s
}

// setting reads one setting of a source. Those that authenticate are themselves
// sources, so that no secret has a reason to stand in the file.
func (p *parser) setting(n *yaml.Node, what, name string) string {
	switch name {
	case "token", "role-id", "secret-id":
		text, ok := p.text(n, what+": "+name)
		kind, rest, _ := strings.Cut(text, ":")
		if ok && (rest == "" || kind != "env" && kind != "file" && kind != "vault") {
			p.fail(n.Line, "write env:NAME, file:PATH or vault:NAME", "%s: %s is not a source", what, name)
		}
		if kind == "file" {
			return "file:" + p.path(rest)
		}
		return text
	case "auth":
		return []string{"token", "approle"}[p.choice(n, what+": auth", "token", "approle")]
	}
	text, ok := p.text(n, what+": "+name)
	if ok && name == "ca" {
		return p.path(text)
	}
	return text
}

// command reads the command of an exec source. A program or argument that is
// written as a path ("./x", "../x") is meant from the folder of the file.
func (p *parser) command(n *yaml.Node, what string) (argv []string) {
	for i, item := range p.list(n, what+": command") {
		text, ok := p.text(item, what+": command")
		if !ok {
			continue
		}
		relative := strings.HasPrefix(text, "./") || strings.HasPrefix(text, "../")
		if relative || i == 0 && strings.ContainsAny(text, `/`+string(filepath.Separator)) {
			text = p.path(text)
		}
		argv = append(argv, text)
	}
	return argv
}

func (p *parser) upstream(key, n *yaml.Node) {
	name, ok := p.text(key, "a name in upstreams")
	if !ok {
		return
	}
	h, problem, fix := parseHostPattern(name, 0)
	if problem == "" && h.Wildcard {
		problem, fix = "a wildcard", "name each host"
	}
	if problem != "" {
		p.fail(key.Line, fix, "upstreams: %s%s", problem, show(name))
		return
	}
	u := &Upstream{Name: Authority{Host: h.Name, Port: h.Port}, Line: key.Line}
	what := "upstream " + quote(name)
	if n.Tag != "!!null" {
		file := func(to *string, field string) func(*yaml.Node) {
			return func(n *yaml.Node) {
				if text, ok := p.text(n, what+": "+field); ok {
					*to = p.path(text)
				}
			}
		}
		p.mapping(n, what, fields{
			"dial": func(n *yaml.Node) {
				text, ok := p.text(n, what+": dial")
				a, err := ParseAuthority(text)
				if ok && err != nil {
					p.fail(n.Line, `write "host:port"`, "%s: dial: %s", what, err.(*AuthorityError).Problem)
				}
				u.Dial = a.String()
			},
			"ca":          file(&u.CA, "ca"),
			"client-cert": file(&u.ClientCert, "client-cert"),
			"client-key":  file(&u.ClientKey, "client-key"),
		})
	}
	if (u.ClientCert == "") != (u.ClientKey == "") {
		p.fail(key.Line, "name both client-cert and client-key", "%s: half of a client certificate", what)
	}
	id := h.Name
	if h.Port != 0 {
		id = u.Name.String()
	}
	if p.pol.Upstreams[id] != nil {
		p.fail(key.Line, "keep one of them", "upstreams: a host twice%s", show(name))
	}
	p.pol.Upstreams[id] = u
}

func (p *parser) profile(name string, line int, n *yaml.Node) {
	pr := &Profile{Name: name, TTL: DefaultTTL, Extends: "tree", Line: line}
	what := "profile " + quote(name)
	listed := false
	p.mapping(n, what, fields{
		"secrets": func(n *yaml.Node) {
			listed = true
			if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
				return
			}
			p.texts(n, what+": secrets", func(_ *yaml.Node, s string) { pr.Secrets = append(pr.Secrets, s) })
		},
		"ttl":  func(n *yaml.Node) { pr.TTL = p.duration(n, what+": ttl", 8760*time.Hour) },
		"uses": func(n *yaml.Node) { pr.Uses = p.number(n, what+": uses", 1, 1<<30) },
		"isolation": func(n *yaml.Node) {
			levels := []string{"session", "tree", "netns"}
			pr.Isolation = levels[p.choice(n, what+": isolation", levels...)]
		},
		"extends": func(n *yaml.Node) {
			pr.Extends = []string{"tree", "command"}[p.choice(n, what+": extends", "tree", "command")]
		},
		"inherit": func(n *yaml.Node) {
			if n.Kind == yaml.ScalarNode {
				pr.InheritAll = n.Value == "all"
			}
			if pr.InheritAll {
				return
			}
			p.texts(n, what+": inherit", func(n *yaml.Node, v string) {
				if !variablePattern.MatchString(v) {
					p.fail(n.Line, "write the names of variables, or inherit: all", "%s: inherit holds what is not a variable's name", what)
				}
				pr.Inherit = append(pr.Inherit, v)
			})
		},
	})
	if !listed {
		p.fail(line, "add secrets: [NAME], or secrets: [] for none", "%s does not say which secrets it has", what)
	}
	p.pol.Profiles[name] = pr
}
