package grant

import (
	"io"
)

// Watch relays a body and notices the placeholders in it. It changes nothing
// and holds nothing back, so it costs a search for the marker and no latency.
// Found is called once for each placeholder, in the goroutine that reads; an
// error from it ends the body. The answer does not depend on how the stream is
// cut.
func (x *Index) Watch(body io.ReadCloser, found func(*Placeholder) error) io.ReadCloser {
	return &watch{ReadCloser: body, index: x, found: found}
}

type watch struct {
	io.ReadCloser
	index *Index
	found func(*Placeholder) error
	tail  []byte // the last bytes that went by, in which a placeholder may have begun
}

func (w *watch) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if found := w.look(p[:n], err != nil); found != nil {
		return 0, found
	}
	return n, err
}

// look searches the seam between the tail and b, and then b itself.
func (w *watch) look(b []byte, last bool) error {
	from := 0
	if before := len(w.tail); before > 0 {
		reach := w.index.reach()
		seam := append(w.tail, b[:min(len(b), reach)]...)
		if len(b) < reach {
			done, err := w.search(seam, 0, len(seam), last)
			w.keep(seam, done)
			return err
		}
		done, err := w.search(seam, 0, before, false)
		if err != nil {
			return err
		}
		from = max(0, done-before)
	}
	done, err := w.search(b, from, len(b), last)
	w.keep(b, done)
	return err
}

// search reports the placeholders that begin in b[:limit], and returns the end
// of the last one. One that ends with b may still turn out to be part of a
// longer word, unless b is the last of the stream.
func (w *watch) search(b []byte, from, limit int, last bool) (done int, err error) {
	for done = from; ; {
		hit, ok := w.index.Next(view(b), done)
		if !ok || hit.Start >= limit || hit.End == len(b) && !last {
			return done, nil
		}
		if err := w.found(hit.Placeholder); err != nil {
			return done, err
		}
		done = hit.End
	}
}

// keep remembers the end of b, but nothing that was already found.
func (w *watch) keep(b []byte, done int) {
	from := max(done, len(b)-w.index.reach())
	w.tail = append(w.tail[:0], b[from:]...)
}
