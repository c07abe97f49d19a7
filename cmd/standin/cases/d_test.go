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
		{"D01", func(c *Case) { c.frame(framedTwice()) }},
		{"D03", func(c *Case) { c.frame(lengths()) }},
		{"D04", func(c *Case) { c.frame(codings()) }},
		{"D06", func(c *Case) { c.frame(lineEnds()) }},
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
	}, sectionDFrames(), sectionDResponses(), sectionDTLS(), []entry{{"D37", serversCountWhatIsAudited}, {"D38", mutatedStreams}})
}

// talk sends bytes through a tunnel to api, waits for n answers, says that it
// has nothing more to say, and returns all answers until the proxy ends.
func (s *Session) talk(text string, n int) []*Response {
	s.c.Helper()
	return s.talkTo(api, text, n)
}

func (s *Session) talkTo(host, text string, n int) []*Response {
	s.c.Helper()
	t := s.Tunnel(host)
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

func strangeChunks(c *Case) {
	c.frame(chunks())
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
	c.frame(olderProtocol())
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
	c.frame(requestLines())
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
