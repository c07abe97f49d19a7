//go:build linux

package cases

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Placement in the head of a request: method, target, header fields.

func sectionA() []entry {
	return append([]entry{
		{"A01", placeholderAtAHostWithoutGrant},
		{"A02", headerIsSubstituted},
		{"A04", repeatedHeaderIsRefused},
		{"A05", placeholderAsHost},
		{"A06", placeholderInAPathWithoutARule},
		{"A07", placeholderInAQueryWithoutARule},
		{"A08", fragmentInTheTarget},
		{"A09", placeholderInACookie},
		{"A10", placeholderInAHeaderName},
		{"A11", placeholderInOtherHeaders},
		{"A12", basicPasswordIsSubstituted},
		{"A13", placeholderAsBasicUser},
		{"A15", placeholderWithinBase64},
		{"A16", placeholderTwiceInOneValue},
		{"A23", valuesAreEscapedPerSurface},
		{"A26", queryIsSubstitutedInPlace},
		{"A28", pathSegmentStaysOneSegment},
		{"A43", lineBreakInAValue},
		{"A45", noPlaceholderBeginsAnother},
		{"A47", lookAlikesOfAPlaceholder},
		{"A48", strangeMethods},
	}, append(sectionABodies(), sectionAStreams()...)...)
}

func bearer(value string) string { return "Authorization: Bearer " + value }

func placeholderAtAHostWithoutGrant(c *Case) {
	c.S1().Each(Message{"GET", evil, "/", []string{bearer(c.P)}, ""}, func(r *Response) {
		c.Refused(r, 403, "placeholder_misplaced")
	})
	c.U2.Nothing()
	c.Recorded(2, Want{"type": "deny", "code": "placeholder_misplaced", "host": evil})
}

func headerIsSubstituted(c *Case) {
	c.S1().Each(Message{"GET", api, "/user", []string{bearer(c.P), "X-Other: 1"}, ""}, func(r *Response) {
		c.Status(r, 200)
	})
	for _, q := range c.U1.Requests(2) {
		c.Equal(q.Values("Authorization"), []string{"Bearer " + R})
		c.Equal(q.Values("X-Other"), []string{"1"})
		c.Equal([]string{q.Method, q.Host, q.Target}, []string{"GET", api, "/user"})
		c.Equal(strings.Count(q.text(), R), 1)
	}
	c.Recorded(2, Want{"type": "substitute", "host": api, "path": "/user", "method": "GET", "secret": "github", "surface": "header Authorization"})
	c.Recorded(2, Want{"type": "result", "status": 200})
}

// repeatedHeaderIsRefused: a proxy and a server that pick different ones of two
// fields would disagree about who is asking.
func repeatedHeaderIsRefused(c *Case) {
	for _, pair := range [][]string{
		{bearer(c.P), bearer("other")}, {bearer("other"), bearer(c.P)}, {bearer(c.P), bearer(c.P)}, {bearer(c.P), "authorization: "},
	} {
		c.S1().Each(Message{"GET", api, "/user", pair, ""}, func(r *Response) {
			c.Refused(r, 400, "bad_request")
		})
	}
	c.U1.Nothing()
}

func placeholderAsHost(c *Case) {
	c.Refused(c.S1().Do(api, get("/", c.P)), 421, "authority_mismatch")
	h := c.S1().H2(api)
	c.Refused(h.Ask(h2fields("GET", c.P, "/"), ""), 421, "authority_mismatch")
	c.U1.Undialled()
}

func placeholderInAPathWithoutARule(c *Case) {
	for _, path := range []string{"/" + c.P + "/x", "/x/" + c.P, "/" + escapeEach(c.P, "%%%02x") + "/x"} {
		c.S1().Each(Message{"GET", api, path, nil, ""}, func(r *Response) {
			c.Refused(r, 403, "placeholder_misplaced")
		})
	}
	c.U1.Nothing()
	for _, r := range c.Recorded(6, Want{"type": "deny", "code": "placeholder_misplaced"}) {
		c.Equal(strings.Contains(r["path"].(string), "zstandin_"), false)
	}
}

func placeholderInAQueryWithoutARule(c *Case) {
	for _, query := range []string{"y=" + c.P, c.P + "=1", "y=" + escapeEach(c.P, "%%%02X"), "a=1&&" + c.P, "api_key=" + c.P,
		"y=" + escapeEach(c.P, "%%%02X") + "%", "%zz" + escapeEach(c.P, "%%%02x") + "=1"} {
		c.S1().Each(Message{"GET", api, "/x?" + query, nil, ""}, func(r *Response) {
			c.Refused(r, 403, "placeholder_misplaced")
		})
	}
	c.U1.Nothing()
	c.Recorded(14, Want{"type": "deny", "code": "placeholder_misplaced"})
}

func fragmentInTheTarget(c *Case) {
	for _, target := range []string{"/x#" + c.P, "/x?a=b#" + c.P} {
		c.Refused(c.S1().Do(api, get(target, api)), 400, "bad_request")
		h := c.S1().H2(api)
		r := h.Ask(h2fields("GET", api, target), "")
		if _, reset := r.Reset(); !reset {
			c.Refused(r, 400, "bad_request")
		}
	}
	c.U1.Nothing()
}

func placeholderInACookie(c *Case) {
	for _, cookie := range []string{"a=" + c.P + "; b=1", "b=1; a=" + c.P, c.P + "=1", "a=\"" + c.P + "\""} {
		c.S1().Each(Message{"GET", api, "/user", []string{"Cookie: " + cookie}, ""}, func(r *Response) {
			c.Refused(r, 403, "placeholder_misplaced")
		})
	}
	c.U1.Nothing()
}

func placeholderInAHeaderName(c *Case) {
	for _, name := range []string{c.P, "X-" + c.P, strings.ToUpper(c.P)} {
		c.S1().Each(Message{"GET", api, "/user", []string{name + ": 1"}, ""}, func(r *Response) {
			c.Refused(r, 403, "placeholder_misplaced")
		})
	}
	c.U1.Nothing()
}

func placeholderInOtherHeaders(c *Case) {
	lines := []string{
		"User-Agent: " + c.P, "Referer: https://x/" + c.P, "X-Forwarded-For: " + c.P, "Via: 1.1 " + c.P, "Forwarded: for=" + c.P,
		"Origin: https://" + c.P, "If-None-Match: \"" + c.P + "\"", "Range: " + c.P, "X-Api-Key: " + c.P, "Accept-Encoding: " + c.P,
		"Proxy-Authorization: Bearer " + c.P, "Content-Type: text/" + c.P,
	}
	for _, line := range lines {
		c.S1().Each(Message{"GET", api, "/user", []string{line}, ""}, func(r *Response) {
			c.Refused(r, 403, "placeholder_misplaced")
		})
	}
	c.Recorded(2*len(lines), Want{"type": "deny", "code": "placeholder_misplaced"})
	// Fields of one hop end at the proxy: they are refused or dropped.
	for _, name := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "TE", "Upgrade", "Expect"} {
		r := c.S1().Do(api, get("/hop", api, name+": "+c.P))
		if r.Err != nil || r.Status != 200 && (r.Status < 400 || r.Status >= 500) {
			c.Errorf("%s: %s", name, r)
		}
	}
	c.Equal(strings.Contains(c.U1.Text(), "zstandin_"), false)
}

func basicPasswordIsSubstituted(c *Case) {
	for _, user := range []string{"user", "x-access-token", ""} {
		c.S1().Each(Message{"GET", api, "/basic", []string{"Authorization: " + basic(user, c.P)}, ""}, func(r *Response) {
			c.Status(r, 200)
		})
	}
	for i, q := range c.U1.Requests(6) {
		user := []string{"user", "x-access-token", ""}
		if got := q.Value("Authorization"); got != basic(user[0], R) && got != basic(user[1], R) && got != basic(user[2], R) {
			c.Errorf("request %d has %q", i, got)
		}
	}
	c.Recorded(6, Want{"type": "substitute", "surface": "basic password"})
}

func placeholderAsBasicUser(c *Case) {
	for _, value := range []string{basic(c.P, "x"), basic(c.P, c.P), basic(c.P, "")} {
		c.S1().Each(Message{"GET", api, "/basic", []string{"Authorization: " + value}, ""}, func(r *Response) {
			c.Refused(r, 403, "placeholder_misplaced")
		})
	}
	c.U1.Nothing()
}

func placeholderWithinBase64(c *Case) {
	value := strings.TrimPrefix(basic("", c.P), "Basic ")
	sent := 0
	c.S1().Each(Message{"GET", api, "/user", []string{bearer(value)}, ""}, func(r *Response) {
		if r.Status == 200 {
			sent++
		} else {
			c.Refused(r, 403, "placeholder_misplaced")
		}
	})
	for _, q := range c.U1.Requests(sent) {
		c.Equal(q.Values("Authorization"), []string{"Bearer " + value})
	}
	c.Equal(leaks([]byte(c.U1.Text()), c.Values), []string(nil))
	c.Recorded(0, Want{"type": "substitute"})
}

func placeholderTwiceInOneValue(c *Case) {
	for _, value := range []string{c.P + " " + c.P, c.P + ", Bearer " + c.P} {
		c.S1().Each(Message{"GET", api, "/user", []string{bearer(value)}, ""}, func(r *Response) {
			c.Refused(r, 403, "placeholder_misplaced")
		})
	}
	c.U1.Nothing()
}

func valuesAreEscapedPerSurface(c *Case) {
	const odd = "q\"b\\s&a=ü\u2028+%41;'<z>"
	c.Rules.Secret("odd", odd)
	s := c.S1()
	p := s.Placeholder("ODD")
	form := []string{"Content-Type: application/x-www-form-urlencoded"}
	for _, m := range []Message{
		{"POST", api, "/login", []string{"Content-Type: application/json"}, `{"auth":{"token":"` + p + `"}}`},
		{"POST", api, "/form", form, "a=1&token=" + p + "&z=%2f"},
		{"GET", api, "/q?a=1&api_key=" + p + "&z=%2f", nil, ""},
		{"GET", api, "/t/" + p + "/x", nil, ""},
	} {
		s.Each(m, func(r *Response) { c.Status(r, 200) })
	}
	for _, q := range c.U1.Requests(8) {
		path, query, _ := strings.Cut(q.Target, "?")
		switch {
		case path == "/login":
			c.Equal(string(q.Body), `{"auth":{"token":`+jsonQuoted(c, q.Body)+`}}`)
			c.Equal(jsonAt(c, q.Body, "auth", "token"), odd)
		case path == "/form":
			c.Equal(formValue(c, string(q.Body), "a=1&token=", "&z=%2f"), odd)
		case path == "/q":
			c.Equal(formValue(c, query, "a=1&api_key=", "&z=%2f"), odd)
		default:
			segments := strings.Split(q.Target, "/")
			c.Equal(len(segments), 4)
			value, err := url.PathUnescape(segments[2])
			c.Equal([]any{value, err}, []any{odd, error(nil)})
		}
	}
	// As a header value it either stands there byte for byte or is refused.
	before := len(c.U1.Received())
	r := s.Do(api, get("/user", api, bearer(p)))
	if r.Status != 200 {
		c.Refused(r, 500, "unsafe_value")
		c.U1.Requests(before)
		return
	}
	c.Equal(strings.Contains(c.U1.Text(), "Bearer "+odd+"\n") || strings.Contains(c.U1.Text(), "Bearer "+odd+"\r\n"), true)
}

// formValue is the decoded value between two texts that must stand as they were
// sent.
func formValue(c *Case, text, before, after string) string {
	c.Helper()
	inner, ok := strings.CutPrefix(text, before)
	inner, ok2 := strings.CutSuffix(inner, after)
	value, err := url.QueryUnescape(inner)
	if !ok || !ok2 || err != nil || strings.ContainsAny(inner, "&;") {
		c.Errorf("the value was not encoded in place: %q (%v)", text, err)
	}
	return value
}

func queryIsSubstitutedInPlace(c *Case) {
	before, after := "/q?b=%2f&a=%2F&s=x+y&t=x%20y&e&=&u=%C3%BC&dup=1&dup=2&api_key=", "&z=~%7E&b=*()'"
	c.S1().Each(Message{"GET", api, before + c.P + after, nil, ""}, func(r *Response) { c.Status(r, 200) })
	for _, q := range c.U1.Requests(2) {
		c.Equal(q.Target, before+R+after)
	}
	for _, r := range c.Recorded(2, Want{"type": "substitute", "surface": "query api_key"}) {
		c.Equal(r["path"], "/q")
	}
	// A repeated parameter is refused: which of the two would count?
	for _, query := range []string{"api_key=" + c.P + "&api_key=x", "api_key=x&api_key=" + c.P, "api%5fkey=x&api_key=" + c.P, "api_key=" + c.P + "&api_key", "api_key=" + c.P + "&a=1&api%5Fkey=", "api_key=%zz+" + c.P} {
		c.S1().Each(Message{"GET", api, "/q?" + query, nil, ""}, func(r *Response) { c.Refused(r, 400, "bad_request") })
	}
	for _, body := range []string{"token=" + c.P + "&token=x", "tok%65n=x&token=" + c.P, "token=x&a=1&token=" + c.P, "token=a;note=" + c.P} {
		m := Message{"POST", api, "/form", []string{"Content-Type: application/x-www-form-urlencoded"}, body}
		c.S1().Each(m, func(r *Response) { c.Refused(r, 400, "bad_request") })
	}
	// The name itself may be encoded.
	c.S1().Each(Message{"GET", api, "/q?api%5Fkey=" + c.P, nil, ""}, func(r *Response) { c.Status(r, 200) })
	got := c.U1.Requests(4)
	for _, q := range got {
		if q.Target != before+R+after && q.Target != "/q?api%5Fkey="+R {
			c.Errorf("the target is %q", q.Target)
		}
	}
}

func pathSegmentStaysOneSegment(c *Case) {
	values := map[string]string{"HOP": "../../admin%2Fx?d#e f/..", "DOTS": "..%2e%2e/.;a=b/c", "PLAIN": "1234567890:AAEhBOweik6ad9r_QXMENQjcrGbqCr4K-bc"}
	for name, v := range values {
		c.Rules.Secret(strings.ToLower(name), v)
	}
	c.U1.HTTP1()
	s := c.S1()
	for name := range values {
		s.Each(Message{"GET", api, "/t/" + s.Placeholder(name) + "/x", nil, ""}, func(r *Response) { c.Status(r, 200) })
	}
	got := map[string]int{}
	for _, q := range c.U1.Requests(2 * len(values)) {
		line, _, _ := strings.Cut(q.Head, "\r\n")
		c.Equal(strings.Count(line, " "), 2)
		segments := strings.Split(q.Target, "/")
		if len(segments) != 4 || segments[1] != "t" || segments[3] != "x" || strings.ContainsAny(segments[2], "?# \\") {
			c.Errorf("the target is %q", q.Target)
			continue
		}
		value, err := url.PathUnescape(segments[2])
		c.Equal(err, error(nil))
		got[value]++
	}
	for _, v := range values {
		c.Equal(got[v], 2)
	}
	for _, secret := range []string{"hop", "dots", "plain"} {
		for _, r := range c.Recorded(2, Want{"type": "substitute", "secret": secret}) {
			c.Equal(r["path"], "/t/{"+secret+"}/x")
		}
	}
}

func lineBreakInAValue(c *Case) {
	const nl = "abc\r\nX-Inj: 1"
	c.Rules.Secret("nl", nl)
	c.Rules.Secret("edge", "t0ken-with-a-blank-behind-it ")
	s := c.S1()
	s.Each(Message{"GET", api, "/user", []string{bearer(s.Placeholder("NL"))}, ""}, func(r *Response) {
		c.Refused(r, 500, "unsafe_value")
	})
	// In Basic it would stand within base64, but RFC 7617 section 2 has no control characters there.
	c.Refused(s.Do(api, get("/basic", api, "Authorization: "+basic("user", s.Placeholder("NL")))), 500, "unsafe_value")
	// A blank at the edge of a field would be cut off in silence.
	c.Refused(s.Do(api, get("/user", api, bearer(s.Placeholder("EDGE")))), 500, "unsafe_value")
	c.U1.Undialled()
	c.Recorded(4, Want{"type": "deny", "code": "unsafe_value"})
}

func lookAlikesOfAPlaceholder(c *Case) {
	alike := []string{
		strings.ToUpper(c.P),
		strings.Replace(c.P, "z", "\uff5a", 1), // full width
		strings.Replace(c.P, "a", "\u0430", 1), // Cyrillic
		strings.Replace(c.P, "_", "-", 1),
		c.P[:len(c.P)-1],
		c.P + "a",
	}
	for _, a := range alike {
		c.S1().Each(Message{"GET", api, "/user", []string{bearer(a)}, ""}, func(r *Response) { c.Status(r, 200) })
	}
	got := map[string]int{}
	for _, q := range c.U1.Requests(2 * len(alike)) {
		got[q.Value("Authorization")]++
	}
	for _, a := range alike {
		c.Equal(got["Bearer "+a], 2)
	}
	c.Recorded(0, Want{"type": "substitute"})
}

func strangeMethods(c *Case) {
	for _, method := range []string{c.P, strings.Repeat("M", 10<<10), "get", "GE T", "G\x01T"} {
		t := c.S1().Tunnel(api)
		t.Send(message(method, "/user", api, ""))
		r := t.Response("GET")
		if r.Status != 400 && r.Status != 405 {
			c.Errorf("method %q: %s", clip(method), r)
		}
		if strings.Contains(string(r.Raw), method[:min(len(method), 65)]) && len(method) > 64 {
			c.Errorf("the answer repeats the method: %s", r)
		}
		r = c.S1().DoH2(Message{method, api, "/user", nil, ""})
		if _, reset := r.Reset(); !reset && r.Err == nil && r.Status != 400 && r.Status != 405 {
			c.Errorf("method %q over HTTP/2: %s", clip(method), r)
		}
	}
	c.U1.Nothing()
}

// noPlaceholderBeginsAnother: were one a part of another, a request could be
// cut so that the wrong value goes in.
func noPlaceholderBeginsAnother(c *Case) {
	for i, shape := range []string{"", "sk-", "sk-ant-", "sk-ant-api03-", "g", "gh", "xoxb-", "xoxb-1-"} {
		for _, twin := range []string{"a", "b"} {
			name := fmt.Sprintf("many%d%s", i, twin)
			entry := fmt.Sprintf("{source: \"vault:github/token\", env: [%s]", strings.ToUpper(name))
			if shape != "" {
				entry += ", shape: " + shape
			}
			c.Rules.Entry(name, entry+"}")
		}
	}
	s := c.S1()
	var all []string
	for name, value := range s.Env {
		if strings.HasPrefix(name, "MANY") || name == "GITHUB_TOKEN" {
			all = append(all, value)
		}
	}
	c.Equal(len(all), 17)
	for _, a := range all {
		prefix, random, _ := strings.Cut(a, "zstandin_")
		if len(random) != 26 || strings.Trim(random, "abcdefghijklmnopqrstuvwxyz234567") != "" {
			c.Errorf("%q does not end in 26 random characters after %q", a, prefix)
		}
		for _, b := range all {
			if a != b && strings.Contains(a, b) {
				c.Errorf("placeholder %q is part of %q", b, a)
			}
		}
	}
	// Nor can a rules file make such a pair, or one that is too easy to guess.
	for _, pair := range [][2]string{{c.P, c.P}, {c.P, c.P + "a"}, {"a" + c.P, c.P}, {c.P, "zstandin_short"}, {c.P, "ghp_none_at_all_0123456789abcdef"}} {
		path := filepath.Join(c.Dir, "pair.yaml")
		text := fmt.Sprintf("version: 1\nsecrets:\n  one: {source: \"vault:github/token\", placeholder: %s}\n  two: {source: \"vault:github/token\", placeholder: %s}\n", pair[0], pair[1])
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			c.Fatal(err)
		}
		if r := c.Standin("rules", "check", "--rules", path); r.Code == 0 {
			c.Errorf("rules with the placeholders %q are accepted", pair)
		}
	}
	c.U1.Undialled()
}
