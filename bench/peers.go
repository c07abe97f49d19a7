package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"standin/bench/authority"
	"standin/bench/load"
	"standin/bench/process"
	"standin/bench/reference"
	"standin/bench/upstream"
)

// The peers, of which the last two are Debian packages.
const (
	mitmproxyName = "mitmproxy"
	squidName     = "squid"
)

var peers = []string{reference.Goproxy, mitmproxyName, squidName}

// addon makes mitmproxy dial the upstream and put the secret into the header.
const addon = `
import os
host, port = os.environ["BENCH_UPSTREAM"].rsplit(":", 1)
secret = "Bearer " + os.environ["BENCH_SECRET"]

def server_connect(data):
    data.server.address = (host, int(port))

def requestheaders(flow):
    if "authorization" in flow.request.headers:
        flow.request.headers["authorization"] = secret
    flow.request.stream = True

def responseheaders(flow):
    flow.response.stream = True
`

// startMitmproxy starts mitmdump, streaming, with one header replaced.
func (l *lab) startMitmproxy(ctx context.Context) (*program, error) {
	path, err := installed("mitmdump")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(l.dir, "mitmproxy-")
	if err != nil {
		return nil, err
	}
	script := filepath.Join(dir, "addon.py")
	if err := os.WriteFile(script, []byte(addon), 0o600); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, "-q", "--listen-host", "127.0.0.1", "--listen-port", port, "-s", script,
		"--set", "confdir="+dir, "--set", "connection_strategy=lazy", "--set", "ssl_verify_upstream_trusted_ca="+l.ca())
	cmd.Env = append(os.Environ(), "BENCH_UPSTREAM="+l.addr, "BENCH_SECRET="+upstream.Secret)
	return startPeer(ctx, cmd, peer{mitmproxyName, port, filepath.Join(dir, "mitmproxy-ca-cert.pem"), true})
}

const squidConfig = `http_port 127.0.0.1:PORT ssl-bump generate-host-certificates=on dynamic_cert_mem_cache_size=16MB tls-cert=DIR/ca.pem tls-key=DIR/ca-key.pem
sslcrtd_program /usr/lib/squid/security_file_certgen -s DIR/certs -M 16MB
ssl_bump bump all
http_access allow all
hosts_file DIR/hosts
tls_outgoing_options cafile=DIR/ca.pem
shutdown_lifetime 0 seconds
cache deny all
access_log none
cache_log /dev/null
pid_filename none
coredump_dir DIR
`

// squidUser is whom Debian's squid becomes when root starts it.
const squidUser = "proxy"

// startSquid starts squid-openssl, which intercepts but does not rewrite. Its
// folder is its own, since under root it runs as another user.
func (l *lab) startSquid(ctx context.Context) (*program, error) {
	path, err := installed("squid")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "standin-bench-squid-")
	if err != nil {
		return nil, err
	}
	p, err := l.squidIn(ctx, path, dir)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	p.end = append(p.end, func() { _ = os.RemoveAll(dir) })
	return p, nil
}

func (l *lab) squidIn(ctx context.Context, path, dir string) (*program, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	host, upstreamPort, err := net.SplitHostPort(l.addr)
	if err != nil {
		return nil, err
	}
	hosts := host + " " + upstream.Host + "\n"
	for i := range hostCount {
		hosts += host + " " + load.HostName(i) + "\n"
	}
	files := map[string][]byte{"squid.conf": []byte(strings.NewReplacer("PORT", port, "DIR", dir).Replace(squidConfig)), "hosts": []byte(hosts)}
	for _, name := range []string{authority.RootFile, authority.KeyFile} {
		if files[name], err = os.ReadFile(l.path(name)); err != nil {
			return nil, err
		}
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return nil, err
		}
	}
	if _, err := process.Output(exec.CommandContext(ctx, "/usr/lib/squid/security_file_certgen", "-c", "-s", dir+"/certs", "-M", "16MB")); err != nil {
		return nil, err
	}
	if os.Getuid() == 0 {
		if _, err := process.Output(exec.CommandContext(ctx, "chown", "-R", squidUser, dir)); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(path, "-N", "-n", "bench"+port, "-f", filepath.Join(dir, "squid.conf"))
	p, err := startPeer(ctx, cmd, peer{squidName, port, l.ca(), false})
	if err == nil {
		p.port = upstreamPort // squid knows names, but dials the port that it is asked for
	}
	return p, err
}

// peer says how a peer is reached and what it does.
type peer struct {
	name, port, root string
	header           bool
}

// startPeer starts a peer and waits until it takes connections.
func startPeer(ctx context.Context, cmd *exec.Cmd, p peer) (*program, error) {
	errs := &process.Tail{}
	cmd.Stdout, cmd.Stderr = errs, errs
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		_ = cmd.Wait()
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := net.DialTimeout("tcp", "127.0.0.1:"+p.port, time.Second)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			stop()
			return nil, errors.New("it does not listen: " + errs.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
	return &program{
		name: p.name, pid: cmd.Process.Pid, proxy: "http://127.0.0.1:" + p.port, roots: []string{p.root},
		token: example, header: p.header, end: []func(){stop},
	}, nil
}

// freePort is a port of loopback that nobody listened on a moment ago.
func freePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	return port, err
}
