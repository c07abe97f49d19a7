//go:build linux

package cases

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/coder/websocket"
)

// Clients of WebSockets, against a server that would compress if it might.

func clientsOfWebSockets() []client {
	return []client{
		{"coder/websocket talks through a rule", nil, func(c *Case) {
			c.webSocketClient(os.Args[0], clientRole, "websocket", scripts)
		}},
		{"ws of npm talks through a rule", []string{"node", "npm"}, func(c *Case) {
			c.webSocketClient("node", c.module("ws.js", wsScript), scripts)
		}},
		{"websockets of Python talks through a rule", nil, func(c *Case) {
			c.webSocketClient(c.python("websockets"), c.script("ws.py", pythonWebSocket), scripts)
		}},
	}
}

// npm installs what testdata/node names, once.
func (g *grounds) npm() (string, error) {
	dir := filepath.Join(g.dir, "node")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for _, name := range []string{"package.json", "package-lock.json"} {
		text, err := os.ReadFile(filepath.Join("testdata/node", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
		}
		if err != nil {
			return "", err
		}
	}
	cmd := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w: %s", err, clip(string(out)))
	}
	return dir, nil
}

// module is a script that finds the packages of testdata/node.
func (c *Case) module(name, text string) string {
	c.Helper()
	dir, err := ground.modules()
	if err != nil {
		c.Skipf("the packages of npm are not to be had: %v", err)
	}
	if err := os.Symlink(filepath.Join(dir, "node_modules"), filepath.Join(c.Dir, "node_modules")); err != nil {
		c.Fatal(err)
	}
	return c.script(name, text)
}

// large is a message that no buffer holds whole, with the placeholder in it.
func large(token string) string {
	return strings.Repeat("x", 300_000) + " " + token + " " + strings.Repeat("y", 300_000)
}

// webSocketClient runs one client. It offers compression and two subprotocols,
// says the token, waits for each echo before it goes on, and closes.
func (c *Case) webSocketClient(argv ...string) {
	c.Helper()
	c.Rules.Add(wsRule)
	got := make(chan string, 100)
	c.UR.HTTP1()
	c.UR.mu.Lock()
	c.UR.script = nil
	c.UR.mu.Unlock()
	c.UR.Handle(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat"}, CompressionMode: websocket.CompressionContextTakeover, InsecureSkipVerify: true})
		if err != nil {
			got <- err.Error()
			return
		}
		defer ws.CloseNow()
		ws.SetReadLimit(4 << 20)
		ctx, cancel := context.WithTimeout(r.Context(), patience)
		defer cancel()
		for {
			kind, text, err := ws.Read(ctx)
			if err != nil {
				got <- fmt.Sprint("closed ", websocket.CloseStatus(err))
				return
			}
			got <- string(text)
			if ws.Write(ctx, kind, text) != nil {
				return
			}
		}
	})
	c.said(c.launch(nil)(argv...), "chat, extensions: none\nechoed 23")
	close(got)
	var all []string
	for text := range got {
		all = append(all, text)
	}
	want := []string{"token " + R, large(R), "bytes " + c.P}
	for i := range 20 {
		want = append(want, fmt.Sprint("again ", i, " ", R))
	}
	want = append(want, "closed StatusNormalClosure")
	c.Equal(all, want)
	c.Equal(c.heads(c.UR, 1)[0].Values("Authorization"), []string{"Bearer " + R})
	c.Recorded(22, Want{"type": "substitute", "surface": "websocket"})
	c.Recorded(1, Want{"type": "misplaced", "reason": "websocket"})
	c.Recorded(1, Want{"type": "result", "status": 101})
}

// playWebSocket is the client in Go, by the package's default HTTP client.
func playWebSocket(host string) int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	token := os.Getenv("GITHUB_TOKEN")
	ws, _, err := websocket.Dial(ctx, "wss://"+host+"/ws", &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}, Subprotocols: []string{"chat", "other"}, CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer ws.CloseNow()
	ws.SetReadLimit(4 << 20)
	fmt.Printf("%s, extensions: none\n", ws.Subprotocol())
	echoed := 0
	say := func(kind websocket.MessageType, text string) {
		if err := ws.Write(ctx, kind, []byte(text)); err != nil {
			fmt.Println(err)
			return
		}
		if gotKind, got, err := ws.Read(ctx); err != nil || gotKind != kind || string(got) != text {
			fmt.Println("echo:", len(got), err)
			return
		}
		echoed++
	}
	say(websocket.MessageText, "token "+token)
	say(websocket.MessageText, large(token))
	say(websocket.MessageBinary, "bytes "+token)
	for i := range 20 {
		say(websocket.MessageText, fmt.Sprint("again ", i, " ", token))
	}
	fmt.Println("echoed", echoed)
	if err := ws.Close(websocket.StatusNormalClosure, "done"); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// wsScript goes by the agent of Node, since ws itself knows no proxy.
const wsScript = `
const WebSocket = require('ws')
const https = require('https')
const token = process.env.GITHUB_TOKEN
const ws = new WebSocket('wss://' + process.argv[2] + '/ws', ['chat', 'other'],
  { agent: new https.Agent(), headers: { authorization: 'Bearer ' + token }, perMessageDeflate: true })
const say = (text, binary) => new Promise((resolve, reject) => {
  ws.once('message', (data, isBinary) => {
    if (isBinary === binary && data.toString() === text) resolve()
    else reject(new Error('echo of ' + data.length))
  })
  ws.send(binary ? Buffer.from(text) : text, { binary })
})
ws.on('error', e => { console.log(String(e)); process.exit(1) })
ws.on('open', async () => {
  console.log(ws.protocol + ', extensions: ' + (ws.extensions || 'none'))
  let echoed = 0
  const texts = ['token ' + token, 'x'.repeat(300000) + ' ' + token + ' ' + 'y'.repeat(300000)]
  for (const t of texts) { await say(t, false); echoed++ }
  await say('bytes ' + token, true); echoed++
  for (let i = 0; i < 20; i++) { await say('again ' + i + ' ' + token, false); echoed++ }
  console.log('echoed ' + echoed)
  ws.on('close', code => process.exit(code === 1000 ? 0 : 1))
  ws.close(1000, 'done')
})
process.on('unhandledRejection', e => { console.log(String(e)); process.exit(1) })
`

// pythonWebSocket makes its tunnel itself, since this library knows no proxy.
const pythonWebSocket = `
import asyncio, os, socket, ssl, sys, urllib.parse, base64
import websockets
host, token = sys.argv[1], os.environ["GITHUB_TOKEN"]
proxy = urllib.parse.urlparse(os.environ["HTTPS_PROXY"])

def tunnel():
    s = socket.create_connection((proxy.hostname, proxy.port))
    login = base64.b64encode(("%s:%s" % (proxy.username, proxy.password)).encode()).decode()
    s.sendall(("CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\nProxy-Authorization: Basic %s\r\n\r\n" % (host, host, login)).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += s.recv(1)
    assert b" 200 " in head, head
    return s

async def main():
    async with websockets.connect("wss://%s/ws" % host, sock=tunnel(), ssl=ssl.create_default_context(), server_hostname=host,
            subprotocols=["chat", "other"], extra_headers={"Authorization": "Bearer " + token}, max_size=4 << 20) as ws:
        print("%s, extensions: %s" % (ws.subprotocol, ",".join(e.name for e in ws.extensions) or "none"))
        echoed = 0
        async def say(text):
            nonlocal echoed
            await ws.send(text)
            assert await ws.recv() == text
            echoed += 1
        await say("token " + token)
        await say("x" * 300000 + " " + token + " " + "y" * 300000)
        await say(("bytes " + token).encode())
        for i in range(20):
            await say("again %d %s" % (i, token))
        await (await ws.ping())
        print("echoed", echoed)

asyncio.run(main())
`
