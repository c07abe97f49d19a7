package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"standin/audit/segment"
)

// A fact is what somebody else knows of a stream: its record seq had this h. With final set there was no record after it.
type fact struct {
	seq   uint64
	h     [32]byte
	from  string // "stream 000002-…", or the source of an anchor
	final bool
	soft  bool // it was read from a file being written, whose last batch may have been given up
	// anchor is set where the fact comes from outside the log.
	anchor *Anchor
	met    bool
}

// A head is the first record of a further segment.
type head struct {
	Seq     uint64 `json:"seq"`
	Type    string `json:"type"`
	Stream  string `json:"stream"`
	Segment int    `json:"segment"`
	After   struct {
		Segment int    `json:"segment"`
		Seq     uint64 `json:"seq"`
		H       string `json:"h"`
	} `json:"after"`
	Ended   string `json:"ended"`
	GivenUp uint64 `json:"given_up"`
}

// A part is a segment as far as it belongs to the chain.
type part struct {
	n     int
	head  *head // nil: the first segment
	next  *head // of the part that follows; nil: the stream ends here
	loose []int // files between it and the next part, or the end, that attempts which failed left behind
}

// A planError says that the segments of a stream do not belong together.
type planError struct {
	segment int
	what    string
}

func (e *planError) Error() string { return fmt.Sprintf("segment %d: %s", e.segment, e.what) }

// plan reads the first record of each segment and finds out which follows which. Where several follow the same one, the
// writer had to give up all but the last.
func plan(dir string, s *stream, warn func(*segment.ModeError)) ([]part, error) {
	if len(s.segments) == 0 || s.segments[0] != 1 {
		return nil, &planError{1, "is missing"}
	}
	heads := make([]*head, len(s.segments))
	for i, n := range s.segments[1:] {
		h, err := readHead(dir, s, n, warn)
		if err != nil {
			return nil, &planError{n, err.Error()}
		}
		heads[i+1] = h // nil: it holds no whole record
	}
	parts := []part{{n: 1}}
	for at := 0; at >= 0; {
		p := &parts[len(parts)-1]
		next := -1
		for i := at + 1; i < len(heads); i++ {
			if heads[i] != nil && heads[i].After.Segment == p.n {
				next = i
			}
		}
		for i := at + 1; i < len(heads) && (i < next || next < 0); i++ {
			if h := heads[i]; h != nil && h.After.Segment != p.n {
				if h.After.Segment > p.n {
					return parts, &planError{h.After.Segment, "is missing"}
				}
				return parts, &planError{h.Segment, fmt.Sprintf("does not follow segment %d", p.n)}
			}
			p.loose = append(p.loose, s.segments[i])
		}
		if at = next; next >= 0 {
			p.next = heads[next]
			parts = append(parts, part{n: s.segments[next], head: heads[next]})
		}
	}
	return parts, nil
}

// A walk goes through one stream from its first record to its last.
type walk struct {
	dir     string
	stream  *stream
	keyed   bool
	chain   *chain // expects record chain.seq; its key is only right where keyed
	facts   []*fact
	nextOf  int // index of the first fact not yet passed
	report  *StreamReport
	lines   *lineReader
	last    [len(timeLayout)]byte
	givenUp []span // numbers that a failed batch used before they were used again
	sealed  bool
}

type span struct{ from, count uint64 }

var (
	errStop = errors.New("stop") // a problem was reported; the rest of the stream cannot be judged
	sealTag = []byte(`,"type":"` + typeSeal + `"`)
)

// run checks every segment. What is wrong stands in the report.
func (w *walk) run() {
	parts, err := plan(w.dir, w.stream, w.warn)
	for _, p := range parts {
		if w.segment(p.n, p.next) != nil {
			return
		}
		if err == nil || p.next != nil {
			w.loose(p)
		}
	}
	var bad *planError
	if errors.As(err, &bad) {
		w.problem(bad.segment, bad.what)
		return
	}
	w.finish()
}

// loose accounts for files that hold nothing of the chain.
func (w *walk) loose(p part) {
	for _, n := range p.loose {
		info, err := os.Lstat(w.stream.path(w.dir, n))
		switch {
		case err != nil:
		case p.next == nil && w.sealed:
			_ = w.problem(n, "stands behind the seal")
		case p.next == nil:
			w.report.Torn = !w.report.Running
		default:
			w.report.GivenUp += info.Size()
		}
	}
}

func readHead(dir string, s *stream, n int, warn func(*segment.ModeError)) (*head, error) {
	f, bad, err := segment.Read(s.path(dir, n))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", plainError(err))
	}
	defer f.Close()
	warn(bad)
	text, err := firstLine(f)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", plainError(err))
	}
	if !bytes.HasSuffix(text, []byte("\n")) && len(text) <= maxLine {
		return nil, nil
	}
	l, err := parseLine(text)
	if err != nil {
		return nil, errors.New("the first record is malformed")
	}
	h := &head{}
	if json.Unmarshal(append(bytes.Clone(l.body), '}'), h) != nil || h.Type != typeSegment || h.Stream != s.id || h.Segment != n {
		return nil, errors.New("the first record is not that of this segment")
	}
	return h, nil
}

// segment checks segment n, up to the first record of the next one where there is one.
func (w *walk) segment(n int, next *head) error {
	f, bad, err := segment.Read(w.stream.path(w.dir, n))
	if err != nil {
		return w.problem(n, fmt.Sprintf("cannot be read: %v", plainError(err)))
	}
	defer f.Close()
	w.warn(bad)
	w.report.Segments++
	w.lines.reset(f)
	for {
		if next != nil && w.chain.seq == next.Seq {
			return w.boundary(n, next)
		}
		text, err := w.lines.next()
		switch {
		case errors.Is(err, io.EOF) && next == nil:
			w.report.Torn = w.chain.seq == 1 && !w.report.Running
			return nil
		case errors.Is(err, io.EOF):
			return w.problem(n, fmt.Sprintf("ends after record %d, but the next segment begins with record %d", w.chain.seq-1, next.Seq))
		case errors.Is(err, io.ErrUnexpectedEOF) && next == nil && len(text) <= maxLine && !w.sealed:
			w.report.Torn = !w.report.Running
			return nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			return w.problemAt(n, w.chain.seq, "is unfinished, though the stream goes on or has its seal")
		case err != nil:
			return w.problemAt(n, w.chain.seq, fmt.Sprintf("cannot be read: %v", plainError(err)))
		}
		if err := w.record(n, text); err != nil {
			return err
		}
	}
}

// boundary checks what the next segment says of the end of this one.
func (w *walk) boundary(n int, next *head) error {
	h, ok := parseHex(next.After.H)
	if !ok || next.After.Seq != w.chain.seq-1 || h != w.chain.h {
		return w.problem(next.Segment, fmt.Sprintf("commits to another end of segment %d", n))
	}
	rest := w.lines.rest()
	if rest > 0 && next.Ended != endedFailed {
		return w.problem(n, fmt.Sprintf("%d bytes stand behind its last record", rest))
	}
	if next.Ended == endedFailed {
		w.report.GivenUp += rest
		w.givenUp = append(w.givenUp, span{next.Seq, next.GivenUp})
	}
	return nil
}

// record checks one line and everything that is known about it.
func (w *walk) record(n int, text []byte) error {
	seq := w.chain.seq
	l, err := parseLine(text)
	switch {
	case err != nil:
		return w.problemAt(n, seq, "is malformed")
	case w.sealed:
		return w.problemAt(n, seq, "stands behind the seal")
	case l.seq != seq:
		return w.problemAt(n, seq, fmt.Sprintf("is missing: record %d stands in its place", l.seq))
	}
	prev := w.chain.h
	d := w.chain.digest
	d.Reset()
	d.Write(prev[:])
	d.Write(l.body)
	var h [32]byte
	d.Sum(h[:0])
	if h != l.h {
		return w.problemAt(n, seq, fmt.Sprintf("does not follow record %d", seq-1))
	}
	if w.keyed {
		if mac := w.chain.mac(&w.chain.key, h[:]); !equal(&mac, &l.mac) {
			return w.problemAt(n, seq, "was not written with the key of the stream")
		}
	}
	w.chain.h = h
	if err := w.known(n, seq, h); err != nil {
		return err
	}
	if w.keyed {
		w.chain.step()
	} else {
		w.chain.seq++
	}
	w.report.Records = seq
	w.report.Bytes += int64(len(text))
	w.remember(&l)
	return nil
}

// remember notes what the report says about the first and the last record.
func (w *walk) remember(l *line) {
	at := bytes.IndexByte(l.body, ',') + len(`,"time":"`)
	front := l.body[min(at, len(l.body)):min(at+len(timeLayout)+64, len(l.body))]
	copy(w.last[:], front)
	if l.seq == 1 {
		w.report.First = l.time()
	}
	// type is the fourth field; only mono moves it. No string can hold the quotes of the tag unescaped.
	w.sealed = bytes.Contains(front, sealTag)
}

// known compares record seq with the facts about it.
func (w *walk) known(n int, seq uint64, h [32]byte) error {
	for ; w.nextOf < len(w.facts) && w.facts[w.nextOf].seq <= seq; w.nextOf++ {
		f := w.facts[w.nextOf]
		checks := !f.claimed() || w.genuine(f, &w.chain.key)
		switch {
		case f.seq != seq: // 0: a stream that held no record then
			if f.final {
				return w.problemAt(n, seq, fmt.Sprintf("was not there when %s was opened", f.from))
			}
		case f.h == h && (checks || !w.keyed):
			f.met = checks
		case !checks && w.idle(f):
		case f.soft && w.wasGivenUp(seq):
			f.met = true
		default:
			return w.problemAt(n, seq, "is not the one that "+f.from+" knows")
		}
	}
	return nil
}

func (w *walk) wasGivenUp(seq uint64) bool {
	for _, s := range w.givenUp {
		if seq >= s.from && seq-s.from < s.count {
			return true
		}
	}
	return false
}

// finish judges the end of the stream.
func (w *walk) finish() {
	r := w.report
	r.Sealed = w.sealed
	last := w.chain.seq - 1
	for _, f := range w.facts {
		switch {
		case f.met && f.final && f.seq < last:
			w.problemAt(0, f.seq+1, fmt.Sprintf("was not there when %s was opened, which found the stream ended", f.from))
		case f.seq <= last:
		case f.claimed() && !w.genuineLater(f) && w.idle(f):
		case f.soft && w.wasGivenUp(f.seq):
		default:
			what := fmt.Sprintf("was cut off: %s knows of it", f.from)
			if f.seq > last+1 {
				what = fmt.Sprintf("and those up to %d were cut off: %s knows of them", f.seq, f.from)
			}
			w.problemAt(0, last+1, what)
		}
	}
}

func (w *walk) warn(bad *segment.ModeError) {
	if bad != nil {
		w.report.warnings = append(w.report.warnings, bad.Path+" "+bad.Problem)
	}
}

func (w *walk) problem(segment int, what string) error { return w.problemAt(segment, 0, what) }

func (w *walk) problemAt(segment int, seq uint64, what string) error {
	w.report.problems = append(w.report.problems, Problem{w.stream.id, segment, seq, what})
	return errStop
}

// plainError drops the path, which the report names already.
func plainError(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
