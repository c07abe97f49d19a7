//go:build linux

package cases

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

// WebSockets, frame by frame: a client and a server that can do what they must not.

// wsRule lets R stand in the handshake and in messages at UR.
const wsRule = "{name: ws, hosts: [" + scripts + "], paths: [/ws], websocket: true, substitute: [{secret: github, in: [header Authorization, websocket]}]}"

// Kinds of frames.
const (
	wsMore   = 0x0
	wsText   = 0x1
	wsBinary = 0x2
	wsClose  = 0x8
	wsPing   = 0x9
	wsPong   = 0xa
	wsFin    = 0x80
)

// wsFrame is the bytes of one frame. The first byte is as it stands on the wire,
// so that bits can be set which must not be.
func wsFrame(first byte, payload string, masked bool) string {
	b := []byte{first}
	bit := byte(0)
	if masked {
		bit = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, bit|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, bit|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, bit|127), uint64(n))
	}
	if !masked {
		return string(b) + payload
	}
	var mask [4]byte
	rand.Read(mask[:])
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return string(b)
}

// wsClosing is the payload of a Close.
func wsClosing(code int, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(code))) + reason
}

// wsPeer is one end of a WebSocket.
type wsPeer struct {
	net.Conn
	c      *Case
	in     *bufio.Reader
	client bool
	Head   string // of the handshake's request, at a server

	op     int // of the message under way, between whose fragments others may stand
	text   string
	frames int
}

// frame is a frame as it came, without its mask.
type frame struct {
	fin     bool
	op      int
	payload string
	masked  bool
	mask    [4]byte
}

// Send sends one frame, framed as this end must.
func (p *wsPeer) Send(first byte, payload string) {
	_, _ = io.WriteString(p.Conn, wsFrame(first, payload, p.client))
}

// Frame reads one frame.
func (p *wsPeer) Frame() (frame, error) {
	var b [8]byte
	if _, err := io.ReadFull(p.in, b[:2]); err != nil {
		return frame{}, err
	}
	f := frame{fin: b[0]&0x80 != 0, op: int(b[0] & 0x0f), masked: b[1]&0x80 != 0}
	if b[0]&0x70 != 0 {
		return f, fmt.Errorf("a reserved bit is set: %#x", b[0])
	}
	n := uint64(b[1] & 0x7f)
	if more := map[uint64]int{126: 2, 127: 8}[n]; more > 0 {
		if _, err := io.ReadFull(p.in, b[8-more:]); err != nil {
			return f, err
		}
		clear(b[:8-more])
		n = binary.BigEndian.Uint64(b[:])
	}
	if f.masked {
		if _, err := io.ReadFull(p.in, f.mask[:]); err != nil {
			return f, err
		}
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(p.in, payload); err != nil {
		return f, err
	}
	if f.masked {
		for i := range payload {
			payload[i] ^= f.mask[i%4]
		}
	}
	f.payload = string(payload)
	if f.masked == p.client {
		return f, errors.New("a mask where none belongs, or none where one does")
	}
	if p.client {
		p.c.Hear("frame", payload)
	}
	return f, nil
}

// Message reads one message, whole, and how many frames it came in. A control
// frame is a message of its own.
func (p *wsPeer) Message() (op int, text string, frames int, err error) {
	for {
		f, err := p.Frame()
		if err != nil {
			return 0, "", 0, err
		}
		if f.op >= wsClose {
			return f.op, f.payload, 1, nil
		}
		if (p.frames == 0) == (f.op == wsMore) {
			return f.op, f.payload, 0, fmt.Errorf("fragment %d is of kind %d", p.frames, f.op)
		}
		if p.frames++; p.frames == 1 {
			p.op, p.text = f.op, ""
		}
		if p.text += f.payload; f.fin {
			if p.client {
				p.c.Hear("message", []byte(p.text))
			}
			frames, p.frames = p.frames, 0
			return p.op, p.text, frames, nil
		}
	}
}

// Says asserts the next message.
func (p *wsPeer) Says(op int, want string) {
	p.c.Helper()
	got, text, _, err := p.Message()
	if err != nil || got != op || text != want {
		p.c.Errorf("got kind %d, %q (%v), want kind %d, %q", got, clip(text), err, op, clip(want))
	}
}

// Closes asserts that the next message is a Close with that code, and an end.
func (p *wsPeer) Closes(code int) (reason string) {
	p.c.Helper()
	op, text, _, err := p.Message()
	if err != nil || op != wsClose || len(text) < 2 || int(binary.BigEndian.Uint16([]byte(text))) != code {
		p.c.Errorf("got kind %d, %q (%v), want a close with %d", op, clip(text), err, code)
		return ""
	}
	if t, ok := p.Conn.(*Conn); ok {
		if half, ok := t.Conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}
	if rest, err := io.ReadAll(p.in); len(rest) > 0 || isTimeout(err) {
		p.c.Errorf("after the close came %q, %v", clip(string(rest)), err)
	}
	return text[2:]
}

// Cut asserts that the connection ends without a word.
func (p *wsPeer) Cut() {
	p.c.Helper()
	if op, text, _, err := p.Message(); err == nil || isTimeout(err) {
		p.c.Errorf("got kind %d, %q (%v), want an end", op, clip(text), err)
	}
}

func isTimeout(err error) bool {
	var late net.Error
	return errors.As(err, &late) && late.Timeout()
}

// wsServe has an upstream accept WebSockets, and serve each.
func (c *Case) wsServe(u *Upstream, serve func(*wsPeer)) {
	u.Script(func(conn *wireConn) {
		p := &wsPeer{Conn: conn, c: c, in: bufio.NewReader(conn)}
		if !p.accept("") {
			return
		}
		serve(p)
	})
}

// accept reads a handshake and answers it, with more fields.
func (p *wsPeer) accept(more string) bool {
	var head strings.Builder
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		line, err := p.in.ReadString('\n')
		if err != nil {
			return false
		}
		head.WriteString(line)
	}
	p.Head = head.String()
	return p.answer(p.Head, more)
}

// answer accepts the handshake of a request's head.
func (p *wsPeer) answer(head, more string) bool {
	key := fieldOf(head, "Sec-WebSocket-Key")
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, err := io.WriteString(p.Conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+
		base64.StdEncoding.EncodeToString(sum[:])+"\r\n"+more+"\r\n")
	return err == nil
}

// fieldOf is the value of a field of a head.
func fieldOf(head, name string) string {
	for _, f := range fieldLines(strings.Split(strings.TrimSuffix(head, "\r\n\r\n"), "\r\n")[1:]) {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// wsHead is a handshake's request.
func wsHead(host, path string, fields ...string) string {
	return message("GET", path, host, "", append([]string{strings.TrimSuffix(webSocketFields, "\r\n")}, fields...)...)
}

// WebSocket opens one, which must be accepted.
func (s *Session) WebSocket(host, path string, fields ...string) *wsPeer {
	s.c.Helper()
	t := s.Tunnel(host)
	t.Send(wsHead(host, path, fields...))
	r := t.Response("GET")
	if r.Status != 101 || r.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		s.c.Fatalf("%s: the handshake with %s%s was answered with %s", s.Name, host, path, r)
	}
	return &wsPeer{Conn: t, c: s.c, in: t.in, client: true}
}

// parrot answers each message with itself, and a Close with a Close.
func parrot(p *wsPeer) {
	for {
		op, text, _, err := p.Message()
		if err != nil {
			return
		}
		if op == wsPing {
			op = wsPong
		}
		p.Send(byte(op)|wsFin, text)
		if op == wsClose {
			return
		}
	}
}

// Goodbye closes in order.
func (p *wsPeer) Goodbye() {
	p.c.Helper()
	p.Send(wsClose|wsFin, wsClosing(1000, "done"))
	p.c.Equal(p.Closes(1000), "done")
	_ = p.Close()
}

// heads are the heads of the handshakes that an upstream received.
func (c *Case) heads(u *Upstream, n int) []*Request {
	c.Helper()
	var heads []*Request
	for _, w := range u.list() {
		if all := parseH1(w.bytes()); len(all) > 0 {
			heads = append(heads, all[0])
		}
	}
	u.asserted()
	if len(heads) != n {
		c.Fatalf("%s received %d handshakes, not %d", u.Name, len(heads), n)
	}
	return heads
}

// countFrames reads one message without keeping it, and returns how long it was
// and how it ended.
func countFrames(conn net.Conn) (n int64, tail string) {
	in := bufio.NewReaderSize(conn, 64<<10)
	for {
		var b [14]byte
		if _, err := io.ReadFull(in, b[:2]); err != nil {
			return n, tail
		}
		first, masked, length := b[0], b[1]&0x80 != 0, uint64(b[1]&0x7f)
		if more := map[uint64]int{126: 2, 127: 8}[length]; more > 0 {
			clear(b[:8])
			if _, err := io.ReadFull(in, b[8-more:8]); err != nil {
				return n, tail
			}
			length = binary.BigEndian.Uint64(b[:8])
		}
		var mask [4]byte
		if masked {
			if _, err := io.ReadFull(in, mask[:]); err != nil {
				return n, tail
			}
		}
		rest := min(length, 64)
		if _, err := io.CopyN(io.Discard, in, int64(length-rest)); err != nil {
			return n, tail
		}
		last := make([]byte, rest)
		if _, err := io.ReadFull(in, last); err != nil {
			return n, tail
		}
		if masked {
			for i := range last {
				last[i] ^= mask[(length-rest+uint64(i))%4]
			}
		}
		n += int64(length)
		tail += string(last)
		if tail = tail[max(0, len(tail)-64):]; first&wsFin != 0 {
			return n, tail
		}
	}
}

// unrecorded is a tunnel of which nothing is kept: for what is too large.
func (s *Session) unrecorded(host string) net.Conn {
	s.c.Helper()
	conn, err := net.DialTimeout("tcp", s.Proxy.Host, patience)
	if err != nil {
		s.c.Fatal(err)
	}
	_, _ = io.WriteString(conn, "CONNECT "+host+":443 HTTP/1.1\r\nHost: "+host+":443\r\n"+s.Credentials()+"\r\n\r\n")
	if answer := headOf(conn); !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
		s.c.Fatalf("CONNECT was answered with %q", answer)
	}
	return tls.Client(conn, &tls.Config{ServerName: host, NextProtos: []string{"http/1.1"}, RootCAs: s.Roots})
}

// headOf reads a head, and no byte behind it.
func headOf(conn net.Conn) string {
	var head []byte
	for one := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); head = append(head, one[0]) {
		if _, err := conn.Read(one); err != nil {
			break
		}
	}
	return string(head)
}
