//go:build linux

package cases

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The life of a gateway: whenever a signal comes, and wherever its output goes,
// what is open is ended in order, and nothing is lost or left in clear.

func TestLife(t *testing.T) {
	for name, run := range map[string]func(*Case){
		"a signal while a source is read":           lifeSignalledSource,
		"signals before the command starts":         lifeSignalledStart,
		"receipts that take the place of something": lifeReceipts,
		"delivered files end with the grants":       lifeDeliveredFiles,
		"exports that nobody takes":                 lifeExports,
		"a recovery key that nobody sees":           lifeRecoveryKey,
		"files without an end":                      lifeEndlessFiles,
		"an empty token file":                       lifeEmptyToken,
		"a gateway that is told to end twice":       lifeToldTwice,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCase(t, "life")
			run(c)
			c.NoGateway()
			c.said(c.launch(nil)("sh", "-c", "echo $GITHUB_TOKEN"), c.P) // it is as it was
			c.leftBehind()
			c.checkAudit()
		})
	}
}

// delivers has a secret that the command gets as a file, and a profile for it.
func (c *Case) delivers() {
	c.Helper()
	const value = "file-pass-0123456789abcdef"
	c.Exit(c.StandinInput(value+"\n", nil, "vault", "set", "file/token"), 0)
	c.Rules.entries = append(c.Rules.entries, `file: {source: "vault:file/token", deliver: file, env: [FILED]}`)
	c.Rules.Profile("handed: {secrets: [github, file]}")
	c.Values = append(c.Values, value)
	c.Rules.Write()
}

// handedOut are the delivered files of the home, and what belongs to them.
func (c *Case) handedOut() (found []string) {
	for _, pattern := range []string{"*.delivered", "*.owner", "*.sock"} {
		list, _ := filepath.Glob(filepath.Join(c.Home, "run", pattern))
		found = append(found, list...)
	}
	return found
}

func lifeSignalledSource(c *Case) {
	c.U1.Undialled()
	note := filepath.Join(c.Dir, "source.pid")
	c.Rules.entries = append(c.Rules.entries, `slow: {source: "exec:slow", env: [SLOW]}`)
	c.Rules.Top(fmt.Sprintf("sources: {\"exec:slow\": {command: [/bin/sh, -c, %q], timeout: 50s}}", "echo $$ > "+note+"; kill -$(cat "+note+".signal) $PPID; exec sleep 60"))
	c.Rules.Profile("slow: {secrets: [slow]}")
	c.Rules.Write()
	for name, number := range map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "QUIT": syscall.SIGQUIT} {
		c.put(note+".signal", []byte(name))
		began := time.Now()
		r := c.Standin("run", "--rules", c.Rules.Path, "--profile", "slow", "--", "echo", "ran")
		c.Exit(r, 128+int(number))
		if r.Out != "" || r.Err != "" || time.Since(began) > 30*time.Second {
			c.Errorf("SIG%s: %s", name, r.description)
		}
		text, err := os.ReadFile(note)
		if err != nil {
			c.Fatal(err)
		}
		source := strings.TrimSpace(string(text))
		c.Eventually("the source ends with the gateway", func() bool {
			_, err := os.Stat("/proc/" + source)
			return err != nil
		})
	}
}

func lifeSignalledStart(c *Case) {
	c.U1.Undialled()
	c.delivers()
	early := 0
	for range 16 {
		cmd := c.Command(nil, "run", "--rules", c.Rules.Path, "--profile", "handed", "--", "true")
		if err := cmd.Start(); err != nil {
			c.Fatal(err)
		}
		time.Sleep(20*time.Millisecond + rand.N(150*time.Millisecond))
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		state := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !state.Signaled() && state.ExitStatus() != 0 && state.ExitStatus() != 128+15 { // before the session nothing is open yet
			c.Errorf("run ends with %#x", state)
		}
		if state.ExitStatus() == 128+15 {
			early++
		}
		if left := c.handedOut(); len(left) > 0 {
			c.Fatalf("a signal leaves %q", left)
		}
	}
	c.Logf("%d of 16 signals ended a session that was open", early)
}

func lifeReceipts(c *Case) {
	c.U1.Undialled()
	pipe, link, target := filepath.Join(c.Dir, "pipe"), filepath.Join(c.Dir, "link"), filepath.Join(c.Dir, "target.json")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		c.Fatal(err)
	}
	c.put(target, []byte("old"))
	for path, to := range map[string]string{link: target, link + "less": filepath.Join(c.Dir, "nothing")} {
		if err := os.Symlink(to, path); err != nil {
			c.Fatal(err)
		}
	}
	ran := filepath.Join(c.Dir, "ran")
	for _, path := range []string{pipe, link + "less", "/proc/receipt", c.Dir, filepath.Join(c.Dir, "none", "receipt")} {
		c.ErrorAndHint(c.launch(nil, "--receipt", path)("touch", ran), 125, "write receipt")
	}
	if _, err := os.Stat(ran); err == nil {
		c.Error("the command ran although its receipt could not be written")
	}
	c.Exit(c.launch(nil, "--receipt", link)("sh", "-c", "exit 3"), 3)
	for path, kind := range map[string]os.FileMode{pipe: os.ModeNamedPipe, link: os.ModeSymlink, target: 0} {
		if info, err := os.Lstat(path); err != nil || info.Mode().Type() != kind {
			c.Errorf("%s is no longer what it was: %v", path, err)
		}
	}
	r, _ := c.verify("--receipt", target)
	c.Exit(r, 0)
}

func lifeDeliveredFiles(c *Case) {
	c.U1.Undialled()
	c.delivers()
	run := func(script string, flags ...string) Result {
		return c.Finish(c.Command(nil, append(append([]string{"run", "--rules", c.Rules.Path, "--profile", "handed"}, flags...), "--", "sh", "-c", script)...))
	}
	r := run(`wc -c < "$FILED"; while [ -e "$FILED" ]; do sleep 0.05; done; echo gone`, "--ttl", "1s")
	c.said(r, "26\ngone")
	r = run(`wc -c < "$FILED"; ` + ground.program + ` session revoke --home ` + c.Home + ` $STANDIN_SESSION >&2; while [ -e "$FILED" ]; do sleep 0.05; done; echo gone`)
	c.said(r, "26\ngone")
}

func lifeExports(c *Case) {
	c.U1.Undialled()
	c.delivers()
	env := ground.program + " env --home " + c.Home + " --profile handed"
	// While the shell lives, nothing of the session does.
	script := `for out in /dev/full pipe; do
			case $out in pipe) $ENV | true ;; *) $ENV > $out ;; esac
			for i in $(seq 200); do ls ` + c.Home + `/run | grep -q 's[a-z0-9]*[.]' || break; sleep 0.05; done
			ls ` + c.Home + `/run | grep 's[a-z0-9]*[.]'
		done; echo end`
	for _, how := range []string{env + " --rules " + c.Rules.Path, ""} {
		if how == "" {
			g := c.Serve()
			defer g.End()
			how = env
			script = `$ENV > /dev/full; ` + ground.program + ` session list --json --home ` + c.Home + ` | grep -c '"live"'; echo end`
		}
		cmd := exec.Command("sh", "-c", script)
		cmd.Env, cmd.Dir, cmd.Stdin = append(plainEnvironment(c.Temp), "ENV="+how), c.Dir, strings.NewReader("")
		r := c.Finish(cmd)
		c.said(r, strings.TrimSpace(strings.Repeat("0\n", strings.Count(script, "-c"))+"end"))
		if !strings.Contains(r.Err, "standin: error: ") {
			c.Errorf("nothing is said: %s", r.description)
		}
	}
}

func lifeRecoveryKey(c *Case) {
	c.U1.Undialled()
	c.Rules.Write()
	home := filepath.Join(c.Dir, "new")
	for _, to := range []string{">&-", "> /dev/null", "> /dev/full", "| true"} {
		for _, what := range []string{"vault init", "init github"} {
			cmd := exec.Command("sh", "-c", ground.program+" "+what+" --home "+home+" --identity-file "+home+".id "+to)
			cmd.Env, cmd.Dir, cmd.Stdin = plainEnvironment(c.Temp), c.Dir, strings.NewReader("")
			r := c.Finish(cmd)
			if to == ">&-" || to == "> /dev/null" { // it is shown where it may be seen
				c.Exit(r, 0)
				if !strings.Contains(r.Err, "AGE-SECRET-KEY-") {
					c.Errorf("%s %s: nobody has seen the key: %s", what, to, r.description)
				}
				if err := os.RemoveAll(home); err != nil {
					c.Fatal(err)
				}
				continue
			}
			if to != "| true" {
				c.Exit(r, 1)
			}
			if !strings.Contains(r.Err, "recovery key") || !strings.Contains(r.Err, "--recovery-key-out") {
				c.Errorf("%s %s: %s", what, to, r.description)
			}
			if _, err := os.Stat(filepath.Join(home, "vault.age")); err == nil {
				c.Fatalf("%s %s leaves a vault whose recovery key nobody has", what, to)
			}
		}
	}
}

func lifeEndlessFiles(c *Case) {
	c.U1.Undialled()
	for _, flag := range []string{"--env-file", "--upstream-ca"} {
		c.ErrorAndHint(c.launch(nil, flag, "/dev/zero")("true"), 125, flag, "longer than")
	}
}

func lifeEmptyToken(c *Case) {
	c.U1.Undialled()
	g := c.Serve()
	defer g.End()
	token := filepath.Join(c.Dir, "token")
	for _, text := range []string{"", "\n"} {
		c.put(token, []byte(text))
		r := c.Standin("run", "--gateway", g.Socket, "--token-file", token, "--profile", "granted", "--", "echo", "ran")
		c.ErrorAndHint(r, 125, "token", "standin session token")
	}
}

func lifeToldTwice(c *Case) {
	g := c.Serve("--grace", "10m")
	release := make(chan struct{})
	defer close(release)
	c.U1.Handle(func(http.ResponseWriter, *http.Request) { <-release })
	s := g.Session(Start{Name: "told"})
	s.Tunnel(api).Send(get("/one", api, bearer(c.P)))
	c.Equal(len(c.U1.Requests(1)), 1)
	g.Signal(syscall.SIGTERM)
	c.Eventually("it lets nobody in", func() bool {
		return c.Standin("run", "--gateway", g.Socket, "--profile", "granted", "--", "true").Code == 125
	})
	g.gone = true
	g.Signal(syscall.SIGQUIT)
	c.Equal(g.wait(), 0)
	if errs := g.errs.String(); strings.Contains(errs, "goroutine") {
		c.Errorf("it ends with a trace: %s", errs)
	}
	s.End()
	c.Recorded(1, Want{"type": "close"})
}
