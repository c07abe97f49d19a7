//go:build linux

package cases

import (
	"fmt"
	"io"
	"net/http"
	"strings"
)

// What comes back: echoes of the value in every part of a response.

func sectionB() []entry {
	return append(append([]entry{
		{"B01", echoInTheBody},
		{"B02", echoInHeaders},
		{"B03", echoAsAHeaderName},
		{"B04", echoInTheReason},
		{"B07", echoInARedirect},
		{"B08", echoCutAnywhere},
		{"B14", echoWithoutABody},
		{"B15", echoInAnEventStream},
		{"B16", serverMessages},
	}, sectionBTLS()...), append(sectionBProcess(), sectionBAnswers()...)...)
}

// both are an upstream that offers HTTP/2 and one that does not.
func (c *Case) both() map[string]*Upstream {
	const name = "one.allowed.test"
	c.Rules.Add("{name: one, hosts: [" + name + "], substitute: [{secret: github, in: header Authorization}]}")
	return map[string]*Upstream{echo: c.UE, name: c.Upstream(name+":443", Serve{TLS: c.Certificate(name)}).HTTP1()}
}

// arrived asserts that n whole requests came to u, each with R.
func (c *Case) arrived(u *Upstream, n int) {
	c.Helper()
	for _, q := range u.Requests(n) {
		c.Equal(q.Values("Authorization"), []string{"Bearer " + R})
	}
}

func echoInTheBody(c *Case) {
	for host, u := range c.both() {
		u.Handle(echoHandler)
		c.S1().Each(Message{"GET", host, "/echo", []string{bearer(c.P)}, ""}, func(r *Response) {
			c.Status(r, 200)
			if !strings.Contains(string(r.Body), `["Bearer `+c.P+`"]`) {
				c.Errorf("the echo is %s", r.Body)
			}
			if r.Length >= 0 && r.Length != int64(len(r.Body)) {
				c.Errorf("Content-Length is %d, the body has %d bytes", r.Length, len(r.Body))
			}
		})
		c.arrived(u, 2)
		// A request without the placeholder may fetch an echo, too.
		u.Handle(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(R)+2))
			_, _ = io.WriteString(w, "<"+R+">")
		})
		c.S1().Each(Message{"GET", host, "/kept", nil, ""}, func(r *Response) {
			c.Status(r, 200)
			c.Equal(string(r.Body), "<"+c.P+">")
		})
	}
	c.Recorded(4, Want{"type": "substitute"})
}

func echoInHeaders(c *Case) {
	headers := []string{"X-Echo", "Set-Cookie", "WWW-Authenticate", "ETag", "Link", "Server-Timing", "Location", "Content-Disposition", "X-Two"}
	write := func(h http.Header, v string) {
		for _, name := range headers {
			h.Add(name, "a=\""+v+"\"; b")
		}
		h.Add("X-Two", v+v)
	}
	for host, u := range c.both() {
		u.Handle(func(w http.ResponseWriter, r *http.Request) {
			v := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			w.Header().Set("Link", "<https://x/?t="+v+">")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			write(w.Header(), v)
			w.Header().Set("Trailer", "X-Last")
			_, _ = io.WriteString(w, "body")
			_ = http.NewResponseController(w).Flush() // no Content-Length, so that trailers can follow
			w.Header().Set("X-Last", v)
		})
		c.S1().Each(Message{"GET", host, "/", []string{bearer(c.P), "TE: trailers"}, ""}, func(r *Response) {
			c.Status(r, 200)
			for _, name := range headers {
				c.Equal(r.Header.Values(name)[0], "a=\""+c.P+"\"; b")
			}
			c.Equal(r.Header.Values("X-Two")[1], c.P+c.P)
			if last := r.Trailer.Get("X-Last"); last != c.P {
				c.Errorf("%s trailer is %q", r.Proto, last)
			}
			for _, i := range r.Interim {
				c.Equal(strings.Contains(string(dump(i)), R), false)
			}
		})
		c.arrived(u, 2)
	}
}

func echoAsAHeaderName(c *Case) {
	for host, u := range c.both() {
		for _, name := range []string{R, "X-" + R} {
			u.Handle(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/trailer" {
					w.Header().Set("Trailer", name)
				} else {
					w.Header()[name] = []string{"1"}
				}
				_, _ = io.WriteString(w, "body")
				_ = http.NewResponseController(w).Flush()
				if r.URL.Path == "/trailer" {
					w.Header()[http.CanonicalHeaderKey(name)] = []string{"1"}
				}
			})
			c.S1().Each(Message{"GET", host, "/trailer", []string{bearer(c.P), "TE: trailers"}, ""}, func(r *Response) {
				c.Refused(r, 502, "unsafe_response")
				if strings.Contains(strings.ToLower(string(r.Raw)), strings.ToLower(R)) {
					c.Errorf("the name of the trailer came through: %s", r)
				}
			})
			c.S1().Each(Message{"GET", host, "/", []string{bearer(c.P)}, ""}, func(r *Response) {
				c.Refused(r, 502, "unsafe_response")
				if strings.Contains(strings.ToLower(string(r.Raw)), strings.ToLower(R)) {
					c.Errorf("the name came through: %s", r)
				}
			})
		}
		c.arrived(u, 8)
	}
}

func echoInTheReason(c *Case) {
	c.UR.Script(func(conn *wireConn) {
		for range 2 {
			if !readHead(conn) {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 "+R+"\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	c.S1().Each(Message{"GET", scripts, "/", []string{bearer(c.P)}, ""}, func(r *Response) {
		c.Status(r, 200)
		if r.Proto == "HTTP/1.1" {
			c.Equal(r.Reason, "OK")
		}
	})
	c.arrived(c.UR, 2)
}

// readHead reads one request without a body off a scripted connection.
func readHead(conn *wireConn) bool {
	var head []byte
	one := make([]byte, 1)
	for !strings.HasSuffix(string(head), "\r\n\r\n") {
		if _, err := conn.Read(one); err != nil {
			return false
		}
		head = append(head, one[0])
	}
	return true
}

func echoInARedirect(c *Case) {
	c.UE.Handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "https://"+evil+"/?t="+R)
		w.WriteHeader(302)
	})
	c.S1().Each(Message{"GET", echo, "/", []string{bearer(c.P)}, ""}, func(r *Response) {
		c.Status(r, 302)
		c.Equal(r.Header.Get("Location"), "https://"+evil+"/?t="+c.P)
	})
	c.arrived(c.UE, 2)
	c.U2.Undialled()
}

// echoCutAnywhere has the upstream cut the value at every offset, by chunks, by
// TLS records under a Content-Length, and by DATA frames.
func echoCutAnywhere(c *Case) {
	n := 0
	for host, u := range c.both() {
		u.Handle(func(w http.ResponseWriter, r *http.Request) {
			var at int
			var length string
			_, _ = fmt.Sscanf(r.URL.Path, "/%d/%s", &at, &length)
			text := "before " + R + " after"
			if length == "known" {
				w.Header().Set("Content-Length", fmt.Sprint(len(text)))
			}
			at += len("before ")
			_, _ = io.WriteString(w, text[:at])
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, text[at:])
		})
		t, h := c.S1().Tunnel(host), c.S1().H2(host)
		for at := range len(R) + 1 {
			for _, length := range []string{"known", "unknown"} {
				path := fmt.Sprintf("/%d/%s", at, length)
				t.Send(get(path, host, bearer(c.P)))
				one := t.Response("GET")
				two := h.Ask(h2fields("GET", host, path, "authorization: Bearer "+c.P), "")
				for _, r := range []*Response{one, two} {
					c.Status(r, 200)
					c.Equal(string(r.Body), "before "+c.P+" after")
				}
			}
		}
		n = 4 * (len(R) + 1)
		c.arrived(u, n)
	}
	c.Recorded(2*n, Want{"type": "substitute"})
}

func echoWithoutABody(c *Case) {
	for host, u := range c.both() {
		u.Handle(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Echo", R)
			var status int
			_, _ = fmt.Sscanf(r.URL.Path, "/%d", &status)
			if status == 200 {
				w.Header().Set("Content-Length", "1234")
			}
			w.WriteHeader(status)
		})
		for _, m := range []Message{
			{"HEAD", host, "/200", nil, ""}, {"GET", host, "/204", nil, ""}, {"GET", host, "/304", nil, ""}, {"HEAD", host, "/304", nil, ""},
		} {
			m.Fields = []string{bearer(c.P)}
			var status int
			_, _ = fmt.Sscanf(m.Path, "/%d", &status)
			c.S1().Each(m, func(r *Response) {
				c.Status(r, status)
				c.Equal(r.Header.Get("X-Echo"), c.P)
				c.Equal(len(r.Body), 0)
			})
			// The connection is good for a further request.
			t := c.S1().Tunnel(host)
			for range 2 {
				t.Send(message(m.Method, m.Path, host, "", bearer(c.P)))
				c.Status(t.Response(m.Method), status)
			}
		}
		c.arrived(u, 16)
	}
}

func echoInAnEventStream(c *Case) {
	for host, u := range c.both() {
		next := make(chan bool)
		u.Handle(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			flush := http.NewResponseController(w).Flush
			for _, event := range events {
				for i := range len(event) {
					_, _ = io.WriteString(w, event[i:i+1])
					_ = flush()
				}
				select {
				case <-next:
				case <-r.Context().Done():
					return
				}
			}
		})
		t := c.S1().Tunnel(host)
		t.Send(get("/events", host, bearer(c.P), "Accept: text/event-stream"))
		c.events(t.Stream(), next)
		h := c.S1().H2(host)
		c.events(h.Stream(h.Open(h2fields("GET", host, "/events", "authorization: Bearer "+c.P), true)), next)
		c.arrived(u, 2)
	}
}

// events holds the value whole, at the end of an event, and begun but not
// ended: none may wait for the event after it.
var events = []string{
	"data: one\n\n",
	"data: {\"token\":\"" + R + "\"}\n\n",
	"data: " + R + "\n\n",
	"data: " + R[:len(R)-1] + "\n\n",
	"data: " + R[:4] + "\r\n\r\n",
	": ping\n\n",
	"data: end " + R + R + "\n\n",
}

// events reads one event after the other and lets the upstream go on only when
// the whole of it has arrived.
func (c *Case) events(in io.Reader, next chan<- bool) {
	c.Helper()
	for i, event := range events {
		want := strings.ReplaceAll(event, R, c.P)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
			c.Fatalf("event %d is %q (%v), not %q", i, got, err, want)
		}
		next <- true
	}
	if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
		c.Errorf("after the last event: %q, %v", rest, err)
	}
}
