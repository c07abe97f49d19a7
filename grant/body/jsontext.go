package body

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Eight bytes at a time: one in each byte, and the high bit of each.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// text reads the inside of a JSON string. It returns how much of b is settled:
// all up to the quote when closed, else what does not end within a character or
// an escape. A lone surrogate is refused: parsers disagree about what it means.
func text(b []byte) (n int, closed bool, err error) {
	quote, slash, words := -1, -1, 0
	for n < len(b) {
		if n+8 <= len(b) {
			// The lowest byte that is marked is one of: a control, a quote, a
			// backslash, or not ASCII. What a borrow marks wrongly lies above it.
			w := binary.LittleEndian.Uint64(b[n:])
			q, s := w^(ones*'"'), w^(ones*'\\')
			marked := ((q-ones)&^q | (s-ones)&^s | (w - ones*' ') | w) & highs
			if marked == 0 {
				n += 8
				if words++; words%4 == 0 {
					// A long text: to the next quote or backslash at memory speed.
					if quote < n {
						quote = next(b, n, len(b), '"')
					}
					if slash < n {
						slash = next(b, n, quote, '\\')
					}
					n += plain(b[n:min(quote, slash)])
				}
				continue
			}
			words = 0
			n += bits.TrailingZeros64(marked) / 8
		}
		switch c := b[n]; {
		case c == '"':
			return n, true, nil
		case c < ' ':
			return n, false, ErrMalformed
		case c == '\\':
			size, err := escape(b[n:])
			if size == 0 || err != nil {
				return n, false, err
			}
			n += size
		case c < utf8.RuneSelf:
			n++
		default:
			r, size := utf8.DecodeRune(b[n:])
			if r == utf8.RuneError && size == 1 {
				if utf8.FullRune(b[n:]) {
					return n, false, ErrMalformed
				}
				return n, false, nil
			}
			n += size
		}
	}
	return n, false, nil
}

// next is where the next c stands in b[from:to], or to. Each is looked for once,
// so that a text of many escapes costs no more than its length.
func next(b []byte, from, to int, c byte) int {
	if i := bytes.IndexByte(b[from:to], c); i >= 0 {
		return from + i
	}
	return to
}

// plain is how many bytes, by 32, b begins with that are ASCII and no controls.
func plain(b []byte) int {
	n := 0
	for ; n+32 <= len(b); n += 32 {
		w := b[n : n+32]
		p, q := binary.LittleEndian.Uint64(w), binary.LittleEndian.Uint64(w[8:])
		r, s := binary.LittleEndian.Uint64(w[16:]), binary.LittleEndian.Uint64(w[24:])
		if (p|(p-ones*' ')|q|(q-ones*' ')|r|(r-ones*' ')|s|(s-ones*' '))&highs != 0 {
			break
		}
	}
	return n
}

// escape is the size of the escape with which b begins, both halves of a pair
// of surrogates included, or 0 when b is too short to tell.
func escape(b []byte) (int, error) {
	if len(b) < 2 {
		return 0, nil
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, nil
	case 'u':
	default:
		return 0, ErrMalformed
	}
	if len(b) < 6 {
		return 0, nil
	}
	high, ok := hex4(b[2:])
	if !ok {
		return 0, ErrMalformed
	}
	if !utf16.IsSurrogate(high) {
		return 6, nil
	}
	if len(b) < 12 {
		return 0, nil
	}
	low, ok := hex4(b[8:])
	if !ok || b[6] != '\\' || b[7] != 'u' || utf16.DecodeRune(high, low) == utf8.RuneError {
		return 0, ErrMalformed
	}
	return 12, nil
}

// hex4 reads four hexadecimal digits.
func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[:4]), 16, 16)
	return rune(n), err == nil
}

// unescape decodes the valid escape with which b begins.
func unescape(b []byte) (r rune, n int) {
	switch b[1] {
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r, _ := hex4(b[2:])
		if !utf16.IsSurrogate(r) {
			return r, 6
		}
		low, _ := hex4(b[8:])
		return utf16.DecodeRune(r, low), 12
	}
	return rune(b[1]), 2
}

func unescapeJSON(raw []byte) string {
	var t Text
	(&JSON{}).Decode(&t, raw)
	return string(t.Bytes)
}
