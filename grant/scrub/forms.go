package scrub

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"standin/grant/body"
)

// Form is a way in which a server may write a value, of those that scrubbing
// turns into the placeholder. The zero Form is the value itself.
type Form uint8

// Write is value in this form.
func (f Form) Write(value string) string {
	switch n := int(f) - 1; {
	case n < 0:
		return value
	case n < len(percents):
		return percents[n].write(value)
	case n < 2*len(percents):
		return lowerEscapes(percents[n-len(percents)].write(value))
	default:
		return jsons[n-2*len(percents)](value)
	}
}

// form is a value as it may be written, and what takes its place.
type form struct {
	text string
	with string
	how  Form
	mark bool // with is no placeholder, but an inert mark of equal length
}

// formsOf lists the forms of a value that scrubbing finds: raw, percent-encoded
// and JSON-escaped as well-known encoders write them, which become the
// placeholder; base64 in its three alignments and both alphabets, and
// hexadecimal, which are overwritten at equal length. Out of reach are, among
// others, forms that escape what none of these encoders does, UTF-16, reversed
// text and compression inside the body.
//
// Most forms of most values are alike. There are fewer than 50.
func formsOf(v Value) []form {
	raw := v.Text
	var forms []form
	add := func(f form) {
		for _, have := range forms {
			if have.text == f.text {
				return
			}
		}
		forms = append(forms, f)
	}
	overwrite := func(text string) { add(form{text: text, with: inert(len(text)), mark: true}) }
	for how := range Form(1 + 2*len(percents) + len(jsons)) {
		add(form{text: how.Write(raw), with: v.Placeholder, how: how})
	}
	for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			overwrite(base64Inner(alphabet, raw, shift))
		}
	}
	digits := hex.EncodeToString([]byte(raw))
	overwrite(digits)
	overwrite(strings.ToUpper(digits))
	return forms
}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// percent is how an encoder of percent escapes writes text: what it leaves as it
// is besides letters and digits, and whether a space becomes "+".
type percent struct {
	plain string
	plus  bool
	every bool // also letters and digits
}

// percents are those of well-known encoders. Each is looked for with digits in
// upper and in lower case.
var percents = [...]percent{
	{plain: "-_.~"},                         // RFC 3986: Python's quote with safe="", PHP's rawurlencode, curl, .NET's EscapeDataString
	{plain: "-_.~", plus: true},             // Go's QueryEscape, Python's quote_plus, Ruby's CGI.escape
	{plain: "-_.", plus: true},              // PHP's urlencode
	{plain: "-_.*", plus: true},             // forms of browsers, URLSearchParams, Java's URLEncoder
	{plain: "-_.!*()", plus: true},          // .NET's UrlEncode
	{plain: "-_.~!'()*"},                    // JavaScript's encodeURIComponent
	{plain: "-_.~!'()*", plus: true},        // jQuery's param
	{plain: "-_.~!'()*;,/?:@&=+$#"},         // JavaScript's encodeURI
	{plain: "-_.~/"},                        // Python's quote
	{plain: "-_.~$&+=:@"},                   // Go's PathEscape
	{plain: "-_.~$&+,/:;=@"},                // paths of Go's URL
	{plain: "-_.~!'()*:$,", plus: true},     // axios
	{plain: "-_.~!$%&()*+,/:;=?@[\\]^`{|}"}, // queries of URLs in browsers and Node
	{every: true},
}

func (p *percent) write(text string) string {
	var out strings.Builder
	for _, c := range []byte(text) {
		switch {
		case !p.every && (strings.IndexByte(alphanumeric, c) >= 0 || strings.IndexByte(p.plain, c) >= 0):
			out.WriteByte(c)
		case p.plus && c == ' ':
			out.WriteByte('+')
		default:
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

// lowerEscapes writes the digits of percent-encodings in lower case.
func lowerEscapes(text string) string {
	out := []byte(text)
	for i := 0; i+2 < len(out); i++ {
		if out[i] == '%' {
			copy(out[i+1:], strings.ToLower(string(out[i+1:i+3])))
			i += 2
		}
	}
	return string(out)
}

// jsons are the ways in which well-known encoders write text in a JSON string.
var jsons = [...]func(string) string{
	jsonStyle{}.write, // JavaScript, Jackson, Newtonsoft
	body.EscapeJSON,   // Go without HTML escapes
	goJSON,
	jsonStyle{slash: true}.write,
	jsonStyle{ascii: true, digits: "%04x"}.write,                                               // Python
	jsonStyle{ascii: true, digits: "%04X"}.write,                                               // Jackson, told so
	jsonStyle{ascii: true, digits: "%04x", slash: true}.write,                                  // PHP
	jsonStyle{ascii: true, digits: "%04x", slash: true, escapes: "<>&'\"", mark: "%04X"}.write, // PHP, as Symfony tells it
	jsonStyle{escapes: "<>&='\u2028\u2029", mark: "%04x"}.write,                                // Gson
	jsonStyle{ascii: true, digits: "%04X", escapes: "<>&'\"+`\x7f", mark: "%04X"}.write,        // System.Text.Json
	jsonStyle{ascii: true, digits: "%04x", escapes: all, mark: "%04x"}.write,
	jsonStyle{ascii: true, digits: "%04X", escapes: all, mark: "%04X"}.write,
}

func goJSON(text string) string {
	out, err := json.Marshal(text)
	if err != nil {
		return text
	}
	return string(out[1 : len(out)-1])
}

// jsonStyle is how an encoder writes text between the quotes of JSON.
type jsonStyle struct {
	escapes string // what becomes a \u escape though it need not; all: everything
	mark    string // how the digits of these are written
	ascii   bool   // so does what is not ASCII
	digits  string // with these digits
	slash   bool   // "/" becomes "\/"
}

const all = "all"

func (q jsonStyle) write(text string) string {
	var out strings.Builder
	for i, r := range text {
		short := strings.IndexRune("\"\\\b\f\n\r\t/", r)
		switch {
		case r == utf8.RuneError && text[i] != "\uFFFD"[0]:
			out.WriteByte(text[i]) // no UTF-8
		case q.escapes == all || strings.ContainsRune(q.escapes, r):
			escapeUnicode(&out, r, q.mark)
		case short >= 0 && (r != '/' || q.slash):
			out.WriteByte('\\')
			out.WriteByte("\"\\bfnrt/"[short])
		case r < ' ':
			escapeUnicode(&out, r, "%04x")
		case r >= utf8.RuneSelf && q.ascii:
			escapeUnicode(&out, r, q.digits)
		default:
			out.WriteRune(r)
		}
	}
	return out.String()
}

// escapeUnicode writes r as one \u escape, or as two.
func escapeUnicode(out *strings.Builder, r rune, digits string) {
	for _, unit := range utf16.AppendRune(nil, r) {
		fmt.Fprintf(out, `\u`+digits, unit)
	}
}

// base64Inner is the part of the base64 of (shift bytes + text + anything) that
// text alone decides. Up to two characters at each edge also depend on the
// neighbours, and remain.
func base64Inner(alphabet *base64.Encoding, text string, shift int) string {
	coded := alphabet.EncodeToString([]byte("\x00\x00"[:shift] + text))
	first := (shift*8 + 5) / 6
	last := (shift + len(text)) * 8 / 6
	return coded[first:last]
}
