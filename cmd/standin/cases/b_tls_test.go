//go:build linux

//go:debug rsa1024min=0

package cases

import (
	"bytes"
	"crypto"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"reflect"
	"strings"
	"time"
	"unsafe"
)

// TLS to the upstream: who may answer as it, and how a body ends.

func sectionBTLS() []entry {
	return []entry{
		{"B19", badUpstreamCertificates},
		{"B20", oldTLSAtTheUpstream},
		{"B21", truncatedResponses},
	}
}

// servesBadly starts one upstream for each configuration, and asserts that none
// receives a byte of a request.
func (c *Case) servesBadly(configs map[string]*tls.Config) {
	c.Helper()
	all := map[string]*Upstream{}
	for name, config := range configs {
		host := name + ".bad.test"
		c.Rules.Add("{name: " + name + ", hosts: [" + host + "], substitute: [{secret: github, in: header Authorization}]}")
		all[host] = c.Upstream(host+":443", Serve{TLS: config})
	}
	for host, u := range all {
		c.S1().Each(Message{"GET", host, "/", []string{bearer(c.P)}, ""}, func(r *Response) {
			if r.Status != 502 || r.Code() != "upstream_tls" {
				c.Errorf("%s: %s", host, r)
			}
		})
		u.Nothing()
		if u.Dials() == 0 {
			c.Errorf("%s was not even dialled: nothing was tested", host)
		}
	}
	c.Status(c.S1().Do(api, get("/user", api, bearer(c.P))), 200)
	c.Equal(c.U1.Requests(1)[0].Value("Authorization"), "Bearer "+R)
}

func badUpstreamCertificates(c *Case) {
	good := c.ca()
	other, err := newTestCA("nobody vouches for this one")
	if err != nil {
		c.Fatal(err)
	}
	from := func(a *testCA, name string, change func(*x509.Certificate)) *tls.Config {
		cert, err := a.leaf(name+".bad.test", change)
		if err != nil {
			c.Fatalf("%s: %v", name, err)
		}
		return &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}}
	}
	configs := map[string]*tls.Config{
		"expired": from(good, "expired", func(t *x509.Certificate) {
			t.NotBefore, t.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-time.Hour)
		}),
		"future":  from(good, "future", func(t *x509.Certificate) { t.NotBefore = time.Now().Add(time.Hour) }),
		"wrong":   from(good, "right", nil),
		"unknown": from(other, "unknown", nil),
		"nosan":   from(good, "nosan", func(t *x509.Certificate) { t.DNSNames = nil }),
		"client": from(good, "client", func(t *x509.Certificate) {
			t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}),
		"self":      c.selfSigned("self.bad.test"),
		"sha1":      c.signedWithSHA1("sha1.bad.test"),
		"rsa1024":   c.rsaLeaf("rsa1024.bad.test", 1024),
		"chain":     c.longChain("chain.bad.test", 100),
		"malformed": {Certificates: []tls.Certificate{{Certificate: [][]byte{[]byte("no certificate at all")}, PrivateKey: good.key}}},
	}
	cut := from(good, "cut", nil)
	der := cut.Certificates[0].Certificate[0]
	cut.Certificates[0].Certificate[0] = append(der[:len(der)-40:len(der)-40], make([]byte, 40)...)
	configs["cut"] = cut
	c.servesBadly(configs)
	c.Recorded(2*len(configs), Want{"type": "result", "code": "upstream_tls"})
}

func (c *Case) selfSigned(name string) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.Fatal(err)
	}
	t := leafTemplate(name)
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		c.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// rsaLeaf is a good certificate but for the size of its key.
func (c *Case) rsaLeaf(name string, bits int) *tls.Config {
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		c.Fatalf("generate a key of %d bits: %v", bits, err)
	}
	a := c.ca()
	der, err := x509.CreateCertificate(rand.Reader, leafTemplate(name), a.cert, &key.PublicKey, a.key)
	if err != nil {
		c.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MaxVersion: tls.VersionTLS12}
}

// signedWithSHA1 is a good certificate but for the signature, which the library
// would not make any more: the algorithm is put in by hand.
func (c *Case) signedWithSHA1(name string) *tls.Config {
	caKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		c.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.Fatal(err)
	}
	a := c.ca()
	t := leafTemplate("an intermediate")
	t.DNSNames, t.ExtKeyUsage = nil, nil
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	interDER, err := x509.CreateCertificate(rand.Reader, t, a.cert, &caKey.PublicKey, a.key)
	if err != nil {
		c.Fatal(err)
	}
	inter, err := x509.ParseCertificate(interDER)
	if err != nil {
		c.Fatal(err)
	}
	leaf := leafTemplate(name)
	leaf.SignatureAlgorithm = x509.SHA256WithRSA
	der, err := x509.CreateCertificate(rand.Reader, leaf, inter, &key.PublicKey, caKey)
	if err != nil {
		c.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		c.Fatal(err)
	}
	sha256RSA, sha1RSA := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11}, []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5}
	tbs := bytes.Replace(parsed.RawTBSCertificate, sha256RSA, sha1RSA, 1)
	sum := sha1.Sum(tbs)
	sig, err := rsa.SignPKCS1v15(rand.Reader, caKey, crypto.SHA1, sum[:])
	if err != nil {
		c.Fatal(err)
	}
	der, err = asn1.Marshal(struct {
		TBS asn1.RawValue
		Alg pkix.AlgorithmIdentifier
		Sig asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 5}, Parameters: asn1.NullRawValue}, asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}})
	if err != nil {
		c.Fatal(err)
	}
	if again, err := x509.ParseCertificate(der); err != nil || again.SignatureAlgorithm != x509.SHA1WithRSA {
		c.Fatalf("the certificate is not signed with SHA-1: %v", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der, interDER}, PrivateKey: key}}}
}

// longChain puts n intermediates between the leaf and the authority.
func (c *Case) longChain(name string, n int) *tls.Config {
	a := c.ca()
	var chain [][]byte
	for i := range n {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			c.Fatal(err)
		}
		t := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 2)), Subject: pkix.Name{CommonName: fmt.Sprintf("intermediate %d", i)},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key)
		if err != nil {
			c.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			c.Fatal(err)
		}
		a, chain = &testCA{cert: cert, key: key}, append([][]byte{der}, chain...)
	}
	cert, err := a.leaf(name, nil)
	if err != nil {
		c.Fatal(err)
	}
	cert.Certificate = append(cert.Certificate, chain...)
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

func oldTLSAtTheUpstream(c *Case) {
	old := func(name string, change func(*tls.Config)) *tls.Config {
		config := c.Certificate(name + ".bad.test")
		change(config)
		return config
	}
	weak := func(name string, suite uint16) *tls.Config {
		config := c.rsaLeaf(name+".bad.test", 2048)
		config.CipherSuites, config.MinVersion = []uint16{suite}, tls.VersionTLS10
		return config
	}
	c.servesBadly(map[string]*tls.Config{
		"tls10": old("tls10", func(t *tls.Config) { t.MinVersion, t.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }),
		"tls11": old("tls11", func(t *tls.Config) { t.MinVersion, t.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }),
		"rc4":   weak("rc4", tls.TLS_RSA_WITH_RC4_128_SHA),
		"3des":  weak("3des", tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA),
	})
	c.renegotiation()
}

// renegotiation: a server that asks for a new handshake in the middle of a
// response gets none, and the client no whole response.
func (c *Case) renegotiation() {
	const host = "again.renegotiates.test"
	c.Rules.written = false
	c.Rules.Add("{name: again, hosts: [" + host + "], substitute: [{secret: github, in: header Authorization}]}")
	config := c.Certificate(host)
	config.MaxVersion, config.NextProtos = tls.VersionTLS12, []string{"http/1.1"}
	config.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	asked := make(chan error, 1)
	u := c.Upstream(host+":443", Serve{TLS: config, Script: func(conn *wireConn) {
		if !readHead(conn) {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
		if err := helloRequest(conn.Conn.(*tls.Conn)); err != nil {
			asked <- err
			return
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, err := conn.Read(make([]byte, 1))
		asked <- err
	}})
	s := c.Start(Start{Name: "after the rules changed"})
	r := s.Do(host, get("/", host, bearer(c.P)))
	if r.Status == 200 && r.Err == nil {
		c.Errorf("a whole response: %s", r)
	}
	c.arrived(u, 1)
	if err := <-asked; err == nil || strings.Contains(err.Error(), "timeout") || strings.Contains(err.Error(), "ask:") {
		c.Errorf("the gateway did not refuse the new handshake: %v", err)
	}
}

// helloRequest writes what a TLS 1.2 server asks for a new handshake with.
func helloRequest(conn *tls.Conn) error { return handshakeRecord(conn, []byte{0, 0, 0, 0}) }

// handshakeRecord writes a handshake message into a TLS 1.2 connection that has
// shaken hands. crypto/tls has no way to send it, so the record is sealed with
// the connection's own cipher, which is taken out of it.
func handshakeRecord(conn *tls.Conn, message []byte) error {
	out := reflect.ValueOf(conn).Elem().FieldByName("out")
	field := func(name string) reflect.Value {
		f := out.FieldByName(name)
		return reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem()
	}
	aead, ok := field("cipher").Interface().(cipher.AEAD)
	if !ok {
		return fmt.Errorf("ask: the cipher is a %T", field("cipher").Interface())
	}
	seq := field("seq").Interface().([8]byte)
	additional := append(append([]byte{}, seq[:]...), 22, 3, 3, byte(len(message)>>8), byte(len(message)))
	sealed := aead.Seal(append([]byte{}, seq[:]...), seq[:], message, additional)
	record := binary.BigEndian.AppendUint16([]byte{22, 3, 3}, uint16(len(sealed)))
	if _, err := conn.NetConn().Write(append(record, sealed...)); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	return nil
}

// truncatedResponses: an upstream whose connection is cut must not look like
// one that has finished.
func truncatedResponses(c *Case) {
	responses := []string{
		"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\npartial",
		"HTTP/1.0 200 OK\r\n\r\npartial",
		"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npartial\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npart",
	}
	for _, text := range responses {
		c.UR.Script(func(conn *wireConn) {
			if readHead(conn) {
				_, _ = io.WriteString(conn, text)
				time.Sleep(100 * time.Millisecond) // so that the head is on its way
				conn.CloseWithoutNotify()
			}
		})
		c.S1().Each(Message{"GET", scripts, "/", []string{bearer(c.P)}, ""}, func(r *Response) {
			if r.Status == 200 && r.Err == nil {
				c.Errorf("%q looks whole: %s", text, r)
			}
			if r.Status != 200 && r.Err == nil {
				c.Refused(r, 502, "upstream_protocol")
			}
		})
	}
	// With close_notify the first two are whole.
	for _, text := range responses[:2] {
		c.UR.Script(func(conn *wireConn) {
			if readHead(conn) {
				_, _ = io.WriteString(conn, text)
			}
		})
		c.S1().Each(Message{"GET", scripts, "/", []string{bearer(c.P)}, ""}, func(r *Response) {
			c.Status(r, 200)
			c.Equal(string(r.Body), "partial")
		})
	}
	c.arrived(c.UR, 2*len(responses)+4)
}
