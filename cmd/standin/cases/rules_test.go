//go:build linux

package cases

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Rules is the rules file of a case. It is written and trusted when the first
// session starts, or by Write.
type Rules struct {
	c         *Case
	Path      string
	secrets   []string // names
	entries   []string // of "secrets:"
	rules     []string
	upstreams []string
	profiles  []string
	tail      []string
	written   bool
}

func newRules(c *Case) *Rules {
	r := &Rules{c: c, Path: filepath.Join(c.Dir, "standin.yaml")}
	r.secrets = []string{"github"}
	r.entries = []string{githubEntry}
	return r
}

// Add adds one rule, as a YAML flow mapping.
func (r *Rules) Add(rule string) { r.rules = append(r.rules, rule) }

// Profile adds one entry of "profiles:".
func (r *Rules) Profile(entry string) { r.profiles = append(r.profiles, entry) }

// Top adds one top-level entry, such as "unmatched: deny".
func (r *Rules) Top(entry string) { r.tail = append(r.tail, entry) }

// Upstream says that the name (host:port) is dialled at that upstream, and
// which file vouches for it.
func (r *Rules) Upstream(name string, u *Upstream, ca string) {
	r.Dial(name, u.Addr(), ca)
}

// Dial says where the name (host:port) is dialled.
func (r *Rules) Dial(name, addr, ca string) {
	entry := fmt.Sprintf("%q: {dial: %q", name, addr)
	if ca != "" {
		entry += ", ca: " + ca
	}
	r.upstreams = append(r.upstreams, entry+"}")
}

// Secret puts one more value into the vault, under name/token, and into the
// rules: each place that takes R takes it as well, and $NAME carries its
// placeholder. The value must not leak either.
func (r *Rules) Secret(name, value string) {
	r.c.Helper()
	r.c.Exit(r.c.StandinInput(value+"\n", nil, "vault", "set", name+"/token"), 0)
	r.Entry(name, fmt.Sprintf("{source: \"vault:%s/token\", env: [%s]}", name, strings.ToUpper(name)))
	r.c.Values = append(r.c.Values, value)
}

// Entry adds one entry of "secrets:" that each place which takes R takes, too.
func (r *Rules) Entry(name, mapping string) {
	r.secrets = append(r.secrets, name)
	r.entries = append(r.entries, name+": "+mapping)
}

// Text is the whole file.
func (r *Rules) Text() string {
	var b strings.Builder
	section := func(title, bullet string, lines []string) {
		if len(lines) == 0 {
			return
		}
		fmt.Fprintf(&b, "%s:\n", title)
		for _, l := range lines {
			fmt.Fprintf(&b, "  %s%s\n", bullet, l)
		}
	}
	b.WriteString("version: 1\n")
	section("secrets", "", r.entries)
	section("rules", "- ", append(r.fixture(), r.rules...))
	section("upstreams", "", r.upstreams)
	all := strings.Join(r.secrets, ", ")
	section("profiles", "", append([]string{
		"granted: {secrets: [" + all + "], isolation: session}",
		"none: {secrets: [], isolation: session}",
		"thrice: {secrets: [" + all + "], isolation: session, uses: 3}",
		"brief: {secrets: [" + all + "], isolation: session, ttl: 1s}",
	}, r.profiles...))
	for _, l := range r.tail {
		fmt.Fprintf(&b, "%s\n", l)
	}
	return b.String()
}

// fixture are the rules that every case has.
func (r *Rules) fixture() []string {
	rule := func(name, host, more, surface string) string {
		var list []string
		for _, s := range r.secrets {
			list = append(list, fmt.Sprintf("{secret: %s, in: %s}", s, surface))
		}
		return fmt.Sprintf("{name: %s, hosts: [%s], %ssubstitute: [%s]}", name, host, more, strings.Join(list, ", "))
	}
	return []string{
		rule("api", api, "", "header Authorization"),
		rule("login", api, "methods: [POST], paths: [/login], ", "json /auth/token"),
		rule("strict-login", api, "methods: [POST], paths: [/strict], misplaced: refuse, ", "json /auth/token"),
		rule("form", api, "methods: [POST], paths: [/form], ", "form token"),
		rule("query", api, "methods: [GET], paths: [/q], ", "query api_key"),
		rule("path", api, "methods: [GET], paths: [\"/t/{}/x\"], ", "path"),
		rule("basic", api, "paths: [/basic], ", "basic password"),
		rule("echo", echo, "", "[header Authorization, header X-Api-Key]"),
		rule("scripts", scripts, "", "header Authorization"),
		"{name: evil, hosts: [" + evil + "]}",
	}
}

// Write writes the file and trusts it.
func (r *Rules) Write() {
	r.c.Helper()
	if r.written {
		return
	}
	r.written = true
	if err := os.WriteFile(r.Path, []byte(r.Text()), 0o644); err != nil {
		r.c.Fatal(err)
	}
	r.Trust()
}

// Trust trusts the file as it is now.
func (r *Rules) Trust() {
	r.c.Helper()
	if res := r.c.Standin("rules", "trust", "--yes", "--rules", r.Path); res.Code != 0 {
		r.c.Fatalf("trust the rules: %s\n%s", res.description, r.Text())
	}
}
