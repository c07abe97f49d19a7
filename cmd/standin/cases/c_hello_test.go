//go:build linux

package cases

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Greetings of TLS that no library would send.

// greeting says what is to be changed in a good ClientHello for api.
type greeting struct {
	names []string // the names of server_name, instead of api
	kind  byte     // their type, 0 for a host name
	more  []extension
}

type extension struct {
	id   uint16
	data []byte
}

const serverNameID = 0

// serverName is the extension server_name (RFC 6066, 3).
func serverName(kind byte, names ...string) extension {
	var list []byte
	for _, n := range names {
		list = append(list, kind)
		list = binary.BigEndian.AppendUint16(list, uint16(len(n)))
		list = append(list, n...)
	}
	return extension{serverNameID, append(binary.BigEndian.AppendUint16(nil, uint16(len(list))), list...)}
}

// hello is the handshake message of a good ClientHello for api.
func (c *Case) hello() []byte {
	c.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	go func() {
		_ = tls.Client(near, &tls.Config{ServerName: api, NextProtos: []string{"http/1.1"}}).Handshake()
	}()
	_ = far.SetDeadline(time.Now().Add(patience))
	head := make([]byte, 5)
	if _, err := io.ReadFull(far, head); err != nil {
		c.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(far, body); err != nil {
		c.Fatal(err)
	}
	return body
}

// build is the handshake message with the changes.
func (c *Case) build(g greeting) []byte {
	c.Helper()
	good := c.hello()
	at := 4 + 2 + 32 // header, version, random
	at += 1 + int(good[at])
	at += 2 + int(binary.BigEndian.Uint16(good[at:]))
	at += 1 + int(good[at])
	head, rest := good[4:at], good[at+2:]
	var all []byte
	add := func(e extension) {
		all = binary.BigEndian.AppendUint16(all, e.id)
		all = binary.BigEndian.AppendUint16(all, uint16(len(e.data)))
		all = append(all, e.data...)
	}
	for len(rest) > 0 {
		e := extension{binary.BigEndian.Uint16(rest), rest[4 : 4+binary.BigEndian.Uint16(rest[2:])]}
		rest = rest[4+len(e.data):]
		if e.id == serverNameID && g.names != nil {
			e = serverName(g.kind, g.names...)
		}
		add(e)
	}
	for _, e := range g.more {
		add(e)
	}
	body := append(binary.BigEndian.AppendUint16(append([]byte{}, head...), uint16(len(all))), all...)
	return append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
}

// tlsRecord is one record of a handshake in the clear.
func tlsRecord(payload []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{22, 3, 1}, uint16(len(payload))), payload...)
}

// greet sends a changed greeting through a tunnel to api and says what came
// first: "hello", "alert" or "closed".
func (c *Case) greet(g greeting) string {
	c.Helper()
	d := c.S1().Dialled(api + ":443")
	defer d.Close()
	d.Send(string(tlsRecord(c.build(g))))
	return d.firstRecord()
}

func (d *Conn) firstRecord() string {
	d.c.Helper()
	first, err := d.in.ReadByte()
	switch {
	case err != nil && strings.Contains(err.Error(), "timeout"):
		return "nothing"
	case err != nil:
		return "closed"
	case first == 21:
		return "alert"
	case first == 22:
		return "hello"
	}
	return string(first)
}

func (c *Case) equalTo(got, want string) {
	c.Helper()
	if got != want {
		c.Errorf("got %q, not %q", got, want)
	}
}

// ech is an outer ClientHello's extension (RFC 9849): HKDF-SHA256, AES-128-GCM,
// a key and a payload of noise.
var ech = extension{0xfe0d, append(append([]byte{0, 0, 1, 0, 1, 7, 0, 32}, make([]byte, 32)...), append([]byte{0, 64}, make([]byte, 64)...)...)}

func strangeGreetings(c *Case) {
	c.equalTo(c.greet(greeting{}), "hello")
	c.equalTo(c.greet(greeting{names: []string{"API.Allowed.Test"}}), "hello")
	c.equalTo(c.greet(greeting{more: []extension{ech}}), "hello")
	for name, g := range map[string]greeting{
		"address":                 {names: []string{"127.0.0.1"}},
		"IPv6 address":            {names: []string{"::1"}},
		"trailing dot":            {names: []string{api + "."}},
		"leading dot":             {names: []string{"." + api}},
		"wildcard":                {names: []string{"*.allowed.test"}},
		"256 bytes":               {names: []string{strings.Repeat("a", 63) + "." + strings.Repeat("b", 192)}},
		"60 KiB":                  {names: []string{strings.Repeat("a", 15<<10)}},
		"NUL at the end":          {names: []string{api + "\x00"}},
		"NUL and another":         {names: []string{api + "\x00." + evil}},
		"another and NUL":         {names: []string{evil + "\x00" + api}},
		"port":                    {names: []string{api + ":443"}},
		"space":                   {names: []string{api + " "}},
		"placeholder":             {names: []string{c.P}},
		"two names":               {names: []string{api, evil}},
		"two names, other first":  {names: []string{evil, api}},
		"twice the same":          {names: []string{api, api}},
		"no name in the list":     {names: []string{}},
		"empty name":              {names: []string{""}},
		"two extensions":          {more: []extension{serverName(0, evil)}},
		"broken list":             {more: []extension{{serverNameID, []byte{0, 9, 0, 0, 1, 'a'}}}},
		"outer of another":        {names: []string{evil}, more: []extension{ech}},
		"unknown type with other": {names: []string{evil}, kind: 0},
	} {
		if got := c.greet(g); got != "alert" && got != "closed" {
			c.Errorf("%s: %s", name, got)
		}
	}
	c.U1.Undialled()
	c.U2.Undialled()
	// Whatever the list of a type that nobody knows says, it is not a name.
	if got := c.greet(greeting{names: []string{evil}, kind: 7}); got == "nothing" {
		c.Errorf("a list of unknown type: %s", got)
	}
	for _, r := range c.Records() {
		if has(r, Want{"type": "deny"}) && r["code"] != "sni_mismatch" && r["code"] != "bad_request" {
			c.Errorf("a greeting is recorded as %v", r)
		}
	}
}

// file writes a file beside the rules and returns its path.
func (c *Case) file(name, text string) string {
	c.Helper()
	path := filepath.Join(c.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		c.Fatal(err)
	}
	return path
}
