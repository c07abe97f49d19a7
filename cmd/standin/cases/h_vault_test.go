//go:build linux

package cases

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
)

// The vault: what was changed in it, and what an older or a newer one says.

// At runs the program in another home, with a value on standard input.
func (c *Case) At(home, value string, args ...string) Result {
	c.Helper()
	cmd := c.Command(nil, args...)
	cmd.Args[slices.Index(cmd.Args, "--home")+1] = home
	cmd.Stdin = strings.NewReader(value + "\n")
	return c.Finish(cmd)
}

func (c *Case) bytesOf(path string) []byte {
	c.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		c.Fatal(err)
	}
	return data
}

func (c *Case) put(path string, data []byte) {
	c.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		c.Fatal(err)
	}
}

const passphrase = "correct horse battery staple"

func theVaultIsTamperedWith(c *Case) {
	c.NoGateway()
	c.Rules.Write()
	home := filepath.Join(c.Dir, "locked")
	at := func(pass string, args ...string) Result {
		c.Helper()
		file := filepath.Join(c.Dir, "passphrase")
		c.put(file, []byte(pass+"\n"))
		return c.At(home, R, append(args, "--passphrase-file", file)...)
	}
	c.Exit(at(passphrase, "vault", "init", "--recovery-key-out", home+".recovery"), 0)
	identityPath := filepath.Join(home, "identity.age")
	wrapped := c.bytesOf(identityPath)
	// fails runs a command that must not open the vault, and says so in the same
	// words each time.
	fails := func(what, pass string) Result {
		c.Helper()
		r := at(pass, "vault", "list")
		c.ErrorAndHint(r, 1)
		if r.Out != "" || strings.Contains(r.Err, pass) {
			c.Errorf("%s: it says too much: %s", what, r.description)
		}
		return r
	}
	first := fails("wrong", "incorrect horse")
	for _, pass := range []string{"wrong again", passphrase + " "} {
		if r := fails("wrong", pass); r.Err != first.Err {
			c.Errorf("another wrong passphrase has another text: %q, %q", r.Err, first.Err)
		}
	}
	// The parameters of scrypt: less work, or more than one would wait for.
	line := bytes.Index(wrapped, []byte("-> scrypt "))
	work := line + bytes.IndexByte(wrapped[line:], '\n') - 2
	if line < 0 || string(wrapped[work:work+2]) != "18" {
		c.Fatalf("identity.age begins with %q", wrapped[:min(len(wrapped), 100)])
	}
	for _, factor := range []string{"10", "01", "17", "30", "99"} {
		changed := bytes.Clone(wrapped)
		copy(changed[work:], factor)
		c.put(identityPath, changed)
		fails("work factor "+factor, passphrase)
	}
	c.put(identityPath, wrapped)

	// The vault itself, in a home whose identity takes no second to open.
	own := filepath.Join(c.Dir, "own")
	_, rules := c.ownVault(own, "022")
	path := filepath.Join(own, "vault.age")
	whole := c.bytesOf(path)
	other := filepath.Join(c.Dir, "other")
	c.Exit(c.At(other, R, "vault", "init", "--identity-file", other+".id", "--recovery-key-out", other+".recovery"), 0)
	bad := map[string][]byte{"empty": {}, "of another home": c.bytesOf(filepath.Join(other, "vault.age")), "longer": append(bytes.Clone(whole), 'x')}
	for _, n := range []int{3, 40, bytes.Index(whole, []byte("\n---")) + 6, len(whole) / 2, len(whole) - 1} {
		flipped := bytes.Clone(whole)
		flipped[n] ^= 1
		bad[fmt.Sprintf("flipped at %d", n)], bad[fmt.Sprintf("cut at %d", n)] = flipped, whole[:n]
	}
	for what, data := range bad {
		c.put(path, data)
		for _, args := range [][]string{{"vault", "list"}, {"vault", "set", "github/token"}, {"run", "--rules", rules, "--", "true"}} {
			r := c.At(own, R, args...)
			if code := map[bool]int{true: 125, false: 1}[args[0] == "run"]; r.Code != code || r.Out != "" || !strings.Contains(r.Err, "vault.age") {
				c.Errorf("a vault that is %s: %s", what, r.description)
			}
		}
		if !bytes.Equal(c.bytesOf(path), data) {
			c.Errorf("a vault that is %s was written to", what)
		}
	}
	c.put(path, whole)
	c.Exit(c.At(own, R, "run", "--rules", rules, "--", "true"), 0)
	c.anOlderVault(own, rules)
	c.U1.Undialled()
}

// anOlderVault puts back what was copied before: the log has seen a newer one.
func (c *Case) anOlderVault(home, rules string) {
	c.Helper()
	path := filepath.Join(home, "vault.age")
	old := c.bytesOf(path)
	run := func(flags ...string) Result {
		c.Helper()
		return c.At(home, R, slices.Concat([]string{"run", "--rules", rules}, flags, []string{"--", "true"})...)
	}
	c.Exit(c.At(home, R+"9", "vault", "rotate", "github/token"), 0)
	first, last := home+".first", home+".last"
	c.Exit(run("--receipt", first), 0)
	c.put(path, old)
	c.ErrorAndHint(run(), 125, "older copy", "standin vault accept")
	c.ErrorAndHint(c.At(home, R, "vault", "rm", "github/token"), 1, "older copy")
	c.Equal(c.bytesOf(path), old)
	c.Exit(c.At(home, R, "vault", "accept", "--reason", "a test"), 0)
	c.Exit(run("--receipt", last), 0)
	c.Exit(c.At(home, R, "audit", "verify", "--recovery-key-file", home+".recovery", "--vault", "--receipt", first, "--receipt", last), 0)
	if r := c.At(home, R, "audit", "show", "--json"); !strings.Contains(r.Out, "older vault accepted") || !strings.Contains(r.Out, "a test") {
		c.Errorf("that an older vault was accepted is not on record: %s", r.description)
	}
}

// aNewerVault is one that a later version of the program wrote.
func aNewerVault(c *Case) {
	c.NoGateway()
	home := filepath.Join(c.Dir, "own")
	identity, rules := c.ownVault(home, "022")
	path := filepath.Join(home, "vault.age")
	c.reseal(path, identity, func(v map[string]any) {
		if v["format"] != 1.0 {
			c.Errorf("the vault has format %v", v["format"])
		}
		v["format"], v["later"] = 2, "something new"
	})
	sealed := c.bytesOf(path)
	for _, args := range [][]string{{"vault", "list"}, {"vault", "set", "github/token"}, {"vault", "rm", "github/token"}, {"vault", "rotate", "github/token"},
		{"rules", "trust", "--yes", "--rules", rules}, {"run", "--rules", rules, "--", "true"}, {"audit", "recover", "--reason", "x"}, {"vault", "accept", "--reason", "x"}} {
		code := 1
		if args[0] == "run" {
			code = 125
		}
		c.ErrorAndHint(c.At(home, R, args...), code, "format 2", "newer standin")
		c.Equal(c.bytesOf(path), sealed)
	}
	c.U1.Undialled()
}

// reseal changes the content of a vault, as whoever has its identity can.
func (c *Case) reseal(path, identity string, change func(map[string]any)) {
	c.Helper()
	var content map[string]any
	key, err := age.ParseIdentities(bytes.NewReader(c.bytesOf(identity)))
	if err != nil {
		c.Fatal(err)
	}
	r, err := age.Decrypt(bytes.NewReader(c.bytesOf(path)), key...)
	if err == nil {
		err = json.NewDecoder(r).Decode(&content)
	}
	if err != nil {
		c.Fatal(err)
	}
	change(content)
	text, err := json.Marshal(content)
	if err != nil {
		c.Fatal(err)
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, key[0].(*age.X25519Identity).Recipient())
	if err == nil {
		_, err = io.Copy(w, bytes.NewReader(text))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		c.Fatal(err)
	}
	c.put(path, sealed.Bytes())
}
