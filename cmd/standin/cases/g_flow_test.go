//go:build linux

package cases

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// Bodies that are large, slow or endless.

func sectionGFlow() []entry {
	return []entry{
		{"G03", slowReaders},
		{"G12", largeBodiesBothWays},
		{"G13", endlessHeads},
		{"G15", slowUpstreams},
	}
}

// unrecorded is an upstream that keeps nothing of what it is sent.
func (c *Case) unrecorded(host string, h http.HandlerFunc) *httptest.Server {
	c.Helper()
	server := httptest.NewUnstartedServer(h)
	server.TLS, server.EnableHTTP2 = c.Certificate(host).Clone(), true
	server.TLS.NextProtos = nil
	server.Config.ErrorLog = discardLog()
	server.StartTLS()
	c.ca()
	c.Rules.Dial(host+":443", server.Listener.Addr().String(), caFile)
	c.Rules.Add("{name: " + strings.Split(host, ".")[0] + ", hosts: [" + host + "], substitute: [{secret: github, in: header Authorization}]}")
	return server
}

// roundTrippers are clients that keep nothing of what they receive, either.
func (s *Session) roundTrippers() map[string]http.RoundTripper {
	dial := func(addr string, protos ...string) (net.Conn, error) {
		conn, status := s.quietTunnel(addr, 30*time.Minute)
		if status != 200 {
			return nil, fmt.Errorf("CONNECT is answered %d", status)
		}
		host, _, _ := net.SplitHostPort(addr)
		t := tls.Client(conn, &tls.Config{RootCAs: s.Roots, ServerName: host, NextProtos: protos})
		return t, t.Handshake()
	}
	return map[string]http.RoundTripper{
		"HTTP/1.1": &http.Transport{DialTLSContext: func(_ context.Context, _, addr string) (net.Conn, error) { return dial(addr, "http/1.1") }, DisableCompression: true},
		"HTTP/2": &http2.Transport{DialTLSContext: func(_ context.Context, _, addr string, _ *tls.Config) (net.Conn, error) {
			return dial(addr, "h2")
		}, DisableCompression: true},
	}
}

// block is what large bodies are made of.
var block = random(64 << 10)

// blocks are n bytes, with the value at their end.
func blocks(w io.Writer, n int64) (sent int64, err error) {
	for ; sent < n-int64(len(block)); sent += int64(len(block)) {
		if _, err := w.Write(block); err != nil {
			return sent, err
		}
	}
	_, err = io.WriteString(w, strings.Repeat("-", int(n-sent)-len(R))+R)
	return n, err
}

// largeBodiesBothWays moves STANDIN_BULK_MIB MiB (96 unless that says otherwise)
// each way, over each version of HTTP.
func largeBodiesBothWays(c *Case) {
	mib, err := strconv.Atoi(os.Getenv("STANDIN_BULK_MIB"))
	if err != nil {
		mib = 96
	}
	const host = "bulk.allowed.test"
	server := c.unrecorded(host, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, err)
			return
		}
		size, _ := strconv.ParseInt(r.URL.RawQuery, 10, 64)
		if r.URL.Path == "/known" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
		}
		_, _ = blocks(w, size)
	})
	defer server.Close()
	s := c.S1()
	for proto, client := range s.roundTrippers() {
		down := func(path string, size int64) {
			c.Helper()
			req, _ := http.NewRequest("GET", fmt.Sprintf("https://%s%s?%d", host, path, size), nil)
			resp, err := client.RoundTrip(req)
			if err != nil {
				c.Fatalf("%s %s: %v", proto, path, err)
			}
			defer resp.Body.Close()
			got, buf, end := int64(0), make([]byte, 64<<10), []byte(nil)
			for err == nil {
				var n int
				n, err = resp.Body.Read(buf)
				got += int64(n)
				end = append(end, buf[:n]...)
				end = end[max(0, len(end)-100):]
			}
			if want := size - int64(len(R)) + int64(len(c.P)); err != io.EOF || got != want || !bytes.HasSuffix(end, []byte("-"+c.P)) {
				c.Errorf("%s %s: %d bytes, not %d, %q, %v", proto, path, got, want, end, err)
			}
		}
		up := func(length, size int64) {
			c.Helper()
			in, out := io.Pipe()
			go func() {
				_, err := blocks(noValue{out}, size)
				out.CloseWithError(err)
			}()
			req, _ := http.NewRequest("POST", "https://"+host+"/up", in)
			req.ContentLength = length
			resp, err := client.RoundTrip(req)
			if err != nil {
				c.Fatalf("%s up: %v", proto, err)
			}
			defer resp.Body.Close()
			if said, _ := io.ReadAll(resp.Body); string(said) != fmt.Sprint(size, "<nil>") && string(said) != fmt.Sprint(size, " <nil>") {
				c.Errorf("%s up: the upstream got %s of %d", proto, said, size)
			}
		}
		all := func(size int64) {
			down("/known", size)
			down("/unknown", size)
			up(size, size)
			up(-1, size)
		}
		all(24 << 20) // buffers and pools are filled
		before := c.usage(s)
		all(int64(mib) << 20)
		after := c.usage(s)
		c.Logf("%s: 4 x %d MiB in %v of processor time", proto, mib, after.cpu-before.cpu)
		c.within(proto+": the peak grew by", after.peak-before.peak, 16<<10) // 10 GiB make it grow by no more
	}
	c.U1.Nothing()
}

// noValue writes the mark instead: nothing may leave that was not granted.
type noValue struct{ io.Writer }

func (w noValue) Write(p []byte) (int, error) {
	if _, err := w.Writer.Write(bytes.ReplaceAll(p, []byte(R), []byte(strings.Repeat("r", len(R))))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// slowReaders do not read what they asked for.
func slowReaders(c *Case) {
	const host, size = "slow.allowed.test", 1 << 30
	var written atomic.Int64
	left := make(chan bool, 10)
	server := c.unrecorded(host, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/small" {
			return
		}
		for written.Load() < size {
			n, err := w.Write(block)
			written.Add(int64(n))
			if err != nil {
				break
			}
		}
		left <- true
	})
	defer server.Close()
	s := c.S1()
	for proto, client := range s.roundTrippers() {
		written.Store(0)
		before := c.usage(s)
		ask := func(path string) *http.Response {
			c.Helper()
			req, _ := http.NewRequest("GET", "https://"+host+path, nil)
			resp, err := client.RoundTrip(req)
			if err != nil {
				c.Fatalf("%s: %v", proto, err)
			}
			return resp
		}
		resp := ask("/large")
		last := int64(-1)
		c.Eventually(proto+": the upstream waits for the client", func() bool {
			now := written.Load()
			stands := now == last && now > 0
			last = now
			time.Sleep(200 * time.Millisecond)
			return stands
		})
		c.Logf("%s: %d KiB under way", proto, last>>10)
		if last > 64<<20 {
			c.Errorf("%s: %d MiB were taken for a client that reads nothing", proto, last>>20)
		}
		// Others are served meanwhile, in the same tunnel where it has streams.
		small := ask("/small")
		c.Equal(small.StatusCode, 200)
		small.Body.Close()
		c.within(proto+": memory grew by", c.usage(s).peak-before.peak, 24<<10)
		resp.Body.Close()
		select {
		case <-left:
		case <-time.After(20 * time.Second):
			c.Errorf("%s: the client left, and the upstream still writes", proto)
		}
	}
	c.U1.Nothing()
}

// endlessHeads come from an upstream that never ends its header, or its trailers.
func endlessHeads(c *Case) {
	s := c.S1()
	before := c.usage(s)
	for what, head := range map[string]string{
		"header": "HTTP/1.1 200 OK\r\n", "1xx": "HTTP/1.1 103 Early Hints\r\n", "trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
		"one field": "HTTP/1.1 200 OK\r\nX-Long: ", "status": "HTTP/1.1 200 ",
	} {
		line := "X-Filler: " + strings.Repeat("f", 1000) + "\r\n"
		if what == "one field" || what == "status" {
			line = strings.Repeat("f", 1000)
		}
		c.UR.closeConns()
		c.UR.Script(func(conn *wireConn) {
			if !readHead(conn) {
				return
			}
			_, err := io.WriteString(conn, head)
			for i := 0; err == nil && i < 64<<10; i++ { // 64 MiB
				_, err = io.WriteString(conn, line)
			}
		})
		c.S1().Each(Message{"GET", scripts, "/" + strings.ReplaceAll(what, " ", "-"), []string{bearer(c.P)}, ""}, func(r *Response) {
			switch {
			case what == "trailer" && r.Err == nil:
				c.Errorf("endless trailers look whole: %s", r)
			case what != "trailer":
				c.Refused(r, 502, "upstream_protocol")
			}
		})
	}
	c.within("memory grew by", c.usage(s).peak-before.now, 24<<10)
	c.arrived(c.UR, 10)
}

// slowUpstreams send one byte at a time, each of which arrives.
func slowUpstreams(c *Case) {
	for host, u := range c.both() {
		gone := make(chan bool, 4)
		u.Handle(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/events" {
				w.Header().Set("Content-Type", "text/event-stream")
			}
			for {
				if _, err := io.WriteString(w, "x"); err != nil {
					break
				}
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(300 * time.Millisecond):
					continue
				case <-r.Context().Done():
				}
				break
			}
			gone <- true
		})
		for _, path := range []string{"/events", "/bytes"} {
			t := c.S1().Tunnel(host)
			t.Send(get(path, host, bearer(c.P)))
			in, one := t.Stream(), make([]byte, 1)
			for range 5 {
				if _, err := io.ReadFull(in, one); err != nil || one[0] != 'x' {
					c.Fatalf("%q, %v", one, err)
				}
			}
			t.Close()
			select {
			case <-gone:
			case <-time.After(20 * time.Second):
				c.Errorf("%s%s: the client left, and the upstream still sends", host, path)
			}
		}
		c.arrived(u, 2)
	}
	c.Recorded(4, Want{"type": "result", "reason": "client aborted"})
}
