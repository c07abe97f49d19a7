// Package audit keeps a record of every use of a secret that cannot be changed, cut or invented unseen.
//
// It appends records to a stream of files (Open, Append, Note), checks what is there (Verify, VerifyExport) and searches
// it (Query, Export). The format is written down in FORMAT.md.
//
// It does not decide what is recorded, and it holds no value of a secret: at most a keyed fingerprint. It cannot know
// what was written after the newest anchor and then cut off: Verify counts such records as unproven and never says
// plain OK to them.
//
// Invariants: Append returns nil only when the record is on the disk; the key of a durable record is nowhere in memory;
// no byte of a line lies outside the chain.
package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"standin/audit/segment"
)

// The types of records. A summary of many like records has the type of these and a Count above one.
const (
	TypeOpen               = "open"       // a session begins
	TypeIsolation          = "isolation"  // the command's own namespaces were tested
	TypeGrant              = "grant"      // a secret is granted to a session
	TypeSubstitute         = "substitute" // a secret is about to leave for an upstream
	TypeResult             = "result"     // what came of it; the ID ties the two
	TypeDeny               = "deny"
	TypeMisplaced          = "misplaced"
	TypePassthrough        = "passthrough"
	TypeDeliver            = "deliver"
	TypeRevoke             = "revoke"
	TypeClose              = "close" // a session ends
	TypeClientRejectedLeaf = "client_rejected_leaf"
	TypeMark               = "mark"

	typeStream    = "stream"     // the first record of a stream
	typeSegment   = "segment"    // the first record of each further segment
	typeClockJump = "clock_jump" // the wall clock moved against the monotonic one
	typeSeal      = "seal"       // the last record of a stream that ended in order
)

// A Process is who asked. The zero Process is unknown.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since the machine was started, as in /proc/PID/stat
	Exe   string `json:"exe"`
	UID   int    `json:"uid"`
	Depth int    `json:"depth"` // generations below the command of the session
}

// A Use is one secret put in one place. Fingerprint is made with Log.Fingerprint.
type Use struct {
	Secret      string `json:"secret"`
	Version     string `json:"version,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	Surface     string `json:"surface,omitempty"`
	Count       int    `json:"count,omitempty"`
}

// A Record is one event. Zero fields are left out of the line. No field may hold a value, a placeholder, a query string
// or an argument list; strings are cut, visibly, at 4 KiB.
type Record struct {
	Type      string        `json:"type"`
	Session   string        `json:"session,omitempty"`
	Profile   string        `json:"profile,omitempty"`
	Isolation string        `json:"isolation,omitempty"`
	Process   Process       `json:"process,omitzero"`
	Host      string        `json:"host,omitempty"`
	Port      int           `json:"port,omitempty"`
	Scheme    string        `json:"scheme,omitempty"`
	Method    string        `json:"method,omitempty"`
	Path      string        `json:"path,omitempty"` // with {secret-name} where a placeholder stood
	Rule      string        `json:"rule,omitempty"`
	Uses      []Use         `json:"uses,omitempty"`
	ID        string        `json:"id,omitempty"` // of the request; ties a result to its substitute
	Code      string        `json:"code,omitempty"`
	Status    int           `json:"status,omitempty"`
	BytesIn   int64         `json:"bytes_in,omitempty"`
	BytesOut  int64         `json:"bytes_out,omitempty"`
	Duration  time.Duration `json:"-"`                 // duration_us in the line
	Command   string        `json:"command,omitempty"` // base name of the executable only
	RulesHash string        `json:"rules_hash,omitempty"`
	Reason    string        `json:"reason,omitempty"`
	Secrets   []string      `json:"secrets,omitempty"`
	Variables []string      `json:"variables,omitempty"`
	Count     int           `json:"count,omitempty"`

	Scrub       string   `json:"scrub,omitempty"`       // what the rule says about scrubbing, if it says so
	Scrubbed    int      `json:"scrubbed,omitempty"`    // values that were replaced in the body of the answer
	Credentials []string `json:"credentials,omitempty"` // names of new ones that the answer brought: "cookie sid", "access_token"
	Stripped    []string `json:"stripped,omitempty"`    // the same, taken out
}

// Keys are what a log is opened with; both are required.
type Keys struct {
	Vault    []byte // 32 bytes, the same for every stream of a home: they vouch for opening records and key the fingerprints
	Recovery string // public half of the recovery key (age1…); the private half is not on the machine
}

// A Config may be zero.
type Config struct {
	Version      string           // of the program, for the opening record
	SegmentBytes int64            // a segment that is longer is followed by a new one; 0: 64 MiB
	Retain       Retention        // what Open removes; zero: nothing
	Journal      *Journal         // marks and the seal are sent there, too; nil: nowhere
	Now          func() time.Time // the wall clock; nil: time.Now

	// VaultWrites counts the writes to the vault, as it is at the moment: the opening record keeps the number, and a vault
	// older than the log has seen is refused with an *OlderVaultError. nil: the log does not watch the vault.
	VaultWrites func() (uint64, error)
	Reason      string // of the opening, if it has one
}

// A Problem is a sign of tampering. Segment and Seq are 0 where it has none.
type Problem struct {
	Stream  string `json:"stream,omitempty"`
	Segment int    `json:"segment,omitempty"`
	Seq     uint64 `json:"record,omitempty"`
	What    string `json:"what"`
}

func (p Problem) String() string {
	var parts []string
	if p.Stream != "" {
		parts = append(parts, "stream "+p.Stream)
	}
	if p.Segment > 0 {
		parts = append(parts, fmt.Sprintf("segment %d", p.Segment))
	}
	if p.Seq > 0 {
		return strings.Join(append(parts, fmt.Sprintf("record %d", p.Seq)), ", ") + ": " + p.What
	}
	return strings.Join(parts, ", ") + ": " + p.What
}

// An UnavailableError says that a record could not be made durable. Nothing may be done that needs it.
type UnavailableError struct {
	Path string
	Err  error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("write audit log %q: %v", e.Path, e.Err)
}
func (e *UnavailableError) Unwrap() error { return e.Err }

// A KeyError says that a key is missing, malformed or not the one the log was made with.
type KeyError struct{ Key, Problem string }

func (e *KeyError) Error() string { return fmt.Sprintf("read audit %s key: %s", e.Key, e.Problem) }

// An OlderVaultError says that the vault counts fewer writes than an opening record of the log does: an older copy of it was
// put in its place.
type OlderVaultError struct{ Have, Seen uint64 }

func (e *OlderVaultError) Error() string {
	return fmt.Sprintf("check the vault against the audit log: it is an older copy (write %d, and the log has seen write %d)", e.Have, e.Seen)
}

// An EvidenceError says that nothing was retired since the log is not what it was.
type EvidenceError struct{ Problem Problem }

func (e *EvidenceError) Error() string {
	return fmt.Sprintf("keep the log as it is, and retire nothing: it was tampered with: %s; see \"standin audit verify\"", e.Problem)
}

// checked chooses what to retire, and checks it: a stream that is not what is known of it is evidence. It takes no lock,
// since it reads every record of these streams.
func (r Retention) checked(dir string, vault []byte, now time.Time) ([]tip, error) {
	if r == (Retention{}) {
		return nil, nil
	}
	v, err := newVerifier(dir, VerifyOptions{VaultKey: vault})
	if err == nil {
		v.streams, _, err = scan(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, s := range v.streams {
		v.present[s.id] = s
	}
	retire, err := r.choose(dir, v.streams, now)
	if err != nil {
		return nil, err
	}
	v.readOpenings()
	v.commitments()
	for _, s := range v.streams {
		if slices.ContainsFunc(retire, func(t tip) bool { return t.Stream == s.id }) {
			v.check(s)
		}
	}
	if len(v.report.Problems) > 0 {
		return nil, &EvidenceError{v.report.Problems[0]}
	}
	return retire, nil
}

// archived compares the directory of an archive, which a stream with this number was opened with, with its digests. It
// returns the streams in it; or why it tells nothing; or that it was changed since.
func (v *verifier) archived(a *archive, number uint64) (streams []*stream, lacks string, broken bool) {
	path := filepath.Join(v.dir, a.Directory)
	if filepath.Base(path) != a.Directory || !strings.HasPrefix(a.Directory, archivePrefix) {
		return nil, "", true
	}
	streams, _, err := scan(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "which is not here, so nothing in it was checked; it may be kept elsewhere", false
	}
	got := *a
	if a.Files != "" && err == nil {
		got.Files, err = fileDigest(path, v.dir, number)
	} else if err == nil {
		tips := make([]tip, len(streams))
		for i, s := range streams {
			last, _, bad := lastRecord(path, s, false)
			if bad != nil {
				last, err = tip{Stream: s.id}, bad // as Recover took it
			}
			tips[i] = last
		}
		if got = *newArchive(a.Directory, tips); got == *a {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Sprintf("which cannot be checked: %v", plainError(err)), false
	}
	return streams, "", got != *a
}

// fileDigest is what an archive has of its files. Those that are still in dir, of streams below a number, belong to it: to
// move them may have been interrupted. A file that is no file counts as one; the error says that one may not be read.
func fileDigest(path, dir string, below uint64) (string, error) {
	at := map[string]string{}
	for _, d := range []string{dir, path} {
		entries, err := os.ReadDir(d)
		if err != nil && d != "" {
			return "", err
		}
		for _, e := range entries {
			if _, number, _, ok := parseFileName(e.Name()); ok && (d == path || number < below) {
				at[e.Name()] = filepath.Join(d, e.Name())
			}
		}
	}
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(at)) {
		text := "-"
		f, _, err := segment.Read(at[name])
		if errors.Is(err, fs.ErrPermission) {
			return "", err
		}
		if err == nil {
			one := sha256.New()
			_, err = io.Copy(one, f)
			f.Close()
			text = hex.EncodeToString(one.Sum(nil))
		}
		if err != nil {
			text = "-"
		}
		fmt.Fprintf(sum, "%s %s\n", name, text)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// SeenVaultWrites returns the write of the vault that the log has seen: that of the newest opening record which the owner of
// the vault made; 0 where there is none.
func SeenVaultWrites(dir string, vaultKey []byte) (uint64, error) {
	streams, _, err := scan(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read audit log: %w", err)
	}
	key := subkey(vaultKey, openingLabel)
	seen, err := seenWrites(dir, streams, &key)
	if err != nil {
		return 0, fmt.Errorf("read audit log: %w", err)
	}
	return seen, nil
}

// seenWrites looks at the newest opening that counts; what others have put beside it does not. Openings are made under the
// lock of the directory, so their counts never fall.
func seenWrites(dir string, streams []*stream, vault *[32]byte) (uint64, error) {
	o, err := newestVouched(dir, streams, vault, false)
	if err != nil || o == nil {
		return 0, err
	}
	return o.VaultWrites, nil
}

// newestVouched returns the newest opening that was made with the vault's key, nil if there is none. In a broken log it
// passes over what cannot be read.
func newestVouched(dir string, streams []*stream, vault *[32]byte, broken bool) (*opening, error) {
	for _, s := range slices.Backward(streams) {
		o, err := readOpening(dir, s)
		switch {
		case err == nil && o.vouched(vault):
			return o, nil
		case err != nil && !broken && !errors.Is(err, errForm) && !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return nil, nil
}

// watchVault refuses a vault that is older than the log knows it.
func (b *beginning) watchVault(newest *opening) (err error) {
	if b.log.config.VaultWrites == nil {
		return nil
	}
	var seen uint64
	if newest != nil {
		seen = newest.VaultWrites
	}
	if b.opening.VaultWrites, err = b.log.config.VaultWrites(); err == nil && b.opening.VaultWrites < seen {
		err = &OlderVaultError{Have: b.opening.VaultWrites, Seen: seen}
	}
	return err
}

// follow numbers the new stream. Somebody may have used up the numbers: then only a log that begins anew, with the old one
// moved away, goes on, from the last number that the vault's owner gave.
func (b *beginning) follow(streams []*stream, newest *opening) error {
	var number uint64
	if len(streams) > 0 {
		number = streams[len(streams)-1].number
	}
	b.log.stream = newStreamID(number + 1)
	if _, ok := parseStreamID(b.log.stream); ok {
		return nil
	}
	if b.opening.Archive == nil {
		return fmt.Errorf("number a stream after %q: %w", streams[len(streams)-1].id, ErrNumbers)
	}
	number = 0
	if newest != nil {
		number, _ = parseStreamID(newest.Stream)
	}
	b.log.stream = newStreamID(number + 1)
	return nil
}

// ErrNumbers says that somebody has used up the numbers of streams.
var ErrNumbers = errors.New("no number is left")

// ErrClosed is inside the UnavailableError of a log that was closed.
var ErrClosed = errors.New("the log is closed")
