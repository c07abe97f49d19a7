package rules

import (
	"cmp"
	"strings"
	"unicode/utf8"
)

// NormalPath cuts a raw request path into its decoded segments: "/a/b%20c" is
// "a", "b c"; "/" is one empty segment, and so is what follows a trailing slash.
//
// ok is false where two servers could read the path in two ways: dot segments,
// encoded slashes, backslashes or dots (also encoded twice), empty segments in
// the middle, bad escapes, control characters, bytes outside ASCII or escapes
// that are not UTF-8, a path that does not begin with a slash.
func NormalPath(raw string) (segments []string, ok bool) {
	if !unambiguous(raw) {
		return nil, false
	}
	for part := range strings.SplitSeq(raw[1:], "/") {
		segments = append(segments, decodeSegment(part))
	}
	return segments, true
}

func decodeSegment(raw string) string {
	if !strings.Contains(raw, "%") {
		return raw
	}
	var b strings.Builder
	for raw != "" {
		var c byte
		c, raw = nextByte(raw)
		b.WriteByte(c)
	}
	return b.String()
}

// nextByte decodes the first byte of a path whose escapes were checked.
func nextByte(raw string) (byte, string) {
	if raw[0] != '%' {
		return raw[0], raw[1:]
	}
	return unhex(raw[1])<<4 | unhex(raw[2]), raw[3:]
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}

// unambiguous is the check of NormalPath. It allocates nothing: every request
// to an intercepted host passes here.
func unambiguous(raw string) bool {
	if raw == "" || raw[0] != '/' {
		return false
	}
	rest, more := raw[1:], true
	for more {
		var part string
		part, rest, more = strings.Cut(rest, "/")
		if part == "" && more || !plainSegment(part) {
			return false
		}
	}
	return true
}

func plainSegment(part string) bool {
	// Some servers drop ";parameters" before they resolve dots.
	if name, _, _ := strings.Cut(part, ";"); name == "." || name == ".." {
		return false
	}
	var pending [utf8.UTFMax]byte
	n := 0
	for i := 0; i < len(part); i++ {
		c, escaped := part[i], part[i] == '%'
		if escaped {
			if i+2 >= len(part) || !isHex(part[i+1]) || !isHex(part[i+2]) {
				return false
			}
			c, _ = nextByte(part[i:])
			i += 2
		}
		if !plainByte(c, escaped) || escaped && c == '%' && hidesDelimiter(part[i+1:]) {
			return false
		}
		if c < utf8.RuneSelf && n == 0 {
			continue
		}
		pending[n] = c
		n++
		if !utf8.FullRune(pending[:n]) {
			continue
		}
		if r, size := utf8.DecodeRune(pending[:n]); r == utf8.RuneError && size == 1 {
			return false
		}
		n = 0
	}
	return n == 0
}

func plainByte(c byte, escaped bool) bool {
	switch {
	case c < ' ', c == 0x7f, c == '\\':
		return false
	case escaped:
		return c != '/' && c != '.'
	}
	return c < utf8.RuneSelf && c != '?' && c != '#' && c != ' '
}

// hidesDelimiter reports whether a second decoding would make a dot, slash or
// backslash out of an escaped percent sign and what follows it, escaped or not.
func hidesDelimiter(after string) bool {
	c, ok := hidden(after)
	return ok && (c == '.' || c == '/' || c == '\\' || c == '%' || c < ' ')
}

// hidden is what a second decoding makes out of an escaped percent sign and after.
func hidden(after string) (c byte, ok bool) {
	for range 2 {
		if after == "" || after[0] == '%' && (len(after) < 3 || !isHex(after[1]) || !isHex(after[2])) {
			return 0, false
		}
		var digit byte
		if digit, after = nextByte(after); !isHex(digit) {
			return 0, false
		}
		c = c<<4 | unhex(digit)
	}
	return c, true
}

// hasParameters reports whether an unambiguous path holds a ";", escaped or not:
// servers that know parameters of segments drop what follows it.
func hasParameters(raw string) bool {
	for raw != "" {
		escaped := raw[0] == '%'
		var c byte
		c, raw = nextByte(raw)
		if c == ';' {
			return true
		}
		if again, ok := hidden(raw); escaped && c == '%' && ok && again == ';' {
			return true
		}
	}
	return false
}

type segmentKind uint8

// In ascending order of how specific they are.
const (
	anyRest  segmentKind = iota + 1 // "**"
	anyOne                          // "*" or "{}"
	affixed                         // "bot{}"
	literal                         // "repos"
	pathEnds                        // only in comparisons: a pattern that ends here
)

type segment struct {
	kind         segmentKind
	text, suffix string // literal: text; affixed: before and after the braces
	slot         bool   // holds the braces
}

// PathPattern is one entry of "paths".
type PathPattern struct {
	text     string
	segments []segment
	slot     int // index of the segment with the braces, or -1
}

// String is the pattern as the rules file writes it.
func (p PathPattern) String() string { return p.text }

// everyPath stands for a rule without "paths".
var everyPath = PathPattern{slot: -1, segments: []segment{{kind: anyRest}}}

func parsePathPattern(s string) (p PathPattern, problem, fix string) {
	p = PathPattern{text: s, slot: -1}
	if !strings.HasPrefix(s, "/") {
		return p, "a path that does not begin with a slash", "write it like /repos/**"
	}
	if strings.ContainsAny(s, "?#") {
		return p, "a query or fragment in a path", "write the path only; rules do not look at the query"
	}
	// Braces and stars are not part of any path; what is left must be plain.
	if !unambiguous(strings.NewReplacer("{}", "x", "*", "x").Replace(s)) {
		return p, "a path that can be read in two ways", "leave out dots, empty segments, encoded slashes and control characters"
	}
	parts := strings.Split(s[1:], "/")
	for i, part := range parts {
		seg, problem := parseSegment(part)
		switch {
		case problem != "":
			return p, problem, "write * for one segment, ** for the rest, {} for the segment that holds the placeholder"
		case seg.kind == anyRest && i < len(parts)-1:
			return p, "** before the end of a path", "** stands for the rest; write * for one segment"
		case seg.slot && p.slot >= 0:
			return p, "more than one {} in a path", "a placeholder stands in one segment"
		case seg.slot:
			p.slot = i
		}
		p.segments = append(p.segments, seg)
	}
	return p, "", ""
}

func parseSegment(part string) (segment, string) {
	switch part {
	case "**":
		return segment{kind: anyRest}, ""
	case "*":
		return segment{kind: anyOne}, ""
	case "{}":
		return segment{kind: anyOne, slot: true}, ""
	}
	if before, after, found := strings.Cut(part, "{}"); found {
		if strings.ContainsAny(before+after, "*{}") {
			return segment{}, "a segment with more than one of *, ** and {}"
		}
		return segment{kind: affixed, text: decodeSegment(before), suffix: decodeSegment(after), slot: true}, ""
	}
	if strings.ContainsAny(part, "*{}") {
		return segment{}, "a wildcard that is not a whole segment"
	}
	return segment{kind: literal, text: decodeSegment(part)}, ""
}

// matches reports whether an unambiguous raw path fits. "**" stands for any
// rest, also for none.
func (p *PathPattern) matches(raw string) bool {
	rest, more := raw[1:], true
	for i := range p.segments {
		s := &p.segments[i]
		if s.kind == anyRest {
			return true
		}
		if !more {
			return false
		}
		var part string
		if part, rest, more = strings.Cut(rest, "/"); !s.matches(part) {
			return false
		}
	}
	return !more
}

func (s *segment) matches(raw string) bool {
	switch s.kind {
	case anyOne:
		return raw != ""
	case literal:
		rest, ok := cutDecoded(raw, s.text)
		return ok && rest == ""
	}
	rest, ok := cutDecoded(raw, s.text)
	if !ok || rest == "" {
		return false
	}
	if s.suffix == "" {
		return true
	}
	decoded := decodeSegment(rest)
	return len(decoded) > len(s.suffix) && strings.HasSuffix(decoded, s.suffix)
}

// cutDecoded cuts prefix off a raw segment, decoding as it goes.
func cutDecoded(raw, prefix string) (string, bool) {
	for i := range len(prefix) {
		if raw == "" {
			return "", false
		}
		var c byte
		if c, raw = nextByte(raw); c != prefix[i] {
			return "", false
		}
	}
	return raw, true
}

func segmentAt(list []segment, i int) segment {
	if i < len(list) {
		return list[i]
	}
	return segment{kind: pathEnds}
}

// moreSpecific orders patterns: segment by segment, a literal over braces with
// text around them over * over **. It is positive if a is the more specific.
func moreSpecific(a, b []segment) int {
	for i := range max(len(a), len(b)) {
		x, y := segmentAt(a, i), segmentAt(b, i)
		if c := cmp.Compare(x.kind, y.kind); c != 0 {
			return c
		}
		if x.kind == affixed {
			if c := cmp.Compare(len(x.text)+len(x.suffix), len(y.text)+len(y.suffix)); c != 0 {
				return c
			}
		}
	}
	return 0
}

// overlap reports whether some path fits both patterns.
func overlap(a, b []segment) bool {
	for i := range max(len(a), len(b)) {
		x, y := segmentAt(a, i), segmentAt(b, i)
		if x.kind == anyRest || y.kind == anyRest {
			return true
		}
		if !segmentsOverlap(x, y) {
			return false
		}
	}
	return true
}

func segmentsOverlap(x, y segment) bool {
	if x.kind < y.kind {
		x, y = y, x // x is the more specific
	}
	switch {
	case x.kind == pathEnds:
		return y.kind == pathEnds
	case y.kind == literal:
		return x.text == y.text
	case x.kind == literal:
		return y.holds(x.text)
	case x.kind == affixed && y.kind == affixed:
		return (strings.HasPrefix(x.text, y.text) || strings.HasPrefix(y.text, x.text)) &&
			(strings.HasSuffix(x.suffix, y.suffix) || strings.HasSuffix(y.suffix, x.suffix))
	}
	return true
}

// holds is matches for a decoded segment.
func (s *segment) holds(text string) bool {
	if s.kind == anyOne {
		return text != ""
	}
	return len(text) > len(s.text)+len(s.suffix) && strings.HasPrefix(text, s.text) && strings.HasSuffix(text, s.suffix)
}
