package body

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

// parts feeds a layout in pieces of at most size bytes, as a reader would, and
// returns the parts, decoded.
func parts(l Layout, text []byte, size int) (map[string][]string, error) {
	found := map[string][]string{}
	open, raw := Outside, []byte(nil)
	flush := func() error {
		if open == Outside {
			return nil
		}
		var t Text
		t.Bytes = raw
		if !l.Plain(raw) {
			t.Reset()
			t.Bytes = nil
			if err := l.Decode(&t, raw); err != nil {
				return err
			}
		}
		found[fmt.Sprint(open)] = append(found[fmt.Sprint(open)], string(t.Bytes))
		open, raw = Outside, nil
		return nil
	}
	done, seen := 0, 0
	for {
		p, err := l.Next(text[done:seen])
		if err != nil {
			return nil, err
		}
		if p.Len < 0 || done+p.Len > seen {
			return nil, fmt.Errorf("a piece of %d bytes, of %d", p.Len, seen-done)
		}
		if p.Len == 0 && !p.End {
			// b is too short to tell
		} else if p.Part != Outside {
			open = p.Part
			raw = append(raw, text[done:done+p.Len]...)
		} else {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		if p.End {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		if done += p.Len; p.Len > 0 || p.End {
			continue
		}
		if seen == len(text) {
			if err := l.End(text[done:]); err != nil {
				return nil, err
			}
			return found, flush()
		}
		seen = min(len(text), seen+size)
	}
}

// everyCut says that the result does not depend on how the text is cut.
func everyCut(t *testing.T, make func() Layout, text []byte) (map[string][]string, error) {
	t.Helper()
	whole, err := parts(make(), text, max(1, len(text)))
	for size := 1; size <= min(len(text), 40); size++ {
		cut, cutErr := parts(make(), text, size)
		if !errors.Is(cutErr, err) || fmt.Sprint(cut) != fmt.Sprint(whole) {
			t.Fatalf("%.60q in pieces of %d: %q, %v; whole: %q, %v", text, size, cut, cutErr, whole, err)
		}
	}
	return whole, err
}

func one(found map[string][]string) string {
	if len(found["0"]) == 1 {
		return found["0"][0]
	}
	return strings.Join(found["0"], "|")
}

func TestJSONPointersFindTheirStrings(t *testing.T) {
	for _, c := range []struct{ text, pointer, want string }{
		{`{"auth":{"token":"P"}}`, "/auth/token", "P"},
		{` { "auth" : {"x":[1,-2.5e+3,true,null], "token" : "P\"q" } } `, "/auth/token", `P"q`},
		{`{"a":["x",{"b":"P"}]}`, "/a/1/b", "P"},
		{`{"a/b":{"c~d":"P"}}`, "/a~1b/c~0d", "P"},
		{`{"\u0061":"P"}`, "/a", "P"},
		{`"P"`, "", "P"},
		{`{"auth":{"note":"P"}}`, "/auth/token", ""},
		{`{"auth":{"token":1}}`, "/auth/token", ""},
		{`{"x":{"auth":{"token":"P"}}}`, "/auth/token", ""},
		{`{"a":{"k":"1"},"b":{"k":"2"}}`, "/a/k", "1"},
		{`{"auth":{"token":"𝄞\ud834\udd1eü\u00fc\n\\"}}`, "/auth/token", "𝄞𝄞üü\n\\"},
		{`{"auth":{"token":""}}`, "/auth/token", ""},
		{`[[],[[]],{},{"a":{}},-0,0.5,1E5,10e-1,false]`, "/9", ""},
		{``, "/a", ""},
	} {
		found, err := everyCut(t, func() Layout { return NewJSON([]string{c.pointer}) }, []byte(c.text))
		if err != nil || one(found) != c.want {
			t.Errorf("%s at %s: %q, %v; want %q", c.text, c.pointer, found, err, c.want)
		}
	}
}

func TestCaseA21JSONThatParsersReadDifferentlyIsRefused(t *testing.T) {
	for _, text := range []string{
		`{"a":1} x`, `{"a":NaN}`, `{"a":1}//c`, "\ufeff{}", "\xff\xfe{\x00}\x00", `{"a":"\ud800"}`, `{"a":"\udc00\ud800"}`,
		`{'a':1}`, `{"a":01}`, `{"a":1.}`, `{"a":.5}`, `{"a":1,}`, `[1,]`, `{"a"}`, `{"a":"` + "\n" + `"}`, `{"a":"\x"}`, ` `, `{"a":"b`, "{\"a\":\"\xff\"}",
		strings.Repeat("[", 100000), `tru`, `-`, `{"a":+1}`, `{"a":1`, `[}`, `{]`, `"\u00`, `truex`, `1 2`, `{,}`, `[,]`, `{"a":1e}`,
	} {
		if _, err := everyCut(t, func() Layout { return NewJSON([]string{"/a"}) }, []byte(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
	for _, text := range []string{`{"auth":{"token":"a"},"auth":{"token":"b"}}`, `{"auth":{"token":"a","t\u006fken":"b"}}`} {
		if _, err := everyCut(t, func() Layout { return NewJSON([]string{"/auth/token"}) }, []byte(text)); !errors.Is(err, ErrRepeated) {
			t.Errorf("a repeated name on the way, %s: %v", text, err)
		}
	}
}

func TestEscapedTextReadsBackAsItself(t *testing.T) {
	for _, text := range []string{`quote " back \ slash /`, "ü\u2028&<>", "\x01\t\n", "𝄞"} {
		if got := unescapeJSON([]byte(EscapeJSON(text))); got != text {
			t.Errorf("%q became %q", text, got)
		}
		var decoded string
		if err := json.Unmarshal([]byte(`"`+EscapeJSON(text)+`"`), &decoded); err != nil || decoded != text {
			t.Errorf("%q: encoding/json reads %q, %v", text, decoded, err)
		}
	}
	if _, ok := (&JSON{}).Encode("\xff", nil); ok {
		t.Error("what is not UTF-8 was written into JSON")
	}
}

// What this layout accepts, encoding/json accepts; a string that it finds is
// the one that encoding/json decodes; and neither depends on how it is cut.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"auth":{"token":"P","x":[1,2.5e3,null,"\u00fc\ud834\udd1e"]}}`))
	f.Add([]byte(`{"auth":{"token":"\\\""}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		found, err := everyCut(t, func() Layout { return NewJSON([]string{"/auth/token"}) }, text)
		if err != nil {
			if !errors.Is(err, ErrRepeated) && json.Valid(text) && utf8.Valid(text) && !strings.Contains(string(text), `\u`) && len(text) < maxDepth {
				t.Fatalf("refused valid %q: %v", text, err)
			}
			return
		}
		if len(text) > 0 && !json.Valid(text) {
			t.Fatalf("accepted invalid %q", text)
		}
		var all map[string]any
		if json.Unmarshal(text, &all) == nil && len(found["0"]) == 1 {
			if auth, ok := all["auth"].(map[string]any); ok && auth["token"] != one(found) {
				t.Fatalf("found %q, encoding/json %q", found, auth["token"])
			}
		}
	})
}

func TestFormFieldsAreFoundDecoded(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"token=P", "P"}, {"a=1&token=P&b=2", "P"}, {"a&token=P%20q+r", "P q r"}, {"t%6fken=%50", "P"},
		{"x=token=Q", ""}, {"", ""}, {"&&token=&", ""}, {"token", ""}, {"a=%&token=P", "P"},
	} {
		found, err := everyCut(t, func() Layout { return NewForm([]string{"token"}) }, []byte(c.text))
		if err != nil || one(found) != c.want {
			t.Errorf("%q: %q, %v", c.text, found, err)
		}
	}
	for text, want := range map[string]error{"token=1&token=2": ErrRepeated, "token=1&t%6Fken": ErrRepeated, "token=%4": ErrMalformed, "token=%zz": ErrMalformed, "%=1&token=P": ErrMalformed} {
		if _, err := everyCut(t, func() Layout { return NewForm([]string{"token"}) }, []byte(text)); !errors.Is(err, want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A field that this layout finds is the one that net/url finds.
func FuzzForm(f *testing.F) {
	f.Add([]byte("a=1&token=P%20q&b"))
	f.Fuzz(func(t *testing.T, text []byte) {
		found, err := everyCut(t, func() Layout { return NewForm([]string{"token"}) }, text)
		values, parseErr := url.ParseQuery(string(text))
		// A value without an escape is looked at as it is, and hides nothing in its spaces.
		spaced := func(v string) string { return strings.ReplaceAll(v, "+", " ") }
		if err == nil && parseErr == nil && len(found["0"]) == 1 && spaced(values.Get("token")) != spaced(found["0"][0]) {
			t.Fatalf("found %q, net/url %q", found, values)
		}
	})
}

// formData is a multipart form with CRLF for each newline.
func formData(text string) []byte { return []byte(strings.ReplaceAll(text, "\n", "\r\n")) }

const field = "--b0\nContent-Disposition: form-data; name=\"token\"\n\nP\n--b0--\n"

func newMultipart(t testing.TB) func() Layout {
	return func() Layout {
		m, err := NewMultipart("b0", []string{"token"})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
}

func TestCaseA25MultipartFieldsAreFound(t *testing.T) {
	for text, want := range map[string]string{
		field: "P",
		"--b0\nContent-Disposition: form-data; name=\"token\"\n\n\n--b0--": "",
		"--b0\nContent-Disposition: form-data; name=\"a\"; filename=\"token\"\nContent-Type: text/plain\n\ntoken\n--b0\ncontent-disposition: FORM-data;name=token\n\nP\n\n--b0--\n": "P\r\n",
		"--b0\nContent-Disposition: form-data; name=\"other\"\n\n--b1 -b0 --b\n--b0--\n":                                                                                            "",
		"--b0\nContent-Disposition: form-data; name=\"token\"\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\nP\n--x--\n--b0--\n":                                              "",
		"--b0\nContent-Disposition: form-data; name=\"token\"\n\na--b0 -- \r\r\n-\n--b0--\n":                                                                                        "a--b0 -- \r\r\r\n-",
	} {
		found, err := everyCut(t, newMultipart(t), formData(text))
		if err != nil || one(found) != want {
			t.Errorf("%q: %q, %v; want %q", text, found, err, want)
		}
	}
}

func TestCaseA25MultipartThatParsersReadDifferentlyIsRefused(t *testing.T) {
	part := func(header string) string { return "--b0\n" + header + "\n\nP\n--b0--\n" }
	for _, text := range []string{
		"preamble\n" + field, field + "epilogue", strings.TrimSuffix(field, "--b0--\n"), strings.TrimSuffix(field, "--\n"),
		strings.Replace(field, "P\n--b0--", "P\n--b0x\nP\n--b0--", 1), strings.Replace(field, "\n--b0--", " --b0\nx\n--b0 --", 1), "--b0\n\nP\n--b0--\n",
		part("Content-Disposition: form-data"), part("Content-Disposition: attachment; name=\"token\""),
		part("Content-Disposition: form-data; name=\"token\"; name=\"x\""), part("Content-Disposition: form-data; name=\"token\"\nContent-Disposition: form-data; name=\"x\""),
		part("Content-Disposition: form-data;\n name=\"token\""), part("Content-Disposition: form-data; name=\"token\"; name*=utf-8''x"),
		part("Content-Disposition: form-data; name=\"token\"; filename=\"a\\\"; name=\"x\""), part("Content-Disposition: form-data; name=\"token"),
		part("Content-Disposition: form-data; name=\"token\"\nContent-Transfer-Encoding: base64"), part("Content-Disposition : form-data; name=\"token\""),
		"--b0\nContent-Disposition: form-data; name=\"token\"\n\n--b0--\n", "--b0\nX: " + strings.Repeat("x", 20000) + "\n\nP\n--b0--",
	} {
		if _, err := everyCut(t, newMultipart(t), formData(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%.120q: %v", text, err)
		}
	}
	bare := strings.Replace(string(formData(field)), "P\r\n--b0--", "P\n--b0\r\nX: y\r\n--b0--", 1)
	if _, err := everyCut(t, newMultipart(t), []byte(bare)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a delimiter behind a bare LF: %v", err)
	}
	twice := strings.Replace(field, "--b0--", strings.TrimSuffix(field, "--b0--\n")+"--b0--", 1)
	if _, err := everyCut(t, newMultipart(t), formData(twice)); !errors.Is(err, ErrRepeated) {
		t.Errorf("a field twice: %v", err)
	}
}

func TestAValueCannotEndItsMultipartField(t *testing.T) {
	m, _ := NewMultipart("b0", []string{"token"})
	for _, c := range []struct {
		value, before string
		ok            bool
	}{
		{"plain value", "text", true}, {"a\r\n--b0\r\n", "", false}, {"0 and more", "\r\n--b", false}, {"0", "x\r\n--b", false}, {"ends\r\n", "", false}, {"ends-", "", true},
		{"0 and more", "--x", true},
	} {
		if _, ok := m.Encode(c.value, []byte(c.before)); ok != c.ok {
			t.Errorf("%q behind %q: %t", c.value, c.before, ok)
		}
	}
}

// What this layout accepts, mime/multipart reads, with the same content.
func FuzzMultipart(f *testing.F) {
	f.Add(formData(field))
	f.Add(formData("--b0\nContent-Disposition: form-data; name=\"a\"; filename=\"x\"\n\n\n--b0\nContent-Disposition: form-data; name=token\n\nP\n--b0--"))
	f.Fuzz(func(t *testing.T, text []byte) {
		found, err := everyCut(t, newMultipart(t), text)
		if err != nil || len(found["0"]) != 1 {
			return
		}
		r := multipart.NewReader(bytes.NewReader(text), "b0")
		for {
			p, err := r.NextRawPart()
			if err != nil {
				t.Fatalf("found %q, mime/multipart %v", found, err)
			}
			kind, params, _ := mime.ParseMediaType(p.Header.Get("Content-Disposition"))
			if kind != "form-data" || params["name"] != "token" {
				continue
			}
			content, err := io.ReadAll(p)
			if err != nil || string(content) != found["0"][0] {
				t.Fatalf("found %q, mime/multipart %q, %v", found, content, err)
			}
			return
		}
	})
}

func BenchmarkJSON(b *testing.B) {
	words := strings.Repeat("words and words ", 30)
	for _, c := range []struct{ name, text string }{
		{"messages", `{"items":[` + strings.Repeat(`{"name":"`+words+`","n":12.5,"ok":true},`, 2000) + `null],"auth":{"token":"P"}}`},
		{"one text", `{"text":"` + strings.Repeat(words, 2000) + `","auth":{"token":"P"}}`},
		{"code", `{"text":"` + strings.Repeat(`if x == \"y\" {\n\treturn z\n}\n`, 30000) + `","auth":{"token":"P"}}`},
		{"lines", `{"text":"` + strings.Repeat(strings.Repeat("a line of text ", 4)+`\n`, 16000) + `","auth":{"token":"P"}}`},
		{"numbers", `{"n":[` + strings.Repeat("0.0123,", 150000) + `0],"auth":{"token":"P"}}`},
	} {
		b.Run(c.name, func(b *testing.B) {
			text := []byte(c.text)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if found, err := parts(NewJSON([]string{"/auth/token"}), text, 64<<10); err != nil || one(found) != "P" {
					b.Fatal(found, err)
				}
			}
		})
	}
}
