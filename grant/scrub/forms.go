package scrub

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"standin/grant/body"
)

// form is one way in which a value may be written, and what takes its place.
type form struct {
	text string
	with string
}

// formsOf lists the forms of a value that scrubbing finds: raw, percent-encoded
// and JSON-escaped, which become the placeholder; base64 in its three
// alignments and both alphabets, and hexadecimal, which are overwritten at
// equal length. Out of reach are, among others, forms that escape what need
// not be escaped, UTF-16, reversed text and compression inside the body.
func formsOf(v Value) []form {
	raw := v.Text
	spaced := strings.ReplaceAll(url.QueryEscape(raw), "+", "%20")
	var forms []form
	add := func(text, with string) {
		for _, f := range forms {
			if f.text == text {
				return
			}
		}
		forms = append(forms, form{text, with})
	}
	add(raw, v.Placeholder)
	for _, escaped := range []string{url.QueryEscape(raw), url.PathEscape(raw), spaced, escapeAll(raw, true), escapeAll(raw, false)} {
		add(escaped, v.Placeholder)
		add(lowerEscapes(escaped), v.Placeholder)
	}
	for _, escaped := range jsonForms(raw) {
		add(escaped, v.Placeholder)
	}
	for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			inner := base64Inner(alphabet, raw, shift)
			add(inner, inert(len(inner)))
		}
	}
	digits := hex.EncodeToString([]byte(raw))
	add(digits, inert(len(digits)))
	add(strings.ToUpper(digits), inert(len(digits)))
	return forms
}

const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"

// escapeAll percent-encodes every byte, but where plain the unreserved characters
// of RFC 3986.
func escapeAll(text string, plain bool) string {
	var out strings.Builder
	for _, c := range []byte(text) {
		if plain && (c < utf8.RuneSelf && strings.IndexByte(unreserved, c) >= 0) {
			out.WriteByte(c)
		} else {
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

// jsonForms are the ways in which common encoders write text in a JSON string.
func jsonForms(text string) []string {
	forms := []string{body.EscapeJSON(text)}
	if html, err := json.Marshal(text); err == nil {
		forms = append(forms, strings.Trim(string(html), `"`))
		if strings.HasSuffix(text, `"`) || strings.HasPrefix(text, `"`) {
			forms[1] = string(html[1 : len(html)-1])
		}
	}
	forms = append(forms, strings.ReplaceAll(forms[0], "/", `\/`))
	if utf8.ValidString(text) {
		forms = append(forms, asciiJSON(forms[0], "%04x", 0x80), asciiJSON(forms[0], "%04X", 0x80))
		forms = append(forms, asciiJSON(text, "%04x", 0), asciiJSON(text, "%04X", 0))
	}
	return forms
}

// asciiJSON writes what is not below plain as \u escapes.
func asciiJSON(text, digits string, plain rune) string {
	var out strings.Builder
	for _, r := range text {
		switch {
		case r < plain:
			out.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&out, `\u`+digits, r)
		default:
			r -= 0x10000
			fmt.Fprintf(&out, `\u`+digits+`\u`+digits, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	return out.String()
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
