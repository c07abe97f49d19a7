// Package sight says which of a few strings passed in a stream, however it was
// cut. The upstream and the load client use it to check that a proxy did the
// work that is being timed. It holds no more than one string's length of the
// stream.
package sight

import "bytes"

// Stream looks for strings in what is written to it.
type Stream struct {
	needles [][]byte
	seen    []bool
	tail    []byte // the end of what was written, in case a needle was cut there
	longest int
	Bytes   int64 // written so far
}

// New looks for each of the needles, none of which is empty.
func New(needles ...string) *Stream {
	s := &Stream{seen: make([]bool, len(needles))}
	for _, n := range needles {
		s.needles = append(s.needles, []byte(n))
		s.longest = max(s.longest, len(n))
	}
	return s
}

// Write looks through the next piece of the stream.
func (s *Stream) Write(p []byte) (int, error) {
	s.Bytes += int64(len(p))
	edge := append(s.tail, p[:min(len(p), s.longest)]...)
	for i, needle := range s.needles {
		if !s.seen[i] {
			s.seen[i] = bytes.Contains(edge, needle) || bytes.Contains(p, needle)
		}
	}
	if len(p) >= s.longest {
		edge = p
	}
	s.tail = append(s.tail[:0:0], edge[max(0, len(edge)-s.longest+1):]...)
	return len(p), nil
}

// Saw says whether the i-th needle has passed.
func (s *Stream) Saw(i int) bool { return s.seen[i] }

// Reset forgets the stream.
func (s *Stream) Reset() {
	clear(s.seen)
	s.tail, s.Bytes = s.tail[:0], 0
}
