package scrub

import (
	"slices"
	"strings"
	"sync"
)

// Body scrubs a body that is pushed through it, piece by piece: what comes is
// read into Room, and Take gives what is settled. Only what could begin a form is
// held back. Without a Scrubber all passes.
//
// It is used by one goroutine at a time. While the room is filled, another may
// call Release.
type Body struct {
	Scrubber *Scrubber
	Fixed    bool // each form is overwritten at equal length, for formats that count bytes
	Replaced int  // forms that were found

	window []byte
	from   int    // where what is held back lies,
	kept   int    // how much that is,
	sent   int    // and how much of it went out already
	out    []byte // where what is settled is put together when it does not lie in the window
}

// Windows come in two sizes, since most bodies are small.
const (
	smallWindow = 4 << 10
	largeWindow = 128 << 10
)

var windows = [2]sync.Pool{
	{New: func() any { return new([smallWindow]byte) }},
	{New: func() any { return new([largeWindow]byte) }},
}

// Room is where the next piece of the body goes; it is never empty.
func (b *Body) Room() []byte {
	if b.window == nil {
		b.window = windows[0].Get().(*[smallWindow]byte)[:]
	}
	if end := b.from + b.kept; end == len(b.window) {
		b.grow() // it was filled: there is more where this came from
	} else if b.from > 0 {
		copy(b.window, b.window[b.from:end])
		b.from = 0
	}
	return b.window[b.kept:]
}

// grow takes the larger window, or, for values that do not fit it, one of its own.
func (b *Body) grow() {
	held := b.window[b.from : b.from+b.kept]
	if len(b.window) >= largeWindow && len(held) < len(b.window)/2 {
		copy(b.window, held)
		b.from = 0
		return
	}
	window := windows[1].Get().(*[largeWindow]byte)[:]
	if len(held) >= largeWindow/2 {
		window = make([]byte, 4*len(held))
	}
	copy(window, held)
	b.recycle()
	b.window, b.from = window, 0
}

// Take gives what is settled now that n more bytes stand in the room: all there
// is when last. It holds until the next call. What is left of the room may still
// be filled, and taken.
func (b *Body) Take(n int, last bool) []byte {
	in := b.window[b.from : b.from+b.kept+n]
	if b.Scrubber == nil {
		b.from += n
		return in
	}
	out, settled := b.pass(in, last)
	b.from, b.kept, b.sent = b.from+settled, len(in)-settled, max(b.sent-settled, 0)
	return out
}

// Release gives what is held back, and waits no longer for its rest. If that
// comes, and makes a value of it, it is overwritten.
func (b *Body) Release() []byte {
	in := b.window[b.from : b.from+b.kept]
	rest := 0
	for { // a form that could have become a longer one
		at, f := b.Scrubber.next(view(in), rest, true)
		if f == nil {
			break
		}
		rest = at + len(f.text)
	}
	out, _ := b.pass(in, true)
	b.from, b.kept, b.sent = b.from+rest, len(in)-rest, len(in)-rest
	return out
}

// Follow is told what went out elsewhere, behind all that was taken or released.
// The rest of a form that it begins is overwritten when it comes.
func (b *Body) Follow(sent []byte) {
	if b.Scrubber == nil {
		return
	}
	text := append(b.held(), sent[max(0, len(sent)-b.Scrubber.reach):]...)
	open := b.Scrubber.open(view(text))
	b.Free()
	for rest := text[len(text)-open:]; len(rest) > 0; {
		n := copy(b.Room(), rest)
		b.kept, b.sent, rest = b.kept+n, b.sent+n, rest[n:]
	}
}

// Covers says whether a form covers any of the first n bytes of what comes next.
func (b *Body) Covers(next []byte, n int) bool {
	if b.Scrubber == nil {
		return false
	}
	held := b.held()
	text := append(held, next[:min(len(next), n+b.Scrubber.reach)]...)
	return b.Scrubber.covers(view(text), len(held), len(held)+n)
}

// held is a copy of what could begin a form, gone out or not.
func (b *Body) held() []byte { return slices.Clone(b.window[b.from : b.from+b.kept]) }

// Waits says whether something is held back that did not go out.
func (b *Body) Waits() bool { return b.kept > b.sent }

// Held is how many bytes could begin a value, gone out or not.
func (b *Body) Held() int { return b.kept }

// Free gives the window back. Nothing of it may stay for another body.
func (b *Body) Free() {
	b.recycle()
	b.window, b.from, b.kept, b.sent = nil, 0, 0, 0
}

func (b *Body) recycle() {
	switch len(b.window) {
	case smallWindow:
		clear(b.window)
		windows[0].Put((*[smallWindow]byte)(b.window))
	case largeWindow:
		clear(b.window)
		windows[1].Put((*[largeWindow]byte)(b.window))
	}
}

// pass scrubs in, of which the first sent bytes went out before, and says how
// much of it is settled. What comes out lies in it where nothing was found.
func (b *Body) pass(in []byte, last bool) (out []byte, settled int) {
	done := b.sent
	for from := 0; ; {
		at, f := b.Scrubber.next(view(in), from, last)
		if f == nil {
			rest := in[done:max(done, at)]
			if from == 0 {
				return rest, at
			}
			b.out = append(b.out, rest...)
			return b.out, at
		}
		if from == 0 {
			b.out = b.out[:0]
		}
		end := at + len(f.text)
		b.Replaced++
		switch {
		case at < done: // its beginning was let go
			b.out = append(b.out, inert(end-done)...)
		case b.Fixed:
			b.out = append(append(b.out, in[done:at]...), inert(len(f.text))...)
		default:
			b.out = append(append(b.out, in[done:at]...), f.with...)
		}
		from, done = end, end
	}
}

// Whole scrubs a text that is whole, with the forms overwritten at equal length
// where fixed. It answers whether it found any.
func (s *Scrubber) Whole(text []byte, fixed bool) ([]byte, bool) {
	b := Body{Scrubber: s, Fixed: fixed}
	if s == nil {
		return text, false
	}
	out, _ := b.pass(text, true)
	return out, b.Replaced > 0
}

// inert is a mark of length n that is no valid credential.
func inert(n int) string {
	if n <= len(marks) {
		return marks[:n]
	}
	return strings.Repeat("x", n)
}

var marks = strings.Repeat("x", 256)

// Ended says whether what came ends with a blank line, and with it a server-sent
// event: nothing that follows belongs to it, and the client must not wait for that.
func (b *Body) Ended() bool {
	came := b.window[:b.from+b.kept]
	end := string(came[max(0, len(came)-3):])
	return slices.ContainsFunc(blank, func(line string) bool { return strings.HasSuffix(end, line) })
}

// blank are the line ends that a blank line can be made of.
var blank = []string{"\n\n", "\r\r", "\n\r\n"}
