package answer

import (
	"encoding/binary"

	"standin/grant/scrub"
)

// relength scrubs a message in the wire format of Protocol Buffers, and makes the
// lengths of the fields right in which a value stood. It answers false when the
// bytes are no such message, or when a value stands across its fields.
//
// Without the schema nobody can tell a message within from a text: what reads as
// a message to its last byte, and has the value in one field of it, is taken for
// one.
func relength(s *scrub.Scrubber, message []byte, depth int) ([]byte, bool) {
	var out []byte
	found := false
	for rest := message; len(rest) > 0; {
		head, content, ok := field(rest)
		if !ok {
			return nil, false
		}
		whole := rest[:head+len(content)]
		rest = rest[len(whole):]
		if _, held := s.Whole(content, true); !held || whole[0]&7 != lengthDelimited {
			if _, across := s.Whole(whole, true); across {
				return nil, false
			}
			out = append(out, whole...)
			continue
		}
		found = true
		scrubbed, nested := []byte(nil), false
		if depth < maxDepth {
			scrubbed, nested = relength(s, content, depth+1)
		}
		if !nested {
			scrubbed, _ = s.Whole(content, false)
		}
		_, n := binary.Uvarint(whole)
		out = append(out, whole[:n]...)
		out = binary.AppendUvarint(out, uint64(len(scrubbed)))
		out = append(out, scrubbed...)
	}
	_, left := s.Whole(out, true)
	return out, found && !left
}

// maxDepth is how deep libraries let messages lie in one another.
const maxDepth = 100

// Wire types (Protocol Buffers, "Encoding").
const (
	varint          = 0
	fixed64         = 1
	lengthDelimited = 2
	fixed32         = 5
)

// field splits the first field of b: where its content begins, and the content.
func field(b []byte) (head int, content []byte, ok bool) {
	tag, n := binary.Uvarint(b)
	if n <= 0 || tag>>3 == 0 || tag>>3 >= 1<<29 {
		return 0, nil, false
	}
	size := uint64(0)
	switch rest := b[n:]; tag & 7 {
	case varint:
		_, m := binary.Uvarint(rest)
		if m <= 0 {
			return 0, nil, false
		}
		size = uint64(m)
	case fixed64:
		size = 8
	case fixed32:
		size = 4
	case lengthDelimited:
		length, m := binary.Uvarint(rest)
		if m <= 0 {
			return 0, nil, false
		}
		size, n = length, n+m
	default:
		return 0, nil, false // groups are gone since 2008
	}
	if size > uint64(len(b)-n) {
		return 0, nil, false
	}
	return n, b[n : n+int(size)], true
}
