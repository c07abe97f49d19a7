package body

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a JSON body.
const maxDepth = 512

// JSON is the layout of one JSON text (RFC 8259). Its parts are the strings at
// pointers (RFC 6901), without their quotes; a pointer that leads to something
// else is no match. Names repeated on the way to one are ErrRepeated.
type JSON struct {
	pointers [][]string
	longest  int // raw bytes of the longest name that a pointer can match
	begun    bool
	state    jsonState
	stack    []level
	next     []int  // the pointers that the path of the next value is a prefix of
	part     int    // where the string at hand is a part
	key      []byte // the raw name at hand, where it matters
	number   numberState
	word     string // what is to come of true, false or null
}

// level is one open array or object.
type level struct {
	array    bool
	n        int          // elements of an array so far
	alive    []int        // the pointers that its path is a prefix of
	answered map[int]bool // those that one of its names was the next step of
}

type jsonState uint8

const (
	beforeValue jsonState = iota
	beforeFirst           // value or "]"
	beforeName            // after ","
	beforeFirstName
	beforeColon
	afterValue
	inName
	inText
	inPart
	atQuote // behind a part
	inNumber
	inWord
)

type numberState uint8

const (
	afterMinus numberState = iota
	afterZero
	inInteger
	afterDot
	inFraction
	afterE
	afterSign
	inExponent
)

// NewJSON asks for the strings at pointers.
func NewJSON(pointers []string) *JSON {
	j := &JSON{part: Outside}
	for i, p := range pointers {
		var steps []string
		if p != "" {
			steps = strings.Split(p[1:], "/")
		}
		for k := range steps {
			steps[k] = strings.NewReplacer("~1", "/", "~0", "~").Replace(steps[k])
			j.longest = max(j.longest, 6*len(steps[k]))
		}
		j.pointers, j.next = append(j.pointers, steps), append(j.next, i)
	}
	return j
}

// End says whether the text is complete. No bytes at all are no malformed text.
func (j *JSON) End(rest []byte) error {
	complete := j.state == afterValue || j.state == inNumber && j.number.complete()
	if len(rest) > 0 || j.begun && (!complete || len(j.stack) > 0) {
		return ErrMalformed
	}
	return nil
}

// Next gives all up to the next part, or what has come of one.
func (j *JSON) Next(b []byte) (Piece, error) {
	if j.state == inPart {
		n, closed, err := text(b)
		if closed {
			j.state = atQuote
		}
		return Piece{n, j.part, closed}, err
	}
	j.begun = j.begun || len(b) > 0
	i := 0
	for i < len(b) {
		switch j.state {
		case inText, inName:
			n, closed, err := text(b[i:])
			if err != nil {
				return Piece{}, err
			}
			if j.state == inName && len(j.stack[len(j.stack)-1].alive) > 0 && len(j.key) <= j.longest {
				j.key = append(j.key, b[i:i+n]...)
			}
			i += n
			if !closed {
				return Piece{Len: i, Part: Outside}, nil
			}
			i++
			if err := j.closed(); err != nil {
				return Piece{}, err
			}
		case inNumber:
			n, ended, ok := j.digits(b[i:])
			if i += n; !ok {
				return Piece{}, ErrMalformed
			}
			if ended {
				j.state = afterValue
			}
		default:
			if err := j.step(b[i]); err != nil {
				return Piece{}, err
			}
			if i++; j.state == inPart {
				return Piece{Len: i, Part: Outside}, nil
			}
		}
	}
	return Piece{Len: i, Part: Outside}, nil
}

// closed is called behind the quote that ends a string that is no part.
func (j *JSON) closed() error {
	if j.state == inText {
		j.state = afterValue
		return nil
	}
	j.state = beforeColon
	top := &j.stack[len(j.stack)-1]
	if len(top.alive) == 0 || len(j.key) > j.longest {
		return nil
	}
	name, depth := j.key, len(j.stack)-1
	if !j.Plain(name) {
		name = []byte(unescapeJSON(name))
	}
	for _, i := range top.alive {
		if len(j.pointers[i]) <= depth || j.pointers[i][depth] != string(name) {
			continue
		}
		if top.answered[i] {
			return ErrRepeated
		}
		if top.answered == nil {
			top.answered = map[int]bool{}
		}
		top.answered[i] = true
		j.next = append(j.next, i)
	}
	return nil
}

// step takes one byte outside of strings and numbers.
func (j *JSON) step(c byte) error {
	if j.state == inWord {
		if c != j.word[0] {
			return ErrMalformed
		}
		if j.word = j.word[1:]; j.word == "" {
			j.state = afterValue
		}
		return nil
	}
	if c == ' ' || c == '\t' || c == '\n' || c == '\r' {
		return nil
	}
	switch j.state {
	case atQuote:
		j.state = afterValue
		return nil
	case beforeFirst:
		if c == ']' {
			return j.pop()
		}
		return j.value(c)
	case beforeValue:
		return j.value(c)
	case beforeFirstName, beforeName:
		if c == '}' && j.state == beforeFirstName {
			return j.pop()
		}
		if c == '"' {
			j.state, j.key, j.next = inName, j.key[:0], j.next[:0]
			return nil
		}
	case beforeColon:
		if c == ':' {
			j.state = beforeValue
			return nil
		}
	case afterValue:
		return j.after(c)
	}
	return ErrMalformed
}

// after takes what follows a value in an array or object.
func (j *JSON) after(c byte) error {
	if len(j.stack) == 0 {
		return ErrMalformed
	}
	top := &j.stack[len(j.stack)-1]
	switch {
	case c == ',' && top.array:
		top.n++
		j.element()
		j.state = beforeValue
	case c == ',':
		j.state = beforeName
	case c == ']' && top.array, c == '}' && !top.array:
		return j.pop()
	default:
		return ErrMalformed
	}
	return nil
}

func (j *JSON) pop() error {
	j.stack = j.stack[:len(j.stack)-1]
	j.state = afterValue
	return nil
}

// element finds the pointers that go on to the next element of an array.
func (j *JSON) element() {
	top, depth := &j.stack[len(j.stack)-1], len(j.stack)-1
	j.next = j.next[:0]
	if len(top.alive) == 0 {
		return
	}
	index := strconv.Itoa(top.n)
	for _, i := range top.alive {
		if len(j.pointers[i]) > depth && j.pointers[i][depth] == index {
			j.next = append(j.next, i)
		}
	}
}

// value begins a value with its first byte.
func (j *JSON) value(c byte) error {
	switch {
	case c == '"':
		j.state = inText
		for _, i := range j.next {
			if len(j.pointers[i]) == len(j.stack) {
				j.state, j.part = inPart, i
			}
		}
	case c == '{' || c == '[':
		if len(j.stack) == maxDepth {
			return ErrMalformed
		}
		var alive []int
		if len(j.next) > 0 {
			alive = append(alive, j.next...)
		}
		j.stack = append(j.stack, level{array: c == '[', alive: alive})
		if j.state = beforeFirstName; c == '[' {
			j.state = beforeFirst
			j.element()
		}
	case c == '-':
		j.state, j.number = inNumber, afterMinus
	case c == '0':
		j.state, j.number = inNumber, afterZero
	case '1' <= c && c <= '9':
		j.state, j.number = inNumber, inInteger
	case c == 't':
		j.state, j.word = inWord, "rue"
	case c == 'f':
		j.state, j.word = inWord, "alse"
	case c == 'n':
		j.state, j.word = inWord, "ull"
	default:
		return ErrMalformed
	}
	return nil
}

// complete says whether a number may end here.
func (s numberState) complete() bool {
	return s == afterZero || s == inInteger || s == inFraction || s == inExponent
}

// digits reads -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)? up to its end.
func (j *JSON) digits(b []byte) (n int, ended, ok bool) {
	s := j.number
	for n < len(b) {
		c := b[n]
		digit := '0' <= c && c <= '9'
		switch {
		case digit && (s == inInteger || s == inFraction || s == inExponent):
		case digit && s == afterMinus && c == '0':
			s = afterZero
		case digit && s == afterMinus:
			s = inInteger
		case digit && s == afterDot:
			s = inFraction
		case digit && (s == afterE || s == afterSign):
			s = inExponent
		case c == '.' && (s == afterZero || s == inInteger):
			s = afterDot
		case c|0x20 == 'e' && (s == afterZero || s == inInteger || s == inFraction):
			s = afterE
		case (c == '+' || c == '-') && s == afterE:
			s = afterSign
		default:
			return n, true, s.complete()
		}
		n++
	}
	j.number = s
	return n, false, true
}

// Plain says that raw holds no escape.
func (j *JSON) Plain(raw []byte) bool { return bytes.IndexByte(raw, '\\') < 0 }

// Decode undoes the escapes of raw, which is valid.
func (j *JSON) Decode(t *Text, raw []byte) error {
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			t.add(i, raw[i])
			i++
			continue
		}
		r, n := unescape(raw[i:])
		var b [utf8.UTFMax]byte
		t.add(i, b[:utf8.EncodeRune(b[:], r)]...)
		i += n
	}
	t.At = append(t.At, len(raw))
	return nil
}

// Encode writes value as it stands between the quotes of a JSON string.
func (j *JSON) Encode(value string, _ []byte) (string, bool) {
	if !utf8.ValidString(value) {
		return "", false
	}
	return EscapeJSON(value), true
}

// EscapeJSON is text as it stands between the quotes of a JSON string.
func EscapeJSON(text string) string {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(text); err != nil {
		return ""
	}
	quoted := bytes.TrimSuffix(out.Bytes(), []byte("\n"))
	return string(quoted[1 : len(quoted)-1])
}
