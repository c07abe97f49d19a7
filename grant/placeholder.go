package grant

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"unsafe"
)

// Marker stands in every placeholder, after the shape. Its first byte is rare
// in JSON, code and base64, which keeps the search for it at memory speed.
const Marker = "zstandin_"

// tailLength is the number of random characters: 26 of 5 bits are 130 bits.
const tailLength = 26

const tailAlphabet = "abcdefghijklmnopqrstuvwxyz234567"

// NewPlaceholder makes a placeholder that begins with shape.
func NewPlaceholder(shape string) string {
	var random [tailLength]byte
	rand.Read(random[:])
	for i, b := range random {
		random[i] = tailAlphabet[b&31]
	}
	return shape + Marker + string(random[:])
}

// Shape returns what stands before the marker of a placeholder, and whether
// text has the form of a placeholder at all.
func Shape(text string) (shape string, ok bool) {
	shape, tail, found := strings.Cut(text, Marker)
	if !found || len(tail) != tailLength || strings.Trim(tail, tailAlphabet) != "" {
		return "", false
	}
	return shape, true
}

// Placeholder is the inert string that stands for a secret.
type Placeholder struct {
	Secret string // the name of the secret
	Text   string
}

// Index finds known placeholders. It is immutable and safe for concurrent use.
type Index struct {
	byTail   map[string]*Placeholder
	maxShape int
	heads    []string // shape and marker, of each shape
}

// NewIndex indexes placeholders, given as a map from a secret's name to its
// placeholder. It refuses texts that are no placeholders, and two secrets with
// one random part, so that none is ever a part of another.
func NewIndex(placeholders map[string]string) (*Index, error) {
	x := &Index{byTail: make(map[string]*Placeholder, len(placeholders))}
	for secret, text := range placeholders {
		shape, ok := Shape(text)
		if !ok {
			return nil, fmt.Errorf("index placeholder of secret %q: not of the form [shape]%s and %d of [a-z2-7]", secret, Marker, tailLength)
		}
		tail := text[len(text)-tailLength:]
		if other := x.byTail[tail]; other != nil {
			return nil, fmt.Errorf("index placeholder of secret %q: secret %q has the same", secret, other.Secret)
		}
		x.byTail[tail] = &Placeholder{Secret: secret, Text: text}
		x.maxShape = max(x.maxShape, len(shape))
		if head := shape + Marker; !slices.Contains(x.heads, head) {
			x.heads = append(x.heads, head)
		}
	}
	return x, nil
}

// Hit is one place where a placeholder stands: text[Start:End] == Placeholder.Text.
type Hit struct {
	Start, End  int
	Placeholder *Placeholder
}

// Next finds the first placeholder in text whose marker begins at from or
// later. It is linear in len(text), whatever the number of known placeholders,
// and allocates nothing. A placeholder that is followed by a letter, a digit or
// an underscore is part of a longer word and is not found.
func (x *Index) Next(text string, from int) (Hit, bool) {
	for from < len(text) {
		i := strings.Index(text[from:], Marker)
		if i < 0 {
			break
		}
		tail := from + i + len(Marker)
		end := tail + tailLength
		from += i + 1
		if end > len(text) || end < len(text) && isWord(text[end]) {
			continue
		}
		p := x.byTail[text[tail:end]]
		if p == nil {
			continue
		}
		if start := end - len(p.Text); start >= 0 && text[start:end] == p.Text {
			return Hit{start, end, p}, true
		}
	}
	return Hit{}, false
}

// held is where the end of text begins that could be the beginning of a
// placeholder, or a whole one that a letter may yet follow; not before from.
func (x *Index) held(text string, from int) int {
	for at := max(from, len(text)-x.reach()+1); at < len(text); at++ {
		for _, head := range x.heads {
			if text[at] != head[0] {
				continue
			}
			rest := text[at:]
			if len(rest) <= len(head) && strings.HasPrefix(head, rest) {
				return at
			}
			if tail, ok := strings.CutPrefix(rest, head); ok && len(tail) <= tailLength && strings.Trim(tail, tailAlphabet) == "" {
				return at
			}
		}
	}
	return len(text)
}

// ends says whether text ends with a placeholder.
func (x *Index) ends(text string) bool {
	at := len(text) - tailLength
	if at < 0 {
		return false
	}
	p := x.byTail[text[at:]]
	return p != nil && strings.HasSuffix(text, p.Text)
}

// All finds every placeholder in text.
func (x *Index) All(text string) []Hit {
	var hits []Hit
	for from := 0; ; {
		hit, ok := x.Next(text, from)
		if !ok {
			return hits
		}
		hits = append(hits, hit)
		from = hit.End
	}
}

// Template is text with {secret} where a placeholder stands: what a record may say.
func (x *Index) Template(text string) string {
	hits := x.All(text)
	for i := len(hits) - 1; i >= 0; i-- {
		text = text[:hits[i].Start] + "{" + hits[i].Placeholder.Secret + "}" + text[hits[i].End:]
	}
	return text
}

// reach is how many bytes before and after a cut can belong to one placeholder,
// the byte that ends it included.
func (x *Index) reach() int { return x.maxShape + len(Marker) + tailLength + 1 }

// view is b as a string, without a copy. It holds only while b is unchanged, so
// it never leaves a function that reads.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// isWord says whether c continues a word, so that a placeholder before it is
// not a whole token.
func isWord(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
