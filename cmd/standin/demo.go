package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"standin/rules"
	"standin/vault"
)

func newDemoCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show the main job, end to end, on loopback, with nothing to set up",
		Long: `Make a vault, rules and an API server in a temporary folder; run a real command
that holds a placeholder; show what it held, what it sent, what the server
received and what came back; try to carry the placeholder to another host; verify
the log, and damaged copies of it. Exits with 0 only if every step was as it
should be. Nothing outside the temporary folder is touched.`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error { return p.demo() },
	}
}

// The hosts of the demo. Names under .test lead nowhere but here.
const (
	demoAPI   = "api.demo.test"
	demoOther = "other.demo.test"
)

// demonstration is one run of the demo.
type demonstration struct {
	p        *program
	screen   *screen
	dir      string // temporary, the home of the demo
	self     string // this program
	value    string // the real key
	server   *demoServer
	recovery string // file of the recovery key
}

func (p *program) demo() (err error) {
	began := time.Now()
	dir, err := os.MkdirTemp("", "standin-demo-")
	if err != nil {
		return fmt.Errorf("make folder for the demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := &demonstration{p: p, screen: newScreen(p.out), dir: dir}
	if d.self, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if err := d.setUp(); err != nil {
		return err
	}
	defer d.server.close()
	for _, step := range []func() error{d.theWay, d.theRefusal, d.theRecord, d.theDamage} {
		if err := step(); err != nil {
			return err
		}
	}
	d.screen.title("Every step was as it should be (%v). To use it for real:", time.Since(began).Round(10*time.Millisecond))
	d.screen.command("standin init github", "make a vault and rules, and trust them")
	d.screen.command("standin vault set github/token", "keep the real value: asked for, or from a pipe")
	d.screen.command("standin run -- YOUR-AGENT", "run it with placeholders only")
	d.screen.command("standin audit show", "see what it used, where and when")
	return nil
}

// setUp makes a home with one secret, an API server, and rules that are trusted.
func (d *demonstration) setUp() error {
	d.value = "sk_demo_" + sessionID() + sessionID()
	d.recovery = filepath.Join(d.dir, "recovery.key")
	identity := filepath.Join(d.dir, "identity.txt")
	key, err := vault.Create(d.dir, vault.Wrap{IdentityFile: identity})
	if err != nil {
		return err
	}
	if err := vault.ReplaceFile(d.recovery, key.Reveal()); err != nil {
		return err
	}
	store, err := vault.Open(d.dir, vault.Unlock{})
	if err != nil {
		return err
	}
	if err := store.Set("demo/key", vault.NewSecret([]byte(d.value))); err != nil {
		return err
	}
	if d.server, err = startDemoServer(d.dir); err != nil {
		return err
	}
	if err := os.WriteFile(d.rules(), []byte(demoRules(d.server.address())), 0o600); err != nil {
		return fmt.Errorf("write rules of the demo: %w", err)
	}
	policy, err := rules.Load(d.rules())
	if err != nil {
		return err
	}
	return trust(store, policy)
}

func (d *demonstration) rules() string { return filepath.Join(d.dir, "standin.yaml") }

// demoRules lets the key stand in one header, at one of two intercepted hosts.
func demoRules(address string) string {
	return fmt.Sprintf(`version: 1
secrets:
  demo:
    source: vault:demo/key
    shape: sk_demo_
    env: [DEMO_API_KEY]
rules:
  - name: api
    hosts: [%s]
    substitute:
      - {secret: demo, in: header Authorization}
  - name: other
    hosts: [%s]
upstreams:
  %[1]s: {dial: %[3]q, ca: demo-ca.pem}
  %[2]s: {dial: %[3]q, ca: demo-ca.pem}
unmatched: deny
`, demoAPI, demoOther, address)
}

// theWay sends one request with the placeholder to the host that may have it.
func (d *demonstration) theWay() error {
	sent, err := d.call("https://" + demoAPI + "/v1/models")
	if err != nil {
		return err
	}
	received := d.server.take()
	d.screen.title("1. %s ran with a placeholder; the server got the real key", sent.Client)
	d.screen.row("the command held", "DEMO_API_KEY="+sent.Held, calm)
	d.screen.row("it sent", "Authorization: Bearer "+sent.Held, calm)
	d.screen.row("the server received", received, alarming)
	d.screen.row("what came back", sent.Status+"  "+sent.Body, calm)
	want := fmt.Sprintf("%s Authorization: Bearer %s", demoAPI, d.value)
	switch {
	case strings.Contains(sent.Held, d.value) || !strings.HasPrefix(sent.Held, "sk_demo_zstandin_"):
		return failed("the command held something else than a placeholder")
	case received != want:
		return failed("the server did not receive the real key, once, in its header")
	case !strings.HasPrefix(sent.Status, "200"):
		return failed("the answer was not 200")
	case strings.Contains(sent.Body, d.value) || !strings.Contains(sent.Body, sent.Held):
		return failed("the answer was not scrubbed")
	}
	return nil
}

// theRefusal tries to carry the placeholder to the other host.
func (d *demonstration) theRefusal() error {
	sent, err := d.call("https://" + demoOther + "/collect")
	if err != nil {
		return err
	}
	received := d.server.take()
	d.screen.title("2. The same command tried to carry the key to another host of the rules")
	d.screen.row("it sent", "Authorization: Bearer "+sent.Held+" to "+demoOther, calm)
	d.screen.row("the server received", orNothing(received), calm)
	d.screen.row("what came back", sent.Status+"  "+sent.Body, calm)
	if received != "" || !strings.HasPrefix(sent.Status, "403") || !strings.Contains(sent.Body, "placeholder_misplaced") {
		return failed("the placeholder was not refused at the other host")
	}
	return nil
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// failed says which step of the demo was not as it should be.
func failed(what string) error { return fmt.Errorf("demo: %s", what) }
