//go:build linux

package cases

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheContainerOfTheExamples runs the script of the example as it stands.
func TestTheContainerOfTheExamples(t *testing.T) {
	for _, tool := range []string{"unshare", "ip", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	if out, err := exec.Command("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true").CombinedOutput(); err != nil {
		t.Skipf("no namespaces here: %s", out)
	}
	c := newCase(t, "container")
	c.Rules.Profile("container: {secrets: [github], isolation: session}")
	g := c.Serve()
	bin := filepath.Join(c.Dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		c.Fatal(err)
	}
	if err := os.Symlink(ground.program, filepath.Join(bin, "standin")); err != nil {
		c.Fatal(err)
	}
	script, err := filepath.Abs("../../../examples/container/run.sh")
	if err != nil {
		c.Fatal(err)
	}
	cmd := exec.Command("sh", script, g.Socket, curlTo+"/contained; ls /proc | grep -c '^[0-9]*$'")
	cmd.Env = append(plainEnvironment(c.Temp), "STANDIN_HOME="+c.Home)
	for i, entry := range cmd.Env {
		if path, ok := strings.CutPrefix(entry, "PATH="); ok {
			cmd.Env[i] = "PATH=" + bin + ":" + path
		}
	}
	r := c.Finish(cmd)
	c.Exit(r, 0)
	if !strings.HasPrefix(r.Out, "200\n") {
		c.Errorf("%s", r.description)
	}
	c.Equal(c.U1.Requests(1)[0].Values("Authorization"), []string{"Bearer " + R})
	c.Recorded(1, Want{"type": "substitute", "path": "/contained", "isolation": "session"})
}
