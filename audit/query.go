package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"standin/audit/segment"
)

// An Entry is a record as it was read. Query does not verify it.
type Entry struct {
	Stream  string        `json:"stream"`
	Segment int           `json:"segment"`
	Seq     uint64        `json:"seq"`
	Time    time.Time     `json:"time"`
	Mono    time.Duration `json:"-"` // since the stream was opened, by a clock that does not jump
	Record
	H   string `json:"h"`
	MAC string `json:"mac"`

	Line []byte `json:"-"` // the bytes in the file, valid until the next entry
}

// A Filter selects entries; its zero fields select all. Where it selects a substitution, it also selects the result that
// belongs to it.
type Filter struct {
	Types       []string // of records; empty: all
	Secret      string
	Session     string
	Host        string
	Since       time.Time
	Until       time.Time // exclusive
	PID         int
	Exe         string // the whole path, or its last part
	Outcome     string // substituted, delivered, passed, refused, ok, failed; or a code, or a status
	Fingerprint string
}

// A MalformedError says that lines were passed over. Verify tells more.
type MalformedError struct{ Lines int }

func (e *MalformedError) Error() string {
	return fmt.Sprintf("read audit: %d malformed lines were passed over", e.Lines)
}

// Query calls each for the entries that f selects, those of parallel streams in the order of their times. It ends with the
// first error of each. It returns *MalformedError after the last entry where there were lines that are no records.
func Query(dir string, f Filter, each func(*Entry) error) error { return Resume(dir, f, nil, each) }

// A Position says how much of each file has been read. The empty one is the beginning.
type Position map[string]int64

// Resume is Query from a position on, which it moves to the end of what it read. A line that is not whole yet is left for
// the next time.
func Resume(dir string, f Filter, from Position, each func(*Entry) error) error {
	streams, _, err := scan(dir)
	if err != nil {
		return fmt.Errorf("read audit: %w", err)
	}
	streams = slices.DeleteFunc(streams, func(s *stream) bool { return from.isEnd(dir, s) })
	m := newMatcher(f)
	var open []*cursor
	defer func() {
		for _, c := range open {
			c.close()
		}
	}()
	malformed := 0
	for next := 0; ; {
		at := earliest(open)
		if next < len(streams) && (at < 0 || !open[at].isBefore(streams, next, dir)) {
			c := newCursor(dir, streams[next])
			c.from = from
			next++
			c.advance()
			open = append(open, c)
			continue
		}
		if at < 0 {
			break
		}
		c := open[at]
		if c.line == nil {
			malformed += c.malformed
			c.close()
			open = slices.Delete(open, at, at+1)
			continue
		}
		if e := m.entry(c); e != nil {
			if err := each(e); err != nil {
				return err
			}
		}
		c.advance()
	}
	if malformed > 0 {
		return &MalformedError{malformed}
	}
	return nil
}

// isEnd tells whether nothing was added to the stream.
func (p Position) isEnd(dir string, s *stream) bool {
	for _, n := range s.segments {
		name := s.path(dir, n)
		if info, err := os.Lstat(name); p == nil || err != nil || info.Size() != p[name] {
			return false
		}
	}
	return true
}

// earliest returns the cursor whose line is the oldest; one at its end counts as oldest of all.
func earliest(open []*cursor) int {
	at := -1
	for i, c := range open {
		if c.line == nil {
			return i
		}
		if at < 0 || bytes.Compare(c.time, open[at].time) < 0 {
			at = i
		}
	}
	return at
}

// A cursor reads one stream.
type cursor struct {
	dir    string
	stream *stream
	parts  []part
	from   Position // nil: the beginning
	file   *os.File
	lines  *lineReader

	line      []byte // nil at the end
	seq       uint64
	time      []byte // in the layout of the line, which sorts as text
	malformed int
	begins    string // when the stream after this one begins, once asked
}

func newCursor(dir string, s *stream) *cursor {
	parts, err := plan(dir, s, func(*segment.ModeError) {})
	if err != nil { // broken, which is for Verify to explain; what is there can still be read
		parts = nil
		for _, n := range s.segments {
			parts = append(parts, part{n: n})
		}
	}
	return &cursor{dir: dir, stream: s, parts: parts, lines: newLineReader()}
}

// isBefore tells whether the cursor's line is older than the first one of stream next.
func (c *cursor) isBefore(streams []*stream, next int, dir string) bool {
	if c.line == nil {
		return true
	}
	if c.begins == "" {
		c.begins = "0"
		if f, _, err := segment.Read(streams[next].path(dir, 1)); err == nil {
			text, _ := firstLine(f)
			f.Close()
			if at, ok := timeOf(text); ok {
				c.begins = string(at)
			}
		}
	}
	before := string(c.time) < c.begins
	if !before {
		c.begins = ""
	}
	return before
}

// timeOf returns the time of a line as it is written.
func timeOf(text []byte) ([]byte, bool) {
	at := bytes.IndexByte(text, ',') + len(`,"time":"`)
	if len(text) < at+len(timeLayout)+1 || string(text[at-len(`"time":"`):at]) != `"time":"` || text[at+len(timeLayout)] != '"' {
		return nil, false
	}
	return text[at : at+len(timeLayout)], true
}

// advance goes to the next whole record.
func (c *cursor) advance() {
	for c.line = nil; len(c.parts) > 0; {
		p := c.parts[0]
		if c.file == nil {
			f, _, err := segment.Read(c.stream.path(c.dir, p.n))
			if err != nil {
				c.malformed++
				c.parts = c.parts[1:]
				continue
			}
			c.file = f
			_, _ = f.Seek(c.from[f.Name()], io.SeekStart) // a regular file; at worst it is read from the beginning
			c.lines.reset(f)
		}
		text, err := c.lines.next()
		if err == nil {
			if c.from != nil {
				c.from[c.file.Name()] += int64(len(text))
			}
			l, bad := parseLine(text)
			at, ok := timeOf(text)
			if bad == nil && ok && (p.next == nil || l.seq < p.next.Seq) {
				c.line, c.seq, c.time = text, l.seq, at
				return
			}
			if bad == nil && ok { // what a failed write left behind
				c.close()
				c.parts = c.parts[1:]
				continue
			}
			c.malformed++
			continue
		}
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			c.malformed++
		}
		c.close()
		c.parts = c.parts[1:]
	}
}

func (c *cursor) close() {
	if c.file != nil {
		c.file.Close()
		c.file = nil
	}
}

// A matcher decides by comparing bytes wherever it can, and decodes only lines that may be meant.
type matcher struct {
	f            Filter
	since, until []byte
	needles      [][]byte        // all must be there
	types        [][]byte        // one of them
	awaited      map[string]bool // requests whose substitution was selected, until their result
	decoded      Entry
}

func newMatcher(f Filter) *matcher {
	m := &matcher{f: f, awaited: map[string]bool{}}
	if !f.Since.IsZero() {
		m.since = f.Since.UTC().AppendFormat(nil, timeLayout)
	}
	if !f.Until.IsZero() {
		m.until = f.Until.UTC().AppendFormat(nil, timeLayout)
	}
	for _, s := range []string{f.Secret, f.Session, f.Host, f.Fingerprint} {
		if s != "" {
			m.needles = append(m.needles, appendString(nil, s, maxString))
		}
	}
	for _, kind := range f.Types {
		m.types = append(m.types, []byte(`,"type":"`+kind+`"`))
	}
	if f.PID != 0 {
		m.needles = append(m.needles, fmt.Appendf(nil, `"process":{"pid":%d,`, f.PID))
	}
	if f.Exe != "" {
		quoted := appendString(nil, f.Exe, maxString)
		m.needles = append(m.needles, quoted[1:])
	}
	return m
}

// entry decodes the line of the cursor if the filter selects it.
func (m *matcher) entry(c *cursor) *Entry {
	result := len(m.awaited) > 0 && bytes.Contains(c.line, []byte(`"type":"`+TypeResult+`"`))
	if !result {
		if m.since != nil && bytes.Compare(c.time, m.since) < 0 || m.until != nil && bytes.Compare(c.time, m.until) >= 0 {
			return nil
		}
		for _, n := range m.needles {
			if !bytes.Contains(c.line, n) {
				return nil
			}
		}
		front := c.line[:min(len(c.line), 128)] // the type stands there, behind three numbers
		if m.types != nil && !slices.ContainsFunc(m.types, func(t []byte) bool { return bytes.Contains(front, t) }) {
			return nil
		}
	}
	e := &m.decoded
	*e = Entry{}
	if decode(c.line, e) != nil {
		c.malformed++
		return nil
	}
	e.Stream, e.Segment, e.Line = c.stream.id, c.parts[0].n, c.line
	key := e.Stream + " " + e.Session + " " + e.ID
	if e.Type == TypeResult && m.awaited[key] {
		delete(m.awaited, key)
		return e
	}
	if !m.selects(e, c.time) {
		return nil
	}
	if e.Type == TypeSubstitute && e.ID != "" {
		m.awaited[key] = true
	}
	return e
}

func (m *matcher) selects(e *Entry, at []byte) bool {
	f := &m.f
	used := func(u Use) bool {
		return (f.Secret == "" || u.Secret == f.Secret) && (f.Fingerprint == "" || u.Fingerprint == f.Fingerprint)
	}
	switch {
	case m.since != nil && bytes.Compare(at, m.since) < 0, m.until != nil && bytes.Compare(at, m.until) >= 0:
	case f.Types != nil && !slices.Contains(f.Types, e.Type):
	case f.Session != "" && e.Session != f.Session:
	case f.Host != "" && e.Host != f.Host:
	case f.PID != 0 && e.Process.PID != f.PID:
	case f.Exe != "" && e.Process.Exe != f.Exe && path.Base(e.Process.Exe) != f.Exe:
	case f.Fingerprint != "" && !slices.ContainsFunc(e.Uses, used):
	case f.Secret != "" && !slices.ContainsFunc(e.Uses, used) && !slices.Contains(e.Secrets, f.Secret):
	case f.Outcome != "" && f.Outcome != e.Outcome() && f.Outcome != e.Code && f.Outcome != fmt.Sprint(e.Status):
	default:
		return true
	}
	return false
}

// Outcome says in one word what a record tells: substituted, delivered, passed, refused, ok or failed; "" where it tells
// of nothing that can succeed.
func (e *Entry) Outcome() string {
	switch e.Type {
	case TypeSubstitute:
		return "substituted"
	case TypeDeliver:
		return "delivered"
	case TypePassthrough:
		return "passed"
	case TypeMisplaced: // what is refused for it has a deny as well
		if e.Code == "" {
			return "passed"
		}
		return "refused"
	case TypeDeny, TypeClientRejectedLeaf:
		return "refused"
	case TypeResult:
		if e.wentWell() {
			return "ok"
		}
		return "failed"
	}
	return ""
}

// wentWell tells whether a result is that of a whole exchange. One without a method is of a connection that was passed
// through unopened, and has no status.
func (e *Entry) wentWell() bool {
	switch {
	case e.Code != "", e.Status >= 500:
		return false
	case e.Status == 0:
		return e.Method == "" && e.Reason == ""
	}
	return !strings.HasPrefix(e.Reason, "upstream aborted") && !strings.HasPrefix(e.Reason, "cut") && e.Reason != "aborted"
}
