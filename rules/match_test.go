package rules

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func parse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse("/etc/standin.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func authority(t testing.TB, s string) Authority {
	t.Helper()
	a, err := ParseAuthority(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

const hostRulesFile = `version: 1
rules:
- {name: api, hosts: [api.allowed.test, '*.allowed.test', github.com, 'alt.test:8443']}
- {name: pin, hosts: [pin.allowed.test, pin.test, '*.pinned.test'], passthrough: true, reason: pins}
- {name: own, hosts: [own.pinned.test], deny: true}
- {name: address, hosts: [10.0.0.7, '[::1]:8443']}
- {name: clear, hosts: [clear.test], scheme: http}
`

func TestEachHostHasOneVerdict(t *testing.T) {
	t.Parallel()
	p := parse(t, hostRulesFile)
	for host, want := range map[string]Action{
		"api.allowed.test:443":       Intercept,
		"API.Allowed.TEST:443":       Intercept,            // C09
		"api.allowed.test:8443":      UnmatchedPassthrough, // C14
		"x.allowed.test:443":         Intercept,
		"evil-allowed.test:443":      UnmatchedPassthrough, // C15
		"allowed.test:443":           UnmatchedPassthrough,
		"a.b.allowed.test:443":       UnmatchedPassthrough,
		"allowed.test.evil.test:443": UnmatchedPassthrough,
		"github.com.evil.test:443":   UnmatchedPassthrough, // C16
		"evil-github.com:443":        UnmatchedPassthrough,
		"githubxcom:443":             UnmatchedPassthrough,
		"github.com:443":             Intercept,
		"alt.test:443":               UnmatchedPassthrough,
		"alt.test:8443":              Intercept,
		"pin.allowed.test:443":       Passthrough, // C33
		"pin.test:443":               Passthrough,
		"x.pinned.test:443":          Passthrough,
		"own.pinned.test:443":        Intercept,
		"10.0.0.7:443":               Intercept,
		"0.10.0.7:443":               UnmatchedPassthrough,
		"[::1]:8443":                 Intercept,
		"clear.test:80":              Intercept,
		"clear.test:443":             UnmatchedPassthrough,
	} {
		v := p.Host(authority(t, host))
		if v.Action != want || (v.Rule != nil) != (want == Passthrough) {
			t.Errorf("Host(%s) = %+v, want %s", host, v, want)
		}
	}
	strict := parse(t, hostRulesFile+"unmatched: deny\n")
	if got := strict.Host(authority(t, "other.test:443")).Action; got != UnmatchedDeny {
		t.Errorf("with unmatched: deny, %s", got)
	}
}

func TestInterceptedNamesAreKnownOnEveryPort(t *testing.T) {
	t.Parallel()
	p := parse(t, hostRulesFile)
	for host, want := range map[string]bool{"api.allowed.test": true, "x.allowed.test": true, "alt.test": true, "pin.allowed.test": false,
		"pin.test": false, "x.pinned.test": false, "clear.test": false, "allowed.test": false, "test": false, "": false, "10.0.0.7": true} {
		if got := p.InterceptsName(host); got != want {
			t.Errorf("InterceptsName(%q) = %v", host, got)
		}
	}
	want := []string{"*.allowed.test", "10.0.0.7", "::1", "alt.test", "api.allowed.test", "clear.test", "github.com", "own.pinned.test"}
	if got := p.InterceptedHosts(); !slices.Equal(got, want) {
		t.Errorf("InterceptedHosts() = %q, want %q", got, want)
	}
}

const specificFile = `version: 1
secrets: {s: {source: 'vault:s'}}
rules:
- {name: any, hosts: [a.test.example]}
- {name: post, hosts: [a.test.example], methods: [POST, PUT]}
- {name: rest, hosts: [a.test.example], paths: ["/repos/**"]}
- {name: rest-get, hosts: [a.test.example], paths: ["/repos/**"], methods: [GET]}
- {name: one, hosts: [a.test.example], paths: ["/repos/*"]}
- {name: exact, hosts: [a.test.example], paths: [/repos/x, /other]}
- {name: early, hosts: [a.test.example], paths: ["/repos/*/keys"]}
- {name: late, hosts: [a.test.example], paths: ["/*/x/keys"]}
- {name: slot, hosts: [a.test.example], paths: ["/bot{}/**"], substitute: [{secret: s, in: path}]}
- {name: wild, hosts: ["*.test.example"], paths: [/wild/exact, /repos/x]}
- {name: wild-any, hosts: ["*.test.example"]}
- {name: clear, hosts: ["a.test.example:443"], scheme: http}
`

func TestTheMostSpecificRuleDecides(t *testing.T) {
	t.Parallel()
	p := parse(t, specificFile)
	for _, tt := range []struct {
		request, rule string
		segment       int
	}{
		{"GET a.test.example /", "any", -1},
		{"POST a.test.example /", "post", -1},
		{"PUT a.test.example /repos/", "rest", -1}, // a path goes before a method
		{"POST a.test.example /repos", "rest", -1},
		{"GET a.test.example /repos/a/b", "rest-get", -1},
		{"GET a.test.example /repos/y", "one", -1},
		{"GET a.test.example /repos/x", "exact", -1},
		{"GET a.test.example /repos/%78", "exact", -1},
		{"GET a.test.example /other", "exact", -1},
		{"GET a.test.example /repos/x/keys", "early", -1}, // segment by segment
		{"GET a.test.example /other/x/keys", "late", -1},
		{"GET a.test.example /botP/getMe", "slot", 0},
		{"GET a.test.example /bot/getMe", "any", -1},
		{"GET a.test.example /wild/exact", "any", -1}, // an exact host goes before a path
		{"GET b.test.example /wild/exact", "wild", -1},
		{"GET b.test.example /repos/x", "wild", -1},
		{"GET b.test.example /repos/y", "wild-any", -1},
		{"GET c.test.invalid /", "", -1},
		{"get a.test.example /repos/a/b", "rest", -1}, // methods are case-sensitive
		{"GET a.test.example /repos/../x", "any", -1}, // ambiguous: only rules without paths
		{"GET a.test.example /repos/%2e%2e/x", "any", -1},
		{"GET a.test.example /repos//x", "any", -1},
		{"GET b.test.example /repos/x%2f", "wild-any", -1},
	} {
		f := strings.Fields(tt.request)
		m := p.Match(Target{Authority{f[1], 443}, "https", f[0], f[2]})
		name := ""
		if m.Rule != nil {
			name = m.Rule.Name
		}
		_, plain := NormalPath(f[2])
		if name != tt.rule || m.Segment != tt.segment || m.Ambiguous == plain {
			t.Errorf("%s: rule %q, segment %d, ambiguous %v; want %q, %d", tt.request, name, m.Segment, m.Ambiguous, tt.rule, tt.segment)
		}
	}
	if m := p.Match(Target{Authority{"a.test.example", 443}, "http", "GET", "/repos/x"}); m.Rule == nil || m.Rule.Name != "clear" {
		t.Errorf("http: %+v", m.Rule)
	}
	if m := p.Match(Target{Authority{"a.test.example", 8443}, "https", "GET", "/"}); m.Rule != nil {
		t.Errorf("another port: %+v", m.Rule)
	}
}

func TestPassthroughTakesANameOutOfItsWildcard(t *testing.T) {
	t.Parallel()
	p := parse(t, hostRulesFile)
	if m := p.Match(Target{authority(t, "pin.allowed.test:443"), "https", "GET", "/"}); m.Rule != nil {
		t.Errorf("rule %q matches inside a passthrough", m.Rule.Name)
	}
}

func TestOverlapsThatStayEqualAreErrors(t *testing.T) {
	t.Parallel()
	base := "version: 1\nsecrets: {s: {source: 'vault:s'}}\nrules:\n"
	pathed := ", substitute: [{secret: s, in: path}]"
	for _, tt := range []struct {
		a, b string
		ok   bool
	}{
		{"", "", false},
		{"", `, paths: ["/**"]`, false}, // no paths is any path
		{"", ", methods: [GET]", true},
		{", methods: [GET, POST]", ", methods: [PUT, POST]", false},
		{", methods: [GET]", ", methods: [POST]", true},
		{", paths: [/a]", ", paths: [/b, /a]", false},
		{", paths: [/a]", ", paths: [/a/]", true},
		{", paths: ['/*']", ", paths: [/a]", true},
		{", paths: ['/*/b']", ", paths: ['/a/*']", true},
		{", paths: ['/*']", ", paths: ['/{}']" + pathed, false},
		{", paths: ['/a{}']" + pathed, ", paths: ['/{}a']" + pathed, false},
		{", paths: ['/a{}']" + pathed, ", paths: ['/b{}']" + pathed, true},
		{", paths: ['/a{}']" + pathed, ", paths: ['/ab{}']" + pathed, true},
		{", paths: ['/a{}']" + pathed, ", paths: ['/*']", true},
		{", paths: [/a], methods: [GET]", ", paths: [/a]", true},
		{", deny: true", "", false},
		{", scheme: http", "", true},
	} {
		file := base + "- {name: a, hosts: ['a.b.example:443', c.example]" + tt.a + "}\n- {name: b, hosts: ['a.b.example:443', d.example]" + tt.b + "}\n"
		_, err := Parse("f", []byte(file))
		if (err == nil) != tt.ok {
			t.Errorf("%q and %q: %v", tt.a, tt.b, err)
		}
	}
	wild := base + "- {name: a, hosts: ['*.b.example']}\n- {name: b, hosts: [x.b.example]}\n"
	if _, err := Parse("f", []byte(wild)); err != nil {
		t.Errorf("an exact host under a wildcard: %v", err)
	}
}

func TestExplainSaysWhyNotTheOthers(t *testing.T) {
	t.Parallel()
	p := parse(t, specificFile+"- {name: pin, hosts: [pin.test.example], passthrough: true, reason: pins}\n")
	x := p.Explain(Target{Authority{"a.test.example", 443}, "https", "GET", "/botP/getMe"})
	if x.Action != Intercept || x.Rule.Name != "slot" || x.Path != "/bot{}/**" || len(x.Places) != 1 || x.Places[0] != (Place{"s", Surface{Kind: Path}, "botP"}) {
		t.Errorf("%+v", x)
	}
	why := map[string]string{}
	for _, o := range x.Others {
		why[o.Rule.Name] = o.Why
	}
	for name, want := range map[string]string{
		"any":      `matches, but rule "slot" is more specific`,
		"wild-any": `matches, but rule "slot" is more specific`,
		"post":     "for other methods: POST, PUT",
		"exact":    "another path: /repos/x, /other",
		"clear":    "for http only",
		"pin":      "another host: pin.test.example",
	} {
		if why[name] != want {
			t.Errorf("%s: %q, want %q", name, why[name], want)
		}
	}
	if len(why) != len(p.Rules)-1 {
		t.Errorf("%d others of %d rules", len(why), len(p.Rules))
	}
	x = p.Explain(Target{Authority{"pin.test.example", 443}, "https", "GET", "/"})
	if x.Action != Passthrough || x.Rule.Name != "pin" || x.Others[len(x.Others)-1].Why != `another host: a.test.example` {
		t.Errorf("%+v", x)
	}
	x = p.Explain(Target{Authority{"z.test.example", 443}, "https", "GET", "/a//b"})
	if x.Rule.Name != "wild-any" || !x.Ambiguous || x.Others[9].Why != "has paths, and this path can be read in two ways" {
		t.Errorf("%+v", x)
	}
	x = p.Explain(Target{Authority{"nowhere.example", 443}, "https", "GET", "/"})
	if x.Rule != nil || x.Action != UnmatchedPassthrough || x.Places != nil {
		t.Errorf("%+v", x)
	}
}

// A server may read in such a path what a rule denies: a rule for the whole host
// must not forward it, with a credential.
func TestADenyRuleWithPathsDeniesPathsThatMayBeMeantForIt(t *testing.T) {
	t.Parallel()
	p := parse(t, `version: 1
secrets: {s: {source: 'vault:s'}}
rules:
- {name: all, hosts: [a.test, c.test], substitute: [{secret: s, in: header Authorization}]}
- {name: admin, hosts: [a.test], paths: ['/admin/**'], deny: true}
- {name: items, hosts: [a.test], paths: ['/items/*']}
- {name: wild, hosts: ['*.w.example'], substitute: [{secret: s, in: header Authorization}]}
- {name: wild-admin, hosts: ['*.w.example'], methods: [POST], paths: ['/admin/**', '/x/*'], deny: true}
- {name: exact, hosts: [e.w.example], methods: [GET], paths: [/ok]}
- {name: own, hosts: [o.w.example]}
- {name: clear, hosts: [a.test], scheme: http}
`)
	for _, path := range []string{
		"//admin/x", "/x/../admin/x", "/%2e/admin/x", "/admin%2fx", "/admin%00/x", "/./admin/x", `/admin\x`, "/%61dmin%252fx", "/..;/admin/x", "admin", "*",
		"/admin;a=b/x", "/admin%3ba/x", "/admin%3Bx", "/admin%253bx", "/admin%25%33%62/x", "/items/1;v=2", "/admin/x;y",
	} {
		for _, c := range []struct{ host, method, scheme, want string }{
			{"a.test:443", "GET", "https", "admin"}, {"b.w.example:443", "POST", "https", "wild-admin"}, {"b.w.example:443", "GET", "https", "wild"},
			{"e.w.example:443", "POST", "https", "wild-admin"}, {"o.w.example:443", "POST", "https", "own"}, {"c.test:443", "GET", "https", "all"}, {"a.test:443", "GET", "http", ""},
		} {
			target := Target{authority(t, c.host), c.scheme, c.method, path}
			name := ""
			if m := p.Match(target); m.Rule != nil {
				if name = m.Rule.Name; m.Segment != -1 {
					t.Errorf("%+v: %+v", target, m)
				}
			}
			if name != c.want {
				t.Errorf("%s %s%s: rule %q, want %q", c.method, c.host, path, name, c.want)
			}
		}
	}
	for path, want := range map[string]string{"/administrator": "all", "/items/1": "items", "/a%25zz": "all", "/a%2525": "admin", "/%2523b": "all", "/admin/x": "admin", "/": "all"} {
		if m := p.Match(Target{authority(t, "a.test:443"), "https", "GET", path}); m.Rule.Name != want {
			t.Errorf("%s: rule %q, want %q", path, m.Rule.Name, want)
		}
	}
	for path, want := range map[string]string{"//admin/x": "it denies paths, and this one can be read in two ways", "/items/1;v": "it denies paths, and of this one servers may drop what follows the semicolon"} {
		x := p.Explain(Target{authority(t, "a.test:443"), "https", "GET", path})
		if x.Rule.Name != "admin" || x.Path != "" || x.Doubt != want || x.Others[0].Why != `rule "admin" goes before it: `+want {
			t.Errorf("%s: %+v", path, x)
		}
	}
}

func TestAnExpiredRuleStillMatches(t *testing.T) {
	t.Parallel()
	p := parse(t, "version: 1\nrules:\n- {name: day, hosts: [a.test], expires: 2030-12-31}\n- {name: moment, hosts: [b.test], expires: 2030-12-31T18:00:00Z}\n- {name: never, hosts: [c.test]}\n")
	last := time.Date(2030, 12, 31, 18, 0, 0, 0, time.UTC)
	if day := p.Rules[0]; day.Expired(last) || !day.Expired(last.Add(6*time.Hour)) {
		t.Errorf("a day: %v", day.Expires)
	}
	if moment := p.Rules[1]; moment.Expired(last.Add(-1)) || !moment.Expired(last) {
		t.Errorf("a moment: %v", moment.Expires)
	}
	if p.Rules[2].Expired(last.AddDate(100, 0, 0)) {
		t.Error("a rule without a date expires")
	}
}

func TestDecidingAllocatesNothing(t *testing.T) {
	p := parse(t, specificFile+"upstreams: {a.test.example: {dial: 'b.test:1'}}\n")
	target := Target{Authority{"a.test.example", 443}, "https", "GET", "/repos/%78/key%20s"}
	n := testing.AllocsPerRun(100, func() {
		p.Host(target.Authority)
		p.Match(target)
		p.InterceptsName("b.test.example")
		p.Upstream(target.Authority)
		if _, err := ParseAuthority("api.allowed.test:443"); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	p := parse(b, specificFile)
	target := Target{Authority{"a.test.example", 443}, "https", "GET", "/repos/acme/widgets/issues/12"}
	b.ReportAllocs()
	for b.Loop() {
		if p.Host(target.Authority).Action != Intercept || p.Match(target).Rule == nil {
			b.Fatal("no match")
		}
	}
}
