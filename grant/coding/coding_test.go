package coding

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

var names = []string{"gzip", "deflate", "br", "zstd"}

// encoded is text in a coding, cut by the encoder's own flushes.
func encoded(t testing.TB, name string, text io.Reader) []byte {
	t.Helper()
	e, err := Encode(name, text)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decoded(t testing.TB, name string, r io.Reader) ([]byte, error) {
	t.Helper()
	d, err := Decode(name, r)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	return io.ReadAll(d)
}

func rawDeflate(t testing.TB, text string) []byte {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, 6)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, text)
	w.Close()
	return b.Bytes()
}

func TestEveryCodingReadsBackHoweverItIsCut(t *testing.T) {
	text := strings.Repeat("a body that says the same, and then something else: 0123456789\n", 500)
	for _, name := range names {
		for _, cut := range []func(io.Reader) io.Reader{iotest.OneByteReader, iotest.HalfReader, iotest.DataErrReader} {
			b := encoded(t, name, cut(strings.NewReader(text)))
			got, err := decoded(t, name, cut(bytes.NewReader(b)))
			if err != nil || string(got) != text {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
	}
}

func TestDeflateIsReadInBothFormsAndWrittenInTheOneThatCame(t *testing.T) {
	for what, in := range map[string][]byte{"raw": rawDeflate(t, "hello, hello"), "zlib": encoded(t, "deflate", strings.NewReader("hello, hello"))} {
		d, _ := Decode("deflate", bytes.NewReader(in))
		out, err := io.ReadAll(d.Encode(d))
		if err != nil {
			t.Fatal(err)
		}
		got, err := decoded(t, "deflate", bytes.NewReader(out))
		if err != nil || string(got) != "hello, hello" {
			t.Errorf("%s: %q, %v", what, got, err)
		}
		if zlib := out[0]&0x0f == 8 && (int(out[0])<<8|int(out[1]))%31 == 0; zlib != (what == "zlib") {
			t.Errorf("%s: written as zlib: %t", what, zlib)
		}
	}
}

func TestABodyThatLiesAboutItsCodingIsMalformed(t *testing.T) {
	for _, name := range names {
		good := encoded(t, name, strings.NewReader("hello, world; hello, world"))
		for what, b := range map[string][]byte{
			"text": []byte("{\"auth\":{\"token\":\"hello, this is no coding at all\"}}"), "cut": good[:len(good)-2], "one byte": good[:1],
			"garbage behind": append(bytes.Clone(good), "garbage"...),
		} {
			if _, err := decoded(t, name, bytes.NewReader(b)); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		if got, err := decoded(t, name, strings.NewReader("")); err != nil || len(got) != 0 {
			t.Errorf("%s, empty: %q, %v", name, got, err)
		}
	}
}

func TestAnErrorOfTheSourceStaysItsOwn(t *testing.T) {
	broken := errors.New("broken")
	for _, name := range names {
		good := encoded(t, name, strings.NewReader("hello, world"))
		r := io.MultiReader(bytes.NewReader(good[:len(good)/2]), iotest.ErrReader(broken))
		if _, err := decoded(t, name, r); err != broken {
			t.Errorf("%s: %v", name, err)
		}
		e, _ := Encode(name, io.MultiReader(strings.NewReader("hello"), iotest.ErrReader(broken)))
		out, err := io.ReadAll(e)
		if err != broken {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := decoded(t, name, bytes.NewReader(out)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: what was broken off reads as whole: %v", name, err)
		}
	}
}

// zeros gives n zero bytes.
func zeros(n int64) io.Reader { return io.LimitReader(zero{}, n) }

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBombsAreCutInFlatMemory(t *testing.T) {
	for _, name := range names {
		e, _ := Encode(name, zeros(1<<30))
		d, _ := Decode(name, e)
		n, err := io.Copy(io.Discard, d)
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
	var after runtime.MemStats
	if runtime.ReadMemStats(&after); after.HeapSys > 128<<20 {
		t.Errorf("the heap grew to %d MiB", after.HeapSys>>20)
	}
}

func TestASmallBodyOfFewDifferentBytesIsNoBomb(t *testing.T) {
	for _, name := range names {
		e, _ := Encode(name, zeros(64<<20))
		d, _ := Decode(name, e)
		if n, err := io.Copy(io.Discard, d); err != nil || n != 64<<20 {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
}

func TestAWideZstdWindowIsRefused(t *testing.T) {
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(64<<20), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(w, zeros(70<<20))
	w.Close()
	if _, err := decoded(t, "zstd", &b); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

// What was sent must come out before the source is read again.
func TestNothingWaitsInACoding(t *testing.T) {
	for _, name := range names {
		in, out := io.Pipe()
		e, _ := Encode(name, in)
		d, _ := Decode(name, e)
		buf := make([]byte, 100)
		for range 5 {
			go out.Write([]byte("ask something\n"))
			n, err := io.ReadFull(d, buf[:14])
			if err != nil || string(buf[:n]) != "ask something\n" {
				t.Fatalf("%s: %q, %v", name, buf[:n], err)
			}
		}
		out.Close()
		if n, err := d.Read(buf); n != 0 || err != io.EOF {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}

func TestOnlyOneKnownCodingIsRead(t *testing.T) {
	for line, want := range map[string]string{"gzip": "gzip", " GZIP ": "gzip", "x-gzip": "gzip", "identity": "", "": "", "br": "br", "zstd": "zstd", "deflate": "deflate"} {
		if got, err := Parse([]string{line}); err != nil || got != want {
			t.Errorf("%q: %q, %v", line, got, err)
		}
	}
	for _, lines := range [][]string{{"gzip, gzip"}, {"identity, gzip"}, {"gzip", "gzip"}, {"compress"}, {"aws-chunked"}, {"x-foo"}, {"gzip;q=1"}} {
		if got, err := Parse(lines); err != ErrUnknown {
			t.Errorf("%q: %q, %v", lines, got, err)
		}
	}
}

// A decoder gives no more than its limit, and what it gives in one piece it
// gives in any.
func FuzzDecode(f *testing.F) {
	for i, name := range names {
		f.Add(uint8(i), encoded(f, name, strings.NewReader(strings.Repeat("hello ", 40))))
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		name := names[int(which)%len(names)]
		whole, err := decoded(t, name, bytes.NewReader(b))
		cut, cutErr := decoded(t, name, iotest.OneByteReader(bytes.NewReader(b)))
		if int64(len(whole)) > Limit(int64(len(b))) {
			t.Fatalf("%d bytes of %d", len(whole), len(b))
		}
		if (err == nil) != (cutErr == nil) || err == nil && !bytes.Equal(whole, cut) {
			t.Fatalf("whole: %d, %v; cut: %d, %v", len(whole), err, len(cut), cutErr)
		}
	})
}
