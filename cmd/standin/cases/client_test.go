//go:build linux

package cases

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"time"
)

// patience bounds every read and write of a client.
const patience = 60 * time.Second

// Conn is a client's connection to the proxy: the bare TCP connection or the
// TLS connection through it. All that it receives is kept for NOLEAK.
type Conn struct {
	net.Conn
	c  *Case
	in *bufio.Reader
	// Raw is all that was received, decrypted.
	Raw *lockedBuffer
}

func (c *Case) conn(what string, n net.Conn) *Conn {
	_ = n.SetDeadline(time.Now().Add(patience))
	raw := newLockedBuffer()
	d := &Conn{Conn: n, c: c, in: bufio.NewReader(io.TeeReader(n, raw)), Raw: raw}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = append(c.open, n)
	c.late = append(c.late, func() heard { return heard{what, raw.Bytes()} })
	return d
}

// Door opens a TCP connection to the session's proxy.
func (s *Session) Door() *Conn {
	s.c.Helper()
	n, err := net.DialTimeout("tcp", s.Proxy.Host, patience)
	if err != nil {
		s.c.Fatalf("%s: dial the proxy: %v", s.Name, err)
	}
	return s.c.conn("front door of "+s.Name, n)
}

// Credentials is the Proxy-Authorization field of the session.
func (s *Session) Credentials() string {
	password, _ := s.Proxy.User.Password()
	return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(s.Proxy.User.Username()+":"+password))
}

// Connect sends a CONNECT with the session's credentials and returns the
// connection and the answer.
func (s *Session) Connect(authority string) (*Conn, *Response) {
	s.c.Helper()
	d := s.Door()
	d.Send("CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\n" + s.Credentials() + "\r\n\r\n")
	return d, d.Response("CONNECT")
}

// Dialled is Connect for a tunnel that must stand.
func (s *Session) Dialled(authority string) *Conn {
	s.c.Helper()
	d, r := s.Connect(authority)
	if r.Status != 200 {
		s.c.Fatalf("%s: CONNECT %s: %s", s.Name, authority, r)
	}
	return d
}

// TLS begins TLS on a connection, trusting what the command trusts.
func (s *Session) TLS(d *Conn, config *tls.Config) (*Conn, error) {
	s.c.Helper()
	config = config.Clone()
	if config.RootCAs == nil {
		config.RootCAs = s.Roots
	}
	t := tls.Client(&buffered{d.Conn, d.in}, config)
	if err := t.Handshake(); err != nil {
		return nil, err
	}
	return s.c.conn("tunnel of "+s.Name, t), nil
}

// Tunnel opens a tunnel to host:port (443 if there is no port) and begins TLS
// with that name, for HTTP/1.1.
func (s *Session) Tunnel(authority string) *Conn {
	s.c.Helper()
	return s.tunnel(authority, "http/1.1")
}

func (s *Session) tunnel(authority string, alpn ...string) *Conn {
	s.c.Helper()
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		host, authority = authority, net.JoinHostPort(authority, "443")
	}
	t, err := s.TLS(s.Dialled(authority), &tls.Config{ServerName: host, NextProtos: alpn})
	if err != nil {
		s.c.Fatalf("%s: TLS to %s: %v\nlog: %s", s.Name, authority, err, s.c.tail(s))
	}
	return t
}

// Do opens a tunnel, sends the bytes of one request and reads the answer.
func (s *Session) Do(authority, request string) *Response {
	s.c.Helper()
	t := s.Tunnel(authority)
	defer t.Close()
	t.Send(request)
	method, _, _ := strings.Cut(request, " ")
	return t.Response(method)
}

// Send writes the bytes. The other side may close early: the answer tells.
func (d *Conn) Send(text string) {
	_, _ = io.WriteString(d.Conn, text)
}

// Closed asserts that the other side ends the connection without a further
// byte, and returns the error with which it ended.
func (d *Conn) Closed() error {
	d.c.Helper()
	rest, err := io.ReadAll(d.in)
	if len(rest) > 0 {
		d.c.Errorf("received %q before the end", clip(string(rest)))
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		d.c.Errorf("the connection was not closed")
	}
	return err
}

// Response is an answer as the client received it.
type Response struct {
	Status  int
	Reason  string
	Proto   string
	Header  http.Header
	Body    []byte
	Trailer http.Header
	Interim []*Response // 1xx that came before
	Raw     []byte      // head and decoded body
	Length  int64       // Content-Length, -1 if none
	Err     error       // the answer did not arrive whole
	Closing bool        // HTTP/1.1: the connection ends with this response
}

// String is for messages.
func (r *Response) String() string {
	return fmt.Sprintf("%d %s (%v) %v %q", r.Status, r.Reason, r.Err, r.Header, clip(string(r.Body)))
}

// refusal is the body of a refusal.
type refusal struct{ Error, ID, Hint string }

// Refusal is the body of a refusal, read.
func (r *Response) Refusal() refusal {
	var f refusal
	_ = json.Unmarshal(r.Body, &f)
	return f
}

// Code is the code of a refusal, or "".
func (r *Response) Code() string { return r.Refusal().Error }

// Response reads one answer. Nothing is fatal here: Err says what went wrong.
func (d *Conn) Response(method string) *Response {
	var interim []*Response
	for {
		r := d.read(method)
		if r.Err == nil && r.Status >= 100 && r.Status < 200 && r.Status != 101 {
			interim = append(interim, r)
			continue
		}
		r.Interim = interim
		d.c.Hear("response", r.Raw)
		return r
	}
}

func (d *Conn) read(method string) *Response {
	res, err := http.ReadResponse(d.in, &http.Request{Method: method})
	if err != nil {
		return &Response{Err: err, Header: http.Header{}}
	}
	r := &Response{Status: res.StatusCode, Proto: res.Proto, Header: res.Header, Length: res.ContentLength, Closing: res.Close}
	_, r.Reason, _ = strings.Cut(res.Status, " ")
	if method != http.MethodConnect || res.StatusCode != 200 {
		r.Body, r.Err = io.ReadAll(res.Body)
	}
	r.Trailer = res.Trailer
	r.Raw = dump(r)
	return r
}

// dump is the head and the decoded body: a value cut by chunks is whole here.
func dump(r *Response) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d %s\n", r.Status, r.Reason)
	for _, h := range []http.Header{r.Header, r.Trailer} {
		for name, values := range h {
			for _, v := range values {
				fmt.Fprintf(&b, "%s: %s\n", name, v)
			}
		}
	}
	b.Write(r.Body)
	return b.Bytes()
}

// buffered is a connection of which some bytes were already read.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

// message is the bytes of an HTTP/1.1 request with the body's Content-Length.
func message(method, target, host, body string, fields ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, target, host)
	for _, f := range fields {
		b.WriteString(f + "\r\n")
	}
	if body != "" || method == http.MethodPost {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	return b.String() + "\r\n" + body
}

// get is the bytes of an HTTP/1.1 GET.
func get(target, host string, fields ...string) string {
	return message("GET", target, host, "", fields...)
}

// postJSON is the bytes of an HTTP/1.1 POST of JSON.
func postJSON(target, host, body string, fields ...string) string {
	return message("POST", target, host, body, append([]string{"Content-Type: application/json"}, fields...)...)
}

// basic is the value of a Basic Authorization field.
func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

// Stream reads the head of an answer and returns its body as it comes.
func (d *Conn) Stream() io.Reader {
	d.c.Helper()
	res, err := http.ReadResponse(d.in, &http.Request{Method: "GET"})
	if err != nil {
		d.c.Fatalf("read the head of a stream: %v", err)
	}
	if res.StatusCode != 200 {
		d.c.Fatalf("the stream is answered %s", res.Status)
	}
	return d.c.heardReader("stream", res.Body)
}

// heardReader keeps what goes by, for NOLEAK.
func (c *Case) heardReader(what string, in io.Reader) io.Reader {
	all := newLockedBuffer()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.late = append(c.late, func() heard { return heard{what, all.Bytes()} })
	return io.TeeReader(in, all)
}
