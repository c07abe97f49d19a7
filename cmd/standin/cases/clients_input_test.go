//go:build linux

package cases

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Bad input: each mistake has a message, a hint that is something to type and
// its exit code, and costs nothing that was there before.

func TestBadInput(t *testing.T) {
	for name, run := range map[string]func(*Case){
		"a rules file with an unknown key":    inputUnknownKey,
		"no vault":                            inputNoVault,
		"a wrong passphrase":                  inputWrongPassphrase,
		"an upstream that cannot be reached":  inputUnreachable,
		"a full disk under the log":           inputFullDisk,
		"a command that does not start":       inputNoCommand,
		"flags and words that there are none": inputFlags,
		"exit codes of the command":           inputExitCodes,
		"signals after the command has ended": inputLateSignals,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t, "input")
			c.Rules.Write()
			vault := c.state()
			run(c)
			c.U1.Undialled()
			// Nothing is lost: vault and trust are as they were, and it runs.
			c.Equal(c.state(), vault)
			c.said(c.launch(nil)("sh", "-c", "echo $GITHUB_TOKEN"), c.P)
			c.checkAudit()
		})
	}
}

// state is what the user keeps: the identity, and every secret in its version.
// That the rules are trusted shows when they run.
func (c *Case) state() [2]string {
	c.Helper()
	identity, err := os.ReadFile(filepath.Join(c.Home, "identity.age"))
	if err != nil {
		c.Fatal(err)
	}
	list := c.Standin("vault", "list", "--json")
	c.Exit(list, 0)
	return [2]string{string(identity), list.Out}
}

// leftBehind asserts that no session's socket is left.
func (c *Case) leftBehind() {
	c.Helper()
	if sockets, _ := filepath.Glob(filepath.Join(c.Home, "run", "*.sock")); len(sockets) > 0 {
		c.Errorf("sockets are left: %q", sockets)
	}
}

func inputUnknownKey(c *Case) {
	c.refusedRules(c.rulesFile("odd.yaml", strings.Replace(c.Rules.Text(), "hosts:", "hsots:", 1)), "line ", `"hsots"`, `"hosts"`)
	c.ErrorAndHint(c.Standin("run", "--rules", filepath.Join(c.Dir, "none.yaml"), "--", "true"), 125, "none.yaml")
	c.ErrorAndHint(c.Standin("run", "--rules", c.Rules.Path, "--profile", "grantde", "--", "true"), 125, "grantde", "granted")
	// Trusted once, and changed since.
	c.rulesFile("standin.yaml", c.Rules.Text()+"# changed\n")
	c.ErrorAndHint(c.Standin("run", "--rules", c.Rules.Path, "--profile", "granted", "--", "true"), 125, "changed", "standin rules trust")
	c.rulesFile("standin.yaml", c.Rules.Text())
}

func inputNoVault(c *Case) {
	other := filepath.Join(c.Dir, "nothing")
	for _, args := range [][]string{{"run", "--rules", c.Rules.Path, "--profile", "granted", "--", "true"}, {"vault", "list"}, {"vault", "set", "x"}} {
		cmd := c.Command(nil, args...)
		cmd.Args[3] = other // of --home
		if cmd.Args[2] != "--home" {
			c.Fatalf("the command line is %q", cmd.Args)
		}
		cmd.Stdin = strings.NewReader(R + "\n")
		code := 1
		if args[0] == "run" {
			code = 125
		}
		c.ErrorAndHint(c.Finish(cmd), code, "standin vault init")
	}
	if _, err := os.Stat(filepath.Join(other, "vault.age")); err == nil {
		c.Error("a vault was made unasked")
	}
	// A secret that the vault does not have.
	rules := c.rulesFile("more.yaml", "version: 1\nsecrets:\n  nobody: {source: \"vault:nobody/token\"}\nprofiles:\n  default: {secrets: [nobody], isolation: session}\n")
	c.Exit(c.Standin("rules", "trust", "--yes", "--rules", rules), 0)
	c.ErrorAndHint(c.Standin("run", "--rules", rules, "--", "true"), 125, "nobody", "standin vault set nobody/token")
	c.leftBehind()
}

func inputWrongPassphrase(c *Case) {
	home := filepath.Join(c.Dir, "locked")
	right, wrong := c.script("right", "correct horse battery staple\n"), c.script("wrong", "incorrect horse\n")
	at := func(args ...string) Result {
		cmd := c.Command(nil, args...)
		cmd.Args[3] = home
		cmd.Stdin = strings.NewReader(R + "\n")
		return c.Finish(cmd)
	}
	c.Exit(at("vault", "init", "--passphrase-file", right, "--recovery-key-out", home+".recovery"), 0)
	c.Exit(at("vault", "set", "github/token", "--passphrase-file", right), 0)
	kept, err := os.ReadFile(filepath.Join(home, "vault.age"))
	if err != nil {
		c.Fatal(err)
	}
	c.ErrorAndHint(at("vault", "set", "github/token", "--passphrase-file", wrong), 1, "passphrase")
	c.ErrorAndHint(at("run", "--rules", c.Rules.Path, "--profile", "granted", "--passphrase-file", wrong, "--", "true"), 125, "passphrase")
	// Nobody to ask, and no file.
	c.ErrorAndHint(at("run", "--rules", c.Rules.Path, "--profile", "granted", "--", "true"), 125, "--passphrase-file")
	if now, err := os.ReadFile(filepath.Join(home, "vault.age")); err != nil || string(now) != string(kept) {
		c.Errorf("the vault has changed: %v", err)
	}
	c.Exit(at("vault", "list", "--passphrase-file", right), 0)
}

func inputUnreachable(c *Case) {
	if _, err := exec.LookPath("curl"); err != nil {
		c.Skip("curl is not installed")
	}
	// The file was trusted before; one more entry asks for it again.
	const host = "closed.allowed.test"
	c.Rules.written = false
	c.Rules.Dial(host+":443", "127.0.0.1:1", "")
	c.Rules.Add("{name: closed, hosts: [" + host + "], substitute: [{secret: github, in: header Authorization}]}")
	text, err := os.ReadFile(c.Rules.Path)
	if err != nil {
		c.Fatal(err)
	}
	log := filepath.Join(c.Dir, "run.log")
	r := c.launch(nil, "--log", log)("sh", "-c", `curl -sS `+authorized+` -D - https://`+host+`/; curl -sSf -o /dev/null https://`+host+`/`)
	c.Exit(r, 22) // that of curl -f
	for _, want := range []string{" 502 ", `"error":"upstream_unreachable"`, `"hint":"`, "standin; error=destination_unavailable"} {
		if !strings.Contains(strings.Replace(r.Out, "HTTP/2 502", "HTTP/2 502 ", 1), want) {
			c.Errorf("the answer does not say %q: %s", want, r.description)
		}
	}
	if strings.Contains(r.Out+r.Err, "127.0.0.1:1") || strings.Contains(r.Err, "standin: ") {
		c.Errorf("the command learns of the inside: %s", r.description)
	}
	if logged, err := os.ReadFile(log); err != nil || !strings.Contains(string(logged), "connection refused") {
		c.Errorf("the log does not say why: %v %s", err, logged)
	}
	c.Recorded(2, Want{"type": "result", "code": "upstream_unreachable", "host": host})
	if err := os.WriteFile(c.Rules.Path, text, 0o644); err != nil {
		c.Fatal(err)
	}
	c.Rules.Trust()
}

func inputFullDisk(c *Case) {
	folder := filepath.Join(c.Home, "audit")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		c.Fatal(err)
	}
	ran := filepath.Join(c.Dir, "ran")
	cmd := c.Command(nil, "run", "--rules", c.Rules.Path, "--profile", "granted", "--isolation", "session", "--", "touch", ran)
	smallDisk(folder, "64k")(cmd)
	const full = `mount -t tmpfs -o "size=$0,mode=700" small "$1" && { head -c 1m /dev/zero >"$1/filler" 2>/dev/null || :; } && shift && exec "$@"`
	cmd.Args[2] = full
	r := c.Finish(cmd)
	c.ErrorAndHint(r, 125, "no space left on device", "df -h")
	if _, err := os.Lstat(ran); err == nil {
		c.Error("the command ran without a record")
	}
	c.leftBehind()
	// The operator's log is not the record: nothing depends on it.
	c.said(c.launch(nil, "--log", "/dev/full")("echo", "here"), "here")
}

func inputNoCommand(c *Case) {
	start := c.launch(nil)
	c.ErrorAndHint(start("no-such-command-at-all"), 127, "no-such-command-at-all", "PATH")
	c.ErrorAndHint(start(filepath.Join(c.Dir, "missing")), 127, "missing")
	plain := c.script("plain", "text\n")
	c.ErrorAndHint(start(plain), 126, plain)
	c.ErrorAndHint(start(c.Dir), 126, c.Dir)
	broken := filepath.Join(c.Dir, "broken")
	if err := os.WriteFile(broken, []byte("#!/no/such/interpreter\n"), 0o700); err != nil {
		c.Fatal(err)
	}
	if r := start(broken); r.Code != 126 && r.Code != 127 || !strings.Contains(r.Err, "standin: hint: ") {
		c.Errorf("a script without its interpreter: %s", r.description)
	}
	// Each is a session that was opened, and closed in order.
	c.Recorded(5, Want{"type": "open"})
	c.Recorded(5, Want{"type": "close"})
	c.Recorded(0, Want{"type": "substitute"})
	c.leftBehind()
}

func inputFlags(c *Case) {
	for _, args := range [][]string{
		{"run"}, {"run", "--rules", c.Rules.Path}, {"run", "--no-such-flag", "--", "true"}, {"run", "--ttl", "soon", "--", "true"},
		{"run", "--rules", c.Rules.Path, "--profile", "granted", "--secret", "nobody", "--", "true"},
		{"run", "--rules", c.Rules.Path, "--profile", "granted", "--ttl", "900h", "--", "true"},
		{"run", "--rules", c.Rules.Path, "--profile", "granted", "--ttl", "-1s", "--", "true"},
		{"run", "--rules", c.Rules.Path, "--profile", "granted", "--isolation", "prison", "--", "true"},
		{"vualt"}, {"vault"}, {"vault", "set"}, {"vault", "set", "a", "b"}, {"rules", "explain"}, {"audit", "show", "--since", "yesterday-ish"},
	} {
		r := c.Standin(args...)
		if r.Code != 2 || !strings.HasPrefix(r.Err, "standin: error: ") || r.Out != "" {
			c.Errorf("wrong usage: %s", r.description)
		}
	}
	// A level that is there but cannot be had is no fault of usage.
	if r := c.Standin("run", "--rules", c.Rules.Path, "--profile", "granted", "--isolation", "netns", "--", "false"); r.Code != 125 && r.Code != 1 {
		c.Errorf("netns: %s", r.description)
	}
}

// inputLateSignals: a signal that comes when the command has just ended, as a
// second Ctrl-C does, ends neither the revocation nor the receipt.
func inputLateSignals(c *Case) {
	for _, name := range []string{"INT", "TERM", "HUP", "QUIT", "TSTP"} {
		receipt := filepath.Join(c.Dir, name+".json")
		r := c.launch(nil, "--receipt", receipt)("sh", "-c", `trap '' `+name+`; gateway=$PPID
			(while kill -`+name+` $gateway; do :; done) 2>/dev/null & sleep 0.1; exit 7`)
		c.Exit(r, 7)
		if _, err := os.Stat(receipt); err != nil {
			c.Errorf("SIG%s: no receipt: %v", name, err)
			continue
		}
		r, _ = c.verify("--receipt", receipt)
		c.Exit(r, 0)
	}
	c.Recorded(5, Want{"type": "close"})
	c.leftBehind()
}

func inputExitCodes(c *Case) {
	start := c.launch(nil)
	for script, code := range map[string]int{
		"exit 0": 0, "exit 1": 1, "exit 7": 7, "exit 125": 125, "exit 255": 255, "kill -TERM $$": 143, "kill -KILL $$": 137, "kill -INT $$": 130,
	} {
		r := start("sh", "-c", script)
		c.Exit(r, code)
		if r.Err != "" {
			c.Errorf("%s: Standin prints on the command's terminal: %s", script, r.description)
		}
	}
	c.Recorded(8, Want{"type": "close"})
	c.leftBehind()
}
