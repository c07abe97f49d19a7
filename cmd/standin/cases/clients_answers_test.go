//go:build linux

package cases

import (
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"time"
)

// Clients that read answers: encoded, and as they come.

func clientsOfAnswers() []client {
	return []client{
		{"curl reads what it asks to be compressed", []string{"curl"}, curlCompressed},
		{"curl reads a stream of events one by one", []string{"curl"}, curlEvents},
		{"curl keeps a compressed file compressed", []string{"curl", "gzip"}, curlKeeps},
		{"curl keeps cookies in a jar and follows redirects", []string{"curl"}, curlCookies},
		{"Python requests reads encoded answers", nil, pythonEncoded},
		{"fetch of Node reads encoded answers and streams", []string{"node"}, nodeEncoded},
	}
}

// encoding answers in the coding that the last element of the path names, if the
// request accepts it.
func encoding(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	text := strings.Repeat("a line with "+strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")+"\n", 1000)
	if coders[name] == nil || !strings.Contains(r.Header.Get("Accept-Encoding"), name) {
		_, _ = io.WriteString(w, "not accepted: "+r.Header.Get("Accept-Encoding"))
		return
	}
	w.Header().Set("Content-Encoding", name)
	_, _ = w.Write(encodedIn(name, text))
}

func curlCompressed(c *Case) {
	c.UE.Handle(encoding)
	for _, version := range []string{"--http1.1", "--http2"} {
		for _, name := range []string{"gzip", "deflate", "br", "zstd"} {
			c.said(c.shell(`curl --version | grep -qw `+map[string]string{"br": "brotli", "zstd": "zstd"}[name]+` || [ `+name+` != br -a `+name+` != zstd ] || { echo 1000; exit; }
curl -sS `+version+` --compressed `+authorized+` https://`+echo+`/`+name+` | grep -cx "a line with $GITHUB_TOKEN"`), "1000")
		}
	}
	for _, q := range c.UE.Received() {
		c.Equal(q.Values("Authorization"), []string{"Bearer " + R})
	}
	c.UE.Requests(len(c.UE.Received()))
}

// curlEvents: the upstream sends an event when the client has acknowledged the
// one before, so that one which waits for the next is never there.
func curlEvents(c *Case) {
	ack := make(chan bool, 1)
	c.UE.Handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ack" {
			ack <- true
			return
		}
		out, flush := io.Writer(w), func() {}
		w.Header().Set("Content-Type", "text/event-stream")
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			z := coders["gzip"](w)
			out, flush = z, func() { _ = z.Flush() }
			defer z.Close()
		}
		for i := range 4 {
			fmt.Fprintf(out, "data: %d %s\n\n", i, R)
			flush()
			_ = http.NewResponseController(w).Flush()
			select {
			case <-ack:
			case <-time.After(20 * time.Second):
				fmt.Fprint(out, "data: nobody read it\n\n")
				return
			}
		}
	})
	for _, how := range []string{"--http1.1", "--http2", "--http1.1 --compressed", "--http2 --compressed"} {
		c.said(c.shell(`curl -sSN `+how+` `+authorized+` https://`+echo+`/events | while read -r field text; do
  [ -n "$field" ] || continue
  [ "${text#* }" = "$GITHUB_TOKEN" ] && echo "${text% *}" || echo "$text"
  curl -sS https://`+echo+`/ack
done`), "0\n1\n2\n3")
	}
	c.Equal(len(c.UE.Requests(4*5)), 20)
}

// curlKeeps: without --compressed curl stores what comes, and gzip must be able
// to read it.
func curlKeeps(c *Case) {
	c.UE.Handle(encoding)
	c.said(c.shell(`curl -sS -H 'Accept-Encoding: gzip' `+authorized+` -o file.gz https://`+echo+`/gzip
gzip -dc file.gz | grep -cx "a line with $GITHUB_TOKEN"`), "1000")
	c.arrived(c.UE, 1)
}

// curlCookies: the login hands out the token in a cookie and in a redirect.
func curlCookies(c *Case) {
	c.UE.Handle(func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		switch r.URL.Path {
		case "/login":
			http.SetCookie(w, &http.Cookie{Name: "sid", Value: token})
			http.Redirect(w, r, "/home?sid="+token, http.StatusSeeOther)
		case "/home":
			fmt.Fprint(w, "welcome")
		}
	})
	c.said(c.shell(`curl -sSL -c jar -b jar `+authorized+` https://`+echo+`/login; echo
grep -c "$GITHUB_TOKEN" jar; curl -sS -b jar https://`+echo+`/home`), "welcome\n1\nwelcome")
	all := c.UE.Requests(3)
	c.Equal(all[1].Target, "/home?sid="+R)
	for _, q := range all[1:] {
		c.Equal(q.Values("Cookie"), []string{"sid=" + R})
	}
	c.Recorded(2, Want{"type": "substitute", "surface": "cookie sid"})
}

const pythonEncodedScript = `
import os, sys, requests
token = os.environ["GITHUB_TOKEN"]
names = ["gzip", "deflate"]
try:
    import brotli
    names.append("br")
except ImportError:
    pass
for name in names:
    with requests.get("https://" + sys.argv[1] + "/" + name, headers={"Authorization": "Bearer " + token}) as r:
        ok = r.text == ("a line with " + token + "\n") * 1000
        print(name, r.status_code, r.headers.get("Content-Encoding"), ok)
with requests.get("https://" + sys.argv[1] + "/gzip", headers={"Authorization": "Bearer " + token}, stream=True) as r:
    print(sum(1 for line in r.iter_lines() if line.decode() == "a line with " + token))
`

func pythonEncoded(c *Case) {
	c.UE.Handle(encoding)
	r := c.launch(nil)(c.python("requests"), c.script("encoded.py", pythonEncodedScript), echo)
	n := 3
	want := "gzip 200 gzip True\ndeflate 200 deflate True\n"
	if strings.Contains(r.Out, "br 200") {
		n, want = 4, want+"br 200 br True\n"
	}
	c.said(r, want+"1000")
	c.arrived(c.UE, n)
}

const nodeEncodedScript = `
const token = process.env.GITHUB_TOKEN
const headers = { authorization: 'Bearer ' + token }
async function main () {
  for (const name of ['gzip', 'deflate', 'br']) {
    const res = await fetch('https://' + process.argv[2] + '/' + name, { headers })
    console.log(name, res.headers.get('content-encoding'), await res.text() === ('a line with ' + token + '\n').repeat(1000))
  }
  const res = await fetch('https://' + process.argv[2] + '/events', { headers })
  let text = ''
  for await (const piece of res.body) {
    text += Buffer.from(piece).toString()
    await (await fetch('https://' + process.argv[2] + '/ack')).text()
  }
  console.log(text === ['data: 0 ' + token, 'data: 1 ' + token, 'data: 2 ' + token].join('\n\n') + '\n\n')
  process.exit(0)
}
main().catch(e => { console.log(String(e), e.cause ? String(e.cause) : ''); process.exit(1) })
`

func nodeEncoded(c *Case) {
	ack := make(chan bool, 1)
	c.UE.Handle(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ack":
			ack <- true
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d %s\n\n", i, R)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-ack:
				case <-time.After(20 * time.Second):
					return
				}
			}
		default:
			encoding(w, r)
		}
	})
	c.said(c.launch(nil)("node", c.script("encoded.js", nodeEncodedScript), echo), "gzip gzip true\ndeflate deflate true\nbr br true\ntrue")
	for _, q := range c.UE.Requests(7) {
		if q.Target != "/ack" {
			c.Equal(q.Values("Authorization"), []string{"Bearer " + R})
		}
	}
}
