//go:build linux

package cases

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/url"
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

// Isolation by process tree.

// programVariable names the program to test, where it is built already.
const programVariable = "STANDIN_CASE_PROGRAM"

const nobody = 65534

// asNobody runs a case as an unprivileged user, since root hides what a user
// cannot do: this test binary is started once more for that case alone.
func asNobody(run func(*Case)) func(*Case) {
	return func(c *Case) {
		if os.Getuid() != 0 {
			run(c)
			return
		}
		c.NoGateway()
		runAsNobody(c.T, "^TestCases$/^"+c.ID+"$", "--- PASS: TestCases/"+c.ID)
		c.U1.Undialled() // out here nobody asked
	}
}

// runAsNobody runs tests of this binary as an unprivileged user.
func runAsNobody(t *testing.T, which, proof string) {
	t.Helper()
	if err := ground.setup(); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sn")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	copies := map[string]string{"/proc/self/exe": filepath.Join(dir, "cases.test"), ground.program: filepath.Join(dir, "standin")}
	for from, to := range copies {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(copies["/proc/self/exe"], "-test.run", which, "-test.v", "-test.timeout", "90s")
	cmd.Env = append(plainEnvironment(dir), programVariable+"="+copies[ground.program])
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), strings.Replace(proof, "PASS", "SKIP", 1)) {
		t.Skipf("as an unprivileged user: %s", out)
	}
	if err != nil || !strings.Contains(string(out), proof) {
		t.Errorf("as an unprivileged user: %v\n%s", err, out)
	}
}

// Tree runs a shell script under isolation "tree", as what its clients are.
func (c *Case) Tree(script string, flags ...string) Result {
	c.Helper()
	c.Rules.Write()
	args := append([]string{"run", "--rules", c.Rules.Path, "--profile", "granted", "--isolation", "tree", "--log", filepath.Join(c.Dir, "tree.log")}, flags...)
	return c.Standin(append(args, "--", "sh", "-c", script)...)
}

// startTree starts a session under isolation "tree" that lives on.
func (c *Case) startTree(change func(*exec.Cmd)) *Session {
	c.Helper()
	return c.Start(Start{Name: "tree", Flags: []string{"--isolation", "tree"}, Change: change})
}

// process is the process of a record.
func process(record map[string]any) map[string]any {
	p, _ := record["process"].(map[string]any)
	return p
}

// curlTo is a shell command that asks api by curl, with the placeholder.
const curlTo = `curl -sS -o /dev/null -w '%{http_code}\n' -H "Authorization: Bearer $GITHUB_TOKEN" https://` + api

func TestTreeServesClientsOfAllKinds(t *testing.T) {
	if os.Getuid() == 0 {
		runAsNobody(t, "^TestTreeServesClientsOfAllKinds$", "--- PASS: TestTreeServesClientsOfAllKinds")
	}
	c := newCase(t, "tree-clients")
	for name, script := range map[string]string{
		"curl": curlTo + "/curl",
		"node": `node -e 'fetch("https://` + api + `/node", {headers: {Authorization: "Bearer " + process.env.GITHUB_TOKEN}}).then(r => console.log(r.status))'`,
		"java": `java ` + c.javaSource() + ` https://` + api + `/java`,
	} {
		if _, err := exec.LookPath(name); err != nil {
			c.Logf("%s is not installed", name)
			continue
		}
		before := len(c.U1.Received())
		r := c.Tree(script + `; echo $HTTPS_PROXY`)
		c.Exit(r, 0)
		if !strings.HasPrefix(r.Out, "200\nhttp://127.0.0.1:") {
			c.Errorf("%s: %s", name, r.description)
		}
		all := c.U1.Requests(before + 1)
		c.Equal(all[before].Values("Authorization"), []string{"Bearer " + R})
		for _, record := range c.Recorded(1, Want{"type": "substitute", "path": "/" + name}) {
			p := process(record)
			if filepath.Base(fmt.Sprint(p["exe"])) != name || fmt.Sprint(p["depth"]) != "1" || p["start"] == float64(0) || p["uid"] != float64(os.Getuid()) {
				c.Errorf("%s is recorded as %v", name, p)
			}
		}
	}
	c.checkAudit()
}

// javaSource is a program that asks by HttpURLConnection, which takes no
// credentials from the URL of a proxy.
func (c *Case) javaSource() string {
	c.Helper()
	path := filepath.Join(c.Dir, "Get.java")
	err := os.WriteFile(path, []byte(`public class Get {
  public static void main(String[] args) throws Exception {
    var c = (java.net.HttpURLConnection) java.net.URI.create(args[0]).toURL().openConnection();
    c.setRequestProperty("Authorization", "Bearer " + System.getenv("GITHUB_TOKEN"));
    System.out.println(c.getResponseCode());
  }
}`), 0o644)
	if err != nil {
		c.Fatal(err)
	}
	return path
}

func TestTreeRefusesAStrangerAndNamesIt(t *testing.T) {
	c := newCase(t, "tree-stranger")
	s := c.startTree(nil)
	if s.Proxy.User != nil {
		c.Errorf("the proxy's URL carries credentials: %s", s.Env["HTTPS_PROXY"])
	}
	_, r := s.Connect(api + ":443")
	c.Refused(r, 403, "not_in_tree")
	exe, err := os.Executable()
	if hint := r.Refusal().Hint; err != nil || !strings.Contains(hint, fmt.Sprintf("process %d (%s)", os.Getpid(), exe)) || !strings.Contains(hint, "standin run") {
		c.Errorf("the stranger is told %q", hint)
	}
	c.Refused(s.plain("GET", "http://"+api+"/", api), 403, "not_in_tree")
	c.U1.Undialled()
	for _, record := range c.Recorded(2, Want{"type": "deny", "code": "not_in_tree"}) {
		p := process(record)
		if p["pid"] != float64(os.Getpid()) || filepath.Base(fmt.Sprint(p["exe"])) != filepath.Base(os.Args[0]) || record["session"] == "" {
			c.Errorf("the stranger is recorded as %v", record)
		}
	}
	log, err := os.ReadFile(s.Log)
	for _, want := range []string{fmt.Sprintf("process %d (", os.Getpid()), "does not descend from the command", "hint: ", `"level":"tree"`, `"selftest":"passed"`} {
		if err != nil || !strings.Contains(string(log), want) {
			c.Errorf("the log does not say %q: %v\n%s", want, err, log)
		}
	}
	if n := strings.Count(string(log), `"cause"`); n != 2 {
		c.Errorf("%d causes are in the log, not 2", n)
	}
}

// TestTreeUnderAFloodOfStrangers: 1000 connections of strangers as fast as they
// come, while processes of the tree, each a new one, go on.
func TestTreeUnderAFloodOfStrangers(t *testing.T) {
	c := newCase(t, "tree-flood")
	s := c.startTree(func(cmd *exec.Cmd) {
		// What the command says of itself comes first.
		line := `"$0" "$@" | { IFS= read -r report; printf '%s\n' "$report"; for i in $(seq 40); do ` + curlTo + `/$i; done; cat; }`
		i := slices.Index(cmd.Args, "--")
		cmd.Args = slices.Insert(cmd.Args, i+1, "sh", "-c", line)
	})
	var strangers sync.WaitGroup
	work := make(chan int)
	refused := make([]bool, 1000)
	for range 50 {
		strangers.Go(func() {
			for i := range work {
				refused[i] = status(s.Proxy.Host) == "403"
			}
		})
	}
	for i := range refused {
		work <- i
	}
	close(work)
	strangers.Wait()
	if slices.Contains(refused, false) {
		c.Error("a stranger was not refused")
	}
	c.Eventually("all of the tree are served", func() bool { return strings.Count(string(s.out.Bytes()), "200\n") == 40 })
	c.U1.Requests(40)
	if info, err := os.Stat(s.Log); err != nil || info.Size() > 1<<20 {
		c.Errorf("the log after a thousand strangers: %v, %v", info.Size(), err)
	}
}

// status asks a proxy for a tunnel, without credentials, and returns the status.
func status(proxy string) string {
	conn, err := net.DialTimeout("tcp", proxy, patience)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", api, api)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if f := strings.Fields(line); err == nil && len(f) > 1 {
		return f[1]
	}
	return fmt.Sprint(line, err)
}

// TestTreeTakesManyConnectionsOfOneProcess: 200 connections in a second, at
// most, are all placed.
func TestTreeTakesManyConnectionsOfOneProcess(t *testing.T) {
	c := newCase(t, "tree-many")
	began := time.Now()
	r := c.Tree(`curl -sS --parallel --parallel-immediate --parallel-max 50 --http1.1 -H "Connection: close" -H "Authorization: Bearer $GITHUB_TOKEN" "https://` + api + `/[1-200]" -o /dev/null`)
	c.Exit(r, 0)
	for _, q := range c.U1.Requests(200) {
		c.Equal(q.Values("Authorization"), []string{"Bearer " + R})
	}
	c.Logf("200 connections took %v", time.Since(began))
}

func TestTreeOfTheCommandAlone(t *testing.T) {
	c := newCase(t, "tree-alone")
	c.Rules.Profile("alone: {secrets: [github], extends: command}")
	c.Rules.Write()
	run := func(script string, flags ...string) Result {
		args := append([]string{"run", "--rules", c.Rules.Path, "--profile", "alone", "--log", filepath.Join(c.Dir, "alone.log")}, flags...)
		return c.Standin(append(args, "--", "sh", "-c", script)...)
	}
	c.Equal(run("exec "+curlTo+"/own").Out, "200\n")
	if r := run(curlTo + "/child; true"); !strings.Contains(r.Err, "403") {
		c.Errorf("a child is served: %s", r.description)
	}
	c.Equal(c.U1.Requests(1)[0].Target, "/own")
	c.Recorded(1, Want{"type": "deny", "code": "not_in_tree"})
	c.ErrorAndHint(run("true", "--isolation", "session"), 125, "for the command alone")
}

func TestLevelsThatCannotBeHad(t *testing.T) {
	c := newCase(t, "levels")
	c.NoGateway()
	c.U1.Undialled()
	c.Rules.Profile("default: {secrets: [github]}")
	c.Rules.Profile("surely: {secrets: [github], isolation: tree}")
	c.Rules.Write()
	run := func(flags ...string) Result {
		return c.Standin(append(append([]string{"run", "--rules", c.Rules.Path}, flags...), "--", "sh", "-c", "echo $HTTPS_PROXY")...)
	}
	if r := run(); !strings.HasPrefix(r.Out, "http://127.0.0.1:") {
		c.Errorf("the best level is not tree: %s", r.description)
	}
	if r := run("--profile", "surely"); !strings.HasPrefix(r.Out, "http://127.0.0.1:") {
		c.Errorf("the profile's level is not tree: %s", r.description)
	}
	if r := run("--isolation", "session"); !strings.HasPrefix(r.Out, "http://s") {
		c.Errorf("the level is not session: %s", r.description)
	}
	if r := run("--profile", "surely", "--isolation", "session"); r.Code != 2 || !strings.Contains(r.Err, "asks for tree") {
		c.Errorf("a flag weakens the profile: %s", r.description)
	}
	// Without /proc nobody can be found: a named level ends the run, the default gives way.
	if os.Getuid() != 0 {
		return
	}
	hidden := func(flags ...string) Result {
		args := append([]string{"run", "--home", c.Home, "--rules", c.Rules.Path}, flags...)
		cmd := exec.Command("unshare", append([]string{"--mount", "--pid", "--fork", ground.program}, append(args, "--", "sh", "-c", "echo $HTTPS_PROXY")...)...)
		cmd.Env, cmd.Dir = plainEnvironment(c.Temp), c.Dir
		return c.Finish(cmd)
	}
	c.ErrorAndHint(hidden("--isolation", "tree"), 125, `level "tree" is not to be had`, "/proc")
	if r := hidden(); !strings.HasPrefix(r.Out, "http://s") {
		c.Errorf("the default does not give way: %s", r.description)
	}
}

// orphansOfTheCommand: a daemon is of the tree while the command lives, and
// never after. In a room it then has no network.
func orphansOfTheCommand(c *Case) {
	c.orphan("tree", func(script string) Result { return c.Tree(script) })
	record := c.Recorded(1, Want{"type": "substitute"})[0]
	if p := process(record); filepath.Base(fmt.Sprint(p["exe"])) != "curl" || p["depth"] != float64(2) {
		c.Errorf("the daemon's client is recorded as %v", p)
	}
	q := c.U1.Requests(1)[0]
	c.Equal([]string{q.Target, q.Value("Authorization")}, []string{"/during", "Bearer " + R})
	if _, had := c.netns(nil, "true"); had {
		after := c.orphan("netns", func(script string) Result { r, _ := c.netns(nil, "sh", "-c", script); return r })
		if !strings.Contains(after, "curl: (7)") && !strings.Contains(after, "curl: (6)") {
			c.Errorf("the daemon has a network: %q", after)
		}
		q := c.U1.Requests(2)[1]
		c.Equal([]string{q.Target, q.Value("Authorization")}, []string{"/during", "Bearer " + R})
	}
}

// orphan leaves a daemon behind, and returns what became of its client after
// the command.
func (c *Case) orphan(level string, run func(string) Result) string {
	c.Helper()
	go_, during, after := filepath.Join(c.Dir, level+"-go"), filepath.Join(c.Dir, level+"-during"), filepath.Join(c.Dir, level+"-after")
	if err := syscall.Mkfifo(go_, 0o600); err != nil {
		c.Fatal(err)
	}
	daemon := filepath.Join(c.Dir, level+"-daemon")
	text := curlTo + "/during > " + during + ".new 2>&1; mv " + during + ".new " + during + "; read x < " + go_ + "; " + curlTo + "/after > " + after + ".new 2>&1; mv " + after + ".new " + after + "\n"
	if err := os.WriteFile(daemon, []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
	r := run("(setsid sh " + daemon + " < /dev/null > /dev/null 2>&1 &); while ! test -e " + during + "; do sleep 0.02; done")
	c.Exit(r, 0)
	if text, err := os.ReadFile(during); err != nil || string(text) != "200\n" {
		c.Errorf("the daemon was answered %q while the command lived: %v", text, err)
	}
	if err := os.WriteFile(go_, []byte("go\n"), 0); err != nil {
		c.Fatal(err)
	}
	c.Eventually("the daemon tries again", func() bool { _, err := os.Stat(after); return err == nil })
	answer, err := os.ReadFile(after)
	if err != nil || strings.Contains(string(answer), "200") {
		c.Errorf("the daemon was answered %q after the command: %v", answer, err)
	}
	return string(answer)
}

// anotherUser has stolen what it takes: the credential, or the address.
func anotherUser(c *Case) {
	if os.Getuid() != 0 {
		c.Skip("only root can be two users")
	}
	ask := func(uid int, proxy string) string {
		cmd := exec.Command("curl", "-sS", "-o", "/dev/null", "-w", "%{http_connect}", "-x", proxy, "--insecure", "https://"+api+"/")
		cmd.Env, cmd.Dir = []string{"PATH=" + os.Getenv("PATH")}, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		out, _ := cmd.Output() // it fails where it is refused
		return string(out)
	}
	s := c.S1()
	c.Equal(ask(0, s.Proxy.String()), "200") // under "session" the credential is the proof
	c.Equal(ask(nobody, s.Proxy.String()), "403")
	t := c.startTree(nil)
	c.Equal(ask(nobody, t.Proxy.String()), "403")
	for _, record := range c.Recorded(2, Want{"type": "deny", "code": "not_in_tree"}) {
		if p := process(record); p["uid"] != float64(nobody) || filepath.Base(fmt.Sprint(p["exe"])) != "curl" {
			c.Errorf("the other user is recorded as %v", p)
		}
	}
	c.Equal(c.U1.Requests(1)[0].Target, "/")
}

// relay passes connections on to a proxy, byte by byte, and returns where.
func relay(proxy string) string {
	u, err := url.Parse(proxy)
	if err != nil {
		return err.Error()
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err.Error()
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				up, err := net.Dial("tcp", u.Host)
				if err != nil {
					return
				}
				defer up.Close()
				go func() {
					_, _ = io.Copy(up, conn)
					up.Close()
				}()
				_, _ = io.Copy(conn, up)
			}()
		}
	}()
	return listener.Addr().String()
}

// relays: who connects is who is judged. A relay in the tree lends what the
// tree has; one outside has nothing to lend.
func relays(c *Case) {
	for _, level := range []string{"session", "tree"} {
		s := c.Start(Start{Name: level, Flags: []string{"--isolation", level}, Change: func(cmd *exec.Cmd) { cmd.Args = append(cmd.Args, relayRole) }})
		through := &Session{c: c, Name: level + " through the relay", Roots: s.Roots, Log: s.Log,
			Proxy: &url.URL{Scheme: "http", Host: s.Relay, User: s.Proxy.User}}
		c.Status(through.Do(api, get("/granted", api, bearer(c.P))), 200)
		d := through.Dialled(evil + ":443")
		t, err := through.TLS(d, &tls.Config{ServerName: evil})
		if err != nil {
			c.Fatal(err)
		}
		t.Send(get("/", evil, bearer(c.P)))
		c.Refused(t.Response("GET"), 403, "placeholder_misplaced")
		// This process is no part of the tree, and has what is left of the credential.
		_, r := s.Connect(api + ":443")
		if level == "tree" {
			c.Refused(r, 403, "not_in_tree")
		} else {
			c.Equal(r.Status, 200)
		}
	}
	c.U2.Nothing()
	for _, q := range c.U1.Requests(2) {
		c.Equal(q.Values("Authorization"), []string{"Bearer " + R})
	}
	for _, record := range c.Recorded(1, Want{"type": "substitute", "isolation": "tree"}) {
		if p := process(record); p["pid"] != float64(c.sessions["tree"].Command) || p["depth"] != float64(0) {
			c.Errorf("what the relay passed on is recorded as %v", p)
		}
	}
}
