package coding

import (
	"bytes"
	"errors"
	"io"
)

// Weigh looks at the beginning of a body before anybody relies on it: it decodes
// what has come so far, and reads on for as long as that is more than any honest
// body is. It returns the body from its beginning, or ErrMalformed or
// ErrTooLarge when the body is none that can be passed on, or the error of r.
//
// So most lies and bombs are found while they can still be refused. What comes
// later is the Decoder's to find.
func Weigh(name string, r io.Reader) (io.Reader, error) {
	s := &scale{r: r}
	d, err := Decode(name, s)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	discard := make([]byte, 16<<10)
	for err == nil {
		var n int
		n, err = d.Read(discard)
		s.given += int64(n)
	}
	if err != errWeighed && err != io.EOF {
		return nil, err
	}
	return io.MultiReader(&s.kept, after{s}), nil
}

// errWeighed ends the weighing of a body that is not too light.
var errWeighed = errors.New("weighed")

// scale keeps what is read, and says that it is enough when it is.
type scale struct {
	r     io.Reader
	kept  bytes.Buffer
	given int64
	end   error
}

func (s *scale) Read(p []byte) (int, error) {
	if s.kept.Len() > 0 && s.given <= int64(s.kept.Len())*maxRatio {
		return 0, errWeighed
	}
	n, err := s.r.Read(p)
	s.kept.Write(p[:n])
	s.end = err
	return n, err
}

// after is what follows on what was kept.
type after struct{ s *scale }

func (a after) Read(p []byte) (int, error) {
	if a.s.end != nil {
		return 0, a.s.end
	}
	return a.s.r.Read(p)
}
