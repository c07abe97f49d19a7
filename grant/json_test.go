package grant

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestJSONPointersFindTheirStrings(t *testing.T) {
	for _, c := range []struct{ text, pointer, want string }{
		{`{"auth":{"token":"P"}}`, "/auth/token", "P"},
		{` { "auth" : {"x":[1,-2.5e+3,true,null], "token" : "P\"q" } } `, "/auth/token", `P\"q`},
		{`{"a":["x",{"b":"P"}]}`, "/a/1/b", "P"},
		{`{"a/b":{"c~d":"P"}}`, "/a~1b/c~0d", "P"},
		{`{"\u0061":"P"}`, "/a", "P"},
		{`"P"`, "", "P"},
		{`{"auth":{"note":"P"}}`, "/auth/token", ""},
		{`{"auth":{"token":1}}`, "/auth/token", ""},
		{`{"x":{"auth":{"token":"P"}}}`, "/auth/token", ""},
		{`{"a":{"k":"1"},"b":{"k":"2"}}`, "/a/k", "1"},
	} {
		spans, err := findJSON([]byte(c.text), []string{c.pointer})
		got := ""
		if len(spans) == 1 {
			got = c.text[spans[0].start:spans[0].end]
		}
		if err != nil || got != c.want {
			t.Errorf("%s at %s: %q, %v; want %q", c.text, c.pointer, got, err, c.want)
		}
	}
}

func TestCaseA21JSONThatParsersReadDifferentlyIsRefused(t *testing.T) {
	for _, text := range []string{
		`{"a":1} x`, `{"a":NaN}`, `{"a":1}//c`, "\ufeff{}", "\xff\xfe{\x00}\x00", `{"a":"\ud800"}`, `{"a":"\udc00\ud800"}`,
		`{'a':1}`, `{"a":01}`, `{"a":1.}`, `{"a":.5}`, `{"a":1,}`, `[1,]`, `{"a"}`, `{"a":"` + "\n" + `"}`, `{"a":"\x"}`, ``, ` `, `{"a":"b`, "{\"a\":\"\xff\"}",
		strings.Repeat("[", 100000), `tru`, `-`, `{"a":+1}`,
	} {
		if _, err := findJSON([]byte(text), []string{"/a"}); !errors.Is(err, errMalformed) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
	if _, err := findJSON([]byte(`{"auth":{"token":"a"},"auth":{"token":"b"}}`), []string{"/auth/token"}); !errors.Is(err, errRepeated) {
		t.Errorf("a repeated name on the way: %v", err)
	}
	if _, err := findJSON([]byte(`{"auth":{"token":"a","t\u006fken":"b"}}`), []string{"/auth/token"}); !errors.Is(err, errRepeated) {
		t.Errorf("a repeated name, escaped: %v", err)
	}
}

func TestEscapedTextReadsBackAsItself(t *testing.T) {
	for _, text := range []string{`quote " back \ slash /`, "ü\u2028&<>", "\x01\t\n", "𝄞"} {
		if got := unescapeJSON([]byte(escapeJSON(text))); got != text {
			t.Errorf("%q became %q", text, got)
		}
		var decoded string
		if err := json.Unmarshal([]byte(`"`+escapeJSON(text)+`"`), &decoded); err != nil || decoded != text {
			t.Errorf("%q: encoding/json reads %q, %v", text, decoded, err)
		}
	}
}

// What this scanner accepts, encoding/json accepts, and a string that it finds
// is the one that encoding/json decodes.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"auth":{"token":"P","x":[1,2.5e3,null,"\u00fc\ud834\udd1e"]}}`))
	f.Add([]byte(`{"auth":{"token":"\\\""}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		spans, err := findJSON(text, []string{"/auth/token"})
		var strict struct{ Auth json.RawMessage }
		if err != nil {
			if !errors.Is(err, errRepeated) && json.Valid(text) && utf8.Valid(text) && !strings.Contains(string(text), `\u`) && len(text) < maxDepth {
				t.Fatalf("refused valid %q: %v", text, err)
			}
			return
		}
		if !json.Valid(text) {
			t.Fatalf("accepted invalid %q", text)
		}
		if len(spans) == 0 || json.Unmarshal(text, &strict) != nil {
			return
		}
		got := unescapeJSON(text[spans[0].start:spans[0].end])
		var all map[string]any
		if json.Unmarshal(text, &all) == nil {
			if auth, ok := all["auth"].(map[string]any); ok && auth["token"] != got {
				t.Fatalf("found %q, encoding/json %q", got, auth["token"])
			}
		}
	})
}
