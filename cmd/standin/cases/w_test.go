//go:build linux

package cases

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// WebSockets: what the client says. B16 is about what it hears.

func sectionW() []entry {
	return []entry{
		{"W01", messagesAreSubstituted},
		{"W02", misplacedInMessages},
		{"W03", clientsBreakTheProtocol},
		{"W04", upstreamsBreakTheProtocol},
		{"W05", largeMessages},
		{"W06", socketsEndWithTheSession},
		{"W07", messagesNeedTheirRecord},
		{"W08", strangeHandshakes},
		{"W09", socketsInTheClear},
		{"W10", panicsInMessages},
	}
}

// told collects what an upstream is told, message by message.
type told struct {
	op     int
	text   string
	frames int
}

// listen serves UR: what is said comes out of the channel, and pings and a Close
// are answered.
func (c *Case) listen() <-chan told {
	said := make(chan told, 4096)
	c.wsServe(c.UR, func(p *wsPeer) {
		for {
			op, text, frames, err := p.Message()
			if err != nil {
				said <- told{-1, err.Error(), 0}
				return
			}
			said <- told{op, text, frames}
			if op == wsPing {
				p.Send(wsPong|wsFin, text)
			}
			if op == wsClose {
				p.Send(wsClose|wsFin, text)
				return
			}
		}
	})
	return said
}

// hears asserts what the upstream is told next.
func (c *Case) hears(said <-chan told, op int, want string) told {
	c.Helper()
	select {
	case got := <-said:
		if got.op != op || got.text != want {
			c.Errorf("the upstream was told kind %d, %q, not kind %d, %q", got.op, clip(got.text), op, clip(want))
		}
		return got
	case <-time.After(patience):
		c.Fatalf("the upstream was not told %q", clip(want))
		return told{}
	}
}

func messagesAreSubstituted(c *Case) {
	c.Rules.Add(wsRule)
	said := c.listen()
	ws := c.S1().WebSocket(scripts, "/ws", bearer(c.P), "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", "Sec-WebSocket-Protocol: chat, superchat")
	head := c.heads(c.UR, 1)[0]
	c.Equal(head.Values("Authorization"), []string{"Bearer " + R})
	c.Equal(head.Values("Sec-WebSocket-Extensions"), []string(nil))
	c.Equal(head.Values("Sec-WebSocket-Protocol"), []string{"chat, superchat"})
	c.Recorded(1, Want{"type": "substitute", "surface": "header Authorization", "path": "/ws"})

	text, want := `{"token":"`+c.P+`","n":1}`, `{"token":"`+R+`","n":1}`
	ws.Send(wsText|wsFin, text)
	c.Equal(c.hears(said, wsText, want).frames, 1)
	messages := 1
	// Cut by fragments at every offset, with an empty one and a ping between.
	for cut := range text {
		ws.Send(wsText, text[:cut])
		ws.Send(wsPing|wsFin, fmt.Sprint(cut))
		ws.Send(wsMore, "")
		ws.Send(wsMore|wsFin, text[cut:])
		ws.Says(wsPong, fmt.Sprint(cut))
		c.hears(said, wsPing, fmt.Sprint(cut))
		c.hears(said, wsText, want)
		messages++
	}
	// A fragment for each byte, and all in one write.
	var all strings.Builder
	for i := range text {
		first := byte(wsMore)
		if i == 0 {
			first = wsText
		}
		if i == len(text)-1 {
			first |= wsFin
		}
		all.WriteString(wsFrame(first, text[i:i+1], true))
	}
	_, _ = io.WriteString(ws.Conn, all.String())
	c.hears(said, wsText, want)
	// Frames cut by records of TLS.
	for _, b := range []byte(wsFrame(wsText|wsFin, text, true)) {
		_, _ = ws.Conn.Write([]byte{b})
	}
	c.hears(said, wsText, want)
	// Twice in a message, at its ends, beside what only looks like one; and nothing else changes.
	ws.Send(wsText|wsFin, c.P+" "+c.P+"x "+c.P)
	c.hears(said, wsText, R+" "+c.P+"x "+R)
	ws.Send(wsText|wsFin, "")
	c.hears(said, wsText, "")
	long := strings.Repeat("ü", 50_000)
	ws.Send(wsText|wsFin, long+" "+c.P)
	c.hears(said, wsText, long+" "+R)
	ws.Send(wsText|wsFin, "ends with "+c.P[:20])
	c.hears(said, wsText, "ends with "+c.P[:20])
	messages += 4
	c.masksDiffer()
	ws.Goodbye()
	c.hears(said, wsClose, wsClosing(1000, "done"))
	c.Recorded(messages, Want{"type": "substitute", "surface": "websocket", "secret": "github", "rule": "ws"})
	c.Recorded(1, Want{"type": "result", "status": 101, "path": "/ws"})
	c.Recorded(0, Want{"type": "deny"})
	c.Recorded(0, Want{"type": "misplaced"})
}

// masksDiffer asserts that the frames that UR received are masked anew each.
func (c *Case) masksDiffer() {
	c.Helper()
	raw := c.UR.Raw()
	_, frames, _ := strings.Cut(raw, "\r\n\r\n")
	if strings.Contains(frames, R) || strings.Contains(frames, c.P) {
		c.Error("a message arrived without a mask")
	}
}

func misplacedInMessages(c *Case) {
	c.Rules.Add("{name: bare, hosts: [" + scripts + "], paths: [/bare], websocket: true, substitute: [{secret: github, in: header Authorization}]}")
	c.Rules.Add("{name: strict, hosts: [" + scripts + "], paths: [/strict], websocket: true, misplaced: refuse}")
	c.Rules.Add(wsRule)
	said := c.listen()
	// Without a surface it is sent on as it is, inert; once a message on record.
	ws := c.S1().WebSocket(scripts, "/bare")
	ws.Send(wsText|wsFin, c.P+" and "+c.P)
	c.hears(said, wsText, c.P+" and "+c.P)
	ws.Send(wsText, c.P[:9])
	ws.Send(wsMore|wsFin, c.P[9:])
	c.hears(said, wsText, c.P)
	ws.Goodbye()
	c.hears(said, wsClose, wsClosing(1000, "done"))
	c.Recorded(2, Want{"type": "misplaced", "rule": "bare", "reason": "websocket"})
	// With the surface: not in what is no text, and not in control frames.
	ws = c.S1().WebSocket(scripts, "/ws")
	ws.Send(wsBinary|wsFin, "\x00\xff"+c.P)
	c.hears(said, wsBinary, "\x00\xff"+c.P)
	ws.Send(wsPing|wsFin, c.P)
	c.hears(said, wsPing, c.P)
	ws.Says(wsPong, c.P)
	ws.Send(wsPong|wsFin, c.P)
	c.hears(said, wsPong, c.P)
	ws.Send(wsClose|wsFin, wsClosing(3000, c.P))
	c.hears(said, wsClose, wsClosing(3000, c.P))
	c.Equal(ws.Closes(3000), c.P)
	c.Recorded(4, Want{"type": "misplaced", "rule": "ws"})
	// Refused where the rule says so, wherever it is cut.
	for _, cut := range []int{0, 1, 20, len(c.P)} {
		ws = c.S1().WebSocket(scripts, "/strict")
		ws.Send(wsText|wsFin, "first")
		c.hears(said, wsText, "first")
		ws.Send(wsText, "then "+c.P[:cut])
		ws.Send(wsMore|wsFin, c.P[cut:]+" more")
		c.Equal(ws.Closes(1008), "placeholder_misplaced")
		c.hears(said, wsClose, wsClosing(1008, ""))
	}
	c.Recorded(4, Want{"type": "deny", "code": "placeholder_misplaced", "rule": "strict", "reason": "websocket"})
	c.Recorded(4, Want{"type": "result", "code": "placeholder_misplaced", "status": 101})
	// A session without the grant is refused, and one without uses.
	none := c.S2().WebSocket(scripts, "/ws")
	none.Send(wsText|wsFin, "plain")
	c.hears(said, wsText, "plain")
	none.Send(wsText|wsFin, "not "+c.P)
	c.Equal(none.Closes(1008), "no_grant")
	c.hears(said, wsClose, wsClosing(1008, ""))
	thrice := c.S3().WebSocket(scripts, "/ws")
	for range 3 {
		thrice.Send(wsText|wsFin, c.P+c.P[:3]+" "+c.P)
		c.hears(said, wsText, c.P+c.P[:3]+" "+R)
	}
	thrice.Send(wsText|wsFin, "once more "+c.P)
	c.Equal(thrice.Closes(1008), "uses_exhausted")
	c.hears(said, wsClose, wsClosing(1008, ""))
	c.Recorded(1, Want{"type": "deny", "code": "no_grant"})
	c.Recorded(1, Want{"type": "deny", "code": "uses_exhausted"})
	c.Equal(strings.Count(c.UR.Text(), R), 0) // masked, and none in a head
}

// clientsBreakTheProtocol: each input ends its connection, with the code that says
// why, and nothing of it reaches the upstream.
func clientsBreakTheProtocol(c *Case) {
	c.Rules.Add(wsRule)
	said := c.listen()
	inputs := map[string]struct {
		bytes string
		code  int
	}{
		"RSV1":                    {wsFrame(wsText|wsFin|0x40, "x", true), 1002},
		"RSV2":                    {wsFrame(wsText|wsFin|0x20, "x", true), 1002},
		"RSV3 of a ping":          {wsFrame(wsPing|wsFin|0x10, "x", true), 1002},
		"a reserved kind":         {wsFrame(0x3|wsFin, "x", true), 1002},
		"a reserved control":      {wsFrame(0xb|wsFin, "x", true), 1002},
		"without a mask":          {wsFrame(wsText|wsFin, "hello", false), 1002},
		"a ping in fragments":     {wsFrame(wsPing, "x", true), 1002},
		"a long ping":             {wsFrame(wsPing|wsFin, strings.Repeat("x", 126), true), 1002},
		"a continuation":          {wsFrame(wsMore|wsFin, "x", true), 1002},
		"a message in a message":  {wsFrame(wsText, "", true) + wsFrame(wsText|wsFin, "x", true), 1002},
		"16 bits for less":        {"\x81\xfe\x00\x05maskhello", 1002},
		"64 bits for less":        {"\x81\xff\x00\x00\x00\x00\x00\x00\x00\x05maskhello", 1002},
		"64 bits for 16":          {"\x81\xff\x00\x00\x00\x00\x00\x00\xff\xffmask", 1002},
		"a negative length":       {"\x81\xff\x80\x00\x00\x00\x00\x01\x00\x00mask", 1002},
		"the longest length":      {"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xffmask", 1002},
		"half a code":             {wsFrame(wsClose|wsFin, "\x03", true), 1002},
		"a code for no wire":      {wsFrame(wsClose|wsFin, wsClosing(1006, ""), true), 1002},
		"a code of nobody":        {wsFrame(wsClose|wsFin, wsClosing(2000, ""), true), 1002},
		"no text":                 {wsFrame(wsText|wsFin, "\xff", true), 1007},
		"half a character":        {wsFrame(wsText|wsFin, "\xe2\x82", true), 1007},
		"a surrogate":             {wsFrame(wsText|wsFin, "\xed\xa0\x80", true), 1007},
		"a long form":             {wsFrame(wsText|wsFin, "\xc0\xaf", true), 1007},
		"cut, and then no text":   {wsFrame(wsText, "\xe2\x82", true) + wsFrame(wsMore|wsFin, "x", true), 1007},
		"no text as a reason":     {wsFrame(wsClose|wsFin, wsClosing(1000, "\xff"), true), 1007},
		"HTTP":                    {get("/next", scripts, bearer(c.P)), 1002},
		"HTTP after a good frame": {wsFrame(wsText|wsFin, "fine", true) + get("/next", scripts), 1002},
	}
	for name, in := range inputs {
		c.Logf("%s", name)
		ws := c.S1().WebSocket(scripts, "/ws")
		_, _ = io.WriteString(ws.Conn, in.bytes)
		ws.Closes(in.code)
		if strings.Contains(in.bytes, "GET") && in.bytes[0] == wsText|wsFin {
			c.hears(said, wsText, "fine")
		}
		got := c.hears(said, wsClose, wsClosing(in.code, ""))
		if c.Failed() {
			c.Fatalf("%s: %+v", name, got)
		}
	}
	// A character cut by fragments is one.
	ws := c.S1().WebSocket(scripts, "/ws")
	for i := range len("€𝄞") {
		ws.Send(byte(min(i, 1)^1), "€𝄞"[i:i+1])
	}
	ws.Send(wsMore|wsFin, "")
	c.hears(said, wsText, "€𝄞")
	ws.Send(wsClose|wsFin, "")
	c.hears(said, wsClose, "")
	ws.Says(wsClose, "")
	c.heads(c.UR, len(inputs)+1)
	c.Recorded(len(inputs), Want{"type": "deny", "code": "bad_request", "path": "/ws"})
	c.Recorded(len(inputs), Want{"type": "result", "code": "bad_request", "status": 101})
}

func upstreamsBreakTheProtocol(c *Case) {
	c.Rules.Add(wsRule)
	inputs := map[string]struct {
		bytes string
		code  int
	}{
		"RSV1":                  {wsFrame(wsText|wsFin|0x40, "x", false), 1002},
		"a reserved kind":       {wsFrame(0x7|wsFin, "x", false), 1002},
		"with a mask":           {wsFrame(wsText|wsFin, "hello", true), 1002},
		"a close in fragments":  {wsFrame(wsClose, "", false), 1002},
		"a long pong":           {wsFrame(wsPong|wsFin, strings.Repeat("x", 126), false), 1002},
		"a continuation":        {wsFrame(wsMore, "x", false), 1002},
		"a negative length":     {"\x82\x7f\xff\x00\x00\x00\x00\x01\x00\x00", 1002},
		"a code for no wire":    {wsFrame(wsClose|wsFin, wsClosing(1005, ""), false), 1002},
		"no text":               {wsFrame(wsText|wsFin, "a\x80", false), 1007},
		"half a character":      {wsFrame(wsText|wsFin, "\xf0\x9d", false), 1007},
		"a ping that outgrows":  {wsFrame(wsPing|wsFin, strings.Repeat(R+" ", 4), false), 1011},
		"HTTP where frames are": {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 1002},
	}
	for name, in := range inputs {
		c.Logf("%s", name)
		heard := make(chan string, 1)
		c.UR.closeConns()
		c.wsServe(c.UR, func(p *wsPeer) {
			_, _ = io.WriteString(p.Conn, in.bytes)
			_, text, _, _ := p.Message()
			heard <- text
		})
		ws := c.S1().WebSocket(scripts, "/ws")
		ws.Closes(in.code)
		c.Equal(<-heard, wsClosing(in.code, ""))
		if c.Failed() {
			c.Fatalf("%s", name)
		}
	}
	c.heads(c.UR, len(inputs))
	c.Recorded(len(inputs)-1, Want{"type": "result", "code": "upstream_protocol", "status": 101})
	c.Recorded(1, Want{"type": "result", "code": "unsafe_response", "status": 101})
	// One that ends without a word does not look like one that ends in order.
	for _, cut := range []func(*wsPeer){
		func(p *wsPeer) {},
		func(p *wsPeer) { _, _ = io.WriteString(p.Conn, wsFrame(wsText|wsFin, "hello", false)[:4]) },
		func(p *wsPeer) { p.Conn.(*wireConn).CloseWithoutNotify() },
	} {
		c.wsServe(c.UR, cut)
		c.S1().WebSocket(scripts, "/ws").Cut()
	}
	c.Recorded(3, Want{"type": "result", "reason": "upstream aborted", "status": 101})
	// And so does a client.
	left := make(chan error, 1)
	c.wsServe(c.UR, func(p *wsPeer) { _, _, _, err := p.Message(); left <- err })
	_ = c.S1().WebSocket(scripts, "/ws").Close()
	if err := <-left; err == nil {
		c.Error("the upstream did not see that the client is gone")
	}
	c.Recorded(1, Want{"type": "result", "reason": "client aborted", "status": 101})
}

// largeMessages: a message of 1 GiB takes no memory to speak of, and neither does
// a large one that comes back; what stands at their ends is found. Nothing of
// them is kept here, either.
func largeMessages(c *Case) {
	c.Rules.Add(wsRule)
	const up, down = 1 << 30, 128 << 20
	block := strings.Repeat("0123456789abcdef", 4<<10)
	counted := make(chan int64, 1)
	head := func(first string, n int) string {
		return first + string([]byte{0, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	c.UR.Script(func(conn *wireConn) {
		if !readHead(conn) || !(&wsPeer{Conn: conn}).answer(string(conn.bytes()), "") {
			return
		}
		n, tail := countFrames(conn.Conn)
		if !strings.HasSuffix(tail, R) {
			c.Errorf("the message ends with %q", tail)
		}
		counted <- n
		_, _ = io.WriteString(conn.Conn, head("\x81\x7f", down+len(R)))
		for range down / len(block) {
			if _, err := io.WriteString(conn.Conn, block); err != nil {
				return
			}
		}
		_, _ = io.WriteString(conn.Conn, R)
		_, _ = countFrames(conn.Conn)
	})
	s := c.S1()
	conn := s.unrecorded(scripts)
	defer conn.Close()
	_, _ = io.WriteString(conn, wsHead(scripts, "/ws"))
	if answer := headOf(conn); !strings.HasPrefix(answer, "HTTP/1.1 101 ") {
		c.Fatalf("the handshake was answered with %q", answer)
	}
	before := c.usage(s)
	_, _ = io.WriteString(conn, head("\x81\xff", up+len(c.P))+"\x00\x00\x00\x00")
	for range up / len(block) {
		if _, err := io.WriteString(conn, block); err != nil {
			c.Fatal(err)
		}
	}
	_, _ = io.WriteString(conn, c.P)
	c.Equal(<-counted, int64(up+len(R)))
	n, tail := countFrames(conn)
	c.Equal(n, int64(down+len(c.P)))
	c.Equal(strings.HasSuffix(tail, c.P), true)
	after := c.usage(s)
	c.Logf("%s of processor time", after.cpu-before.cpu)
	c.within("memory grew by", after.peak-before.peak, 32<<10)
	c.heads(c.UR, 1)
	c.Recorded(1, Want{"type": "substitute", "surface": "websocket"})
}

// socketsEndWithTheSession: a socket that was opened before the end is worth
// nothing after it.
func socketsEndWithTheSession(c *Case) {
	c.NoGateway()
	c.Rules.Add(wsRule)
	c.Rules.Add("{name: brief, hosts: [" + scripts + "], paths: [/brief], websocket: true, expires: " + time.Now().Add(25*time.Second).UTC().Format("2006-01-02T15:04:05Z") + "}")
	c.Rules.Profile("short: {secrets: [github], isolation: session, ttl: 6s}")
	said := c.listen()
	revoked := c.Start(Start{Name: "revoked"})
	brief := revoked.WebSocket(scripts, "/brief")
	brief.Send(wsText|wsFin, "before")
	c.hears(said, wsText, "before")
	c.Equal(brief.Closes(1008), "grant_expired")
	c.hears(said, wsClose, wsClosing(1008, ""))

	short := c.Start(Start{Profile: "short"})
	for _, end := range []struct {
		s    *Session
		do   func()
		code string
	}{
		{short, func() {}, "grant_expired"},
		{revoked, func() { c.Exit(c.Standin("session", "revoke", revoked.ID()), 0) }, "session_closed"},
	} {
		ws := end.s.WebSocket(scripts, "/ws", bearer(c.P))
		ws.Send(wsText|wsFin, c.P)
		c.hears(said, wsText, R)
		end.do()
		ws.Cut()
		c.Equal((<-said).op, -1)
		all := c.Recorded(1, Want{"type": "result", "status": 101, "code": end.code, "reason": "cut", "session": end.s.ID()})
		if len(all) == 1 {
			c.Equal(all[0]["bytes_out"], float64(len(c.P)))
		}
		// Before the session's end is on record, so is the socket's.
		var order []string
		for _, r := range c.Records() {
			if r["session"] == end.s.ID() && (r["type"] == "revoke" || r["status"] == float64(101) && r["reason"] == "cut") {
				order = append(order, fmt.Sprint(r["type"]))
			}
		}
		c.Equal(order, []string{"result", "revoke"})
	}
	// The command's end ends it, too, and is not put off by it.
	last := c.Start(Start{})
	ws := last.WebSocket(scripts, "/ws", bearer(c.P))
	ws.Send(wsText|wsFin, "still "+c.P)
	c.hears(said, wsText, "still "+R)
	began := time.Now()
	c.Equal(last.End(), 0)
	if took := time.Since(began); took > 5*time.Second {
		c.Errorf("it took %v to end", took)
	}
	ws.Cut()
	c.heads(c.UR, 4)
	c.Recorded(1, Want{"type": "result", "status": 101, "code": "session_closed", "session": last.ID()})
}

// messagesNeedTheirRecord: no record, no message.
func messagesNeedTheirRecord(c *Case) {
	c.NoGateway()
	c.Rules.Add(wsRule)
	said := c.listen()
	s, folder, inside := c.onASmallDisk()
	ws := s.WebSocket(scripts, "/ws")
	ws.Send(wsText|wsFin, "1 "+c.P)
	c.hears(said, wsText, "1 "+R)
	empty := c.fill(inside)
	arrived := 1
	for sent := 1; sent < 5000; sent++ { // what was set aside for substitutions is used up first
		ws.Send(wsText|wsFin, "n "+c.P)
		got := <-said
		if got.op == wsClose {
			c.Equal(got.text, wsClosing(1013, ""))
			break
		}
		arrived++
	}
	c.Equal(ws.Closes(1013), "audit_unavailable")
	empty()
	recovered := func() bool { return s.Do(api, get("/recovered", api, bearer(c.P))).Status == 200 }
	c.Eventually("a record is written again", recovered)
	again := s.WebSocket(scripts, "/ws")
	again.Send(wsText|wsFin, "2 "+c.P)
	c.hears(said, wsText, "2 "+R)
	again.Goodbye()
	c.heads(c.UR, 2)
	c.Equal(s.End(), 0)
	c.copyOut(inside, folder)
	c.Recorded(arrived+1, Want{"type": "substitute", "surface": "websocket"})
}

// panicsInMessages: a panic with the value in hand ends its own connection.
func panicsInMessages(c *Case) {
	program, err := ground.faulty()
	if err != nil {
		c.Fatal(err)
	}
	c.Rules.Add(wsRule)
	said := c.listen()
	s := c.Start(Start{Name: "S1", Program: program})
	for range 3 {
		ws := s.WebSocket(scripts, "/ws")
		ws.Send(wsText|wsFin, "before")
		c.hears(said, wsText, "before")
		ws.Send(wsText|wsFin, "then "+c.P)
		ws.Cut()
		c.Equal((<-said).op, -1)
	}
	c.heads(c.UR, 3)
	c.Eventually("three panics are in the log", func() bool {
		log, err := os.ReadFile(s.Log)
		return err == nil && strings.Count(string(log), `"msg":"panic"`) == 3
	})
}
