//go:build linux

package cases

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
)

// Placement in the body of a request, and where it begins and ends.

func sectionABodies() []entry {
	return []entry{
		{"A17", jsonValueIsSubstituted},
		{"A19", placeholderElsewhereInJSON},
		{"A21", malformedJSON},
		{"A32", placeholderInATrailer},
		{"A33", placeholderInAChunkExtension},
		{"A36", bodyThatEndsEarly},
		{"A37", bodyLongerThanItSays},
		{"A38", lengthIsMadeRight},
		{"A42", signedBodies},
	}
}

// jsonAt is the string at a path of keys.
func jsonAt(c *Case, body []byte, keys ...string) string {
	c.Helper()
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		c.Errorf("the upstream received malformed JSON: %v: %s", err, body)
		return ""
	}
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	s, _ := v.(string)
	return s
}

// jsonQuoted is the string of /auth/token as it stands in the body, quotes and
// escapes included.
func jsonQuoted(c *Case, body []byte) string {
	c.Helper()
	var v struct {
		Auth struct{ Token json.RawMessage }
	}
	if err := json.Unmarshal(body, &v); err != nil {
		c.Errorf("the upstream received malformed JSON: %v: %s", err, body)
	}
	return string(v.Auth.Token)
}

var asJSON = []string{"Content-Type: application/json"}

func jsonValueIsSubstituted(c *Case) {
	before, after := "{ \"a\" : [1.0, 1e2, \"\u00fc\\u00fc\\/\"],\r\n \"auth\":{\"x\":null, \"token\" :\t", ", \"y\":\""+c.P[:5]+"\"} }\n"
	escaped := fmt.Sprintf("\\u%04x%s", c.P[0], c.P[1:]) // the same string to every JSON reader
	for _, p := range []string{c.P, escaped} {
		c.S1().Each(Message{"POST", api, "/login", asJSON, before + `"` + p + `"` + after}, func(r *Response) { c.Status(r, 200) })
	}
	for _, q := range c.U1.Requests(4) {
		c.Equal(string(q.Body), before+`"`+R+`"`+after)
		c.Equal(q.Values("Content-Length"), []string{strconv.Itoa(len(q.Body))})
	}
	c.Recorded(4, Want{"type": "result", "bytes_out": len(before) + len(after) + len(R) + 2})
	// A repeated key is refused: readers differ on which of the two counts.
	for _, body := range []string{
		`{"auth":{"token":"` + c.P + `","token":"x"}}`, `{"auth":{"token":"x","token":"` + c.P + `"}}`,
		`{"auth":{"token":"x","tok\u0065n":"` + c.P + `"}}`, `{"auth":{"token":"` + c.P + `"},"auth":{}}`,
	} {
		c.S1().Each(Message{"POST", api, "/login", asJSON, body}, func(r *Response) { c.Refused(r, 400, "bad_request") })
	}
	c.U1.Requests(4)
	// What does not say that it is JSON is, if it begins so; what says that it is something else is not.
	jsonBody := `{"auth":{"token":"` + c.P + `"}}`
	for _, m := range []struct{ media, body, want string }{
		{"application/x-www-form-urlencoded", jsonBody, strings.ReplaceAll(jsonBody, c.P, R)}, {"text/plain", "a text", "a text"},
		{"image/png", "\x89PNG", "\x89PNG"}, {"application/xml", "<a>" + c.P + "</a>", "<a>" + c.P + "</a>"},
	} {
		before := len(c.U1.Received())
		c.S1().Each(Message{"POST", api, "/login", []string{"Content-Type: " + m.media}, m.body}, func(r *Response) { c.Status(r, 200) })
		for _, q := range c.U1.Requests(before + 2)[before:] {
			c.Equal(string(q.Body), m.want)
		}
	}
	c.Recorded(6, Want{"type": "substitute", "surface": "json /auth/token", "secret": "github", "method": "POST", "path": "/login"})
}

func placeholderElsewhereInJSON(c *Case) {
	bodies := []string{
		`{"auth":{"note":"` + c.P + `"}}`,
		`{"auth":{"` + c.P + `":"token"}}`,
		`{"auth":{"token":["` + c.P + `"]}}`,
		`{"auth":[{"token":"` + c.P + `"}]}`,
		`["` + c.P + `"]`,
		`"` + c.P + `"`,
		`{"auth":{"token":"x"},"messages":[{"content":"GITHUB_TOKEN=` + c.P + `\nHOME=/root"}]}`,
	}
	for _, body := range bodies {
		c.S1().Each(Message{"POST", api, "/login", asJSON, body}, func(r *Response) { c.Status(r, 200) })
	}
	got := map[string]int{}
	for _, q := range c.U1.Requests(2 * len(bodies)) {
		got[string(q.Body)]++
	}
	for _, body := range bodies {
		c.Equal(got[body], 2)
	}
	c.Recorded(0, Want{"type": "substitute"})
	c.Recorded(2*len(bodies), Want{"type": "misplaced", "path": "/login"})
	for _, body := range bodies {
		c.S1().Each(Message{"POST", api, "/strict", asJSON, body}, func(r *Response) {
			c.Refused(r, 403, "placeholder_misplaced")
		})
	}
	c.U1.Requests(2 * len(bodies))
	c.Recorded(2*len(bodies), Want{"type": "deny", "code": "placeholder_misplaced", "path": "/strict"})
}

func malformedJSON(c *Case) {
	good := `{"auth":{"token":"` + c.P + `"}}`
	bodies := []string{
		good + "x", good + good, good + "\x00",
		`{"n":NaN,` + good[1:], `{"n":01,` + good[1:], `{"n":+1,` + good[1:], `{"n":1.,` + good[1:],
		"/* c */" + good, good + "// c", `{'a':1,` + good[1:], `{a:1,` + good[1:], good[:len(good)-1] + ",}",
		utf16Text(good), "\ufeff" + good,
		`{"s":"\ud800",` + good[1:], `{"s":"\udc00\ud800",` + good[1:],
		`{"s":"` + "\xff" + `",` + good[1:], `{"s":"` + "\n" + `",` + good[1:], `{"s":"\x41",` + good[1:],
		good[:len(good)-1], "",
	}
	for _, body := range bodies {
		c.S1().Each(Message{"POST", api, "/login", asJSON, body}, func(r *Response) {
			if body == "" && r.Status == 200 {
				return // no body at all is no malformed body
			}
			if r.Status != 400 || r.Code() != "bad_request" {
				c.Errorf("%q: %s", body, r)
			}
		})
	}
	for _, q := range c.U1.Received() {
		c.Equal(string(q.Body), "")
	}
	sent := len(c.U1.Received())
	for _, body := range bodies {
		c.S1().Each(Message{"POST", api, "/elsewhere", asJSON, body}, func(r *Response) { c.Status(r, 200) })
	}
	got := map[string]int{}
	for _, q := range c.U1.Requests(sent + 2*len(bodies)) {
		if q.Target == "/elsewhere" {
			got[string(q.Body)]++
		}
	}
	for _, body := range bodies {
		c.Equal(got[body], 2)
	}
	c.Recorded(0, Want{"type": "substitute"})
}

func utf16Text(s string) string {
	b := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return string(b)
}

// placeholderInATrailer: a trailer arrives after all decisions about the head
// were made. It may be dropped or refused.
func placeholderInATrailer(c *Case) {
	for _, declared := range []string{"Trailer: X-Late\r\n", ""} {
		for _, name := range []string{"X-Late", "Authorization"} {
			t := c.S1().Tunnel(api)
			t.Send("POST /user HTTP/1.1\r\nHost: " + api + "\r\n" + declared + "Transfer-Encoding: chunked\r\n\r\n" +
				"5\r\nhello\r\n0\r\n" + name + ": " + c.P + "\r\n\r\n")
			trailerOutcome(c, t.Response("POST"))
		}
	}
	for _, declared := range [][]string{{"trailer: x-late"}, nil} {
		h := c.S1().H2(api)
		id := h.Open(h2fields("POST", api, "/user", declared...), false)
		h.Data(id, []byte("hello"), false)
		h.Headers(id, []Field{{"x-late", c.P}}, true)
		trailerOutcome(c, h.Await(id))
	}
	text := c.U1.Text()
	if strings.Contains(text, c.P) || len(leaks([]byte(text), c.Values)) > 0 {
		c.Errorf("the trailer reached the upstream: %s", clip(text))
	}
	c.Recorded(0, Want{"type": "substitute"})
}

func trailerOutcome(c *Case, r *Response) {
	c.Helper()
	if _, reset := r.Reset(); r.Status != 200 && !reset && r.Err == nil {
		c.Refused(r, 403, "placeholder_misplaced")
	}
}

func placeholderInAChunkExtension(c *Case) {
	c.U1.HTTP1()
	t := c.S1().Tunnel(api)
	t.Send("POST /user HTTP/1.1\r\nHost: " + api + "\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"5;x=" + c.P + "\r\nhello\r\n0;y=\"" + c.P + "\"\r\n\r\n")
	c.Status(t.Response("POST"), 200)
	q := c.U1.Requests(1)[0]
	c.Equal(string(q.Body), "hello")
	c.Equal(strings.Contains(c.U1.Raw(), "zstandin_"), false)
}

func bodyThatEndsEarly(c *Case) {
	for _, size := range []struct{ says, sends int }{{200, 100}, {4 << 20, 3 << 20}} {
		t := c.S1().Tunnel(api)
		t.Send(fmt.Sprintf("POST /user HTTP/1.1\r\nHost: %s\r\n%s\r\nContent-Length: %d\r\n\r\n", api, bearer(c.P), size.says))
		t.Send(strings.Repeat("b", size.sends))
		time.Sleep(50 * time.Millisecond) // so that the sent part has been read
		_ = t.Close()
	}
	h := c.S1().H2(api)
	id := h.Open(h2fields("POST", api, "/user", "authorization: Bearer "+c.P, "content-length: 200"), false)
	h.Data(id, []byte(strings.Repeat("b", 100)), false)
	_ = h.Drain()
	_ = h.Close()
	c.Eventually("an aborted request is recorded as such", func() bool {
		n := 0
		for _, r := range c.Records() {
			if r["type"] == "result" && strings.Contains(lines([]map[string]any{r}), "aborted") {
				n++
			}
		}
		return n >= 1
	})
	for _, q := range c.U1.Received() {
		if q.Whole {
			c.Errorf("the upstream received a whole request: %s", clip(q.text()))
		}
	}
	c.Recorded(0, Want{"type": "result", "status": 200})
}

func bodyLongerThanItSays(c *Case) {
	t := c.S1().Tunnel(api)
	t.Send(message("POST", "/one", api, "hello", bearer(c.P)) + get("/two?y="+c.P, api) + get("/three", api))
	c.Status(t.Response("POST"), 200)
	c.Refused(t.Response("GET"), 403, "placeholder_misplaced")
	c.Status(t.Response("GET"), 200)
	got := c.U1.Requests(2)
	c.Equal([]string{got[0].Target, string(got[0].Body), got[1].Target}, []string{"/one", "hello", "/three"})

	t = c.S1().Tunnel(api)
	t.Send("POST /four HTTP/1.1\r\nHost: " + api + "\r\nContent-Length: 3\r\n\r\nhello, not a request\r\n\r\n")
	c.Status(t.Response("POST"), 200)
	if r := t.Response("GET"); r.Err == nil && r.Status != 400 {
		c.Errorf("what follows the body: %s", r)
	}
	c.Equal(string(c.U1.Requests(3)[2].Body), "hel")

	h := c.S1().H2(api)
	r := h.Ask(h2fields("POST", api, "/five", "content-length: 3"), "hello")
	if _, reset := r.Reset(); !reset && r.Status != 400 && h.Lost == nil {
		c.Errorf("five bytes of three over HTTP/2: %s", r)
	}
	for _, q := range c.U1.Received() {
		c.Equal(q.Target == "/five" && q.Whole, false)
	}
}

func lengthIsMadeRight(c *Case) {
	const long = "a-much-longer-value-than-any-placeholder-is-0123456789-0123456789-0123456789"
	c.Rules.Secret("long", long)
	s := c.S1()
	body := func(p string) string { return `{"auth":{"token":"` + p + `"},"z":1}` }
	one := c.U1.HTTP1()
	t := s.Tunnel(api)
	for _, p := range []string{c.P, s.Placeholder("LONG"), c.P} {
		t.Send(postJSON("/login", api, body(p)))
		c.Status(t.Response("POST"), 200)
	}
	t.Send(postJSON("/login", api, body(s.Placeholder("LONG"))) + postJSON("/login", api, body(c.P)) + get("/after", api))
	for range 2 {
		c.Status(t.Response("POST"), 200)
	}
	c.Status(t.Response("GET"), 200)
	for i, q := range one.Requests(6) {
		want := body([]string{R, long, R, long, R}[min(i, 4)])
		if i == 5 {
			want = ""
		} else {
			c.Equal(q.Values("Content-Length"), []string{strconv.Itoa(len(want))})
		}
		c.Equal(string(q.Body), want)
		c.Equal(q.Values("Transfer-Encoding"), []string(nil))
	}
	c.Equal(bytes.Count([]byte(one.Raw()), []byte("HTTP/1.1\r\n")), 6)
}

func signedBodies(c *Case) {
	body := `{"auth":{"token":"` + c.P + `"}}`
	signs := []string{
		"Digest: SHA-256=X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=", "Content-Digest: sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
		"Content-MD5: Q2hlY2sgSW50ZWdyaXR5IQ==", "X-Amz-Content-Sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=5d672d79",
		"Signature: sig1=:LAH8BjcfcOcLojiuOBFWn0P5keD3xAOuJRGziCLuD8r5MW9S0RoXXLzLSRfGY/3SF8kVIkHjE13SEFdTo4Af/fJ/Pu9wheqoLVdwXyY/UkBIS1M8Brc8IODsn5DFIrG0IrburbLi0uCc+E2ZIIb6HbUJ+o+jP58JelMTe0QE3IpWINTEzpxjqDf5/Df+InHCAkQCTuKsamjWXUpyOT1Wkxi7YPVNOjW4MfNuTZ9HdbD2Tr65+BXeTG9ZS/9SWuXAc+BZ8WyPz0QRz//ec3uWXd7bYYODSjRAxHqX+S1ag3LZElYyUKaAIjZ8MGOt4gXEwCSLDv/zqxZeWLj/PDkn6w==:",
	}
	for _, sign := range signs {
		c.S1().Each(Message{"POST", api, "/login", append([]string{sign}, asJSON...), body}, func(r *Response) {
			c.Refused(r, 409, "signed_body")
		})
	}
	// A digest may be announced for the trailer.
	s := c.S1()
	for _, name := range []string{"Digest", "content-digest", "X-Other, Content-MD5"} {
		t := s.Tunnel(api)
		t.Send("POST /login HTTP/1.1\r\nHost: " + api + "\r\nContent-Type: application/json\r\nTrailer: " + name + "\r\nTransfer-Encoding: chunked\r\n\r\n")
		t.Send(fmt.Sprintf("%x\r\n%s\r\n0\r\nDigest: x\r\n\r\n", len(body), body))
		c.Refused(t.Response("POST"), 409, "signed_body")
	}
	c.Equal(len(c.U1.Received()), 0)
	c.Recorded(2*len(signs)+3, Want{"type": "deny", "code": "signed_body"})
	// Without a body rule there is nothing to break.
	c.Status(c.S1().Do(api, postJSON("/elsewhere", api, "{}", signs[0])), 200)
}
