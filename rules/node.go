package rules

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// Error is one fault of a rules file. Fix is what to do about it, or "". Neither
// holds a value that could be a secret written into the wrong place.
type Error struct {
	File string
	Line int
	Msg  string
	Fix  string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("load rules %s: %s", quote(e.File), e.Msg)
	}
	return fmt.Sprintf("load rules %s: line %d: %s", quote(e.File), e.Line, e.Msg)
}

const (
	maxSize   = 1 << 20
	splitFix  = "split it: a file for each kind of work, named by --rules"
	maxDepth  = 16 // the grammar needs 6
	maxErrors = 20
)

// document reads the one document of data without decoding it: values keep the
// text, style and line they were written with. It is nil for an empty file.
func document(data []byte) (*yaml.Node, *Error) {
	switch {
	case len(data) > maxSize:
		return nil, &Error{Msg: "larger than 1 MiB", Fix: splitFix}
	case bytes.IndexByte(data, 0) >= 0:
		return nil, &Error{Line: lineOf(data, bytes.IndexByte(data, 0)), Msg: "a NUL byte", Fix: "save the file as UTF-8"}
	case !utf8.Valid(data):
		return nil, &Error{Line: lineOf(data, invalidAt(data)), Msg: "not valid UTF-8", Fix: "save the file as UTF-8"}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	if err := decoder.Decode(&first); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, syntaxError(err, data)
	}
	if err := decoder.Decode(&second); err == nil {
		return nil, &Error{Line: second.Line, Msg: "a second document", Fix: "remove the line --- and keep one document a file"}
	} else if !errors.Is(err, io.EOF) {
		return nil, syntaxError(err, data)
	}
	if err := plain(&first, 0); err != nil {
		return nil, err
	}
	root := first.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	return root, nil
}

func lineOf(data []byte, offset int) int { return 1 + bytes.Count(data[:offset], []byte("\n")) }

func invalidAt(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(data)
}

var (
	yamlLine   = regexp.MustCompile(`line (\d+): `)
	yamlAnchor = regexp.MustCompile(`unknown anchor '(.*)' referenced`)
	yamlQuoted = regexp.MustCompile("['`\"].*['`\"]")
)

// syntaxError turns an error of the YAML parser into ours. Text of the file that
// it quotes is dropped: it could be part of a secret.
func syntaxError(err error, data []byte) *Error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	e := &Error{}
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		text = strings.Replace(text, m[0], "", 1)
	} else if !strings.Contains(text, "anchor") && !strings.Contains(text, "max depth") {
		e.Line = 1 // the parser leaves it out for faults of the first line
	}
	switch {
	case strings.Contains(text, "anchor"):
		// The parser says which, but not where.
		if m := yamlAnchor.FindStringSubmatch(text); m != nil && e.Line == 0 {
			e.Line = lineOf(data, max(0, bytes.Index(data, []byte("*"+m[1]))))
		}
		return &Error{Line: e.Line, Msg: "an anchor or alias", Fix: "write the value out; if it is text that begins with & or *, put it in quotes"}
	case strings.Contains(text, "cannot start any token"):
		e.Fix = "indent with spaces, not tabs, and put text that begins with @, ` or % in quotes"
	case strings.Contains(text, "mapping values are not allowed"):
		e.Fix = "check the indentation, and put text that holds \": \" in quotes"
	case strings.Contains(text, "max depth"):
		e.Fix = "the rules file needs no deep nesting"
	default:
		e.Fix = "check indentation, brackets and quotes there and in the line above"
	}
	e.Msg = "not valid YAML: " + yamlQuoted.ReplaceAllString(text, "…")
	return e
}

// plain refuses everything of YAML that lets a file read otherwise than it works.
func plain(n *yaml.Node, depth int) *Error {
	fault := func(msg, fix string) *Error { return &Error{Line: n.Line, Msg: msg, Fix: fix} }
	switch {
	case depth > maxDepth:
		return fault("nested too deeply", "the rules file needs no deep nesting")
	case n.Anchor != "" || n.Kind == yaml.AliasNode:
		return fault("an anchor or alias", "write the value out; if it is text that begins with & or *, put it in quotes")
	case n.Style&yaml.TaggedStyle != 0:
		return fault("a tag", "remove the word that begins with !, or put text that begins with ! in quotes")
	case n.Tag == "!!merge":
		return fault("a merge key", "write the keys out")
	}
	for _, child := range n.Content {
		if err := plain(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// parser holds what is known while a file is read. Its methods record an error
// and return the zero value, so that one run finds all errors.
type parser struct {
	file string
	pol  *Policy
	errs []error
	path func(string) string // makes a path of the file absolute
}

func (p *parser) fail(line int, fix, format string, args ...any) {
	if len(p.errs) < maxErrors {
		p.errs = append(p.errs, &Error{File: p.file, Line: line, Msg: fmt.Sprintf(format, args...), Fix: fix})
	}
}

// fields names what may stand in a mapping, and reads each value.
type fields map[string]func(*yaml.Node)

func (p *parser) mapping(n *yaml.Node, what string, f fields) bool {
	return p.entries(n, what, func(key, value *yaml.Node) {
		if read := f[key.Value]; read != nil {
			if value.Tag == "!!null" && value.Kind == yaml.ScalarNode {
				p.fail(key.Line, "write a value, or remove the line", "%s: %q has no value", what, key.Value)
				return
			}
			read(value)
			return
		}
		known := sortedKeys(f)
		fix := "known here: " + strings.Join(known, ", ")
		if near := nearest(key.Value, known); near != "" {
			fix = fmt.Sprintf("did you mean %q?", near)
		}
		p.fail(key.Line, fix, "unknown field%s", showField(key.Value))
	})
}

// entries reads a mapping whose keys are names, each at most once.
func (p *parser) entries(n *yaml.Node, what string, each func(key, value *yaml.Node)) bool {
	if n.Kind != yaml.MappingNode {
		p.fail(n.Line, "write it as key: value", "%s is not a mapping", what)
		return false
	}
	seen := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			p.fail(key.Line, "write a name before the colon", "%s: a key that is not a name", what)
			continue
		}
		if line := seen[key.Value]; line != 0 {
			p.fail(key.Line, fmt.Sprintf("it stands in line %d already; keep one of them", line), "%s: a key twice%s", what, showField(key.Value))
			continue
		}
		seen[key.Value] = key.Line
		each(key, value)
	}
	return true
}

// list is the entries of a sequence that is not empty.
func (p *parser) list(n *yaml.Node, what string) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		p.fail(n.Line, "write it in brackets, like [one, two]", "%s is not a list", what)
		return nil
	}
	if len(n.Content) == 0 {
		p.fail(n.Line, "an empty list allows nothing; fill it, or remove the line", "%s is empty", what)
	}
	return n.Content
}

// yamlWords are plain words that YAML 1.1 takes for booleans. A file must not
// read otherwise in another program.
var yamlWords = regexp.MustCompile(`^(?i:y|n|yes|no|on|off|true|false|null|~)$`)

// text is a scalar that every YAML reader takes for text.
func (p *parser) text(n *yaml.Node, what string) (string, bool) {
	quoted := n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	switch {
	case n.Kind != yaml.ScalarNode:
		p.fail(n.Line, "write one value", "%s is not text", what)
	case !quoted && (n.Tag != "!!str" || yamlWords.MatchString(n.Value)):
		p.fail(n.Line, "put it in quotes if it is meant as text", "%s is not text to YAML", what)
	case n.Value == "":
		p.fail(n.Line, "write a value, or remove the line", "%s is empty", what)
	case strings.ContainsFunc(n.Value, invisible):
		p.fail(n.Line, "remove it", "%s holds a control or an invisible character", what)
	default:
		return n.Value, true
	}
	return "", false
}

// invisible are control characters, and those with which a text can be made to
// look like another: who is asked to trust a file must see what it says.
func invisible(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) || r == unicode.ReplacementChar
}

// texts is a list of texts, each once.
func (p *parser) texts(n *yaml.Node, what string, each func(n *yaml.Node, s string)) {
	seen := map[string]bool{}
	for _, item := range p.list(n, what) {
		s, ok := p.text(item, what)
		switch {
		case !ok:
		case seen[s]:
			p.fail(item.Line, "keep one of them", "%s: an entry twice%s", what, show(s))
		default:
			seen[s] = true
			each(item, s)
		}
	}
}

func (p *parser) choice(n *yaml.Node, what string, allowed ...string) int {
	s, ok := p.text(n, what)
	if !ok {
		return 0
	}
	for i, a := range allowed {
		if s == a {
			return i
		}
	}
	fix := "write " + strings.Join(allowed, " or ")
	p.fail(n.Line, fix, "%s has a value that it does not know", what)
	return 0
}

func (p *parser) flag(n *yaml.Node, what string) bool {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" || n.Value != "true" && n.Value != "false" {
		p.fail(n.Line, "write true or false", "%s is neither true nor false", what)
	}
	return n.Value == "true"
}

func (p *parser) number(n *yaml.Node, what string, low, high int) int {
	v, err := strconv.Atoi(n.Value)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil || strconv.Itoa(v) != n.Value || v < low || v > high {
		p.fail(n.Line, fmt.Sprintf("write a number from %d to %d", low, high), "%s is not a number that it can be", what)
		return 0
	}
	return v
}

func (p *parser) duration(n *yaml.Node, what string, high time.Duration) time.Duration {
	d, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || d <= 0 || d > high {
		p.fail(n.Line, fmt.Sprintf("write it like 90s, 30m or 8h, up to %s", strings.TrimSuffix(high.String(), "0m0s")), "%s is not a length of time that it can be", what)
		return 0
	}
	return d
}

// show quotes a value of the file for an error, or is empty if the value could
// be a secret that was written into the wrong place.
func show(s string) string {
	if len(s) > 64 || !harmlessValue.MatchString(s) || tokenLike.MatchString(s) && strings.ContainsAny(s, "0123456789") {
		return ""
	}
	return fmt.Sprintf(" %q", s)
}

var (
	harmlessValue = regexp.MustCompile(`^[a-zA-Z0-9.:*/{}_ \[\]-]+$`)
	tokenLike     = regexp.MustCompile(`[A-Za-z0-9_-]{12}`)
	fieldLike     = regexp.MustCompile(`^[a-z][a-z-]{0,23}$`)
)

func showField(s string) string {
	if !fieldLike.MatchString(s) {
		return ""
	}
	return fmt.Sprintf(" %q", s)
}

// nearest is the word of known that s was probably meant to be, or "".
func nearest(s string, known []string) string {
	best, near := "", 3
	for _, k := range known {
		d := distance(s, k)
		if d < near && d < len(k) {
			best, near = k, d
		}
	}
	return best
}

// distance counts the letters to insert, drop, replace or swap (Damerau).
func distance(a, b string) int {
	if len(a) > 32 {
		return len(a)
	}
	d := make([][]int, len(a)+1)
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}
