package grant

import (
	"errors"
	"io"
	"sync"
	"time"

	"standin/grant/body"
	"standin/grant/coding"
	"standin/rules"
)

// windowSize is how much of a body is looked at in one go.
const windowSize = 64 << 10

// windows are buffers for bodies under way.
var windows = sync.Pool{New: func() any { b := make([]byte, windowSize); return &b }}

// stream is a body in which values stand where placeholders stood. Bytes outside
// of a placeholder are those that came. What comes out does not depend on how
// the source is cut.
//
// It is the one place where a value enters a body; put has decided about it
// before, and has recorded it where the body is already on its way.
type stream struct {
	p         *prep
	src       io.Reader
	layout    body.Layout
	surfaces  []rules.Surface // of the layout's parts
	outside   rules.Surface   // of what lies in none of them
	counted   bool            // its format counts bytes, which a value would put out
	put       func(secret string, at rules.Surface) (*held, error)
	misplaced func(secret string) error

	window  *[]byte
	in      []byte // what has come and is not settled
	settled int    // in[:settled] is in out
	scanned int    // in[:scanned] has been laid out
	part    int    // where in[settled:scanned] lies
	before  []byte // the last bytes that went out of this part
	text    body.Text

	ahead   chan arrival // a read that is under way, while bytes are held back
	patient bool         // what is held back has waited, and goes on waiting

	out     []byte
	scratch []byte // where out lies, unless it lies in in[from:to]
	from    int
	to      int
	err     error

	whole  bool // in is all of the body, and what goes out is in pieces
	pieces [][]byte
}

// Read gives what is settled, and reads its source once when nothing is. Errors
// are *Refusal, or those of the source.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.out) == 0 {
		if s.err != nil {
			s.free()
			return 0, s.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		s.fill()
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// free waits for the read that is under way, and gives the window back. Nothing
// of it may stay for another body.
func (s *stream) free() {
	if s.ahead != nil {
		<-s.ahead
		s.ahead = nil
	}
	if s.window != nil {
		clear(*s.window)
		windows.Put(s.window)
		s.window, s.in = nil, nil
	}
}

// fill reads once, lays out what has come and settles what can be.
func (s *stream) fill() {
	if s.window == nil {
		s.window = windows.Get().(*[]byte)
		s.in, s.part = (*s.window)[:0], body.Outside
	}
	s.in = s.in[:copy(s.in, s.in[s.settled:])]
	s.scanned -= s.settled
	s.settled, s.out, s.to = 0, nil, -1
	if len(s.in) == cap(s.in) {
		s.err = malformed(body.ErrMalformed)
		return
	}
	n, err, waited := s.read(s.in[len(s.in):cap(s.in)])
	s.in = s.in[:len(s.in)+n]
	scanned := error(nil)
	if waited {
		scanned = s.release()
	} else {
		scanned = s.scan(err == io.EOF)
	}
	if scanned != nil {
		// What was settled before the fault goes no further, either.
		s.err, s.out = scanned, nil
		return
	}
	s.err = err
}

// moment is how long a client may pause before what looks like the beginning of
// a placeholder is taken for what it most likely is: the end of what the client
// says before it waits for an answer.
const moment = 500 * time.Millisecond

// certain is a length at which a beginning of a placeholder is none by chance.
const certain = 8

// errUnreadable ends a body whose decoder gave up in a way of its own.
var errUnreadable = errors.New("read body: it cannot be decoded")

// arrival is what one read has brought.
type arrival struct {
	b   []byte
	err error
}

// read reads the source once. While bytes are held back it waits for a moment
// only, and goes on with the same read when it is called again.
func (s *stream) read(p []byte) (n int, err error, waited bool) {
	if s.ahead == nil {
		if s.settled == s.scanned {
			n, err = s.src.Read(p)
			return n, err, false
		}
		ahead, src, size := make(chan arrival, 1), s.src, min(len(p), 4<<10)
		s.ahead = ahead
		host := s.p.r.At.Host
		go func() {
			a := arrival{err: errUnreadable} // of a decoder that panics
			defer func() {
				_ = recover() // its text may hold anything
				ahead <- a
			}()
			b := make([]byte, size)
			Fault("upload", host)
			n, err := src.Read(b)
			a = arrival{b[:n], err}
		}()
	}
	var late <-chan time.Time
	if !s.patient {
		timer := time.NewTimer(moment)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case a := <-s.ahead:
		s.ahead, s.patient = nil, false
		return copy(p, a.b), a.err, false
	case <-late:
		s.patient = true
		return 0, nil, true
	}
}

// release lets go of what was held back for a moment: a placeholder is whole
// when nothing follows it, and a letter or two are none.
func (s *stream) release() error {
	if rest := s.scanned - s.settled; rest < certain || s.p.s.index.ends(view(s.in[s.settled:s.scanned])) {
		return s.settle(true)
	}
	return nil
}

func (s *stream) scan(last bool) error {
	for {
		piece, err := s.layout.Next(s.in[s.scanned:])
		if err != nil {
			return malformed(err)
		}
		if piece.Len == 0 && !piece.End {
			break
		}
		if piece.Part != s.part {
			if err := s.settle(true); err != nil {
				return err
			}
			s.part, s.before = piece.Part, s.before[:0]
		}
		s.scanned += piece.Len
		if piece.End {
			if err := s.settle(true); err != nil {
				return err
			}
		}
	}
	if last {
		if err := s.layout.End(s.in[s.scanned:]); err != nil {
			return malformed(err)
		}
	}
	return s.settle(last)
}

// settle puts values in, up to where a placeholder may have begun whose rest has
// not come; when the part is whole, up to its end.
func (s *stream) settle(whole bool) error {
	raw := s.in[s.settled:s.scanned]
	text, at := raw, func(i int) int { return i }
	if s.part != body.Outside && !s.layout.Plain(raw) {
		s.text.Reset()
		if err := s.layout.Decode(&s.text, raw); err != nil {
			return malformed(err)
		}
		text, at = s.text.Bytes, func(i int) int { return s.text.At[i] }
	}
	index, start := s.p.s.index, s.settled
	from, done := 0, 0
	for {
		hit, ok := index.Next(view(text), from)
		if !ok || !whole && hit.End == len(text) {
			break
		}
		if hit.Start >= from {
			s.emit(start+done, start+at(hit.Start))
			done = at(hit.Start)
			value, err := s.value(hit.Placeholder.Secret)
			if err != nil {
				return err
			}
			if value != "" {
				s.write(value)
				done = at(hit.End)
			}
		}
		from = hit.End
	}
	end := len(text)
	if !whole {
		end = index.held(view(text), from)
	}
	s.emit(start+done, start+at(end))
	s.settled = start + at(end)
	return nil
}

// value is what stands for a placeholder here, written as its place wants it;
// "" where it stays.
func (s *stream) value(secret string) (string, error) {
	at, layout := s.outside, body.Layout(body.Raw{})
	if at.Kind == rules.WebSocket {
		layout = utf8Only{}
	}
	if s.part != body.Outside && s.p.allows(secret, s.surfaces[s.part]) {
		at, layout = s.surfaces[s.part], s.layout
	}
	if !s.p.allows(secret, at) || fault == "substitution" {
		return "", s.misplaced(secret)
	}
	if s.counted {
		return "", &Refusal{Code: "unsafe_value", Secret: secret, Surface: at.String()}
	}
	held, err := s.put(secret, at)
	if err != nil {
		return "", err
	}
	text, ok := layout.Encode(held.text(), s.before)
	if !ok {
		return "", &Refusal{Code: "unsafe_value", Secret: secret, Surface: at.String()}
	}
	return text, nil
}

// emit passes in[from:to] on. As long as nothing was put in, out lies in it.
func (s *stream) emit(from, to int) {
	switch {
	case from == to:
		return
	case s.whole:
		s.pieces = append(s.pieces, s.in[from:to])
	case len(s.out) == 0 && s.to < 0:
		s.from, s.to = from, to
		s.out = s.in[from:to:to]
	case s.to == from:
		s.to = to
		s.out = s.in[s.from:to:to]
	default:
		s.write(view(s.in[from:to]))
		return
	}
	s.remember(view(s.in[from:to]))
}

// write passes on what does not lie in in.
func (s *stream) write(text string) {
	s.remember(text)
	if s.whole {
		s.pieces = append(s.pieces, []byte(text))
		return
	}
	if s.to != len(s.in)+1 {
		s.scratch = append(s.scratch[:0], s.out...)
		s.to = len(s.in) + 1 // no piece begins there
	}
	s.scratch = append(s.scratch, text...)
	s.out = s.scratch
}

// remember keeps the end of what went out, for values that mind it.
func (s *stream) remember(b string) {
	const enough = 80 // CRLF, two dashes and a boundary
	s.before = append(s.before, b[max(0, len(b)-enough):]...)
	if extra := len(s.before) - enough; extra > 0 {
		s.before = s.before[:copy(s.before, s.before[extra:])]
	}
}

// malformed is the refusal of a body that is not as its rule reads it.
func malformed(err error) *Refusal {
	if errors.Is(err, coding.ErrTooLarge) {
		return &Refusal{Code: "body_too_large", Surface: "body", Cause: err}
	}
	return &Refusal{Code: "bad_request", Surface: "body", Cause: err}
}

// recoded gives the errors of a decoder their codes.
type recoded struct{ *coding.Decoder }

func (r recoded) Read(p []byte) (int, error) {
	n, err := r.Decoder.Read(p)
	if errors.Is(err, coding.ErrTooLarge) || errors.Is(err, coding.ErrMalformed) {
		err = malformed(err)
	}
	return n, err
}
