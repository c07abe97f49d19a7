package body

import (
	"bytes"
	"slices"
	"strings"
)

// maxPartHeader bounds the header of one part.
const maxPartHeader = 16 << 10

// Multipart is the layout of multipart/form-data (RFC 7578). Its parts are the
// contents of fields; a field that was asked for and comes twice is ErrRepeated.
// Lines end with CRLF, nothing stands before the first delimiter or behind the
// last, and whatever looks like a delimiter to some reader is one or is refused.
type Multipart struct {
	names []string
	seen  []bool
	dash  []byte // "--boundary"
	delim []byte // CRLF "--boundary"
	state multipartState
	part  int
	prev  [2]byte // the last bytes of the content so far
}

type multipartState uint8

const (
	atStart multipartState = iota
	atDelimiter
	inHeader
	inContent
	behind
)

// NewMultipart asks for the contents of the fields names in a body with that
// boundary, which may be any that RFC 2046 allows.
func NewMultipart(boundary string, names []string) (*Multipart, error) {
	if boundary == "" || len(boundary) > 70 || strings.HasSuffix(boundary, " ") || strings.ContainsFunc(boundary, notBoundary) {
		return nil, ErrMalformed
	}
	return &Multipart{names: names, seen: make([]bool, len(names)), dash: []byte("--" + boundary), delim: []byte("\r\n--" + boundary)}, nil
}

func notBoundary(r rune) bool {
	return !('0' <= r && r <= '9' || 'a' <= r|0x20 && r|0x20 <= 'z' || strings.ContainsRune("'()+_,-./:=? ", r))
}

// End says whether the last delimiter has come. A body of no bytes is none.
func (m *Multipart) End(rest []byte) error {
	if m.state == behind && len(rest) == 0 || m.state == atStart && len(rest) == 0 {
		return nil
	}
	return ErrMalformed
}

// Next gives a delimiter, a header, or what has come of a content.
func (m *Multipart) Next(b []byte) (Piece, error) {
	switch m.state {
	case atStart:
		return m.delimiter(b, m.dash)
	case atDelimiter:
		return m.delimiter(b, m.delim)
	case inHeader:
		return m.header(b)
	case inContent:
		return m.content(b)
	}
	// CRLF may follow the last delimiter, and nothing else.
	if n := min(len(b), 2); !bytes.HasPrefix([]byte("\r\n"), b[:n]) || len(b) > 2 {
		return Piece{}, ErrMalformed
	} else if n == 2 {
		return Piece{2, Outside, false}, nil
	}
	return Piece{}, nil
}

// delimiter takes what b must begin with: d, and CRLF or "--".
func (m *Multipart) delimiter(b, d []byte) (Piece, error) {
	n := min(len(b), len(d))
	if !bytes.Equal(b[:n], d[:n]) {
		return Piece{}, ErrMalformed
	}
	if len(b) < len(d)+2 {
		return Piece{}, nil
	}
	switch string(b[len(d) : len(d)+2]) {
	case "\r\n":
		m.state = inHeader
	case "--":
		m.state = behind
	default:
		return Piece{}, ErrMalformed
	}
	return Piece{len(d) + 2, Outside, false}, nil
}

// header takes the header of a part.
func (m *Multipart) header(b []byte) (Piece, error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) > maxPartHeader {
			return Piece{}, ErrMalformed
		}
		return Piece{}, nil
	}
	if end > maxPartHeader {
		return Piece{}, ErrMalformed
	}
	p, err := parsePart(string(b[:end]))
	if err != nil {
		return Piece{}, err
	}
	m.state, m.part, m.prev = inContent, Outside, [2]byte{}
	if i := slices.Index(m.names, p.name); i >= 0 {
		if m.seen[i] {
			return Piece{}, ErrRepeated
		}
		if p.doubtful {
			return Piece{}, ErrMalformed
		}
		m.seen[i] = true
		if !p.nested {
			m.part = i
		}
	}
	return Piece{end + 4, Outside, false}, nil
}

// content takes content up to its delimiter, or up to what could begin one.
func (m *Multipart) content(b []byte) (Piece, error) {
	for from := 0; ; {
		i := bytes.Index(b[from:], m.dash)
		if i < 0 {
			break
		}
		i += from
		switch m.before(b, i) {
		case "\r\n":
			m.state = atDelimiter
			if i < 2 {
				return Piece{}, ErrMalformed
			}
			return Piece{i - 2, m.part, true}, nil
		case "\x00\x00": // the content begins with it
			return Piece{}, ErrMalformed
		}
		if m.before(b, i)[1] == '\n' {
			return Piece{}, ErrMalformed
		}
		from = i + 1
	}
	n := len(b)
	for at := max(0, len(b)-len(m.delim)); at < len(b); at++ {
		if bytes.HasPrefix(m.delim, b[at:]) || bytes.HasPrefix(m.dash, b[at:]) {
			n = at
			break
		}
	}
	if n > 0 {
		last := m.before(b, n)
		m.prev = [2]byte{last[0], last[1]}
	}
	return Piece{Len: n, Part: m.part}, nil
}

// before is the two bytes of the content before b[i].
func (m *Multipart) before(b []byte, i int) string {
	both := append(m.prev[:2:2], b[max(0, i-2):i]...)
	return string(both[len(both)-2:])
}

// Plain is true: a content stands for itself.
func (m *Multipart) Plain([]byte) bool { return true }

// Decode is not asked of what is plain.
func (m *Multipart) Decode(*Text, []byte) error { return nil }

// Encode writes value as it is, unless a delimiter could begin in it.
func (m *Multipart) Encode(value string, before []byte) (string, bool) {
	joined := append(bytes.Clone(before[max(0, len(before)-len(m.delim)):]), value...)
	if bytes.Contains(joined, m.dash) {
		return "", false
	}
	for at := max(0, len(joined)-len(m.delim)); at < len(joined); at++ {
		if bytes.HasPrefix(m.delim, joined[at:]) {
			return "", false
		}
	}
	return value, true
}

// partHeader is what matters of the header of a part.
type partHeader struct {
	name     string
	doubtful bool // readers differ about the name or the content
	nested   bool // the content has parts of its own
}

// parsePart reads the lines of a part's header.
func parsePart(text string) (partHeader, error) {
	var p partHeader
	found := false
	for line := range strings.SplitSeq(text, "\r\n") {
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsFunc(name, notToken) || strings.ContainsAny(value, "\r\n\x00") {
			return p, ErrMalformed
		}
		switch strings.ToLower(name) {
		case "content-disposition":
			if found {
				return p, ErrMalformed
			}
			found = true
			if err := p.disposition(strings.Trim(value, " \t")); err != nil {
				return p, err
			}
		case "content-transfer-encoding":
			switch strings.ToLower(strings.Trim(value, " \t")) {
			case "7bit", "8bit", "binary":
			default:
				p.doubtful = true
			}
		case "content-type":
			p.nested = p.nested || strings.HasPrefix(strings.ToLower(strings.Trim(value, " \t")), "multipart/")
		}
	}
	if !found {
		return p, ErrMalformed
	}
	return p, nil
}

// disposition reads form-data; name="..."; and other parameters.
func (p *partHeader) disposition(value string) error {
	kind, rest, _ := strings.Cut(value, ";")
	if !strings.EqualFold(strings.Trim(kind, " \t"), "form-data") {
		return ErrMalformed
	}
	// A backslash before a quote ends the text for one reader and not for another.
	p.doubtful = p.doubtful || strings.Contains(value, `\`)
	named := false
	for rest = strings.Trim(rest, " \t"); rest != ""; rest = strings.Trim(rest, " \t") {
		key, after, ok := strings.Cut(rest, "=")
		key = strings.ToLower(strings.Trim(key, " \t"))
		if !ok || key == "" || strings.ContainsFunc(key, notToken) {
			return ErrMalformed
		}
		text, tail, ok := parameter(strings.TrimLeft(after, " \t"))
		if !ok {
			return ErrMalformed
		}
		switch {
		case key == "name" && named:
			return ErrMalformed
		case key == "name":
			p.name, named = text, true
		case strings.HasPrefix(key, "name*"):
			p.doubtful = true
		}
		rest = strings.TrimLeft(tail, " \t")
		if rest != "" && rest[0] != ';' {
			return ErrMalformed
		}
		rest = strings.TrimPrefix(rest, ";")
	}
	if !named {
		return ErrMalformed
	}
	return nil
}

// parameter reads a quoted text, or one without quotes, and what follows it.
func parameter(s string) (text, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, "; \t")
		if end < 0 {
			end = len(s)
		}
		return s[:end], s[end:], !strings.Contains(s[:end], `"`)
	}
	var out strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return out.String(), s[i+1:], true
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
		}
		out.WriteByte(s[i])
	}
	return "", "", false
}

func notToken(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune("()<>@,;:\\\"/[]?={}", r)
}
