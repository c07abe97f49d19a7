//go:build linux

package cases

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// Answers that come encoded, or bring credentials of their own.

func sectionBAnswers() []entry {
	return []entry{
		{"B09", echoInCodings},
		{"B10", liesAboutCodings},
		{"B11", echoInForms},
		{"B32", newCredentials},
		{"B35", echoInALargeBody},
		{"B36", tokenInACookie},
		{"B37", heldBackForAMoment},
		{"B38", scrubbingByRule},
		{"B39", echoOfADeliveredValue},
	}
}

// flusher is what all encoders are.
type flusher interface {
	io.WriteCloser
	Flush() error
}

// coder are the codings of answers, each with what writes it.
var coders = map[string]func(io.Writer) flusher{
	"gzip":        func(w io.Writer) flusher { return gzip.NewWriter(w) },
	"deflate":     func(w io.Writer) flusher { return zlib.NewWriter(w) },
	"raw deflate": func(w io.Writer) flusher { f, _ := flate.NewWriter(w, 6); return f },
	"br":          func(w io.Writer) flusher { return brotli.NewWriter(w) },
	"zstd":        func(w io.Writer) flusher { z, _ := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)); return z },
}

func encodedIn(name, text string) []byte {
	var b bytes.Buffer
	w := coders[name](&b)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return b.Bytes()
}

// decoder reads a coding as it comes.
func decoder(name string, r io.Reader) (io.Reader, error) {
	switch name {
	case "gzip":
		return gzip.NewReader(r)
	case "deflate":
		return zlib.NewReader(r)
	case "raw deflate":
		return flate.NewReader(r), nil
	case "br":
		return brotli.NewReader(r), nil
	case "zstd":
		return zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	}
	return r, nil
}

// decodedAs is the body of an answer without its coding.
func (c *Case) decodedAs(name string, r *Response) string {
	c.Helper()
	d, err := decoder(name, bytes.NewReader(r.Body))
	if err != nil {
		c.Errorf("%s: %v in %s", name, err, r)
		return ""
	}
	text, err := io.ReadAll(d)
	if err != nil || r.Err != nil {
		c.Errorf("%s: %v, %v", name, err, r.Err)
	}
	c.Hear("decoded answer", text)
	return string(text)
}

// field is the word of Content-Encoding for a coding.
func field(name string) string { return strings.TrimPrefix(name, "raw ") }

const acceptAll = "Accept-Encoding: gzip, deflate, br;q=0.9, zstd, sdch, *;q=0.1"

func echoInCodings(c *Case) {
	asked := 0
	large := strings.Repeat("some text that is not all the same: "+R+"\n", 20000)
	for host, u := range c.both() {
		for name := range coders {
			u.Handle(func(w http.ResponseWriter, r *http.Request) {
				text := "<" + R + ">"
				switch r.URL.Path {
				case "/large":
					text = large
				case "/empty":
					text = ""
				}
				body := encodedIn(name, text)
				w.Header().Set("Content-Encoding", field(name))
				if r.URL.Path != "/large" {
					w.Header().Set("Content-Length", fmt.Sprint(len(body)))
					w.Header().Set("Content-Digest", "sha-256=:AAAA:")
				}
				_, _ = w.Write(body)
			})
			for path, want := range map[string]string{"/small": "<" + c.P + ">", "/empty": "", "/large": strings.ReplaceAll(large, R, c.P)} {
				c.S1().Each(Message{"GET", host, path, []string{bearer(c.P), acceptAll}, ""}, func(r *Response) {
					c.Status(r, 200)
					c.Equal(r.Header.Get("Content-Encoding"), field(name))
					c.Equal(r.Header.Get("Content-Digest"), "")
					if got := c.decodedAs(name, r); got != want {
						c.Errorf("%s %s: %d bytes %q, not %d", name, path, len(got), clip(got), len(want))
					}
					if r.Length >= 0 && r.Length != int64(len(r.Body)) || path == "/small" && r.Length < 0 {
						c.Errorf("%s %s: Content-Length is %d, the body has %d bytes", name, path, r.Length, len(r.Body))
					}
				})
				asked += 2
			}
			// No body, but the field of one.
			c.S1().Each(Message{"HEAD", host, "/small", []string{bearer(c.P), acceptAll}, ""}, func(r *Response) {
				c.Status(r, 200)
				c.Equal(len(r.Body), 0)
			})
			asked += 2
		}
		for _, q := range u.Requests(asked) {
			c.Equal(q.Values("Accept-Encoding"), []string{"gzip, deflate, br;q=0.9, zstd"})
		}
		asked = 0
		c.compressedEvents(host, u)
	}
	c.Recorded(2*5*(2*3+1), Want{"type": "result", "status": 200.0, "method": "GET", "bytes_out": nil})
}

// compressedEvents are read one by one, though they come compressed.
func (c *Case) compressedEvents(host string, u *Upstream) {
	c.Helper()
	for name := range coders {
		next := make(chan bool)
		u.Handle(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Content-Encoding", field(name))
			z := coders[name](w)
			for _, event := range events {
				_, _ = io.WriteString(z, event)
				_ = z.Flush()
				_ = http.NewResponseController(w).Flush()
				select {
				case <-next:
				case <-r.Context().Done():
					return
				}
			}
			_ = z.Close()
		})
		t := c.S1().Tunnel(host)
		t.Send(get("/events", host, bearer(c.P), acceptAll))
		in, err := decoder(name, t.Stream())
		if err != nil {
			c.Fatal(err)
		}
		c.events(c.heardReader("events in "+name, in), next)
		t.Close()
	}
}

func liesAboutCodings(c *Case) {
	asked := 0
	for host, u := range c.both() {
		for i, answer := range []struct {
			codings []string
			body    string
		}{
			{[]string{"gzip"}, "this is plain text with " + R}, {[]string{"deflate"}, "<html>" + R}, {[]string{"br"}, "{\"a\":\"" + R + "\"}"}, {[]string{"zstd"}, "plain " + R},
			{[]string{"gzip"}, string(encodedIn("br", R))}, {[]string{"gzip, gzip"}, string(encodedIn("gzip", string(encodedIn("gzip", R))))},
			{[]string{"gzip", "gzip"}, string(encodedIn("gzip", R))}, {[]string{"identity, gzip"}, string(encodedIn("gzip", R))},
			{[]string{"x-foo"}, R}, {[]string{"compress"}, R}, {[]string{"aws-chunked"}, R}, {[]string{"dcb"}, R},
			{[]string{"gzip"}, string(encodedIn("gzip", R)[:20])}, {[]string{"gzip"}, string(encodedIn("gzip", R)) + "and " + R},
		} {
			u.Handle(func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Content-Encoding"] = answer.codings
				w.Header().Set("Content-Length", fmt.Sprint(len(answer.body)))
				_, _ = io.WriteString(w, answer.body)
			})
			c.S1().Each(Message{"GET", host, fmt.Sprintf("/%d", i), []string{bearer(c.P), acceptAll}, ""}, func(r *Response) {
				c.Refused(r, 502, "unsafe_response")
			})
			asked += 2
		}
		c.arrived(u, asked)
		c.Recorded(asked, Want{"type": "result", "code": "unsafe_response", "status": 502.0, "host": host})
		// One that turns out to be none later is cut off.
		u.Handle(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(encodedIn("gzip", hex.EncodeToString(random(1<<16))))
			_, _ = io.WriteString(w, "and then "+R)
		})
		c.S1().Each(Message{"GET", host, "/late", []string{bearer(c.P), acceptAll}, ""}, func(r *Response) {
			if r.Err == nil {
				c.Errorf("an answer that cannot be scrubbed looks whole: %s", r)
			}
		})
		c.arrived(u, asked+2)
		c.Recorded(2, Want{"type": "result", "code": "unsafe_response", "status": 200.0, "host": host})
		asked = 0
	}
}

// random is that many bytes which no coding makes shorter.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// unscrubbed are the forms that SECURITY.md says are not found.
func unscrubbed() map[string]string {
	reversed := []byte(R)
	slices.Reverse(reversed)
	var escapes, entities, wide strings.Builder
	for _, b := range []byte(R) {
		if b == 'R' { // where every character is escaped, it is found
			escapes.WriteByte(b)
		} else {
			fmt.Fprintf(&escapes, `\u%04x`, b)
		}
		fmt.Fprintf(&entities, "&#%d;", b)
		wide.WriteString(string([]byte{b, 0}))
	}
	return map[string]string{"escapes": escapes.String(), "entities": entities.String(), "reversed": string(reversed), "UTF-16": wide.String()}
}

func echoInForms(c *Case) {
	const odd = `p"ss/w\rd&=ü +%?`
	c.Rules.Secret("odd", odd)
	quoted, _ := json.Marshal(odd)
	forms := map[string]string{
		"/raw": R, "/percent": url.QueryEscape(odd), "/path": url.PathEscape(odd), "/json": string(quoted),
		"/base64": base64.StdEncoding.EncodeToString([]byte(R)), "/base64url": base64.RawURLEncoding.EncodeToString([]byte("?" + R)),
		"/base64+": base64.StdEncoding.EncodeToString([]byte("ab" + odd)), "/hex": hex.EncodeToString([]byte(R)), "/HEX": strings.ToUpper(hex.EncodeToString([]byte(odd))),
		// As the encoders themselves write it.
		"/encodeURI": "p%22ss/w%5Crd&=%C3%BC%20+%25?", "/encodeURI-lower": "p%22ss/w%5crd&=%c3%bc%20+%25?", "/quote": "p%22ss/w%5Crd%26%3D%C3%BC%20%2B%25%3F",
		"/form": "p%22ss%2Fw%5Crd%26%3D%C3%BC+%2B%25%3F", "/php": `p\"ss\/w\\rd&=\u00fc +%?`, "/gson": `p\"ss/w\\rd\u0026\u003dü +%?`,
		"/system.text.json": `p\u0022ss/w\\rd\u0026=\u00FC \u002B%?`, "/python": `p\"ss/w\\rd&=\u00fc +%?`,
	}
	var form string
	c.UE.Handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", form)
		_, _ = io.WriteString(w, "<"+form+">")
	})
	for path, text := range forms {
		form = text
		c.S1().Each(Message{"GET", echo, path, []string{bearer(c.P)}, ""}, func(r *Response) {
			c.Status(r, 200)
			c.Equal("<"+r.Header.Get("X-Echo")+">", string(r.Body))
			if equal := strings.Contains(path, "64") || strings.EqualFold(path, "/hex"); equal != (len(r.Body) == len(text)+2) {
				c.Errorf("%s: %q became %q", path, text, r.Body)
			}
		})
	}
	c.arrived(c.UE, 2*len(forms))
	// The list of what is out of reach is that of SECURITY.md, and no longer.
	for what, text := range unscrubbed() {
		form = text
		if what == "UTF-16" {
			continue // no value of a header; a body below
		}
		r := c.S1().Do(echo, get("/reach", echo))
		c.Equal(string(r.Body), "<"+text+">")
	}
	form = "x"
	c.UE.Handle(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, unscrubbed()["UTF-16"]) })
	c.Equal(string(c.S1().Do(echo, get("/reach", echo)).Body), unscrubbed()["UTF-16"])
}

func newCredentials(c *Case) {
	const strict = "strict.allowed.test"
	c.Rules.Add("{name: strict, hosts: [" + strict + "], response-credentials: strip, substitute: [{secret: github, in: header Authorization}]}")
	u := c.Upstream(strict+":443", Serve{TLS: c.Certificate(strict)})
	const token = `{"access_token": "new-one", "token_type": "Bearer", "refresh_token":"new\"two", "expires_in": 3600, "scope": "` + R + `"}`
	answer := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", "sid=abc; HttpOnly")
		w.Header().Add("Set-Cookie", "theme=dark")
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(encodedIn("gzip", token))
	}
	c.UE.Handle(answer)
	u.Handle(answer)
	names := []any{"cookie sid", "cookie theme", "access_token", "refresh_token"}
	c.S1().Each(Message{"POST", echo, "/token", []string{bearer(c.P), acceptAll}, "x"}, func(r *Response) {
		c.Equal(len(r.Header.Values("Set-Cookie")), 2)
		c.Equal(c.decodedAs("gzip", r), strings.ReplaceAll(token, R, c.P))
	})
	c.arrived(c.UE, 2)
	c.S1().Each(Message{"POST", strict, "/token", []string{bearer(c.P), acceptAll}, "x"}, func(r *Response) {
		c.Equal(len(r.Header.Values("Set-Cookie")), 0)
		c.Equal(c.decodedAs("gzip", r), `{"access_token": "", "token_type": "Bearer", "refresh_token":"", "expires_in": 3600, "scope": "`+c.P+`"}`)
	})
	c.arrived(u, 2)
	for host, key := range map[string]string{echo: "credentials", strict: "stripped"} {
		c.Recorded(2, Want{"type": "result", "host": host, "path": "/token"})
		for _, r := range c.Records() {
			if has(r, Want{"type": "result", "host": host}) {
				c.Equal(r[key], any(names))
			}
		}
	}
}

func echoInALargeBody(c *Case) {
	long := base64.RawURLEncoding.EncodeToString(random(6 << 10)) // 8 KiB
	c.Rules.Secret("long", long)
	const times, gap = 3000, 1000
	filler := strings.Repeat("0123456789", gap/10)
	c.UE.Handle(func(w http.ResponseWriter, r *http.Request) {
		for range times {
			_, _ = io.WriteString(w, long[:5000]+filler+long)
		}
	})
	s := c.S1()
	t := s.Tunnel(echo)
	began := c.usage(s)
	t.Send(get("/large", echo, bearer(c.P)))
	p := s.Placeholder("LONG")
	in, unit := t.Stream(), long[:5000]+filler+p
	got := make([]byte, len(unit))
	for i := range times {
		if _, err := io.ReadFull(in, got); err != nil || string(got) != unit {
			c.Fatalf("piece %d: %v, %q", i, err, clip(string(got)))
		}
	}
	if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
		c.Errorf("after the last: %d bytes, %v", len(rest), err)
	}
	c.within("memory grew by", c.usage(s).peak-began.now, 24<<10)
	c.arrived(c.UE, 1)
}

func tokenInACookie(c *Case) {
	const odd, coded = `p"ss;w,rd=ü`, "p%22ss%3Bw%2Crd%3D%C3%BC"
	c.Rules.Secret("odd", odd)
	u := c.UE
	u.Handle(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/login":
			w.Header().Add("Set-Cookie", "sid="+R+"; Path=/; HttpOnly")
			w.Header().Set("Location", "/landing?t="+R+"&u=1")
			w.WriteHeader(302)
		case "/elsewhere":
			w.Header().Set("Location", "https://"+api+"/landing?t="+R)
			w.WriteHeader(302)
		case "/coded":
			w.Header().Set("Set-Cookie", "odd="+coded+"; Path=/")
		case "/planted":
			planted, _ := io.ReadAll(r.Body)
			w.Header().Set("Location", "/cb?state="+string(planted)+"&code="+R)
			w.WriteHeader(302)
		}
	})
	s := c.S1()
	// Before the host has put it there, it belongs nowhere.
	c.Refused(s.Do(echo, get("/use", echo, "Cookie: sid="+c.P)), 403, "placeholder_misplaced")
	c.Refused(s.Do(echo, get("/landing?t="+c.P+"&u=1", echo)), 403, "placeholder_misplaced")
	s.Each(Message{"GET", echo, "/login", []string{bearer(c.P)}, ""}, func(r *Response) {
		c.Status(r, 302)
		c.Equal(r.Header.Get("Set-Cookie"), "sid="+c.P+"; Path=/; HttpOnly")
		c.Equal(r.Header.Get("Location"), "/landing?t="+c.P+"&u=1")
	})
	c.arrived(u, 2)
	s.Each(Message{"GET", echo, "/landing?t=" + c.P + "&u=1", []string{"Cookie: a=b; sid=" + c.P}, ""}, func(r *Response) { c.Status(r, 200) })
	for _, q := range u.Requests(4)[2:] {
		c.Equal(q.Target, "/landing?t="+R+"&u=1")
		c.Equal(strings.Join(q.Values("Cookie"), "; "), "a=b; sid="+R)
	}
	c.Recorded(2, Want{"type": "substitute", "surface": "cookie sid"})
	// In that cookie, at that host, and nowhere else.
	c.Refused(s.Do(echo, get("/use", echo, "Cookie: other="+c.P)), 403, "placeholder_misplaced")
	c.Refused(s.Do(echo, get("/other?t="+c.P, echo)), 403, "placeholder_misplaced")
	c.Refused(s.Do(api, get("/use", api, "Cookie: sid="+c.P)), 403, "placeholder_misplaced")
	c.Status(s.Do(echo, get("/elsewhere", echo)), 302)
	c.Refused(s.Do(api, get("/landing?t="+c.P, api)), 403, "placeholder_misplaced")
	c.Refused(c.Start(Start{Name: "fresh"}).Do(echo, get("/use", echo, "Cookie: sid="+c.P)), 403, "placeholder_misplaced")
	// It gets back what it wrote, as it wrote it.
	odds := s.Placeholder("ODD")
	c.Equal(s.Do(echo, get("/coded", echo)).Header.Get("Set-Cookie"), "odd="+odds+"; Path=/")
	c.Status(s.Do(echo, get("/use", echo, "Cookie: odd="+odds)), 200)
	c.Equal(u.Requests(7)[6].Values("Cookie"), []string{"odd=" + coded})
	// A placeholder that it merely repeats is none of its own.
	body := "POST /planted HTTP/1.1\r\nHost: " + echo + "\r\nContent-Length: " + strconv.Itoa(len(odds)) + "\r\n\r\n" + odds
	c.Status(s.Do(echo, body), 302)
	c.Refused(s.Do(echo, get("/cb?state="+odds, echo)), 403, "placeholder_misplaced")
	c.Status(s.Do(echo, get("/cb?code="+c.P, echo)), 200)
	u.Requests(9)
	c.U1.Nothing()
}

func heldBackForAMoment(c *Case) {
	for host, u := range c.both() {
		next := make(chan bool)
		u.Handle(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			for _, piece := range []string{"what comes " + R[:12], R[12:] + " end"} {
				_, _ = io.WriteString(w, piece)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-next:
				case <-r.Context().Done():
					return
				}
			}
		})
		t := c.S1().Tunnel(host)
		t.Send(get("/slow", host, bearer(c.P)))
		in := t.Stream()
		began := time.Now()
		got := make([]byte, len("what comes ")+12)
		if _, err := io.ReadFull(in, got); err != nil || string(got) != "what comes "+R[:12] {
			c.Fatalf("%q, %v", got, err)
		}
		c.Logf("let go after %v", time.Since(began))
		next <- true
		rest := make([]byte, len(R)-12+len(" end"))
		if _, err := io.ReadFull(in, rest); err != nil || string(rest) != strings.Repeat("x", len(R)-12)+" end" {
			c.Errorf("the rest is %q, %v", rest, err)
		}
		next <- true
		t.Close()
		c.arrived(u, 1)
	}
}

// echoOfADeliveredValue: what the command was handed itself does not come back
// to it in answers, either, where it would end in logs and prompts.
func echoOfADeliveredValue(c *Case) {
	const value = "db-pass-0123456789abcdef"
	c.Exit(c.StandinInput(value+"\n", nil, "vault", "set", "db/token"), 0)
	c.Rules.entries = append(c.Rules.entries, "db: {source: \"vault:db/token\", deliver: env, env: [DB_PASSWORD]}")
	c.Rules.Profile("handed: {secrets: [github, db], isolation: session}")
	c.UE.Handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", value)
		fmt.Fprintf(w, "<%s> <%s>", value, base64.StdEncoding.EncodeToString([]byte(value)))
	})
	s := c.Start(Start{Name: "handed", Profile: "handed"})
	s.Each(Message{"GET", echo, "/", nil, ""}, func(r *Response) {
		c.Status(r, 200)
		if text := string(r.Raw); strings.Contains(text, value) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(value))) {
			c.Errorf("the value came back: %s", r)
		}
		p := r.Header.Get("X-Echo")
		c.Equal(strings.Contains(p, "zstandin_"), true)
		c.Equal(strings.HasPrefix(string(r.Body), "<"+p+"> <xxxx"), true)
	})
	c.UE.Requests(2)
}

func scrubbingByRule(c *Case) {
	const always, never = "always.allowed.test", "never.allowed.test"
	c.Rules.Add("{name: always, hosts: [" + always + "], scrub: always}")
	c.Rules.Add("{name: never, hosts: [" + never + "], scrub: never, substitute: [{secret: github, in: header Authorization}]}")
	body := string(encodedIn("gzip", "an archive"))
	answer := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Alt-Svc", `h3=":443"`)
		if r.URL.Path == "/archive" {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, body)
			return
		}
		_, _ = io.WriteString(w, "<"+R+">")
	}
	servers := map[string]*Upstream{}
	for _, host := range []string{always, never} {
		servers[host] = c.Upstream(host+":443", Serve{TLS: c.Certificate(host), Handler: answer})
	}
	ask := func(host, path string) *Response {
		return c.S1().Do(host, get(path, host, "Range: bytes=0-5", "If-Range: \"x\"", "Accept-Encoding: gzip, sdch"))
	}
	for host, want := range map[string]struct{ rangeField, accept, scrub string }{
		always: {"", "gzip", "always"}, never: {"bytes=0-5", "gzip, sdch", "never"},
	} {
		u := servers[host]
		r := ask(host, "/archive")
		c.Status(r, 200)
		c.Equal(r.Header.Get("Alt-Svc"), "")
		if same := string(r.Body) == body; same != (host == never) {
			c.Errorf("%s: the same bytes: %t", host, same)
		}
		if host == always {
			r = ask(host, "/text")
			c.Equal(string(r.Body), "<"+c.P+">")
		} else {
			ask(host, "/archive")
		}
		for _, q := range u.Requests(2) {
			c.Equal(strings.Join(q.Values("Range"), ""), want.rangeField)
			c.Equal(strings.Join(q.Values("Accept-Encoding"), ""), want.accept)
		}
		c.Recorded(2, Want{"type": "result", "host": host, "scrub": want.scrub})
	}
}
