package catalog

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"standin/rules"
)

func file(t *testing.T, names ...string) *rules.Policy {
	t.Helper()
	data, err := File(names)
	if err != nil {
		t.Fatal(err)
	}
	p, err := rules.Parse("standin.yaml", data)
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	return p
}

func TestEveryFileLoads(t *testing.T) {
	t.Parallel()
	want := []string{"anthropic", "github", "huggingface", "npm", "openai", "slack", "stripe", "telegram"}
	if !slices.Equal(Names(), want) {
		t.Errorf("services %q, want %q", Names(), want)
	}
	for _, name := range Names() {
		p := file(t, name)
		if p.Empty || len(p.Secrets) == 0 || len(p.Secrets[name].Env) == 0 {
			t.Errorf("%s grants nothing", name)
		}
		for _, s := range p.Secrets {
			if !strings.HasPrefix(s.Source, "vault:"+name+"/") {
				t.Errorf("%s: source %s", name, s.Source)
			}
		}
		for _, other := range Names() {
			file(t, name, other)
		}
	}
	all := file(t, Names()...)
	if len(all.Secrets) != len(want) || all.Unmatched != rules.UnmatchedPass {
		t.Errorf("%d secrets of %d services", len(all.Secrets), len(want))
	}
	if !file(t).Empty {
		t.Error("no service is not an empty file")
	}
}

func TestAnUnknownServiceIsNamed(t *testing.T) {
	t.Parallel()
	var unknown *UnknownServiceError
	if _, err := File([]string{"github", "../github"}); !errors.As(err, &unknown) || unknown.Name != "../github" || len(unknown.Known) != 8 {
		t.Errorf("%v", err)
	}
}

// What real clients send, by service: where the secret may stand.
func TestClientsAreServed(t *testing.T) {
	t.Parallel()
	p := file(t, Names()...)
	for _, tt := range []struct{ host, path, secret, surface string }{
		{"api.github.com", "/user", "github", "header Authorization"},
		{"github.com", "/acme/x.git/info/refs", "github", "basic password"},
		{"api.openai.com", "/v1/responses", "openai", "header Authorization"},
		{"api.anthropic.com", "/v1/messages", "anthropic", "header X-Api-Key"},
		{"api.anthropic.com", "/v1/messages", "anthropic", "header Authorization"},
		{"api.stripe.com", "/v1/charges", "stripe", "basic user"},
		{"api.stripe.com", "/v1/charges", "stripe", "header Authorization"},
		{"slack.com", "/api/chat.postMessage", "slack", "form token"},
		{"slack.com", "/api/chat.postMessage", "slack", "header Authorization"},
		{"registry.npmjs.org", "/@scope%2fname", "npm", "header Authorization"},
		{"huggingface.co", "/api/whoami-v2", "huggingface", "header Authorization"},
		{"huggingface.co", "/acme/model/info/refs", "huggingface", "basic password"},
		{"api.telegram.org", "/botzstandin_x/getMe", "telegram", "path"},
		{"api.telegram.org", "/file/botzstandin_x/documents/a", "telegram", "path"},
	} {
		x := p.Explain(rules.Target{Authority: rules.Authority{Host: tt.host, Port: 443}, Scheme: "https", Method: "POST", Path: tt.path})
		found := slices.ContainsFunc(x.Places, func(at rules.Place) bool { return at.Secret == tt.secret && at.Surface.String() == tt.surface })
		if !found {
			t.Errorf("%s%s: no %s in %s: %+v", tt.host, tt.path, tt.secret, tt.surface, x.Places)
		}
	}
	m := p.Match(rules.Target{Authority: rules.Authority{Host: "api.telegram.org", Port: 443}, Scheme: "https", Method: "GET", Path: "/file/botX/y"})
	if m.Segment != 1 {
		t.Errorf("the token stands in segment %d", m.Segment)
	}
}

func TestCarriersHoldEveryVariableOfTheCatalog(t *testing.T) {
	t.Parallel()
	carriers := Carriers()
	for _, s := range file(t, Names()...).Secrets {
		for _, v := range s.Env {
			if !slices.Contains(carriers, v) {
				t.Errorf("%s is not among the carriers", v)
			}
		}
	}
	for _, v := range []string{"AWS_SECRET_ACCESS_KEY", "VAULT_TOKEN", "OP_SERVICE_ACCOUNT_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_CLIENT_SECRET", "ANTHROPIC_AUTH_TOKEN"} {
		if !slices.Contains(carriers, v) {
			t.Errorf("%s is not among the carriers", v)
		}
	}
	for i, v := range carriers {
		if strings.ContainsAny(v, " =*$") || i > 0 && v == carriers[i-1] {
			t.Errorf("carrier %q", v)
		}
	}
	for _, v := range []string{"PATH", "HOME", "AWS_REGION", "AWS_PROFILE", "AZURE_TENANT_ID"} {
		if slices.Contains(carriers, v) {
			t.Errorf("%s is no secret", v)
		}
	}
}
