package grant

import (
	"io"
	"slices"
	"strings"
)

// Scrubber puts placeholders back where values stand. It is immutable and safe
// for concurrent use. The nil Scrubber changes nothing.
//
// The search is that of Wu and Manber: a window as long as the shortest form
// slides over the text, and the last two bytes of the window say how far it may
// jump. Where nothing matches, most bytes are never looked at.
type Scrubber struct {
	forms  []form             // longest first
	window int                // length of the shortest form
	shift  []uint8            // by the two bytes at the end of the window
	ends   map[uint16][]int32 // forms whose window ends with these two bytes
	first  [256]bool          // bytes with which a form begins
	reach  int                // length of the longest form, less one
}

// maxShift bounds a jump, so that it fits the table.
const maxShift = 255

func newScrubber(values []scrubValue) *Scrubber {
	var forms []form
	for _, v := range values {
		forms = append(forms, formsOf(v)...)
	}
	if len(forms) == 0 || fault == "scrubbing" {
		return nil
	}
	slices.SortStableFunc(forms, func(a, b form) int { return len(b.text) - len(a.text) })
	s := &Scrubber{forms: forms, shift: make([]uint8, 1<<16), ends: map[uint16][]int32{}, reach: len(forms[0].text) - 1}
	s.window = min(len(forms[len(forms)-1].text), maxShift)
	for i := range s.shift {
		s.shift[i] = uint8(s.window - 1)
	}
	for n, f := range forms {
		s.first[f.text[0]] = true
		for end := 2; end <= s.window; end++ {
			key := pair(f.text, end)
			s.shift[key] = min(s.shift[key], uint8(s.window-end))
			if end == s.window {
				s.ends[key] = append(s.ends[key], int32(n))
			}
		}
	}
	return s
}

// pair is the two bytes before end.
func pair[T string | []byte](b T, end int) uint16 { return uint16(b[end-2])<<8 | uint16(b[end-1]) }

// String scrubs a text that is whole.
func (s *Scrubber) String(text string) string {
	if s == nil || len(text) < s.window {
		return text
	}
	at, f := s.next(text, 0, true)
	if f == nil {
		return text
	}
	var out strings.Builder
	for from := 0; ; at, f = s.next(text, from, true) {
		out.WriteString(text[from:at])
		if f == nil {
			return out.String()
		}
		out.WriteString(f.with)
		from = at + len(f.text)
	}
}

// Holds says whether text, in any case of letters, holds a form of a value.
func (s *Scrubber) Holds(text string) bool {
	if s == nil || len(text) < s.window {
		return false
	}
	lower := strings.ToLower(text)
	for _, f := range s.forms {
		if strings.Contains(lower, strings.ToLower(f.text)) {
			return true
		}
	}
	return false
}

// pass appends the scrubbed b to out and returns how much of b is settled. What
// is not settled could be the beginning of a form; when last, all is.
func (s *Scrubber) pass(out, b []byte, last bool) (scrubbed []byte, settled int) {
	for from := 0; ; {
		at, f := s.next(view(b), from, last)
		out = append(out, b[from:at]...)
		if f == nil {
			return out, at
		}
		out = append(out, f.with...)
		from = at + len(f.text)
	}
}

// next finds the first form in b that begins at from or later. Without one, at
// is the end of what is settled: the place where a form may begin of which the
// rest has not come, or len(b).
func (s *Scrubber) next(b string, from int, last bool) (at int, found *form) {
	at = from
	for at+s.window <= len(b) {
		key := pair(b, at+s.window)
		if jump := s.shift[key]; jump > 0 {
			at += int(jump)
			continue
		}
		found, wait := s.begins(b[at:], s.ends[key], last)
		if found != nil || wait {
			return at, found
		}
		at++
	}
	if last {
		return len(b), nil
	}
	return s.held(b, at), nil
}

// begins answers the longest of the forms with which b begins, or that one of
// them could still become it when more of b arrives.
func (s *Scrubber) begins(b string, among []int32, last bool) (found *form, wait bool) {
	for _, n := range among {
		f := &s.forms[n]
		if len(f.text) <= len(b) {
			if b[:len(f.text)] == f.text {
				return f, false
			}
		} else if !last && f.text[:len(b)] == b {
			return nil, true
		}
	}
	return nil, false
}

// held is where the end of b begins that could be the beginning of a form. No
// form begins before from.
func (s *Scrubber) held(b string, from int) int {
	for at := min(max(from, len(b)-s.reach), len(b)); at < len(b); at++ {
		if !s.first[b[at]] {
			continue
		}
		for i := range s.forms {
			if strings.HasPrefix(s.forms[i].text, b[at:]) {
				return at
			}
		}
	}
	return len(b)
}

// Body is a stream without values.
type Body struct {
	s       *Scrubber
	src     io.Reader
	in      []byte // what has come and is not settled
	out     []byte // what is scrubbed and not yet read
	scratch []byte
	window  int
	err     error
}

// Body returns a reader of src without values. The result is the same for every
// way in which src is cut. Length is how many bytes src will give, or -1. A nil
// Scrubber returns src.
func (s *Scrubber) Body(src io.Reader, length int64) io.Reader {
	if s == nil {
		return src
	}
	window := firstWindow
	if 0 <= length && length < firstWindow {
		window = int(length) + 1 // room to see the end
	}
	return &Body{s: s, src: src, window: window}
}

// Read gives what is scrubbed as soon as it is, and holds back only what could
// begin a form.
func (r *Body) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		r.fill()
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

// The window through which a body is read begins small, since most bodies are,
// and grows with what comes.
const (
	firstWindow = 2 << 10
	lastWindow  = 64 << 10
)

// fill reads once and scrubs what has come.
func (r *Body) fill() {
	kept := len(r.in)
	r.in = slices.Grow(r.in, r.window)[:kept+r.window]
	n, err := r.src.Read(r.in[kept:])
	r.in = r.in[:kept+n]
	if n == r.window {
		r.window = min(max(4*r.window, firstWindow), lastWindow)
	}
	r.err = err
	out, settled := r.s.pass(r.scratch[:0], r.in, err != nil)
	r.out, r.scratch = out, out
	r.in = r.in[:copy(r.in, r.in[settled:])]
}

// Finish reads what is left of a source that has nothing more to give but its
// end, and answers whether that end came.
func (r *Body) Finish() bool {
	if r.err == nil {
		rest := r.out
		r.scratch = nil // rest lies in it
		r.fill()
		r.out = append(rest, r.out...)
	}
	return r.err == io.EOF
}

// Pending is how many bytes are ready without reading from the source.
func (r *Body) Pending() int { return len(r.out) }
