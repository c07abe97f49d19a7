//go:build linux

package cases

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// Where a name leads. These cases run in a network namespace of their own, in
// which the test is the DNS server and holds a public address.

func sectionCAddresses() []entry {
	return []entry{
		{"C21", within(addressesThatAreNotPublic)},
		{"C22", within(answersThatChange)},
		{"C23", within(namesOfNames)},
		{"C24", redirectToMetadata},
	}
}

// The variables by which a case finds itself within its namespace.
const (
	withinVariable = "STANDIN_CASE_WITHIN" // folder of the ground to use
	publicAddress  = "8.8.4.4"             // on the loopback of the namespace
)

// within runs a case in namespaces of its own: this test binary is started once
// more for that case alone. Its uid 0 is the caller's uid.
func within(run func(*Case)) func(*Case) {
	return func(c *Case) {
		if os.Getenv(withinVariable) != "" {
			c.furnish()
			run(c)
			return
		}
		c.NoGateway()
		cmd := exec.Command(os.Args[0], "-test.run", "^TestCases$/^"+c.ID+"$", "-test.v", "-test.timeout", "60s")
		cmd.Env = append(os.Environ(), withinVariable+"="+ground.dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
			Pdeathsig:   syscall.SIGKILL,
		}
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.Process == nil {
			c.Skipf("no namespaces here: %v", err)
		}
		if err != nil || !strings.Contains(string(out), "--- PASS: TestCases/"+c.ID) {
			c.Errorf("within the namespace: %v\n%s", err, out)
		}
		c.U1.Undialled() // out here nobody asked
	}
}

// adopt takes the ground of the test that started this one in a namespace. What
// it makes itself it puts into a folder of its own.
func (g *grounds) adopt(from string) (err error) {
	g.program, g.home = filepath.Join(from, "standin"), filepath.Join(from, "home")
	g.identity, g.recovery = filepath.Join(from, "identity.txt"), filepath.Join(from, "recovery.txt")
	if g.dir, err = os.MkdirTemp("", "sw"); err == nil {
		g.p, err = g.firstPlaceholder()
	}
	return err
}

// furnish brings up the loopback with a public address and makes this test the
// one name server.
func (c *Case) furnish() {
	c.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		c.Fatal(err)
	}
	defer unix.Close(fd)
	up, err := unix.NewIfreq("lo")
	if err != nil {
		c.Fatal(err)
	}
	up.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up); err != nil {
		c.Fatalf("bring up the loopback: %v", err)
	}
	alias, err := unix.NewIfreq("lo:1")
	if err != nil {
		c.Fatal(err)
	}
	if err := alias.SetInet4Addr(net.ParseIP(publicAddress).To4()); err != nil {
		c.Fatal(err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias); err != nil {
		c.Fatalf("take %s: %v", publicAddress, err)
	}
	conf := c.file("resolv.conf", "nameserver 127.0.0.1\nsearch corp.test internal\noptions ndots:3 attempts:1 timeout:2\n")
	if err := unix.Mount(conf, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		c.Fatalf("put resolv.conf in place: %v", err)
	}
}

// names is a DNS server.
type names struct {
	c    *Case
	conn net.PacketConn

	mu      sync.Mutex
	answers map[string]func(n int, kind dnsmessage.Type) []any // by name with its dot; n counts the questions of a kind
	asked   []string
	counts  map[string]int
}

// alias is an answer that is another name.
type alias string

func (c *Case) names() *names {
	c.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		c.Fatal(err)
	}
	s := &names{c: c, conn: conn, answers: map[string]func(int, dnsmessage.Type) []any{}, counts: map[string]int{}}
	var serving sync.WaitGroup
	serving.Go(s.serve)
	c.Cleanup(func() { conn.Close(); serving.Wait() })
	return s
}

// Set says what a name leads to: addresses, or an alias and then addresses.
func (s *names) Set(name string, answers ...any) {
	s.Script(name, func(int, dnsmessage.Type) []any { return answers })
}

func (s *names) Script(name string, f func(n int, kind dnsmessage.Type) []any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[name+"."] = f
}

// Asked are the questions so far, as "A name.".
func (s *names) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *names) serve() {
	packet := make([]byte, 4096)
	for {
		n, from, err := s.conn.ReadFrom(packet)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(packet[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		if out, err := s.answer(m); err == nil {
			_, _ = s.conn.WriteTo(out, from)
		}
	}
}

func (s *names) answer(m dnsmessage.Message) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := m.Questions[0]
	key := strings.TrimPrefix(q.Type.String(), "Type") + " " + q.Name.String()
	s.asked = append(s.asked, key)
	s.counts[key]++
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionAvailable: true, RecursionDesired: m.RecursionDesired},
		Questions: m.Questions,
	}
	f := s.answers[strings.ToLower(q.Name.String())]
	if f == nil {
		reply.RCode = dnsmessage.RCodeNameError
		return reply.Pack()
	}
	owner := q.Name
	for _, a := range f(s.counts[key], q.Type) {
		head := dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET}
		switch a := a.(type) {
		case alias:
			owner = dnsmessage.MustNewName(string(a))
			reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.CNAMEResource{CNAME: owner}})
		case string:
			ip := net.ParseIP(a)
			if four := ip.To4(); four != nil && !strings.Contains(a, ":") {
				if q.Type == dnsmessage.TypeA {
					reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: [4]byte(four)}})
				}
			} else if q.Type == dnsmessage.TypeAAAA {
				reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: [16]byte(ip.To16())}})
			}
		}
	}
	return reply.Pack()
}

// traps listen on port 443 of every local address and count who connects.
func (c *Case) traps(addresses ...string) map[string]*dialsOf {
	c.Helper()
	all := map[string]*dialsOf{}
	var counting sync.WaitGroup
	for _, a := range addresses {
		ln, err := net.Listen("tcp", net.JoinHostPort(a, "443"))
		if err != nil {
			c.Fatal(err)
		}
		all[a] = &dialsOf{Listener: ln}
		counting.Go(all[a].count)
	}
	c.Cleanup(func() {
		for _, d := range all {
			d.Close()
		}
		counting.Wait()
	})
	return all
}

// public lets an upstream be reached at the public address, port 443.
func (c *Case) public(u *Upstream) {
	c.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(publicAddress, "443"))
	if err != nil {
		c.Fatal(err)
	}
	var relays sync.WaitGroup
	relays.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", u.Addr())
			if err != nil {
				_ = near.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
				relays.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].Close()
					_ = pair[1].Close()
				})
			}
		}
	})
	c.Cleanup(func() { ln.Close(); u.closeConns(); relays.Wait() })
}

// inner starts a session whose upstreams the test's own authority vouches for.
func (c *Case) inner() *Session {
	c.Helper()
	c.ca()
	return c.Start(Start{Name: "S1", Flags: []string{"--upstream-ca", filepath.Join(c.Dir, caFile)}})
}

func addressesThatAreNotPublic(c *Case) {
	dns := c.names()
	traps := c.traps("127.0.0.1", "::1")
	u := c.Upstream("real.named.test:443", Serve{TLS: c.Certificate("real.named.test"), Nameless: true})
	c.public(u)
	c.Rules.Add("{name: named, hosts: [\"*.named.test\"], substitute: [{secret: github, in: header Authorization}]}")
	var hosts []string
	for i, a := range []string{
		"127.0.0.1", "127.255.255.254", "::1", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "169.254.169.254", "169.254.0.1", "169.254.170.2",
		"fd00:ec2::254", "fd12::1", "fe80::1", "fec0::1", "100.64.0.1", "100.127.255.255", "100.100.100.200", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::a00:1", "64:ff9b:1::1",
		"2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:c0a8:1::1", "2001:0:808:808::1", "2001::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:0:7f00:1", "::7f00:1",
		"0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1", "240.0.0.1", "255.255.255.255", "198.18.0.1", "198.19.255.255",
		"192.0.0.192", "192.0.2.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "2001:db8::1", "100::1", "168.63.129.16",
	} {
		host := fmt.Sprintf("n%d.named.test", i)
		dns.Set(host, a)
		hosts = append(hosts, host)
	}
	s := c.inner()
	for i, host := range hosts {
		if i%8 == 0 {
			c.Refused(s.DoH2(Message{"GET", host, "/", []string{bearer(c.P)}, ""}), 403, "denied_address")
		} else {
			c.Refused(s.Do(host, get("/", host, bearer(c.P))), 403, "denied_address")
		}
		if c.Failed() {
			c.Fatalf("%s is %v", host, dns.answers[host+"."](1, 0))
		}
	}
	u.Undialled()
	for a, trap := range traps {
		c.Equal([]any{a, trap.n.Load()}, []any{a, int64(0)})
	}
	c.Recorded(len(hosts), Want{"type": "result", "code": "denied_address", "status": 403})
	// A host that passes unopened may be on the network here, but for these.
	for _, a := range []string{"169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254", "100.100.100.200", "0.0.0.0", "::"} {
		dns.Set("unnamed.test", a)
		_, r := s.Connect("unnamed.test:443")
		c.Refused(r, 403, "denied_address")
	}
	dns.Set("unnamed.test", "127.0.0.1")
	_, port, _ := net.SplitHostPort(s.Proxy.Host)
	_, r := s.Connect("unnamed.test:" + port)
	c.Refused(r, 403, "denied_address")
	// And a public address is public.
	dns.Set("real.named.test", publicAddress)
	c.Status(s.Do("real.named.test", get("/", "real.named.test", bearer(c.P))), 200)
	c.Equal(c.arrivedAt(u, 1)[0].Value("Authorization"), "Bearer "+R)
}

func answersThatChange(c *Case) {
	dns := c.names()
	traps := c.traps("127.0.0.1", "::1")
	u := c.Upstream("real.named.test:443", Serve{TLS: c.Certificate("real.named.test"), Nameless: true, Handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // the next request looks the name up again
		okHandler(w, r)
	}})
	u.HTTP1()
	c.public(u)
	c.Rules.Add("{name: named, hosts: [\"*.named.test\"], substitute: [{secret: github, in: header Authorization}]}")
	ask := func(s *Session) *Response {
		return s.Do("real.named.test", get("/", "real.named.test", bearer(c.P)))
	}
	s := c.inner()
	// Public first, and the loopback from then on.
	dns.Script("real.named.test", func(n int, kind dnsmessage.Type) []any {
		if kind == dnsmessage.TypeA && n == 1 {
			return []any{publicAddress}
		}
		return []any{"127.0.0.1"}
	})
	c.Status(ask(s), 200)
	c.Refused(ask(s), 403, "denied_address")
	// Both at once: only the public one is dialled, whichever comes first.
	for _, answers := range [][]any{{publicAddress, "::1"}, {"::1", publicAddress}, {"127.0.0.1", publicAddress}, {publicAddress, "127.0.0.1"}, {"127.0.0.1", "::1", "10.0.0.1", publicAddress}} {
		dns.Set("real.named.test", answers...)
		c.Status(ask(s), 200)
	}
	dns.Set("real.named.test", "127.0.0.1", "::1")
	c.Refused(ask(s), 403, "denied_address")
	for _, q := range u.Requests(6) {
		c.Equal(q.Value("Authorization"), "Bearer "+R)
	}
	for a, trap := range traps {
		c.Equal([]any{a, trap.n.Load()}, []any{a, int64(0)})
	}
	c.Recorded(2, Want{"type": "result", "code": "denied_address"})
}

func namesOfNames(c *Case) {
	dns := c.names()
	traps := c.traps("127.0.0.1", "::1")
	u := c.Upstream("real.named.test:443", Serve{TLS: c.Certificate("real.named.test"), Nameless: true})
	c.public(u)
	c.Rules.Add("{name: named, hosts: [\"*.named.test\", api, intra.net], substitute: [{secret: github, in: header Authorization}]}")
	s := c.inner()
	dns.Set("one.named.test", alias("two.named.test."), alias("localhost."), "127.0.0.1", "::1")
	dns.Set("meta.named.test", alias("metadata.google.internal."), "169.254.169.254")
	for _, host := range []string{"one.named.test", "meta.named.test"} {
		c.Refused(s.Do(host, get("/", host, bearer(c.P))), 403, "denied_address")
	}
	// With a search domain these would lead to the public address.
	for _, name := range []string{"api.corp.test", "api.internal", "intra.net.corp.test", "gone.named.test.corp.test"} {
		dns.Set(name, publicAddress)
	}
	for _, host := range []string{"api", "intra.net", "gone.named.test"} {
		c.Refused(s.Do(host, get("/", host, bearer(c.P))), 502, "upstream_unreachable")
	}
	dns.Set("api", "127.0.0.1")
	c.Refused(s.Do("api", get("/", "api", bearer(c.P))), 403, "denied_address")
	u.Undialled()
	for a, trap := range traps {
		c.Equal([]any{a, trap.n.Load()}, []any{a, int64(0)})
	}
	for _, q := range dns.Asked() {
		kind, name, _ := strings.Cut(q, " ")
		if kind != "A" && kind != "AAAA" || strings.HasSuffix(name, ".corp.test.") || strings.HasSuffix(name, ".internal.") {
			c.Errorf("the gateway asked for %s", q)
		}
	}
	if len(dns.Asked()) < 6 {
		c.Errorf("the gateway did not ask this server: %v", dns.Asked())
	}
	dns.Set("real.named.test", alias("cdn.example."), publicAddress)
	c.Status(s.Do("real.named.test", get("/", "real.named.test", bearer(c.P))), 200)
	c.arrivedAt(u, 1)
}

func redirectToMetadata(c *Case) {
	target := "http://169.254.169.254/latest/meta-data/?x=1#y"
	for _, status := range []int{301, 302, 303, 307, 308} {
		c.U1.Handle(func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Location"] = []string{target}
			w.Header()["Refresh"] = []string{"0; url=" + target}
			w.WriteHeader(status)
		})
		began := time.Now()
		c.S1().Each(Message{"GET", api, "/", []string{bearer(c.P)}, ""}, func(r *Response) {
			c.Status(r, status)
			c.Equal(r.Header.Values("Location"), []string{target})
			c.Equal(r.Header.Values("Refresh"), []string{"0; url=" + target})
		})
		if took := time.Since(began); took > 8*time.Second {
			c.Errorf("a redirect took %v, as if it were followed", took)
		}
	}
	c.U1.Requests(10)
	c.Recorded(0, Want{"host": "169.254.169.254"})
}
