//go:build linux

package cases

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Isolation by namespaces. All of it runs as an unprivileged user.

// TestNetnsServesClientsThatKnowOfNoProxy: with variables and without, each is
// served as what it is.
func TestNetnsServesClientsThatKnowOfNoProxy(t *testing.T) {
	if !inARoom(t) {
		return
	}
	c := newCase(t, "netns-clients")
	blind := func(command string) string { return `env -i PATH="$PATH" T="$GITHUB_TOKEN" ` + command }
	// Java takes long to begin.
	c.served([]blindClient{{"java", "java", `java ` + c.javaSource() + ` https://` + api + `/java`}})
	c.served([]blindClient{{"blind-java", "java", blind(`GITHUB_TOKEN="$GITHUB_TOKEN" java ` + c.javaSource() + ` https://` + api + `/blind-java`)}})
	c.served([]blindClient{
		{"curl", "curl", curlTo + "/curl"},
		{"blind-curl", "curl", blind(`sh -c 'curl -sS -o /dev/null -w "%{http_code}\n" -H "Authorization: Bearer $T" https://` + api + `/blind-curl'`)},
		{"blind-python", "python3", blind(`/usr/bin/python3 -c 'import os, urllib.request as u; print(u.urlopen(u.Request("https://` + api + `/blind-python", headers={"Authorization": "Bearer " + os.environ["T"]})).status)'`)},
		{"blind-wget", "wget", blind(`sh -c 'wget -q --header="Authorization: Bearer $T" -O /dev/null https://` + api + `/blind-wget && echo 200'`)},
		{"node", "node", `node -e 'fetch("https://` + api + `/node", {headers: {Authorization: "Bearer " + process.env.GITHUB_TOKEN}}).then(r => console.log(r.status))'`},
	})
	c.checkAudit()
}

// blindClient is a program that asks api for /name, and prints the status.
type blindClient struct{ name, tool, script string }

// served asserts that clients in one room are served with the value, each
// recorded as what it is.
func (c *Case) served(clients []blindClient) {
	c.Helper()
	script, before := "", len(c.U1.Received())
	clients = slices.DeleteFunc(clients, func(client blindClient) bool {
		_, err := exec.LookPath(client.tool)
		if err != nil {
			c.Logf("%s is not installed", client.tool)
		}
		return err != nil
	})
	for _, client := range clients {
		script += client.script + "; "
	}
	r := c.Netns(script)
	c.Exit(r, 0)
	if r.Out != strings.Repeat("200\n", len(clients)) {
		c.Fatal(r.description)
	}
	for i, q := range c.U1.Requests(before + len(clients))[before:] {
		client := clients[i]
		c.Equal([]string{q.Target, q.Value("Authorization")}, []string{"/" + client.name, "Bearer " + R})
		for _, record := range c.Recorded(1, Want{"type": "substitute", "path": "/" + client.name}) {
			p := process(record)
			if !strings.HasPrefix(filepath.Base(fmt.Sprint(p["exe"])), client.tool) || p["start"] == float64(0) || p["uid"] != float64(os.Getuid()) || record["isolation"] != "netns" {
				c.Errorf("%s is recorded as %v", client.name, record)
			}
		}
	}
}

// nothingLeadsOut: what the self-test tries is tried by the command itself, too.
func nothingLeadsOut(c *Case) {
	c.U1.Undialled()
	c.NoGateway()
	host := c.U1.Addr() // on the host's loopback
	_, port, _ := net.SplitHostPort(host)
	agent, abstract := filepath.Join(c.Temp, "agent.sock"), "@standin-case-"+filepath.Base(c.Dir)
	for _, name := range []string{agent, abstract} {
		l, err := net.Listen("unix", name)
		if err != nil {
			c.Fatal(err)
		}
		defer l.Close()
	}
	outside := c.Start(Start{Name: "outside"}) // another gateway, and its control socket
	attempts := []struct{ what, want string }{
		{"dial tcp " + host, "error: dial tcp " + host + ": connect: connection refused"},
		{"dial tcp [::1]:" + port, "error: dial tcp"},
		{"dial tcp 203.0.113.9:22", "error: dial tcp 203.0.113.9:22: connect: connection refused"},
		{"dial tcp [2001:db8::1]:25", "error: dial tcp [2001:db8::1]:25: connect: connection refused"},
		{"dial udp " + host, "error: write udp"},
		{"dial udp 203.0.113.9:443", "error: write udp"},
		{"socket 2 1 262 " + host, "error: "}, // MPTCP
		{"fastopen " + host, "error: "},
		{"socket 2 3 255", "error: operation not permitted"},       // raw
		{"socket 17 3 768", "error: operation not permitted"},      // packet
		{"socket 40 1 0", "error: address family not supported"},   // vsock
		{"dial unix " + outside.Env["STANDIN_CONTROL"], "error: "}, // control socket
		{"dial unix " + agent, "error: "},
		{"keys", "error: function not implemented"},
		{"dial unix " + abstract, "error: dial unix " + abstract + ": connect: connection refused"},
		{"read " + filepath.Join(c.Home, "vault.age"), "error: open"},
		{"read " + ground.identity, "error: open"},
		{"read /proc/" + fmt.Sprint(outside.Gateway) + "/status", "error: open"},
		{"kill " + fmt.Sprint(outside.Gateway), "error: no such process"},
	}
	var texts []string
	for _, a := range attempts {
		texts = append(texts, a.what)
	}
	r, had := c.netns(nil, append([]string{os.Args[0], roomRole}, texts...)...)
	if !had {
		return // and the run has ended with 125
	}
	answers := strings.Split(strings.TrimSpace(r.Out), "\n")
	if len(answers) != len(attempts) {
		c.Fatal(r.description)
	}
	for i, a := range attempts {
		c.Answered(a.what, answers[i], a.want)
	}
	status := c.Netns("cat /proc/self/status; ls -A " + c.Home)
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if !strings.Contains(status.Out, set+":\t0000000000000000\n") {
			c.Errorf("the command has capabilities: %s", status.description)
		}
	}
	if !strings.Contains(status.Out, "NoNewPrivs:\t1\n") || strings.Contains(status.Out, "vault.age") {
		c.Errorf("the command's status and home: %s", status.description)
	}
	for _, record := range c.Recorded(2, Want{"type": "isolation"}) {
		reason := fmt.Sprint(record["reason"])
		for _, test := range []string{"direct TCP", "UDP", "MPTCP", "TCP fast open", "path sockets", "ptrace of the gateway", "state directory", "capabilities"} {
			if !strings.Contains(reason, test) {
				c.Errorf("%s is not on record: %s", test, reason)
			}
		}
	}
}

// TestNetnsThatCannotBeHad: a named level ends the run, which says what is
// missing and what to type.
func TestNetnsThatCannotBeHad(t *testing.T) {
	if !inARoom(t) {
		return
	}
	c := newCase(t, "netns-lacking")
	c.NoGateway()
	c.U1.Undialled()
	c.Rules.Profile("default: {secrets: [github]}")
	c.Rules.Profile("closed: {secrets: [github], isolation: netns}")
	c.Rules.Write()
	run := func(before []string, flags ...string) Result {
		args := append(append(before, ground.program, "run", "--home", c.Home, "--rules", c.Rules.Path), flags...)
		cmd := exec.Command(args[0], append(args[1:], "--", "true")...)
		cmd.Env, cmd.Dir = plainEnvironment(c.Temp), c.Dir
		return c.Finish(cmd)
	}
	if r := run([]string{"unshare", "-Ur", "true"}); r.Code != 0 {
		c.Skip("no namespaces for users here")
	}
	none := []string{"unshare", "-Ur", "sh", "-c", `echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" "$@"`}
	c.ErrorAndHint(run(none, "--isolation", "netns"), 125, `level "netns" is not to be had`, "user.max_user_namespaces is 0", "sysctl")
	c.ErrorAndHint(run(none, "--profile", "closed"), 125, "user.max_user_namespaces is 0")
	if r := run(none, "--profile", "granted"); r.Code != 0 {
		c.Errorf("another level: %s", r.description)
	}
	filtered := []string{os.Args[0], filterRole}
	c.ErrorAndHint(run(filtered, "--isolation", "netns"), 125, "seccomp", "container")
	covered := []string{"unshare", "-Urmpf", "--mount-proc", "sh", "-c", `mount -t tmpfs none /proc/acpi && exec "$0" "$@"`}
	if _, err := os.Stat("/proc/acpi"); err == nil {
		c.ErrorAndHint(run(covered, "--isolation", "netns"), 125, "parts of /proc are covered", "container")
	}
	if r := run(nil, "--profile", "closed", "--isolation", "tree"); r.Code != 2 {
		c.Errorf("a flag weakens the profile: %s", r.description)
	}
	for _, open := range []string{"unix:relative", "unix:" + c.Dir, "nowhere", "a.test:53", "a_b:1"} {
		if r := run(nil, "--isolation", "netns", "--open", open); r.Code != 2 {
			c.Errorf("--open %s: %s", open, r.description)
		}
	}
	c.ErrorAndHint(run(nil, "--isolation", "tree", "--open", "a.test:1"), 2, "--open")
	cmd := c.Command(nil, "run", "--rules", c.Rules.Path, "--isolation", "netns", "--", "true")
	cmd.Dir = c.Home
	c.ErrorAndHint(c.Finish(cmd), 125, "is hidden in the room")
}

// TestNetnsJudgesByTheNameAlone: the address that a client connects to decides
// nothing.
func TestNetnsJudgesByTheNameAlone(t *testing.T) {
	if !inARoom(t) {
		return
	}
	c := newCase(t, "netns-names")
	c.Rules.Add("{name: pin, hosts: [pin.test], passthrough: true, reason: pins}")
	c.Rules.Top("unmatched: deny")
	pin := c.Upstream("pin.test:443", Serve{TLS: c.Certificate("pin.test")})
	const anywhere = "203.0.113.9"
	attempts := []struct{ what, want string }{
		{"tls " + anywhere + ":443 " + api + " " + api, "200"},
		{"tls [2001:db8::7]:443 " + api + " " + api, "200"},
		{"tls 127.0.0.1:443 " + strings.ToUpper(api) + " " + api, "200"},
		{"tls " + anywhere + ":443 " + evil + " " + evil, "403 placeholder_misplaced"},
		{"tls " + anywhere + ":443 " + api + " " + evil, "421 authority_mismatch"},
		{"tls " + anywhere + ":443 - " + api, "error: "},
		{"tls " + anywhere + ":443 other.test other.test", "error: remote error: tls: access denied"},
		{"send " + anywhere + ":443 SSH-2.0-x", `""`},
		{"plain " + anywhere + ":80 " + api, "403 cleartext_credential"},
		{"plain " + anywhere + ":80 " + api + ":8080", "421 authority_mismatch"},
		{"plain " + anywhere + ":80 other.test", "403 unmatched_denied"},
		{"plain " + anywhere + ":80 a_b", "400 bad_request"},
		{"send " + anywhere + ":80 CONNECT", `"HTTP/1.1 400 `},
	}
	var texts []string
	for _, a := range attempts {
		texts = append(texts, a.what)
	}
	for i, answer := range c.Room(nil, texts...) {
		c.Answered(attempts[i].what, answer, attempts[i].want)
	}
	c.U2.Nothing()
	for _, q := range c.U1.Requests(3) {
		c.Equal(q.Values("Authorization"), []string{"Bearer " + R})
	}
	r := c.Netns(`curl -sS --noproxy '*' --cacert ` + filepath.Join(c.Dir, caFile) + ` -H "Authorization: Bearer $GITHUB_TOKEN" -o /dev/null -w '%{http_code}\n' https://pin.test/pinned`)
	c.Equal(r.Out, "200\n")
	c.Equal(pin.Requests(1)[0].Values("Authorization"), []string{"Bearer " + c.P})
	c.Recorded(1, Want{"type": "passthrough", "host": "pin.test", "isolation": "netns"})
	c.Recorded(2, Want{"type": "deny", "code": "bad_request", "port": 443})
	c.Recorded(1, Want{"type": "deny", "code": "unmatched_denied", "host": "other.test", "port": 443})
}

// TestNetnsLeadsNotToTheHost: neither does the gateway, for the command.
func TestNetnsLeadsNotToTheHost(t *testing.T) {
	if !inARoom(t) {
		return
	}
	c := newCase(t, "netns-loopback")
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]"} {
		_, port, _ := net.SplitHostPort(c.U3.Addr())
		r := c.Netns(`curl -sS -x "$HTTPS_PROXY" -p -o /dev/null -w '%{http_connect}\n' --noproxy '' http://` + host + ":" + port + "/")
		if !strings.HasPrefix(r.Out, "403") {
			c.Errorf("a tunnel to %s: %s", host, r.description)
		}
	}
	c.U3.Undialled()
	c.Recorded(3, Want{"type": "deny", "code": "denied_address"})
	// Under "tree" the command gets there by itself, so the gateway may, too.
	r := c.Tree(`curl -sS -x "$HTTPS_PROXY" -p -o /dev/null -w '%{http_code}\n' --noproxy '' http://` + c.U2.Addr() + "/")
	if strings.HasPrefix(r.Out, "403") {
		c.Errorf("tree: %s", r.description)
	}
}

// TestNetnsHoles: what the user opens is relayed, and nothing beside it.
func TestNetnsHoles(t *testing.T) {
	if !inARoom(t) {
		return
	}
	c := newCase(t, "netns-holes")
	c.U1.Undialled()
	c.NoGateway()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "a database\n")
			conn.Close()
		}
	}()
	open, closed := filepath.Join(c.Temp, "open.sock"), filepath.Join(c.Temp, "closed.sock")
	for _, path := range []string{open, closed} {
		l, err := net.Listen("unix", path)
		if err != nil {
			c.Fatal(err)
		}
		defer l.Close()
	}
	address := server.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	flags := []string{"--open", address, "--open", "localhost:" + port, "--open", "unix:" + open}
	attempts := []struct{ what, want string }{
		{"send " + address + " hello", `"a database\n"`},
		{"send localhost:" + port + " hello", `"a database\n"`},
		{"send 203.0.113.9:" + port + " hello", `""`}, // the port is the same, the address is not
		{"dial unix " + open, "reached"},
		{"dial unix " + closed, "error: "},
		{"dial tcp " + c.U1.Addr(), "error: "},
	}
	var texts []string
	for _, a := range attempts {
		texts = append(texts, a.what)
	}
	for i, answer := range c.Room(flags, texts...) {
		if strings.Contains(answer, "connection reset by peer") && attempts[i].want == `""` {
			continue // so soon
		}
		c.Answered(attempts[i].what, answer, attempts[i].want)
	}
	for _, record := range c.Recorded(2, Want{"type": "passthrough", "isolation": "netns", "port": port, "reason": "opened by the user"}) {
		if p := process(record); filepath.Base(fmt.Sprint(p["exe"])) != filepath.Base(os.Args[0]) {
			c.Errorf("who used the hole: %v", record)
		}
	}
	if reason := fmt.Sprint(c.Recorded(1, Want{"type": "isolation"})[0]["reason"]); !strings.HasSuffix(reason, "open: "+address+", localhost:"+port+", unix:"+open) {
		c.Errorf("the record of the room does not name the holes: %s", reason)
	}
	c.checkAudit()
}

// TestNetnsIsForTheCommandAlone: whoever joins the namespaces from outside is
// refused, however many there are, while the command goes on.
func TestNetnsIsForTheCommandAlone(t *testing.T) {
	if !inARoom(t) {
		return
	}
	c := newCase(t, "netns-strangers")
	if _, had := c.netns(nil, "true"); !had {
		c.Skip("no namespaces for users here")
	}
	s := c.Start(Start{Name: "room", Flags: []string{"--isolation", "netns"}, Change: func(cmd *exec.Cmd) {
		i := slices.Index(cmd.Args, "--")
		cmd.Args = slices.Insert(cmd.Args, i+1, "sh", "-c", `exec 3<&0; "$0" "$@" <&3 & while ! test -e `+filepath.Join(c.Dir, "go")+`; do sleep 0.02; done; for i in $(seq 20); do `+curlTo+`/$i; done; wait`)
	}})
	first := s.inTheRoom()
	join := func(attempt string) string {
		cmd := exec.Command("nsenter", "-t", fmt.Sprint(first), "-U", "-n", "--preserve-credentials", os.Args[0], roomRole, attempt)
		cmd.Env = append(plainEnvironment(c.Temp), "SSL_CERT_FILE="+s.Env["SSL_CERT_FILE"], "GITHUB_TOKEN="+c.P)
		out, err := cmd.CombinedOutput()
		if err != nil {
			c.Fatalf("join the room: %v\n%s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	c.Answered("a stranger's TLS", join("tls 203.0.113.9:443 "+api+" "+api), "error: ")
	c.Answered("a stranger's request", join("plain 203.0.113.9:80 other.test"), "403 not_in_tree")
	c.Answered("a stranger at the proxy", join("plain "+s.Proxy.Host+" other.test"), "403 not_in_tree")
	if err := os.WriteFile(filepath.Join(c.Dir, "go"), nil, 0o600); err != nil {
		c.Fatal(err)
	}
	c.Answered("many strangers", join("flood 203.0.113.9:443 1000"), "0 open")
	c.Eventually("the command is served", func() bool { return strings.Count(string(s.out.Bytes()), "200\n") == 20 })
	for _, q := range c.U1.Requests(20) {
		c.Equal(q.Values("Authorization"), []string{"Bearer " + R})
	}
	c.Eventually("all strangers are on record", func() bool {
		denied := 0
		for _, record := range c.Records() {
			if has(record, Want{"type": "deny", "code": "not_in_tree"}) {
				count, _ := record["count"].(float64) // of a summary
				denied += max(1, int(count))
			}
		}
		return denied == 1003
	})
}

// inTheRoom is the first process of the room of a session, as seen from here.
func (s *Session) inTheRoom() int {
	s.c.Helper()
	for pid, ppid := range processes() {
		if ppid == s.Gateway {
			return pid
		}
	}
	s.c.Fatal("the gateway has no child")
	return 0
}

// TestNetnsOfAKilledGateway: the command lives on, as under "tree", has no way
// out, and waits for nothing.
func TestNetnsOfAKilledGateway(t *testing.T) {
	if !inARoom(t) {
		return
	}
	c := newCase(t, "netns-killed")
	c.NoGateway()
	if _, had := c.netns(nil, "true"); !had {
		c.Skip("no namespaces for users here")
	}
	before, after, killed := filepath.Join(c.Dir, "before"), filepath.Join(c.Dir, "after"), filepath.Join(c.Dir, "killed")
	script := curlTo + `/before > ` + before + `.new; mv ` + before + `.new ` + before + `; while ! test -e ` + killed + `; do sleep 0.02; done; ` +
		curlTo + `/after > ` + after + `.new 2>&1; ` + curlTo + `/around --noproxy '*' >> ` + after + `.new 2>&1; mv ` + after + `.new ` + after
	cmd := c.Command(nil, "run", "--rules", c.Rules.Path, "--profile", "granted", "--isolation", "netns", "--", "sh", "-c", script)
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	c.Eventually("the command is served", func() bool { _, err := os.Stat(before); return err == nil })
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := os.WriteFile(killed, nil, 0o600); err != nil {
		c.Fatal(err)
	}
	c.Eventually("the command goes on without the gateway", func() bool { _, err := os.Stat(after); return err == nil })
	text, err := os.ReadFile(after)
	if err != nil || strings.Count(string(text), "000\n") != 2 {
		c.Errorf("without the gateway: %q, %v", text, err)
	}
	c.Equal(c.U1.Requests(1)[0].Target, "/before")
}

// TestNetnsGivesNothingBack: namespaces of the command's own, in which it may do
// everything, show nothing of what is hidden.
func TestNetnsGivesNothingBack(t *testing.T) {
	if !inARoom(t) {
		return
	}
	c := newCase(t, "netns-nested")
	c.U1.Undialled()
	c.NoGateway()
	script := `
try() { if unshare -Urnm --propagation private sh -c "$1" > /dev/null 2>&1; then echo "FOUND by $1"; else echo closed; fi; }
unshare -Urnm true && echo made
see="test -s ` + c.Home + `/vault.age"
try "umount ` + c.Home + `; $see"
try "umount -l ` + c.Home + `; $see"
try "mkdir -p /tmp/x-$$; mount --bind ` + c.Dir + ` /mnt; test -s /mnt/h/vault.age"
try "mount --rbind / /mnt; test -s /mnt` + c.Home + `/vault.age"
try "mount --rbind / /mnt; umount /mnt` + c.Home + `; test -s /mnt` + c.Home + `/vault.age"
try "mount --move ` + c.Home + ` /mnt; $see"
try "umount /etc/resolv.conf; grep -qv 127.0.0.1 /etc/resolv.conf"
try "cat ` + ground.identity + ` | grep -q AGE-SECRET"
try "nsenter -t 1 -m true"
try "nsenter -t 1 -n true"
try "exec 3< /dev/tcp/127.0.0.1/1"
try "ip link add x type dummy && ip link set x netns 1"
mv ` + c.Home + ` ` + c.Dir + `/moved 2>/dev/null && echo FOUND
rmdir ` + c.Home + ` 2>/dev/null && echo FOUND
rm -f ` + ground.identity + ` 2>/dev/null; test -s ` + ground.identity + ` && echo FOUND
sudo -n true 2>/dev/null && echo FOUND
true`
	r := c.Netns(script)
	c.Exit(r, 0)
	if strings.Contains(r.Out, "FOUND") || strings.Count(r.Out, "closed\n") != 12 || !strings.Contains(r.Out, "made\n") {
		c.Error(r.description)
	}
	if _, err := os.Stat(filepath.Join(c.Home, "vault.age")); err != nil {
		c.Error(err)
	}
	if _, err := os.Stat(ground.identity); err != nil {
		c.Error(err)
	}
}
