package grant

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// errMalformed says that a body is not what its rule reads it as. It carries
// no part of the body.
var errMalformed = errors.New("malformed body")

// errRepeated says that a field that a surface names stands there twice.
var errRepeated = errors.New("repeated field")

// maxDepth bounds the nesting of a JSON body.
const maxDepth = 512

// span is a part of a body: the bytes between the quotes of a JSON string, or
// one form value, still encoded.
type span struct {
	start, end int
	surface    int // which of the surfaces that were asked for
}

// findJSON checks that b is one JSON text (RFC 8259) and returns where the
// strings at the pointers (RFC 6901) stand. A pointer that leads to something
// else than a string is no match. Work is linear in len(b), memory in depth.
func findJSON(b []byte, pointers []string) ([]span, error) {
	s := &jsonScan{b: b}
	for _, p := range pointers {
		s.pointers = append(s.pointers, splitPointer(p))
	}
	if !utf8.Valid(b) {
		return nil, errMalformed
	}
	alive := make([]int, len(pointers))
	for i := range alive {
		alive[i] = i
	}
	s.space()
	if err := s.value(alive, 0); err != nil {
		return nil, err
	}
	s.space()
	if s.at != len(b) {
		return nil, errMalformed
	}
	return s.spans, nil
}

func splitPointer(p string) []string {
	if p == "" {
		return nil
	}
	parts := strings.Split(p[1:], "/")
	for i := range parts {
		parts[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(parts[i])
	}
	return parts
}

// jsonScan walks one JSON text. "alive" are the pointers that the path so far
// is a prefix of; depth is the length of that path.
type jsonScan struct {
	b        []byte
	at       int
	pointers [][]string
	spans    []span
}

func (s *jsonScan) value(alive []int, depth int) error {
	if depth > maxDepth || s.at >= len(s.b) {
		return errMalformed
	}
	switch c := s.b[s.at]; {
	case c == '"':
		start, end, err := s.str()
		if err != nil {
			return err
		}
		for _, i := range alive {
			if len(s.pointers[i]) == depth {
				s.spans = append(s.spans, span{start, end, i})
			}
		}
		return nil
	case c == '{':
		return s.object(alive, depth)
	case c == '[':
		return s.array(alive, depth)
	case c == '-' || '0' <= c && c <= '9':
		return s.number()
	}
	for _, word := range []string{"true", "false", "null"} {
		if len(s.b)-s.at >= len(word) && string(s.b[s.at:s.at+len(word)]) == word {
			s.at += len(word)
			return nil
		}
	}
	return errMalformed
}

func (s *jsonScan) object(alive []int, depth int) error {
	s.at++
	var inside map[int]bool // pointers that this object has answered, against repeated names
	for first := true; ; first = false {
		s.space()
		if first && s.take('}') {
			return nil
		}
		if s.at >= len(s.b) || s.b[s.at] != '"' {
			return errMalformed
		}
		start, end, err := s.str()
		if err != nil {
			return err
		}
		var next []int
		if len(alive) > 0 {
			name := unescapeJSON(s.b[start:end])
			for _, i := range alive {
				if len(s.pointers[i]) > depth && s.pointers[i][depth] == name {
					if inside[i] {
						return errRepeated
					}
					if inside == nil {
						inside = map[int]bool{}
					}
					inside[i] = true
					next = append(next, i)
				}
			}
		}
		s.space()
		if !s.take(':') {
			return errMalformed
		}
		s.space()
		if err := s.value(next, depth+1); err != nil {
			return err
		}
		s.space()
		if s.take('}') {
			return nil
		}
		if !s.take(',') {
			return errMalformed
		}
	}
}

func (s *jsonScan) array(alive []int, depth int) error {
	s.at++
	for n := 0; ; n++ {
		s.space()
		if n == 0 && s.take(']') {
			return nil
		}
		var next []int
		if len(alive) > 0 {
			index := strconv.Itoa(n)
			for _, i := range alive {
				if len(s.pointers[i]) > depth && s.pointers[i][depth] == index {
					next = append(next, i)
				}
			}
		}
		if err := s.value(next, depth+1); err != nil {
			return err
		}
		s.space()
		if s.take(']') {
			return nil
		}
		if !s.take(',') {
			return errMalformed
		}
	}
}

// str reads a string and returns what lies between its quotes. A lone
// surrogate is refused: parsers disagree about what it means.
func (s *jsonScan) str() (start, end int, err error) {
	s.at++
	start = s.at
	for s.at < len(s.b) {
		switch c := s.b[s.at]; {
		case c == '"':
			s.at++
			return start, s.at - 1, nil
		case c < ' ':
			return 0, 0, errMalformed
		case c == '\\':
			if err := s.escape(); err != nil {
				return 0, 0, err
			}
		default:
			s.at++
		}
	}
	return 0, 0, errMalformed
}

func (s *jsonScan) escape() error {
	if s.at+1 >= len(s.b) {
		return errMalformed
	}
	switch s.b[s.at+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.at += 2
		return nil
	case 'u':
		high, ok := hex4(s.b, s.at+2)
		if !ok {
			return errMalformed
		}
		s.at += 6
		if !utf16.IsSurrogate(high) {
			return nil
		}
		if s.at+1 < len(s.b) && s.b[s.at] == '\\' && s.b[s.at+1] == 'u' {
			if low, ok := hex4(s.b, s.at+2); ok && utf16.DecodeRune(high, low) != utf8.RuneError {
				s.at += 6
				return nil
			}
		}
	}
	return errMalformed
}

// hex4 reads four hexadecimal digits at b[at:].
func hex4(b []byte, at int) (rune, bool) {
	if at+4 > len(b) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[at:at+4]), 16, 16)
	return rune(n), err == nil
}

// number reads -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)?
func (s *jsonScan) number() error {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return errMalformed
	}
	if s.take('.') && !s.digits() {
		return errMalformed
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		if !s.digits() {
			return errMalformed
		}
	}
	return nil
}

func (s *jsonScan) digits() bool {
	start := s.at
	for s.at < len(s.b) && '0' <= s.b[s.at] && s.b[s.at] <= '9' {
		s.at++
	}
	return s.at > start
}

func (s *jsonScan) take(c byte) bool {
	if s.at < len(s.b) && s.b[s.at] == c {
		s.at++
		return true
	}
	return false
}

func (s *jsonScan) space() {
	for s.at < len(s.b) {
		switch s.b[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

// unescapeJSON decodes what stands between the quotes of a valid JSON string.
func unescapeJSON(b []byte) string {
	var out strings.Builder
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			out.WriteByte(b[i])
			continue
		}
		i++
		switch b[i] {
		case 'b':
			out.WriteByte('\b')
		case 'f':
			out.WriteByte('\f')
		case 'n':
			out.WriteByte('\n')
		case 'r':
			out.WriteByte('\r')
		case 't':
			out.WriteByte('\t')
		case 'u':
			r, _ := hex4(b, i+1)
			i += 4
			if utf16.IsSurrogate(r) {
				low, _ := hex4(b, i+3)
				r = utf16.DecodeRune(r, low)
				i += 6
			}
			out.WriteRune(r)
		default:
			out.WriteByte(b[i])
		}
	}
	return out.String()
}
