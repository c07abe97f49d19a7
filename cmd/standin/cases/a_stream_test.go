//go:build linux

package cases

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// Bodies that stream, that are encoded, and that are multipart forms.

func sectionAStreams() []entry {
	return []entry{
		{"A22", deepAndWideJSON},
		{"A25", multipartForms},
		{"A29", placeholderCutByChunks},
		{"A31", placeholderCutByFrames},
		{"A34", placeholderInALargeBody},
		{"A35", lengthsOfStreams},
		{"A39", encodedBodies},
		{"A40", bodiesThatLieAboutTheirEncoding},
	}
}

const (
	bodyRule      = "{name: body, hosts: [" + api + "], methods: [POST, PUT], paths: [/body], substitute: [{secret: github, in: body}]}"
	multipartRule = "{name: multipart, hosts: [" + api + "], methods: [POST], paths: [/multipart], substitute: [{secret: github, in: multipart token}]}"
	firstRule     = "{name: first, hosts: [" + api + "], methods: [POST], paths: [/first], read-first: 64, substitute: [{secret: github, in: json /auth/token}]}"
	strictRule    = "{name: strict-body, hosts: [" + api + "], methods: [POST], paths: [/strict-body], misplaced: refuse, substitute: [{secret: github, in: json /a}]}"
)

// chunked is the bytes of an HTTP/1.1 request whose body comes in chunks.
func chunked(target, host string, fields []string, pieces ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n", target, host)
	for _, f := range fields {
		b.WriteString(f + "\r\n")
	}
	b.WriteString("\r\n")
	for _, p := range pieces {
		if p != "" {
			fmt.Fprintf(&b, "%x\r\n%s\r\n", len(p), p)
		}
	}
	return b.String() + "0\r\n\r\n"
}

func loginBody(token string) string {
	return `{"x":[1,"y"],"auth":{"token":"` + token + `"},"z":"` + "é" + `"}`
}

func deepAndWideJSON(c *Case) {
	s := c.S1()
	deep := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	s.Each(Message{"POST", api, "/login", asJSON, deep}, func(r *Response) { c.Refused(r, 400, "bad_request") })
	c.Equal(len(c.U1.Received()), 0)
	c.Refused(s.Do(api, chunked("/login", api, asJSON, deep)), 400, "bad_request")
	var wide strings.Builder
	wide.WriteString(`{`)
	for i := range 1_000_000 {
		fmt.Fprintf(&wide, `"key%d":%d,`, i, i)
	}
	body := wide.String() + `"auth":{"token":"`
	before := c.usage(s).peak
	r := s.Do(api, postJSON("/login", api, body+c.P+`"}}`))
	c.Status(r, 200)
	c.within("memory grew by", c.usage(s).peak-before, 16<<10)
	for _, q := range c.U1.Received() {
		if q.Whole {
			c.Equal(string(q.Body) == body+R+`"}}`, true)
		}
	}
	c.Recorded(1, Want{"type": "substitute", "surface": "json /auth/token"})
	c.Recorded(3, Want{"type": "deny", "code": "bad_request"})
}

func multipartForms(c *Case) {
	c.Rules.Add(multipartRule)
	form := []string{"Content-Type: multipart/form-data; boundary=b0und"}
	part := func(head, content string) string {
		return "--b0und\r\nContent-Disposition: form-data; " + head + "\r\n\r\n" + content + "\r\n"
	}
	const end = "--b0und--\r\n"
	good := []struct{ sent, want string }{
		{part(`name="token"`, c.P) + part(`name="a"`, "b") + end, part(`name="token"`, R) + part(`name="a"`, "b") + end},
		{part(`name="file"; filename="`+c.P+`"`, c.P) + part(`name=token`, "x "+c.P) + end, part(`name="file"; filename="`+c.P+`"`, c.P) + part(`name=token`, "x "+R) + end},
		{part("name=\"a\"\r\nX-Note: "+c.P, "b") + end, ""},
		{part("name=\"token\"\r\nContent-Type: multipart/mixed; boundary=in", "--in\r\n\r\n"+c.P+"\r\n--in--") + end, ""},
	}
	for _, g := range good {
		want := g.want
		if want == "" {
			want = g.sent
		}
		before := len(c.U1.Received())
		c.S1().Each(Message{"POST", api, "/multipart", form, g.sent}, func(r *Response) { c.Status(r, 200) })
		c.Status(c.S1().Do(api, chunked("/multipart", api, form, g.sent[:70], g.sent[70:])), 200)
		for _, q := range c.U1.Requests(before + 3)[before:] {
			c.Equal(string(q.Body), want)
		}
	}
	c.Recorded(6, Want{"type": "substitute", "surface": "multipart token"})
	c.Recorded(9, Want{"type": "misplaced", "path": "/multipart"})
	sent := len(c.U1.Received())
	bad := []string{
		part(`name="token"`, c.P), part(`name="token"`, c.P) + "--b0und", part(`name="token"`, c.P) + part(`name="token"`, "2") + end,
		part(`name="a"; name="token"`, c.P) + end, "preamble\r\n" + part(`name="token"`, c.P) + end, part(`name="token"`, c.P) + end + "more",
	}
	for _, body := range bad {
		c.S1().Each(Message{"POST", api, "/multipart", form, body}, func(r *Response) { c.Refused(r, 400, "bad_request") })
	}
	for _, boundary := range []string{"boundary=other; boundary*=utf-8''b0und", "boundary*0=b0; boundary*1=und", "boundary=other; Boundary=b0und", "boundary=b0und; boundary=b0und"} {
		m := Message{"POST", api, "/multipart", []string{"Content-Type: multipart/form-data; " + boundary}, part(`name="token"`, c.P) + end}
		c.S1().Each(m, func(r *Response) { c.Refused(r, 400, "bad_request") })
	}
	body := strings.ReplaceAll(part(`name="token"`, "x")+end, "b0und", c.P)
	c.S1().Each(Message{"POST", api, "/multipart", []string{"Content-Type: multipart/form-data; boundary=" + c.P}, body}, func(r *Response) {
		c.Refused(r, 403, "placeholder_misplaced")
	})
	c.Equal(len(c.U1.Received()), sent)
}

// placeholderCutByChunks: each offset in each way of reading a body.
func placeholderCutByChunks(c *Case) {
	c.Rules.Add(bodyRule)
	c.Rules.Add(multipartRule)
	form := []string{"Content-Type: application/x-www-form-urlencoded"}
	parts := []string{"Content-Type: multipart/form-data; boundary=b"}
	const head = "--b\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\n"
	c.U1.HTTP1()
	n := 0
	for _, k := range []struct {
		path, before, after string
		fields              []string
	}{
		{"/login", `{"auth":{"token":"`, `"}}`, asJSON}, {"/form", "a=b&token=", "&c=%64", form},
		{"/multipart", head, "\r\n--b--\r\n", parts}, {"/body", "text ", " text", nil},
	} {
		t := c.S1().Tunnel(api)
		for at := range len(c.P) + 1 {
			t.Send(chunked(k.path, api, k.fields, k.before+c.P[:at], c.P[at:]+k.after))
			c.Status(t.Response("POST"), 200)
			n++
		}
		for _, q := range c.U1.Requests(n)[n-len(c.P)-1:] {
			c.Equal(string(q.Body), k.before+R+k.after)
		}
	}
	c.Recorded(n, Want{"type": "substitute"})
}

func placeholderCutByFrames(c *Case) {
	h := c.S1().H2(api)
	fields := h2fields("POST", api, "/login", "content-type: application/json")
	before, after, _ := strings.Cut(loginBody("|"), "|")
	n := 0
	for at := 0; at <= len(c.P); at += 3 {
		id := h.Open(fields, false)
		_ = h.Framer.WriteData(id, false, nil)
		_ = h.Framer.WriteDataPadded(id, false, []byte(before+c.P[:at]), make([]byte, 17))
		_ = h.Framer.WriteData(id, false, nil)
		_ = h.Framer.WriteDataPadded(id, false, []byte(c.P[at:]), make([]byte, 255))
		_ = h.Framer.WriteData(id, false, []byte(after))
		_ = h.Framer.WriteData(id, true, nil)
		c.Status(h.Await(id), 200)
		n++
	}
	for _, q := range c.U1.Requests(n) {
		c.Equal(string(q.Body), loginBody(R))
	}
	// The field lies across HEADERS and CONTINUATION.
	id := h.Open(h2fields("GET", api, "/user", "x-long: "+strings.Repeat("~", 12500), "authorization: Bearer "+c.P), true)
	c.Status(h.Await(id), 200)
	c.Equal(c.U1.Requests(n + 1)[n].Values("Authorization"), []string{"Bearer " + R})
	c.Recorded(n+1, Want{"type": "substitute"})
}

func placeholderInALargeBody(c *Case) {
	c.Rules.Add(bodyRule)
	s := c.S1()
	c.Status(s.Do(api, message("POST", "/body", api, "warm "+c.P)), 200)
	const size = 64 << 20
	filler := strings.Repeat("0123456789abcdef", size/2/16)
	var sent, want strings.Builder
	for b, text := range map[*strings.Builder]string{&sent: c.P, &want: R} {
		b.WriteString(text + " " + filler + " " + text + " " + filler + " " + text)
	}
	c.U1.HTTP1()
	before := c.usage(s)
	c.Status(s.Do(api, message("POST", "/body", api, sent.String())), 200)
	after := c.usage(s)
	c.Logf("64 MiB: %d KiB more memory, %s of processor time", after.peak-before.peak, after.cpu-before.cpu)
	c.within("memory grew by", after.peak-before.peak, 16<<10)
	for _, q := range c.U1.Requests(2) {
		if len(q.Body) > size && string(q.Body) != want.String() {
			c.Errorf("%d bytes arrived, not as they should be", len(q.Body))
		}
	}
	c.Recorded(2, Want{"type": "substitute", "surface": "body"})
	c.Recorded(1, Want{"type": "result", "bytes_out": float64(want.Len())})
}

// lengthsOfStreams: what is read first keeps an exact length; everything else
// goes on at once, in chunks, and what is wrong with it cuts the upstream off.
func lengthsOfStreams(c *Case) {
	c.Rules.Add(firstRule)
	c.Rules.Add(strictRule)
	c.U1.HTTP1()
	s := c.S1()
	small := `{"auth":{"token":"` + c.P + `"}}` // under 64 bytes
	c.Status(s.Do(api, postJSON("/first", api, small)), 200)
	c.Status(s.Do(api, postJSON("/first", api, loginBody(c.P)+strings.Repeat(" ", 64))), 200)
	c.Status(s.Do(api, chunked("/first", api, asJSON, small)), 200)
	c.Status(s.Do(api, chunked("/login", api, asJSON, small)), 200)
	for _, q := range c.U1.Requests(4) {
		if n := q.Values("Content-Length"); string(q.Body) == `{"auth":{"token":"`+R+`"}}` && len(n) > 0 {
			c.Equal(n, []string{strconv.Itoa(len(q.Body))})
			c.Equal(q.Values("Transfer-Encoding"), []string(nil))
		} else {
			c.Equal(q.Values("Transfer-Encoding"), []string{"chunked"})
			c.Equal(len(n), 0)
		}
		c.Equal(strings.Contains(string(q.Body), R), true)
	}

	// A conversation: the next line is sent when the last was answered.
	c.U1.Handle(func(w http.ResponseWriter, r *http.Request) {
		flow := http.NewResponseController(w)
		_ = flow.EnableFullDuplex()
		buf := make([]byte, 4096)
		for {
			n, err := r.Body.Read(buf)
			fmt.Fprintf(w, "%d;", n)
			_ = flow.Flush()
			if err != nil {
				return
			}
		}
	})
	t := s.Tunnel(api)
	t.Send("POST /login HTTP/1.1\r\nHost: " + api + "\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[ \r\n")
	answers := t.Stream()
	for i := range 5 {
		buf := make([]byte, 2)
		if _, err := io.ReadFull(answers, buf); err != nil {
			c.Fatalf("no answer to line %d: %v", i, err)
		}
		if i < 4 {
			t.Send("2\r\n" + []string{"1,", "2,", "3,", "4]"}[i] + "\r\n")
		}
	}
	_ = t.Close()

	c.U1.Handle(okHandler)
	whole := wholeOnes(c.U1.Received())
	for _, k := range []struct {
		path, body, code string
		status           int
	}{
		{"/login", loginBody(c.P)[:40] + "}", "bad_request", 400},
		{"/strict-body", `{"b":"` + c.P + `"}`, "placeholder_misplaced", 403},
	} {
		c.Refused(s.Do(api, chunked(k.path, api, asJSON, k.body)), k.status, k.code)
		c.Recorded(1, Want{"type": "deny", "path": k.path, "code": k.code})
	}
	c.Refused(c.S2().Do(api, chunked("/login", api, asJSON, small)), 403, "no_grant")
	c.Equal(wholeOnes(c.U1.Received()), whole)
	c.U1.Handle(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusLengthRequired) })
	r := s.Do(api, postJSON("/first", api, loginBody(c.P)+strings.Repeat(" ", 64)))
	c.Equal(r.Status, 411)
	c.Equal(strings.Contains(r.Header.Get("Proxy-Status"), "read-first"), true)
}

// encodings are writers and readers of each content coding; "raw" is deflate
// without the frame of zlib.
var encodings = []struct {
	name, coding string
	write        func(io.Writer) io.WriteCloser
	read         func(io.Reader) (io.Reader, error)
}{
	{"gzip", "gzip", func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }, func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	{"zlib", "deflate", func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }, func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) }},
	{"raw", "deflate", func(w io.Writer) io.WriteCloser { f, _ := flate.NewWriter(w, 6); return f }, func(r io.Reader) (io.Reader, error) { return flate.NewReader(r), nil }},
	{"br", "br", func(w io.Writer) io.WriteCloser { return brotli.NewWriterLevel(w, 4) }, func(r io.Reader) (io.Reader, error) { return brotli.NewReader(r), nil }},
	{"zstd", "zstd", func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)); return z }, func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) }},
}

func packed(write func(io.Writer) io.WriteCloser, text string) string {
	var b bytes.Buffer
	w := write(&b)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return b.String()
}

func encodedBodies(c *Case) {
	c.Rules.Add(bodyRule)
	s := c.S1()
	for _, e := range encodings {
		fields := append([]string{"Content-Encoding: " + e.coding}, asJSON...)
		coded := packed(e.write, loginBody(c.P))
		before := len(c.U1.Received())
		s.Each(Message{"POST", api, "/login", fields, coded}, func(r *Response) { c.Status(r, 200) })
		c.Status(s.Do(api, chunked("/login", api, fields, coded[:10], coded[10:])), 200)
		for _, q := range c.U1.Requests(before + 3)[before:] {
			c.Equal(q.Values("Content-Encoding"), []string{e.coding})
			r, err := e.read(bytes.NewReader(q.Body))
			if err == nil {
				var plain []byte
				plain, err = io.ReadAll(r)
				c.Equal(string(plain), loginBody(R))
			}
			if err != nil {
				c.Errorf("%s: the upstream cannot read it: %v", e.name, err)
			}
			if n := q.Values("Content-Length"); len(n) > 0 {
				c.Equal(n, []string{strconv.Itoa(len(q.Body))})
			}
		}
	}
	c.Recorded(3*len(encodings), Want{"type": "substitute", "surface": "json /auth/token"})

	// 128 MiB of spaces, and then a placeholder.
	sent, memory := len(c.U1.Received()), c.usage(s).peak
	for _, e := range encodings {
		var b bytes.Buffer
		w := e.write(&b)
		for range 16 {
			_, _ = w.Write(bytes.Repeat([]byte(" "), 8<<20))
		}
		_, _ = io.WriteString(w, c.P)
		_ = w.Close()
		if b.Len() > 1<<20 {
			c.Fatalf("%s: the bomb has %d bytes", e.name, b.Len())
		}
		s.Each(Message{"POST", api, "/body", []string{"Content-Encoding: " + e.coding}, b.String()}, func(r *Response) {
			c.Refused(r, 413, "body_too_large")
		})
	}
	c.Equal(len(c.U1.Received()), sent)
	c.Recorded(2*len(encodings), Want{"type": "deny", "code": "body_too_large"})
	c.within("memory grew by", c.usage(s).peak-memory, 64<<10)
}

func bodiesThatLieAboutTheirEncoding(c *Case) {
	s := c.S1()
	body := loginBody(c.P)
	n := 0
	for _, e := range encodings {
		good := packed(e.write, body)
		for _, lie := range []string{body, good[:len(good)-3], good + "more"} {
			if e.name == "raw" && lie == body {
				continue // some texts begin like deflate; one that does not is below
			}
			s.Each(Message{"POST", api, "/login", append([]string{"Content-Encoding: " + e.coding}, asJSON...), lie}, func(r *Response) {
				c.Refused(r, 400, "bad_request")
			})
			n += 2
		}
	}
	c.Recorded(n, Want{"type": "deny", "code": "bad_request"})
	n = 0
	for _, fields := range [][]string{{"gzip, gzip"}, {"identity, gzip"}, {"gzip", "gzip"}, {"x-foo"}, {"compress"}, {"gzip;q=1"}} {
		lines := asJSON
		for _, f := range fields {
			lines = append([]string{"Content-Encoding: " + f}, lines...)
		}
		s.Each(Message{"POST", api, "/login", lines, packed(encodings[0].write, body)}, func(r *Response) { c.Refused(r, 415, "encoded_body") })
		n += 2
	}
	c.Recorded(n, Want{"type": "deny", "code": "encoded_body"})
	aws := []string{"Content-Encoding: aws-chunked", "X-Amz-Decoded-Content-Length: 5"}
	const signed = "5;chunk-signature=ad80c730\r\nhello\r\n0;chunk-signature=b6c6ea8a\r\n\r\n"
	s.Each(Message{"POST", api, "/login", aws, signed}, func(r *Response) { c.Refused(r, 409, "signed_body") })
	c.Equal(len(c.U1.Received()), 0)
	// Without a body rule all of them pass as they are.
	s.Each(Message{"POST", api, "/elsewhere", aws, signed}, func(r *Response) { c.Status(r, 200) })
	for _, q := range c.U1.Requests(2) {
		c.Equal(string(q.Body), signed)
		c.Equal(q.Values("Content-Encoding"), []string{"aws-chunked"})
	}
	c.Recorded(0, Want{"type": "substitute"})
}
