package body

import (
	"bytes"
	"net/url"
	"slices"
	"strings"
)

// Form is the layout of application/x-www-form-urlencoded. Its parts are the
// values of fields; a field that was asked for and comes twice is ErrRepeated.
type Form struct {
	names   []string
	longest int
	name    []byte // the raw name at hand
	seen    []bool
	part    int
	state   formState
}

type formState uint8

const (
	formName formState = iota
	formValue
	formPart
)

// NewForm asks for the values of the fields names.
func NewForm(names []string) *Form {
	f := &Form{names: names, seen: make([]bool, len(names))}
	for _, n := range names {
		f.longest = max(f.longest, 3*len(n))
	}
	return f
}

// Next gives all up to the next part, or what has come of one.
func (f *Form) Next(b []byte) (Piece, error) {
	if f.state == formPart {
		return f.inPart(b), nil
	}
	i := 0
	for i < len(b) {
		if f.state == formValue {
			end := bytes.IndexByte(b[i:], '&')
			if end < 0 {
				break
			}
			i += end + 1
			f.state, f.name = formName, f.name[:0]
			continue
		}
		c := b[i]
		i++
		if c != '=' && c != '&' {
			if len(f.name) <= f.longest {
				f.name = append(f.name, c)
			}
			continue
		}
		part, err := f.named()
		if err != nil {
			return Piece{}, err
		}
		switch {
		case c == '&':
			f.name = f.name[:0]
		case part == Outside:
			f.state = formValue
		default:
			f.state, f.part = formPart, part
			return Piece{Len: i, Part: Outside}, nil
		}
	}
	return Piece{Len: len(b), Part: Outside}, nil
}

// inPart gives what has come of a value, but no escape that is cut.
func (f *Form) inPart(b []byte) Piece {
	end := bytes.IndexByte(b, '&')
	if end >= 0 {
		f.state = formValue // which ends at once
		return Piece{end, f.part, true}
	}
	n := len(b)
	for back := 1; back <= min(2, n); back++ {
		if b[n-back] == '%' {
			return Piece{Len: n - back, Part: f.part}
		}
	}
	return Piece{Len: n, Part: f.part}
}

// named says which of the names the raw name is.
func (f *Form) named() (int, error) {
	if len(f.names) == 0 || len(f.name) > f.longest {
		return Outside, nil
	}
	name, err := url.QueryUnescape(string(f.name))
	if err != nil {
		return Outside, ErrMalformed
	}
	i := slices.Index(f.names, name)
	if i < 0 {
		return Outside, nil
	}
	if f.seen[i] {
		return Outside, ErrRepeated
	}
	f.seen[i] = true
	return i, nil
}

// End checks the name with which the form may end, and that no escape is cut.
func (f *Form) End(rest []byte) error {
	if len(rest) > 0 {
		return ErrMalformed
	}
	if f.state == formName {
		_, err := f.named()
		return err
	}
	return nil
}

// Plain says that raw holds no escape that could hide a letter, and no ";".
func (f *Form) Plain(raw []byte) bool {
	return bytes.IndexByte(raw, '%') < 0 && bytes.IndexByte(raw, ';') < 0
}

// Decode undoes the escapes of raw. A raw ";" separates fields for some readers:
// what stands behind it would be in a field that nobody asked for.
func (f *Form) Decode(t *Text, raw []byte) error {
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; c {
		case ';':
			return ErrMalformed
		case '%':
			if i+2 >= len(raw) {
				return ErrMalformed
			}
			high, low := unhex(raw[i+1]), unhex(raw[i+2])
			if high > 15 || low > 15 {
				return ErrMalformed
			}
			t.add(i, high<<4|low)
			i += 2
		case '+':
			t.add(i, ' ')
		default:
			t.add(i, c)
		}
	}
	t.At = append(t.At, len(raw))
	return nil
}

// Unescape undoes the escapes of text, with "+" for a space in queries and forms.
// What only looks like an escape stays as it is, as with the most patient of
// readers, and ok is false.
func Unescape(text string, plus bool) (decoded string, ok bool) {
	if strings.IndexByte(text, '%') < 0 && !plus {
		return text, true
	}
	var out strings.Builder
	ok = true
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '+' && plus:
			c = ' '
		case c == '%' && i+2 < len(text) && unhex(text[i+1]) < 16 && unhex(text[i+2]) < 16:
			c = unhex(text[i+1])<<4 | unhex(text[i+2])
			i += 2
		case c == '%':
			ok = false
		}
		out.WriteByte(c)
	}
	return out.String(), ok
}

// unhex is the value of a hexadecimal digit, or more than 15.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return (c | 0x20) - 'a' + 10
	}
	return 16
}

// Encode writes a space as %20, which every parser reads.
func (f *Form) Encode(value string, _ []byte) (string, bool) {
	return strings.ReplaceAll(url.QueryEscape(value), "+", "%20"), true
}
