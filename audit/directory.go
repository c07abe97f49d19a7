package audit

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"standin/audit/segment"
)

const (
	lockName = ".lock"
	lockWait = 10 * time.Second
	format   = 1
)

// A stream is what lies in the directory under one id.
type stream struct {
	id       string
	number   uint64
	segments []int // ascending
}

func (s *stream) path(dir string, n int) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%06d.jsonl", s.id, n))
}

// newStreamID numbers streams in the order in which they were opened: clocks may go back.
func newStreamID(number uint64) string {
	var random [5]byte
	rand.Read(random[:])
	return fmt.Sprintf("%06d-%s", number, strings.ToLower(base32.StdEncoding.EncodeToString(random[:])))
}

func parseStreamID(id string) (number uint64, ok bool) {
	digits, random, found := strings.Cut(id, "-")
	if !found || len(digits) < 6 || (len(digits) > 6 && digits[0] == '0') || len(random) != 8 {
		return 0, false
	}
	for _, c := range random {
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return 0, false
		}
	}
	number, ok = parseNumber(digits)
	return number, ok && number > 0
}

func parseNumber(digits string) (uint64, bool) {
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	return n, err == nil
}

// parseFileName is the inverse of stream.path.
func parseFileName(name string) (id string, number uint64, n int, ok bool) {
	base, found := strings.CutSuffix(name, ".jsonl")
	at := strings.LastIndexByte(base, '-')
	if !found || at < 0 {
		return "", 0, 0, false
	}
	number, ok = parseStreamID(base[:at])
	part, partOK := parseNumber(base[at+1:])
	if !ok || !partOK || part < 1 || part > 1<<30 || base[at+1:] != fmt.Sprintf("%06d", part) {
		return "", 0, 0, false
	}
	return base[:at], number, int(part), true
}

// scan lists the streams, oldest first, and the names that do not belong there.
func scan(dir string) (streams []*stream, foreign []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	byID := map[string]*stream{}
	for _, e := range entries {
		id, number, n, ok := parseFileName(e.Name())
		if !ok {
			if e.Name() != lockName && !(e.IsDir() && strings.HasPrefix(e.Name(), archivePrefix)) {
				foreign = append(foreign, e.Name())
			}
			continue
		}
		s := byID[id]
		if s == nil {
			s = &stream{id: id, number: number}
			byID[id] = s
			streams = append(streams, s)
		}
		s.segments = append(s.segments, n)
	}
	for _, s := range streams {
		slices.Sort(s.segments)
	}
	slices.SortFunc(streams, func(a, b *stream) int {
		if a.number != b.number {
			return int(min(max(int64(a.number-b.number), -1), 1))
		}
		return strings.Compare(a.id, b.id)
	})
	return streams, foreign, nil
}

// A tip names a record of another stream. Seq 0 and no H: the stream held no record.
type tip struct {
	Stream string `json:"stream"`
	Seq    uint64 `json:"seq"`
	H      string `json:"h"`
}

// An opening is the first record of a stream. Through follows, ended and running it commits to every stream that was
// there: to some by name, to all others through the opening that it follows.
type opening struct {
	Format   int      `json:"format"`
	Stream   string   `json:"stream"`
	Version  string   `json:"version"`
	Process  Process  `json:"process"`
	Key      string   `json:"key"`     // the first key, sealed to the recovery key, in base64
	Follows  *tip     `json:"follows"` // the newest opening before this one
	Ended    []tip    `json:"ended"`   // last records of streams that ended since that one
	Running  []tip    `json:"running"` // records that streams still being written had reached
	Retired  []tip    `json:"retired"` // last records of streams that are removed on purpose
	Archive  *archive `json:"archive"` // every stream before this one was moved there, since the log was broken
	Reason   string   `json:"reason"`
	VaultMAC string   `json:"vault_mac"`

	VaultWrites uint64 `json:"vault_writes"` // as many as the vault had seen

	h        [32]byte
	macKeyed []byte // the bytes that VaultMAC is over
}

func follows(o *opening) []tip {
	if o.Follows == nil {
		return nil
	}
	return []tip{*o.Follows}
}

// An archive is a directory beside the streams. Digest is the SHA-256 of a line "ID SEQ H\n" for each stream in it, oldest
// first; Files that of a line "NAME SHA256\n" for each segment, by name. Older archives have no Files.
type archive struct {
	Directory string `json:"directory"`
	Streams   int    `json:"streams"`
	Digest    string `json:"digest"`
	Files     string `json:"files"`
}

func newArchive(name string, tips []tip) *archive {
	d := sha256.New()
	for _, t := range tips {
		fmt.Fprintf(d, "%s %d %s\n", t.Stream, t.Seq, t.H)
	}
	return &archive{Directory: name, Streams: len(tips), Digest: hex.EncodeToString(d.Sum(nil))}
}

// appendOpening appends the body of the opening record, up to and with the MAC of the vault's key.
func appendOpening(b []byte, o *opening, wall time.Time, vault *[32]byte) []byte {
	start := len(b)
	b = append(b, `{"seq":1,`...)
	b = appendHead(b, wall, 0, typeStream)
	b = appendNumber(b, "format", format)
	b = appendText(b, "stream", o.Stream)
	b = appendText(b, "version", o.Version)
	b = appendProcess(b, &o.Process)
	b = append(appendKey(b, "key"), '"')
	b = append(b, o.Key...)
	b = append(b, '"')
	if o.Follows != nil {
		b = appendTip(appendKey(b, "follows"), *o.Follows)
	}
	for _, list := range []struct {
		key  string
		tips []tip
	}{{"ended", o.Ended}, {"running", o.Running}, {"retired", o.Retired}} {
		for i, t := range list.tips {
			if i == 0 {
				b = append(appendKey(b, list.key), '[')
			} else {
				b = append(b, ',')
			}
			b = appendTip(b, t)
		}
		if len(list.tips) > 0 {
			b = append(b, ']')
		}
	}
	if a := o.Archive; a != nil {
		b = fmt.Appendf(appendKey(b, "archive"), `{"directory":"%s","streams":%d,"digest":"%s","files":"%s"}`, a.Directory, a.Streams, a.Digest, a.Files)
	}
	b = appendText(b, "reason", o.Reason)
	b = appendNumber(b, "vault_writes", int64(o.VaultWrites))
	c := newChain(point{})
	mac := c.mac(vault, b[start:])
	b = append(b, vaultMACOpen...)
	b = fmt.Appendf(b, "%x", mac)
	return append(b, '"')
}

func appendTip(b []byte, t tip) []byte {
	return fmt.Appendf(b, `{"stream":"%s","seq":%d,"h":"%s"}`, t.Stream, t.Seq, t.H)
}

// parseOpening reads the first line of a stream.
func parseOpening(text []byte, id string) (*opening, error) {
	l, err := parseLine(text)
	if err != nil {
		return nil, err
	}
	at := bytes.LastIndex(l.body, []byte(vaultMACOpen))
	if l.seq != 1 || at < 0 || len(l.body) != at+len(vaultMACOpen)+65 {
		return nil, errForm
	}
	o := &opening{h: l.h, macKeyed: l.body[:at]}
	whole := append(slices.Clone(l.body), '}')
	if err := json.Unmarshal(whole, o); err != nil || o.Stream != id || o.Format != format {
		return nil, errForm
	}
	if _, err := base64.StdEncoding.DecodeString(o.Key); err != nil {
		return nil, errForm
	}
	return o, nil
}

// vouched tells whether the opening was made by someone who had the vault's key.
func (o *opening) vouched(vault *[32]byte) bool {
	want, ok := parseHex(o.VaultMAC)
	c := newChain(point{})
	got := c.mac(vault, o.macKeyed)
	return ok && equal(&want, &got)
}

func readOpening(dir string, s *stream) (*opening, error) {
	f, err := segment.Open(s.path(dir, 1))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := firstLine(f)
	if err != nil {
		return nil, err
	}
	return parseOpening(text, s.id)
}

// firstLine returns the first line, without its line feed where the file ends before it.
func firstLine(f *os.File) ([]byte, error) {
	text, err := bufio.NewReader(io.LimitReader(f, maxLine+1)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return text, nil
}

// lastRecord returns the last whole line of a stream. With durable set it makes sure that the line is on the disk: what
// one stream says of another must survive a power cut that the other does not.
func lastRecord(dir string, s *stream, durable bool) (tip, time.Time, error) {
	none := tip{Stream: s.id}
	for _, n := range slices.Backward(s.segments) {
		f, err := segment.Open(s.path(dir, n))
		if err != nil {
			return none, time.Time{}, err
		}
		l, err := lastLine(f)
		if err == nil && durable && f.Sync() != nil {
			err = errForm
		}
		f.Close()
		if err == nil {
			return tip{s.id, l.seq, string(l.hHex)}, l.time(), nil
		}
		if !errors.Is(err, errForm) {
			return none, time.Time{}, err
		}
	}
	return none, time.Time{}, nil
}

func lastLine(f *os.File) (line, error) {
	info, err := f.Stat()
	if err != nil {
		return line{}, err
	}
	for window := int64(4096); ; window *= 16 {
		window = min(window, info.Size())
		text := make([]byte, window)
		if _, err := f.ReadAt(text, info.Size()-window); err != nil {
			return line{}, err
		}
		for end := bytes.LastIndexByte(text, '\n'); end >= 0; {
			start := bytes.LastIndexByte(text[:end], '\n') + 1
			if l, err := parseLine(text[start : end+1]); err == nil && (start > 0 || window == info.Size()) {
				return l, nil
			}
			end = start - 1
		}
		if window == info.Size() || window > 2*maxLine {
			return line{}, errForm
		}
	}
}

// time returns the wall time of a record, which stands at a fixed place behind seq.
func (l *line) time() time.Time {
	_, rest, _ := bytes.Cut(l.body, []byte(`,"time":"`))
	if len(rest) < len(timeLayout) {
		return time.Time{}
	}
	t, err := time.Parse(timeLayout, string(rest[:len(timeLayout)]))
	if err != nil {
		return time.Time{}
	}
	return t
}

// present fills in what the opening says about the streams that are there. Only streams that an opening made with the
// vault's key has not settled yet are looked at, so that a long history costs nothing.
func (o *opening) present(dir string, streams []*stream, vault *[32]byte) error {
	if o.Archive != nil {
		return nil
	}
	unsettled := map[string]bool{}
	var newest uint64
	for _, s := range slices.Backward(streams) {
		last, err := readOpening(dir, s)
		if errors.Is(err, errForm) {
			continue
		}
		if err != nil {
			return err
		}
		o.Follows = &tip{s.id, 1, fmt.Sprintf("%x", last.h)}
		if last.vouched(vault) {
			newest = s.number
			for _, t := range last.Running {
				unsettled[t.Stream] = true
			}
		}
		break
	}
	for _, s := range streams {
		if s.number < newest && !unsettled[s.id] || slices.ContainsFunc(o.Retired, func(t tip) bool { return t.Stream == s.id }) {
			continue
		}
		running := segment.Running(s.path(dir, 1)) // asked first: what ends in between is only committed to later
		last, _, err := lastRecord(dir, s, running)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if running {
			o.Running = append(o.Running, last)
		} else {
			o.Ended = append(o.Ended, last)
		}
	}
	return nil
}
