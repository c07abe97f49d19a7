// Package coding reads and writes the content codings of HTTP bodies: gzip,
// deflate (in the form of zlib, and raw), br and zstd, as streams, in memory
// that does not depend on what is sent.
//
// It knows nothing of requests, placeholders or values, and it never guesses: a
// coding that it does not know, or a chain of several, is an error.
//
// Invariant: a Decoder gives no more bytes than Limit allows for those that it
// was given, and none after the first that is not as its coding says.
package coding

import (
	"bufio"
	"errors"
	"io"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// Errors of this package. They hold nothing of the body.
var (
	ErrUnknown   = errors.New("unknown content coding")
	ErrMalformed = errors.New("the body is not in its content coding")
	ErrTooLarge  = errors.New("the body grows too much when it is decoded")
)

// A body may grow to freeSize, and beyond it to maxRatio times what has come: a
// small body of few different bytes is no bomb, a large one is.
const (
	freeSize = 80 << 20
	maxRatio = 200
)

// maxWindow is how far back a zstd body may refer (RFC 9659). That of br is at
// most 16 MiB, that of deflate 32 KiB.
const maxWindow = 8 << 20

// Limit is how much may come out of a body of which n bytes have gone in.
func Limit(n int64) int64 { return max(freeSize, n*maxRatio) }

// Parse reads the lines of a Content-Encoding field: "" means that the body is
// as it is. A chain of codings is ErrUnknown: servers read it in different ways.
func Parse(lines []string) (string, error) {
	if len(lines) == 0 {
		return "", nil
	}
	name := strings.ToLower(strings.Trim(lines[0], " \t"))
	if len(lines) > 1 {
		return "", ErrUnknown
	}
	switch name {
	case "", "identity":
		return "", nil
	case "x-gzip":
		return "gzip", nil
	case "gzip", "deflate", "br", "zstd":
		return name, nil
	}
	return "", ErrUnknown
}

// Decoder reads a body without its coding.
type Decoder struct {
	name  string
	src   *source
	dec   io.Reader // nil until the first byte has come
	close func()
	raw   bool // "deflate" without the frame of zlib
	given int64
	err   error
}

// source counts what goes in, and keeps an error that is the client's own apart
// from those of the coding.
type source struct {
	r   io.Reader
	n   int64
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// Decode reads r, which is in a coding that Parse has named. Nothing is read
// before the first Read. A body of no bytes is an empty one in every coding.
func Decode(name string, r io.Reader) (*Decoder, error) {
	switch name {
	case "gzip", "deflate", "br", "zstd":
		return &Decoder{name: name, src: &source{r: r}}, nil
	}
	return nil, ErrUnknown
}

// Read gives what can be decoded so far. Errors are those of the source,
// ErrMalformed and ErrTooLarge.
func (d *Decoder) Read(p []byte) (int, error) {
	if d.err != nil || len(p) == 0 {
		return 0, d.err
	}
	n, err := d.read(p)
	d.given += int64(n)
	switch {
	case d.src.err != nil:
		err = d.src.err
	case d.given > Limit(d.src.n):
		n, err = 0, ErrTooLarge
	case errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded):
		err = ErrTooLarge
	case err != nil && err != io.EOF:
		err = ErrMalformed
	}
	d.err = err
	return n, err
}

func (d *Decoder) read(p []byte) (int, error) {
	if d.dec == nil {
		in := bufio.NewReaderSize(d.src, 4<<10)
		if _, err := in.Peek(1); err != nil {
			return 0, err
		}
		if err := d.open(in); err != nil {
			return 0, err
		}
	}
	for {
		if n, err := d.dec.Read(p); n > 0 || err != nil {
			return n, err
		}
	}
}

// open makes the decoder when the body has begun.
func (d *Decoder) open(in *bufio.Reader) (err error) {
	whole := &whole{rest: in}
	switch d.name {
	case "gzip":
		d.dec, err = gzip.NewReader(in)
		return err
	case "zstd":
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return err
		}
		d.dec, d.close = z, z.Close
		return nil
	case "br":
		whole.Reader = brotli.NewReader(in)
	case "deflate":
		head, _ := in.Peek(2)
		if d.raw = len(head) < 2 || head[0]&0x0f != 8 || (int(head[0])<<8|int(head[1]))%31 != 0; d.raw {
			whole.Reader = flate.NewReader(in)
		} else if whole.Reader, err = zlib.NewReader(in); err != nil {
			return err
		}
	}
	d.dec = whole
	return nil
}

// whole is a coding that knows its own end, behind which nothing may follow.
type whole struct {
	io.Reader
	rest *bufio.Reader
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if n > 0 && err == io.EOF {
		return n, nil // the end is asked for once more, when this has been passed on
	}
	if err == io.EOF {
		if _, more := w.rest.Peek(1); more == nil {
			return 0, ErrMalformed
		} else if more != io.EOF {
			return 0, more
		}
	}
	return n, err
}

// Close frees the decoder. It does not close the source.
func (d *Decoder) Close() error {
	if d.close != nil {
		d.close()
		d.close = nil
	}
	d.err = errors.Join(d.err, io.ErrClosedPipe)
	return nil
}
