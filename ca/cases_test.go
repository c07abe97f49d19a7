package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func pemKey(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// rootWith makes a root as NewRoot does, but for what change does to it.
func rootWith(t *testing.T, key crypto.Signer, change func(*x509.Certificate)) []byte {
	t.Helper()
	cfg, hosts, err := Config{Hosts: []string{"a.test"}, NotAfter: time.Now().Add(time.Hour)}.check()
	if err != nil {
		t.Fatal(err)
	}
	template := signerTemplate("root", cfg)
	template.MaxPathLen = 1
	hosts.constrain(template)
	change(template)
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return encodeCertificate(cert)
}

func TestCaseH15RootThatCannotSignIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	good, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	weakRSA, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weakEC, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	same := func(*x509.Certificate) {}
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})
	for _, c := range []struct {
		name, reason string
		signer       crypto.Signer
		key          []byte
		change       func(*x509.Certificate)
	}{
		{"expired", "expired", good, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }},
		{"early", "not valid before", good, nil, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }},
		{"no CA", "CA:false", good, nil, func(c *x509.Certificate) { c.IsCA, c.MaxPathLen = false, 0 }},
		{"key usage", "certSign", good, nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }},
		{"path length", "pathlen 0", good, nil, func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }},
		{"unconstrained", "not bound", good, nil, func(c *x509.Certificate) { c.PermittedDNSDomains = nil }},
		{"constraints not critical", "not bound", good, nil, func(c *x509.Certificate) { c.PermittedDNSDomainsCritical = false }},
		{"weak RSA", "2048", weakRSA, nil, same},
		{"weak curve", "P-256", weakEC, nil, same},
		{"foreign key", "does not belong", good, pemKey(t, other), same},
		{"encrypted key", "encrypted", good, encrypted, same},
		{"no key", "not PEM", good, []byte("nonsense"), same},
	} {
		t.Run(c.name, func(t *testing.T) {
			key := c.key
			if key == nil {
				key = pemKey(t, c.signer)
			}
			root, err := ParseRoot(rootWith(t, c.signer, c.change), key, time.Now())
			if err == nil || root != nil {
				t.Fatal("accepted")
			}
			if _, ok := err.(*RootError); !ok || !strings.Contains(err.Error(), c.reason) {
				t.Fatalf("got %v, want it to say %q", err, c.reason)
			}
		})
	}
	if _, err := ParseRoot(rootWith(t, good, same), pemKey(t, good), time.Now()); err != nil {
		t.Fatalf("a good root was refused: %v", err)
	}
}

func TestRootThatOutlivesItsSessionSignsWithinItsBounds(t *testing.T) {
	t.Parallel()
	root, err := NewRoot(Config{Hosts: []string{"a.test", "*.wild.test"}, NotAfter: time.Now().Add(30 * time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	key, err := root.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseRoot(root.CertificatePEM(), key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Config{Hosts: []string{"a.test", "*.wild.test"}, NotAfter: time.Now().Add(time.Hour), Root: again})
	if err != nil {
		t.Fatal(err)
	}
	cert := leaf(t, a, "x.wild.test")
	if err := verify(a, cert, "x.wild.test"); err != nil {
		t.Fatal(err)
	}
	if !a.Root().Equal(root.Certificate()) || cert.Leaf.NotAfter.After(root.Certificate().NotAfter) {
		t.Fatal("another root, or a leaf that outlives it")
	}
	if _, err := New(Config{Hosts: []string{"a.test", "evil.test"}, NotAfter: time.Now().Add(time.Hour), Root: again}); err == nil {
		t.Fatal("a session for hosts outside the root was opened")
	}
	late := func() time.Time { return time.Now().Add(45 * time.Minute) }
	if _, err := New(Config{Hosts: []string{"a.test"}, NotAfter: time.Now().Add(time.Hour), Root: again, Now: late}); err == nil {
		t.Fatal("an expired root signed")
	}
}

// files writes the chain of cert for openssl.
func files(t *testing.T, a *Authority, cert *tls.Certificate) (root, intermediate, leaf string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	der := func(b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b}) }
	return write("root.pem", a.RootPEM()), write("intermediate.pem", der(cert.Certificate[1])), write("leaf.pem", der(cert.Certificate[0]))
}

func need(t *testing.T, tool string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		t.Skipf("%s is not installed", tool)
	}
	return path
}

func TestCaseH17OpensslAcceptsTheChainStrictly(t *testing.T) {
	t.Parallel()
	openssl := need(t, "openssl")
	a := newAuthority(t, "api.allowed.test", "*.wild.test", "192.0.2.7", "2001:db8::7")
	for _, host := range []string{"api.allowed.test", "a.wild.test", "192.0.2.7", "2001:db8::7"} {
		root, intermediate, end := files(t, a, leaf(t, a, host))
		name := "-verify_hostname"
		if net.ParseIP(host) != nil {
			name = "-verify_ip"
		}
		for _, purpose := range [][]string{nil, {"-purpose", "sslserver"}} {
			args := append([]string{"verify", "-x509_strict", name, host, "-CAfile", root, "-untrusted", intermediate}, purpose...)
			if out, err := exec.Command(openssl, append(args, end)...).CombinedOutput(); err != nil {
				t.Errorf("%s %v: %s", host, purpose, out)
			}
		}
	}
}

// forge signs with the key of the intermediate what Leaf refuses: the thief's
// part of H19.
func forge(t *testing.T, a *Authority, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	template := a.leafTemplate(time.Now())
	change(template)
	cert, err := sign(template, a.intermediate, a.leafKey.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{cert.Raw, a.intermediate.Raw}, PrivateKey: a.leafKey, Leaf: cert}
}

// serve answers "ok" by HTTP over TLS, and returns the port.
func serve(t *testing.T, cert *tls.Certificate) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*cert}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := conn.Read(make([]byte, 4096)); err == nil {
					conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"))
				}
			}()
		}
	}()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

const pythonClient = `
import socket, ssl, sys
root, host, port = sys.argv[1:]
context = ssl.create_default_context(cafile=root)
context.verify_flags |= ssl.VERIFY_X509_STRICT
with context.wrap_socket(socket.create_connection(("127.0.0.1", int(port))), server_hostname=host) as s:
    s.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert s.recv(100)
`

const nodeClient = `
const [root, host, port] = process.argv.slice(1)
const options = {host: '127.0.0.1', port, servername: host, ca: require('fs').readFileSync(root)}
require('tls').connect(options, function () { this.end() }).on('error', e => { console.error(e.message); process.exit(1) })
`

// clients verify a server as their users' programs do. Each takes the root's
// file, the name to ask for and the port.
var clients = map[string]func(root, host, port string) []string{
	"openssl": func(root, host, port string) []string {
		return []string{"s_client", "-brief", "-verify_return_error", "-x509_strict", "-CAfile", root, "-servername", host, "-verify_hostname", host, "-connect", "127.0.0.1:" + port}
	},
	"curl": func(root, host, port string) []string {
		return []string{"-sS", "--cacert", root, "--resolve", host + ":" + port + ":127.0.0.1", "https://" + host + ":" + port + "/"}
	},
	"python3": func(root, host, port string) []string { return []string{"-c", pythonClient, root, host, port} },
	"node":    func(root, host, port string) []string { return []string{"-e", nodeClient, root, host, port} },
}

func TestCaseH19StolenKeyIsWorthNothingForOtherHosts(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "api.allowed.test", "*.wild.test", "192.0.2.7")
	thefts := []struct {
		name, host string
		accepted   bool
		change     func(*x509.Certificate)
	}{
		{"permitted name", "api.allowed.test", true, func(c *x509.Certificate) { c.DNSNames = []string{"api.allowed.test"} }},
		{"permitted wildcard", "x.wild.test", true, func(c *x509.Certificate) { c.DNSNames = []string{"*.wild.test"} }},
		{"other name", "evil.test", false, func(c *x509.Certificate) { c.DNSNames = []string{"evil.test"} }},
		{"other beside permitted", "evil.test", false, func(c *x509.Certificate) { c.DNSNames = []string{"api.allowed.test", "evil.test"} }},
		{"name that ends alike", "evilwild.test", false, func(c *x509.Certificate) { c.DNSNames = []string{"evilwild.test"} }},
		{"wildcard above", "evil.test", false, func(c *x509.Certificate) { c.DNSNames = []string{"*.test"} }},
		{"common name only", "evil.test", false, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "evil.test"} }},
		{"other address", "127.0.0.1", false, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }},
		{"address of the other family", "evil.test", false, func(c *x509.Certificate) {
			c.DNSNames, c.IPAddresses = []string{"api.allowed.test"}, []net.IP{net.IPv6loopback}
		}},
	}
	for _, theft := range thefts {
		t.Run("go/"+theft.name, func(t *testing.T) {
			err := verify(a, forge(t, a, theft.change), theft.host)
			if theft.accepted != (err == nil) {
				t.Errorf("accepted %v, want %v: %v", err == nil, theft.accepted, err)
			}
		})
	}
	for tool, args := range clients {
		t.Run(tool, func(t *testing.T) {
			t.Parallel()
			path := need(t, tool)
			for _, theft := range thefts {
				cert := forge(t, a, theft.change)
				root, _, _ := files(t, a, cert)
				cmd := exec.Command(path, args(root, theft.host, serve(t, cert))...)
				cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
				out, err := cmd.CombinedOutput()
				if theft.accepted != (err == nil) {
					t.Errorf("%s: accepted %v, want %v: %s", theft.name, err == nil, theft.accepted, out)
				}
			}
		})
	}
}

func TestSessionWithoutHostsIsForNothing(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	for _, change := range []func(*x509.Certificate){
		func(c *x509.Certificate) { c.DNSNames = []string{"evil.test"} },
		func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} },
		func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv6loopback} },
	} {
		cert := forge(t, a, change)
		if err := verify(a, cert, ""); err == nil {
			t.Errorf("%v %v: accepted", cert.Leaf.DNSNames, cert.Leaf.IPAddresses)
		}
	}
}

func TestStolenKeyMakesNoFurtherAuthority(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "api.allowed.test")
	key, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	template := a.leafTemplate(time.Now())
	template.IsCA, template.KeyUsage, template.SubjectKeyId = true, x509.KeyUsageCertSign, nil
	template.Subject = pkix.Name{CommonName: "thief"}
	below, err := sign(template, a.intermediate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	end, err := sign(a.leafTemplate(time.Now(), "api.allowed.test"), below, a.leafKey.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert := &tls.Certificate{Certificate: [][]byte{end.Raw, below.Raw, a.intermediate.Raw}, Leaf: end}
	if err := verify(a, cert, "api.allowed.test"); err == nil {
		t.Fatal("a path longer than the intermediate allows was accepted")
	}
}
