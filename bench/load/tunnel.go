package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"standin/bench/sight"
	"standin/bench/upstream"
)

// patience is how long anything may take before it counts as hanging.
const patience = 60 * time.Second

// tunnel is one connection through the proxy, with TLS inside.
type tunnel struct {
	conn *tls.Conn
	in   *bufio.Reader
}

// open makes a tunnel to host.
func (c *Client) open(host string, protocols ...string) (*tunnel, error) {
	raw, err := net.DialTimeout("tcp", c.proxy.Host, patience)
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(patience))
	if err := c.connect(raw, host); err != nil {
		_ = raw.Close()
		return nil, err
	}
	config := c.tls.Clone()
	config.ServerName = host
	if len(protocols) > 0 {
		config.NextProtos = protocols
	}
	conn := tls.Client(raw, config)
	if err := conn.Handshake(); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("handshake through the proxy: %w", err)
	}
	return &tunnel{conn, bufio.NewReaderSize(conn, 32<<10)}, nil
}

func (c *Client) connect(raw net.Conn, host string) error {
	authority := net.JoinHostPort(host, c.job.Port)
	request := "CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\n"
	if user := c.proxy.User; user != nil {
		password, _ := user.Password()
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)) + "\r\n"
	}
	if _, err := io.WriteString(raw, request+"\r\n"); err != nil {
		return err
	}
	in := bufio.NewReader(raw)
	resp, err := http.ReadResponse(in, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return fmt.Errorf("connect through the proxy: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("connect through the proxy: %s", resp.Status)
	}
	if in.Buffered() > 0 {
		return fmt.Errorf("connect through the proxy: %d bytes came before ours", in.Buffered())
	}
	return nil
}

// request is what is written for each request: head, then body.
type request struct {
	head []byte
	body [][]byte
	like *http.Request // how the answer is read
}

func (c *Client) request(host string) *request {
	var head bytes.Buffer
	if c.job.Port != "443" {
		host = net.JoinHostPort(host, c.job.Port)
	}
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n", c.job.Method, c.job.Path, host)
	if c.job.Bearer != "" {
		fmt.Fprintf(&head, "Authorization: Bearer %s\r\n", c.job.Bearer)
	}
	var body [][]byte
	if c.job.Body.Size > 0 {
		head.WriteString("Content-Type: application/json\r\n")
		body = c.job.Body.pieces()
		if c.job.Body.Chunked {
			head.WriteString("Transfer-Encoding: chunked\r\n")
		} else {
			fmt.Fprintf(&head, "Content-Length: %d\r\n", c.job.Body.Size)
		}
	}
	head.WriteString("\r\n")
	return &request{head.Bytes(), body, &http.Request{Method: c.job.Method}}
}

// pieces is the body as it is written, in pieces of at most 1 MiB that share
// their memory where they are the same.
func (b Body) pieces() [][]byte {
	const begin = `{"messages":"`
	end := `","auth":{"token":"` + b.Token + `","kind":"bearer"}}`
	text := []byte(strings.Map(harmless, string(upstream.Text(min(b.Size, 1<<20)))))
	pieces := [][]byte{[]byte(begin)}
	for rest := b.Size - len(begin) - len(end); rest > 0; {
		piece := text[:min(rest, len(text))]
		pieces = append(pieces, piece)
		rest -= len(piece)
	}
	pieces = append(pieces, []byte(end))
	if !b.Chunked {
		return pieces
	}
	return chunked(pieces)
}

// harmless makes any text a JSON string's.
func harmless(r rune) rune {
	if r == '"' || r == '\\' || r < ' ' {
		return ' '
	}
	return r
}

// chunked cuts the pieces into chunks of 32 KiB, as a client that streams does.
func chunked(pieces [][]byte) [][]byte {
	const size = 32 << 10
	made := map[*byte][]byte{}
	out := make([][]byte, 0, len(pieces)+1)
	for _, piece := range pieces {
		whole := len(piece) == 1<<20
		if done := made[&piece[0]]; whole && done != nil {
			out = append(out, done)
			continue
		}
		var framed []byte
		for rest := piece; len(rest) > 0; rest = rest[min(len(rest), size):] {
			part := rest[:min(len(rest), size)]
			framed = append(append(fmt.Appendf(framed, "%x\r\n", len(part)), part...), "\r\n"...)
		}
		if whole {
			made[&piece[0]] = framed
		}
		out = append(out, framed)
	}
	return append(out, []byte("0\r\n\r\n"))
}

// exchange sends one request and reads its answer to the end.
func (c *Client) exchange(t *tunnel, r *request) error {
	_, sent := t.conn.Write(r.head)
	for _, piece := range r.body {
		if sent == nil {
			_, sent = t.conn.Write(piece)
		}
	}
	resp, err := http.ReadResponse(t.in, r.like)
	if err != nil {
		return fmt.Errorf("read answer: %w", cmpError(sent, err))
	}
	defer resp.Body.Close()
	if err := c.check(resp); err != nil {
		return err
	}
	return cmpError(sent, nil)
}

// cmpError is the first of two errors.
func cmpError(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// check reads an answer to its end and says whether the work was done.
func (c *Client) check(resp *http.Response) error {
	if err := c.checkHead(resp); err != nil {
		return err
	}
	if c.job.Scrubs == "" {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	watch := sight.New(upstream.Secret, c.job.Scrubs)
	if _, err := io.Copy(watch, resp.Body); err != nil {
		return err
	}
	if watch.Saw(0) || !watch.Saw(1) {
		return fmt.Errorf("the answer was not scrubbed: secret in it %t, placeholder in it %t", watch.Saw(0), watch.Saw(1))
	}
	return nil
}

func (c *Client) checkHead(resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return fmt.Errorf("answer %d: %s", resp.StatusCode, bytes.TrimSpace(text))
	}
	if saw := resp.Header.Get(upstream.Seen); saw != c.job.Expect {
		return fmt.Errorf("the upstream saw %q, not %q", saw, c.job.Expect)
	}
	return nil
}

// Once makes one tunnel and one request, and no more.
func Once(ctx context.Context, job Job) error {
	job.Kind, job.Workers = Fresh, 1
	c, err := New(job)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err = c.workers[0].step()
	return err
}
