package audit

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newLog makes a log of three streams, the second of several segments, and returns the anchor of the last seal.
func newLog(t testing.TB) (house, Anchor) {
	h := newHouse(t)
	h.fill(t, 3, Config{})
	h.fill(t, 9, Config{SegmentBytes: 2500})
	return h, h.fill(t, 4, Config{})
}

func TestAWholeAnchoredLogIsWhole(t *testing.T) {
	h, last := newLog(t)
	r := h.wants(t, Whole, last)
	if r.Unproven != 0 || r.Newest == nil || r.Newest.Seq != last.Seq || len(r.Streams) != 3 || r.Streams[1].Segments < 2 {
		t.Errorf("report %+v", r)
	}
}

func TestEveryChangedByteIsFound(t *testing.T) {
	t.Parallel()
	h, last := newLog(t)
	for _, path := range h.files(t) {
		whole := read(t, path)
		for at := 0; at < len(whole); at += 1 + at%37 {
			flip := []byte{1, 0x20, 0x80}[at%3]
			changed := bytes.Clone(whole)
			changed[at] ^= flip
			write(t, path, changed)
			if r := h.verify(t, last); r.Code != Tampered {
				t.Fatalf("%s: byte %d ^ %#x: code %d", filepath.Base(path), at, flip, r.Code)
			}
		}
		write(t, path, whole)
	}
	h.wants(t, Whole, last)
}

func TestEveryCutIsFoundOrAnnounced(t *testing.T) {
	t.Parallel()
	h, last := newLog(t)
	files := h.files(t)
	newest := files[len(files)-1]
	for _, path := range files {
		whole := read(t, path)
		for at := 0; at < len(whole); at += 1 + at%101 {
			write(t, path, whole[:at])
			h.wants(t, Tampered, last)
			r := h.verify(t)
			switch {
			case path != newest && r.Code != Tampered:
				t.Fatalf("%s cut at %d: code %d without an anchor", filepath.Base(path), at, r.Code)
			case path == newest && r.Code != Torn && r.Code != Unproven && r.Code != Tampered:
				t.Fatalf("the newest cut at %d: code %d", at, r.Code)
			}
		}
		write(t, path, whole)
	}
}

func TestTamperingWithRecordsIsFound(t *testing.T) {
	h, last := newLog(t)
	files := h.files(t)
	lines := func(i int) [][]byte {
		l := bytes.SplitAfter(read(t, files[i]), []byte("\n"))
		return l[:len(l)-1]
	}
	put := func(i int, l ...[]byte) { write(t, files[i], bytes.Join(l, nil)) }
	end := len(files) - 1
	for name, tamper := range map[string]func(){
		"cut out of the middle":          func() { l := lines(0); put(0, append(l[:1:1], l[2:]...)...) },
		"swapped":                        func() { l := lines(0); l[1], l[2] = l[2], l[1]; put(0, l...) },
		"doubled":                        func() { l := lines(0); put(0, l[0], l[1], l[1], l[2], l[3]) },
		"moved to another stream":        func() { l := lines(0); put(0, append(l, lines(end)[1])...) },
		"behind the seal":                func() { l := lines(end); put(end, append(l, l[1])...) },
		"bad, followed by good":          func() { l := lines(end); l[2] = append(l[2][:20:20], '\n'); put(end, l...) },
		"an empty line":                  func() { l := lines(0); put(0, l[0], []byte("\n"), l[1], l[2], l[3]) },
		"a carriage return":              func() { l := lines(0); l[1] = append(l[1][:len(l[1])-1:len(l[1])-1], '\r', '\n'); put(0, l...) },
		"of the end of a segment":        func() { l := lines(1); put(1, l[:len(l)-1]...) },
		"of the beginning of a segment":  func() { put(2, lines(2)[1:]...) },
		"of a whole segment":             func() { os.Remove(files[1]) },
		"of a later segment":             func() { os.Remove(files[2]) },
		"of the seal, against a receipt": func() { l := lines(end); put(end, l[:len(l)-1]...) },
		"segments swapped":               func() { a, b := lines(1), lines(2); put(1, b...); put(2, a...) },
		"streams swapped":                func() { a, b := lines(0), lines(end); put(0, b...); put(end, a...) },
		"first stream removed":           func() { os.Remove(files[0]) },
		"newest stream removed":          func() { os.Remove(files[end]) },
		"all but the newest removed": func() {
			for _, f := range files[:end] {
				os.Remove(f)
			}
		},
		"everything removed": func() {
			for _, f := range files {
				os.Remove(f)
			}
		},
		"a stream copied under a new name": func() {
			write(t, filepath.Join(h.dir, "000004-aaaaaaaa-000001.jsonl"), read(t, files[end]))
		},
		"an upper-case digit": func() {
			l := lines(end)
			l[0] = bytes.Clone(l[0])
			at := bytes.LastIndexAny(l[0], "abcdef")
			l[0][at] -= 0x20
			put(end, l...)
		},
		"bytes behind a segment": func() { put(1, append(lines(1), []byte("x"))...) },
		"a FIFO in place of a stream": func() {
			os.Remove(files[0])
			fifo(t, files[0])
		},
		"a symbolic link in place of a stream": func() {
			os.Rename(files[0], files[0]+".away")
			if err := os.Symlink(files[0]+".away", files[0]); err != nil {
				t.Skip(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			saved := h.copyTo(t, t.TempDir())
			defer restore(t, h, saved)
			tamper()
			h.wants(t, Tampered, last)
		})
	}
	h.wants(t, Whole, last)
}

func restore(t testing.TB, h, saved house) {
	t.Helper()
	entries, _ := os.ReadDir(h.dir)
	for _, e := range entries {
		if e.Name() != lockName {
			os.Remove(filepath.Join(h.dir, e.Name()))
		}
	}
	saved.copyTo(t, h.dir)
}

func TestReplayedOlderCopyFailsAgainstAnAnchor(t *testing.T) {
	h := newHouse(t)
	h.fill(t, 3, Config{})
	older := h.copyTo(t, t.TempDir())
	last := h.fill(t, 3, Config{})
	h.wants(t, Whole, last)
	restore(t, h, older)
	h.wants(t, Tampered, last)
	if r := h.wants(t, Unproven); r.Unproven != r.Records {
		t.Errorf("%d of %d records are unproven without an anchor", r.Unproven, r.Records)
	}
}

func TestRecordsAfterTheNewestAnchorAreCounted(t *testing.T) {
	h := newHouse(t)
	l := h.open(t, Config{})
	for i := range 4 {
		appendTo(t, l, substitution(i))
	}
	middle := l.Anchor()
	for i := range 7 {
		appendTo(t, l, substitution(i))
	}
	l.Close()
	if r := h.wants(t, Unproven, middle); r.Unproven != 8 || r.Streams[0].Anchored != 5 {
		t.Errorf("%d unproven after record %d", r.Unproven, r.Streams[0].Anchored)
	}
	// An anchor in the middle still proves that the first part is there.
	path := h.files(t)[0]
	lines := bytes.SplitAfter(read(t, path), []byte("\n"))
	write(t, path, bytes.Join(lines[:4], nil))
	h.wants(t, Tampered, middle)
}

func TestWithoutKeysOnlyOrderIsChecked(t *testing.T) {
	h, last := newLog(t)
	r, err := Verify(h.dir, VerifyOptions{Anchors: []Anchor{last}})
	if err != nil || r.Code != OrderOnly || r.Keyed || r.Vouched {
		t.Fatalf("code %+v, %v", r, err)
	}
	path := h.files(t)[0]
	write(t, path, bytes.Replace(read(t, path), []byte("github-api"), []byte("github-apj"), 1))
	if r, err = Verify(h.dir, VerifyOptions{}); err != nil || r.Code != Tampered {
		t.Fatalf("code %d, %v", r.Code, err)
	}
}

func TestWrongKeysAreDistinctErrors(t *testing.T) {
	h, _ := newLog(t)
	_, other := newHouse(t).keys, newHouse(t).recovery
	var key *KeyError
	if _, err := Verify(h.dir, VerifyOptions{RecoveryKey: other}); !errors.As(err, &key) || !strings.Contains(err.Error(), "opens none") {
		t.Errorf("another recovery key: %v", err)
	}
	secret := "AGE-SECRET-KEY-1NOTONE"
	if _, err := Verify(h.dir, VerifyOptions{RecoveryKey: secret}); !errors.As(err, &key) || strings.Contains(err.Error(), "NOTONE") {
		t.Errorf("malformed recovery key: %v", err)
	}
	if _, err := Verify(h.dir, VerifyOptions{VaultKey: []byte("short")}); !errors.As(err, &key) {
		t.Errorf("malformed vault key: %v", err)
	}
	if r, err := Verify(h.dir, VerifyOptions{RecoveryKey: h.recovery, VaultKey: bytes.Repeat([]byte{9}, 32)}); err != nil || r.Code != Tampered {
		t.Errorf("another vault key: %v, %v", r, err)
	}
	if _, err := Verify(filepath.Join(h.dir, "none"), VerifyOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	path := h.files(t)[0]
	write(t, path, nil)
	if r := h.verify(t); r.Code != Tampered {
		t.Errorf("an emptied file: code %d", r.Code)
	}
}

func TestAFileThatNeverHeldARecordIsTorn(t *testing.T) {
	h := newHouse(t)
	h.fill(t, 1, Config{})
	write(t, filepath.Join(h.dir, "000002-aaaaaaaa-000001.jsonl"), nil)
	h.wants(t, Torn)
	// The next stream says so of it; it must not be filled afterwards.
	h.fill(t, 1, Config{})
	h.wants(t, Torn)
	os.Remove(filepath.Join(h.dir, "000002-aaaaaaaa-000001.jsonl"))
	h.wants(t, Tampered)
	first := read(t, h.files(t)[0])
	write(t, filepath.Join(h.dir, "000002-aaaaaaaa-000001.jsonl"), first)
	h.wants(t, Tampered)
}

func TestNothingStandsBehindASeal(t *testing.T) {
	python := findPython(t)
	h, last := newLog(t)
	for _, text := range [][]byte{nil, []byte("{")} {
		path := filepath.Join(h.dir, last.Stream+"-000002.jsonl")
		write(t, path, text)
		h.wants(t, Tampered)
		h.wants(t, Tampered, last)
		if code, out := python(h.dir, ""); code != Tampered {
			t.Errorf("the second verifier says %d: %s", code, out)
		}
		os.Remove(path)
	}
	// Nor does the writer put anything there, where the seal makes the segment long enough.
	for size := int64(2400); size < 2800; size += 20 {
		h := newHouse(t)
		h.wants(t, Whole, h.fill(t, 3, Config{SegmentBytes: size}))
	}
}

func TestAnEmptyDirectoryIsNeverWhole(t *testing.T) {
	h := newHouse(t)
	os.Mkdir(h.dir, 0o700)
	h.wants(t, Unproven)
}

// TestStolenKeyCannotRewriteThePast: a thief of the key of record i can make up everything from i on, and nothing before.
func TestStolenKeyCannotRewriteThePast(t *testing.T) {
	h := newHouse(t)
	last := h.fill(t, 9, Config{})
	path := h.files(t)[0]
	keys, err := FirstKeys(h.dir, h.recovery)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(read(t, path), []byte("\n"))
	forge := func(from, stolen uint64) []byte {
		key, _ := hex.DecodeString(keys[0].Key)
		thief := newChain(point{seq: 1, key: [32]byte(key)})
		for thief.seq < stolen {
			thief.step()
		}
		before, _ := parseLine(lines[from-2])
		thief.h, thief.seq = before.h, from
		out := bytes.Join(lines[:from-1], nil)
		for i := from; i <= uint64(len(lines)-1); i++ {
			l, _ := parseLine(lines[i-1])
			start := len(out)
			out = append(out, bytes.Replace(l.body, []byte("api.allowed.test"), []byte("evil.test"), 1)...)
			out = thief.link(out, start)
		}
		return out
	}
	write(t, path, forge(4, 6))
	h.wants(t, Tampered)
	write(t, path, forge(6, 6)) // what is documented: from the theft on, only anchors help
	h.wants(t, Unproven)
	h.wants(t, Tampered, last)
}

func TestAStrangersStreamIsFoundWithTheVaultsKey(t *testing.T) {
	h := newHouse(t)
	h.fill(t, 2, Config{})
	stranger := h
	stranger.keys.Vault = bytes.Repeat([]byte{9}, 32)
	last := stranger.fill(t, 2, Config{})
	h.wants(t, Tampered, last)
	if r, err := Verify(h.dir, VerifyOptions{RecoveryKey: h.recovery, Anchors: []Anchor{last}}); err != nil || r.Code != Whole {
		t.Fatalf("without the vault's key: %+v, %v", r, err)
	}
	// Where an honest stream follows, one that was put between is found without any key.
	h.fill(t, 1, Config{})
	path := filepath.Join(h.dir, "000002-aaaaaaaa-000001.jsonl")
	write(t, path, read(t, h.files(t)[1]))
	if r, err := Verify(h.dir, VerifyOptions{}); err != nil || r.Code != Tampered {
		t.Fatalf("two streams with one number: %+v, %v", r, err)
	}
}

func TestLiveGatewayAnchorsItsStream(t *testing.T) {
	h := newHouse(t)
	h.fill(t, 2, Config{})
	l := h.open(t, Config{})
	appendTo(t, l, substitution(1))
	h.wants(t, Unproven)
	live := ask(t, l)
	if r := h.wants(t, Whole, live); !r.Streams[1].Running || !r.Streams[1].Live {
		t.Errorf("%+v", r.Streams[1])
	}
	appendTo(t, l, substitution(2)) // written since the gateway was asked
	h.wants(t, Whole, live)
	l.Close()
	if r := h.wants(t, Unproven, live); r.Unproven == 0 {
		t.Error("what a gateway that is gone has written last is proven")
	}
}

func TestJournalAnchorsCountOnlyWithTheirMAC(t *testing.T) {
	h, last := newLog(t)
	journal := last
	journal.Source = JournalLine
	h.wants(t, Whole, journal)
	forged := journal
	forged.H = strings.Repeat("ab", 32)
	if r := h.wants(t, Unproven, forged); len(r.Warnings) == 0 {
		t.Error("a forged anchor gave no warning")
	}
	forged.Seq = last.Seq + 5
	h.wants(t, Unproven, forged)
	forged.Seq = 1 << 60
	h.wants(t, Unproven, forged)
	path := h.files(t)[len(h.files(t))-1]
	lines := bytes.SplitAfter(read(t, path), []byte("\n"))
	write(t, path, bytes.Join(lines[:2], nil))
	h.wants(t, Tampered, journal) // it checks, so the record was there
}

func TestForeignFilesAndOpenModesAreWarnedOf(t *testing.T) {
	h, last := newLog(t)
	write(t, filepath.Join(h.dir, "notes.txt"), []byte("mine"))
	r := h.wants(t, Whole, last)
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "notes.txt") {
		t.Errorf("warnings %v", r.Warnings)
	}
	os.Chmod(h.files(t)[0], 0o644)
	if r := h.wants(t, Whole, last); len(r.Warnings) != 2 {
		t.Errorf("warnings %v", r.Warnings)
	}
}

func TestReportSaysWhichRecordAndWhatIsWhole(t *testing.T) {
	h, last := newLog(t)
	path := h.files(t)[2]
	b := read(t, path)
	at := bytes.Index(b, []byte("/repos/acme"))
	b[at+1] ^= 1
	write(t, path, b)
	r := h.wants(t, Tampered, last)
	p := r.Problems[0]
	if p.Segment != 2 || p.Seq < 2 || p.Seq != r.Streams[1].Records+1 || !strings.Contains(p.String(), "does not follow record") {
		t.Errorf("problem %v, %d records are whole", p, r.Streams[1].Records)
	}
}

func TestClockJumpsAreRecordedAndChangeNothingElse(t *testing.T) {
	h := newHouse(t)
	c := &clock{}
	l := h.open(t, Config{Now: c.now})
	year := 365 * 24 * time.Hour
	for _, by := range []time.Duration{-time.Hour, time.Hour, -56 * year, 136 * year, 9000 * year / 40, time.Second} {
		appendTo(t, l, substitution(1))
		c.jump(by)
	}
	appendTo(t, l, substitution(2))
	l.Close()
	h.wants(t, Whole, l.Anchor())
	jumps, last := 0, time.Duration(-1)
	if err := Query(h.dir, Filter{}, func(e *Entry) error {
		if e.Type == typeClockJump {
			jumps++
		}
		if e.Mono < last {
			t.Errorf("record %d: the other clock went back", e.Seq)
		}
		last = e.Mono
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if jumps != 5 {
		t.Errorf("%d clock_jump records, want 5", jumps)
	}
}
