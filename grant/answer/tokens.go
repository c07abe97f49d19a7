package answer

import (
	"bytes"
	"slices"
)

// tokens looks for new credentials as OAuth servers hand them out (RFC 6749,
// 5.1; OpenID Connect Core, 3.1.3.3): the string behind "access_token",
// "refresh_token" or "id_token" in JSON, or in a form. It holds nothing back: the
// name passes, and of the value nothing does where credentials are stripped.
//
// It reads names as they are mostly written, not escaped, and it takes a
// string for a name by the colon that follows it.
type tokens struct {
	strip bool
	form  bool // name=value&name=value instead of JSON
	found []string

	state  state
	name   string
	passed int64  // bytes that came before
	tail   []byte // the last of them
	out    []byte
}

// state is where in a pair the next byte stands.
type state uint8

const (
	outside state = iota
	named         // behind a name, before the colon
	colon         // behind the colon, before the value
	inside        // in a value
	escaped       // in a value, behind a backslash
)

// tokenWord is the end of all names. The search for it is as fast as memory.
var tokenWord = []byte("_token")

var tokenNames = []string{"access_token", "refresh_token", "id_token"}

// longestName is that of a name with what stands before and behind it.
const longestName = len(`"refresh_token"`)

// pass returns p without the values of tokens, when they are stripped. It holds
// until the next call.
func (t *tokens) pass(p []byte) []byte {
	if t.state == outside {
		if at := t.next(p, 0); at < 0 {
			t.keep(p)
			return p
		}
	}
	t.out = t.out[:0]
	for at := 0; at < len(p); {
		if t.state == outside {
			end := t.next(p, at)
			if end < 0 {
				t.out = append(t.out, p[at:]...)
				break
			}
			t.out = append(t.out, p[at:end]...)
			at, t.state = end, named
			if t.form {
				t.state = colon
			}
			continue
		}
		if t.step(p[at]) {
			t.out = append(t.out, p[at])
		}
		at++
	}
	t.keep(p)
	return t.out
}

// next is the end of the first name in p that ends behind from, or -1. It may
// have begun in what passed before.
func (t *tokens) next(p []byte, from int) int {
	if before := len(t.tail); before > 0 && from < longestName {
		seam := append(t.tail, p[:min(len(p), longestName)]...)
		for at := 0; ; {
			i := bytes.Index(seam[at:], tokenWord)
			if i < 0 {
				break
			}
			at += i + len(tokenWord)
			if end := t.named(seam, at, t.passed-int64(before)); end > before+from {
				return end - before
			}
		}
	}
	for at := from; ; {
		i := bytes.Index(p[at:], tokenWord)
		if i < 0 {
			return -1
		}
		at += i + len(tokenWord)
		if end := t.named(p, at, t.passed); end > from {
			return end
		}
	}
}

// named is the end of the name in b whose word ends at at, or 0. The place of b in
// the body is base.
func (t *tokens) named(b []byte, at int, base int64) int {
	before, behind := byte('"'), byte('"')
	if t.form {
		before, behind = '&', '='
	}
	if at >= len(b) || b[at] != behind {
		return 0
	}
	for _, name := range tokenNames {
		start := at - len(name)
		if start < 0 || string(b[start:at]) != name {
			continue
		}
		if start > 0 && b[start-1] == before || t.form && base+int64(start) == 0 {
			t.name = name
			return at + 1
		}
	}
	return 0
}

// step moves by one byte and says whether it passes.
func (t *tokens) step(c byte) bool {
	switch t.state {
	case named:
		if c == ':' {
			t.state = colon
		} else if !space(c) {
			t.state = outside
		}
	case colon:
		switch {
		case t.form && c != '&':
			t.note()
			t.state = inside
			return !t.strip
		case !t.form && c == '"':
			t.note()
			t.state = inside
		case t.form || !space(c):
			t.state = outside
		}
	case inside:
		switch {
		case t.form && c == '&', !t.form && c == '"':
			t.state = outside
			return true
		case !t.form && c == '\\':
			t.state = escaped
		}
		return !t.strip
	case escaped:
		t.state = inside
		return !t.strip
	}
	return true
}

func (t *tokens) note() {
	if !slices.Contains(t.found, t.name) {
		t.found = append(t.found, t.name)
	}
}

// keep remembers the end of what came, in which a name may have begun.
func (t *tokens) keep(p []byte) {
	t.passed += int64(len(p))
	if t.tail == nil {
		t.tail = make([]byte, 0, 3*longestName) // the seam is put together behind it
	}
	if len(p) >= longestName {
		t.tail = append(t.tail[:0], p[len(p)-longestName:]...)
		return
	}
	t.tail = append(t.tail, p...)
	if extra := len(t.tail) - longestName; extra > 0 {
		t.tail = t.tail[:copy(t.tail, t.tail[extra:])]
	}
}

func space(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }
