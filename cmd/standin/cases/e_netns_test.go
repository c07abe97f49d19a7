//go:build linux

package cases

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Isolation by namespaces. All of it runs as an unprivileged user.

// inARoom runs a test as nobody, if that user may have namespaces.
func inARoom(t *testing.T) (again bool) {
	t.Helper()
	if os.Getuid() == 0 {
		runAsNobody(t, "^"+t.Name()+"$", "--- PASS: "+t.Name())
		return false
	}
	return true
}

// Netns runs a shell script under isolation "netns".
func (c *Case) Netns(script string, flags ...string) Result {
	c.Helper()
	c.Rules.Write()
	args := append([]string{"run", "--rules", c.Rules.Path, "--profile", "granted", "--isolation", "netns", "--log", filepath.Join(c.Dir, "netns.log")}, flags...)
	r := c.Standin(append(args, "--", "sh", "-c", script)...)
	if strings.Contains(r.Err, `level "netns" is not to be had`) {
		c.Skipf("no namespaces for users here: %s", r.Err)
	}
	return r
}

// TestNetnsServesClientsThatKnowOfNoProxy: with variables and without, each is
// served as what it is.
func TestNetnsServesClientsThatKnowOfNoProxy(t *testing.T) {
	if !inARoom(t) {
		return
	}
	c := newCase(t, "netns-clients")
	blind := func(command string) string { return `env -i PATH="$PATH" T="$GITHUB_TOKEN" ` + command }
	for _, client := range []struct{ name, tool, script string }{
		{"curl", "curl", curlTo + "/curl"},
		{"blind-curl", "curl", blind(`sh -c 'curl -sS -o /dev/null -w "%{http_code}\n" -H "Authorization: Bearer $T" https://` + api + `/blind-curl'`)},
		{"java", "java", `java ` + c.javaSource() + ` https://` + api + `/java`},
		{"blind-java", "java", blind(`GITHUB_TOKEN="$GITHUB_TOKEN" java ` + c.javaSource() + ` https://` + api + `/blind-java`)},
		{"node", "node", `node -e 'fetch("https://` + api + `/node", {headers: {Authorization: "Bearer " + process.env.GITHUB_TOKEN}}).then(r => console.log(r.status))'`},
	} {
		if _, err := exec.LookPath(client.tool); err != nil {
			c.Logf("%s is not installed", client.tool)
			continue
		}
		before := len(c.U1.Received())
		r := c.Netns(client.script)
		c.Exit(r, 0)
		if r.Out != "200\n" {
			c.Fatalf("%s: %s", client.name, r.description)
		}
		all := c.U1.Requests(before + 1)
		c.Equal(all[before].Values("Authorization"), []string{"Bearer " + R})
		for _, record := range c.Recorded(1, Want{"type": "substitute", "path": "/" + client.name}) {
			p := process(record)
			if filepath.Base(fmt.Sprint(p["exe"])) != client.tool || p["start"] == float64(0) || p["uid"] != float64(os.Getuid()) || record["isolation"] != "netns" {
				c.Errorf("%s is recorded as %v", client.name, record)
			}
		}
	}
	c.checkAudit()
}
