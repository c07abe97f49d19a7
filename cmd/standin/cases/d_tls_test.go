//go:build linux

package cases

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// What comes after CONNECT, instead of TLS and below it.

func sectionDTLS() []entry {
	return []entry{
		{"D35", noTLSAfterConnect},
		{"D36", abusesOfTLS},
	}
}

func noTLSAfterConnect(c *Case) {
	s := c.S1()
	texts := []string{
		get("/", api, bearer(c.P)), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "SSH-2.0-OpenSSH_9.9\r\n", "EHLO me\r\n", "CONNECT " + evil + ":443 HTTP/1.1\r\nHost: " + evil + "\r\n\r\n", "\x00\x00\x00\x00", "\xff", "\r\n", c.P,
		"\x16", "\x16\x03", "\x16garbage", "\x16\x03\x01\x00\x04\x01\x00\x00\x00", "\x16\x03\x01\xff\xffgarbage", "\x16\x03\x01\x00\x00", strings.Repeat("\x16\x03\x01\x00\x00", 2000), "\x16\x02\x00\x00\x05hello", "\x16\x03\x01\x00\x05hello", "\x16\x03\x03\x00\x04\x02\x00\x00\x00" + strings.Repeat("x", 100),
		"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80\x02\x00\x80\x03\x00\x80\x04\x00\x80\x05\x00\x80\x06\x00\x40\x07\x00\xc0" + strings.Repeat("c", 16), // SSLv2
		"\x14\x03\x01\x00\x01\x01", "\x15\x03\x01\x00\x02\x02\x28", "\x17\x03\x03\x00\x05hello", "\x18\x03\x02\x00\x03\x01\x40\x00", // other records first, and a heartbeat
		"",
	}
	for _, text := range texts {
		d := s.Dialled(api + ":443")
		d.Send(text)
		if half, ok := d.Conn.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
		// Nothing but an alert comes back, and then the end.
		if got := d.firstRecord(); got != "closed" && got != "alert" {
			c.Errorf("%q is answered with %s", clip(text), got)
		}
		d.Close()
	}
	// The same in one breath with the CONNECT: before an answer could be read.
	d := s.Door()
	d.Send("CONNECT " + api + ":443 HTTP/1.1\r\nHost: " + api + ":443\r\n" + s.Credentials() + "\r\n\r\n" + get("/", api, bearer(c.P)))
	if r := d.ends("CONNECT"); r != nil {
		c.Status(r, 200)
		_ = d.Closed()
	}
	c.U1.Undialled()
	c.U2.Undialled()
	c.U3.Undialled()
	for _, r := range c.Records() {
		if has(r, Want{"type": "deny"}) && r["code"] != "bad_request" {
			c.Errorf("recorded as %v", r)
		}
	}
	// Bytes that came with the CONNECT are a greeting like any other.
	d = s.Door()
	d.Send("CONNECT " + api + ":443 HTTP/1.1\r\nHost: " + api + ":443\r\n" + s.Credentials() + "\r\n\r\n" + string(tlsRecord(c.build(greeting{}))))
	c.Status(d.Response("CONNECT"), 200)
	c.equalTo(d.firstRecord(), "hello")
	d.Close()
}

func abusesOfTLS(c *Case) {
	s := c.S1()
	before := c.processorTime(s)
	c.renegotiates(s)
	c.updatesKeys(s)
	// Early data, without a ticket that could allow them.
	d := s.Dialled(api + ":443")
	d.Send(string(tlsRecord(c.build(greeting{more: []extension{{42, nil}}}))) + "\x17\x03\x03\x40\x00" + strings.Repeat("e", 1<<14))
	if got := d.untilTheEnd(); got > 64<<10 {
		c.Errorf("early data are answered with %d bytes", got)
	}
	// A greeting that says that it is longer than any is.
	for _, size := range []int{1 << 16, 1<<24 - 1} {
		d := s.Dialled(api + ":443")
		head := []byte{1, byte(size >> 16), byte(size >> 8), byte(size)}
		go d.Send(string(tlsRecord(head)) + strings.Repeat(string(tlsRecord(make([]byte, 1<<14))), 80))
		if got := d.firstRecord(); got != "alert" && got != "closed" {
			c.Errorf("a greeting of %d bytes: %s", size, got)
		}
		d.Close()
	}
	// Records of nothing, and of one kind after another.
	for _, text := range []string{strings.Repeat("\x16\x03\x01\x00\x00", 5000), string(tlsRecord(c.build(greeting{}))) + strings.Repeat("\x14\x03\x03\x00\x01\x01", 5000)} {
		d := s.Dialled(api + ":443")
		go d.Send(text)
		_ = d.untilTheEnd()
	}
	c.U1.Undialled()
	// Cut into records of one byte, a greeting is still one.
	d = s.Dialled(api + ":443")
	t, err := s.TLS(c.conn("in small records", &smallRecords{Conn: d.Conn}), &tls.Config{ServerName: api, NextProtos: []string{"http/1.1"}})
	if err != nil {
		c.Fatalf("a greeting in records of one byte: %v", err)
	}
	t.Send(get("/small", api, bearer(c.P)))
	c.Status(t.Response("GET"), 200)
	c.Equal(c.arrivedAt(c.U1, 1)[0].Value("Authorization"), "Bearer "+R)
	if took := c.processorTime(s) - before; took > 2*time.Second {
		c.Errorf("the gateway worked for %v", took)
	}
}

// untilTheEnd counts what comes until the other side ends the connection.
func (d *Conn) untilTheEnd() int {
	d.c.Helper()
	defer d.Close()
	n := 0
	for buf := make([]byte, 4096); ; {
		got, err := d.in.Read(buf)
		n += got
		if late, ok := err.(net.Error); ok && late.Timeout() {
			d.c.Errorf("the connection was not ended")
		}
		if err != nil {
			return n
		}
	}
}

// processorTime is what the gateway has worked so far.
func (c *Case) processorTime(s *Session) time.Duration {
	c.Helper()
	stat, err := os.ReadFile(procFile(s.Gateway, "stat"))
	if err != nil {
		c.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// smallRecords cuts the first record, the greeting, into records of one byte.
type smallRecords struct {
	net.Conn
	done bool
}

func (s *smallRecords) Write(p []byte) (int, error) {
	if s.done {
		return s.Conn.Write(p)
	}
	s.done = true
	var out []byte
	for _, b := range p[5:] {
		out = append(out, p[0], p[1], p[2], 0, 1, b)
	}
	if _, err := s.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// renegotiates greets anew within a connection of TLS 1.2.
func (c *Case) renegotiates(s *Session) {
	c.Helper()
	d := s.Dialled(api + ":443")
	t, err := s.TLS(d, &tls.Config{ServerName: api, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		c.Fatal(err)
	}
	if err := handshakeRecord(t.Conn.(*tls.Conn), c.build(greeting{})); err != nil {
		c.Fatal(err)
	}
	t.Send(get("/again", api, bearer(c.P)))
	if r := t.Response("GET"); r.Err == nil {
		c.Errorf("the connection goes on after a second greeting: %s", r)
	}
	_ = t.Closed()
	t.Close()
}

// updatesKeys sends 64 KiB of KeyUpdate messages (RFC 8446, 4.6.3), each under
// the key that the one before it made.
func (c *Case) updatesKeys(s *Session) {
	c.Helper()
	d := s.Dialled(api + ":443")
	var secrets bytes.Buffer
	t, err := s.TLS(d, &tls.Config{ServerName: api, MinVersion: tls.VersionTLS13, KeyLogWriter: &secrets, NextProtos: []string{"http/1.1"}})
	if err != nil {
		c.Fatal(err)
	}
	if suite := t.Conn.(*tls.Conn).ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		c.Fatalf("the suite is %s", tls.CipherSuiteName(suite))
	}
	_, line, _ := strings.Cut(secrets.String(), "CLIENT_TRAFFIC_SECRET_0 ")
	secret, err := hex.DecodeString(strings.Fields(line)[1])
	if err != nil {
		c.Fatal(err)
	}
	var flood []byte
	for len(flood) < 64<<10 {
		sealed, err := sealedRecord(secret, []byte{24, 0, 0, 1, 1})
		if err != nil {
			c.Fatal(err)
		}
		flood = append(flood, sealed...)
		if secret, err = expandLabel(secret, "traffic upd", sha256.Size); err != nil {
			c.Fatal(err)
		}
	}
	go d.Send(string(flood))
	_ = d.untilTheEnd()
}

// sealedRecord is the first record under a traffic secret: a handshake message.
func sealedRecord(secret, message []byte) ([]byte, error) {
	key, err := expandLabel(secret, "key", 16)
	if err != nil {
		return nil, err
	}
	nonce, err := expandLabel(secret, "iv", 12)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	head := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(message)+1+aead.Overhead()))
	return aead.Seal(head, nonce, append(bytes.Clone(message), 22), head), nil
}

// expandLabel is HKDF-Expand-Label (RFC 8446, 7.1) without a context.
func expandLabel(secret []byte, label string, length int) ([]byte, error) {
	info := fmt.Sprintf("\x00%c%ctls13 %s\x00", length, len("tls13 "+label), label)
	return hkdf.Expand(sha256.New, secret, info, length)
}
