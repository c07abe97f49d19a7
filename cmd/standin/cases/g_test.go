//go:build linux

package cases

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What a command can make the gateway hold, and for how long.

func sectionG() []entry {
	return append([]entry{
		{"G01", slowClients},
		{"G04", idleTunnels},
		{"G05", manyRefusedTunnels},
		{"G06", manyHostsOfAWildcard},
		{"G16", nothingIsLeftBehind},
	}, slices.Concat(sectionGUpstream(), sectionGFlow(), sectionGServe())...)
}

// usage is what a process has used: the memory that it holds now and has held
// at most, in KiB, and processor time.
type usage struct {
	now, peak int
	cpu       time.Duration
}

func (c *Case) usage(s *Session) usage {
	c.Helper()
	status, err := os.ReadFile(procFile(s.Gateway, "status"))
	if err != nil {
		c.Fatal(err)
	}
	var u usage
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "VmRSS:"):
			u.now, _ = strconv.Atoi(f[1])
		case strings.HasPrefix(line, "VmHWM:"):
			u.peak, _ = strconv.Atoi(f[1])
		}
	}
	stat, err := os.ReadFile(procFile(s.Gateway, "stat"))
	if err != nil || u.peak == 0 {
		c.Fatalf("read what the gateway has used: %v", err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, ticks := range f[11:13] {
		n, _ := strconv.Atoi(ticks)
		u.cpu += time.Duration(n) * 10 * time.Millisecond
	}
	return u
}

// within asserts that memory is bounded. The race detector needs several times
// as much, so its build is not asked.
func (c *Case) within(what string, kib, limit int) {
	c.Helper()
	c.Logf("%s: %d KiB", what, kib)
	if kib > limit && os.Getenv("STANDIN_RACE") != "1" {
		c.Errorf("%s: %d KiB, more than %d", what, kib, limit)
	}
}

// inParallel does something n times, in several goroutines, and waits.
func inParallel(workers, n int, do func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				do(int(i))
			}
		})
	}
	all.Wait()
}

// door is a connection to the proxy that says nothing to the test.
func (s *Session) door(timeout time.Duration) (net.Conn, error) {
	n, err := net.DialTimeout("tcp", s.Proxy.Host, patience)
	if err != nil {
		return nil, err
	}
	s.c.mu.Lock()
	s.c.open = append(s.c.open, n)
	s.c.mu.Unlock()
	return n, n.SetDeadline(time.Now().Add(timeout))
}

// quietTunnel opens a tunnel and returns the status of the answer.
func (s *Session) quietTunnel(authority string, timeout time.Duration) (net.Conn, int) {
	n, err := s.door(timeout)
	if err != nil {
		return nil, 0
	}
	fmt.Fprintf(n, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", authority, authority, s.Credentials())
	return n, statusOf(n)
}

func slowClients(c *Case) {
	s := c.S1()
	const (
		doors   = 1000
		tunnels = 20
	)
	began := time.Now()
	var slow []net.Conn
	add := func(n net.Conn, err error, first string) {
		if err != nil {
			c.Fatal(err)
		}
		if _, err := io.WriteString(n, first); err != nil {
			c.Fatal(err)
		}
		slow = append(slow, n)
	}
	for range doors {
		n, err := s.door(30 * time.Second)
		add(n, err, "CONNECT "+api+":443 HT")
	}
	for range tunnels {
		n, status := s.quietTunnel(api+":443", 30*time.Second)
		c.Equal(status, 200)
		add(n, nil, "") // never begins TLS
		n, status = s.quietTunnel(api+":443", 30*time.Second)
		c.Equal(status, 200)
		add(n, nil, "\x16\x03\x01") // never ends its greeting
		n, status = s.quietTunnel(api+":443", 30*time.Second)
		c.Equal(status, 200)
		inner := tls.Client(n, &tls.Config{RootCAs: s.Roots, ServerName: api})
		add(inner, inner.Handshake(), "GET /user HTTP/1.1\r\nHost: "+api+"\r\nAuth")
	}
	// Others are served meanwhile.
	for range 5 {
		asked := time.Now()
		c.Status(s.Do(api, get("/user", api, bearer(c.P))), 200)
		if took := time.Since(asked); took > time.Second {
			c.Errorf("a request took %v beside %d slow clients", took, len(slow))
		}
		time.Sleep(800 * time.Millisecond)
	}
	if now := s.Status(); now.Descriptors > s.Before.Descriptors+len(slow)+50 {
		c.Errorf("%d slow clients hold %d descriptors", len(slow), now.Descriptors-s.Before.Descriptors)
	}
	for _, n := range slow {
		_, _ = io.WriteString(n, "o") // one byte more, in time
	}
	for i, n := range slow {
		if rest, _ := io.ReadAll(n); strings.Contains(string(rest), "200") {
			c.Errorf("slow client %d is answered %q", i, clip(string(rest)))
		}
		if took := time.Since(began); took > time.Minute {
			c.Fatalf("slow client %d is held for %v", i, took)
		}
	}
	if took := time.Since(began); took < 9*time.Second {
		c.Errorf("slow clients are cut after %v", took)
	}
	for _, q := range c.U1.Requests(5) {
		c.Equal(q.Target, "/user")
	}
	c.backToBaseline(s)
}

func idleTunnels(c *Case) {
	s, other := c.S1(), c.Start(Start{Name: "other"})
	const limit = 4096 // of one session
	before := c.usage(s)
	var refused atomic.Int64
	inParallel(8, limit, func(int) {
		if _, status := s.quietTunnel(api+":443", time.Minute); status != 200 {
			refused.Add(1)
		}
	})
	if n := refused.Load(); n > 0 {
		c.Fatalf("%d of %d tunnels are refused", n, limit)
	}
	c.Equal(s.Status().Tunnels, limit)
	c.within("memory of a tunnel", (c.usage(s).now-before.now)/limit, 40)
	for range 3 {
		_, r := s.Connect(api + ":443")
		c.Refused(r, 429, "too_many_tunnels")
	}
	c.U1.Undialled() // so far
	c.silent = nil
	c.Status(other.Do(api, get("/other", api)), 200)
	c.backToBaseline(s)
	c.Status(s.Do(api, get("/again", api)), 200)
	for _, q := range c.U1.Requests(2) {
		c.Equal(len(q.Values("Authorization")), 0)
	}
	c.Recorded(3, Want{"type": "deny", "code": "too_many_tunnels", "session": s.ID(), "host": api})
}

func manyRefusedTunnels(c *Case) {
	c.Rules.Top("unmatched: deny")
	s := c.S1()
	const n = 3000
	var wrong atomic.Int64
	before, began := c.usage(s), time.Now()
	inParallel(8, n, func(i int) {
		host := fmt.Sprintf("h%d-%d.denied.test", i, rand.Uint64())
		conn, status := s.quietTunnel(host+":443", patience)
		if conn == nil || status != 403 {
			wrong.Add(1)
			return
		}
		defer conn.Close()
		if i%100 != 0 {
			return
		}
		// There is nobody to show a certificate.
		if err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: host}).Handshake(); err == nil {
			wrong.Add(1)
		}
	})
	if w := wrong.Load(); w > 0 {
		c.Errorf("%d of %d tunnels to hosts that no rule names were not refused with 403", w, n)
	}
	took, after := time.Since(began), c.usage(s)
	cpu := (after.cpu - before.cpu) / n
	c.Logf("%d refusals in %v, %v of processor time each", n, took, cpu)
	if cpu > 2*time.Millisecond && os.Getenv("STANDIN_RACE") != "1" {
		c.Errorf("a refusal costs %v of processor time", cpu)
	}
	c.within("memory for refusals", after.now-before.now, 32<<10)

	// In a tunnel that is allowed, another name in the greeting gets an alert and
	// never a certificate.
	for i := range 100 {
		conn, status := s.quietTunnel(api+":443", patience)
		c.Equal(status, 200)
		shown := false
		err := tls.Client(conn, &tls.Config{
			InsecureSkipVerify: true, ServerName: fmt.Sprintf("h%d.denied.test", i),
			VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error { shown = true; return nil },
		}).Handshake()
		if err == nil || shown {
			c.Errorf("a certificate is shown for another name (%v)", err)
		}
		conn.Close()
	}
	c.U1.Undialled()
	// Each refusal is on record, one by one or by number.
	counted := func(code string) (sum int) {
		for _, r := range c.Records() {
			if has(r, Want{"type": "deny", "code": code, "session": s.ID()}) {
				more, _ := r["count"].(float64)
				sum += max(1, int(more))
			}
		}
		return sum
	}
	if !c.Eventually("all refusals are on record", func() bool { return counted("unmatched_denied") == n && counted("sni_mismatch") == 100 }) {
		c.Errorf("on record are %d of %d, and %d of 100", counted("unmatched_denied"), n, counted("sni_mismatch"))
	}
	if listed := len(c.Records()); listed > 1000 {
		c.Errorf("%d refusals fill the log with %d records", n, listed)
	}
}

func manyHostsOfAWildcard(c *Case) {
	c.Rules.Add("{name: wild, hosts: [\"*.wild.test\"], substitute: [{secret: github, in: header Authorization}]}")
	u := c.Upstream("one.wild.test:443", Serve{TLS: c.Certificate("one.wild.test")})
	s := c.S1()
	serial := func(host string) string {
		conn, status := s.quietTunnel(host+":443", 30*time.Second)
		if conn == nil {
			return "no connection"
		}
		defer conn.Close()
		t := tls.Client(conn, &tls.Config{RootCAs: s.Roots, ServerName: host})
		if err := t.Handshake(); err != nil {
			return fmt.Sprintf("%d %v", status, err)
		}
		return t.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	// However many ask at once for one name, one leaf is issued for it.
	var mu sync.Mutex
	serials := map[string]int{}
	inParallel(100, 100, func(int) {
		got := serial("same.wild.test")
		mu.Lock()
		defer mu.Unlock()
		serials[got]++
	})
	if len(serials) != 1 {
		c.Errorf("100 clients of one name are shown %v", serials)
	}
	// Many names: what is kept of them is bounded.
	const n = 1500
	one := serial("first.wild.test")
	c.Equal(serial("first.wild.test"), one)
	var wrong atomic.Int64
	hosts := func(prefix string) {
		inParallel(8, n, func(i int) {
			if got := serial(fmt.Sprintf("%s%d.wild.test", prefix, i)); strings.Contains(got, " ") {
				wrong.Add(1)
				c.Log(got)
			}
		})
	}
	hosts("a")
	middle := c.usage(s)
	// Others are served meanwhile.
	done := make(chan struct{})
	go func() {
		defer close(done)
		hosts("b")
	}()
	for range 3 {
		asked := time.Now()
		c.Status(s.Do("one.wild.test", get("/user", "one.wild.test", bearer(c.P))), 200)
		if took := time.Since(asked); took > 2*time.Second {
			c.Errorf("a request took %v beside a flood of names", took)
		}
	}
	<-done
	after := c.usage(s)
	if wrong.Load() > 0 {
		c.Errorf("%d names of the wildcard got no leaf", wrong.Load())
	}
	c.within("memory for more names", after.now-middle.now, 16<<10)
	c.within("memory at most", after.peak, 100<<10)
	if again := serial("first.wild.test"); again == one || strings.Contains(again, " ") {
		c.Errorf("the leaf of a name is kept through %d others: %s", 2*n, again)
	}
	for _, outside := range []string{"wild.test", "a.b.wild.test", "one.wild.test.evil.test"} {
		if got := serial(outside); !strings.Contains(got, " ") {
			c.Errorf("a leaf is issued for %s", outside)
		}
	}
	c.arrived(u, 3)
}

func nothingIsLeftBehind(c *Case) {
	c.Rules.Dial("closed.allowed.test:443", "127.0.0.1:1", "")
	c.Rules.Add("{name: closed, hosts: [closed.allowed.test], substitute: [{secret: github, in: header Authorization}]}")
	s := c.S1()
	c.UR.Script(func(w *wireConn) { // breaks off within its answer
		_, _ = w.Read(make([]byte, 4096))
		_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc")
	})
	round := func() {
		s.Each(Message{"GET", api, "/user", []string{bearer(c.P)}, ""}, func(r *Response) { c.Status(r, 200) })
		s.Each(Message{"POST", api, "/up", []string{"Content-Type: text/plain"}, strings.Repeat("x", 100<<10)}, func(r *Response) { c.Status(r, 200) })
		s.Each(Message{"GET", evil, "/", []string{bearer(c.P)}, ""}, func(r *Response) { c.Refused(r, 403, "placeholder_misplaced") })
		c.Refused(s.Do("closed.allowed.test", get("/", "closed.allowed.test", bearer(c.P))), 502, "upstream_unreachable")
		if r := s.Do(scripts, get("/", scripts, bearer(c.P))); r.Err == nil {
			c.Errorf("an answer that was broken off is whole: %s", r)
		}
		// Clients that go away: before a word, in the greeting, in a head, in a
		// body, in front of an answer; and one that does not trust the leaf.
		s.Door().Close()
		s.Dialled(api + ":443").Close()
		half := s.Dialled(api + ":443")
		half.Send("\x16\x03\x01\x02")
		half.Close()
		for _, text := range []string{"GET / HT", message("POST", "/up", api, "whole body", "Content-Type: text/plain")[:90], get("/", api, bearer(c.P))} {
			t := s.Tunnel(api)
			t.Send(text)
			t.Close()
		}
		h := s.H2(api)
		h.Open(h2fields("POST", api, "/up"), false)
		h.Close()
		if _, err := s.TLS(s.Dialled(api+":443"), &tls.Config{ServerName: api, RootCAs: x509.NewCertPool()}); err == nil {
			c.Error("a client without roots trusts the leaf")
		}
		_, r := s.Connect(s.Proxy.Host)
		c.Refused(r, 403, "denied_address")
	}
	settled := func() (last Status) {
		c.Helper()
		c.backToBaseline(s)
		for range 20 { // the least of a while: the count itself takes a connection
			now := s.Status()
			if last.PID == 0 || now.Goroutines <= last.Goroutines {
				last = now
			}
			time.Sleep(10 * time.Millisecond)
		}
		return last
	}
	for range 2 {
		round()
	}
	before := settled()
	for range 12 {
		round()
	}
	after := settled()
	if after.Goroutines > before.Goroutines || after.Descriptors > before.Descriptors || after.Tunnels != 0 {
		c.Errorf("after 2 rounds %+v, after 14 %+v", before, after)
	}
	c.within("memory at most", c.usage(s).peak, 100<<10)
	if !strings.Contains(c.U1.Text(), R) {
		c.Error("the upstream received nothing")
	}
	c.U2.Nothing()
}
