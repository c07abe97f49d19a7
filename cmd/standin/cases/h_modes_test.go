//go:build linux

package cases

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func sectionHModes() []entry {
	return []entry{
		{"H12", filesThatOthersReach},
		{"H14", theMaskAndTheTemporaryFolder},
		{"H27", theVaultIsTamperedWith},
		{"H28", aNewerVault},
	}
}

// ownVault makes a home with a vault and a trusted rules file, all of them this
// case's own.
func (c *Case) ownVault(home string, mask string, env ...string) (identity, rules string) {
	c.Helper()
	identity, rules = home+".id", home+".yaml"
	masked := func(stdin string, args ...string) {
		c.Helper()
		cmd := c.Command(env, append([]string{args[0]}, args[1:]...)...)
		cmd.Args = append([]string{"sh", "-c", `umask "$0" && exec "$@"`, mask, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		cmd.Stdin = strings.NewReader(stdin)
		c.Exit(c.Finish(cmd), 0)
	}
	saved := c.Home
	c.Home = home
	defer func() { c.Home = saved }()
	masked("", "vault", "init", "--identity-file", identity, "--recovery-key-out", home+".recovery")
	masked(R+"\n", "vault", "set", "github/token")
	masked(R+"2\n", "vault", "set", "other/token")
	if err := os.WriteFile(rules, []byte("version: 1\nsecrets:\n  "+githubEntry+"\n"), 0o644); err != nil {
		c.Fatal(err)
	}
	masked("", "rules", "trust", "--yes", "--rules", rules)
	masked("", "run", "--rules", rules, "--receipt", home+".receipt", "--", "sh", "-c", "true")
	return identity, rules
}

func filesThatOthersReach(c *Case) {
	c.NoGateway()
	home := filepath.Join(c.Dir, "own")
	identity, rules := c.ownVault(home, "022")
	c.Home = home
	run := func() Result { return c.Standin("run", "--rules", rules, "--", "true") }
	c.Exit(run(), 0)
	in := func(name string) string { return filepath.Join(home, name) }
	var stream string
	modes(c, in("audit"), func(path string, _ fs.FileInfo) {
		if strings.HasSuffix(path, ".jsonl") {
			stream = path
		}
	})
	for _, at := range []struct {
		path string
		mode fs.FileMode
	}{
		{in("vault.age"), 0o644}, {in("vault.age"), 0o660}, {in("vault.age"), 0o602},
		{in("identity.age"), 0o644}, {in("identity.age"), 0o620},
		{identity, 0o644}, {identity, 0o640},
		{in("placeholders.json"), 0o644},
		{home, 0o770}, {home, 0o755}, {home, 0o701},
		{in("audit"), 0o770}, {in("audit"), 0o755},
		{in("run"), 0o777},
		{rules, 0o666}, {rules, 0o646},
	} {
		info, err := os.Lstat(at.path)
		if err == nil {
			err = os.Chmod(at.path, at.mode)
		}
		if err != nil {
			c.Fatal(err)
		}
		r := run()
		c.ErrorAndHint(r, 125, at.path, "chmod ")
		// What the hint says is what mends it.
		c.mend(r, at.path)
		c.Exit(run(), 0)
		if now, err := os.Lstat(at.path); err != nil || now.Mode() != info.Mode() && at.path != rules || now.Mode()&0o022 != 0 {
			c.Errorf("%s had mode %v, and has %v after the hint (%v)", at.path, info.Mode(), now.Mode(), err)
		}
		if c.Failed() {
			c.Fatalf("%s with mode %o", at.path, at.mode)
		}
	}
	// A file of the log that others may read is said, not refused: it is not
	// written any more.
	if err := os.Chmod(stream, 0o644); err != nil {
		c.Fatal(err)
	}
	c.Exit(run(), 0)
	r := c.Standin("audit", "verify", "--recovery-key-file", home+".recovery")
	if r.Code == 10 || !strings.Contains(r.Out+r.Err, "chmod") && !strings.Contains(r.Out+r.Err, "0644") {
		c.Errorf("verify says nothing of a file that others may read: %s", r.description)
	}
	// Rules that others may only read are no secret.
	if err := os.Chmod(rules, 0o644); err != nil {
		c.Fatal(err)
	}
	c.Exit(run(), 0)
	// Links in the place of files.
	for _, name := range []string{"vault.age", "identity.age", "placeholders.json", "audit"} {
		if err := os.Rename(in(name), in(name)+".away"); err != nil {
			c.Fatal(err)
		}
		if err := os.Symlink(in(name)+".away", in(name)); err != nil {
			c.Fatal(err)
		}
		c.ErrorAndHint(run(), 125, in(name))
		if err := os.Remove(in(name)); err != nil {
			c.Fatal(err)
		}
		if err := os.Rename(in(name)+".away", in(name)); err != nil {
			c.Fatal(err)
		}
	}
	c.Exit(run(), 0)
	if os.Geteuid() == 0 { // only root can give a file away
		for _, path := range []string{in("vault.age"), in("identity.age"), identity, in("placeholders.json"), in("audit"), in("run"), home} {
			if err := os.Lchown(path, 12345, -1); err != nil {
				c.Fatal(err)
			}
			r := run()
			c.ErrorAndHint(r, 125, path, "chown ")
			c.mend(r, path)
			c.Exit(run(), 0)
			if c.Failed() {
				c.Fatalf("%s belongs to somebody else", path)
			}
		}
	}
	c.U1.Undialled()
}

// mend types the hint of an error.
func (c *Case) mend(r Result, path string) {
	c.Helper()
	for line := range strings.Lines(r.Err) {
		if hint, ok := strings.CutPrefix(strings.TrimSpace(line), "standin: hint: "); ok {
			hint = strings.TrimPrefix(hint, "sudo ") // only root comes here with what others own
			if out, err := exec.Command("sh", "-c", hint).CombinedOutput(); err != nil {
				c.Errorf("%q does not mend %s: %v %s", hint, path, err, out)
			}
			return
		}
	}
	c.Errorf("no hint mends %s: %s", path, r.description)
}

func theMaskAndTheTemporaryFolder(c *Case) {
	c.NoGateway()
	hostile := filepath.Join(c.Dir, "hostile")
	if err := os.Mkdir(hostile, 0o777); err != nil {
		c.Fatal(err)
	}
	if err := os.Chmod(hostile, 0o777); err != nil {
		c.Fatal(err)
	}
	victim := c.rulesFile("victim", "precious\n")
	for _, name := range []string{"standin", "standin-run", "vault.age", "vault.age.tmp", "environment"} {
		if err := os.Symlink(victim, filepath.Join(hostile, name)); err != nil {
			c.Fatal(err)
		}
	}
	folders := []string{c.Temp, hostile, filepath.Join(c.Dir, "missing"), "relative", "/dev/null", "/proc", ""}
	for i, mask := range []string{"000", "077", "022", "027", "000", "077", "000"} {
		home := filepath.Join(c.Dir, fmt.Sprintf("mask%d", i))
		identity, rules := c.ownVault(home, mask, "TMPDIR="+folders[i], "TMP="+folders[i], "TEMP="+folders[i])
		modes(c, home, func(path string, info fs.FileInfo) {
			want := fs.FileMode(0o600)
			switch {
			case info.IsDir():
				want = 0o700
			case strings.HasPrefix(path, filepath.Join(home, "run")+"/"):
				want = 0o644 // what the command reads, in a folder of 0700
			}
			if info.Mode().Perm() != want {
				c.Errorf("mask %s: %s has mode %v, not %v", mask, path, info.Mode(), want)
			}
		})
		for _, path := range []string{identity, home + ".recovery", home + ".receipt"} {
			if info, err := os.Lstat(path); err != nil || info.Mode() != 0o600 {
				c.Errorf("mask %s: %s: %v %v", mask, path, info, err)
			}
		}
		if c.Failed() {
			c.Fatalf("umask %s, TMPDIR=%s; rules %s", mask, folders[i], rules)
		}
	}
	if text, err := os.ReadFile(victim); err != nil || string(text) != "precious\n" {
		c.Errorf("a planted link led to %q: %v", text, err)
	}
	for _, dir := range []string{hostile, c.Temp} {
		left, err := os.ReadDir(dir)
		if err != nil {
			c.Fatal(err)
		}
		for _, e := range left {
			if e.Type()&fs.ModeSymlink == 0 {
				c.Errorf("%s is left in %s", e.Name(), dir)
			}
		}
	}
	c.U1.Undialled()
}
