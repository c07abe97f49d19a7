package websocket

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// header is the head of a frame.
type header struct {
	fin    bool
	op     Op
	length uint64
	mask   [4]byte
}

// reader reads the frames of one end.
type reader struct {
	in     io.Reader
	client bool // its frames are masked, those of an upstream are not
	within bool // a message is under way
}

func (r *reader) violation(reason string) error {
	return &Violation{Code: ProtocolError, Reason: reason, Client: r.client}
}

// next reads the head of a frame. Whatever RFC 6455 does not allow there is a
// *Violation; other errors are those of the connection.
func (r *reader) next() (header, error) {
	var b [8]byte
	if _, err := io.ReadFull(r.in, b[:2]); err != nil {
		return header{}, err
	}
	h := header{fin: b[0]&0x80 != 0, op: Op(b[0] & 0x0f), length: uint64(b[1] & 0x7f)}
	masked := b[1]&0x80 != 0
	switch {
	case b[0]&0x70 != 0:
		return h, r.violation("a reserved bit is set")
	case !h.op.known():
		return h, r.violation("a reserved kind of frame")
	case masked != r.client:
		return h, r.violation("masked where it must not be, or not where it must")
	case h.op.control() && !h.fin:
		return h, r.violation("a control frame in fragments")
	case h.op.control() && h.length > MaxControl:
		return h, r.violation("a control frame that is too long")
	case h.op == Continuation && !r.within:
		return h, r.violation("a continuation of nothing")
	case (h.op == Text || h.op == Binary) && r.within:
		return h, r.violation("a message within another")
	}
	if !h.op.control() {
		r.within = !h.fin
	}
	if err := r.length(&h, b[:]); err != nil {
		return h, err
	}
	if masked {
		if _, err := io.ReadFull(r.in, h.mask[:]); err != nil {
			return h, err
		}
	}
	return h, nil
}

// length reads a length of 16 or 64 bits, which must be the shortest way to
// write it (RFC 6455, 5.2).
func (r *reader) length(h *header, b []byte) error {
	size, least := 0, uint64(0)
	switch h.length {
	case 126:
		size, least = 2, 126
	case 127:
		size, least = 8, 1<<16
	default:
		return nil
	}
	if _, err := io.ReadFull(r.in, b[:size]); err != nil {
		return err
	}
	if size == 2 {
		h.length = uint64(binary.BigEndian.Uint16(b))
	} else {
		h.length = binary.BigEndian.Uint64(b)
	}
	if h.length < least || h.length>>63 != 0 {
		return r.violation("a length that is not written as it must be")
	}
	return nil
}

// payload reads all of b, which begins at an offset of the frame's payload, and
// takes the mask off.
func (r *reader) payload(h header, b []byte, offset uint64) error {
	if _, err := io.ReadFull(r.in, b); err != nil {
		return err
	}
	if r.client {
		maskBytes(b, h.mask, int(offset%4))
	}
	return nil
}

// maskBytes puts a mask on b, or takes it off; from says where in the mask b begins.
func maskBytes(b []byte, mask [4]byte, from int) {
	var wide [8]byte
	for i := range wide {
		wide[i] = mask[(from+i)%4]
	}
	key := binary.LittleEndian.Uint64(wide[:])
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^key)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= wide[i]
	}
}

// writer writes frames to one end, whole ones, from any goroutine.
type writer struct {
	conn   net.Conn
	mask   bool        // what goes to an upstream is masked
	over   atomic.Bool // the relay ends: only a goodbye may go out, and soon
	mu     sync.Mutex
	closed bool // a Close went out, behind which nothing may
	buffer []byte
}

// frame writes a frame, of a payload of at most a window. Of a relay that ends,
// and after a Close, none goes out any more.
func (w *writer) frame(fin bool, op Op, payload []byte, patience time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.over.Load() {
		return nil
	}
	w.conn.SetWriteDeadline(time.Now().Add(patience))
	if w.over.Load() {
		w.conn.SetWriteDeadline(time.Now().Add(linger))
	}
	return w.write(fin, op, payload)
}

// end lets no further frame out, and makes one that is being written fail if it
// does not go out soon.
func (w *writer) end() {
	w.over.Store(true)
	w.conn.SetWriteDeadline(time.Now().Add(linger))
}

// goodbye says that the connection closes.
func (w *writer) goodbye(code uint16, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.write(true, Close, append(binary.BigEndian.AppendUint16(nil, code), reason...))
	}
}

func (w *writer) write(fin bool, op Op, payload []byte) error {
	w.closed = op == Close
	b := w.buffer[:0]
	first, second := byte(op), byte(0)
	if fin {
		first |= 0x80
	}
	if w.mask {
		second = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		b = append(b, first, second|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, first, second|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, first, second|127), uint64(n))
	}
	var mask [4]byte
	if w.mask {
		rand.Read(mask[:]) // a new one for each frame: RFC 6455, 10.3
		b = append(b, mask[:]...)
	}
	head := len(b)
	b = append(b, payload...)
	if w.mask {
		maskBytes(b[head:], mask, 0)
	}
	if w.buffer = b; cap(b) > 4<<10 {
		w.buffer = nil // many connections are idle most of the time
	}
	_, err := w.conn.Write(b)
	return err
}

// checkClose says what is wrong with the payload of a Close.
func (r *reader) checkClose(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if len(b) == 1 {
		return r.violation("half a code")
	}
	switch code := binary.BigEndian.Uint16(b); {
	case code < 1000, 1004 <= code && code <= 1006, 1014 < code && code < 3000, code > 4999:
		return r.violation("a code that nobody may send")
	}
	if !utf8.Valid(b[2:]) {
		return &Violation{Code: InvalidText, Reason: "a reason that is not UTF-8", Client: r.client}
	}
	return nil
}

// text checks that the fragments of a message are UTF-8 together.
type text struct {
	cut [utf8.UTFMax]byte // the beginning of a character of which the rest has not come
	n   int
}

func (t *text) add(b []byte) bool {
	for t.n > 0 && len(b) > 0 {
		t.cut[t.n] = b[0]
		t.n++
		b = b[1:]
		if !utf8.FullRune(t.cut[:t.n]) {
			continue
		}
		if !utf8.Valid(t.cut[:t.n]) {
			return false
		}
		t.n = 0
	}
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		rest := b[len(b)-n:]
		if utf8.RuneStart(rest[0]) {
			if !utf8.FullRune(rest) {
				t.n = copy(t.cut[:], rest)
				b = b[:len(b)-n]
			}
			break
		}
	}
	return utf8.Valid(b)
}

func (t *text) ends() bool { return t.n == 0 }
