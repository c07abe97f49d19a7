package vault

import (
	"bytes"
	"fmt"
	"strings"
)

// Pair is one assignment of a dotenv file and the line where it begins.
type Pair struct {
	Name  string
	Value Secret
	Line  int
}

// DotenvError says which line cannot be read, and why. It holds nothing of the line.
type DotenvError struct {
	Line    int
	Problem string
}

func (e *DotenvError) Error() string {
	return fmt.Sprintf("read dotenv file: line %d: %s", e.Line, e.Problem)
}

// ParseDotenv reads assignments as the usual libraries and a shell agree on
// them: NAME=value, "export " before it, comments, single quotes (as it stands),
// double quotes (\n \r \t \" \\ \$ are escapes), both over several lines. Where
// they do not agree (an unquoted or double-quoted $NAME, a backtick, an unknown
// escape) it refuses instead of guessing a value. Names may repeat; the last
// one counts to most programs.
func ParseDotenv(data []byte) ([]Pair, error) {
	p := &dotenv{rest: bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), line: 1}
	if i := bytes.IndexByte(p.rest, 0); i >= 0 {
		return nil, &DotenvError{1 + bytes.Count(p.rest[:i], []byte("\n")), "a NUL byte (is this UTF-16, or no text?)"}
	}
	var pairs []Pair
	for len(p.rest) > 0 {
		start := p.line
		name, empty, err := p.name()
		if err != nil {
			return nil, err
		}
		if empty {
			continue
		}
		value, err := p.value()
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, Pair{name, NewSecret(value), start})
	}
	return pairs, nil
}

type dotenv struct {
	rest []byte
	line int
}

func (p *dotenv) fail(problem string) error { return &DotenvError{p.line, problem} }

// skipBlanks passes spaces and tabs, and says what stands there.
func (p *dotenv) skipBlanks() {
	p.rest = bytes.TrimLeft(p.rest, " \t")
}

// takeLine returns what is left of the line, without its end.
func (p *dotenv) takeLine() []byte {
	line, rest, ended := bytes.Cut(p.rest, []byte("\n"))
	p.rest = rest
	if ended {
		p.line++
	}
	return bytes.TrimSuffix(line, []byte("\r"))
}

// name reads up to and with the "=". empty: the line held none, and is passed.
func (p *dotenv) name() (name string, empty bool, err error) {
	p.skipBlanks()
	end := bytes.IndexByte(p.rest, '\n')
	if end < 0 {
		end = len(p.rest)
	}
	line := bytes.TrimRight(p.rest[:end], " \t\r")
	if len(line) == 0 || line[0] == '#' {
		p.takeLine()
		return "", true, nil
	}
	left, _, found := bytes.Cut(line, []byte("="))
	if !found {
		return "", false, p.fail(`no "=": neither an assignment nor a comment`)
	}
	word := strings.Trim(string(left), " \t")
	if after, ok := strings.CutPrefix(word, "export"); ok && after != "" && strings.ContainsAny(after[:1], " \t") {
		word = strings.Trim(after, " \t")
	}
	if !variableName(word) {
		return "", false, p.fail(`what stands before "=" is not a variable name`)
	}
	p.rest = p.rest[len(left)+1:]
	return word, false, nil
}

func variableName(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || !(c >= '0' && c <= '9' || c == '.' || c == '-')) {
			return false
		}
	}
	return s != ""
}

func (p *dotenv) value() ([]byte, error) {
	p.skipBlanks()
	if len(p.rest) == 0 {
		return nil, nil
	}
	switch p.rest[0] {
	case '\'':
		return p.single()
	case '"':
		return p.double()
	}
	return p.plain()
}

// plain reads an unquoted value: to the end of the line, or to a comment.
func (p *dotenv) plain() ([]byte, error) {
	end := bytes.IndexByte(p.rest, '\n')
	if end < 0 {
		end = len(p.rest)
	}
	line := bytes.TrimSuffix(p.rest[:end], []byte("\r"))
	for i, c := range line {
		if c == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			line = line[:i]
			break
		}
	}
	line = bytes.Trim(line, " \t")
	for i, c := range line {
		switch {
		case c < ' ' && c != '\t' || c == 0x7f:
			return nil, p.fail("a control character in the value")
		case c == '`':
			return nil, p.fail("a backtick in an unquoted value: put single quotes round it")
		case c == '$' && expands(line[i+1:]):
			return nil, p.fail("a $ that some programs expand: put single quotes round the value")
		}
	}
	if bytes.HasSuffix(line, []byte(`\`)) {
		return nil, p.fail("a backslash at the end of the line: put single quotes round the value")
	}
	p.takeLine()
	return line, nil
}

func expands(after []byte) bool {
	return len(after) > 0 && (after[0] == '{' || after[0] == '(' || after[0] == '_' || after[0]|0x20 >= 'a' && after[0]|0x20 <= 'z')
}

func (p *dotenv) single() ([]byte, error) {
	end := bytes.IndexByte(p.rest[1:], '\'')
	if end < 0 {
		return nil, p.fail("the single quote is never closed")
	}
	value := p.rest[1 : 1+end]
	p.rest = p.rest[end+2:]
	p.line += bytes.Count(value, []byte("\n"))
	return unixLines(value), p.lineEnd()
}

// escapes are what a backslash means in double quotes.
var escapes = map[byte]byte{'n': '\n', 'r': '\r', 't': '\t', '"': '"', '\\': '\\', '$': '$', '`': '`'}

func (p *dotenv) double() ([]byte, error) {
	opened := p.line
	var value []byte
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; c {
		case '"':
			p.rest = p.rest[i+1:]
			return value, p.lineEnd()
		case '\\':
			i++
			if i == len(p.rest) {
				continue
			}
			meant, known := escapes[p.rest[i]]
			if !known {
				return nil, p.fail("an escape that programs read differently: put single quotes round the value")
			}
			value = append(value, meant)
		case '$', '`':
			if c == '`' || expands(p.rest[i+1:]) {
				return nil, p.fail("a $ or backtick that some programs expand: put single quotes round the value")
			}
			value = append(value, c)
		case '\r':
			if i+1 < len(p.rest) && p.rest[i+1] == '\n' {
				continue
			}
			value = append(value, c)
		case '\n':
			p.line++
			value = append(value, c)
		default:
			value = append(value, c)
		}
	}
	return nil, &DotenvError{opened, "the double quote is never closed"}
}

func unixLines(value []byte) []byte { return bytes.ReplaceAll(value, []byte("\r\n"), []byte("\n")) }

// lineEnd takes what may follow a closing quote: blanks and a comment.
func (p *dotenv) lineEnd() error {
	p.skipBlanks()
	if len(p.rest) > 0 && p.rest[0] != '#' && p.rest[0] != '\n' && !bytes.HasPrefix(p.rest, []byte("\r\n")) && string(p.rest) != "\r" {
		return p.fail("something follows the closing quote")
	}
	p.takeLine()
	return nil
}
