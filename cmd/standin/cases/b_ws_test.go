//go:build linux

package cases

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
)

// serverMessages: what a server says over a WebSocket is scrubbed, and nothing
// waits for what comes later.
func serverMessages(c *Case) {
	c.Rules.Add(wsRule)
	s := c.S1()
	// Without a rule there is no upgrade.
	c.Refused(s.Do(api, wsHead(api, "/ws")), 426, "upgrade_refused")
	c.U1.Nothing()

	next := make(chan []string) // frames to send, first byte and payload
	c.wsServe(c.UR, func(p *wsPeer) {
		for frames := range next {
			for _, f := range frames {
				p.Send(f[0], f[1:])
			}
		}
	})
	ws := s.WebSocket(scripts, "/ws", bearer(c.P), "Sec-WebSocket-Extensions: permessage-deflate")
	c.Equal(c.heads(c.UR, 1)[0].Values("Sec-WebSocket-Extensions"), []string(nil))
	say := func(frames ...string) { next <- frames }
	whole := func(text string) string { return string([]byte{wsText | wsFin}) + text }

	say(whole(`{"echo":"` + R + `"}`))
	ws.Says(wsText, `{"echo":"`+c.P+`"}`)
	// Across the fragments of one message, at every offset, with a ping between.
	text, want := "a "+R+" b", "a "+c.P+" b"
	for cut := range text {
		say(string([]byte{wsText})+text[:cut], string([]byte{wsPing | wsFin})+"p", string([]byte{wsMore}), string([]byte{wsMore | wsFin})+text[cut:])
		ws.Says(wsPing, "p")
		ws.Says(wsText, want)
	}
	var bytes []string
	for i := range text {
		first := byte(wsMore)
		if i == 0 {
			first = wsText
		}
		if i == len(text)-1 {
			first |= wsFin
		}
		bytes = append(bytes, string([]byte{first, text[i]}))
	}
	say(bytes...)
	ws.Says(wsText, want)
	// Nothing is held back past the end of a message: a value that the server
	// splits over two is none.
	for _, half := range []string{R[:12], R[12:], R[:len(R)-1], "g", "gh"} {
		say(whole(half))
		ws.Says(wsText, half)
	}
	// Other forms, and what is no text.
	coded := base64.StdEncoding.EncodeToString([]byte("u:" + R))
	say(whole(coded), whole(hex.EncodeToString([]byte(R))), string([]byte{wsBinary | wsFin, 0, 0xff})+R)
	for range 2 {
		op, got, _, err := ws.Message()
		if err != nil || op != wsText || len(leaks([]byte(got), c.Values)) > 0 {
			c.Errorf("got kind %d, %q, %v", op, got, err)
		}
	}
	ws.Says(wsBinary, "\x00\xff"+c.P)
	// A large one, of which the value lies across what is looked at in one go.
	fill := strings.Repeat("x", 64<<10-10)
	say(whole(fill + R + fill + R))
	ws.Says(wsText, fill+c.P+fill+c.P)
	// Control frames.
	say(string([]byte{wsPing | wsFin})+R, string([]byte{wsPong | wsFin})+R)
	ws.Says(wsPing, c.P)
	ws.Says(wsPong, c.P)
	say(string([]byte{wsClose | wsFin}) + wsClosing(1000, "bye "+R))
	op, got, _, err := ws.Message()
	if err != nil || op != wsClose || got[2:] != "bye "+c.P {
		c.Errorf("got kind %d, %q, %v", op, got, err)
	}
	ws.Send(wsClose|wsFin, wsClosing(1000, ""))
	close(next)
	c.Recorded(1, Want{"type": "result", "status": 101})
}
