package launch

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A testProxy is a forward proxy that sends everything to one upstream, by TLS
// or plain, and writes down what it was asked.
type testProxy struct {
	url, want string // want: the Proxy-Authorization that it asks for
	tls       *tls.Config
	mu        sync.Mutex
	asked     []string
}

func newProxy(t *testing.T, user *url.Userinfo, server tls.Certificate) *testProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &testProxy{tls: &tls.Config{Certificates: []tls.Certificate{server}}}
	p.url = (&url.URL{Scheme: "http", User: user, Host: listener.Addr().String()}).String()
	if user != nil {
		p.want = "Basic " + base64.StdEncoding.EncodeToString([]byte(user.String()))
	}
	srv := &http.Server{Handler: p, ErrorLog: log.New(io.Discard, "", 0)}
	go srv.Serve(listener)
	t.Cleanup(func() { srv.Close() })
	return p
}

func (p *testProxy) note(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, line)
}

func (p *testProxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

func (p *testProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Proxy-Authorization") != p.want {
		p.note("407")
		w.Header().Set("Proxy-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	if r.Method != http.MethodConnect {
		p.note(r.Method + " " + r.URL.String() + " host=" + r.Host)
		fmt.Fprint(w, "plain ", r.URL.Path)
		return
	}
	p.note("CONNECT " + r.Host)
	if strings.HasPrefix(r.Host, "refused.") {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	secure := tls.Server(&replayed{Conn: conn, r: buffered.Reader}, p.tls)
	requests := bufio.NewReader(secure)
	for {
		request, err := http.ReadRequest(requests)
		if err != nil {
			return
		}
		body, _ := io.ReadAll(request.Body)
		p.note(request.Method + " https " + request.Host + request.URL.Path)
		answer := "secure " + request.URL.Path + string(body)
		fmt.Fprintf(secure, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
	}
}

type replayed struct {
	net.Conn
	r io.Reader
}

func (c *replayed) Read(b []byte) (int, error) { return c.r.Read(b) }

// nodes are the versions to test with: the one on the machine, and others that
// $STANDIN_TEST_NODES lists.
func nodes(t *testing.T) []string {
	t.Helper()
	return append([]string{need(t, "node")}, strings.FieldsFunc(os.Getenv("STANDIN_TEST_NODES"), func(r rune) bool { return r == ':' })...)
}

// node runs a script as a command of a session, with a deadline.
func node(t *testing.T, binary string, p *testProxy, root []byte, change func(*EnvConfig), script string) (string, error) {
	t.Helper()
	files := writeFiles(t, FilesConfig{Dir: filepath.Join(t.TempDir(), "with space"), RootPEM: root, ProxyURL: p.url})
	cfg := EnvConfig{Environ: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, Files: files, ProxyURL: p.url}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-e", script)
	cmd.Env, _ = Environ(cfg)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

const nodeGet = `
const http = require('http'), https = require('https')
const get = (m, url, options) => new Promise((resolve, reject) => m.get(...(options ? [url, options] : [url]), r => {
  let text = ''; r.on('data', d => text += d); r.on('end', () => resolve(text))
}).on('error', reject))
const say = p => p.then(x => console.log(x), e => console.log('error', e.code || (e.cause && e.cause.code) || e.message))
`

func TestNodeGoesThroughTheProxy(t *testing.T) {
	t.Parallel()
	root, server := newCA(t, "node", "api.allowed.test", "192.0.2.7")
	for _, binary := range nodes(t) {
		for name, user := range map[string]*url.Userinfo{"bare": nil, "credentials": url.UserPassword("sid", "tok3n")} {
			for _, c := range []struct {
				name, script, printed string
				asked                 []string
			}{
				{"fetch", `say(fetch('https://api.allowed.test/f').then(r => r.text()))`, "secure /f\n", []string{"CONNECT api.allowed.test:443", "GET https api.allowed.test/f"}},
				{"fetch with a body", `say(fetch('https://api.allowed.test/f', {method: 'POST', body: ' b'}).then(r => r.text()))`, "secure /f b\n", []string{"CONNECT api.allowed.test:443", "POST https api.allowed.test/f"}},
				{"https.get", `say(get(https, 'https://api.allowed.test/g'))`, "secure /g\n", []string{"CONNECT api.allowed.test:443", "GET https api.allowed.test/g"}},
				{"own agent", `say(get(https, 'https://api.allowed.test:8443/a', {agent: new https.Agent({keepAlive: true})}))`, "secure /a\n", []string{"CONNECT api.allowed.test:8443", "GET https api.allowed.test:8443/a"}},
				{"no agent", `say(get(https, 'https://api.allowed.test/n', {agent: false}))`, "secure /n\n", []string{"CONNECT api.allowed.test:443", "GET https api.allowed.test/n"}},
				{"address", `say(get(https, 'https://192.0.2.7/i', {agent: new https.Agent()}))`, "secure /i\n", []string{"CONNECT 192.0.2.7:443", "GET https 192.0.2.7/i"}},
				{"http.get", `say(get(http, 'http://plain.test/p?q=1', {agent: new http.Agent()}))`, "plain /p\n", []string{"GET http://plain.test/p?q=1 host=plain.test"}},
				{"http on another port", `say(get(http, 'http://plain.test:8080/p', {agent: new http.Agent({keepAlive: true})}))`, "plain /p\n", []string{"GET http://plain.test:8080/p host=plain.test:8080"}},
				{"http with headers as a list", `say(get(http, {host: 'plain.test', path: '/l', headers: ['Host', 'plain.test', 'X', '1'], agent: new http.Agent()}))`, "plain /l\n", []string{"GET http://plain.test/l host=plain.test"}},
				{"queue of one connection", `const agent = new https.Agent({maxSockets: 1}); for (const i of [1, 2]) say(get(https, 'https://api.allowed.test/' + i, {agent, headers: {connection: 'close'}}))`, "secure /1\nsecure /2\n", nil},
				{"queue behind a refusal", `const agent = new https.Agent({maxSockets: 1}); for (const host of ['refused.test', 'refused.test']) say(get(https, 'https://' + host, {agent}))`, "error ECONNREFUSED\nerror ECONNREFUSED\n", nil},
				{"crowd on few sockets", `const agent = new https.Agent({maxSockets: 2, keepAlive: true}); Promise.all([...Array(20)].map((_, i) => get(https, 'https://api.allowed.test/' + i, {agent}))).then(all => { console.log(all.length); agent.destroy() })`, "20\n", nil},
				{"kept connection", `const agent = new https.Agent({keepAlive: true}); say(get(https, 'https://api.allowed.test/1', {agent}).then(() => new Promise(setImmediate)).then(() => get(https, 'https://api.allowed.test/2', {agent})))`, "secure /2\n", []string{"CONNECT api.allowed.test:443", "GET https api.allowed.test/1", "GET https api.allowed.test/2"}},
				{"subclass that expects a socket", `class Agent extends https.Agent { createConnection (o, f) { const s = super.createConnection(o, f); s.setNoDelay(true); return s } }; say(get(https, 'https://api.allowed.test/s', {agent: new Agent()}))`, "secure /s\n", []string{"CONNECT api.allowed.test:443", "GET https api.allowed.test/s"}},
				{"refused host", `say(get(https, 'https://refused.test/', {agent: new https.Agent()}))`, "error ECONNREFUSED\n", []string{"CONNECT refused.test:443"}},
				{"worker", `const {Worker} = require('worker_threads'); new Worker("fetch('https://api.allowed.test/w').then(r => r.text()).then(console.log)", {eval: true})`, "secure /w\n", []string{"CONNECT api.allowed.test:443", "GET https api.allowed.test/w"}},
			} {
				t.Run(filepath.Base(filepath.Dir(filepath.Dir(binary)))+"/"+name+"/"+c.name, func(t *testing.T) {
					t.Parallel()
					p := newProxy(t, user, server)
					out, err := node(t, binary, p, root, nil, nodeGet+c.script)
					if err != nil || out != c.printed {
						t.Errorf("node printed %q, want %q (%v)", out, c.printed, err)
					}
					if tunnels := strings.Count(strings.Join(p.requests(), " "), "CONNECT"); tunnels > 2 {
						t.Errorf("%d tunnels, more than any agent here allows", tunnels)
					}
					if got := p.requests(); c.asked != nil && !slices.Equal(got, c.asked) {
						t.Errorf("the proxy was asked %q, want %q", got, c.asked)
					}
				})
			}
		}
	}
}

func TestNodeFetchReachesPlainHostsThroughTheProxy(t *testing.T) {
	t.Parallel()
	root, server := newCA(t, "node", "api.allowed.test")
	p := newProxy(t, url.UserPassword("sid", "tok3n"), server)
	// Without this variable Node 24 is as old ones are; with it, it makes a
	// tunnel for a plain request, too, which is the proxy's to unpack.
	old := `delete process.env.NODE_USE_ENV_PROXY;`
	for _, binary := range nodes(t) {
		out, err := node(t, binary, p, root, nil, nodeGet+old+`
const {execFileSync} = require('child_process')
process.stdout.write(execFileSync(process.execPath, ['-e', "fetch('http://plain.test/x', {headers: {'X-A': '1'}}).then(r => r.text()).then(console.log)"]))`)
		if err != nil || out != "plain /x\n" {
			t.Errorf("got %q, %v; the proxy was asked %q", out, err, p.requests())
		}
	}
}

func TestNodeReachesNoProxyHostsAndSocketsDirectly(t *testing.T) {
	t.Parallel()
	root, server := newCA(t, "node", "api.allowed.test")
	p := newProxy(t, nil, server)
	direct := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "direct") })}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go direct.Serve(listener)
	socket := filepath.Join(t.TempDir(), "s")
	unix, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go direct.Serve(unix)
	t.Cleanup(func() { direct.Close() })
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	for _, script := range []string{
		`say(get(http, 'http://127.0.0.1:` + port + `/', {agent: new http.Agent()}))`,
		`say(get(http, 'http://localhost:` + port + `/', {agent: new http.Agent(), family: 4}))`,
		`say(get(http, {socketPath: '` + socket + `', path: '/', agent: new http.Agent()}))`,
		`say(fetch('http://127.0.0.1:` + port + `/').then(r => r.text()))`,
	} {
		for _, binary := range nodes(t) {
			if out, err := node(t, binary, p, root, nil, nodeGet+script); err != nil || out != "direct\n" {
				t.Errorf("%s: %q, %v", script, out, err)
			}
		}
	}
	if got := p.requests(); len(got) != 0 {
		t.Errorf("the proxy was asked %q", got)
	}
}

func TestNodeSurvivesWithoutAProxy(t *testing.T) {
	t.Parallel()
	root, server := newCA(t, "node", "api.allowed.test")
	gone := newProxy(t, nil, server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.url = "http://" + listener.Addr().String()
	listener.Close()
	for _, binary := range nodes(t) {
		out, err := node(t, binary, gone, root, nil, nodeGet+`
say(get(https, 'https://api.allowed.test/', {agent: new https.Agent()}))
say(fetch('https://api.allowed.test/'))
say(get(http, 'http://plain.test/', {agent: new http.Agent()}))`)
		if err != nil || out != strings.Repeat("error ECONNREFUSED\n", 3) {
			t.Errorf("proxy gone: %q, %v", out, err)
		}
		// Variables taken away by a sandbox leave Node as it is.
		cmd := exec.Command(binary, "--require", writeFiles(t, FilesConfig{}).Path(preloadFile), "-e", "console.log(1)")
		cmd.Env = []string{"HTTPS_PROXY=::nonsense", "http_proxy=socks5://x"}
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "1\n" {
			t.Errorf("without variables: %q, %v", out, err)
		}
	}
}

func TestNpmRunsUnderTheLauncher(t *testing.T) {
	t.Parallel()
	npm := need(t, "npm")
	root, server := newCA(t, "node", "registry.allowed.test")
	p := newProxy(t, url.UserPassword("sid", "tok3n"), server)
	files := writeFiles(t, FilesConfig{RootPEM: root, ProxyURL: p.url})
	environ, _ := Environ(EnvConfig{Environ: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, Files: files, ProxyURL: p.url})
	for args, want := range map[string]string{
		"--version": "",
		"ping --registry=https://registry.allowed.test/ --fetch-retries=0": "CONNECT registry.allowed.test:443",
	} {
		cmd := exec.Command(npm, strings.Fields(args)...)
		cmd.Env, cmd.Dir = environ, t.TempDir()
		out, err := cmd.CombinedOutput()
		if want == "" && err != nil {
			t.Errorf("npm %s: %v, %s", args, err, out)
		}
		if want == "" {
			continue
		}
		// The test's registry speaks no JSON, so only the way there counts.
		got := p.requests()
		if !slices.Contains(got, want) || slices.Contains(got, "407") || slices.Contains(got, "CONNECT "+strings.TrimPrefix(p.url, "http://sid:tok3n@")) {
			t.Errorf("npm %s: the proxy was asked %q: %s", args, got, out)
		}
	}
}
