package audit

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const journalTag = "standin-audit"

// An Anchor says that the record Seq of a stream existed and had this H: a copy of it outside the log proves that the log
// reached at least so far. MAC shows that it was not made up.
type Anchor struct {
	Stream string    `json:"stream"`
	Seq    uint64    `json:"seq"`
	H      string    `json:"h"`
	MAC    string    `json:"mac"`
	Time   time.Time `json:"time"`
	Source Source    `json:"-"` // where it was found

	nonce, newest, proof string // of a live gateway
}

// A Source says where an anchor was found, hence what it is worth.
type Source string

const (
	Receipt     Source = "receipt"      // the zero Source counts as this one
	LiveGateway Source = "live gateway" // anybody may sit at its socket: it counts only if it is made by Live.AnchorTo and checks
	JournalLine Source = "journal"      // anybody may write there: it counts only with a MAC that checks
)

// ParseReceipt finds the anchors in a receipt: a JSON object with a member "anchor" or "anchors", or an anchor itself.
func ParseReceipt(data []byte) ([]Anchor, error) {
	var receipt struct {
		Anchor
		One  *Anchor  `json:"anchor"`
		Many []Anchor `json:"anchors"`
	}
	if err := json.Unmarshal(data, &receipt); err != nil {
		return nil, fmt.Errorf("parse receipt: not a JSON object of a receipt")
	}
	anchors := receipt.Many
	if receipt.One != nil {
		anchors = append(anchors, *receipt.One)
	}
	if receipt.Stream != "" {
		anchors = append(anchors, receipt.Anchor)
	}
	for _, a := range anchors {
		if err := a.valid(); err != nil {
			return nil, fmt.Errorf("parse receipt: %w", err)
		}
	}
	if len(anchors) == 0 {
		return nil, errors.New("parse receipt: it holds no anchor")
	}
	return anchors, nil
}

func (a Anchor) valid() error {
	_, idOK := parseStreamID(a.Stream)
	_, hOK := parseHex(a.H)
	_, macOK := parseHex(a.MAC)
	if !idOK || !hOK || a.Seq == 0 || (a.MAC != "" && !macOK) {
		return errors.New("malformed anchor")
	}
	return nil
}

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

// liveLabel derives what a live gateway proves itself with from the key of its next record, which it gives nothing of away.
const liveLabel = "standin audit live gateway v1"

// A Live is what a gateway says of its log when it is asked: the last durable record, the newest stream that it has seen in
// the directory, and the proof that it holds the key of the next record.
type Live struct {
	Anchor Anchor `json:"anchor"`
	Newest string `json:"newest"`
	Proof  string `json:"proof"`
}

// NewNonce returns what a gateway is asked with: nobody can have kept an answer to it.
func NewNonce() string {
	var nonce [32]byte
	rand.Read(nonce[:])
	return hex.EncodeToString(nonce[:])
}

// Live answers one who asks with a nonce. The error is ErrClosed where the key is gone.
func (l *Log) Live(nonce string) (Live, error) {
	if _, ok := parseHex(nonce); !ok {
		return Live{}, fmt.Errorf("prove the key of the log: the nonce is not 64 hex digits")
	}
	l.Look()
	l.mu.Lock()
	a, key := l.anchor, l.live
	a.newest = l.newest
	l.mu.Unlock()
	defer clear(key[:])
	if key == [32]byte{} {
		return Live{}, fmt.Errorf("prove the key of the log: %w", ErrClosed)
	}
	proof := liveProof(&key, &a, nonce)
	return Live{a, a.newest, hex.EncodeToString(proof[:])}, nil
}

// clockStep is more than the times of a file system are apart: a file may come and go at the time at which one looked.
const clockStep = time.Second

// Look remembers the newest stream in the directory, so that Live can tell of it when it is gone. It costs next to nothing
// while no file comes or goes there.
func (l *Log) Look() {
	info, err := os.Stat(l.dir)
	if err != nil {
		return
	}
	l.mu.Lock()
	known := info.ModTime().Equal(l.looked) && time.Since(l.looked) > clockStep
	l.mu.Unlock()
	if known {
		return
	}
	entries, _ := os.ReadDir(l.dir)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looked = info.ModTime()
	last, _ := parseStreamID(l.newest)
	for _, e := range entries {
		if id, number, _, ok := parseFileName(e.Name()); ok && number > last {
			l.newest, last = id, number
		}
	}
}

// AnchorTo returns the anchor in the answer to nonce. Verify takes it for one only if the proof checks.
func (l Live) AnchorTo(nonce string) Anchor {
	a := l.Anchor
	a.Source, a.nonce, a.newest, a.proof = LiveGateway, nonce, l.Newest, l.Proof
	return a
}

func liveProof(key *[32]byte, a *Anchor, nonce string) [32]byte {
	c := newChain(point{})
	defer c.wipe()
	return c.mac(key, fmt.Appendf(nil, "%s %d %s %s %s", a.Stream, a.Seq, a.H, a.newest, nonce))
}

// liveKey is made when a record is durable, and forgotten when the next one is.
func (c *chain) liveKey() [32]byte { return c.mac(&c.key, []byte(liveLabel)) }

// claimed tells whether anybody could have said so: it counts only with a proof.
func (f *fact) claimed() bool {
	return f.anchor != nil && (f.anchor.Source == JournalLine || f.anchor.Source == LiveGateway)
}

// genuine tells whether an anchor was made with the key of its record; that of a live gateway, with the key after it.
func (w *walk) genuine(f *fact, key *[32]byte) bool {
	if !w.keyed {
		return false
	}
	if f.anchor.Source == LiveGateway {
		next := newChain(point{key: *key})
		defer next.wipe()
		next.step()
		live := next.liveKey()
		want, ok := parseHex(f.anchor.proof)
		got := liveProof(&live, f.anchor, f.anchor.nonce)
		return ok && equal(&want, &got)
	}
	want, ok := parseHex(f.anchor.MAC)
	got := w.chain.mac(key, f.h[:])
	return ok && equal(&want, &got)
}

// idle tells whether a claim that has no proof and does not fit is no more than that, and warns of it. Without the
// recovery key that of a gateway cannot be told from a genuine one.
func (w *walk) idle(f *fact) bool {
	what := "an anchor in the journal does not check"
	if f.anchor.Source == LiveGateway {
		what = fmt.Sprintf("who answers as the live gateway of stream %s does not hold its key", w.stream.id)
	}
	if w.keyed || f.anchor.Source == JournalLine {
		w.report.warnings = append(w.report.warnings, what)
		return true
	}
	return false
}

const maxSteps = 10_000_000 // records behind the end of a stream up to which the MAC of an anchor is checked

func (w *walk) genuineLater(f *fact) bool {
	if !w.keyed || f.seq-w.chain.seq > maxSteps {
		return false
	}
	ahead := newChain(w.chain.point)
	for ahead.seq < f.seq {
		ahead.step()
	}
	return w.genuine(f, &ahead.key)
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
			v.compare(tip{a.Stream, a.Seq, a.H}, fact{anchor: &a}, "an anchor of the "+string(a.Source))
		case v.present[a.Stream] != nil:
			v.facts[a.Stream] = append(v.facts[a.Stream], &fact{seq: a.Seq, h: h, from: "an anchor of the " + string(a.Source), anchor: &a})
		case a.Source == JournalLine:
			v.warn(fmt.Sprintf("the journal has an anchor of stream %s, which is not there", a.Stream))
			if number, _ := parseStreamID(a.Stream); len(v.streams) == 0 || number > v.streams[len(v.streams)-1].number {
				v.report.Unchecked++ // nobody else could miss it
			}
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
		v.changed(m.by, m.archive)
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

func (v *verifier) changed(by string, a *archive) {
	v.problem(Problem{Stream: by, Seq: 1, What: fmt.Sprintf("moved streams aside to %q, which was changed since", a.Directory)})
}

// moveOf is the archive that a stream was moved to, or nil. A log that was moved may hold the record of an earlier move.
func (v *verifier) moveOf(id string) *move {
	number, _ := parseStreamID(id)
	for i := 0; i < len(v.moves); i++ {
		if m := &v.moves[i]; number < m.number && !m.looked {
			m.looked = true
			m.streams, m.lacks, m.broken = v.archived(m.archive, m.number)
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

// holds tells whether a stream that was moved aside is in order up to the record that f knows.
func (v *verifier) holds(m *move, s *stream, f *fact) bool {
	w := &walk{dir: filepath.Join(v.dir, m.archive.Directory), stream: s, facts: []*fact{f}, report: &StreamReport{Stream: s.id},
		chain: newChain(point{seq: 1}), lines: newLineReader()}
	w.run()
	w.chain.wipe()
	return f.met
}
