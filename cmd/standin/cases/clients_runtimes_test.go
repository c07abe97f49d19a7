//go:build linux

package cases

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Runtimes of languages, with the clients that programs in them use.

func clientsOfRuntimes() []client {
	return []client{
		{"Node goes by the proxy whatever its client", []string{"node"}, nodeClients},
		{"Node keeps the user's options, in any folder", []string{"node"}, nodeOptions},
		{"npm starts under the launcher", []string{"npm"}, npmStarts},
		{"Python requests goes by the proxy", nil, pythonRequests},
		{"Java fails closed where it cannot show credentials", []string{"java", "javac"}, javaClosed},
	}
}

func (c *Case) script(name, text string) string {
	c.Helper()
	path := filepath.Join(c.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
	return path
}

const nodeScript = `
const https = require('https')
const host = process.argv[2]
const headers = { authorization: 'Bearer ' + process.env.GITHUB_TOKEN }
const get = (name, options) => new Promise((resolve, reject) => {
  https.get('https://' + host + '/' + name, Object.assign({ headers }, options), res => {
    res.resume()
    res.on('end', () => resolve(name + ' ' + res.statusCode))
  }).on('error', reject)
})
async function main () {
  console.log(await get('https'))
  console.log(await get('agent', { agent: new https.Agent({ keepAlive: true }) }))
  console.log(await get('own', { agent: new (class extends https.Agent {})() }))
  if (typeof fetch === 'function') {
    const res = await fetch('https://' + host + '/fetch', { method: 'POST', headers, body: 'x'.repeat(100000) })
    await res.text()
    console.log('fetch ' + res.status)
    const plain = await fetch('http://' + process.argv[3] + '/plain')
    await plain.text()
    console.log('plain ' + plain.status)
  }
  process.exit(0)
}
main().catch(e => { console.log(String(e), e.cause ? String(e.cause) : ''); process.exit(1) })
`

func nodeClients(c *Case) {
	const open = "open.allowed.test"
	o := c.Upstream(open+":80", Serve{})
	path := c.script("client.js", nodeScript)
	c.said(c.launch(nil)("node", path, api, open), "https 200\nagent 200\nown 200\nfetch 200\nplain 200")
	c.arrived(c.U1, 4)
	for _, q := range c.U1.Requests(4) {
		if q.Target == "/fetch" {
			c.Equal(len(q.Body), 100000)
		}
	}
	c.Equal(o.Requests(1)[0].Target, "/plain")
}

// nodeOptions: options of the user's stay, and a path with a space and quotes
// does no harm.
func nodeOptions(c *Case) {
	odd := filepath.Join(c.Dir, `it's a "home"`)
	copyHome(c.T, c.Home, odd)
	c.Home = odd
	start := c.launch([]string{"NODE_OPTIONS=--max-old-space-size=300"})
	c.said(start("node", "-e", `console.log(require('v8').getHeapStatistics().heap_size_limit < 500e6, process.env.NODE_OPTIONS.includes('--require'))`), "true true")
	script := strings.Replace(nodeScript, "async function main () {", "async function main () {\n  console.log(await get('odd')); process.exit(0)", 1)
	c.said(start("node", c.script("client.js", script), api), "odd 200")
	c.arrived(c.U1, 1)
}

func npmStarts(c *Case) {
	cmd := exec.Command("npm", "-v")
	cmd.Env = plainEnvironment(c.Temp)
	out, err := cmd.Output()
	if err != nil {
		c.Skipf("npm does not start on its own: %v", err)
	}
	c.said(c.launch(nil)("npm", "-v"), strings.TrimSpace(string(out)))
	// Its own client goes by the proxy, and trusts what the session shows.
	c.U1.Handle(okJSON)
	r := c.launch([]string{"npm_config_update_notifier=false", "npm_config_loglevel=warn"})("npm", "ping", "--registry=https://"+api+"/npm/", "--fetch-retries=0")
	c.Exit(r, 0)
	c.Equal(c.U1.Requests(1)[0].Target, "/npm/-/ping")
}

const pythonScript = `
import os, sys, requests
host = sys.argv[1]
headers = {"Authorization": "Bearer " + os.environ["GITHUB_TOKEN"]}
with requests.Session() as s:
    print(s.get("https://" + host + "/one", headers=headers).status_code)
    print(s.post("https://" + host + "/login", headers=headers, json={"auth": {"token": os.environ["GITHUB_TOKEN"]}}).status_code)
    print(requests.get("https://" + host + "/basic", auth=("me", os.environ["GITHUB_TOKEN"])).status_code)
`

// python is one that has requests.
func (c *Case) python(module string) string {
	c.Helper()
	for _, p := range []string{"/usr/bin/python3", "python3"} {
		if exec.Command(p, "-c", "import "+module).Run() == nil {
			return p
		}
	}
	c.Skipf("there is no python3 with %s", module)
	return ""
}

func pythonRequests(c *Case) {
	r := c.launch(nil)(c.python("requests"), c.script("client.py", pythonScript), api)
	// The rule of /login is for its body, and takes no header.
	c.said(r, "200\n403\n200")
	all := c.U1.Requests(2)
	c.Equal(all[0].Values("Authorization"), []string{"Bearer " + R})
	c.Equal(all[1].Values("Authorization"), []string{basic("me", R)})
	script := strings.Replace(pythonScript, "/login\", headers=headers", "/login\"", 1)
	c.said(c.launch(nil)(c.python("requests"), c.script("client.py", script), api), "200\n200\n200")
	for _, q := range c.U1.Requests(5) {
		if q.Target == "/login" && !strings.Contains(string(q.Body), `"`+R+`"`) {
			c.Errorf("the body of /login is %s", q.Body)
		}
	}
}

const javaProgram = `
import java.net.*;
public class Client {
  public static void main(String[] args) throws Exception {
    try {
      HttpURLConnection c = (HttpURLConnection) new URL("https://" + args[0] + "/").openConnection();
      c.setRequestProperty("Authorization", "Bearer " + System.getenv("GITHUB_TOKEN"));
      System.out.println(c.getResponseCode());
    } catch (Exception e) {
      System.out.println(e.getMessage());
    }
  }
}
`

func javaClosed(c *Case) {
	path := c.script("Client.java", javaProgram)
	r := c.launch(nil, "--receipt", filepath.Join(c.Dir, "receipt"))("java", path, api)
	if r.Code != 0 || !strings.Contains(r.Out, "407") {
		c.Errorf("Java was not asked for credentials: %s", r.description)
	}
	// The JVM prints its options at each start: no credentials may be in them.
	if !strings.Contains(r.Err, "Picked up JAVA_TOOL_OPTIONS: ") || regexp.MustCompile(`//[^ ]*@`).MatchString(r.Err) {
		c.Errorf("Java prints %q", r.Err)
	}
	c.U1.Undialled()
	c.Recorded(1, Want{"type": "deny", "code": "credentials_required"})
}
