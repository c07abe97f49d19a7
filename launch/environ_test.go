package launch

import (
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write golden files anew")

func base() EnvConfig {
	return EnvConfig{
		Environ: []string{
			"HOME=/home/u", "PATH=/usr/bin", "NODE_OPTIONS=--max-old-space-size=4096", "JAVA_TOOL_OPTIONS=-Xmx1g",
			"ALL_PROXY=socks5://127.0.0.1:1080", "HTTPS_PROXY=http://u:old@corp:3128", "NO_PROXY=*,.internal.example,github.com",
			"no_proxy=10.0.0.0/8 .internal.example", "STANDIN_PASSPHRASE_FILE=/home/u/pass", "GITHUB_TOKEN=ghp_real", "GH_TOKEN=ghp_real",
			"AWS_SECRET_ACCESS_KEY=real", "AWS_REGION=eu-central-1", "DATABASE_URL=postgres://app:real@db/x",
			"SSL_CERT_FILE=/home/u/corp.pem", "TERM=xterm",
		},
		Files:         &Files{Dir: "/run/user/1000/standin/files/s 1"},
		ProxyURL:      "http://127.0.0.1:43210",
		Placeholders:  map[string]string{"GITHUB_TOKEN": "ghp_zstandin_abcdefghijklmnopqrstuvwxyz"},
		Carriers:      []string{"GITHUB_TOKEN", "GH_TOKEN", "OPENAI_API_KEY"},
		Hosts:         []string{"api.github.com", "github.com"},
		Session:       "s-1",
		ControlSocket: "/run/user/1000/standin/s-1.sock",
	}
}

func TestEnvironmentIsAsTheGoldenFileSays(t *testing.T) {
	t.Parallel()
	env, removed := Environ(base())
	got := strings.Join(env, "\n") + "\n\nremoved: " + strings.Join(removed, " ") + "\n"
	const golden = "testdata/environ.golden"
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for range 20 {
		if again, _ := Environ(base()); !slices.Equal(again, env) {
			t.Fatal("the environment differs from one run to the next")
		}
	}
}

func value(env []string, name string) (string, bool) {
	for _, entry := range env {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			return v, true
		}
	}
	return "", false
}

func TestNothingThatBreaksClientsIsSet(t *testing.T) {
	t.Parallel()
	cfg := base()
	cfg.Environ = []string{"PATH=/bin"}
	cfg.ProxyURL = "http://sid:tok3n@127.0.0.1:43210"
	env, removed := Environ(cfg)
	for _, name := range []string{"ALL_PROXY", "all_proxy", "SSL_CERT_DIR", "GIT_CONFIG_COUNT", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "GIT_SSL_CAPATH"} {
		if got, ok := value(env, name); ok {
			t.Errorf("%s=%s is set", name, got)
		}
	}
	options, _ := value(env, "NODE_OPTIONS")
	if strings.Contains(options, "--use-") {
		t.Errorf("NODE_OPTIONS=%s ends Node 20", options)
	}
	java, _ := value(env, "JAVA_TOOL_OPTIONS")
	if strings.Contains(java, "tok3n") || strings.Contains(java, "sid") {
		t.Errorf("every JVM prints the session's credential: %s", java)
	}
	if removed != nil {
		t.Errorf("removed %q of nothing", removed)
	}
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "STANDIN_") {
			continue
		}
		for _, word := range []string{"KEY", "TOKEN", "SECRET", "CERT", "AUTH"} {
			if strings.Contains(name, word) {
				t.Errorf("agents filter %s", name)
			}
		}
	}
}

func TestCredentialsOfTheUserAreRemoved(t *testing.T) {
	t.Parallel()
	for entry, gone := range map[string]bool{
		"OPENAI_API_KEY=sk-real":                                              true,
		"OPENAI_API_KEY=sk-zstandin_abcdefghijklmnopqrstuvwxyz":               false,
		"OPENAI_API_KEY=":                                                     false,
		"OTHER_API_KEY=unknown to the rules":                                  false,
		"VAULT_TOKEN=hvs.real":                                                true,
		"VAULT_SECRET_ID=real":                                                true,
		"VAULT_ADDR=https://vault:8200":                                       false,
		"BAO_TOKEN=real":                                                      true,
		"AWS_SESSION_TOKEN=real":                                              true,
		"AWS_PROFILE=prod":                                                    true,
		"AWS_DEFAULT_REGION=eu-central-1":                                     false,
		"OP_SERVICE_ACCOUNT_TOKEN=real":                                       true,
		"OP_SESSION_acme=real":                                                true,
		"OPTIONS=x":                                                           false,
		"DATABASE_URL=postgres://app:real@db:5432/x":                          true,
		"URLS=a https://u:p@h/ b":                                             true,
		"CONFIG={\"u\":\"amqp://u:p%40@h\"}":                                  true,
		"TRICKY=redis://:real@h":                                              true,
		"TWO=postgres://u:zstandin_abc@h https://u:real@h":                    true,
		"INERT=postgres://u:zstandin_abcdefghijklmnopqrstuvwxyz@h":            false,
		"PLAIN=https://host:8443/path@x":                                      false,
		"NAME_ONLY=https://key@sentry.example/1":                              false,
		"VAULT_ADDR=https://u:real@vault:8200":                                true,
		"STANDIN_PASSPHRASE_FILE=/x":                                          true,
		"ALL_PROXY=socks5://h":                                                true,
		"all_proxy=socks5://h":                                                true,
		"FTP_PROXY=http://u:p@corp:3128":                                      true,
		"GIT_CONFIG_COUNT=1":                                                  false,
		"BASH_FUNC_x%%=() { echo = ; }":                                       false,
		"npm_config_registry=https://ci:p4ss@registry.example/repository/npm": true,
	} {
		cfg := base()
		cfg.Environ = []string{"PATH=/bin", entry}
		env, removed := Environ(cfg)
		name, _, _ := strings.Cut(entry, "=")
		if got := slices.Equal(removed, []string{name}); got != gone {
			t.Errorf("%s: removed %q, want it gone: %v", entry, removed, gone)
		}
		if slices.Contains(env, entry) == gone {
			t.Errorf("%s: in the environment: %v", entry, !gone)
		}
	}
}

func TestInheritKeepsWhatTheProfileLists(t *testing.T) {
	t.Parallel()
	cfg := base()
	cfg.Inherit = []string{"AWS_SECRET_ACCESS_KEY"}
	_, removed := Environ(cfg)
	if slices.Contains(removed, "AWS_SECRET_ACCESS_KEY") || !slices.Contains(removed, "GH_TOKEN") {
		t.Errorf("removed %q", removed)
	}
	cfg = base()
	cfg.InheritAll = true
	env, removed := Environ(cfg)
	if want := []string{"ALL_PROXY", "STANDIN_PASSPHRASE_FILE"}; !slices.Equal(removed, want) {
		t.Errorf("removed %q, want only %q, which lead to the vault or past the proxy", removed, want)
	}
	if got, _ := value(env, "GITHUB_TOKEN"); got != cfg.Placeholders["GITHUB_TOKEN"] {
		t.Errorf("GITHUB_TOKEN=%s, want the placeholder", got)
	}
	// A proxy is ours whatever is inherited.
	if got, _ := value(env, "HTTPS_PROXY"); got != cfg.ProxyURL {
		t.Errorf("HTTPS_PROXY=%s", got)
	}
}

func TestGitConfigurationInVariablesGoesAsAWhole(t *testing.T) {
	t.Parallel()
	cfg := base()
	plain := []string{"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=user.name", "GIT_CONFIG_VALUE_0=me"}
	cfg.Environ = plain
	if _, removed := Environ(cfg); removed != nil {
		t.Errorf("harmless settings were removed: %q", removed)
	}
	for _, setting := range [][2]string{
		{"http.https://github.com/.extraHeader", "AUTHORIZATION: basic cmVhbA=="},
		{"credential.helper", "store"},
		{"url.https://u:real@github.com/.insteadOf", "https://github.com/"},
	} {
		cfg.Environ = append(slices.Clone(plain), "GIT_CONFIG_KEY_1="+setting[0], "GIT_CONFIG_VALUE_1="+setting[1])
		_, removed := Environ(cfg)
		if len(removed) != 5 {
			t.Errorf("%s: removed %q, want all five", setting[0], removed)
		}
	}
}

func TestNoProxyNeverCoversAnInterceptedHost(t *testing.T) {
	t.Parallel()
	hosts := []string{"api.github.com", "*.wild.example", "192.0.2.7", "2001:db8::7"}
	for entry, covered := range map[string]bool{
		"*": true, "*.*": true, ".": true, "github.com": true, ".github.com": true, "*.github.com": true, "GitHub.com": true,
		"api.github.com": true, "api.github.com:443": true, "com": true, "hub.com": true, "api.*": true,
		"wild.example": true, "a.wild.example": true, "example": true, "b.a.wild.example": true,
		"192.0.2.7": true, "192.0.2.0/24": true, "0.0.0.0/0": true, "192.*": true, "2001:db8::7": true, "[2001:db8::7]": true,
		"[2001:db8::7]:443": true, "2001:db8::/32": true, "::/0": true,
		"internal.example": false, "api.github.com.evil.example": false, "10.0.0.0/8": false, "192.0.2.8": false, "10.*": false,
		"localhost": false, "127.0.0.1": false, "::1": false, "[::1]": false, "2001:db8::8": false, "x.github.com": false,
	} {
		if got := covers(entry, hosts); got != covered {
			t.Errorf("%q: covers %v, want %v", entry, got, covered)
		}
	}
	if got := noProxy(environ{}, []string{"127.0.0.1", "localhost"}); got != "::1,[::1]" {
		t.Errorf("an intercepted loopback is passed by: %q", got)
	}
	if got := noProxy(environ{"NO_PROXY": "a.example,*", "no_proxy": "a.example b.example"}, hosts); got != "localhost,127.0.0.1,::1,[::1],a.example,b.example" {
		t.Errorf("got %q", got)
	}
}

func TestWindowsNamesAndOddEntriesSurvive(t *testing.T) {
	t.Parallel()
	env := parseEnviron([]string{"=C:=C:\\x", "A=1", "A=2", "EMPTY=", "no equals sign", "="})
	if len(env) != 3 || env["=C:"] != "C:\\x" || env["A"] != "2" || env["EMPTY"] != "" {
		t.Errorf("got %q", env)
	}
}

func TestWhatStandinSetsCannotCarryASecret(t *testing.T) {
	t.Parallel()
	env, _ := Environ(EnvConfig{Files: &Files{Dir: t.TempDir()}, ProxyURL: "http://127.0.0.1:1", Session: "s1", ControlSocket: "/c"})
	for _, entry := range env {
		if name, _, _ := strings.Cut(entry, "="); Reserved(name) == "" {
			t.Errorf("%s is set, and could be a secret's", name)
		}
	}
	for _, name := range []string{"PATH", "HOME", "ALL_PROXY", "STANDIN_ANYTHING", "STANDIN_PASSPHRASE_FILE"} {
		if Reserved(name) == "" {
			t.Errorf("%s could be a secret's", name)
		}
	}
	for _, name := range []string{"GITHUB_TOKEN", "PGPASSWORD", "MYPATH", "HTTPS_PROXY_PASSWORD", "XSTANDIN_"} {
		if why := Reserved(name); why != "" {
			t.Errorf("%s is refused: %s", name, why)
		}
	}
}
