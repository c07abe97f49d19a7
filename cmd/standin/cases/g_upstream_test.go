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
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
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
	zeros(64, gzip.NewWriter(&gz))
	w, err := zstd.NewWriter(&zs, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	zeros(64, w)
	zeros(64, brotli.NewWriterLevel(&br, 1))
	return map[string][]byte{
		"gzip": bytes.Repeat(gz.Bytes(), 160), // members follow one another: 10 GiB
		"zstd": bytes.Repeat(zs.Bytes(), 160),
		"br":   br.Bytes(),
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
		for _, fields := range [][]string{{bearer(c.P)}, nil} {
			s.Each(Message{"GET", api, "/bomb", fields, ""}, func(r *Response) {
				c.Refused(r, 502, "unsafe_response")
			})
			asked += 2
		}
	}
	c.within("memory at most", c.usage(s).peak, 100<<10)
	for _, q := range c.U1.Requests(asked) {
		c.Equal(q.Values("Accept-Encoding"), []string{"identity"})
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
	const hole, mute, quiet = "hole.allowed.test", "mute.allowed.test", "quiet.allowed.test"
	for name, host := range map[string]string{"hole": hole, "mute": mute, "quiet": quiet} {
		c.Rules.Add("{name: " + name + ", hosts: [" + host + "], substitute: [{secret: github, in: header Authorization}]}")
	}
	c.Rules.Dial(hole+":443", c.blackHole(), "")
	// Answers no greeting, until the other side goes away.
	gone := make(chan time.Time, 100)
	silent := func(conn net.Conn) {
		_, _ = io.Copy(io.Discard, conn)
		gone <- time.Now()
	}
	c.Upstream(mute+":443", Serve{Raw: silent})
	// Reads the request and answers nothing.
	u := c.Upstream(quiet+":443", Serve{TLS: c.Certificate(quiet), Handler: func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		gone <- time.Now()
	}})
	s := c.S1()

	// Two wait for the end of the gateway's patience …
	type waiting struct {
		*Conn
		host string
	}
	var all []waiting
	began := time.Now()
	for _, host := range []string{hole, mute} {
		t := s.Tunnel(host)
		_ = t.SetDeadline(time.Now().Add(30 * time.Second))
		t.Send(get("/user", host, bearer(c.P)))
		all = append(all, waiting{t, host})
	}
	// … while others go away, and are forgotten at once.
	for _, host := range []string{hole, mute, quiet} {
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
					_ = h.Framer.WriteRSTStream(id, 8)
					_ = h.Drain()
					h.Close()
				}
			},
		} {
			before, asked := s.Status(), len(u.Received())
			goAway := leave()
			c.Eventually(host+" is asked", func() bool {
				if host == quiet {
					return len(u.Received()) > asked
				}
				return s.Status().Descriptors > before.Descriptors+1
			})
			left := time.Now()
			goAway()
			if host == hole { // only the gateway knows of its attempts
				c.Eventually(host+" is forgotten", func() bool { return s.Status().Descriptors <= before.Descriptors })
			} else {
				select {
				case <-gone:
				case <-time.After(5 * time.Second):
					c.Errorf("%s over %s: the client left, the upstream was not", host, proto)
				}
			}
			if took := time.Since(left); took > 2*time.Second {
				c.Errorf("%s over %s: the client left, the gateway noticed after %v", host, proto, took)
			}
		}
	}
	for _, w := range all {
		r := w.Response("GET")
		c.Refused(r, 504, "upstream_timeout")
		if took := time.Since(began); took < 8*time.Second || took > 14*time.Second {
			c.Errorf("%s: given up after %v", w.host, took)
		}
		w.Close()
	}
	for _, q := range u.Received() {
		c.Equal(q.Target, "/left")
	}
	c.Recorded(1, Want{"type": "result", "code": "upstream_timeout", "host": hole})
	c.Recorded(1, Want{"type": "result", "code": "upstream_timeout", "host": mute})
	c.Recorded(2, Want{"type": "result", "reason": "aborted", "host": quiet})
	if _, err := os.Stat(s.Log); err != nil {
		c.Error(err)
	}
}
