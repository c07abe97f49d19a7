//go:build linux

package cases

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func sectionHState() []entry {
	return []entry{
		{"G20", aRotationDuringRequests},
		{"G21", writersOfTheVaultAreKilled},
		{"G22", writesToTheVaultFail},
		{"H17", leavesAreWellFormed},
		{"H25", secretsForEverybody},
		{"H26", aPlaceholderThatIsAValue},
		{"H30", anEnvironmentWithoutAHome},
	}
}

func aRotationDuringRequests(c *Case) {
	const next = "ghp_NEXTnextNEXTnext9876543210"
	c.Values = append(c.Values, next)
	c.U1.HTTP1()
	s := c.S1()
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 8 {
		t := s.Tunnel(api)
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				t.Send(get("/user", api, bearer(c.P)))
				if r := t.Response("GET"); r.Status != 200 {
					c.Errorf("during the rotation: %s", r)
					return
				}
			}
		})
	}
	c.Eventually("the old value is in use", func() bool { return strings.Contains(c.U1.Raw(), R) })
	c.Exit(c.StandinInput(next+"\n", nil, "vault", "rotate", "github/token"), 0)
	rotated := time.Now()
	c.Eventually("the new value is in use", func() bool { return strings.Contains(c.U1.Raw(), next) })
	if took := time.Since(rotated); took > 3*time.Second { // a second is promised; the machine may be busy
		c.Errorf("the new value was first used %v after the rotation", took)
	}
	close(stop)
	all.Wait()
	// From now on there is only the new one; before, one or the other, and whole.
	c.Status(s.Do(api, get("/last", api, bearer(c.P))), 200)
	versions := map[string]int{}
	for _, q := range c.U1.Received() {
		value := strings.TrimPrefix(q.Value("Authorization"), "Bearer ")
		if value != R && value != next {
			c.Errorf("a mix of the two: %q", value)
		}
		if q.Target == "/last" && value != next {
			c.Errorf("a second after the rotation: %q", value)
		}
		versions[value]++
	}
	recorded := map[string]int{}
	for _, r := range c.Records() {
		if r["type"] == "substitute" {
			recorded[fmt.Sprint(r["uses"].([]any)[0].(map[string]any)["version"])]++
		}
	}
	c.Equal(recorded, map[string]int{"1": versions[R], "2": versions[next]})
}

// hurt runs the program under strace, with a fault injected into each of its
// processes, in a home of its own.
func (c *Case) hurt(home, inject, value string, args ...string) Result {
	c.Helper()
	tool, err := exec.LookPath("strace")
	if err != nil {
		c.Skip("strace is not installed")
	}
	cmd := c.Command(nil, args...)
	cmd.Args[slices.Index(cmd.Args, "--home")+1] = home
	calls, _, _ := strings.Cut(inject, ":")
	cmd.Args = append([]string{tool, "-f", "-qq", "-o", os.DevNull, "-e", "signal=none", "-e", "trace=" + calls, "-e", "inject=" + inject}, cmd.Args...)
	cmd.Path = tool
	cmd.Stdin = strings.NewReader(value + "\n")
	return c.Finish(cmd)
}

// held says which value the vault holds, by its version.
func (c *Case) held(home string) string {
	c.Helper()
	r := c.At(home, "", "vault", "list", "--json")
	var list []struct{ Name, Version string }
	if err := json.Unmarshal([]byte(r.Out), &list); err != nil || r.Code != 0 {
		c.Fatalf("the vault cannot be read: %s", r.description)
	}
	for _, e := range list {
		if e.Name == "github/token" {
			return e.Version
		}
	}
	c.Fatalf("the value is gone: %s", r.description)
	return ""
}

// private asserts that nothing in the home can be read by others.
func (c *Case) privateHome(home string) {
	c.Helper()
	files, err := os.ReadDir(home)
	if err != nil {
		c.Fatal(err)
	}
	for _, f := range files {
		if info, err := f.Info(); err == nil && info.Mode().Perm()&0o077 != 0 {
			c.Errorf("%s has mode %v", f.Name(), info.Mode())
		}
	}
}

// vaultCalls are the system calls that a write to the vault is made of.
var vaultCalls = []string{"openat", "fchmod", "flock", "write", "fsync", "linkat", "renameat", "unlinkat"}

func writersOfTheVaultAreKilled(c *Case) {
	c.NoGateway()
	home := filepath.Join(c.Dir, "own")
	c.ownVault(home, "022")
	kills, changed := 0, 0
	rounds := 3
	if full() {
		rounds = 62
	}
	for _, call := range vaultCalls {
		for n := range rounds {
			before := c.held(home)
			// The calls that touch the vault are the last ones of each kind.
			r := c.hurt(home, fmt.Sprintf("%s:signal=KILL:when=%d", call, 1+n*(1+n%3)), fmt.Sprintf("ghp_REALrealREALreal%010d", n), "vault", "set", "github/token")
			after := c.held(home)
			if r.Code != 0 {
				kills++
			}
			if after != before {
				changed++
			} else if r.Code == 0 {
				c.Errorf("%s, %d: it says that it is done, and is not: %s", call, n, r.description)
			}
			c.privateHome(home)
		}
	}
	c.Logf("%d kills, %d new values", kills, changed)
	if kills < len(vaultCalls) {
		c.Errorf("only %d of %d runs were killed", kills, rounds*len(vaultCalls))
	}
	// What the dead left behind is removed by the next writer.
	c.Exit(c.At(home, R, "vault", "set", "github/token"), 0)
	if left, _ := filepath.Glob(filepath.Join(home, ".*tmp*")); len(left) > 0 {
		c.Errorf("temporary files are left: %q", left)
	}
	c.U1.Undialled()
}

func writesToTheVaultFail(c *Case) {
	c.NoGateway()
	home := filepath.Join(c.Dir, "own")
	c.ownVault(home, "022")
	for _, fault := range []string{
		"fsync:error=EIO:when=1", "fsync:error=EIO:when=2", "fsync:error=ENOSPC", "renameat,renameat2,rename:error=EROFS", "renameat,renameat2,rename:error=ENOSPC",
		"linkat,link:error=EROFS", "fchmod:error=EPERM", "flock:error=ENOLCK", "unlinkat,unlink:error=EROFS",
	} {
		before := c.held(home)
		r := c.hurt(home, fault, R, "vault", "set", "github/token")
		after := c.held(home)
		// strace counts the calls of each thread, and the second may be another's.
		for tries := 0; strings.HasSuffix(fault, "when=2") && r.Code == 0 && after != before && tries < 20; tries++ {
			before = after
			r = c.hurt(home, fault, R, "vault", "set", "github/token")
			after = c.held(home)
		}
		switch {
		case r.Code == 0 && after == before, r.Code != 0 && after != before:
			c.Errorf("%s: version %s, then %s: %s", fault, before, after, r.description)
		case r.Code != 0 && (r.Code != 1 || !strings.HasPrefix(r.Err, "standin: error: ")):
			c.Errorf("%s: %s", fault, r.description)
		case r.Code == 0 && strings.HasPrefix(fault, "fsync"), r.Code == 0 && strings.HasPrefix(fault, "rename"):
			c.Errorf("%s: it went on: %s", fault, r.description)
		}
		c.privateHome(home)
	}
	c.Exit(c.At(home, R, "vault", "set", "github/token"), 0)
	// A full disk, as the writer of the file meets it.
	disk := filepath.Join(c.Dir, "full")
	if err := os.Mkdir(disk, 0o700); err != nil {
		c.Fatal(err)
	}
	cmd := c.Command(nil, "vault", "status")
	script := `set -e; cp -a "$1"/. "$2"; cat /dev/zero > "$2/filler" 2>/dev/null || :; cat /dev/zero >> "$2/filler" 2>/dev/null || :
printf '%s\n' "$3" | "$0" vault set github/token --home "$2" && exit 90 || echo "exit $?"; rm "$2/filler"; "$0" vault list --home "$2"; ls -a "$2"`
	cmd.Args = []string{"sh", "-c", script, cmd.Path, home, disk, R}
	cmd.Path = "/bin/sh"
	smallDisk(disk, "1m")(cmd)
	r := c.Finish(cmd)
	if r.Code != 0 || !strings.Contains(r.Out, "exit 1\n") || !strings.Contains(r.Out, "github/token") || !strings.Contains(r.Err, "no space left") || strings.Contains(r.Out, "tmp-") {
		c.Errorf("a full disk: %s", r.description)
	}
	c.U1.Undialled()
}

func leavesAreWellFormed(c *Case) {
	tool, err := exec.LookPath("openssl")
	if err != nil {
		c.Skip("openssl is not installed")
	}
	s := c.S1()
	serials := map[string]bool{}
	for _, host := range []string{api, evil, echo} {
		t := s.Tunnel(host)
		state := t.Conn.(*tls.Conn).ConnectionState()
		leaf := state.PeerCertificates[0]
		if len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != host || leaf.Subject.String() != "" || leaf.IsCA || len(leaf.IPAddresses) > 0 {
			c.Errorf("the leaf of %s: names %q, subject %q, authority %v", host, leaf.DNSNames, leaf.Subject, leaf.IsCA)
		}
		if bits := leaf.SerialNumber.BitLen(); leaf.SerialNumber.Sign() <= 0 || bits < 64 || bits > 159 || serials[leaf.SerialNumber.String()] {
			c.Errorf("the serial of %s is %v", host, leaf.SerialNumber)
		}
		serials[leaf.SerialNumber.String()] = true
		if len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.AuthorityKeyId) == 0 {
			c.Errorf("the usage of the leaf of %s: %v %v, key id %x", host, leaf.ExtKeyUsage, leaf.KeyUsage, leaf.AuthorityKeyId)
		}
		if leaf.NotAfter.Sub(leaf.NotBefore) > 8*24*time.Hour {
			c.Errorf("the leaf of %s is valid from %v to %v", host, leaf.NotBefore, leaf.NotAfter)
		}
		c.strictly(tool, s, host, state.PeerCertificates)
	}
	c.Status(s.Do(api, get("/user", api, bearer(c.P))), 200)
	c.arrived(c.U1, 1)
}

// strictly lets openssl verify a chain as it would in its strictest mode.
func (c *Case) strictly(tool string, s *Session, host string, chain []*x509.Certificate) {
	c.Helper()
	var pems [2]bytes.Buffer
	for i, cert := range chain {
		if err := pem.Encode(&pems[min(i, 1)], &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
			c.Fatal(err)
		}
	}
	leaf, between := filepath.Join(c.Dir, host+".leaf"), filepath.Join(c.Dir, host+".between")
	c.put(leaf, pems[0].Bytes())
	c.put(between, pems[1].Bytes())
	root := filepath.Join(filepath.Dir(s.Env["SSL_CERT_FILE"]), "ca.pem")
	for name, holds := range map[string]bool{host: true, "other." + evil + ".example": false} {
		out, err := exec.Command(tool, "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", name, "-CAfile", root, "-untrusted", between, leaf).CombinedOutput()
		if (err == nil) != holds {
			c.Errorf("openssl on the leaf of %s, for %s: %v\n%s", host, name, err, out)
		}
	}
}

func secretsForEverybody(c *Case) {
	for _, host := range []string{`"*"`, `"**"`, `"*.*"`, `"*.test"`, `"*.com"`, `"*.github.io"`, `"*.co.uk"`, `"*:443"`} {
		path := c.rulesFile("wide.yaml", "version: 1\nsecrets:\n  "+githubEntry+"\nrules:\n  - {name: wide, hosts: ["+host+"], substitute: [{secret: github, in: header Authorization}]}\n")
		c.refusedRules(path, "line ", "hosts")
		c.ErrorAndHint(c.Standin("run", "--rules", path, "--", "true"), 125, "line ")
	}
	c.U1.Undialled()
}

func aPlaceholderThatIsAValue(c *Case) {
	c.NoGateway()
	const text = "zstandin_abcdefghijklmnopqrstuvwxyz"
	// The vault takes no value that is a placeholder, whoever's it is.
	for _, value := range []string{text, c.P, "ghp_" + text} {
		if r := c.StandinInput(value+"\n", nil, "vault", "set", "odd/token"); r.Code == 0 || strings.Contains(r.Err+r.Out, value) {
			c.Errorf("the vault takes a placeholder for a value: %s", r.description)
		}
	}
	// The rules take no placeholder that could be a value.
	for _, made := range []string{R, "zstandin_short", "zstandin_" + strings.ToUpper(text[9:]), "abc"} {
		path := c.rulesFile("odd.yaml", "version: 1\nsecrets:\n  odd: {source: \"vault:github/token\", placeholder: "+made+"}\n")
		r := c.Standin("rules", "check", path)
		if r.Code == 0 || made == R && strings.Contains(r.Err+r.Out, R) {
			c.Errorf("the rules take %q for a placeholder: %s", made, r.description)
		}
	}
	// From a source that is not the vault, the value is seen when it is read.
	path := c.rulesFile("env.yaml", "version: 1\nsecrets:\n  odd: {source: \"env:ODD_SOURCE\", placeholder: "+text+", env: [ODD]}\nprofiles:\n  default: {secrets: [odd], isolation: session}\n")
	c.Exit(c.Standin("rules", "trust", "--yes", "--rules", path), 0)
	for _, value := range []string{text, c.P} {
		c.ErrorAndHint(c.StandinInput("", []string{"ODD_SOURCE=" + value}, "run", "--rules", path, "--", "true"), 125, "odd")
	}
	c.Exit(c.StandinInput("", []string{"ODD_SOURCE=" + R}, "run", "--rules", path, "--", "true"), 0)
	c.U1.Undialled()
}

func anEnvironmentWithoutAHome(c *Case) {
	c.NoGateway()
	c.Rules.Write()
	bare := func(code int, env []string, args ...string) Result {
		c.Helper()
		cmd := exec.Command(ground.program, args...)
		cmd.Env, cmd.Dir = append([]string{"PATH=" + os.Getenv("PATH")}, env...), c.Dir
		cmd.Stdin = strings.NewReader(R + "\n")
		r := c.Finish(cmd)
		c.Exit(r, code)
		if code != 0 && !strings.HasPrefix(r.Err, "standin: error: ") {
			c.Errorf("it does not say why: %s", r.description)
		}
		return r
	}
	marker := filepath.Join(c.Dir, "ran")
	before, _ := filepath.Glob(filepath.Join(c.Dir, "*"))
	for _, env := range [][]string{nil, {"HOME="}, {"HOME=" + c.Dir, "XDG_STATE_HOME=relative"}, {"HOME=" + c.Dir, "XDG_CONFIG_HOME=./x"}, {"HOME=" + c.Dir, "XDG_RUNTIME_DIR=run"}} {
		bare(1, env, "vault", "list")
		bare(1, env, "vault", "set", "github/token")
		bare(1, env, "vault", "init", "--identity-file", filepath.Join(c.Dir, "new.id"))
		bare(1, env, "audit", "verify")
		bare(125, env, "run", "--rules", c.Rules.Path, "--", "touch", marker)
	}
	if after, _ := filepath.Glob(filepath.Join(c.Dir, "*")); !slices.Equal(before, after) {
		c.Errorf("files were made: %q, %q", before, after)
	}
	// A home that is given needs none of these.
	bare(0, nil, "run", "--home", c.Home, "--rules", c.Rules.Path, "--profile", "granted", "--isolation", "session", "--", "true")
	// Without /proc nobody can say whose a connection is: the level is not had.
	cmd := c.Command(nil, "run", "--rules", c.Rules.Path, "--profile", "granted", "--isolation", "tree", "--", "touch", marker)
	empty := filepath.Join(c.Dir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		c.Fatal(err)
	}
	inPlaceOf("/proc", empty)(cmd)
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID
	r := c.Finish(cmd)
	c.Exit(r, 125)
	if _, err := os.Stat(marker); err == nil || !strings.Contains(r.Err, "standin: error: ") {
		c.Errorf("a command ran: %s", r.description)
	}
	c.U1.Undialled()
}

// TestKilledAtAnySystemCall: wherever a gateway dies, the log is whole up to a
// last line, and the next gateway goes on behind it.
func TestKilledAtAnySystemCall(t *testing.T) {
	t.Parallel()
	c := newCase(t, "syscalls")
	c.NoGateway()
	c.torn = true
	c.Rules.Write()
	kills := 0
	for i, call := range []string{"openat", "write,pwrite64", "fdatasync", "fsync", "fallocate", "fchmod", "flock", "mkdirat", "newfstatat", "ftruncate"} {
		for n := range 3 {
			when := 1 + (5*n+3*i)%17
			if slices.Contains([]string{"fdatasync", "fsync", "fallocate", "ftruncate", "mkdirat"}, call) {
				when = 1 + n
			}
			r := c.hurt(c.Home, fmt.Sprintf("%s:signal=KILL:when=%d", call, when), "", "run", "--rules", c.Rules.Path, "--profile", "granted", "--isolation", "session", "--", "true")
			if r.Code != 0 {
				kills++
			}
		}
		if _, err := os.Stat(filepath.Join(c.Home, "audit")); err != nil {
			continue // it was killed before there was one
		}
		if r, rep := c.verify(); r.Code != 12 && r.Code != 13 && r.Code != 0 || len(rep.Problems) > 0 {
			c.Fatalf("killed at %s: %s", call, r.description)
		}
	}
	if kills < 12 {
		t.Errorf("only %d runs were killed", kills)
	}
	t.Logf("%d kills", kills)
	receipt := filepath.Join(c.Dir, "receipt")
	s := c.Start(Start{Name: "next", Flags: []string{"--receipt", receipt}})
	c.Status(s.Do(api, get("/user", api, bearer(c.P))), 200)
	c.arrived(c.U1, 1)
	c.Equal(s.End(), 0)
	if r, rep := c.verify("--receipt", receipt); len(rep.Problems) > 0 || rep.Unproven > 0 {
		c.Errorf("behind the dead: %s", r.description)
	}
}
