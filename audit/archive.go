package audit

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"standin/audit/segment"
)

const (
	archivePrefix = "archive-"
	maxRetired    = 1000 // streams that one opening record retires: it must fit into a line
)

// A Retention says which streams Open removes: only whole ones that ended, as the openings after them know it (else
// *EvidenceError), only the oldest, and only after the opening record that says so is durable.
type Retention struct {
	Bytes int64         // while the log is larger than this
	Age   time.Duration // while the last record is older than this
}

// choose returns the last records of the streams to retire.
func (r Retention) choose(dir string, streams []*stream, now time.Time) ([]tip, error) {
	if r == (Retention{}) {
		return nil, nil
	}
	sizes := make([]int64, len(streams))
	var total int64
	for i, s := range streams {
		for _, n := range s.segments {
			if info, err := os.Lstat(s.path(dir, n)); err == nil {
				sizes[i] += info.Size()
			}
		}
		total += sizes[i]
	}
	var retired []tip
	for i, s := range streams {
		if len(retired) == maxRetired || i == len(streams)-1 || segment.Running(s.path(dir, 1)) {
			break
		}
		last, at, err := lastRecord(dir, s, false)
		if err != nil {
			return nil, err
		}
		if !(r.Bytes > 0 && total > r.Bytes) && !(r.Age > 0 && !at.IsZero() && now.Sub(at) > r.Age) {
			break
		}
		retired = append(retired, last)
		total -= sizes[i]
	}
	return retired, nil
}

// remove deletes the files of retired streams, the first segment last: a stream never loses its head first.
func remove(dir string, streams []*stream, retired []tip) {
	for _, s := range streams {
		if slices.ContainsFunc(retired, func(t tip) bool { return t.Stream == s.id }) {
			for _, n := range slices.Backward(s.segments) {
				_ = os.Remove(s.path(dir, n))
			}
		}
	}
}

// Recover moves every stream of a broken log into a directory beside them, whose name it returns, and opens a new log
// whose first record says so, with the reason and the last record of each stream. It refuses while one is being written.
func Recover(dir string, keys Keys, config Config, reason string) (*Log, string, error) {
	b, err := prepare(dir, keys, config)
	if err != nil {
		return nil, "", fmt.Errorf("recover audit log: %w", err)
	}
	defer b.unlock.Close()
	defer clear(b.vault[:])
	streams, _, err := scan(dir)
	if err != nil {
		return nil, "", fmt.Errorf("recover audit log: %w", err)
	}
	tips := make([]tip, len(streams))
	for i, s := range streams {
		if segment.Running(s.path(dir, 1)) {
			return nil, "", fmt.Errorf("recover audit log: stream %q: %w", s.id, segment.ErrLocked)
		}
		last, _, err := lastRecord(dir, s, false)
		if err != nil {
			last = tip{Stream: s.id} // a broken log is what this is for
		}
		tips[i] = last
	}
	name := archivePrefix + b.log.wall().UTC().Format("20060102T150405.000000Z")
	b.opening.Archive, b.opening.Reason = newArchive(name, tips), reason
	b.opening.Archive.Files, _ = fileDigest("", dir, math.MaxUint64)
	if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
		return nil, "", fmt.Errorf("recover audit log: %w", err)
	}
	l, err := b.begin(streams)
	if err != nil {
		return nil, "", fmt.Errorf("recover audit log: %w", err)
	}
	return l, name, moveAway(dir, name, streams)
}

func moveAway(dir, name string, streams []*stream) error {
	for _, s := range streams {
		for _, n := range s.segments {
			from := s.path(dir, n)
			if err := os.Rename(from, filepath.Join(dir, name, filepath.Base(from))); err != nil {
				return fmt.Errorf("recover audit log: %w", err)
			}
		}
	}
	return nil
}

// An exportHeader stands before the records of each stream in an export. Where From is not 1, the opening record of the
// stream follows it, so that the key can be found, and After is the record before From: the MAC vouches for its h.
type exportHeader struct {
	Export struct {
		Format int    `json:"format"`
		Stream string `json:"stream"`
		From   uint64 `json:"from"`
		After  struct {
			H   string `json:"h"`
			MAC string `json:"mac"`
		} `json:"after"`
	} `json:"export"`
}

// An exportEnd stands behind them.
type exportEnd struct {
	End tip `json:"end"`
}

// Export writes the records of a stretch of time, as they are, with what is needed to verify them without the rest. A zero
// time is no bound. id names one stream; "" is all.
func Export(dir, id string, since, until time.Time, out io.Writer) error {
	streams, _, err := scan(dir)
	if err != nil {
		return fmt.Errorf("export audit: %w", err)
	}
	m := newMatcher(Filter{Since: since, Until: until})
	found := false
	for _, s := range streams {
		if id == "" || s.id == id {
			found = true
			if err := exportStream(dir, s, m, out); err != nil {
				return fmt.Errorf("export audit: %w", err)
			}
		}
	}
	if !found && id != "" {
		return fmt.Errorf("export audit: no stream %q", id)
	}
	return nil
}

func exportStream(dir string, s *stream, m *matcher, out io.Writer) error {
	c := newCursor(dir, s)
	defer c.close()
	var opening []byte
	var before, last line
	started := false
	for c.advance(); c.line != nil; c.advance() {
		l, _ := parseLine(c.line)
		if opening == nil {
			opening = bytes.Clone(c.line)
		}
		if started && m.until != nil && bytes.Compare(c.time, m.until) >= 0 {
			break
		}
		if !started && (m.since == nil || bytes.Compare(c.time, m.since) >= 0) {
			if m.until != nil && bytes.Compare(c.time, m.until) >= 0 {
				return nil
			}
			started = true
			if err := exportStart(out, s.id, &l, &before, opening); err != nil {
				return err
			}
		}
		if started {
			if _, err := out.Write(c.line); err != nil {
				return err
			}
			last = line{seq: l.seq, h: l.h}
		}
		before = line{seq: l.seq, h: l.h, mac: l.mac}
	}
	if c.malformed > 0 {
		return &MalformedError{c.malformed}
	}
	if !started {
		return nil
	}
	return json.NewEncoder(out).Encode(exportEnd{tip{s.id, last.seq, hex.EncodeToString(last.h[:])}})
}

func exportStart(out io.Writer, id string, l, before *line, opening []byte) error {
	var head exportHeader
	head.Export.Format, head.Export.Stream, head.Export.From = format, id, l.seq
	if l.seq > 1 {
		head.Export.After.H, head.Export.After.MAC = hex.EncodeToString(before.h[:]), hex.EncodeToString(before.mac[:])
	}
	if err := json.NewEncoder(out).Encode(head); err != nil {
		return err
	}
	if l.seq == 1 {
		return nil
	}
	_, err := out.Write(opening)
	return err
}

// VerifyExport checks what Export wrote: that every record in it is genuine and none between the first and the last of a
// stream is missing. Whole only where anchors prove each stream up to its last record here, and no stream that the others
// name was left out; a stretch of time is Unproven, since what lies outside of it cannot be seen.
func VerifyExport(in io.Reader, o VerifyOptions) (*Report, error) {
	v, err := newVerifier("", o)
	if err != nil {
		return nil, fmt.Errorf("verify export: %w", err)
	}
	ends := map[string]tip{}
	lines := newLineReader()
	lines.reset(in)
	for {
		text, err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		var head exportHeader
		if err != nil || json.Unmarshal(text, &head) != nil || head.Export.Format != format || !spelledAs(text, head) {
			if n := len(v.report.Streams); n > 0 {
				v.problem(Problem{Stream: v.report.Streams[n-1].Stream, What: "is followed by what is no part of an export"})
				break
			}
			return nil, errors.New("verify export: it is not an export of this format")
		}
		r := StreamReport{Stream: head.Export.Stream, Segments: 1, Sealed: true}
		w := &walk{stream: &stream{id: r.Stream}, report: &r, chain: newChain(point{seq: 1}), lines: lines, facts: v.anchorsOf(r.Stream)}
		if v.present[r.Stream] != nil {
			w.problemAt(0, 0, "stands in the export twice")
		} else {
			w.export(v, &head)
		}
		v.present[r.Stream], v.facts[r.Stream] = w.stream, w.facts
		ends[r.Stream] = tip{r.Stream, w.chain.seq - 1, hex.EncodeToString(w.chain.h[:])}
		r.Last, _ = time.Parse(timeLayout, string(w.last[:]))
		v.report.Streams = append(v.report.Streams, r)
		v.report.Problems = append(v.report.Problems, r.problems...)
		v.report.Records += r.Records
		v.report.Warnings = append(v.report.Warnings, r.warnings...)
		if len(r.problems) > 0 {
			break
		}
	}
	if len(v.report.Problems) == 0 {
		v.outside(ends)
	}
	v.judge()
	return v.report, nil
}

// anchorsOf are the facts that anchors tell of one stream, by number.
func (v *verifier) anchorsOf(id string) (facts []*fact) {
	for _, a := range v.options.Anchors {
		if h, ok := parseHex(a.H); ok && a.Stream == id {
			a.Source = cmp.Or(a.Source, Receipt)
			facts = append(facts, &fact{seq: a.Seq, h: h, from: "an anchor of the " + string(a.Source), anchor: &a})
		}
	}
	slices.SortFunc(facts, func(a, b *fact) int { return cmp.Compare(a.seq, b.seq) })
	return facts
}

// outside judges what an export proves beyond its records: how far anchors reach, and which streams were left out.
func (v *verifier) outside(ends map[string]tip) {
	leftOut := func(id, by string) {
		if v.present[id] == nil && v.gone[id] == "" {
			v.warn(fmt.Sprintf("stream %s is not in the export; %s knows of it", id, by))
			v.report.LeftOut = true
		}
	}
	for _, r := range v.report.Streams {
		if o := v.openings[r.Stream]; o != nil {
			v.removals(v.present[r.Stream], o)
		}
	}
	for _, r := range v.report.Streams {
		o := v.openings[r.Stream]
		if o == nil {
			continue
		}
		hard := slices.Concat(o.Ended, follows(o))
		for i, t := range slices.Concat(hard, o.Running) {
			leftOut(t.Stream, "stream "+r.Stream)
			v.compare(t, fact{final: i < len(o.Ended), soft: i >= len(hard)}, "stream "+r.Stream)
			end := ends[t.Stream]
			switch {
			case v.present[t.Stream] == nil:
			case t.Seq == end.Seq && t.H == end.H:
				v.facts[t.Stream] = append(v.facts[t.Stream], &fact{seq: t.Seq, from: "stream " + r.Stream, met: true})
			case i < len(hard) && t.Seq == end.Seq, i < len(o.Ended) && t.Seq < end.Seq:
				v.problem(Problem{Stream: t.Stream, Seq: t.Seq, What: "is not the one that stream " + r.Stream + " knows"})
			}
		}
	}
	for _, a := range v.options.Anchors {
		if !v.movedBefore(a.Stream) {
			leftOut(a.Stream, "an anchor of the "+string(cmp.Or(a.Source, Receipt)))
		}
	}
	v.prove()
}

// spelledAs tells whether the line is what Export writes for the value: no byte of it is free.
func spelledAs(text []byte, v any) bool {
	want, err := json.Marshal(v)
	return err == nil && string(text) == string(want)+"\n"
}

// export checks the records of one stream.
func (w *walk) export(v *verifier, head *exportHeader) {
	from := head.Export.From
	text, err := w.lines.next()
	if err != nil {
		w.problemAt(0, 1, "is missing")
		return
	}
	o, err := parseOpening(text, w.stream.id)
	if err != nil {
		w.problemAt(0, 1, "is not an opening record of this stream")
		return
	}
	if v.report.Vouched && !o.vouched(&v.opening) {
		w.problemAt(0, 1, "was not written by the owner of the vault")
		return
	}
	v.openings[w.stream.id] = o
	w.stream.number, _ = parseStreamID(w.stream.id)
	if v.report.Keyed && !w.unseal(v, o) || w.record(0, text) != nil || !w.skip(from, head.Export.After.H, head.Export.After.MAC) {
		return
	}
	for {
		text, err := w.lines.next()
		if err != nil {
			w.problemAt(0, w.chain.seq, "and the end of the export are missing")
			return
		}
		var end exportEnd
		if bytes.HasPrefix(text, []byte(`{"end":`)) {
			err := json.Unmarshal(text, &end)
			h, ok := parseHex(end.End.H)
			if err != nil || !ok || !spelledAs(text, end) || end.End.Seq != w.chain.seq-1 || h != w.chain.h || end.End.Stream != w.stream.id {
				w.problemAt(0, w.chain.seq, "the end of the export does not fit")
			}
			w.report.before = max(from, 1) - 1
			w.report.Records = w.chain.seq - 1 - w.report.before
			return
		}
		if w.record(0, text) != nil {
			return
		}
	}
}

// skip goes on from the opening record to record from, for whose predecessor h and mac are given.
func (w *walk) skip(from uint64, hText, macText string) bool {
	if from <= 2 {
		return true
	}
	h, hOK := parseHex(hText)
	mac, macOK := parseHex(macText)
	if !hOK || !macOK || from > 1<<30 {
		w.problemAt(0, from-1, "is named in a wrong form")
		return false
	}
	if w.keyed {
		for w.chain.seq < from-1 {
			w.chain.step()
		}
		if want := w.chain.mac(&w.chain.key, h[:]); !equal(&want, &mac) {
			w.problemAt(0, from-1, "is vouched for with another key")
			return false
		}
		w.chain.step()
	}
	w.chain.seq, w.chain.h = from, h
	return true
}
