//go:build linux

package cases

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// Streams that nobody meant. Two properties hold for each: the gateway lives,
// and no upstream sees a request that is not in the record.

// What mutation begins with. "{CRED}" stands for the session's credentials,
// "{P}" for the placeholder.
var doorStreams = []string{
	"CONNECT " + api + ":443 HTTP/1.1\r\nHost: " + api + ":443\r\n{CRED}\r\n\r\n\x16\x03\x01\x00\x05hello",
	"CONNECT clear.test:80 HTTP/1.1\r\nHost: clear.test\r\n{CRED}\r\n\r\nGET /door HTTP/1.1\r\nHost: clear.test\r\nAuthorization: Bearer {P}\r\n\r\n",
	"GET http://clear.test/door HTTP/1.1\r\nHost: clear.test\r\n{CRED}\r\nAuthorization: Bearer {P}\r\n\r\n",
	"POST http://clear.test/door HTTP/1.1\r\nHost: clear.test\r\n{CRED}\r\nContent-Length: 5\r\n\r\nhelloGET http://clear.test/door HTTP/1.1\r\nHost: clear.test\r\n{CRED}\r\n\r\n",
	"POST http://clear.test/door HTTP/1.1\r\nHost: clear.test\r\n{CRED}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: clear.test\r\n{CRED}\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x00\x05hello",
}

// tunnelStreams is a function: as a variable it would be made at the start of every
// process of this binary, and HTTP/2 prints what it does where a case asks for that.
func tunnelStreams() []string {
	return []string{
		"GET /a HTTP/1.1\r\nHost: " + api + "\r\nAuthorization: Bearer {P}\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: " + api + "\r\n\r\nGET /b HTTP/1.1\r\nHost: " + api + "\r\nCookie: a={P}\r\n\r\nGET /c HTTP/1.1\r\nHost: " + api + "\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: " + api + "\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nHost: " + api + "\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: " + api + "\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n0\r\nX-T: {P}\r\n\r\nGET /b HTTP/1.1\r\nHost: " + api + "\r\n\r\n",
		"POST /login HTTP/1.1\r\nHost: " + api + "\r\nContent-Type: application/json\r\nContent-Length: 60\r\n\r\n{\"auth\":{\"token\":\"{P}\"}}",
		"POST /form HTTP/1.1\r\nHost: " + api + "\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 49\r\n\r\ntoken={P}&x=1",
		"GET /q?api_key={P}&a=%2f HTTP/1.1\r\nHost: " + api + "\r\n\r\n", "GET /t/{P}/x HTTP/1.1\r\nHost: " + api + "\r\n\r\n",
		"GET https://" + api + "/a HTTP/1.1\r\nHost: " + evil + "\r\n\r\n", "PUT /a HTTP/1.0\r\nHost: " + api + "\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
		"GET /a HTTP/1.1\r\nHost: " + api + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nExpect: 100-continue\r\nTE: trailers\r\n\r\n\x81\x05hello",
		h2Stream(false), h2Stream(true),
	}
}

// wideP stands for the placeholder where its length is written beside it.
var wideP = "{P" + strings.Repeat("~", 36) + "}"

// h2Stream is a connection of HTTP/2 with two requests. Its header fields are
// literals without Huffman's code, so that mutation finds text.
func h2Stream(body bool) string {
	var out bytes.Buffer
	out.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&out, nil)
	_ = framer.WriteSettings()
	for id := uint32(1); id < 4; id += 2 {
		var block bytes.Buffer
		for _, f := range h2fields("POST", api, fmt.Sprintf("/h%d", id), "authorization: Bearer "+wideP, "x-a: b") {
			fmt.Fprintf(&block, "\x10%c%s%c%s", len(f.Name), f.Name, len(f.Value), f.Value)
		}
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: !body})
		if body {
			_ = framer.WriteData(id, true, []byte("hello "+wideP))
		}
	}
	return out.String()
}

// mill is a live gateway that streams are thrown at.
type mill struct {
	c     *Case
	s     *Session
	ups   []*Upstream
	fill  *strings.Replacer
	trust *tls.Config
	pace  pace

	mu      sync.Mutex
	trail   *trail
	settled map[string]int // arrived, found recorded, and forgotten
}

func newMill(c *Case) *mill {
	c.Rules.Add("{name: clear, hosts: [clear.test], scheme: http, substitute: [{secret: github, in: header Authorization}]}")
	m := &mill{c: c, pace: hasty, ups: []*Upstream{c.U1.HTTP1(), c.U2.HTTP1(), c.Upstream("clear.test:80", Serve{}), c.U3}, trail: newTrail(filepath.Join(c.Home, "audit")), settled: map[string]int{}}
	m.s = c.S1()
	if len(wideP) != len(c.P) {
		c.Fatalf("the placeholder has %d characters, not %d", len(c.P), len(wideP))
	}
	m.fill = strings.NewReplacer("{CRED}", m.s.Credentials(), "{P}", c.P, wideP, c.P)
	m.trust = &tls.Config{RootCAs: m.s.Roots, ServerName: api}
	return m
}

// atTheDoor throws a stream at the front door.
func (m *mill) atTheDoor(stream string) error {
	n, err := net.DialTimeout("tcp", m.s.Proxy.Host, patience)
	if err != nil {
		return fmt.Errorf("the gateway takes no connection: %w", err)
	}
	defer n.Close()
	return m.throw(n, n.(*net.TCPConn).CloseWrite, stream)
}

// inATunnel throws a stream at the server behind the TLS of a tunnel.
func (m *mill) inATunnel(stream string) error {
	n, err := net.DialTimeout("tcp", m.s.Proxy.Host, patience)
	if err != nil {
		return fmt.Errorf("the gateway takes no connection: %w", err)
	}
	defer n.Close()
	_ = n.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(n, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n%s\r\n\r\n", api, api, m.s.Credentials()); err != nil {
		return err
	}
	if status := statusOf(n); status != 200 {
		return fmt.Errorf("CONNECT is answered %d", status)
	}
	config := m.trust.Clone()
	config.NextProtos = []string{"http/1.1"}
	if strings.HasPrefix(stream, "PRI ") {
		config.NextProtos = []string{"h2"}
	}
	t := tls.Client(n, config)
	if err := t.Handshake(); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	end := t.CloseWrite
	if config.NextProtos[0] == "h2" {
		end = n.Close // a half of a connection is nothing in HTTP/2, and is waited for
	}
	return m.throw(t, end, stream)
}

// pace is how long a client waits for the first bytes of an answer, and for
// more, before it ends its side.
type pace struct{ first, next time.Duration }

var (
	patient = pace{1500 * time.Millisecond, 500 * time.Millisecond}
	hasty   = pace{12 * time.Millisecond, 3 * time.Millisecond}
)

// throw sends a stream, and reads until the gateway ends the connection.
func (m *mill) throw(conn net.Conn, end func() error, stream string) error {
	_ = conn.SetDeadline(time.Now().Add(patience))
	got := newLockedBuffer()
	done := make(chan error, 1)
	go func() { _, err := io.Copy(got, conn); done <- err }()
	_, _ = io.WriteString(conn, m.fill.Replace(stream)) // it may end in the middle
	var err error
	quiet := time.After(m.pace.first)
	for waiting := true; waiting; {
		select {
		case err = <-done:
			waiting = false
		case <-got.more:
			quiet = time.After(m.pace.next)
		case <-quiet:
			_ = end()
			err = <-done
			waiting = false
		}
	}
	if late, ok := err.(net.Error); ok && late.Timeout() {
		return fmt.Errorf("the connection is neither served nor ended; received %q", clip(got.String()))
	}
	if found := leaks(got.Bytes(), m.c.Values); len(found) > 0 {
		return fmt.Errorf("the client received a value (%v)", found)
	}
	return nil
}

// judge compares what the upstreams received with the record.
func (m *mill) judge() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.s.Running() {
		return fmt.Errorf("the gateway has ended: %s", clip(m.s.Stderr()))
	}
	seen, fresh := maps.Clone(m.settled), 0
	for _, u := range m.ups {
		for _, q := range u.received() {
			if q.Method == "" || strings.HasPrefix(q.Method, "malformed") || oddBytes.MatchString(q.Head) {
				return fmt.Errorf("%s received what is no request: %q", u.Name, clip(q.Head))
			}
			fresh++
			path, _, _ := strings.Cut(q.Target, "?")
			seen[u.Name+" "+q.Method+" "+strings.ReplaceAll(path, R, "{github}")]++
			if strings.Contains(q.text(), R) {
				seen[u.Name+" substitute"]++
			}
		}
	}
	var missing string
	for limit := time.Now().Add(3 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		recorded, err := m.trail.read()
		if err != nil {
			return err
		}
		missing = ""
		for key, n := range seen {
			if recorded[key] < n {
				missing = fmt.Sprintf("%q arrived %d times and is recorded %d times", key, n, recorded[key])
			}
		}
		if missing == "" || time.Now().After(limit) {
			break
		}
	}
	if missing != "" {
		return errors.New(missing)
	}
	if fresh > 1000 {
		m.forget(seen)
	}
	return nil
}

// forget makes room: what was found recorded is only counted from now on.
func (m *mill) forget(seen map[string]int) {
	m.settled = seen
	for _, u := range m.ups {
		u.closeConns()
		u.mu.Lock()
		u.conns = nil
		u.mu.Unlock()
	}
}

// trail reads the record as it grows.
type trail struct {
	dir    string
	offset map[string]int64
	counts map[string]int
}

func newTrail(dir string) *trail {
	return &trail{dir: dir, offset: map[string]int64{}, counts: map[string]int{}}
}

// read counts the results, by upstream, method and path, and the substitutions.
func (t *trail) read() (map[string]int, error) {
	files, err := filepath.Glob(filepath.Join(t.dir, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	for _, path := range files {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		_, _ = file.Seek(t.offset[path], io.SeekStart)
		text, err := io.ReadAll(file)
		file.Close()
		if err != nil {
			return nil, err
		}
		whole := text[:bytes.LastIndexByte(text, '\n')+1]
		t.offset[path] += int64(len(whole))
		for line := range bytes.Lines(whole) {
			var r struct {
				Type, Host, Method, Path string
				Port                     int
			}
			if err := json.Unmarshal(line, &r); err != nil {
				return nil, err
			}
			at := fmt.Sprintf("%s:%d", r.Host, r.Port)
			switch r.Type {
			case "result":
				t.counts[at+" "+r.Method+" "+r.Path]++
			case "substitute":
				t.counts[at+" substitute"]++
			}
		}
	}
	return t.counts, nil
}

// mutate changes a stream in a few places.
func mutate(r *rand.Rand, stream string, others []string) string {
	b := []byte(stream)
	for range 1 + r.IntN(4) {
		if len(b) < 2 {
			break
		}
		at := r.IntN(len(b))
		switch r.IntN(8) {
		case 0:
			b[at] ^= 1 << r.IntN(8)
		case 1:
			b[at] = byte(r.IntN(256))
		case 2:
			b = slices.Delete(b, at, min(len(b), at+1+r.IntN(8)))
		case 3:
			b = slices.Insert(b, at, []byte(oddities[r.IntN(len(oddities))])...)
		case 4:
			end := min(len(b), at+1+r.IntN(64))
			b = slices.Insert(b, r.IntN(len(b)), slices.Clone(b[at:end])...)
		case 5:
			other := others[r.IntN(len(others))]
			b = append(b[:at], other[min(len(other), r.IntN(len(other))):]...)
		case 6:
			b = append(b, others[r.IntN(len(others))]...)
		case 7:
			b = b[:at]
		}
	}
	return string(b)
}

var oddities = []string{
	"\r\n", "\n", "\r", "\x00", " ", "\t", ":", ",", "0", "-1", "ffffffff", "\r\n\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 0\r\n", "Content-Length: 5\r\n", "Connection: close\r\n", "Expect: 100-continue\r\n",
	"Host: " + evil + "\r\n", "0\r\n\r\n", "GET /x HTTP/1.1\r\nHost: " + api + "\r\n\r\n", "{P}", "%7bP}", "/../", "//", "%2f", "\xff", "HTTP/1.1", ";x=\n", "\x00\x00\x00\x04\x01\x00\x00\x00\x00", "\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01",
}

func mutatedStreams(c *Case) {
	m := newMill(c)
	kinds := []struct {
		seeds []string
		throw func(string) error
	}{{doorStreams, m.atTheDoor}, {tunnelStreams(), m.inATunnel}}
	m.pace = patient
	for _, kind := range kinds {
		var clients sync.WaitGroup
		for _, seed := range kind.seeds {
			clients.Go(func() {
				if err := kind.throw(seed); err != nil {
					c.Errorf("%q: %v", seed, err)
				}
			})
		}
		clients.Wait()
	}
	if served := c.U1.Received(); len(served) != 17 {
		c.Errorf("of the streams as they are %d requests arrived: %s", len(served), c.U1.Text())
	}
	m.pace = hasty
	var clients sync.WaitGroup
	end := time.Now().Add(3 * time.Second)
	var failed sync.Once
	for i := range 6 {
		clients.Go(func() {
			r := rand.New(rand.NewPCG(38, uint64(i)))
			for kind := kinds[i%2]; time.Now().Before(end); {
				stream := mutate(r, kind.seeds[r.IntN(len(kind.seeds))], kind.seeds)
				if err := kind.throw(stream); err != nil {
					failed.Do(func() { c.Errorf("%q: %v", stream, err) })
					return
				}
			}
		})
	}
	clients.Wait()
	if err := m.judge(); err != nil {
		c.Error(err)
	}
}

// fuzzStreams throws mutated streams at a gateway that all of them share.
func fuzzStreams(f *testing.F, seeds []string, throw func(*mill, string) error) {
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	if flag.Lookup("test.fuzz").Value.String() != "" && os.Getenv(withinVariable) == "" {
		if err := ground.setup(); err != nil { // once for all workers
			f.Fatal(err)
		}
		f.Setenv(withinVariable, ground.dir)
	}
	outer := &testing.T{}
	var m *mill
	var last []string // thrown since the record was looked at
	start := sync.OnceFunc(func() { m = newMill(newCase(outer, "fuzz")) })
	f.Cleanup(func() {
		if m == nil {
			return
		}
		if err := m.judge(); err != nil {
			f.Errorf("%v\nwith one of %q", err, last)
		}
		m.c.T, m.c.wired = outer, true
		if m.c.finish(); outer.Failed() {
			f.Error("what holds after every case does not hold after these")
		}
	})
	every := 1
	if flag.Lookup("test.fuzz").Value.String() != "" {
		every = 20 // the record is on disk some time after the answer
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		if start(); m == nil || outer.Failed() {
			t.Fatal("the gateway could not be started")
		}
		m.c.T = t
		if err := throw(m, string(stream)); err != nil {
			t.Fatal(err)
		}
		if last = append(last, string(stream)); len(last) < every {
			return
		}
		if err := m.judge(); err != nil {
			t.Fatalf("%v\nwith one of %q", err, last)
		}
		last = nil
	})
}

func FuzzFrontDoor(f *testing.F) {
	fuzzStreams(f, doorStreams, (*mill).atTheDoor)
}

func FuzzDecrypted(f *testing.F) {
	fuzzStreams(f, tunnelStreams(), (*mill).inATunnel)
}
