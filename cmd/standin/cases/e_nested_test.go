//go:build linux

package cases

import (
	"os"
	"path/filepath"
	"strings"
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
	c.checkAudit()
}
