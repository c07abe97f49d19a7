package audit

import (
	"encoding/base64"
	"fmt"
	"slices"
	"time"

	"filippo.io/age"

	"standin/audit/segment"
)

// What Verify finds, as the exit code of the program.
const (
	Whole     = 0  // whole, keyed, ended in order or alive, and anchored up to the end
	Tampered  = 10 // something was changed, cut, removed or invented
	OrderOnly = 11 // nothing found, but without the recovery key only order and commitments could be checked
	Unproven  = 12 // whole, but what was written after the newest anchor could have been cut off
	Torn      = 13 // whole but for a last line that a crash left unfinished
)

// VerifyOptions may be zero: then order and commitments are checked.
type VerifyOptions struct {
	RecoveryKey string   // private half (AGE-SECRET-KEY-1…); "": no MAC is checked
	VaultKey    []byte   // as in Keys; nil: opening records are not checked to be made by the vault's owner
	Anchors     []Anchor // those of live gateways must have been asked for before Verify is called
}

// A Report says what is whole, what is wrong, and what cannot be known.
type Report struct {
	Code     int            `json:"code"`
	Keyed    bool           `json:"keyed"`    // MACs were checked
	Vouched  bool           `json:"vouched"`  // opening records were checked against the vault's key
	Records  uint64         `json:"records"`  // that are whole
	Bytes    int64          `json:"bytes"`    // of these
	Unproven uint64         `json:"unproven"` // whole records after the newest anchor of their stream
	Newest   *Anchor        `json:"newest_anchor,omitempty"`
	Streams  []StreamReport `json:"streams"`
	Problems []Problem      `json:"problems,omitempty"`
	Warnings []string       `json:"warnings,omitempty"`

	Unvouched bool `json:"unvouched,omitempty"` // streams were removed or moved aside, and it was not checked by whom
	LeftOut   bool `json:"left_out,omitempty"`  // streams that are known of are not in the export
	Unchecked int  `json:"unchecked,omitempty"` // what is known of streams that are gone, and could not be confirmed
}

// A StreamReport is about one stream. Records 1 to Records are whole.
type StreamReport struct {
	Stream   string    `json:"stream"`
	Segments int       `json:"segments"`
	Records  uint64    `json:"records"`
	Bytes    int64     `json:"bytes"`
	First    time.Time `json:"first,omitzero"`
	Last     time.Time `json:"last,omitzero"`
	Sealed   bool      `json:"sealed"`             // it ended in order
	Running  bool      `json:"running"`            // a process is writing it
	Torn     bool      `json:"torn"`               // its last line is unfinished
	GivenUp  int64     `json:"given_up,omitempty"` // bytes left behind by writes that failed; they prove nothing
	Anchored uint64    `json:"anchored"`           // newest record that an anchor proves; 0: none
	AnchorBy string    `json:"anchor_by,omitempty"`
	Live     bool      `json:"live,omitempty"` // the anchor is that of a live gateway: what follows was written since
	Unproven uint64    `json:"unproven"`

	before   uint64 // records that an export does not hold
	problems []Problem
	warnings []string
}

type verifier struct {
	dir        string
	options    VerifyOptions
	identities []age.Identity
	opening    [32]byte // key of opening records
	streams    []*stream
	present    map[string]*stream
	openings   map[string]*opening // without an entry: the stream has no whole first record
	gone       map[string]string   // streams that were removed on purpose, and by whose word
	retired    map[string]tip      // what their ends were then; not known of those in an archive
	facts      map[string][]*fact
	report     *Report
	writes     uint64 // of the vault, up to the opening that is looked at
	unsealed   int    // streams whose first key could be read
	sealed     int    // and could not
	moves      []move // of streams that were moved aside
}

// Verify checks every stream in dir. It returns an error only where it cannot judge: dir or a key cannot be read, or the
// recovery key opens none of the streams (*KeyError). Its memory does not grow with the size of the log.
func Verify(dir string, o VerifyOptions) (*Report, error) {
	v, err := newVerifier(dir, o)
	if err != nil {
		return nil, fmt.Errorf("verify audit: %w", err)
	}
	var foreign []string
	if v.streams, foreign, err = scan(dir); err != nil {
		return nil, fmt.Errorf("verify audit: %w", err)
	}
	for _, s := range v.streams {
		v.present[s.id] = s
	}
	if err := segment.CheckDir(dir); err != nil {
		v.warn(err.Error())
	}
	for _, name := range foreign {
		v.warn(fmt.Sprintf("file %q does not belong to the log", name))
	}
	v.readOpenings()
	v.commitments()
	v.anchors()
	for _, s := range v.streams {
		v.check(s)
	}
	if v.report.Keyed && v.unsealed == 0 && v.sealed > 0 && len(v.report.Problems) == v.sealed {
		return nil, fmt.Errorf("verify audit: %w", &KeyError{"recovery", "it opens none of the streams"})
	}
	v.prove()
	v.judge()
	return v.report, nil
}

func newVerifier(dir string, o VerifyOptions) (*verifier, error) {
	v := &verifier{dir: dir, options: o, present: map[string]*stream{}, openings: map[string]*opening{},
		gone: map[string]string{}, retired: map[string]tip{}, facts: map[string][]*fact{},
		report: &Report{Keyed: o.RecoveryKey != "", Vouched: o.VaultKey != nil}}
	return v, v.keys()
}

func (v *verifier) keys() error {
	if v.options.VaultKey != nil {
		if len(v.options.VaultKey) != 32 {
			return &KeyError{"vault", "it is malformed"}
		}
		v.opening = subkey(v.options.VaultKey, openingLabel)
	}
	if v.options.RecoveryKey == "" {
		return nil
	}
	var err error
	v.identities, err = parseRecoveryKey(v.options.RecoveryKey)
	return err
}

func (v *verifier) warn(text string) { v.report.Warnings = append(v.report.Warnings, text) }

func (v *verifier) problem(p Problem) { v.report.Problems = append(v.report.Problems, p) }

func (v *verifier) readOpenings() {
	numbers := map[uint64]string{}
	for _, s := range v.streams {
		if other := numbers[s.number]; other != "" {
			v.problem(Problem{Stream: s.id, What: "has the number of stream " + other})
		}
		numbers[s.number] = s.id
		f, _, err := segment.Read(s.path(v.dir, 1))
		if err != nil {
			continue // check meets it again and says so
		}
		text, err := firstLine(f)
		f.Close()
		if err != nil || len(text) == 0 || text[len(text)-1] != '\n' {
			continue
		}
		o, err := parseOpening(text, s.id)
		if err != nil {
			v.problem(Problem{s.id, 1, 1, "is not an opening record of this stream"})
			continue
		}
		v.openings[s.id] = o
		if v.report.Vouched && !o.vouched(&v.opening) {
			v.problem(Problem{s.id, 1, 1, "was not written by the owner of the vault"})
			continue
		}
		v.removals(s, o)
	}
}

// removals notes what an opening record says was taken away on purpose.
func (v *verifier) removals(s *stream, o *opening) {
	if len(o.Retired) == 0 && o.Archive == nil {
		return
	}
	v.report.Unvouched = v.report.Unvouched || !v.report.Vouched
	for _, t := range o.Retired {
		v.gone[t.Stream], v.retired[t.Stream] = s.id, t
	}
	if o.Archive != nil {
		v.moves = append(v.moves, move{by: s.id, number: s.number, archive: o.Archive})
		v.warn(fmt.Sprintf("stream %s: %d streams before it were moved to %q: %s", s.id, o.Archive.Streams, o.Archive.Directory, o.Reason))
		for _, before := range v.streams {
			if before.number < s.number {
				v.gone[before.id] = s.id
			}
		}
	}
}

// commitments collects what opening records say about other streams.
func (v *verifier) commitments() {
	for i, s := range v.streams {
		o := v.openings[s.id]
		if o == nil || v.gone[s.id] != "" {
			continue
		}
		said := map[string]bool{}
		var list []tip
		if o.Follows != nil {
			list = append(list, *o.Follows)
		}
		v.commit(s, list, fact{}, said)
		v.commit(s, o.Ended, fact{final: true}, said)
		v.commit(s, o.Running, fact{soft: true}, said)
		if o.VaultWrites > 0 && o.VaultWrites < v.writes {
			v.problem(Problem{s.id, 1, 1, fmt.Sprintf("was opened with an older vault: write %d, after write %d was seen", o.VaultWrites, v.writes)})
		}
		v.writes = max(v.writes, o.VaultWrites)
		if o.Archive != nil {
			switch _, lacks, broken := v.archived(o.Archive, s.number); {
			case broken:
				v.changed(s.id, o.Archive)
			case lacks != "":
				v.warn(fmt.Sprintf("stream %s moved streams aside to %q, %s", s.id, o.Archive.Directory, lacks))
				v.report.Unchecked++
			}
			continue
		}
		if len(said) == 0 && s.number > 1 {
			v.problem(Problem{s.id, 1, 1, "names no stream before it, yet is not the first"})
		}
		for _, before := range slices.Backward(v.streams[:i]) {
			if v.gone[before.id] == "" && !said[before.id] && before.number < s.number {
				v.problem(Problem{Stream: before.id, What: "was not there when stream " + s.id + " was opened"})
			}
			if v.openings[before.id] != nil {
				break // that one vouches for those before it
			}
		}
	}
}

func (v *verifier) commit(s *stream, tips []tip, like fact, said map[string]bool) {
	for _, t := range tips {
		number, ok := parseStreamID(t.Stream)
		h, hOK := parseHex(t.H)
		if !ok || number >= s.number || (t.Seq > 0 && !hOK) {
			v.problem(Problem{s.id, 1, 1, "names another stream in a wrong form"})
			continue
		}
		said[t.Stream] = true
		if v.gone[t.Stream] != "" {
			v.compare(t, like, "stream "+s.id)
			continue
		}
		if v.present[t.Stream] == nil {
			v.problem(Problem{Stream: t.Stream, What: "is missing; it was there when stream " + s.id + " was opened"})
			continue
		}
		f := like
		f.seq, f.h, f.from = t.Seq, h, "stream "+s.id
		v.facts[t.Stream] = append(v.facts[t.Stream], &f)
	}
}

// compare checks what is known of a stream that is gone against the end that it was retired with: who cuts a stream must not
// be rid of what was said of it by having it retired.
func (v *verifier) compare(t tip, like fact, from string) {
	end, ok := v.retired[t.Stream]
	if !ok || t.Seq < end.Seq && !like.final || t.Seq == end.Seq && t.H == end.H {
		return
	}
	what := fmt.Sprintf("is known to %s, but the stream was retired at record %d, as if it had ended otherwise", from, end.Seq)
	if like.soft || like.claimed() { // the record may have been given up; or anybody can have said so
		v.warn(fmt.Sprintf("record %d of stream %s %s", t.Seq, t.Stream, what))
		v.report.Unchecked++
		return
	}
	v.problem(Problem{Stream: t.Stream, Seq: t.Seq, What: what})
}

// check walks through one stream.
func (v *verifier) check(s *stream) {
	if by := v.gone[s.id]; by != "" {
		v.warn(fmt.Sprintf("stream %s was retired by stream %s, but files of it remain", s.id, by))
		return
	}
	r := StreamReport{Stream: s.id, Running: segment.Running(s.path(v.dir, 1))}
	facts := v.facts[s.id]
	slices.SortStableFunc(facts, func(a, b *fact) int { return int(min(max(int64(a.seq-b.seq), -1), 1)) })
	w := &walk{dir: v.dir, stream: s, facts: facts, report: &r, chain: newChain(point{seq: 1}), lines: newLineReader()}
	if o := v.openings[s.id]; o != nil && v.report.Keyed {
		w.unseal(v, o)
	}
	w.run()
	w.chain.wipe()
	r.Last, _ = time.Parse(timeLayout, string(w.last[:]))
	v.report.Streams = append(v.report.Streams, r)
	v.report.Problems = append(v.report.Problems, r.problems...)
	v.report.Warnings = append(v.report.Warnings, r.warnings...)
	v.report.Records += r.Records
	v.report.Bytes += r.Bytes
}

// unseal finds the first key of the stream.
func (w *walk) unseal(v *verifier, o *opening) bool {
	sealed, _ := base64.StdEncoding.DecodeString(o.Key)
	key, err := unsealKey(sealed, v.identities)
	if err != nil {
		v.sealed++
		w.problemAt(1, 1, "holds a first key that is not sealed to this recovery key")
		return false
	}
	v.unsealed++
	w.keyed, w.chain.key = true, key
	return true
}

// prove spreads what anchors prove, from the newest stream down: an opening record that is proven proves what it names.
func (v *verifier) prove() {
	proven := map[string]bool{} // openings, by what facts call them
	for i := len(v.report.Streams) - 1; i >= 0; i-- {
		r := &v.report.Streams[i]
		for _, f := range v.facts[r.Stream] {
			a := f.anchor
			if !f.met || f.seq < r.Anchored || (a == nil && !proven[f.from]) {
				continue
			}
			r.Anchored, r.AnchorBy = f.seq, f.from
			if a == nil {
				continue
			}
			if a.Source == LiveGateway {
				r.Live = r.Live || r.Running
				v.seen(a)
			}
			if v.report.Newest == nil || a.Time.After(v.report.Newest.Time) {
				v.report.Newest = a
			}
		}
		proven["stream "+r.Stream] = r.Anchored > 0
		if !r.Live {
			last := r.before + r.Records
			r.Unproven = min(r.Records, last-min(last, r.Anchored))
		}
		v.report.Unproven += r.Unproven
	}
}

// seen looks for the newest stream that a live gateway has seen: one that was opened after its own is named by no other.
func (v *verifier) seen(live *Anchor) {
	number, ok := parseStreamID(live.newest)
	if ok && v.present[live.newest] == nil && v.gone[live.newest] == "" && number > v.streams[len(v.streams)-1].number {
		v.problem(Problem{Stream: live.newest, What: "is missing; the live gateway of stream " + live.Stream + " has seen it"})
	}
}

// unique drops what is said twice: one loss shows in several commitments.
func unique(problems []Problem) (kept []Problem) {
	for _, p := range problems {
		if !slices.Contains(kept, p) {
			kept = append(kept, p)
		}
	}
	return kept
}

func (v *verifier) judge() {
	r := v.report
	r.Problems = unique(r.Problems)
	slices.Sort(r.Warnings)
	r.Warnings = slices.Compact(r.Warnings)
	torn, open := false, len(r.Streams) == 0 || r.LeftOut || r.Unvouched || r.Unchecked > 0
	for _, s := range r.Streams {
		torn = torn || s.Torn
		open = open || s.Unproven > 0 || s.GivenUp > 0 || !(s.Sealed || s.Live)
	}
	switch {
	case len(r.Problems) > 0:
		r.Code = Tampered
	case !r.Keyed:
		r.Code = OrderOnly
	case torn:
		r.Code = Torn
	case open:
		r.Code = Unproven
	default:
		r.Code = Whole
	}
}
