package answer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"standin/grant/coding"
	"standin/grant/scrub"
)

// frames scrubs a stream of messages that stand behind their length, as gRPC and
// Connect send them: a byte of flags and four of length. A message is held until
// it is whole, since its length may change, and goes out at once then. One that
// is larger than maxMessage streams, with values overwritten at equal length.
//
// What this reads as lengths and messages a client may read as one text, and a
// host that echoes puts their edges where it is told to. So a length in which a
// form of a value stands is none, and the rest of a form that begins at the end
// of a message is overwritten.
type frames struct {
	body   *scrub.Body // what it finds is counted there; it holds the tail of a message that streams
	coding string      // of messages whose flags say that they are compressed
	in     []byte      // what has come and did not go out
	out    []byte
	stream int64 // bytes to come of a message that streams; -1: what comes is not framed
	err    error
}

// maxMessage is what gRPC libraries take at most unless they are told to take more.
const maxMessage = 4 << 20

const (
	frameHead  = 5
	compressed = 1
)

var errMessage = errors.New("a compressed message cannot be read")

func (f *frames) Room() []byte {
	const enough = 16 << 10
	if cap(f.in)-len(f.in) < enough/4 {
		f.in = slices.Grow(f.in, enough)
	}
	return f.in[len(f.in):min(cap(f.in), len(f.in)+4*enough)]
}

func (f *frames) Take(n int, last bool) []byte {
	f.in, f.out = f.in[:len(f.in)+n], f.out[:0]
	at := 0
	for f.err == nil && at < len(f.in) {
		used := f.one(f.in[at:], last)
		if used == 0 {
			break
		}
		at += used
	}
	if last && f.err == nil {
		f.out = append(f.out, f.body.Release()...)
	}
	f.in = f.in[:copy(f.in, f.in[at:])]
	if len(f.in) == 0 && cap(f.in) > largeBuffer {
		f.in = nil
	}
	return f.out
}

// largeBuffer is what is not kept from one message for the next.
const largeBuffer = 256 << 10

// one deals with what stands first in b, and says how much of it that was.
func (f *frames) one(b []byte, last bool) int {
	if f.stream != 0 {
		n := len(b)
		if f.stream > 0 {
			n = int(min(int64(n), f.stream))
			f.stream -= int64(n)
		}
		f.streamed(b[:n])
		if f.stream == 0 {
			f.out = append(f.out, f.body.Release()...)
		}
		return n
	}
	if len(b) < frameHead {
		if last {
			f.stream = -1
			return f.one(b, last)
		}
		return 0
	}
	size := int64(binary.BigEndian.Uint32(b[1:]))
	whole := frameHead + size
	switch {
	case b[0]&^0x83 != 0: // flags that neither gRPC nor Connect knows: it is something else
		f.stream = -1
		return f.one(b, last)
	case size > maxMessage && b[0]&compressed != 0:
		f.err = errMessage
		return 0
	case size > maxMessage || last && int64(len(b)) < whole:
		f.stream = whole // its length may be the beginning of a value
		return f.one(b, last)
	case int64(len(b)) < whole:
		return 0
	}
	if f.body.Covers(b[:whole], frameHead) {
		f.stream = -1
		return f.one(b, last)
	}
	from := len(f.out)
	f.message(b[0], b[frameHead:whole])
	f.body.Follow(f.out[from:])
	return int(whole)
}

// streamed scrubs a piece of a message that is not held.
func (f *frames) streamed(b []byte) {
	f.body.Fixed = true
	for {
		n := copy(f.body.Room(), b)
		b = b[n:]
		f.out = append(f.out, f.body.Take(n, false)...)
		if len(b) == 0 {
			return
		}
	}
}

// message scrubs a message that is whole. One without a value stays as it is.
func (f *frames) message(flags byte, text []byte) {
	plain := text
	if flags&compressed != 0 {
		if plain, f.err = unpacked(f.coding, text); f.err != nil {
			return
		}
	}
	_, found := f.body.Scrubber.Whole(plain, true)
	if !found && flags&compressed != 0 { // packing it again drops what stands beside the text
		_, found = f.body.Scrubber.Whole(text, true)
	}
	if !found {
		f.append(flags, text)
		return
	}
	f.body.Replaced++
	scrubbed, ok := relength(f.body.Scrubber, plain, 0)
	if !ok {
		scrubbed, _ = f.body.Scrubber.Whole(plain, false)
	}
	if flags&compressed != 0 {
		if scrubbed, f.err = packed(f.coding, scrubbed); f.err != nil {
			return
		}
	}
	f.append(flags, scrubbed)
}

func (f *frames) append(flags byte, text []byte) {
	f.out = append(f.out, flags)
	f.out = binary.BigEndian.AppendUint32(f.out, uint32(len(text)))
	f.out = append(f.out, text...)
}

func unpacked(name string, text []byte) ([]byte, error) {
	d, err := coding.Decode(name, bytes.NewReader(text))
	if err != nil {
		return nil, errMessage
	}
	defer d.Close()
	plain, err := io.ReadAll(io.LimitReader(d, maxMessage+1))
	if err != nil || len(plain) > maxMessage {
		return nil, errMessage
	}
	return plain, nil
}

func packed(name string, text []byte) ([]byte, error) {
	e, err := coding.Encode(name, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(e)
}

// Release gives nothing: a client can do nothing with half a message.
func (f *frames) Release() []byte { return nil }

// Waits says that nothing waits for the clock.
func (f *frames) Waits() bool { return false }

func (f *frames) Free() {
	f.body.Free()
	f.in, f.out = nil, nil
}
