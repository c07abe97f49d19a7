package audit

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzParseLine: a line that is accepted can be written in no other way.
func FuzzParseLine(f *testing.F) {
	c := newChain(point{seq: 1, key: [32]byte{1}})
	for _, body := range []string{`{"seq":1,"time":"2026-01-02T03:04:05.000006Z","mono":0,"type":"mark"`, `{"seq":2,"a":",\"h\":\""`, `{"seq":9223372036854775807,`} {
		f.Add(c.link([]byte(body), 0))
	}
	f.Add([]byte(`{"seq":01,"h":"","mac":""}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := parseLine(text)
		if err != nil {
			return
		}
		again := fmt.Appendf(bytes.Clone(l.body), `,"h":"%x","mac":"%x"}`+"\n", l.h, l.mac)
		if !bytes.Equal(again, text) {
			t.Fatalf("%q can also be written %q", text, again)
		}
		if !bytes.HasPrefix(text, fmt.Appendf(nil, `{"seq":%d,`, l.seq)) {
			t.Fatalf("%q is taken for record %d", text, l.seq)
		}
		(&l).time()
		parseOpening(text, "000001-aaaaaaaa")
		var e Entry
		_ = decode(text, &e)
	})
}

// An edit changes one file of a log.
type edit struct {
	file byte
	at   uint32
	cut  uint16 // bytes that go
	put  []byte // and come
}

func (e edit) apply(text []byte) []byte {
	at := int(e.at) % (len(text) + 1)
	end := min(len(text), at+int(e.cut))
	return append(append(bytes.Clone(text[:at]), e.put...), text[end:]...)
}

// FuzzTamper: whatever is changed is found, or lies behind the records that Verify calls whole, in a tail that it announces.
func FuzzTamper(f *testing.F) {
	h, last := newLog(f)
	files := h.files(f)
	original := map[string][]byte{}
	for _, path := range files {
		original[path] = read(f, path)
	}
	f.Add(byte(0), uint32(0), uint16(1), []byte("x"))
	f.Add(byte(4), uint32(1500), uint16(60000), []byte{})
	f.Add(byte(4), uint32(1500), uint16(60000), []byte("\n"))
	f.Add(byte(1), uint32(5), uint16(0), []byte("\n"))
	f.Add(byte(9), uint32(0), uint16(65535), []byte{})
	f.Add(byte(2), uint32(700), uint16(0), original[files[0]][:800])
	f.Fuzz(func(t *testing.T, file byte, at uint32, cut uint16, put []byte) {
		path := files[int(file)%len(files)]
		changed := edit{file, at, cut, put}.apply(original[path])
		if bytes.Equal(changed, original[path]) {
			return
		}
		write(t, path, changed)
		defer write(t, path, original[path])
		if r := h.verify(t, last); r.Code != Tampered {
			t.Fatalf("code %d against an anchor", r.Code)
		}
		h.announced(t, original)
		_ = Query(h.dir, Filter{Secret: "github"}, func(*Entry) error { return nil })
	})
}

// announced checks that the records that a verdict without anchors calls whole are the original ones.
func (h house) announced(t testing.TB, original map[string][]byte) {
	t.Helper()
	r := h.verify(t)
	if r.Code == Tampered {
		return
	}
	if r.Code != Torn && r.Code != Unproven || r.Unproven != r.Records {
		t.Fatalf("code %d, %d of %d unproven, for a changed log without an anchor", r.Code, r.Unproven, r.Records)
	}
	for _, s := range r.Streams {
		var was, is []byte
		for _, path := range h.files(t) {
			if strings.HasPrefix(filepath.Base(path), s.Stream) {
				was, is = append(was, original[path]...), append(is, read(t, path)...)
			}
		}
		if !bytes.Equal(firstLines(was, s.Records), firstLines(is, s.Records)) {
			t.Fatalf("stream %s: the first %d records were changed and are called whole", s.Stream, s.Records)
		}
	}
}

func firstLines(text []byte, n uint64) []byte {
	end := 0
	for range n {
		at := bytes.IndexByte(text[end:], '\n')
		if at < 0 {
			return text
		}
		end += at + 1
	}
	return text[:end]
}

// TestBothVerifiersGiveTheSameVerdict compares them on changes of every kind, at random places.
func TestBothVerifiersGiveTheSameVerdict(t *testing.T) {
	t.Parallel()
	python := findPython(t)
	h, last := newLog(t)
	keys, receipt := filepath.Join(t.TempDir(), "keys"), filepath.Join(t.TempDir(), "receipt")
	list, err := FirstKeys(h.dir, h.recovery)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, k := range list {
		fmt.Fprintln(&text, k.Stream, k.Key)
	}
	write(t, keys, []byte(text.String()))
	write(t, receipt, fmt.Appendf(nil, `{"stream":%q,"seq":%d,"h":%q,"mac":%q}`, last.Stream, last.Seq, last.H, last.MAC))
	files := h.files(t)
	random := rand.New(rand.NewPCG(3, 4))
	codes := map[int]int{}
	for i := range 27 {
		path := files[len(files)-1] // where not everything is found
		if i%2 == 0 {
			path = files[random.IntN(len(files))]
		}
		whole := read(t, path)
		e := edit{at: random.Uint32N(uint32(len(whole)))}
		switch i / 2 % 4 {
		case 0: // cut the end
			e.cut = 65535
		case 1: // change one byte
			e.cut, e.put = 1, []byte{whole[e.at] ^ 1}
		case 2: // take a line out
			start := bytes.LastIndexByte(whole[:e.at], '\n') + 1
			e.at, e.cut = uint32(start), uint16(bytes.IndexByte(whole[start:], '\n')+1)
		case 3: // cut at the end of a line
			e.at, e.cut = uint32(bytes.LastIndexByte(whole[:e.at], '\n')+1), 65535
		}
		write(t, path, e.apply(whole))
		o := VerifyOptions{RecoveryKey: h.recovery}
		var receipts []string
		if i%3 == 0 {
			o.Anchors, receipts = []Anchor{last}, []string{receipt}
		}
		r, err := Verify(h.dir, o)
		if err != nil {
			t.Fatal(err)
		}
		codes[r.Code]++
		if code, out := python(h.dir, keys, receipts...); code != r.Code {
			t.Errorf("%+v: %d and %d: %v, %s", e, r.Code, code, r.Problems, out)
		}
		write(t, path, whole)
	}
	if len(codes) < 3 {
		t.Errorf("only the verdicts %v came up", codes)
	}
	for i := range files { // whole files
		whole := read(t, files[i])
		os.Remove(files[i])
		r, err := Verify(h.dir, VerifyOptions{RecoveryKey: h.recovery})
		if err != nil {
			t.Fatal(err)
		}
		if code, out := python(h.dir, keys); code != r.Code {
			t.Errorf("without %s: %d and %d: %v, %s", files[i], r.Code, code, r.Problems, out)
		}
		write(t, files[i], whole)
	}
}
