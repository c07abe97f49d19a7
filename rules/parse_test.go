package rules

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func full(t testing.TB) *Policy {
	t.Helper()
	data, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse("/etc/standin/standin.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEveryKeyOfTheGrammarIsRead(t *testing.T) {
	t.Parallel()
	if filepath.Separator != '/' {
		t.Skip("paths of the golden values are written for Unix")
	}
	p := full(t)
	for name, want := range map[string]Secret{
		"github": {Source: "vault:github/token", Shape: "ghp_", Env: []string{"GITHUB_TOKEN", "GH_TOKEN"}, MinLength: 20, Line: 4},
		"static": {Source: "env:STATIC", Placeholder: "sk-zstandin_abcdefghijklmnopqrstuvwxyz", Line: 9},
		"dbpass": {Source: "file:/etc/standin/db.txt#password", Deliver: Env, Env: []string{"PGPASSWORD"}, Line: 12},
		"key":    {Source: "exec:op-read", Deliver: File, Env: []string{"KEY_FILE"}, Line: 16},
		"kv":     {Source: "hcp:kv/github#token", Line: 17},
	} {
		want.Name = name
		if got := p.Secrets[name]; got == nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("secret %s: %+v, want %+v", name, got, want)
		}
	}
	api := p.Rules[0]
	if got := surfaces(api); got != "header Authorization, basic user, basic password, cookie sid, query api_key, path, form token, json /auth/token, multipart file name, body, websocket" {
		t.Errorf("surfaces: %s", got)
	}
	for _, s := range api.Substitute {
		for _, in := range s.In {
			if want := strings.Contains("form json multipart body", in.Kind.String()); in.Kind.InBody() != want {
				t.Errorf("%s: in body %v", in, !want)
			}
			if text, err := json.Marshal(in); err != nil || string(text) != `"`+in.String()+`"` {
				t.Errorf("%s: %s %v", in, text, err)
			}
		}
	}
	if !api.WebSocket || api.Scrub != ScrubAlways || api.Misplaced != Refuse || api.ReadFirst != 64<<10 || api.ResponseCredentials != Strip ||
		!api.Expires.Equal(time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)) || api.Scheme != "https" || !slices.Equal(api.Methods, []string{"GET", "POST", "PATCH"}) {
		t.Errorf("%+v", api)
	}
	clear := p.Rules[1]
	if clear.Scheme != "http" || clear.Hosts[0].Port != 80 || clear.Hosts[1].Port != 8080 || clear.Scrub != ScrubNever || clear.ReadFirst != DefaultReadFirst {
		t.Errorf("%+v", clear)
	}
	if no, ssh := p.Rules[2], p.Rules[3]; !no.Deny || no.Reason == "" || !ssh.Raw || !ssh.Passthrough || ssh.Reason != "not HTTP" {
		t.Errorf("%+v %+v", no, ssh)
	}
	up := p.Upstream(Authority{"api.github.com", 443})
	if up == nil || up.Dial != "10.0.0.7:8443" || up.CA != "/etc/standin/corp-ca.pem" || up.ClientCert != "/etc/standin/me.pem" || up.ClientKey != "/keys/me.key" {
		t.Errorf("%+v", up)
	}
	if up := p.Upstream(Authority{"api.github.com", 8443}); up == nil || up.Dial != "" {
		t.Errorf("the entry with the port does not go first: %+v", up)
	}
	if p.Upstream(Authority{"internal.example", 1}) == nil || p.Upstream(Authority{"x.example", 1}) != nil {
		t.Error("upstreams: the wrong hosts")
	}
	exec := p.Sources["exec:op-read"]
	if exec.Kind != "exec" || !slices.Equal(exec.Command, []string{"/etc/standin/get-key", "--name", "/etc/x", "key"}) || exec.Timeout != 3*time.Second || exec.TTL != time.Minute || exec.Env[0] != "OP_TOKEN" {
		t.Errorf("%+v", exec)
	}
	hcp := p.Sources["hcp"].Settings
	if hcp["secret-id"] != "file:/etc/standin/secret-id" || hcp["ca"] != "/etc/standin/hcp.pem" || hcp["auth"] != "approle" || hcp["role-id"] != "env:ROLE" {
		t.Errorf("%v", hcp)
	}
	if p.Unmatched != UnmatchedRefuse || p.Empty {
		t.Errorf("unmatched %v, empty %v", p.Unmatched, p.Empty)
	}
}

func surfaces(r *Rule) string {
	var list []string
	for _, s := range r.Substitute {
		for _, in := range s.In {
			list = append(list, in.String())
		}
	}
	return strings.Join(list, ", ")
}

func TestProfilesSayWhatASessionMayHave(t *testing.T) {
	t.Parallel()
	p := full(t)
	if pr, err := p.Profile(""); err != nil || pr.Name != "default" || pr.TTL != DefaultTTL || pr.Extends != "tree" || pr.Uses != 0 || !slices.Equal(pr.Secrets, []string{"github"}) {
		t.Errorf("%+v %v", pr, err)
	}
	if pr, err := p.Profile("agent"); err != nil || pr.TTL != 8*time.Hour || pr.Uses != 3 || pr.Isolation != "netns" || pr.Extends != "command" || !slices.Equal(pr.Inherit, []string{"AWS_PROFILE"}) {
		t.Errorf("%+v %v", pr, err)
	}
	if pr, err := p.Profile("none"); err != nil || len(pr.Secrets) != 0 || !pr.InheritAll {
		t.Errorf("%+v %v", pr, err)
	}
	var unknown *UnknownProfileError
	if _, err := p.Profile("other"); !errors.As(err, &unknown) || !slices.Equal(unknown.Known, []string{"agent", "default", "none"}) {
		t.Errorf("%v", err)
	}
	bare := parse(t, "version: 1\nsecrets: {a: {source: 'vault:a'}, b: {source: 'vault:b'}}\n")
	if pr, err := bare.Profile(""); err != nil || !slices.Equal(pr.Secrets, []string{"a", "b"}) || pr.Extends != "tree" {
		t.Errorf("without profiles: %+v %v", pr, err)
	}
	if _, err := bare.Profile("default"); !errors.As(err, &unknown) {
		t.Errorf("a named profile that is not there: %v", err)
	}
	named := parse(t, "version: 1\nprofiles: {only: {secrets: []}}\n")
	if _, err := named.Profile(""); !errors.As(err, &unknown) {
		t.Errorf("with profiles, but no default: %v", err)
	}
	one := "version: 1\nsecrets: {a: {source: 'vault:a', env: [T]}, b: {source: 'vault:b', env: [T]}}\nprofiles: {one: {secrets: [a]}, two: {secrets: [b]}}\n"
	if _, err := Parse("f", []byte(one)); err != nil {
		t.Errorf("one variable in two profiles: %v", err)
	}
}

func TestH11E27AFileWithoutRulesDeniesAll(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", "# only a comment\n", "---\n", "~\n", "\ufeff", "version: 1\n", "version: 1\nrules: []\n", "version: 1\nsecrets: {a: {source: 'vault:a'}}\n"} {
		p := parse(t, text)
		if !p.Empty || p.Host(Authority{"a.test", 443}).Action != UnmatchedDeny || p.Match(Target{Authority{"a.test", 443}, "https", "GET", "/"}).Rule != nil {
			t.Errorf("%q: empty %v, %s", text, p.Empty, p.Host(Authority{"a.test", 443}).Action)
		}
	}
	p := parse(t, "version: 1\nunmatched: passthrough\n")
	if !p.Empty || p.Host(Authority{"a.test", 443}).Action != UnmatchedPassthrough {
		t.Error("what the file says itself does not hold")
	}
}

func TestErrorsAreBounded(t *testing.T) {
	t.Parallel()
	_, err := Parse("f", []byte("version: 1\n"+strings.Repeat("x: 1\n", 10_000)))
	if n := len(all(t, err)); n != maxErrors {
		t.Errorf("%d errors", n)
	}
}

func TestWorkIsBoundedByTheFile(t *testing.T) {
	t.Parallel()
	many := func(count int, format string) string {
		var list []string
		for i := range count {
			list = append(list, fmt.Sprintf(format, i))
		}
		return strings.Join(list, ",")
	}
	const head = "version: 1\nsecrets: {s: {source: 'vault:s'}}\nrules:\n"
	for name, tt := range map[string]struct{ file, want string }{
		"hosts times paths": {head + "- {name: r, hosts: [" + many(400, "h%d.test") + "], paths: [" + many(400, "/%d") + "]}", "too many combinations"},
		"paths":             {head + "- {name: r, hosts: [a.test], paths: [" + many(20_000, "/%d") + "]}", ""},
		"alike":             {head + "- {name: r, hosts: [a.test], paths: [" + many(100, "'/a%03d{}'") + "], substitute: [{secret: s, in: path}]}", "too many paths that are alike"},
		"hosts":             {head + "- {name: r, hosts: [" + many(15_000, "h%d.test") + "]}", ""},
		"rules":             {head + strings.ReplaceAll(many(4_000, "- {name: r%d, hosts: [a.test], paths: [/%[1]d]}\n"), "\n,", "\n"), ""},
	} {
		_, err := Parse("f", []byte(tt.file))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	data, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(specificFile))
	f.Add([]byte(hostRulesFile))
	for _, tt := range faults {
		if len(tt.file) < 2000 {
			f.Add([]byte(tt.file))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("f", data)
		if err != nil {
			if p != nil {
				t.Fatal("a policy beside an error")
			}
			for _, e := range all(t, err) {
				if e.Msg == "" || strings.ContainsAny(e.Error()+e.Fix, "\x00\x1b\n") {
					t.Fatalf("error %q, fix %q", e, e.Fix)
				}
			}
			return
		}
		// What is granted was written: a file that loads reads the same again,
		// and each host of a rule is in its one canonical form.
		again, err := Parse("f", data)
		if err != nil || !slices.Equal(again.InterceptedHosts(), p.InterceptedHosts()) {
			t.Fatalf("read again: %v", err)
		}
		for _, r := range p.Rules {
			for _, h := range r.Hosts {
				if again, problem, _ := parseHostPattern(h.String(), 443); problem != "" || again != h {
					t.Fatalf("host %+v: %s", h, problem)
				}
				if h.Wildcard || r.Scheme == "http" {
					continue
				}
				v := p.Host(Authority{h.Name, h.Port})
				if (v.Action == Passthrough) != r.Passthrough || v.Action > Passthrough {
					t.Fatalf("host %s: %s", h, v.Action)
				}
			}
		}
	})
}
