// Package scrub takes values out of what comes back: it finds them, in the forms
// in which servers write them, and puts an inert text in their place.
//
// It knows nothing of HTTP, sessions or secrets: it is given texts. It does not
// find what a server has split, reversed, encrypted or escaped needlessly.
//
// Invariant: what comes out holds no form of any value, and what it is does not
// depend on how the text was cut, unless a piece had to be let go before its
// rest came; then the rest is overwritten.
package scrub

import (
	"slices"
	"sort"
	"strings"
	"unsafe"
)

// Scrubber puts placeholders back where values stand. It is immutable and safe
// for concurrent use. The nil Scrubber changes nothing.
//
// The search samples the text: of each run of stride bytes it looks at one gram
// only, since a form that begins in that run holds the gram at a known distance.
// A filter in one or two cache lines says that it is of no form, nearly always,
// so that the cost does not grow with the number of values.
type Scrubber struct {
	forms  []form  // in the order of their texts
	parent []int32 // the longest other form with which a form begins, or -1
	window int     // length of the shortest form
	gram   int     // bytes of a gram: 8 or 4, or 1 for forms that are very short
	stride int     // window-gram+1
	grams  filter  // those at the first stride places of each form
	heads  filter  // those with which a form begins
	first  [256]bool
	reach  int // length of the longest form, less one
	folded *Scrubber
}

// Value is one text that must not reach the client, and what stands for it.
type Value struct {
	Text        string
	Placeholder string
}

// New makes the Scrubber of all values, nil when there are none.
func New(values []Value) *Scrubber {
	var forms []form
	for _, v := range values {
		forms = append(forms, formsOf(v)...)
	}
	s := build(forms)
	if s != nil {
		folded := slices.Clone(s.forms)
		for i := range folded {
			folded[i].text = strings.ToLower(folded[i].text)
		}
		s.folded = build(folded)
	}
	return s
}

func build(forms []form) *Scrubber {
	slices.SortStableFunc(forms, func(a, b form) int { return strings.Compare(a.text, b.text) })
	forms = slices.CompactFunc(forms, func(a, b form) bool { return a.text == b.text })
	if len(forms) == 0 {
		return nil
	}
	s := &Scrubber{forms: forms, parent: make([]int32, len(forms)), window: len(forms[0].text), gram: 1}
	for i, f := range forms {
		s.window = min(s.window, len(f.text))
		s.reach = max(s.reach, len(f.text)-1)
		s.first[f.text[0]] = true
		above := int32(i) - 1
		for above >= 0 && !strings.HasPrefix(f.text, forms[above].text) {
			above = s.parent[above]
		}
		s.parent[i] = above
	}
	switch {
	case s.window >= 12:
		s.gram = 8
	case s.window >= 4:
		s.gram = 4
	}
	s.stride = s.window - s.gram + 1
	s.grams, s.heads = newFilter(len(forms)*s.stride), newFilter(len(forms))
	for _, f := range forms {
		s.heads.add(s.at(f.text, 0))
		for i := range s.stride {
			s.grams.add(s.at(f.text, i))
		}
	}
	return s
}

// at is the gram at i.
func (s *Scrubber) at(b string, i int) uint64 {
	at := unsafe.Pointer(unsafe.StringData(b[i : i+s.gram]))
	switch s.gram {
	case 8:
		return *(*uint64)(at)
	case 4:
		return uint64(*(*uint32)(at))
	}
	return uint64(b[i])
}

// filter is a set that may also hold what was not added, rarely.
type filter struct {
	bits  []uint64
	shift uint8
}

func newFilter(n int) filter {
	bits := uint8(10)
	for 1<<bits < 32*n && bits < 24 {
		bits++
	}
	return filter{make([]uint64, 1<<(bits-6)), 64 - bits}
}

// spread is 2^64 over the golden ratio: it carries each bit of a gram to the top.
const spread = 0x9e3779b97f4a7c15

func (f *filter) place(gram uint64) uint64 { return gram * spread >> f.shift }

func (f *filter) add(gram uint64) {
	at := f.place(gram)
	f.bits[at>>6] |= 1 << (at & 63)
}

func (f *filter) has(gram uint64) bool {
	at := f.place(gram)
	return f.bits[at>>6]&(1<<(at&63)) != 0
}

// String scrubs a text that is whole.
func (s *Scrubber) String(text string) string { return s.Replace(text, nil) }

// Replace is String, with what with answers in the place of each placeholder. It is
// told in which form the value stood there. Without with it is String.
func (s *Scrubber) Replace(text string, with func(placeholder string, how Form) string) string {
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
		if with == nil || f.mark {
			out.WriteString(f.with)
		} else {
			out.WriteString(with(f.with, f.how))
		}
		from = at + len(f.text)
	}
}

// Holds says whether text, in any case of letters, holds a form of a value.
func (s *Scrubber) Holds(text string) bool {
	if s == nil || len(text) < s.window {
		return false
	}
	_, f := s.folded.next(strings.ToLower(text), 0, true)
	return f != nil
}

// covers says whether a form has a byte of text[from:to].
func (s *Scrubber) covers(text string, from, to int) bool {
	for at := max(0, from-s.reach); ; at++ {
		found, f := s.next(text, at, true)
		if f == nil || found >= to {
			return false
		}
		if at = found; at+len(f.text) > from {
			return true
		}
	}
}

// open is how many bytes at the end of a text could be the beginning of a form.
func (s *Scrubber) open(text string) int {
	text = text[max(0, len(text)-s.reach):]
	for from := 0; ; {
		at, f := s.next(text, from, false)
		if f == nil {
			return len(text) - at
		}
		from = at + len(f.text)
	}
}

// next finds the first form in b that begins at from or later, the longest of
// those that begin there. Without one, at is the end of what is settled: the
// place where a form may begin of which the rest has not come, or len(b).
func (s *Scrubber) next(b string, from int, last bool) (at int, found *form) {
	for at = from; at+s.window <= len(b); at += s.stride {
		if at = s.skip(b, at); at+s.window > len(b) {
			break
		}
		for p := at; p < at+s.stride; p++ {
			if !s.heads.has(s.at(b, p)) {
				continue
			}
			if found, wait := s.begins(b[p:], last); found != nil || wait {
				return p, found
			}
		}
	}
	if last {
		return len(b), nil
	}
	return s.held(b, at), nil
}

// skip goes on from stride to stride while no gram that is looked at can be of a
// form. This is where the time goes, so it is written without checks: all that is
// read lies before at+window.
func (s *Scrubber) skip(b string, at int) int {
	bits, shift, stride, end := unsafe.SliceData(s.grams.bits), s.grams.shift&63, s.stride, len(b)-s.window
	look := unsafe.Add(unsafe.Pointer(unsafe.StringData(b)), stride-1)
	switch s.gram {
	case 8:
		for ; at <= end; at += stride {
			place := *(*uint64)(unsafe.Add(look, at)) * spread >> shift
			if *(*uint64)(unsafe.Add(unsafe.Pointer(bits), place>>6*8))>>(place&63)&1 != 0 {
				return at
			}
		}
	case 4:
		for ; at <= end; at += stride {
			place := uint64(*(*uint32)(unsafe.Add(look, at))) * spread >> shift
			if *(*uint64)(unsafe.Add(unsafe.Pointer(bits), place>>6*8))>>(place&63)&1 != 0 {
				return at
			}
		}
	default:
		for ; at <= end && !s.grams.has(s.at(b, at+stride-1)); at += stride {
		}
	}
	return at
}

// begins answers the longest of the forms with which b begins, or that one of
// them could still become it when more of b arrives.
func (s *Scrubber) begins(b string, last bool) (found *form, wait bool) {
	above := sort.Search(len(s.forms), func(i int) bool { return s.forms[i].text > b })
	if !last && above < len(s.forms) && strings.HasPrefix(s.forms[above].text, b) {
		return nil, true
	}
	for n := int32(above) - 1; n >= 0; n = s.parent[n] {
		if strings.HasPrefix(b, s.forms[n].text) {
			return &s.forms[n], false
		}
	}
	return nil, false
}

// held is where the end of b begins that could be the beginning of a form. No
// form begins before from.
func (s *Scrubber) held(b string, from int) int {
	for at := min(from, len(b)); at < len(b); at++ {
		if !s.first[b[at]] {
			continue
		}
		rest := b[at:]
		above := sort.Search(len(s.forms), func(i int) bool { return s.forms[i].text >= rest })
		if above < len(s.forms) && strings.HasPrefix(s.forms[above].text, rest) {
			return at
		}
	}
	return len(b)
}

// view is b as a string, without a copy. It holds only while b is unchanged, so
// it never leaves a function that reads.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
