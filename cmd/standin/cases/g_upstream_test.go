//go:build linux

package cases

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/net/http2"
)

// Upstreams that answer with too much, or not at all.

func sectionGUpstream() []entry {
	return []entry{
		{"G10", decompressionBombs},
		{"G14", silentUpstreams},
	}
}

// zeros compresses that many MiB of nothing.
func zeros(mib int, to io.WriteCloser) {
	block := make([]byte, 1<<20)
	for range mib {
		_, _ = to.Write(block)
	}
	_ = to.Close()
}

// bombs are bodies of some MiB that are said to be, and are, many GiB.
func bombs() map[string][]byte {
	var gz, zs, br bytes.Buffer
	zeros(16, gzip.NewWriter(&gz))
	w, err := zstd.NewWriter(&zs, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	zeros(16, w)
	zeros(128, brotli.NewWriterLevel(&br, 1))
	return map[string][]byte{
		"gzip": bytes.Repeat(gz.Bytes(), 640), // members follow one another: 10 GiB
		"zstd": bytes.Repeat(zs.Bytes(), 640),
		"br":   br.Bytes(), // a stream has one end
	}
}

func decompressionBombs(c *Case) {
	s := c.S1()
	bodies := bombs()
	var mu sync.Mutex
	coding, body := "", []byte(nil)
	bomb := func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/alive") {
			okHandler(w, r)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Encoding", coding)
		_, _ = w.Write(body)
	}
	c.U1.Handle(bomb)
	c.U2.Handle(bomb)
	asked := 0
	for _, name := range []string{"gzip", "zstd", "br", "deflate", "gzip, gzip", "x-unknown"} {
		mu.Lock()
		if coding, body = name, bodies[name]; body == nil {
			body = bodies["gzip"]
		}
		mu.Unlock()
		// With the placeholder and without: the host is one that a grant is for.
		const accept = "Accept-Encoding: gzip, sdch, br, x-unknown"
		for _, fields := range [][]string{{bearer(c.P), accept}, {accept}} {
			s.Each(Message{"GET", api, "/bomb", fields, ""}, func(r *Response) {
				c.Refused(r, 502, "unsafe_response")
			})
			asked += 2
		}
	}
	c.within("memory at most", c.usage(s).peak, 100<<10)
	for _, q := range c.U1.Requests(asked) {
		c.Equal(q.Values("Accept-Encoding"), []string{"gzip, br"})
	}
	// Where no grant is, nothing is unpacked: the bytes pass as they are.
	mu.Lock()
	coding, body = "gzip", bodies["gzip"][:1<<20]
	mu.Unlock()
	r := s.Do(evil, get("/bomb", evil))
	c.Status(r, 200)
	if !bytes.Equal(r.Body, body) {
		c.Errorf("%d bytes became %d", len(body), len(r.Body))
	}
	c.within("memory at most", c.usage(s).peak, 100<<10)
}

// blackHole is an address whose SYNs are dropped: the queue of its listener,
// which nobody serves, is full.
func (c *Case) blackHole() string {
	c.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err == nil {
		err = syscall.Listen(fd, 0)
	}
	if err != nil {
		c.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		c.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 8 {
		conn, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		if err != nil {
			return addr // full
		}
		c.Cleanup(func() { _ = conn.Close() })
	}
	c.Fatal("the queue of the listener is never full")
	return ""
}

func silentUpstreams(c *Case) {
	// Two hosts of each kind: one whose clients wait, one whose clients leave.
	hosts := []string{"hole.allowed.test", "mute.allowed.test", "hole2.allowed.test", "mute2.allowed.test", "quiet.allowed.test"}
	hole, mute, leftHole, leftMute, quiet := hosts[0], hosts[1], hosts[2], hosts[3], hosts[4]
	for _, host := range hosts {
		c.Rules.Add("{name: " + strings.TrimSuffix(host, ".allowed.test") + ", hosts: [" + host + "], substitute: [{secret: github, in: header Authorization}]}")
	}
	c.Rules.Dial(hole+":443", c.blackHole(), "")
	nowhere := c.blackHole()
	c.Rules.Dial(leftHole+":443", nowhere, "")
	c.Upstream(mute+":443", Serve{Raw: func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }})
	// Answers no greeting, until the other side goes away.
	came, gone := make(chan bool, 10), make(chan bool, 10)
	c.Upstream(leftMute+":443", Serve{Raw: func(conn net.Conn) {
		came <- true
		_, _ = io.Copy(io.Discard, conn)
		gone <- true
	}})
	// Reads the request and answers nothing.
	u := c.Upstream(quiet+":443", Serve{TLS: c.Certificate(quiet), Handler: func(_ http.ResponseWriter, r *http.Request) {
		came <- true
		<-r.Context().Done()
		gone <- true
	}})
	s := c.S1()

	// Two wait for the end of the gateway's patience …
	var waiting []*Conn
	began := time.Now()
	for _, host := range []string{hole, mute} {
		t := s.Tunnel(host)
		_ = t.SetDeadline(time.Now().Add(30 * time.Second))
		t.Send(get("/user", host, bearer(c.P)))
		waiting = append(waiting, t)
	}
	// … while others go away, and are forgotten at once.
	for _, host := range []string{leftHole, leftMute, quiet} {
		for proto, leave := range map[string]func() func(){
			"HTTP/1.1": func() func() {
				t := s.Tunnel(host)
				t.Send(get("/left", host, bearer(c.P)))
				return func() { t.Close() }
			},
			"HTTP/2": func() func() {
				h := s.H2(host)
				id := h.Open(h2fields("GET", host, "/left", "authorization: Bearer "+c.P), true)
				return func() {
					_ = h.Framer.WriteRSTStream(id, http2.ErrCodeCancel)
					_ = h.Drain()
					h.Close()
				}
			},
		} {
			asked := func() bool { return len(came) > 0 }
			left := func() bool { return len(gone) > 0 }
			if host == leftHole {
				asked = func() bool { return c.connecting(nowhere) > 0 }
				left = func() bool { return c.connecting(nowhere) == 0 }
			}
			goAway := leave()
			c.Eventually(host+" is asked", asked)
			since := time.Now()
			goAway()
			c.Eventually(host+" is left", left)
			if took := time.Since(since); took > 7*time.Second {
				c.Errorf("%s over %s: the client left, the upstream was left after %v", host, proto, took)
			}
			for len(came)+len(gone) > 0 {
				select {
				case <-came:
				case <-gone:
				}
			}
		}
	}
	for _, t := range waiting {
		c.Refused(t.Response("GET"), 504, "upstream_timeout")
		if took := time.Since(began); took < 8*time.Second || took > 25*time.Second {
			c.Errorf("given up after %v", took)
		}
		t.Close()
	}
	for _, q := range u.Requests(2) {
		c.Equal(q.Target, "/left")
	}
	for _, host := range []string{hole, mute} {
		c.Recorded(1, Want{"type": "result", "code": "upstream_timeout", "host": host})
	}
	for _, host := range []string{leftHole, leftMute, quiet} {
		c.Recorded(2, Want{"type": "result", "reason": "aborted", "host": host})
	}
}

// connecting counts the sockets of this machine that wait for an answer from
// an address of 127.0.0.1.
func (c *Case) connecting(addr string) (n int) {
	c.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		c.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addr)
	number, _ := strconv.Atoi(port)
	const synSent = "02"
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 3 && f[3] == synSent && f[2] == fmt.Sprintf("0100007F:%04X", number) {
			n++
		}
	}
	return n
}
