//go:build linux

package cases

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Servers of the field, which have their own idea of what a request is.

// behind is a server, started in the foreground, that writes a line for each
// request that it counts, with the request line in it.
type behind struct {
	program string
	// files are what it reads, by name. $D is its folder, $P its port.
	files map[string]string
	argv  []string
	log   string
}

var behinds = map[string]behind{
	"nginx": {"nginx", map[string]string{"nginx.conf": `daemon off; master_process off; pid $D/pid; error_log $D/error.log; worker_rlimit_nofile 256;
events { worker_connections 128; }
http {
  client_body_temp_path $D/t1; proxy_temp_path $D/t2; fastcgi_temp_path $D/t3; uwsgi_temp_path $D/t4; scgi_temp_path $D/t5;
  log_format counted '$request'; access_log $D/counted counted;
  server { listen 127.0.0.1:$P ssl; ssl_certificate $D/cert.pem; ssl_certificate_key $D/key.pem; location / { return 200 "ok\n"; } }
}`}, []string{"-e", "$D/error.log", "-c", "$D/nginx.conf"}, "counted"},
	"apache": {"apache2", map[string]string{"httpd.conf": `ServerRoot $D
PidFile $D/pid
Listen 127.0.0.1:$P
ServerName d37
ErrorLog $D/error.log
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
LogFormat "%r" counted
CustomLog $D/counted counted
Mutex pthread
StartServers 1
ThreadsPerChild 16
ServerLimit 1
MaxRequestWorkers 16
DocumentRoot $D/empty
SSLEngine on
SSLCertificateFile $D/cert.pem
SSLCertificateKeyFile $D/key.pem
SSLSessionCache none
`, "empty/index.html": "ok\n"}, []string{"-f", "$D/httpd.conf", "-DFOREGROUND"}, "counted"},
	"haproxy": {"haproxy", map[string]string{"haproxy.cfg": `global
  log stdout format raw local0
  maxconn 256
defaults
  mode http
  log global
  log-format "%r"
  timeout client 20s
  timeout http-request 20s
frontend counted
  bind 127.0.0.1:$P ssl crt $D/cert.pem alpn http/1.1
  http-request wait-for-body time 5s if METH_POST
  http-request return status 200 content-type text/plain string "ok\n"
`}, []string{"-db", "-f", "$D/haproxy.cfg"}, "output"},
	"node": {"node", map[string]string{"server.js": `
const fs = require('fs')
const count = line => fs.writeSync(1, line + '\n')
require('https').createServer({ cert: fs.readFileSync('$D/cert.pem'), key: fs.readFileSync('$D/key.pem') }, (req, res) => {
  count(req.method + ' ' + req.url + ' HTTP/' + req.httpVersion)
  req.resume()
  req.on('end', () => res.end('ok\n'))
}).on('clientError', (e, socket) => {
  // What ends in the middle was cut off, and is no malformed request.
  if (String(e.code).startsWith('HPE_') && e.code !== 'HPE_INVALID_EOF_STATE') count('MALFORMED ' + e.code)
  socket.destroy()
}).listen($P, '127.0.0.1')
`}, []string{"$D/server.js"}, "output"},
}

// corpus is what they are all sent.
func corpus() []framing {
	return slices.Concat(framedTwice(), lengths(), codings(), lineEnds(), chunks(), olderProtocol(), requestLines(), []framing{
		{"GET /T HTTP/1.1\r\n{HOST}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", []string{"200"}, nil},
		{"GET /T HTTP/1.1\r\n{HOST}\r\n" + webSocketFields + "\r\n" + embedded, []string{"426 200"}, nil},
		{"TRACE /T HTTP/1.1\r\n{HOST}\r\n\r\n" + embedded, []string{"405 200"}, nil},
		{"GET https://{AUTHORITY}/T HTTP/1.1\r\n{HOST}\r\nProxy-Connection: keep-alive\r\nTE: trailers, gzip\r\nTrailer: X-A\r\n\r\n", []string{"200"}, nil},
		{"POST /T HTTP/1.1\r\n{HOST}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nabcd" + embedded, []string{"200 200"}, nil},
		{strings.Repeat("GET /T HTTP/1.1\r\n{HOST}\r\n\r\nPUT /T-put HTTP/1.1\r\n{HOST}\r\nContent-Length: 18\r\n\r\nGET /x HTTP/1.1\r\n\r\n", 10), []string{strings.Repeat("200 ", 20)}, nil},
	})
}

// serversCountWhatIsAudited: whatever a client sends, each server counts those
// requests that the record says were answered, and no other. One that the record
// says was cut off may have arrived, or not.
func serversCountWhatIsAudited(c *Case) {
	var names []string
	for name, b := range behinds {
		if _, err := exec.LookPath(b.program); err != nil {
			if _, err = os.Stat("/usr/sbin/" + b.program); err != nil {
				c.Skipf("%s is not installed", b.program)
			}
		}
		names = append(names, name)
	}
	slices.Sort(names)
	counted := map[string]func() map[string]int{}
	for _, name := range names {
		host := name + ".allowed.test"
		c.Rules.Add("{name: " + name + ", hosts: [" + host + "], substitute: [{secret: github, in: header Authorization}]}")
		counted[name] = c.startBehind(name, host)
	}
	s := c.S1()
	inParallel(len(names), len(names), func(i int) {
		host := names[i%len(names)] + ".allowed.test"
		for n, in := range corpus() {
			fill := strings.NewReplacer("/T", fmt.Sprintf("/f%03d", n), "{P}", c.P, "{HOST}", "Host: "+host, "{AUTHORITY}", host)
			s.talkTo(host, fill.Replace(in.text), max(1, len(strings.Fields(in.answers[0]))))
		}
	})
	c.U1.Nothing()
	for _, name := range names {
		c.compareCounts(name, counted[name])
	}
	c.mu.Lock()
	c.silent = nil // what follows is the plain request of every case
	c.mu.Unlock()
}

// compareCounts waits until the server's log and the record agree.
func (c *Case) compareCounts(name string, counted func() map[string]int) {
	c.Helper()
	var problems []string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		problems = nil
		answered, cut := c.audited(name + ".allowed.test")
		server := counted()
		total := 0
		for request, n := range server {
			if total += n; n < answered[request] || n > answered[request]+cut[request] {
				problems = append(problems, fmt.Sprintf("%q: %s counts %d, the record %d answered and %d cut", request, name, n, answered[request], cut[request]))
			}
		}
		for request, n := range answered {
			if server[request] == 0 {
				problems = append(problems, fmt.Sprintf("%q: %s counts none, the record %d answered", request, name, n))
			}
		}
		if total < 30 {
			problems = append(problems, fmt.Sprintf("%s counts %d requests", name, total))
		}
		if len(problems) == 0 {
			c.Logf("%s counts %d requests, and so does the record", name, total)
			return
		}
	}
	c.Errorf("D37: %s", strings.Join(problems, "\n"))
}

// audited are the requests to a host that the record says were answered, and
// those that it says were cut off under way, by method and path.
func (c *Case) audited(host string) (answered, cut map[string]int) {
	c.Helper()
	answered, cut = map[string]int{}, map[string]int{}
	for _, r := range c.Records() {
		if r["type"] != "result" || r["host"] != host {
			continue
		}
		request := fmt.Sprint(r["method"], " ", r["path"])
		if status, _ := r["status"].(float64); r["code"] == nil && status >= 200 {
			answered[request]++
		} else {
			cut[request]++
		}
	}
	return answered, cut
}

// startBehind starts a server, without the rights of root, names it in the rules,
// and returns how to read what it counts.
func (c *Case) startBehind(name, host string) func() map[string]int {
	c.Helper()
	b := behinds[name]
	dir, err := os.MkdirTemp("", "d37")
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { _ = os.RemoveAll(dir) })
	c.must(os.Chmod(dir, 0o777))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	c.must(err)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	c.must(ln.Close())
	fill := strings.NewReplacer("$D", dir, "$P", port)
	chain := c.Certificate(host).Certificates[0]
	var certs bytes.Buffer
	for _, der := range chain.Certificate {
		c.must(pem.Encode(&certs, &pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	der, err := x509.MarshalPKCS8PrivateKey(chain.PrivateKey)
	c.must(err)
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	certs.Write(key)
	files := map[string]string{"cert.pem": certs.String(), "key.pem": string(key)}
	for file, text := range b.files {
		files[file] = fill.Replace(text)
	}
	for file, text := range files {
		c.must(os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755))
		c.must(os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
	}
	var argv []string
	for _, arg := range b.argv {
		argv = append(argv, fill.Replace(arg))
	}
	output, err := os.Create(filepath.Join(dir, "output"))
	c.must(err)
	defer output.Close()
	cmd := exec.Command(b.program, argv...)
	if _, err := exec.LookPath(b.program); err != nil {
		cmd = exec.Command("/usr/sbin/"+b.program, argv...)
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // apache has processes of its own
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	c.must(cmd.Start())
	c.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	if !c.Eventually(name+" listens", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}) {
		said, _ := os.ReadFile(output.Name())
		errs, _ := os.ReadFile(filepath.Join(dir, "error.log"))
		c.Fatalf("%s does not listen: %s%s", name, said, errs)
	}
	c.Rules.Dial(host+":443", "127.0.0.1:"+port, caFile)
	return func() map[string]int { return requestLinesOf(c, filepath.Join(dir, b.log)) }
}

func (c *Case) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// requestLinesOf counts the requests in a log, by method and path. What a server
// could not read as one is a request that nobody sent.
func requestLinesOf(c *Case, path string) map[string]int {
	c.Helper()
	text, err := os.ReadFile(path)
	c.must(err)
	counts := map[string]int{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case len(fields) == 3 && strings.HasPrefix(fields[2], "HTTP/1."):
			target, _, _ := strings.Cut(fields[1], "?")
			counts[fields[0]+" "+target]++
		case strings.Contains(line, "NOTICE"), strings.Contains(line, "WARNING"):
		case strings.HasSuffix(line, ": Connection closed during SSL handshake\n"): // the test looked whether it listens
		default:
			counts[strings.TrimSpace(line)]++
		}
	}
	return counts
}
