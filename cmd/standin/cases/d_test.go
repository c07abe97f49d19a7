//go:build linux

package cases

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Smuggling and framing of requests over HTTP/1.1.

func sectionD() []entry {
	return slices.Concat([]entry{
		{"D01", lengthAndChunks},
		{"D03", strangeLengths},
		{"D04", strangeTransferEncodings},
		{"D06", strangeLineEnds},
		{"D07", strangeChunks},
		{"D09", chunksInHTTP10},
		{"D10", pipelines},
		{"D11", strangeRequestLines},
		{"D12", floodsOfFields},
		{"D14", upgradeToHTTP2},
		{"D15", webSocketWithoutARule},
		{"D18", bytesAfterARefusedUpgrade},
		{"D20", tracing},
		{"D21", maxForwards},
	}, sectionDFrames(), sectionDResponses(), sectionDTLS(), []entry{{"D38", mutatedStreams}})
}

// talk sends bytes through a tunnel to api, waits for n answers, says that it
// has nothing more to say, and returns all answers until the proxy ends.
func (s *Session) talk(text string, n int) []*Response {
	s.c.Helper()
	t := s.Tunnel(api)
	defer t.Close()
	go t.Send(text) // the answer may come, and has to be read, before the end
	var all []*Response
	for {
		r := t.Response("GET")
		var late net.Error
		if r.Err != nil {
			if errors.As(r.Err, &late) && late.Timeout() {
				s.c.Errorf("neither an answer nor an end to %q", clip(text))
			}
			return all
		}
		if all = append(all, r); len(all) == n && !r.Closing {
			_ = t.Conn.(*tls.Conn).CloseWrite()
		}
	}
}

// framing is bytes that some servers would take for one request, some for two.
// "/T" stands for a target that is this input's own, and "{P}" for the placeholder.
type framing struct {
	text    string
	answers []string // statuses that are right, in order: "400", "200 400"
	arrived []string // "METHOD target body" of each request that is answered with 200
}

var malformed = []string{"400"}

// unsupported are transfer codings that nobody has to know (RFC 9112, 6.1).
var unsupported = []string{"400", "501"}

// frame sends each input, and asserts the answers and what arrived: as many
// requests as were answered, those that were meant, each framed once.
func (c *Case) frame(inputs []framing) {
	c.Helper()
	c.U1.HTTP1()
	s := c.S1()
	for i, in := range inputs {
		target := fmt.Sprintf("/f%03d", i)
		fill := strings.NewReplacer("/T", target, "{P}", c.P, "{HOST}", "Host: "+api)
		var statuses []string
		n := max(1, len(strings.Fields(in.answers[0])))
		served := 0
		for _, r := range s.talk(fill.Replace(in.text), n) {
			statuses = append(statuses, fmt.Sprint(r.Status))
			if r.Status == 200 {
				served++
				continue
			}
			c.Malformed(r, 400, 403, 405, 413, 414, 421, 426, 431, 501, 505)
		}
		if got := strings.Join(statuses, " "); !slices.Contains(in.answers, got) {
			c.Errorf("%q is answered %q, not %q", clip(in.text), got, in.answers)
		}
		var arrived []string
		for _, q := range c.U1.Received() {
			if q.Whole && strings.HasPrefix(q.Target, target) {
				arrived = append(arrived, fmt.Sprintf("%s %s %s", q.Method, q.Target, q.Body))
			}
		}
		want := slices.Clone(in.arrived[:min(served, len(in.arrived))])
		for i := range want {
			want[i] = fill.Replace(want[i])
		}
		if !slices.Equal(arrived, want) {
			c.Errorf("of %q arrived %q, not %q", clip(in.text), arrived, want)
		}
	}
	c.framedOnce()
}

var oddBytes = regexp.MustCompile(`[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r[^\n]|[^\r]\n`)

// framedOnce asserts that every head that U1 received is clean: one way of
// framing, no odd bytes, nothing of one hop.
func (c *Case) framedOnce() {
	c.Helper()
	for _, q := range c.U1.Received() {
		n, te := q.Values("Content-Length"), q.Values("Transfer-Encoding")
		if len(n)+len(te) > 1 || len(te) == 1 && te[0] != "chunked" {
			c.Errorf("framed by lengths %q and codings %q: %q", n, te, q.Head)
		}
		if oddBytes.MatchString(q.Head) || len(q.Values("Host")) != 1 {
			c.Errorf("the head is not clean: %q", q.Head)
		}
		for _, name := range []string{"Connection", "Keep-Alive", "Upgrade", "Proxy-Connection", "Proxy-Authorization", "HTTP2-Settings"} {
			if v := q.Values(name); len(v) > 0 {
				c.Errorf("%s %q came through", name, v)
			}
		}
		for _, f := range q.Fields {
			if strings.TrimSpace(f.Name) != f.Name || strings.ContainsAny(f.Name, " \t_()") || f.Name == "" {
				c.Errorf("a field of the name %q: %q", f.Name, q.Head)
			}
		}
	}
}

const embedded = "GET /T-inner HTTP/1.1\r\n{HOST}\r\nAuthorization: Bearer {P}\r\n\r\n"

func lengthAndChunks(c *Case) {
	post := func(fields, body string) string { return "POST /T HTTP/1.1\r\n{HOST}\r\n" + fields + "\r\n\r\n" + body }
	outer, inner := "POST /T ", "GET /T-inner "
	c.frame([]framing{
		{post("Content-Length: 6\r\nTransfer-Encoding: chunked", "0\r\n\r\nG"), []string{"400", "200 400", "200"}, []string{outer}},
		{post("Transfer-Encoding: chunked\r\nContent-Length: 6", "0\r\n\r\nG"), []string{"400", "200 400", "200"}, []string{outer}},
		{post("Transfer-Encoding: chunked\r\nContent-Length: 3", "1\r\nZ\r\n0\r\n\r\n"), []string{"400", "200"}, []string{outer + "Z"}},
		{post("Content-Length: 200\r\nTransfer-Encoding: chunked", "0\r\n\r\n"+embedded), []string{"200 200", "400", "200"}, []string{outer, inner}},
		{post("Content-Length: 0\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"+embedded), []string{"200 200", "400", "200"}, []string{outer + "hello", inner}},
		{post("Content-Length: 5\r\ntransfer-encoding: CHUNKED", "5\r\nhello\r\n0\r\n\r\n"), []string{"200", "400"}, []string{outer + "hello"}},
		{post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity", "hello"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: identity", "hello"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: xchunked", "hello"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: chunked, identity", "hello"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: identity, chunked", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: chunked, chunked", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: gzip, chunked", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: chunked;q=1", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: \"chunked\"", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: \x0bchunked", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: chunked\x00", "0\r\n\r\n"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding:", "hello"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: ,", "hello"), unsupported, nil},
		{post("Content-Length: 5\r\nTransfer-Encoding: ch\u00fcnked", "hello"), unsupported, nil},
	})
}

func strangeLengths(c *Case) {
	post := func(fields string) string { return "POST /T HTTP/1.1\r\n{HOST}\r\n" + fields + "\r\n\r\nabcd" }
	whole := []string{"POST /T abcd"}
	inputs := []framing{
		{post("Content-Length: 4"), []string{"200"}, whole},
		{post("Content-Length: 4\r\nContent-Length: 4"), []string{"200", "400"}, whole},
		{post("Content-Length: 4 "), []string{"200", "400"}, whole},
		{post("Content-Length: \t4"), []string{"200", "400"}, whole},
		{post("Content-Length: 0004"), []string{"200", "400"}, whole},
		// A body of GET is a body, and not the next request.
		{"GET /T HTTP/1.1\r\n{HOST}\r\nContent-Length: 4\r\n\r\nabcd", []string{"200"}, []string{"GET /T abcd"}},
		{"POST /T HTTP/1.1\r\n{HOST}\r\n\r\nabcd", []string{"200", "200 400", "400"}, []string{"POST /T "}},
		{"POST /T HTTP/1.1\r\n{HOST}\r\nContent-Length: 0\r\n\r\nabcd", []string{"200", "200 400"}, []string{"POST /T "}},
	}
	for _, fields := range []string{
		"Content-Length: 4\r\nContent-Length: 5", "Content-Length: 5\r\nContent-Length: 4", "Content-Length: 4, 4", "Content-Length: 4,4", "Content-Length: 4, 5", "Content-Length: +4", "Content-Length: -4", "Content-Length: 0x4", "Content-Length: 4;", "Content-Length: 4.0", "Content-Length: 4e0", "Content-Length: 4 4", "Content-Length: ٤", "Content-Length: ４",
		"Content-Length: 10000000000000000000", "Content-Length: 18446744073709551620", "Content-Length: 99999999999999999999", "Content-Length: 4\x00", "Content-Length: \"4\"", "Content-Length:", "Content-Length: four", "Content-Length: 4_0", "Content-Length: 4\r\nContent-Length:", "Content-Length: 4\r\nContent-Length: 04",
	} {
		inputs = append(inputs, framing{post(fields), malformed, nil})
	}
	c.frame(inputs)
}

func strangeTransferEncodings(c *Case) {
	post := func(fields string) string {
		return "POST /T HTTP/1.1\r\n{HOST}\r\n" + fields + "\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"
	}
	whole := []string{"POST /T abcd"}
	inputs := []framing{
		{post("Transfer-Encoding: chunked"), []string{"200"}, whole},
		// Folding is either refused or undone (RFC 9112, 5.2).
		{post("Transfer-Encoding:\r\n chunked"), []string{"400", "501", "200"}, whole},
		{post("X-Fold: a\r\n Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), []string{"400", "200"}, whole},
		{"POST /T HTTP/1.1\r\n{HOST}\r\nX-Fold: a\r\n\tContent-Length: 0\r\nContent-Length: 4\r\n\r\nabcd", []string{"400", "200"}, whole},
		{post("X-Fold: a\r\n Transfer-Encoding: chunked"), []string{"200 400", "400"}, []string{"POST /T "}},
	}
	for _, fields := range []string{
		"Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked", "Transfer-Encoding\x00: chunked", "\x00Transfer-Encoding: chunked", " Transfer-Encoding: chunked", "\tTransfer-Encoding: chunked",
		"Transfer-Encoding\r: chunked", "Transfer Encoding: chunked", "Transfer-Encoding", "Transfer-Encoding chunked", ": chunked", "Transfer-Encoding\xa0: chunked", "Trаnsfer-Encoding: chunked", "Content-Length : 4", "Content-Length\x0b: 4", "(Content-Length): 4", "Content-Length\r\n : 4",
	} {
		if strings.HasPrefix(fields, " ") || strings.HasPrefix(fields, "\t") {
			// In the place of the first field; elsewhere it is folding.
			inputs = append(inputs, framing{"POST /T HTTP/1.1\r\n" + fields + "\r\n{HOST}\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", malformed, nil})
			continue
		}
		inputs = append(inputs, framing{post(fields), malformed, nil})
	}
	c.frame(inputs)
}

func strangeLineEnds(c *Case) {
	bare := strings.NewReplacer("\r\n", "\n")
	one := []string{"GET /T "}
	inputs := []framing{
		{bare.Replace("GET /T HTTP/1.1\r\n{HOST}\r\nX-A: b\r\n\r\n"), []string{"200", "400"}, one},
		{"GET /T HTTP/1.1\n{HOST}\r\nX-A: b\n\r\n", []string{"200", "400"}, one},
		{"GET /T HTTP/1.1\r\n{HOST}\r\nX-A: \x80\xff\r\n\r\n", []string{"200", "400"}, one},
		{"GET /T HTTP/1.1\r\n{HOST}\r\nX-A: a\tb\r\n\r\n", []string{"200"}, one},
		// What one server takes for the end of the head, another for a field.
		{"GET /T HTTP/1.1\r\n{HOST}\r\nX-A: b\n\n" + embedded, []string{"200 200", "400"}, []string{"GET /T ", "GET /T-inner "}},
	}
	for _, text := range []string{
		"GET /T HTTP/1.1\r\n{HOST}\r\nX-A: b\rX-B: c\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX-A: b\r\rX-B: c\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX-A: b\r\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\n\r\r\n\r\n",
		"GET /T HTTP/1.1\r\n{HOST}\r\nX-A: \x00\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX-A: b\x00c\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX\x00A: b\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX-\x80: b\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX-A: \x7f\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX-A: \x1b[31m\r\n\r\n",
		"GET /T HTTP/1.1\r\n{HOST}\r\nX-A: b\x0bc\r\n\r\n", "GET /T HTTP/1.1\r{HOST}\r\r", "GET /T HTTP/1.1\r\n{HOST}\x00\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nX A: b\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\n=: b\r\n: b\r\n\r\n", "GET /T HTTP/1.1\r\n{HOST}\r\nnothing\r\n\r\n", "GET /T\r HTTP/1.1\r\n{HOST}\r\n\r\n",
	} {
		text = strings.Replace(text, "HTTP/1.1\r{HOST}\r\r", "HTTP/1.1\r{HOST}\r\r\r\n\r\n", 1)
		inputs = append(inputs, framing{text, malformed, nil})
	}
	c.frame(inputs)
}

func strangeChunks(c *Case) {
	post := func(body string) string {
		return "POST /T HTTP/1.1\r\n{HOST}\r\nTransfer-Encoding: chunked\r\n\r\n" + body
	}
	whole := []string{"POST /T abcd"}
	inputs := []framing{
		{post("4\r\nabcd\r\n0\r\n\r\n"), []string{"200"}, whole},
		{post("4;ext=1\r\nabcd\r\n0;last\r\n\r\n"), []string{"200", "400"}, whole},
		{post("0000000000000004\r\nabcd\r\n0\r\n\r\n"), []string{"200", "400"}, whole},
		// White space after the size (RFC 9112, 7.1.1) is taken off, and not sent on.
		{post("4 \r\nabcd\r\n0\r\n\r\n"), []string{"200", "400"}, whole},
		{post("4\t \r\nabcd\r\n0\r\n\r\n"), []string{"200", "400"}, whole},
		// A trailer that is none is dropped.
		{post("4\r\nabcd\r\n0\r\nX Y: 1\r\n\r\n"), []string{"200", "400"}, whole},
		// The end of the chunks is the end of the request.
		{post("4\r\nabcd\r\n0\r\n\r\n" + embedded), []string{"200 200"}, append(slices.Clone(whole), "GET /T-inner ")},
		{post("4\r\nabcd\r\n0\r\nX-Trailer: 1\r\n\r\n" + embedded), []string{"200 200"}, append(slices.Clone(whole), "GET /T-inner ")},
	}
	for _, body := range []string{
		"0x4\r\nabcd\r\n0\r\n\r\n", "-1\r\nabcd\r\n0\r\n\r\n", "+4\r\nabcd\r\n0\r\n\r\n", " 4\r\nabcd\r\n0\r\n\r\n", "00000000000000004\r\nabcd\r\n0\r\n\r\n", "FFFFFFFFFFFFFFFFF\r\nabcd\r\n0\r\n\r\n", "10000000000000004\r\nabcd\r\n0\r\n\r\n",
		"4;ext=\nabcd\r\n0\r\n\r\n", "4\nabcd\r\n0\r\n\r\n", "4\r\nabcd\n0\r\n\r\n", "4\nabcd\n0\n\n", "4\r\nabcd\r\n0\n\n", "4\rabcd\r\n0\r\n\r\n", "4;\r\r\nabcd\r\n0\r\n\r\n", "\r\n4\r\nabcd\r\n0\r\n\r\n", "4\r\nabcde\r\n0\r\n\r\n", "5\r\nabcd\r\n0\r\n\r\n", "4\r\nabcd0\r\n\r\n", "4\r\nabcd\r\n\r\n0\r\n\r\n",
		"g\r\nabcd\r\n0\r\n\r\n", "4_\r\nabcd\r\n0\r\n\r\n", "٤\r\nabcd\r\n0\r\n\r\n", "4\x00\r\nabcd\r\n0\r\n\r\n", "4 4\r\nabcd\r\n0\r\n\r\n", "4" + strings.Repeat(";x=y", 4000) + "\r\nabcd\r\n0\r\n\r\n", "4\r\nabcd\r\n0\r\nGET /T-inner HTTP/1.1\r\n{HOST}\r\n\r\n",
	} {
		inputs = append(inputs, framing{post(body), malformed, nil})
	}
	c.frame(inputs)
	// Those that end too early are not answered, or refused; and nothing whole arrives.
	for _, body := range []string{"4\r\nabcd\r\n0\r\n", "4\r\nabcd\r\n0", "4\r\nabcd\r\n", "4\r\nab", "4", "", "ffffffffffffffff\r\nabcd\r\n0\r\n\r\n", "4;ext=1;x=\"0\r\n\r\n", "4;ext"} {
		c.breaksOff("POST /early HTTP/1.1\r\nHost: " + api + "\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
	}
	for _, odd := range []string{"ext", "0x4", "00004", "X Y", ";x=y"} {
		if strings.Contains(c.U1.Raw(), odd) {
			c.Errorf("U1 received %q of a client's chunk", odd)
		}
	}
	c.framedOnce()
}

// breaksOff sends a request that does not end, ends, and asserts that there is
// no answer but a refusal, and that no whole request arrived.
func (c *Case) breaksOff(text string) {
	c.Helper()
	t := c.S1().Tunnel(api)
	t.Send(text)
	_ = t.Conn.(*tls.Conn).CloseWrite()
	if r := t.Response("POST"); r.Err == nil {
		c.Malformed(r, 400)
	} else if late, ok := errors.AsType[net.Error](r.Err); ok && late.Timeout() {
		c.Errorf("%q is neither answered nor ended", text)
	}
	t.Close()
	for _, q := range c.U1.Received() {
		if q.Whole && q.Target == "/early" {
			c.Errorf("%q arrived as a whole request: %q", text, q.Body)
		}
	}
}

func chunksInHTTP10(c *Case) {
	post := func(fields, body string) string {
		return "POST /T HTTP/1.0\r\n{HOST}\r\nConnection: keep-alive\r\n" + fields + "\r\n\r\n" + body
	}
	outer, inner := "POST /T ", "GET /T-inner "
	c.frame([]framing{
		{post("Transfer-Encoding: chunked", embedded), []string{"200 200", "200", "400"}, []string{outer, inner}},
		{post("Transfer-Encoding: chunked", "0\r\n\r\n"+embedded), []string{"200 400", "200", "400"}, []string{outer}},
		{post("Transfer-Encoding: chunked", "4\r\nabcd\r\n0\r\n\r\n"), []string{"200 400", "200", "400"}, []string{outer}},
		{post("Transfer-Encoding: chunked\r\nContent-Length: 4", "abcd"+embedded), []string{"200 200", "200", "400"}, []string{outer + "abcd", inner}},
		{post("Content-Length: 4", "abcd"+embedded), []string{"200 200", "200"}, []string{outer + "abcd", inner}},
	})
	for _, q := range c.U1.Received() {
		if strings.HasPrefix(q.Target, "/f") && strings.HasSuffix(q.Target, "-inner") {
			c.Equal(q.Values("Authorization"), []string{"Bearer " + R}) // a decision of its own
		}
		if strings.Contains(string(q.Body), "inner") {
			c.Errorf("a request arrived as a body: %q", q.Body)
		}
	}
}

func pipelines(c *Case) {
	c.U1.HTTP1().Handle(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RequestURI) })
	var text strings.Builder
	const n = 50
	for i := range n {
		switch target := fmt.Sprintf("/p%02d", i); i % 5 {
		case 0, 3:
			text.WriteString(get(target, api, bearer(c.P)))
		case 1:
			text.WriteString(get(target, api, "Cookie: a="+c.P))
		case 2:
			text.WriteString(message("PUT", target, api, strings.Repeat("GET /x HTTP/1.1\r\n", i)))
		case 4:
			text.WriteString(get(target, evil))
		}
	}
	answers := c.S1().talk(text.String(), n)
	if len(answers) != n {
		c.Fatalf("%d answers to %d requests", len(answers), n)
	}
	var want []string
	for i, r := range answers {
		switch target := fmt.Sprintf("/p%02d", i); i % 5 {
		case 1:
			c.Refused(r, 403, "placeholder_misplaced")
		case 4:
			c.Refused(r, 421, "authority_mismatch")
		default:
			c.Status(r, 200)
			c.Equal(string(r.Body), target)
			want = append(want, target)
		}
	}
	var got []string
	for _, q := range c.U1.Requests(30) {
		got = append(got, q.Target)
		switch tokens := q.Values("Authorization"); {
		case q.Method == "GET":
			c.Equal(tokens, []string{"Bearer " + R})
		case len(tokens) > 0 || strings.Contains(q.text(), R):
			c.Errorf("what belongs to another request arrived with %s", q.Target)
		}
	}
	c.Equal(got, want)
	c.Recorded(20, Want{"type": "substitute"})
	c.Recorded(10, Want{"type": "deny", "code": "placeholder_misplaced"})
	c.Recorded(10, Want{"type": "deny", "code": "authority_mismatch"})
}

func strangeRequestLines(c *Case) {
	var inputs []framing
	for _, line := range []string{
		"GET  /T HTTP/1.1", "GET\t/T HTTP/1.1", "GET /T\tHTTP/1.1", "GET /T  HTTP/1.1", "GET /T HTTP/1.1 HTTP/1.1", "GET /T HTTP/1.1 ", " GET /T HTTP/1.1", "GET /T y HTTP/1.1", "GET /T", "GET", "", "GET /T HTTP", "GET /T HTTP/1", "GET /T HTTP/1,1", "GET /T http/1.1", "GET /T HTTP/1.1.1", "GET /T HTTP/01.1", "GET /T HTTP/1.10", "GET /T XTTP/1.1",
		"GET /T HTTP/2.0", "GET /T HTTP/3.0", "GET /T HTTP/0.9", "GET /T HTTP/9.9", "PRI * HTTP/2.0", "GET T HTTP/1.1", "GET * HTTP/1.1", "GET ?/T HTTP/1.1", "GET /T\x00 HTTP/1.1", "GET /T\x7f HTTP/1.1", "GET /T\xff HTTP/1.1", "GET /Té HTTP/1.1", "GET /T#x HTTP/1.1", "GET /T\\..\\ HTTP/1.1\x00", "GET\x00 /T HTTP/1.1", "(GET) /T HTTP/1.1", "GET /%zz/T HTTP/1.1", "GET /T%z HTTP/1.1",
		"GET /" + strings.Repeat("T", 1<<20) + " HTTP/1.1", strings.Repeat("G", 1<<20) + " /T HTTP/1.1", "GET /T HTTP/1.1" + strings.Repeat("1", 1<<20),
	} {
		inputs = append(inputs, framing{line + "\r\n{HOST}\r\n\r\n", []string{"400", "414", "431", "505"}, nil})
	}
	inputs = append(inputs, framing{"\r\n\r\nGET /T HTTP/1.1\r\n{HOST}\r\n\r\n", []string{"200", "400"}, []string{"GET /T "}})
	c.frame(inputs)
	c.U1.Nothing()
}

func floodsOfFields(c *Case) {
	s := c.S1()
	before := c.memory(s)
	head := "GET /x HTTP/1.1\r\nHost: " + api + "\r\n"
	for name, text := range map[string]string{
		"10k fields":          head + strings.Repeat("X-Field: value\r\n", 10_000),
		"10k names":           head + numbered("X-%d: value\r\n", 10_000),
		"one field of a MiB":  head + "X-Field: " + strings.Repeat("a", 1<<20) + "\r\n",
		"one name of a MiB":   head + strings.Repeat("a", 1<<20) + ": 1\r\n",
		"100k cookies":        head + "Cookie: " + strings.Repeat("a=b; ", 100_000) + "\r\n",
		"100k cookie fields":  head + strings.Repeat("Cookie: a=b\r\n", 100_000),
		"a MiB, folded":       head + "X-Field: a\r\n" + strings.Repeat(" "+strings.Repeat("b", 1000)+"\r\n", 1000),
		"a MiB of Connection": head + "Connection: " + strings.Repeat("x,", 1<<19) + "\r\n",
	} {
		answers := s.talk(text+"\r\n", 1)
		if len(answers) != 1 {
			c.Fatalf("%s: %d answers", name, len(answers))
		}
		c.Malformed(answers[0], 431)
		d := s.Door()
		go d.Send(strings.Replace(text, "GET /x", "GET http://"+api+"/x", 1) + s.Credentials() + "\r\n\r\n")
		c.Malformed(d.Response("GET"), 431)
		d.Close()
	}
	for _, n := range []int{10_000, 100_000} {
		h := s.H2(api)
		fields := h2fields("GET", api, "/x")
		for i := range n {
			fields = append(fields, Field{"cookie", fmt.Sprintf("a%d=b", i)})
		}
		r := h.Ask(fields, "")
		if _, reset := r.Reset(); !reset && h.Lost == nil && r.Status != 431 {
			c.Errorf("%d cookies over HTTP/2: %s", n, r)
		}
		h.Close()
	}
	if grown := c.memory(s) - before; grown > 48<<20 {
		c.Errorf("the memory of the gateway has grown by %d MiB", grown>>20)
	}
	c.U1.Nothing()
	// As many as clients do send are served.
	c.Status(s.Do(api, head+strings.Repeat("X-Field: value\r\n", 200)+bearer(c.P)+"\r\n\r\n"), 200)
	c.Equal(c.arrivedAt(c.U1, 1)[0].Value("Authorization"), "Bearer "+R)
}

func numbered(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// memory is how much of the gateway has ever been resident, in bytes.
func (c *Case) memory(s *Session) int {
	c.Helper()
	status, err := os.ReadFile(procFile(s.Gateway, "status"))
	if err != nil {
		c.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		c.Fatal(err)
	}
	return kib << 10
}

func upgradeToHTTP2(c *Case) {
	c.U1.HTTP1()
	for _, fields := range []string{
		"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
		"Connection: Upgrade\r\nUpgrade: h2c", "Upgrade: h2c", "Connection: upgrade\r\nUpgrade: HTTP/2.0, h2", "Connection: Upgrade\r\nUpgrade: TLS/1.0",
	} {
		r := c.S1().Do(api, "GET / HTTP/1.1\r\nHost: "+api+"\r\n"+bearer(c.P)+"\r\n"+fields+"\r\n\r\n")
		c.Status(r, 200)
		c.Equal(string(r.Body), "ok\n")
		c.Equal(len(r.Interim), 0)
	}
	for _, q := range c.U1.Requests(5) {
		c.Equal(q.Value("Authorization"), "Bearer "+R)
	}
	c.framedOnce()
}

const webSocketFields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

func webSocketWithoutARule(c *Case) {
	s := c.S1()
	for _, upgrade := range []string{webSocketFields, strings.Replace(webSocketFields, "websocket", "WebSocket", 1), strings.Replace(webSocketFields, "websocket", "h2c, websocket", 1)} {
		for _, token := range []string{bearer(c.P) + "\r\n", ""} {
			r := s.Do(api, "GET /ws HTTP/1.1\r\nHost: "+api+"\r\n"+token+upgrade+"\r\n")
			c.Refused(r, 426, "upgrade_refused")
			c.Equal(len(r.Interim), 0)
		}
	}
	c.Refused(s.Do(evil, "GET /ws HTTP/1.1\r\nHost: "+evil+"\r\n"+webSocketFields+"\r\n"), 426, "upgrade_refused")
	c.U1.Nothing()
	c.U2.Nothing()
	c.Recorded(7, Want{"type": "deny", "code": "upgrade_refused"})
}

func bytesAfterARefusedUpgrade(c *Case) {
	c.Rules.Add(wsRule)
	frame := "\x81\x85\x01\x02\x03\x04\x69\x67\x6f\x68\x6e"
	head := "GET /ws HTTP/1.1\r\nHost: " + api + "\r\n" + webSocketFields + "\r\n"
	for _, after := range []string{frame, frame + frame, "\x00", "\x88\x00"} {
		answers := c.S1().talk(head+after+"\r\n\r\n", 2)
		if len(answers) != 2 {
			c.Fatalf("%d answers", len(answers))
		}
		c.Refused(answers[0], 426, "upgrade_refused")
		c.Malformed(answers[1], 400)
	}
	c.U1.Nothing()
	// A request that follows is one, with its own decision.
	answers := c.S1().talk(head+get("/after", api, bearer(c.P))+get("/misplaced", api, "Cookie: a="+c.P), 3)
	if len(answers) != 3 {
		c.Fatalf("%d answers", len(answers))
	}
	c.Refused(answers[0], 426, "upgrade_refused")
	c.Status(answers[1], 200)
	c.Refused(answers[2], 403, "placeholder_misplaced")
	q := c.arrivedAt(c.U1, 1)[0]
	c.Equal([]string{q.Target, q.Value("Authorization")}, []string{"/after", "Bearer " + R})
	c.bytesAfterAnUpgrade()
}

// bytesAfterAnUpgrade: what a client sends as messages is nothing but messages, of
// that connection only; what is no frame goes nowhere.
func (c *Case) bytesAfterAnUpgrade() {
	said := c.listen()
	inner := get("/inner", scripts, "X-Inner: 1")
	ws := c.S1().WebSocket(scripts, "/ws")
	ws.Send(wsText|wsFin, inner)
	c.hears(said, wsText, inner)
	ws.Send(wsBinary|wsFin, inner)
	c.hears(said, wsBinary, inner)
	ws.Send(wsClose|wsFin, "")
	c.hears(said, wsClose, "")
	ws.Says(wsClose, "")
	ws.Send(0, inner) // after the end
	ws.Cut()
	ws = c.S1().WebSocket(scripts, "/ws")
	_, _ = io.WriteString(ws.Conn, inner)
	ws.Closes(1002)
	c.hears(said, wsClose, wsClosing(1002, ""))
	c.heads(c.UR, 2)
	if strings.Contains(c.UR.Raw(), "X-Inner") {
		c.Error("a request within a WebSocket arrived as one")
	}
	c.Recorded(2, Want{"type": "result", "status": 101})
}

func tracing(c *Case) {
	s := c.S1()
	n := 0
	for _, method := range []string{"TRACE", "TRACK", "CONNECT"} {
		for _, target := range []string{"/", "/x?y", api + ":443", "https://" + api + "/"} {
			n++
			c.Refused(s.Do(api, message(method, target, api, "", bearer(c.P))), 405, "method_not_allowed")
		}
	}
	for _, method := range []string{"TRACE", "TRACK"} {
		n++
		c.Refused(s.DoH2(Message{method, api, "/", []string{bearer(c.P)}, ""}), 405, "method_not_allowed")
		c.Refused(s.plain(method, "http://open.test/", "open.test"), 405, "method_not_allowed")
	}
	c.U1.Nothing()
	c.U3.Nothing()
	c.Recorded(n, Want{"type": "deny", "code": "method_not_allowed", "host": api})
}

func maxForwards(c *Case) {
	c.U1.HTTP1()
	s := c.S1()
	for _, target := range []string{"/x", "*"} {
		c.Status(s.Do(api, message("OPTIONS", target, api, "", "Max-Forwards: 0", bearer(c.P))), 200)
	}
	c.Refused(s.Do(api, message("OPTIONS", "/x", api, "", "Max-Forwards: "+c.P)), 403, "placeholder_misplaced")
	c.Refused(s.Do(api, message("TRACE", "/x", api, "", "Max-Forwards: 0", bearer(c.P))), 405, "method_not_allowed")
	var targets []string
	for _, q := range c.U1.Requests(2) {
		targets = append(targets, q.Method+" "+q.Target)
		c.Equal(q.Value("Authorization"), "Bearer "+R)
	}
	c.Equal(targets, []string{"OPTIONS /x", "OPTIONS *"})
}
