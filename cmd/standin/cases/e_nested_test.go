//go:build linux

package cases

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// sessionInASession: what is opened inside a session is a part of it, or refused,
// whatever the command has done to its environment.
func sessionInASession(c *Case) {
	c.Rules.Profile("half: {secrets: [github], ttl: 1h}")
	c.Rules.Secret("other", "REAL-other-7f3c9a1e5b2d8460")
	c.Rules.Write()
	// Other rules, which are trusted, too.
	copied := &Rules{c: c, Path: filepath.Join(c.Dir, "copy.yaml")}
	if err := os.WriteFile(copied.Path, []byte(c.Rules.Text()+"unmatched: deny\n"), 0o644); err != nil {
		c.Fatal(err)
	}
	copied.Trust()
	nested := func(outer, inner string, flags ...string) Result {
		args := append([]string{"run", "--rules", c.Rules.Path, "--profile", outer, "--isolation", "tree"}, flags...)
		return c.Standin(append(args, "--", "sh", "-c", strings.NewReplacer(
			"INNER", ground.program+" run --home "+c.Home+" --rules "+c.Rules.Path, "COPY", copied.Path).Replace(inner))...)
	}
	ok := nested("half", `INNER --profile half -- `+curlTo+`/inner`)
	c.Exit(ok, 0)
	c.Equal(ok.Out, "200\n")
	c.Equal(c.U1.Requests(1)[0].Values("Authorization"), []string{"Bearer " + R})
	for inner, says := range map[string]string{
		`INNER --profile granted --isolation tree -- true`:                                                             `has no grant of secret "other"`,
		`env -i PATH="$PATH" HOME="$HOME" INNER --profile granted --isolation tree -- true`:                            `has no grant of secret "other"`,
		`INNER --profile half --isolation session -- true`:                                                             `isolation "session" is less than its "tree"`,
		`INNER --rules COPY --profile half -- true`:                                                                    "other rules",
		`(setsid sh -c 'sleep 0.3; env -i INNER --profile granted --isolation tree -- true' 2>&1 | cat >&2); exit 125`: `has no grant of secret "other"`,
	} {
		c.ErrorAndHint(nested("half", inner), 125, "open a session inside session", says)
	}
	c.ErrorAndHint(nested("thrice", `INNER --profile half -- true`), 125, "are counted")
	// Its time is at most what is left of the outer one's.
	r := nested("half", `INNER --profile half --receipt `+filepath.Join(c.Dir, "receipt")+` -- sh -c 'sleep 2; `+curlTo+`/late'; exit 0`, "--ttl", "1s")
	c.Exit(r, 0)
	if strings.Contains(r.Out, "200") {
		c.Errorf("an inner session outlives the outer one: %s", r.description)
	}
	// What is taken from the outer one is taken from the inner one.
	r = nested("half", `outer=$STANDIN_SESSION; INNER --profile half -- sh -c '`+ground.program+` session revoke --home `+c.Home+` '$outer'; sleep 2; `+curlTo+`/revoked'; exit 0`)
	if !strings.Contains(r.Out, "revoked s") || strings.Contains(r.Out, "200") {
		c.Errorf("an inner session outlives the outer one's grants: %s", r.description)
	}
	c.U1.Requests(1)
	nearestSession(c)
	c.checkAudit()
}

// nearestSession: of several sessions around it, an inner one is a part of the
// nearest, and what is taken from any of them is taken from all inside.
func nearestSession(c *Case) {
	g := c.Serve()
	for kind, run := range map[string]string{
		"own":     ground.program + " run --home " + c.Home + " --rules " + c.Rules.Path + " --profile granted --isolation tree",
		"serving": ground.program + " run --home " + c.Home + " --gateway " + g.Socket + " --profile granted --isolation tree",
	} {
		shell := func(script string) Result {
			cmd := exec.Command("sh", "-c", script)
			cmd.Env, cmd.Dir = c.Command(nil, "version").Env, c.Dir
			return c.Finish(cmd)
		}
		c.ErrorAndHint(shell(run+" -- "+run+" --secret other -- "+run+" --secret github -- true"), 125, "open a session inside session", `has no grant of secret "github"`)
		at := func(id string) string {
			if kind == "serving" {
				return g.Socket
			}
			return filepath.Join(c.Home, "run", id+".sock")
		}
		// The innermost waits until its middle or outermost session is touched.
		for what, touch := range map[string]func(outer, middle string) *exec.Cmd{
			"the middle one is revoked": func(_, middle string) *exec.Cmd {
				return c.Command(nil, "session", "revoke", middle)
			},
			"the outermost is narrowed": func(outer, _ string) *exec.Cmd {
				return exec.Command("curl", "-sS", "--unix-socket", at(outer), "-d", `{"secrets":["other"]}`, "http://standin/v1/sessions/"+outer+"/narrow")
			},
		} {
			ids, ready, done := filepath.Join(c.Dir, "ids"), filepath.Join(c.Dir, "ready"), filepath.Join(c.Dir, "done")
			for _, path := range []string{ids, ready, done} {
				_ = os.Remove(path)
			}
			note := "echo $STANDIN_SESSION >> " + ids + "; "
			inner := filepath.Join(c.Dir, "inner.sh")
			middle := filepath.Join(c.Dir, "middle.sh")
			for path, text := range map[string]string{
				inner:  note + "touch " + ready + "; while ! test -e " + done + "; do sleep 0.05; done; " + curlTo + "/deep",
				middle: note + run + " -- sh " + inner,
			} {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					c.Fatal(err)
				}
			}
			ended := make(chan Result, 1)
			go func() { ended <- shell(run + " -- sh -c '" + note + run + " -- sh " + middle + "'") }()
			c.Eventually("the innermost session runs", func() bool { _, err := os.Stat(ready); return err == nil })
			list, err := os.ReadFile(ids)
			names := strings.Fields(string(list))
			if err != nil || len(names) != 3 {
				c.Fatalf("%s, %s: sessions %q, %v", kind, what, names, err)
			}
			c.Exit(c.Finish(touch(names[0], names[1])), 0)
			time.Sleep(300 * time.Millisecond) // at once, on a slow machine
			if err := os.WriteFile(done, nil, 0o644); err != nil {
				c.Fatal(err)
			}
			if r := <-ended; strings.Contains(r.Out, "200") {
				c.Errorf("%s gateways: %s, and the innermost session goes on: %s", kind, what, r.description)
			}
		}
	}
	c.U1.Requests(1)
	c.Equal(g.End(), 0)
}
