package coding

import (
	"bytes"
	"io"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// Encoder reads a body into a coding. Whatever one Read of its source gives is
// passed on whole before the source is read again, so that nothing waits in it.
type Encoder struct {
	src    io.Reader
	enc    compressor
	open   func(io.Writer) (compressor, error)
	out    bytes.Buffer
	window []byte
	err    error
}

type compressor interface {
	io.WriteCloser
	Flush() error
}

// Encode reads src into the coding of d, deflate in the form that d found. An
// empty source stays empty: a body of no bytes has no coding.
func (d *Decoder) Encode(src io.Reader) *Encoder {
	return &Encoder{src: src, open: func(w io.Writer) (compressor, error) { return compress(d.name, d.raw, w) }}
}

// Encode reads src into a coding that Parse has named.
func Encode(name string, src io.Reader) (*Encoder, error) {
	if _, err := Decode(name, src); err != nil {
		return nil, err
	}
	return &Encoder{src: src, open: func(w io.Writer) (compressor, error) { return compress(name, false, w) }}, nil
}

// compress is quick rather than thorough: a body passes once, over a network
// that is mostly faster than the best level.
func compress(name string, raw bool, w io.Writer) (compressor, error) {
	switch {
	case name == "gzip":
		return gzip.NewWriterLevel(w, 3)
	case name == "br":
		return brotli.NewWriterOptions(w, brotli.WriterOptions{Quality: 3, LGWin: 18}), nil
	case name == "zstd":
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
			zstd.WithWindowSize(512<<10), zstd.WithEncoderLevel(zstd.SpeedFastest))
	case raw:
		return flate.NewWriter(w, 3)
	}
	return zlib.NewWriterLevel(w, 3)
}

// Read gives what is encoded. An error of the source is passed on as it is, and
// what was encoded then has no end: it cannot be taken for a whole body.
func (e *Encoder) Read(p []byte) (int, error) {
	for e.out.Len() == 0 && len(p) > 0 {
		if e.err != nil {
			return 0, e.err
		}
		e.fill()
	}
	return e.out.Read(p)
}

// Writer puts a body into a coding, piece by piece.
type Writer struct {
	like *Decoder
	to   io.Writer
	enc  compressor
}

// Writer writes to w in the coding of d.
func (d *Decoder) Writer(w io.Writer) *Writer {
	return &Writer{like: d, to: w}
}

// Put writes p so that whoever reads has all of it; when last, so that the body
// ends. One that came without a byte stays so: it has no coding.
func (w *Writer) Put(p []byte, last bool) (err error) {
	if w.enc == nil {
		if len(p) == 0 && (!last || w.like.src.n == 0) {
			return nil
		}
		if w.enc, err = compress(w.like.name, w.like.raw, w.to); err != nil {
			return err
		}
	}
	if _, err = w.enc.Write(p); err != nil {
		return err
	}
	if last {
		return w.enc.Close()
	}
	return w.enc.Flush()
}

// Ready is how many bytes can be read without reading the source.
func (e *Encoder) Ready() int { return e.out.Len() }

func (e *Encoder) fill() {
	if e.window == nil {
		e.window = make([]byte, 32<<10)
	}
	n, err := e.src.Read(e.window)
	e.err = err
	if e.enc == nil && n > 0 {
		if e.enc, e.err = e.open(&e.out); e.err != nil {
			return
		}
		e.err = err
	}
	if n > 0 {
		_, werr := e.enc.Write(e.window[:n])
		if werr == nil && err == nil {
			werr = e.enc.Flush()
		}
		if werr != nil {
			e.err = werr
		}
	}
	if e.err == io.EOF && e.enc != nil {
		if cerr := e.enc.Close(); cerr != nil {
			e.err = cerr
		}
	}
}
