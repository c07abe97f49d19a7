package audit

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const journalTag = "standin-audit"

// A Journal hands anchors to the system's log, whose files the user cannot change. It is safe for concurrent use.
type Journal struct {
	path   string
	native bool
}

// FindJournal returns the journal of this machine: journald's socket, else /dev/log; nil where there is neither.
func FindJournal() *Journal {
	for _, j := range []Journal{{"/run/systemd/journal/socket", true}, {"/dev/log", false}} {
		if info, err := os.Stat(j.path); err == nil && info.Mode().Type() == os.ModeSocket {
			return &j
		}
	}
	return nil
}

// Send writes the anchor as one line of JSON under the tag standin-audit.
func (j *Journal) Send(a Anchor) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	c, err := net.Dial("unixgram", j.path)
	if err != nil {
		return err
	}
	defer c.Close()
	const notice = 5
	if j.native {
		_, err = fmt.Fprintf(c, "MESSAGE=%s\nPRIORITY=%d\nSYSLOG_IDENTIFIER=%s\n", text, notice, journalTag)
	} else {
		const user = 1
		_, err = fmt.Fprintf(c, "<%d>%s[%d]: %s", user<<3|notice, journalTag, os.Getpid(), text)
	}
	return err
}

// ParseJournal finds the anchors in text that a system log gives out, such as that of journalctl -t standin-audit. What is
// not an anchor is passed over.
func ParseJournal(r io.Reader) ([]Anchor, error) {
	var anchors []Anchor
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		_, text, found := strings.Cut(lines.Text(), `{"stream":`)
		if !found {
			continue
		}
		var a Anchor
		d := json.NewDecoder(strings.NewReader(`{"stream":` + text))
		if d.Decode(&a) == nil && a.valid() == nil {
			a.Source = JournalLine
			anchors = append(anchors, a)
		}
	}
	return anchors, lines.Err()
}

// anchors turns the anchors that were given into facts about the streams.
func (v *verifier) anchors() {
	for _, a := range v.options.Anchors {
		if a.Source == "" {
			a.Source = Receipt
		}
		h, ok := parseHex(a.H)
		switch {
		case a.valid() != nil || !ok:
			v.warn(fmt.Sprintf("an anchor of the %s is malformed", a.Source))
		case v.gone[a.Stream] != "":
		case v.present[a.Stream] != nil:
			v.facts[a.Stream] = append(v.facts[a.Stream], &fact{seq: a.Seq, h: h, from: "an anchor of the " + string(a.Source), anchor: &a})
		case a.Source == JournalLine:
			v.warn(fmt.Sprintf("the journal has an anchor of stream %s, which is not there", a.Stream))
		case v.aside(a, h):
		default:
			v.problem(Problem{Stream: a.Stream, What: fmt.Sprintf("is missing; the %s has an anchor of its record %d", a.Source, a.Seq)})
		}
	}
}

// A move is an archive: by the word of an opening record all streams with lower numbers lie in its directory.
type move struct {
	by      string
	number  uint64
	archive *archive
	looked  bool
	streams []*stream // that are in the directory, if it is as it was left
	lacks   string    // why the directory tells nothing
	broken  bool      // it was changed since
}

// aside judges an anchor of a stream that was moved aside, and tells whether it is one: the first archive after it has it.
// That a log was broken when it was moved is on record already, so an anchor that does not fit what was moved then is only
// said; but whatever was changed afterwards is tampering.
func (v *verifier) aside(a Anchor, h [32]byte) bool {
	m := v.moveOf(a.Stream)
	if m == nil {
		return false
	}
	from := string(a.Source)
	said := fmt.Sprintf("stream %s was moved aside to %q by stream %s", a.Stream, m.archive.Directory, m.by)
	at := slices.IndexFunc(m.streams, func(s *stream) bool { return s.id == a.Stream })
	switch {
	case m.broken:
		v.problem(Problem{Stream: m.by, Seq: 1, What: fmt.Sprintf("moved streams aside to %q, which was changed since", m.archive.Directory)})
	case m.lacks != "":
		v.report.Unchecked++
		v.warn(said + ", " + m.lacks)
	case at < 0:
		return false
	case v.holds(m, m.streams[at], &fact{seq: a.Seq, h: h, from: "the anchor", anchor: &Anchor{}}):
		v.warn(fmt.Sprintf("%s, and has record %d as the %s knows it", said, a.Seq, from))
	default:
		v.report.Unchecked++
		v.warn(fmt.Sprintf("%s, broken: it does not have record %d as the %s knows it", said, a.Seq, from))
	}
	return true
}

// moveOf is the archive that a stream was moved to, or nil. A log that was moved may hold the record of an earlier move.
func (v *verifier) moveOf(id string) *move {
	number, _ := parseStreamID(id)
	for i := 0; i < len(v.moves); i++ {
		if m := &v.moves[i]; number < m.number && !m.looked {
			m.looked = true
			v.look(m)
			for _, s := range m.streams {
				o, err := readOpening(filepath.Join(v.dir, m.archive.Directory), s)
				if err == nil && o.Archive != nil && (!v.report.Vouched || o.vouched(&v.opening)) {
					v.moves = append(v.moves, move{by: s.id, number: s.number, archive: o.Archive})
				}
			}
		}
	}
	var first *move
	for i := range v.moves {
		if m := &v.moves[i]; number < m.number && (first == nil || m.number < first.number) {
			first = m
		}
	}
	return first
}

// movedBefore tells whether a stream that an anchor names was moved aside before what is exported began: no export has it.
func (v *verifier) movedBefore(id string) bool {
	number, ok := parseStreamID(id)
	at := slices.IndexFunc(v.moves, func(m move) bool { return number < m.number })
	if !ok || at < 0 || v.present[id] != nil || v.gone[id] != "" {
		return false
	}
	v.report.Unchecked++
	v.warn(fmt.Sprintf("stream %s was moved aside to %q by stream %s: an export cannot confirm its anchor", id, v.moves[at].archive.Directory, v.moves[at].by))
	return true
}

// look compares the directory of an archive with its digest.
func (v *verifier) look(m *move) {
	name := m.archive.Directory
	dir := filepath.Join(v.dir, name)
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() || filepath.Base(name) != name || !strings.HasPrefix(name, archivePrefix) {
		m.lacks = "which is not there: the anchor cannot be checked"
		return
	}
	streams, _, err := scan(dir)
	if err != nil {
		m.lacks = "which cannot be read: the anchor cannot be checked"
		return
	}
	tips := make([]tip, len(streams))
	for i, s := range streams {
		last, _, bad := lastRecord(dir, s, false)
		if bad != nil {
			last, err = tip{Stream: s.id}, bad // as Recover took it
		}
		tips[i] = last
	}
	switch now := newArchive(name, tips); {
	case *now == *m.archive:
		m.streams = streams
	case slices.ContainsFunc(v.streams, func(s *stream) bool { return s.number < m.number }):
		m.lacks = "but not all of them: the anchor cannot be checked" // a crash ended the recovery
	case err != nil:
		m.lacks = "where files cannot be read: the anchor cannot be checked"
	default:
		m.broken = true
	}
}

// holds tells whether a stream that was moved aside is in order up to the record that f knows.
func (v *verifier) holds(m *move, s *stream, f *fact) bool {
	w := &walk{dir: filepath.Join(v.dir, m.archive.Directory), stream: s, facts: []*fact{f}, report: &StreamReport{Stream: s.id},
		chain: newChain(point{seq: 1}), lines: newLineReader()}
	w.run()
	w.chain.wipe()
	return f.met
}
