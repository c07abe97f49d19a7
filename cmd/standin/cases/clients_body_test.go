//go:build linux

package cases

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Clients that send bodies: large ones, of unknown length, encoded, in parts.

func clientsOfBodies() []client {
	return []client{
		{"curl uploads 64 MiB", []string{"curl"}, curlLarge},
		{"curl uploads what it reads from a pipe", []string{"curl"}, curlPipe},
		{"curl uploads 64 MiB in gzip", []string{"curl", "gzip"}, curlGzip},
		{"Python requests sends a multipart form", nil, pythonMultipart},
		{"fetch of Node streams a body", []string{"node"}, nodeStream},
	}
}

// bigFile is a script that makes 64 MiB with the placeholder first, in the
// middle and last, and bigWant what arrives.
const bigFile = `{ printf '%s ' "$GITHUB_TOKEN"; head -c 33554432 /dev/zero | tr '\0' x; printf ' %s ' "$GITHUB_TOKEN"; head -c 33554432 /dev/zero | tr '\0' y; printf ' %s' "$GITHUB_TOKEN"; }`

func bigWant() string {
	return R + " " + strings.Repeat("x", 32<<20) + " " + R + " " + strings.Repeat("y", 32<<20) + " " + R
}

func curlLarge(c *Case) {
	c.Rules.Add(bodyRule)
	c.said(c.shell(bigFile+` > big; curl -sS --data-binary @big -H 'Content-Type: application/octet-stream' https://`+api+`/body; rm big`), "ok")
	c.Equal(string(c.U1.Requests(1)[0].Body) == bigWant(), true)
	c.Recorded(1, Want{"type": "substitute", "surface": "body"})
}

func curlPipe(c *Case) {
	c.Rules.Add(bodyRule)
	for _, version := range []string{"--http1.1", "--http2"} {
		c.said(c.shell(`(printf 'one %s' "$GITHUB_TOKEN"; sleep 0.2; printf ' two') | curl -sS `+version+` -T - -H 'Expect:' https://`+api+`/body`), "ok")
	}
	for _, q := range c.U1.Requests(2) {
		c.Equal(string(q.Body), "one "+R+" two")
	}
	c.Recorded(2, Want{"type": "substitute", "surface": "body"})
}

func curlGzip(c *Case) {
	c.Rules.Add(bodyRule)
	c.U1.HTTP1()
	c.said(c.shell(bigFile+` | gzip -1 > big.gz; curl -sS --data-binary @big.gz -H 'Content-Encoding: gzip' -H 'Transfer-Encoding: chunked' -H 'Content-Type: text/plain' https://`+api+`/body
grep VmHWM /proc/$PPID/status | tr -dc 0-9 > peak; rm big.gz`), "ok")
	r, err := gzip.NewReader(bytes.NewReader(c.U1.Requests(1)[0].Body))
	if err != nil {
		c.Fatal(err)
	}
	got, err := io.ReadAll(r)
	c.Equal(err, error(nil))
	c.Equal(string(got) == bigWant(), true)
	peak, err := os.ReadFile(filepath.Join(c.Dir, "peak"))
	c.Equal(err, error(nil))
	c.Logf("the gateway held at most %s KiB", peak)
	if len(peak) > 5 { // 100 MB
		c.Errorf("the gateway held %s KiB", peak)
	}
}

const multipartScript = `
import os, sys, requests
token = os.environ["GITHUB_TOKEN"]
files = {"upload": (token + ".txt", "about " + token, "text/plain")}
print(requests.post("https://" + sys.argv[1] + "/multipart", data={"token": token, "note": "x"}, files=files).status_code)
`

func pythonMultipart(c *Case) {
	c.Rules.Add(multipartRule)
	c.said(c.launch(nil)(c.python("requests"), c.script("multipart.py", multipartScript), api), "200")
	body := string(c.U1.Requests(1)[0].Body)
	c.Equal(strings.Count(body, R), 1)
	c.Equal(strings.Contains(body, "name=\"token\"\r\n\r\n"+R+"\r\n"), true)
	c.Equal(strings.Count(body, c.P), 2)
	c.Recorded(1, Want{"type": "substitute", "surface": "multipart token"})
	c.Recorded(1, Want{"type": "misplaced"})
}

const nodeStreamScript = `
async function * body () {
  yield '{"list":['
  for (let i = 0; i < 100; i++) yield JSON.stringify('x'.repeat(40000)) + ','
  yield 'null],"auth":{"token":"' + process.env.GITHUB_TOKEN.slice(0, 20)
  await new Promise(resolve => setTimeout(resolve, 50))
  yield process.env.GITHUB_TOKEN.slice(20) + '"}}'
}
const { Readable } = require('stream')
fetch('https://' + process.argv[2] + '/login', { method: 'POST', headers: { 'content-type': 'application/json' }, body: Readable.from(body(), { objectMode: false }), duplex: 'half' })
  .then(async res => { console.log(res.status, (await res.text()).trim()); process.exit(0) })
  .catch(e => { console.log(String(e), e.cause ? String(e.cause) : ''); process.exit(1) })
`

func nodeStream(c *Case) {
	c.said(c.launch(nil)("node", c.script("stream.js", nodeStreamScript), api), "200 ok")
	body := c.U1.Requests(1)[0].Body
	c.Equal(jsonAt(c, body, "auth", "token"), R)
	c.Equal(len(body) > 4_000_000, true)
	c.Recorded(1, Want{"type": "substitute", "surface": "json /auth/token"})
}
