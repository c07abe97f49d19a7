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
	"sync"
	"testing"
	"time"
)

// A serving gateway: who may have sessions of it, and how they end.

func sectionEServe() []entry {
	return []entry{
		{"E09", theGatewayStartsAnew},
		{"E15", tooManyTunnels},
		{"E21", asNobody(fromInsideASession)},
		{"E22", theSocketIsTaken},
		{"E23", somebodyElseAnswers},
		{"E24", somebodyTakesThePort},
		{"H24", addressesThatOthersReach},
	}
}

func theGatewayStartsAnew(c *Case) {
	g := c.Serve("--listen", "127.0.0.1:0")
	s := g.Session(Start{Name: "served"})
	c.Equal(s.Proxy.Host, g.Listen)
	c.Status(s.Do(api, get("/one", api, bearer(c.P))), 200)
	token, _ := s.Proxy.User.Password()
	g.Kill()
	again := c.Serve("--listen", g.Listen)
	c.Equal(again.Listen, g.Listen)
	// The command lives, and what it holds is worth nothing.
	d := s.Door()
	d.Send("CONNECT " + api + ":443 HTTP/1.1\r\nHost: " + api + ":443\r\n" + s.Credentials() + "\r\n\r\n")
	c.asked(d, "CONNECT")
	c.Equal(len(c.U1.Requests(1)), 1)
	// No token is on the disk.
	err := filepath.Walk(c.Dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() || filepath.Base(path) == "gitconfig" && strings.Contains(path, s.ID()) {
			return nil // the session's own gitconfig names its proxy
		}
		if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), token) {
			c.Errorf("the session's token stands in %s", path)
		}
		return nil
	})
	if err != nil {
		c.Fatal(err)
	}
	// The exit code is the command's own, and what happened is said.
	c.Equal(s.End(), 0)
	if !strings.Contains(s.Stderr(), "has gone before the command") {
		c.Errorf("nobody says that the gateway was gone: %q", s.Stderr())
	}
}

func tooManyTunnels(c *Case) {
	g := c.Serve("--max-session-tunnels", "5", "--max-tunnels", "12")
	one, two, three := g.Session(Start{Name: "one"}), g.Session(Start{Name: "two"}), g.Session(Start{Name: "three"})
	fill := func(s *Session, n int) {
		c.Helper()
		for range n {
			if _, status := s.quietTunnel(api+":443", time.Minute); status != 200 {
				c.Fatalf("%s: a tunnel is answered %d", s.Name, status)
			}
		}
	}
	fill(one, 5)
	for range 3 {
		_, r := one.Connect(api + ":443")
		c.Refused(r, 429, "too_many_tunnels")
	}
	c.Status(two.Do(api, get("/two", api, bearer(c.P))), 200) // others are not affected
	c.backToBaseline(one)
	fill(one, 5)
	fill(two, 5)
	fill(three, 2)
	_, r := three.Connect(api + ":443")
	c.Refused(r, 503, "busy")
	_, r = three.Connect(api + ":443") // the first was no accident of timing
	c.Refused(r, 503, "busy")
	c.backToBaseline(one)
	c.Status(three.Do(api, get("/three", api, bearer(c.P))), 200)
	c.U1.Requests(2)
	c.Recorded(2, Want{"type": "deny", "code": "busy", "session": three.ID()})
}

func fromInsideASession(c *Case) {
	c.Rules.Profile("half: {secrets: [github], ttl: 1h}")
	c.Rules.Secret("other", "REAL-other-7f3c9a1e5b2d8460")
	g := c.Serve()
	s := g.Session(Start{Name: "served", Profile: "half"})
	// What the socket does for everybody only takes away.
	for _, request := range []string{
		"POST /v1/sessions", "PUT /v1/sessions/" + s.ID(), "POST /v1/open", "POST /v1/reload", "POST /v1/shutdown", "POST /v1/token",
		"POST /v1/sessions/" + s.ID() + "/widen", "POST /v1/conversation", "POST /v1/door", "DELETE /v1/sessions/" + s.ID(), "POST /v1/rules",
	} {
		method, path, _ := strings.Cut(request, " ")
		if status, body := s.Control(method, path, `{"secrets":["other"],"profile":"granted"}`); status < 400 || status >= 500 {
			c.Errorf("%s is answered %d %s", request, status, body)
		}
	}
	if status, _ := s.Control("POST", "/v1/sessions/"+s.ID()+"/narrow", `{"secrets":["github","other"]}`); status != 200 {
		c.Errorf("narrowing is answered %d", status)
	}
	// A session that is opened from inside is a part of it, or refused, though the
	// command can open the vault.
	inner := ground.program + " run --home " + c.Home + " --gateway " + g.Socket
	r := g.Run(inner+" --profile half -- "+curlTo+"/inner", "--profile", "half")
	c.Exit(r, 0)
	c.Equal(r.Out, "200\n")
	for script, says := range map[string]string{
		inner + " --profile granted --isolation tree -- true":                                                                  "has no grant of secret",
		"env -i PATH=$PATH HOME=$HOME " + inner + " --profile granted --isolation tree -- true":                                "has no grant of secret",
		"(setsid sh -c 'sleep 0.5; env -i " + inner + " --profile granted --isolation tree -- true' 2>&1 | cat >&2); exit 125": "has no grant of secret",
		inner + " --profile half --isolation session -- true":                                                                  "is less than its",
		"env -i PATH=$PATH HOME=$HOME " + ground.program + " session token --home " + c.Home + "; exit 125":                    "no token is made inside a session",
	} {
		c.ErrorAndHint(g.Run(script, "--profile", "half"), 125, "open a session inside session", says)
	}
	// The end of the outer session is that of the inner one.
	r = g.Run(`outer=$STANDIN_SESSION; `+inner+` --profile half -- sh -c '`+ground.program+` session revoke --home `+c.Home+` '$outer'; sleep 1; `+curlTo+`/revoked'; exit 0`, "--profile", "half")
	if !strings.Contains(r.Out, "revoked s") || strings.Contains(r.Out, "200") {
		c.Errorf("an inner session outlives the outer one: %s", r.description)
	}
	c.U1.Requests(1)
	// The rest of the gateway has not noticed.
	c.Status(s.Do(api, get("/still", api, bearer(c.P))), 200)
}

func theSocketIsTaken(c *Case) {
	c.Rules.Write()
	c.NoGateway()
	c.U1.Undialled()
	serve := func() Result {
		return c.Standin("serve", "--rules", c.Rules.Path)
	}
	run := filepath.Join(c.Home, "run")
	socket := filepath.Join(run, "gateway.sock")
	for name, plant := range map[string]func() error{
		"a link":         func() error { return os.Symlink(filepath.Join(c.Dir, "elsewhere.sock"), socket) },
		"a link to one":  func() error { return os.Symlink("/dev/null", socket) },
		"a file":         func() error { return os.WriteFile(socket, []byte("x"), 0o600) },
		"a folder":       func() error { return os.Mkdir(socket, 0o700) },
		"a sticky place": func() error { return os.Chmod(run, 0o1777) },
	} {
		if err := os.MkdirAll(run, 0o700); err != nil {
			c.Fatal(err)
		}
		if err := plant(); err != nil {
			c.Fatal(err)
		}
		r := serve()
		c.ErrorAndHint(r, 1)
		if r.Out != "" {
			c.Errorf("%s: it serves: %s", name, r.description)
		}
		_ = os.Chmod(run, 0o700)
		if err := os.RemoveAll(socket); err != nil {
			c.Fatal(err)
		}
	}
	// One that serves is not pushed aside; what a killed one left behind is.
	g := c.Serve()
	c.ErrorAndHint(serve(), 1, "another gateway listens there")
	info, err := os.Stat(g.Socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		c.Errorf("the socket: %v, %v", info, err)
	}
	g.Kill()
	again := c.Serve()
	c.Equal(again.Socket, g.Socket)
}

// somebodyElseAnswers: whoever sits at the socket's path without the key is told
// nothing, also if he passes on to the real gateway what he hears.
func somebodyElseAnswers(c *Case) {
	g := c.Serve()
	taken := g.Session(Start{Name: "served"})
	// A port that is taken ends the gateway before it has begun.
	squatter, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.Fatal(err)
	}
	defer squatter.Close()
	c.Exit(c.Standin("serve", "--rules", c.Rules.Path, "--listen", squatter.Addr().String()), 1)

	fake, heard := c.fakeGateway(g.Socket)
	for name, r := range map[string]Result{
		"vault": c.Standin("run", "--gateway", fake+".deaf", "--", "true"),
		"token": c.StandinInput("", []string{"STANDIN_TOKEN=" + c.token(g)}, "run", "--gateway", fake+".deaf", "--", "true"),
	} {
		c.ErrorAndHint(r, 125)
		if r.Out != "" || !strings.Contains(r.Err, "does not prove") && !strings.Contains(r.Err, "no gateway serves there") {
			c.Errorf("%s: %s", name, r.description)
		}
	}
	for _, word := range []string{"github", "zstandin", "GITHUB_TOKEN", c.Home} {
		if strings.Contains(heard(), word) {
			c.Errorf("a fake gateway heard %q", word)
		}
	}
	// One that passes everything on hears nothing that it can read.
	r := c.Standin("run", "--gateway", fake, "--profile", "granted", "--isolation", "session", "--", "sh", "-c", "echo $HTTPS_PROXY")
	c.Exit(r, 0)
	_, token, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(r.Out), "http://"), ":")
	token, _, _ = strings.Cut(token, "@")
	if len(token) < 40 || strings.Contains(heard(), token) || strings.Contains(heard(), "GITHUB_TOKEN") {
		c.Errorf("who sits in between reads the conversation")
	}
	// A token opens one session.
	once := c.token(g)
	c.Exit(c.StandinInput("", []string{"STANDIN_TOKEN=" + once}, "run", "--gateway", g.Socket, "--", "true"), 0)
	c.ErrorAndHint(c.StandinInput("", []string{"STANDIN_TOKEN=" + once}, "run", "--gateway", g.Socket, "--", "true"), 125, "does not prove")
	wrong := once[:len(once)-1] + "a"
	c.ErrorAndHint(c.StandinInput("", []string{"STANDIN_TOKEN=" + wrong}, "run", "--gateway", g.Socket, "--", "true"), 125)
	brief := strings.TrimSpace(c.Standin("session", "token", "--profile", "granted", "--ttl", "1s").Out)
	time.Sleep(1100 * time.Millisecond)
	c.ErrorAndHint(c.StandinInput("", []string{"STANDIN_TOKEN=" + brief}, "run", "--gateway", g.Socket, "--", "true"), 125)
	c.Status(taken.Do(api, get("/", api, bearer(c.P))), 200)
	c.U1.Requests(1)
}

// token makes a one-time token.
func (c *Case) token(g *Serving) string {
	c.Helper()
	r := c.Standin("session", "token", "--profile", "granted", "--gateway", g.Socket)
	c.Exit(r, 0)
	return strings.TrimSpace(r.Out)
}

// fakeGateway passes on what comes to the real one and remembers it; at the path
// that ends in ".deaf" it only listens, and answers as if it were one.
func (c *Case) fakeGateway(real string) (path string, heard func() string) {
	c.Helper()
	path = filepath.Join(c.Dir, "fake.sock")
	var mu sync.Mutex
	var all strings.Builder
	remember := func(p []byte) {
		mu.Lock()
		defer mu.Unlock()
		all.Write(p)
	}
	serve := func(at string, answer func(net.Conn)) {
		listener, err := net.Listen("unix", at)
		if err != nil {
			c.Fatal(err)
		}
		c.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go answer(conn)
			}
		}()
	}
	pass := func(to, from net.Conn) {
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			remember(b[:n])
			if _, failed := to.Write(b[:n]); err != nil || failed != nil {
				to.Close()
				return
			}
		}
	}
	serve(path, func(conn net.Conn) {
		to, err := net.Dial("unix", real)
		if err != nil {
			conn.Close()
			return
		}
		go pass(conn, to)
		pass(to, conn)
	})
	serve(path+".deaf", func(conn net.Conn) {
		defer conn.Close()
		b := make([]byte, 64<<10)
		n, _ := conn.Read(b)
		remember(b[:n])
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: standin-conversation\r\n\r\n")
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		n, _ = conn.Read(b)
		remember(b[:n])
		_, _ = conn.Write(b[:n])
		n, _ = conn.Read(b)
		remember(b[:n])
	})
	return path, func() string {
		mu.Lock()
		defer mu.Unlock()
		return all.String()
	}
}

func somebodyTakesThePort(c *Case) {
	c.NoGateway()
	g := c.Serve("--listen", "127.0.0.1:0")
	s := g.Session(Start{Name: "served", Flags: []string{}})
	c.Status(s.Do(api, get("/before", api, bearer(c.P))), 200)
	g.Kill()
	squatter, err := net.Listen("tcp", g.Listen)
	if err != nil {
		c.Fatal(err)
	}
	defer squatter.Close()
	heard := make(chan string, 1)
	go func() {
		conn, err := squatter.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		b := make([]byte, 4096)
		n, _ := conn.Read(b)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		more, _ := conn.Read(b[n:])
		heard <- string(b[:n+more])
	}()
	status := s.attempt(api, get("/after", api, bearer(c.P)))
	got := <-heard
	// He is shown the credentials of a session that is over, and no certificate of
	// his is taken; the command never had more than placeholders to give.
	if status == 200 || len(leaks([]byte(got), c.Values)) > 0 || strings.Contains(got, c.P) {
		c.Errorf("the thief of the port: status %d, heard %q", status, got)
	}
	c.U1.Requests(1)
}

func addressesThatOthersReach(c *Case) {
	c.Rules.Write()
	c.NoGateway()
	for _, address := range []string{"0.0.0.0:0", "[::]:0", ":0", "localhost:0", "gateway.test:0", "10.0.0.1:0", "[::ffff:10.0.0.1]:0", "*:0"} {
		c.ErrorAndHint(c.Standin("serve", "--rules", c.Rules.Path, "--listen", address), 2, "--listen "+address)
	}
	for _, address := range []string{"127.0.0.1", "127.0.0.1:", "127.0.0.1:0:0"} {
		c.Exit(c.Standin("serve", "--rules", c.Rules.Path, "--listen", address), 2)
	}
	// If it is meant: credentials are always asked for.
	g := c.Serve("--listen=0.0.0.0:0", "--listen-anywhere")
	_, port, _ := net.SplitHostPort(g.Listen)
	for _, from := range []string{"127.0.0.1", c.outsideAddress()} {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(from, port), 2*time.Second)
		if err != nil {
			c.Fatal(err)
		}
		fmt.Fprintf(conn, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", api, api)
		c.Equal(statusOf(conn), 407)
		conn.Close()
	}
	c.U1.Undialled()
}

// outsideAddress is an address of this machine that is not of loopback, or that of
// loopback where there is none.
func (c *Case) outsideAddress() string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		c.Fatal(err)
	}
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && ip.IP.To4() != nil {
			return ip.IP.String()
		}
	}
	return "127.0.0.1"
}

// TestACommandInAnotherNetworkIsServedByTheSocket: a container's network, and no
// vault: a token opens the session, and the launcher relays by the socket.
func TestACommandInAnotherNetworkIsServedByTheSocket(t *testing.T) {
	c := newCase(t, "another-network")
	g := c.Serve()
	elsewhere := func(script string, flags ...string) Result {
		c.Helper()
		args := append([]string{"run", "--gateway", g.Socket}, flags...)
		cmd := c.Command([]string{"STANDIN_TOKEN=" + c.token(g)}, append(args, "--", "sh", "-c", script)...)
		cmd.Args[slices.Index(cmd.Args, "--home")+1] = filepath.Join(c.Dir, "container")
		cmd.Args = append([]string{"unshare", "-rn", "sh", "-c", `ip link set lo up && exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
		path, err := exec.LookPath("unshare")
		if err != nil {
			c.Skip("unshare is not installed")
		}
		cmd.Path = path
		return c.Finish(cmd)
	}
	if r := elsewhere("true"); r.Code != 0 && strings.Contains(r.Err, "unshare") {
		t.Skipf("no namespaces here: %s", r.Err)
	}
	r := elsewhere(curlTo + `/there; echo "$STANDIN_TOKEN$HTTPS_PROXY"`)
	c.Exit(r, 0)
	if !strings.HasPrefix(r.Out, "200\nhttp://s") {
		c.Errorf("%s", r.description)
	}
	c.Equal(c.U1.Requests(1)[0].Values("Authorization"), []string{"Bearer " + R})
	c.Recorded(1, Want{"type": "substitute", "path": "/there"})
	c.ErrorAndHint(elsewhere("true", "--isolation", "tree"), 125, "in another network or process namespace")
}
