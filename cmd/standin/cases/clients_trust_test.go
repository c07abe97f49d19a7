//go:build linux

package cases

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// What the command trusts, and which of the user's variables it does not get.

func clientsOfTrust() []client {
	return []client{
		{"openssl accepts the chain that is shown, strictly", []string{"openssl"}, opensslStrict},
		{"every variable alone leads to roots for all hosts", []string{"curl", "git"}, everyVariableAlone},
		{"variables that carry credentials do not reach the command", nil, removedVariables},
	}
}

func okJSON(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, "{}\n")
}

func opensslStrict(c *Case) {
	const script = `
address=${HTTPS_PROXY#*@}; user=${HTTPS_PROXY#http://}; user=${user%%:*}; token=${HTTPS_PROXY#http://*:}; token=${token%%@*}
printf 'GET /user HTTP/1.1\r\nHost: $host\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n' "$GITHUB_TOKEN" |
openssl s_client -quiet -proxy "${address%/}" -proxy_user "$user" -proxy_pass "pass:$token" -connect $host:443 -servername $host \
  -verify_return_error -x509_strict -verify_hostname $host -CAfile "$NODE_EXTRA_CA_CERTS" 2>err | grep -o 'HTTP/1.1 200' || { cat err; exit 1; }
openssl s_client -proxy "${address%/}" -proxy_user "$user" -proxy_pass "pass:$token" -connect $host:443 -servername $host \
  -showcerts -CAfile "$NODE_EXTRA_CA_CERTS" </dev/null >shown 2>/dev/null || true
cp "$NODE_EXTRA_CA_CERTS" root.pem`
	c.said(c.shell(strings.ReplaceAll(script, "$host", api)), "HTTP/1.1 200")
	c.arrived(c.U1, 1)
	shown, err := os.ReadFile(filepath.Join(c.Dir, "shown"))
	if err != nil {
		c.Fatal(err)
	}
	var chain [][]byte
	for rest := shown; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if der := pem.EncodeToMemory(block); block.Type == "CERTIFICATE" && !slices.ContainsFunc(chain, func(b []byte) bool { return bytes.Equal(b, der) }) {
			chain = append(chain, der)
		}
	}
	if len(chain) != 2 {
		c.Fatalf("%d certificates are shown, not leaf and intermediate", len(chain))
	}
	c.script("leaf.pem", string(chain[0]))
	c.script("between.pem", string(chain[1]))
	verify := exec.Command("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", api, "-no-CApath", "-no-CAstore",
		"-CAfile", "root.pem", "-untrusted", "between.pem", "leaf.pem")
	verify.Dir = c.Dir
	if out, err := verify.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("leaf.pem: OK")) {
		c.Errorf("openssl verify -x509_strict: %v\n%s", err, out)
	}
	// The root alone vouches for no other name.
	verify = exec.Command("openssl", "verify", "-x509_strict", "-verify_hostname", evil, "-no-CApath", "-no-CAstore",
		"-CAfile", "root.pem", "-untrusted", "between.pem", "leaf.pem")
	verify.Dir = c.Dir
	if out, err := verify.CombinedOutput(); err == nil {
		c.Errorf("openssl accepts the leaf of %s for %s: %s", api, evil, out)
	}
}

// everyVariableAlone: an authority of the user's own stands for the system's.
func everyVariableAlone(c *Case) {
	const outside = "outside.test"
	system, err := newTestCA("the system's own")
	if err != nil {
		c.Fatal(err)
	}
	leaf, err := system.leaf(outside, nil)
	if err != nil {
		c.Fatal(err)
	}
	roots := c.script("system.pem", string(system.pem))
	u := c.Upstream(outside+":443", Serve{TLS: &tls.Config{Certificates: []tls.Certificate{leaf}, NextProtos: []string{"h2", "http/1.1"}}})
	c.U1.Handle(okHandler)
	start := c.launch([]string{"SSL_CERT_FILE=" + roots, "NODE_EXTRA_CA_CERTS=" + roots})

	// Each file that a variable names holds both.
	r := start("env", "-0")
	if r.Code != 0 {
		c.Fatal(r.description)
	}
	env := map[string]string{}
	for entry := range strings.SplitSeq(r.Out, "\x00") {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	for _, name := range []string{
		"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "AWS_CA_BUNDLE", "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO", "NIX_SSL_CERT_FILE",
		"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "HTTPLIB2_CA_CERTS", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "BUNDLE_SSL_CA_CERT", "HEX_CACERTS_PATH",
		"PERL_LWP_SSL_CA_FILE", "COMPOSER_CAFILE", "npm_config_cafile", "YARN_HTTPS_CA_FILE_PATH", "CODEX_CA_CERTIFICATE", "NODE_EXTRA_CA_CERTS", "DENO_CERT",
	} {
		text, err := os.ReadFile(env[name])
		pool := x509.NewCertPool()
		if err != nil || !pool.AppendCertsFromPEM(text) || !bytes.Contains(text, bytes.TrimSpace(system.pem)) || bytes.Count(text, []byte("BEGIN CERT")) != 2 {
			c.Errorf("$%s names %q: %v\n%s", name, env[name], err, clip(string(text)))
		}
	}
	for _, name := range []string{"SSL_CERT_DIR", "GIT_CONFIG_COUNT", "ALL_PROXY", "all_proxy"} {
		if value, ok := env[name]; ok {
			c.Errorf("$%s is set, to %q", name, value)
		}
	}

	// And each tool, with its one variable. No folder of the system's knows that
	// authority.
	node := `fetch("https://HOST/").then(r => console.log(r.status)).catch(e => { console.log(String(e.cause || e)); process.exit(1) })`
	asked := 0
	for _, t := range []struct {
		tool, variables, command, out string
	}{
		{"curl", "SSL_CERT_FILE", "curl -sS -o /dev/null -w '%{http_code}' https://HOST/", "200"},
		{"curl", "CURL_CA_BUNDLE", "curl -sS -o /dev/null -w '%{http_code}' https://HOST/", "200"},
		{"wget", "WGETRC", "wget -qO- https://HOST/", "ok"},
		{"git", "GIT_SSL_CAINFO", "git ls-remote https://HOST/x 2>&1 | grep -o 'valid: is this a git repository'", "valid: is this a git repository"},
		{"git", "GIT_CONFIG_GLOBAL", "git ls-remote https://HOST/x 2>&1 | grep -o 'valid: is this a git repository'", "valid: is this a git repository"},
		{"node", "NODE_EXTRA_CA_CERTS NODE_OPTIONS", "node -e '" + node + "'", "200"},
		{"python3", "REQUESTS_CA_BUNDLE", "PYTHON -c 'import requests; print(requests.get(\"https://HOST/\").status_code)'", "200"},
		{"python3", "SSL_CERT_FILE", "PYTHON -c 'import urllib.request; print(urllib.request.urlopen(\"https://HOST/\").status)'", "200"},
		{os.Args[0], "SSL_CERT_FILE", os.Args[0] + " " + clientRole + " https://HOST/ | grep -o 200", "200"},
	} {
		if _, err := exec.LookPath(t.tool); err != nil {
			c.Logf("%s is not installed: left out", t.tool)
			continue
		}
		command := t.command
		if strings.Contains(command, "PYTHON") {
			path := "/usr/bin/python3"
			if exec.Command(path, "-c", "import requests").Run() != nil {
				c.Log("/usr/bin/python3 has no requests: left out")
				continue
			}
			command = strings.ReplaceAll(command, "PYTHON", path)
		}
		kept := ""
		for _, name := range append([]string{"PATH", "HOME", "HTTPS_PROXY", "https_proxy"}, strings.Fields(t.variables)...) {
			kept += ` ` + name + `="$` + name + `"`
		}
		for _, host := range []string{outside, api} {
			if host == api && t.tool == os.Args[0] {
				host = evil // that client shows the placeholder to allowed hosts
			}
			r := start("sh", "-c", `exec env -i`+kept+` GIT_TERMINAL_PROMPT=0 sh -c "$0"`, strings.ReplaceAll(command, "HOST", host))
			if c.said(r, t.out); c.Failed() {
				c.Fatalf("%s with $%s alone, at %s", t.tool, t.variables, host)
			}
		}
		asked++
	}
	// Nobody's TLS was opened at the host that no rule names.
	if u.Dials() < asked {
		c.Errorf("%s was dialled %d times by %d clients", outside, u.Dials(), asked)
	}
	for _, q := range u.Received() {
		c.Equal(q.Host, outside)
	}
	c.Eventually("each passthrough is on record", func() bool {
		n := 0
		for _, r := range c.Records() {
			if has(r, Want{"type": "passthrough", "host": outside}) {
				n++
			}
		}
		return n >= asked
	})
}

func removedVariables(c *Case) {
	c.Rules.Profile("keeps: {secrets: [github], isolation: session, inherit: [DATABASE_URL, OPENAI_API_KEY]}")
	c.Rules.Write()
	c.Values = append(c.Values, "sk-real-0123456789abcdefghij", "hunter2-hunter2-hunter2")
	const key, password = "sk-real-0123456789abcdefghij", "hunter2-hunter2-hunter2"
	gone := map[string]string{
		"OPENAI_API_KEY": key, "VAULT_TOKEN": key, "AWS_SECRET_ACCESS_KEY": key, "AWS_ACCESS_KEY_ID": "AKIA0123456789ABCDEF", "OP_SERVICE_ACCOUNT_TOKEN": key,
		"OP_CONNECT_TOKEN": key, "BAO_TOKEN": key, "DATABASE_URL": "postgres://me:" + password + "@db.example.com/x", "PIP_INDEX_URL": "https://me:" + password + "@pip.example.com/simple",
		"ALL_PROXY": "socks5://127.0.0.1:1", "all_proxy": "socks5://127.0.0.1:1", "STANDIN_PASSPHRASE_FILE": "/nowhere", "ANTHROPIC_API_KEY": key,
	}
	kept := map[string]string{
		"EDITOR": "vi", "HOMEPAGE": "https://example.com/a:b@c", "AWS_REGION": "eu-west-1", "VAULT_ADDR": "https://vault.example.com",
		"WITH_PLACEHOLDER": "https://me:" + c.P + "@pip.example.com/", "SLACK_BOT_TOKEN": c.P, "GH_TOKEN": c.P, "GITHUB_TOKEN": c.P,
	}
	var environ []string
	for _, m := range []map[string]string{gone, kept} {
		for name, value := range m {
			if name == "GITHUB_TOKEN" || name == "GH_TOKEN" {
				value = R // what the user has there is the real one
			}
			environ = append(environ, name+"="+value)
		}
	}
	environ = append(environ, "HTTPS_PROXY=http://me:"+password+"@corp.example.com:3128", "NO_PROXY=*,internal.example.com,.allowed.test", "no_proxy="+api)
	receipt, log := filepath.Join(c.Dir, "receipt"), filepath.Join(c.Dir, "run.log")
	run := func(profile, script string) Result {
		return c.Finish(c.Command(environ, "run", "--rules", c.Rules.Path, "--profile", profile, "--isolation", "session", "--receipt", receipt, "--log", log, "--", "sh", "-c", script))
	}
	r := run("granted", "env -0")
	if r.Code != 0 {
		c.Fatal(r.description)
	}
	env := map[string]string{}
	for entry := range strings.SplitSeq(r.Out, "\x00") {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	var removed []string
	for name := range gone {
		if value, ok := env[name]; ok {
			c.Errorf("the command has $%s=%q", name, value)
		}
		removed = append(removed, name)
	}
	for name, value := range kept {
		c.Equal([]string{name, env[name]}, []string{name, value})
	}
	c.Equal(env["NO_PROXY"], "localhost,127.0.0.1,::1,[::1],internal.example.com")
	c.Equal(env["no_proxy"], env["NO_PROXY"])
	if !strings.Contains(env["HTTPS_PROXY"], "@127.0.0.1:") {
		c.Errorf("HTTPS_PROXY of the command is %q", env["HTTPS_PROXY"])
	}
	// What was removed is said: in the receipt, in session show, in the log.
	slices.Sort(removed)
	text, err := os.ReadFile(receipt)
	var said struct {
		Removed []string `json:"removed_variables"`
	}
	if err == nil {
		err = json.Unmarshal(text, &said)
	}
	slices.Sort(said.Removed)
	if err != nil || !slices.Equal(said.Removed, removed) {
		c.Errorf("the receipt says that %q was removed (%v), it was %q", said.Removed, err, removed)
	}
	s := c.Start(Start{Name: "S1", Env: environ})
	shown := c.Standin("session", "show", s.ID())
	logged, err := os.ReadFile(s.Log)
	if err != nil {
		c.Error(err)
	}
	told := string(logged) + lines(c.Records())
	for _, name := range removed {
		if !strings.Contains(shown.Out, name) {
			c.Errorf("session show does not say that $%s was removed: %s", name, shown.description)
		}
		if !strings.Contains(told, name) {
			c.Errorf("neither the log nor the record says that $%s was removed", name)
		}
	}
	c.Status(s.Do(api, get("/user", api, bearer(c.P))), 200)
	c.arrived(c.U1, 1)
	// A profile can let them through by name. The values are the user's own.
	c.Values = c.Values[:1]
	r = run("keeps", `printf '%s %s %s' "${DATABASE_URL##*:}" "$OPENAI_API_KEY" "${VAULT_TOKEN-none}"`)
	c.said(r, password+"@db.example.com/x "+key+" none")
}
