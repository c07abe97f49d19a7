// Package body reads the layout of request bodies as they come: where in a JSON
// text, a form or a multipart form the parts lie that were asked for, and how
// text is written there. Bodies have any size; what is kept of one does not
// grow with it.
//
// It changes nothing and looks for nothing in the parts: what may stand there is
// decided by others. It is stricter than any parser behind it, since a body that
// two parsers read in different ways could hide where a value goes.
//
// Invariant: the pieces do not depend on how a body is cut, but for their number.
package body

import "errors"

// Errors of this package. They hold no part of the body.
var (
	ErrMalformed = errors.New("malformed body")
	ErrRepeated  = errors.New("repeated field") // one that was asked for
)

// Outside is the part of bytes that lie in no part that was asked for.
const Outside = -1

// Piece says about the next Len bytes of a body in which part they lie.
type Piece struct {
	Len  int
	Part int  // index of the name that was asked for, or Outside
	End  bool // the part ends behind these bytes, which may be none
}

// Layout is how one body is laid out.
type Layout interface {
	// Next looks at b, the bytes behind the pieces that it has given. A piece
	// of no bytes that ends nothing says that b is too short to tell.
	Next(b []byte) (Piece, error)
	// End says whether the body may end here, with rest behind the last piece.
	End(rest []byte) error
	// Plain says that raw, of a part, stands for itself.
	Plain(raw []byte) bool
	// Decode appends to t what raw, one or more pieces of a part, stands for.
	Decode(t *Text, raw []byte) error
	// Encode is how value is written in a part, behind the bytes before. It
	// answers false when it cannot stand there safely.
	Encode(value string, before []byte) (string, bool)
}

// Text is decoded, and for each of its bytes says where in the raw bytes its
// origin begins, and at its end where the raw bytes end.
type Text struct {
	Bytes []byte
	At    []int
}

// Reset empties t.
func (t *Text) Reset() { t.Bytes, t.At = t.Bytes[:0], t.At[:0] }

func (t *Text) add(at int, b ...byte) {
	for _, c := range b {
		t.Bytes, t.At = append(t.Bytes, c), append(t.At, at)
	}
}

// Raw is the layout of a body in which nothing was asked for.
type Raw struct{}

// Next gives all of b.
func (Raw) Next(b []byte) (Piece, error) { return Piece{Len: len(b), Part: Outside}, nil }

// End never refuses.
func (Raw) End([]byte) error { return nil }

// Plain is true of everything.
func (Raw) Plain([]byte) bool { return true }

// Decode is not asked of what is plain.
func (Raw) Decode(*Text, []byte) error { return nil }

// Encode writes value as it is.
func (Raw) Encode(value string, _ []byte) (string, bool) { return value, true }
