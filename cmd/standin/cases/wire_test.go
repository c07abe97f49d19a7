//go:build linux

package cases

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http/httputil"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Field is one header field, as it stood on the wire.
type Field struct{ Name, Value string }

// Request is one request as an upstream received it.
type Request struct {
	Proto    string // "http/1.1" or "h2"
	Method   string
	Target   string // the request target or :path
	Host     string // Host or :authority
	Fields   []Field
	Body     []byte
	Trailers []Field
	Head     string // HTTP/1.1: the bytes up to and with the empty line
	Whole    bool   // all of it arrived
	Aborted  bool   // h2: the stream was reset
}

// Values are the values of a field, in order; the name in any case.
func (r *Request) Values(name string) []string {
	var list []string
	for _, f := range r.Fields {
		if strings.EqualFold(f.Name, name) {
			list = append(list, f.Value)
		}
	}
	return list
}

// Value is the first value of a field, or "".
func (r *Request) Value(name string) string {
	if list := r.Values(name); len(list) > 0 {
		return list[0]
	}
	return ""
}

// text is everything of the request, decoded.
func (r *Request) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\n", r.Method, r.Target, r.Host)
	for _, f := range append(r.Fields, r.Trailers...) {
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
	}
	b.Write(r.Body)
	return b.String()
}

// asserted remembers that the case looked at recorded bytes.
func (u *Upstream) asserted() {
	u.c.mu.Lock()
	defer u.c.mu.Unlock()
	u.c.wired = true
}

// Dials is how many TCP connections arrived. It is a WIRE assertion.
func (u *Upstream) Dials() int {
	u.asserted()
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.dials
}

// Text is all that was received, decoded: for HTTP/1.1 the raw bytes of each
// connection, for HTTP/2 header lists and data. It is a WIRE assertion.
func (u *Upstream) Text() string {
	u.asserted()
	return u.text()
}

func (u *Upstream) text() string {
	var b strings.Builder
	for _, w := range u.list() {
		if w.proto != "h2" {
			b.Write(w.bytes())
		}
		for _, r := range parseWire(w) {
			b.WriteString(r.text())
		}
	}
	return b.String()
}

// Raw is the bytes of all connections, one after the other. It is a WIRE
// assertion.
func (u *Upstream) Raw() string {
	u.asserted()
	var b strings.Builder
	for _, w := range u.list() {
		b.Write(w.bytes())
	}
	return b.String()
}

func (u *Upstream) list() []*wireConn {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]*wireConn(nil), u.conns...)
}

// Received is what has arrived so far, whole or not, without waiting. It is a
// WIRE assertion.
func (u *Upstream) Received() []*Request {
	u.asserted()
	return u.received()
}

func (u *Upstream) received() []*Request {
	var all []*Request
	for _, w := range u.list() {
		all = append(all, parseWire(w)...)
	}
	return all
}

// Requests waits until exactly n whole requests have arrived and returns them,
// connection by connection. It is a WIRE assertion and fails the case at any
// other number.
func (u *Upstream) Requests(n int) []*Request {
	u.c.Helper()
	u.asserted()
	var all []*Request
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		all = u.received()
		if len(all) >= n && wholeOnes(all) >= n || time.Now().After(end) {
			break
		}
	}
	if len(all) != n || wholeOnes(all) != n {
		u.c.Fatalf("%s received %d requests, %d of them whole, not %d: %s", u.Name, len(all), wholeOnes(all), n, clip(u.text()))
	}
	return all
}

func wholeOnes(all []*Request) (n int) {
	for _, r := range all {
		if r.Whole {
			n++
		}
	}
	return n
}

// Nothing asserts that not one byte of a request arrived, now and when the case
// ends. It is a WIRE assertion.
func (u *Upstream) Nothing() {
	u.c.Helper()
	u.asserted()
	u.holds(func() string {
		if all := u.received(); len(all) > 0 {
			return fmt.Sprintf("%s received a request: %s", u.Name, clip(u.text()))
		}
		for _, w := range u.list() {
			if got := w.bytes(); w.proto != "h2" && len(got) > 0 {
				return fmt.Sprintf("%s received %q", u.Name, clip(string(got)))
			}
		}
		return ""
	})
}

// Undialled asserts that no connection arrived, now and when the case ends. It
// is a WIRE assertion.
func (u *Upstream) Undialled() {
	u.c.Helper()
	u.asserted()
	u.holds(func() string {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.dials > 0 {
			return fmt.Sprintf("%s was dialled %d times", u.Name, u.dials)
		}
		return ""
	})
}

func (u *Upstream) holds(check func() string) {
	u.c.Helper()
	if problem := check(); problem != "" {
		u.c.Error(problem)
		return
	}
	u.c.mu.Lock()
	defer u.c.mu.Unlock()
	u.c.silent = append(u.c.silent, check)
}

func parseWire(w *wireConn) []*Request {
	if w.proto == "h2" {
		return parseH2(w.bytes())
	}
	return parseH1(w.bytes())
}

// parseH1 reads the requests of a connection without mending anything: names
// and values stay as they stood.
func parseH1(raw []byte) []*Request {
	var all []*Request
	for len(raw) > 0 {
		r := &Request{Proto: "http/1.1"}
		all = append(all, r)
		end := bytes.Index(raw, []byte("\r\n\r\n"))
		if end < 0 {
			r.Head = string(raw)
			return all
		}
		r.Head, raw = string(raw[:end+4]), raw[end+4:]
		lines := strings.Split(strings.TrimSuffix(r.Head, "\r\n\r\n"), "\r\n")
		if parts := strings.SplitN(lines[0], " ", 3); len(parts) == 3 {
			r.Method, r.Target = parts[0], parts[1]
		}
		r.Fields = fieldLines(lines[1:])
		r.Host = r.Value("Host")
		raw = r.readBody(raw)
	}
	return all
}

func fieldLines(lines []string) []Field {
	var list []Field
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		list = append(list, Field{name, strings.Trim(value, " \t")})
	}
	return list
}

// readBody takes the body off raw and returns what follows it.
func (r *Request) readBody(raw []byte) []byte {
	if strings.EqualFold(r.Value("Transfer-Encoding"), "chunked") {
		rest := bytes.NewReader(raw)
		in := bufio.NewReader(rest)
		body, err := io.ReadAll(httputil.NewChunkedReader(in))
		r.Body = body
		if err != nil {
			return nil
		}
		for { // trailers
			line, err := in.ReadString('\n')
			if err != nil {
				return nil
			}
			if line = strings.TrimRight(line, "\r\n"); line == "" {
				r.Whole = true
				return raw[len(raw)-rest.Len()-in.Buffered():]
			}
			r.Trailers = append(r.Trailers, fieldLines([]string{line})...)
		}
	}
	n, _ := strconv.Atoi(r.Value("Content-Length"))
	r.Whole = len(raw) >= n
	n = min(n, len(raw))
	r.Body = raw[:n]
	return raw[n:]
}

// parseH2 reads the frames of a client.
func parseH2(raw []byte) []*Request {
	rest, ok := bytes.CutPrefix(raw, []byte(http2.ClientPreface))
	if !ok {
		return nil
	}
	framer := http2.NewFramer(io.Discard, bytes.NewReader(rest))
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.MaxHeaderListSize = 64 << 20
	framer.SetMaxReadFrameSize(1<<24 - 1)
	var all []*Request
	streams := map[uint32]*Request{}
	for {
		frame, err := framer.ReadFrame()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return all
		case err != nil: // nothing that a proxy of ours may send
			all = append(all, &Request{Proto: "h2", Method: "malformed: " + err.Error()})
			if errors.As(err, new(http2.StreamError)) {
				continue
			}
			return all
		}
		r := streams[frame.Header().StreamID]
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			if r == nil {
				r = &Request{Proto: "h2"}
				streams[f.StreamID] = r
				all = append(all, r)
				r.takeHeaders(f)
			} else {
				for _, field := range f.Fields {
					r.Trailers = append(r.Trailers, Field{field.Name, field.Value})
				}
			}
			r.Whole = f.StreamEnded()
		case *http2.DataFrame:
			if r != nil {
				r.Body = append(r.Body, f.Data()...)
				r.Whole = f.StreamEnded()
			}
		case *http2.RSTStreamFrame:
			if r != nil && !r.Whole {
				r.Aborted = true
			}
		}
	}
}

func (r *Request) takeHeaders(f *http2.MetaHeadersFrame) {
	for _, field := range f.Fields {
		switch field.Name {
		case ":method":
			r.Method = field.Value
		case ":path":
			r.Target = field.Value
		case ":authority":
			r.Host = field.Value
		default:
			r.Fields = append(r.Fields, Field{field.Name, field.Value})
		}
	}
}
