package body

import (
	"bytes"
	"mime"
	"slices"
	"strings"
)

// Media is the type of a Content-Type field, in lower case, without parameters.
func Media(field string) string {
	media, _, _ := strings.Cut(field, ";")
	return strings.ToLower(strings.Trim(media, " \t"))
}

// Boundary is the boundary of a multipart Content-Type field. It is ErrMalformed
// where readers could take different ones: the extended forms of RFC 2231
// (boundary*=, boundary*0=), which some read first and others not at all, a
// boundary that is given twice, also within another parameter, since some search
// for the word, and quoted backslashes.
func Boundary(field string) (string, error) {
	_, parameters, err := mime.ParseMediaType(field)
	if err != nil || !once(strings.ToLower(field), "boundary") || strings.Contains(field, `\`) {
		return "", ErrMalformed
	}
	return parameters["boundary"], nil
}

// Charset refuses a Content-Type field with a charset in which the delimiters of
// a body could be other bytes than those of ASCII, or in which bytes above ASCII
// could take a delimiter with them (UTF-7, UTF-16, Shift_JIS), or of which readers
// could take different ones.
func Charset(field string) error {
	lower := strings.ToLower(field)
	if !strings.Contains(lower, "charset") {
		return nil
	}
	_, value, _ := strings.Cut(lower, "charset=")
	value, _, _ = strings.Cut(value, ";")
	value = strings.Trim(value, " \t")
	if n := len(value); n > 1 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	if !once(lower, "charset") || !slices.Contains(plainCharsets, value) {
		return ErrMalformed
	}
	return nil
}

// plainCharsets are ASCII below 0x80 and have characters of one byte, or are UTF-8.
var plainCharsets = []string{"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1", "iso-8859-15", "windows-1252"}

// once says that a parameter stands once in a field in lower case, whoever reads
// it. Its value may hold the name, as boundaries of browsers do.
func once(lower, name string) bool {
	before, value, found := strings.Cut(lower, name+"=")
	return found && strings.HasSuffix(strings.TrimRight(before, " \t"), ";") && !strings.Contains(before, name) &&
		!strings.Contains(value, name+"=") && !strings.Contains(value, name+"*")
}

// IsJSON says whether a media type promises JSON (RFC 6839, 3.1).
func IsJSON(media string) bool {
	return media == "application/json" || media == "text/json" || strings.HasSuffix(media, "+json")
}

// Unlabelled says whether a media type is one under which clients send anything,
// JSON too: none, or what curl takes without being told.
func Unlabelled(media string) bool {
	return slices.Contains([]string{"", "text/plain", "application/octet-stream", "application/x-www-form-urlencoded"}, media)
}

// unlabelled is JSON if it begins like an object or an array, and Raw otherwise.
type unlabelled struct {
	Layout  // nil until the first byte that is no white space
	json    Layout
	charset error
}

// NewUnlabelled is the layout of a body whose type does not say what it is: JSON
// in which pointers are asked for if its first byte that is no white space is "{"
// or "[", and then refused with charset, unless that is nil; else Raw.
func NewUnlabelled(pointers []string, charset error) Layout {
	return &unlabelled{json: NewJSON(pointers), charset: charset}
}

// Next decides what the body is, once that can be said.
func (u *unlabelled) Next(b []byte) (Piece, error) {
	if u.Layout == nil {
		switch begun := bytes.TrimLeft(b, " \t\r\n"); {
		case len(begun) == 0:
			return Piece{Len: len(b), Part: Outside}, nil
		case begun[0] != '{' && begun[0] != '[':
			u.Layout = Raw{}
		case u.charset != nil:
			return Piece{}, u.charset
		default:
			u.Layout = u.json
		}
	}
	return u.Layout.Next(b)
}

// End is that of what the body is. White space alone is nothing.
func (u *unlabelled) End(rest []byte) error {
	if u.Layout == nil {
		return nil
	}
	return u.Layout.End(rest)
}
