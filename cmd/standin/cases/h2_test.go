//go:build linux

package cases

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// H2 is an HTTP/2 client that sends the frames that it is told to send.
type H2 struct {
	*Conn
	Framer  *http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
	next    uint32
	streams map[uint32]*h2stream
	window  int64 // what the proxy may still receive on the connection
	initial int64
	Lost    error // the connection ended
	GoAway  *http2.ErrCode
	Peer    map[http2.SettingID]uint32
}

type h2stream struct {
	r      Response
	head   bool
	done   bool
	window int64
}

// H2 opens a tunnel and an HTTP/2 connection in it.
func (s *Session) H2(authority string) *H2 {
	s.c.Helper()
	t := s.tunnel(authority, "h2")
	h := &H2{Conn: t, next: 1, streams: map[uint32]*h2stream{}, window: 65535, initial: 65535, Peer: map[http2.SettingID]uint32{}}
	h.encoder = hpack.NewEncoder(&h.block)
	h.Send(http2.ClientPreface)
	h.Framer = http2.NewFramer(t.Conn, t.in)
	h.Framer.AllowIllegalWrites = true
	h.Framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.Framer.MaxHeaderListSize = 16 << 20
	_ = h.Framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 28}, http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	_ = h.Framer.WriteWindowUpdate(0, 1<<28)
	return h
}

// Fields makes a header list: pseudo-headers and then "name: value" lines,
// names as they stand.
func h2fields(method, host, path string, lines ...string) []Field {
	list := []Field{{":method", method}, {":scheme", "https"}, {":authority", host}, {":path", path}}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		list = append(list, Field{name, value})
	}
	return list
}

// Open sends HEADERS and returns the stream.
func (h *H2) Open(fields []Field, end bool) uint32 {
	id := h.next
	h.next += 2
	h.streams[id] = &h2stream{window: h.initial, r: Response{Header: http.Header{}, Trailer: http.Header{}, Length: -1, Proto: "HTTP/2.0"}}
	h.Headers(id, fields, end)
	return id
}

// Headers sends a header list on a stream: HEADERS, and CONTINUATION where it
// is long.
func (h *H2) Headers(id uint32, fields []Field, end bool) {
	h.block.Reset()
	for _, f := range fields {
		_ = h.encoder.WriteField(hpack.HeaderField{Name: f.Name, Value: f.Value})
	}
	block := h.block.Bytes()
	first := min(len(block), 16384)
	_ = h.Framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block[:first], EndStream: end, EndHeaders: first == len(block)})
	for block = block[first:]; len(block) > 0; {
		n := min(len(block), 16384)
		_ = h.Framer.WriteContinuation(id, n == len(block), block[:n])
		block = block[n:]
	}
}

// Data sends a body, within the window that the proxy gives.
func (h *H2) Data(id uint32, body []byte, end bool) {
	st := h.streams[id]
	for {
		n := min(int64(len(body)), 16384, h.window, st.window)
		if n < int64(len(body)) && n <= 0 {
			if st.done || h.pump() != nil {
				return
			}
			continue
		}
		last := n == int64(len(body))
		_ = h.Framer.WriteData(id, end && last, body[:n])
		h.window -= n
		st.window -= n
		if body = body[n:]; last {
			return
		}
	}
}

// Ask sends a whole request and waits for its answer.
func (h *H2) Ask(fields []Field, body string) *Response {
	id := h.Open(fields, body == "")
	if body != "" {
		h.Data(id, []byte(body), true)
	}
	return h.Await(id)
}

// Await reads frames until the stream is answered, reset or lost.
func (h *H2) Await(id uint32) *Response {
	st := h.streams[id]
	for !st.done {
		if err := h.pump(); err != nil {
			st.r.Err = err
			break
		}
	}
	st.r.Raw = dump(&st.r)
	h.c.Hear("response", st.r.Raw)
	return &st.r
}

// Drain reads frames until the proxy has answered a PING: what it had to say
// about all that was sent so far has arrived.
func (h *H2) Drain() error {
	if err := h.Framer.WritePing(false, [8]byte{'d', 'r', 'a', 'i', 'n'}); err != nil {
		h.Lost = err
	}
	for {
		frame, err := h.frame()
		if err != nil {
			return err
		}
		if p, ok := frame.(*http2.PingFrame); ok && p.IsAck() {
			return nil
		}
	}
}

func (h *H2) pump() error {
	_, err := h.frame()
	return err
}

func (h *H2) frame() (http2.Frame, error) {
	if h.Lost != nil {
		return nil, h.Lost
	}
	frame, err := h.Framer.ReadFrame()
	if err != nil {
		h.Lost = fmt.Errorf("HTTP/2 connection: %w", err)
		return nil, h.Lost
	}
	st := h.streams[frame.Header().StreamID]
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		return frame, h.settings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			_ = h.Framer.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			h.window += int64(f.Increment)
		} else if st != nil {
			st.window += int64(f.Increment)
		}
	case *http2.GoAwayFrame:
		h.GoAway = &f.ErrCode
	case *http2.RSTStreamFrame:
		if st != nil && !st.done {
			st.done = true
			st.r.Err = http2.StreamError{StreamID: f.StreamID, Code: f.ErrCode}
		}
	case *http2.MetaHeadersFrame:
		if st != nil {
			st.headers(f)
		}
	case *http2.DataFrame:
		if st != nil {
			st.r.Body = append(st.r.Body, f.Data()...)
			st.done = st.done || f.StreamEnded()
		}
	}
	return frame, nil
}

func (h *H2) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	_ = f.ForeachSetting(func(s http2.Setting) error {
		h.Peer[s.ID] = s.Val
		if s.ID == http2.SettingInitialWindowSize {
			for _, st := range h.streams {
				st.window += int64(s.Val) - h.initial
			}
			h.initial = int64(s.Val)
		}
		return nil
	})
	return h.Framer.WriteSettingsAck()
}

func (st *h2stream) headers(f *http2.MetaHeadersFrame) {
	status := f.PseudoValue("status")
	n, _ := strconv.Atoi(status)
	target := st.r.Header
	switch {
	case st.head:
		target = st.r.Trailer
	case n >= 100 && n < 200:
		interim := &Response{Status: n, Header: http.Header{}}
		st.r.Interim = append(st.r.Interim, interim)
		target = interim.Header
	default:
		st.head, st.r.Status = true, n
	}
	for _, field := range f.RegularFields() {
		target.Add(field.Name, field.Value)
	}
	if v, err := strconv.ParseInt(st.r.Header.Get("Content-Length"), 10, 64); err == nil {
		st.r.Length = v
	}
	st.done = st.done || f.StreamEnded()
}

// Reset says whether the proxy reset the stream, and with which code.
func (r *Response) Reset() (http2.ErrCode, bool) {
	var e http2.StreamError
	if errors.As(r.Err, &e) {
		return e.Code, true
	}
	return 0, false
}

// Message is a request that can be sent over either version of HTTP.
type Message struct {
	Method, Host, Path string
	Fields             []string // "Name: value"
	Body               string
}

// Each sends the message twice, over HTTP/1.1 and over HTTP/2, each time in a
// tunnel of its own, and hands every answer to check.
func (s *Session) Each(m Message, check func(*Response)) {
	s.c.Helper()
	check(s.Do(m.Host, message(m.Method, m.Path, m.Host, m.Body, m.Fields...)))
	check(s.DoH2(m))
}

// DoH2 opens a tunnel, sends the message over HTTP/2 and reads the answer.
func (s *Session) DoH2(m Message) *Response {
	s.c.Helper()
	h := s.H2(m.Host)
	defer h.Close()
	fields := h2fields(m.Method, m.Host, m.Path)
	for _, f := range m.Fields {
		name, value, _ := strings.Cut(f, ": ")
		fields = append(fields, Field{strings.ToLower(name), value})
	}
	if m.Body != "" {
		fields = append(fields, Field{"content-length", strconv.Itoa(len(m.Body))})
	}
	return h.Ask(fields, m.Body)
}

// Stream is the body of a stream as it comes.
func (h *H2) Stream(id uint32) io.Reader {
	return h.c.heardReader("stream", &h2body{h: h, st: h.streams[id]})
}

type h2body struct {
	h    *H2
	st   *h2stream
	read int
}

func (b *h2body) Read(p []byte) (int, error) {
	for b.read == len(b.st.r.Body) {
		if b.st.done {
			if b.st.r.Err != nil {
				return 0, b.st.r.Err
			}
			return 0, io.EOF
		}
		if err := b.h.pump(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.st.r.Body[b.read:])
	b.read += n
	return n, nil
}
