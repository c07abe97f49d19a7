package grant

import (
	"slices"
	"strings"
	"testing"
	"time"

	"standin/rules"
)

// states are states of one rules file, none of which is a part of all others.
var states = []string{
	`
rules:
  - {name: all, hosts: [a.test], substitute: [{secret: main, in: [header Authorization, header X-Key]}, {secret: other, in: body}]}
  - {name: path, hosts: [a.test], paths: ["/t/{}/x"], substitute: [{secret: main, in: path}]}
`, `
rules:
  - {name: all, hosts: [a.test], substitute: [{secret: main, in: header Authorization}]}
  - {name: path, hosts: [a.test], paths: ["/t/*/{}"], substitute: [{secret: main, in: path}]}
`, `
rules:
  - {name: get, hosts: [a.test], methods: [GET], substitute: [{secret: main, in: [header Authorization, header X-Key]}]}
  - {name: shut, hosts: [a.test], paths: [/shut], deny: true}
`, `
rules:
  - {name: elsewhere, hosts: [b.test], substitute: [{secret: main, in: header Authorization}]}
`, `
rules:
  - {name: all, hosts: [a.test], misplaced: refuse, expires: 2030-01-01, substitute: [{secret: other, in: [body, header X-Key]}, {secret: main, in: header X-Key}]}
unmatched: deny
`,
}

func stateOf(t *testing.T, text string) *rules.Policy {
	t.Helper()
	p, err := rules.Parse("standin.yaml", []byte("version: 1\nsecrets:\n  main: {source: \"vault:main\"}\n  other: {source: \"vault:other\"}\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func openUnder(t *testing.T, p *rules.Policy) *Session {
	t.Helper()
	profile, err := p.Profile("")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), Config{ID: "s", Policy: p, Profile: profile, Source: fixed{streamValue, otherValue}, Fingerprint: func([]byte) string { return "f" },
		Placeholders: map[string]string{"main": streamPlaceholders["main"], "other": streamPlaceholders["other"]}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Revoke("test over") })
	return s
}

var limitTargets = []rules.Target{
	{Method: "GET", Path: "/"}, {Method: "POST", Path: "/"}, {Method: "GET", Path: "/shut"}, {Method: "GET", Path: "/t/P/x"}, {Method: "GET", Path: "/t/x/P"},
}

func allows(r *rules.Rule, secret string, at rules.Surface) bool {
	return r != nil && !r.Deny && slices.ContainsFunc(r.Substitute, func(s rules.Substitution) bool { return s.Secret == secret && slices.Contains(s.In, at) })
}

// TestALimitedSessionMayWhatEveryStateAllows: whatever the states, and in whichever
// order they come, a session may exactly what each of them allows.
func TestALimitedSessionMayWhatEveryStateAllows(t *testing.T) {
	surfaces := []rules.Surface{{Kind: rules.Header, Name: "Authorization"}, {Kind: rules.Header, Name: "X-Key"}, {Kind: rules.Body}, {Kind: rules.Path}}
	for first := range states {
		for second := range states {
			for third := range states {
				all := []*rules.Policy{stateOf(t, states[first]), stateOf(t, states[second]), stateOf(t, states[third])}
				s := openUnder(t, all[0])
				s.Limit(all[1])
				s.Limit(all[2])
				for _, target := range limitTargets {
					target.Authority, target.Scheme = rules.Authority{Host: "a.test", Port: 443}, "https"
					got := s.Match(target)
					denied := false
					for _, p := range all {
						m := p.Match(target)
						denied = denied || m.Rule != nil && m.Rule.Deny
					}
					if is := got.Rule != nil && got.Rule.Deny; is != denied {
						t.Fatalf("states %d, %d, %d at %v: denied is %v, not %v", first, second, third, target, is, denied)
					}
					for _, secret := range []string{"main", "other"} {
						for _, at := range surfaces {
							want := true
							for _, p := range all {
								m := p.Match(target)
								want = want && allows(m.Rule, secret, at) && (at.Kind != rules.Path || m.Segment == all[0].Match(target).Segment)
							}
							may := allows(got.Rule, secret, at) && (at.Kind != rules.Path || got.Segment >= 0)
							if may != want {
								t.Fatalf("states %d, %d, %d at %v: %s at %s is %v, not %v", first, second, third, target, secret, at, may, want)
							}
						}
					}
					if got.Hash != all[2].Hash && got.Hash != all[1].Hash && got.Hash != all[0].Hash {
						t.Fatal("it is decided by no state of the rules")
					}
				}
			}
		}
	}
}

func TestALimitTakesSecretsTimeAndUses(t *testing.T) {
	base := stateOf(t, states[0]+"profiles:\n  default: {secrets: [main, other], ttl: 2h}\n")
	s := openUnder(t, base)
	s.Limit(stateOf(t, states[0]+"profiles:\n  default: {secrets: [main], ttl: 1h, uses: 5}\n"))
	status := s.Status()
	if len(status.Grants) != 1 || status.Grants[0].Secret != "main" || status.Grants[0].Left != 5 || !s.Expires.Equal(s.Opened.Add(time.Hour)) {
		t.Fatalf("%+v", status)
	}
	s.Limit(base) // what was taken is not given back
	if again := s.Status(); len(again.Grants) != 1 || again.Grants[0].Left != 5 || !again.Expires.Equal(status.Expires) {
		t.Fatalf("%+v", again)
	}
	s.Limit(stateOf(t, states[0]+"profiles:\n  another: {secrets: [main]}\n"))
	if len(s.Status().Grants) != 0 {
		t.Fatalf("a profile that is gone: %+v", s.Status())
	}
}

func TestTooManyStatesEndTheSession(t *testing.T) {
	s := openUnder(t, stateOf(t, states[0]))
	for i := range maxLimits + 1 {
		p := *stateOf(t, states[1])
		p.Hash = string(rune('a' + i))
		s.Limit(&p)
	}
	if s.Live() == nil {
		t.Fatal("it lives on")
	}
}

func TestARecordSaysNeitherPlaceholdersNorValues(t *testing.T) {
	s := placesSession(t, mainValue)
	escaped := strings.Replace(pMain, "z", "%7a", 1)
	for raw, want := range map[string]string{
		"/t/" + pMain + "/x":              "/t/{main}/x",
		"/t/" + escaped + "/%zz":          "/t/{main}/%zz",
		"/" + mainValue + "/%2f":          "/{main}/%2f",
		"/x%52" + mainValue[1:] + ";%20y": "/x{main}; y",
		"/a%20b/%":                        "/a%20b/%",
	} {
		if got := s.LoggedPath(raw); got != want {
			t.Errorf("%q is recorded as %q, want %q", raw, got, want)
		}
	}
}
