//go:build linux

package cases

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestEnvBindsASessionToTheShell: by a gateway of its own, and by one that serves.
func TestEnvBindsASessionToTheShell(t *testing.T) {
	c := newCase(t, "env")
	c.Rules.Profile("tree: {secrets: [github]}")
	c.Rules.Write()
	odd := "it's $HOME `true` \"\\\n!"
	env := ground.program + " env --home " + c.Home + " --profile tree"
	run := func(shell, how, more string) Result {
		c.Helper()
		script := `eval "$(` + how + `)"; ` + curlTo + `/$STANDIN_SESSION; [ "$ODD" = "$WANT" ] && echo same; echo "aws=$AWS_SECRET_ACCESS_KEY"; echo $STANDIN_SESSION; ` + more
		cmd := exec.Command(shell, "-c", script)
		cmd.Env = append(plainEnvironment(c.Temp), "ODD="+odd, "WANT="+odd, "AWS_SECRET_ACCESS_KEY=something", "RULES="+c.Rules.Path)
		cmd.Dir = c.Dir
		cmd.Stdin = strings.NewReader("")
		return c.Finish(cmd)
	}
	var sessions []string
	good := func(r Result) {
		c.Helper()
		c.Exit(r, 0)
		lines := strings.Split(strings.TrimSpace(r.Out), "\n")
		if len(lines) < 4 || lines[0] != "200" || lines[1] != "same" || lines[2] != "aws=" {
			c.Errorf("%s", r.description)
			return
		}
		sessions = append(sessions, lines[3])
	}
	for _, shell := range []string{"sh", "bash", "zsh"} {
		if path, err := exec.LookPath(shell); err == nil {
			good(run(path, env+" --rules $RULES", ""))
		}
	}
	// A subshell that is forked for the call is not the shell.
	good(run("bash", "true; "+env+" --rules $RULES; true", ""))
	g := c.Serve()
	good(run("sh", env, ""))
	// It is a part of nothing else, and the shell is its root: a child is of it, a
	// stranger is not.
	good(run("sh", env, "sh -c '"+curlTo+"/child'; (setsid env -i "+ground.program+" session list --home "+c.Home+" >&2)"))
	c.ErrorAndHint(c.Standin("env", "--gateway", g.Socket, "--profile", "tree", "--isolation", "netns"), 1, "netns")
	for _, id := range sessions {
		c.Recorded(1, Want{"type": "substitute", "path": "/" + id, "session": id})
		c.Recorded(1, Want{"type": "close", "session": id, "reason": "its shell has ended"})
	}
	// As JSON.
	r := c.Standin("env", "--gateway", g.Socket, "--profile", "tree", "--json")
	var x struct {
		Session string
		Export  map[string]string
	}
	if err := json.Unmarshal([]byte(r.Out), &x); err != nil || x.Session == "" || x.Export["GITHUB_TOKEN"] != c.P || x.Export["STANDIN_SESSION"] != x.Session {
		c.Errorf("env --json: %v: %s", err, r.description)
	}
	c.U1.Requests(len(sessions) + 1)
	// Nothing is left of the gateways that were started for a shell.
	c.Eventually("their sockets are gone", func() bool {
		left, _ := filepath.Glob(filepath.Join(c.Home, "run", "*.sock"))
		return len(left) == 1
	})
	// A shell that is killed ends it as well.
	shell := exec.Command("sh", "-c", `eval "$(`+env+`)"; echo $STANDIN_SESSION; exec sleep 60`)
	shell.Env = plainEnvironment(c.Temp)
	out, err := shell.StdoutPipe()
	if err != nil {
		c.Fatal(err)
	}
	if err := shell.Start(); err != nil {
		c.Fatal(err)
	}
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		c.Fatal(err)
	}
	_ = shell.Process.Signal(os.Kill)
	_ = shell.Wait()
	time.Sleep(10 * time.Millisecond)
	c.Recorded(1, Want{"type": "close", "session": strings.TrimSpace(string(line[:n])), "reason": "its shell has ended"})
}

// TestEnvGatewayEndsInOrder: signals that follow the one that ends it do not stop
// it from closing the session and the log.
func TestEnvGatewayEndsInOrder(t *testing.T) {
	t.Parallel()
	c := newCase(t, "env-end")
	c.Rules.Profile("tree: {secrets: [github]}")
	c.Rules.Write()
	cmd := exec.Command("sh", "-c", `eval "$(`+ground.program+` env --home `+c.Home+` --profile tree --rules `+c.Rules.Path+`)"; `+curlTo+`/before
		gateway=$(cd /proc && grep -alsz -- '[-]-bound' $(grep -alsz -- '`+c.Home+`$' [0-9]*/cmdline)) && gateway=${gateway%/*} && while kill -HUP $gateway && kill -QUIT $gateway && kill -TERM $gateway; do :; done 2>/dev/null; echo ended`)
	cmd.Env, cmd.Dir, cmd.Stdin = plainEnvironment(c.Temp), c.Dir, strings.NewReader("")
	r := c.Finish(cmd)
	c.Exit(r, 0)
	if r.Out != "200\nended\n" {
		c.Errorf("%s", r.description)
	}
	c.Equal(c.U1.Requests(1)[0].Target, "/before")
	c.Recorded(1, Want{"type": "close"})
	if r, _ = c.verify(); !strings.Contains(r.Out, `"sealed": true`) {
		c.Errorf("the log is not sealed: %s", r.description)
	}
	c.leftBehind()
}
