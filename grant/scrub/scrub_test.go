package scrub

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

const canary = "ghp_REALrealREALreal0123456789"

const placeholder = "ghp_zstandin_abcdefghijklmnopqrstuvwxyz"

func scrubberOf(values ...string) *Scrubber {
	var all []Value
	for _, v := range values {
		all = append(all, Value{v, placeholder})
	}
	return New(all)
}

// written lists the ways in which scrubbing must find a value.
func written(value string) map[string]string {
	ways := map[string]string{
		"raw":           value,
		"query":         url.QueryEscape(value),
		"path":          url.PathEscape(value),
		"every byte":    (&percent{every: true}).write(value),
		"lower percent": lowerEscapes(url.QueryEscape(value)),
		"hex":           hex.EncodeToString([]byte(value)),
		"upper hex":     strings.ToUpper(hex.EncodeToString([]byte(value))),
	}
	quoted, _ := json.Marshal(value)
	ways["json"] = string(quoted)
	ways["json, all escaped"] = jsonStyle{ascii: true, digits: "%04x", escapes: all, mark: "%04x"}.write(value)
	for shift := range 3 {
		text := "abc"[:shift] + value + "tail"
		ways["base64 "+"abc"[:shift]] = base64.StdEncoding.EncodeToString([]byte(text))
		ways["base64url "+"abc"[:shift]] = base64.RawURLEncoding.EncodeToString([]byte(text))
	}
	return ways
}

// decodesTo says whether some base64 or hex reading of text yields the value.
func decodesTo(text, value string) bool {
	for _, alphabet := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
		if plain, err := alphabet.DecodeString(text); err == nil && bytes.Contains(plain, []byte(value)) {
			return true
		}
	}
	plain, err := hex.DecodeString(text)
	return err == nil && bytes.Contains(plain, []byte(value))
}

func TestScrubbedTextHoldsNoFormOfAValue(t *testing.T) {
	for _, value := range []string{canary, `p"ss\w/rd&=ü +%?`, "short8!x", "line\nbreak-value", "ünïcödé-👍-value", strings.Repeat("long", 3000)} {
		s := scrubberOf(value)
		for way, text := range written(value) {
			got := s.String("before " + text + " after")
			if strings.Contains(got, text) || strings.Contains(got, value) {
				t.Errorf("%s of %q remains: %q", way, value, got)
			}
			if inner := s.String(text); decodesTo(inner, value) {
				t.Errorf("%s of %q can be decoded from %q", way, value, inner)
			}
			if !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
				t.Errorf("%s of %q: the text around it changed: %q", way, value, got)
			}
		}
	}
}

// What SECURITY.md says is out of reach is: a change here is a change there.
func TestWhatIsOutOfReachIsWhatTheDocumentSays(t *testing.T) {
	s := scrubberOf(canary)
	reversed := []byte(canary)
	slices.Reverse(reversed)
	var entities, escapes strings.Builder
	for _, r := range canary {
		fmt.Fprintf(&entities, "&#%d;", r)
		if r != 'R' {
			fmt.Fprintf(&escapes, `\u%04x`, r)
		} else {
			escapes.WriteRune(r)
		}
	}
	var wide bytes.Buffer
	for _, u := range utf16.Encode([]rune(canary)) {
		wide.Write([]byte{byte(u), byte(u >> 8)})
	}
	for what, text := range map[string]string{
		"HTML entities":              entities.String(),
		"escapes of some characters": escapes.String(),
		"reversed":                   string(reversed),
		"UTF-16":                     wide.String(),
		"split":                      canary[:10] + " " + canary[10:],
		"twice encoded":              base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(canary)))),
		"upper case":                 strings.ToUpper(canary),
	} {
		if s.String(text) != text {
			t.Errorf("%s is found now: say so in SECURITY.md", what)
		}
	}
	if got := s.String(html.EscapeString(canary)); got != placeholder {
		t.Errorf("what needs no entity is %q", got)
	}
}

func TestBase64AndHexKeepTheirLength(t *testing.T) {
	s := scrubberOf(canary)
	for way, text := range written(canary) {
		if got := s.String(text); (strings.HasPrefix(way, "base64") || strings.Contains(way, "hex")) && len(got) != len(text) {
			t.Errorf("%s: %d bytes became %d", way, len(text), len(got))
		}
		if got, found := s.Whole([]byte(text), true); !found || len(got) != len(text) {
			t.Errorf("%s, at equal length: %d bytes became %d", way, len(text), len(got))
		}
	}
}

// pushed is text after a Body, given in pieces of those sizes, over and over.
// After each piece that ends where release says, what is held back is let go.
func pushed(b *Body, text string, release func(at int) bool, sizes ...int) string {
	var out []byte
	defer b.Free()
	for i, at := 0, 0; ; i++ {
		n := min(sizes[i%len(sizes)], len(text)-at)
		n = copy(b.Room(), text[at:at+n])
		at += n
		out = append(out, b.Take(n, at == len(text))...)
		if at == len(text) {
			return string(out)
		}
		if release != nil && release(at) && b.Waits() {
			out = append(out, b.Release()...)
		}
	}
}

func TestScrubbingIsTheSameForEveryCut(t *testing.T) {
	s := scrubberOf(canary, canary+"-longer-than-the-other", strings.Repeat("a very long value ", 3000))
	text := "x" + canary + canary[:10] + canary + "-longer" + canary + "-longer-than-the-other" + canary[:29]
	want := s.String(text)
	for cut := range text {
		if got := pushed(&Body{Scrubber: s}, text, nil, cut+1, len(text)); got != want {
			t.Fatalf("cut at %d: %q; want %q", cut+1, got, want)
		}
	}
	text = strings.Repeat(text+strings.Repeat("a very long value ", 2999), 8) + strings.Repeat("a very long value ", 3000)
	want = s.String(text)
	for _, sizes := range [][]int{{1}, {2, 3, 5, 7}, {4096}, {1, 100_000}, {70_000}} {
		if got := pushed(&Body{Scrubber: s}, text, nil, sizes...); got != want {
			t.Fatalf("in pieces of %v: %d bytes, want %d", sizes, len(got), len(want))
		}
	}
}

func TestOnlyWhatCouldBeginAValueIsHeldBack(t *testing.T) {
	s := scrubberOf(canary)
	for _, c := range []struct {
		in   string
		held int
	}{{"data: hello\n\n", 0}, {"data: gh", 2}, {"data: " + canary[:12], 12}, {"data: " + canary[:12] + "\n\n", 0}} {
		b := &Body{Scrubber: s}
		n := copy(b.Room(), c.in)
		if got := len(c.in) - len(b.Take(n, false)); got != c.held || b.Waits() != (c.held > 0) {
			t.Errorf("%q: %d bytes are held back, want %d", c.in, got, c.held)
		}
	}
}

// A piece that was let go before its rest came is the beginning of a value at
// worst, never the whole.
func TestTheRestOfWhatWasLetGoIsOverwritten(t *testing.T) {
	longer := canary + "-longer-than-the-other"
	s := scrubberOf(canary, longer)
	text := "before " + canary + " between " + longer + " after " + canary
	for cut := range text {
		at := func(n int) bool { return n == cut }
		got := pushed(&Body{Scrubber: s}, text, at, max(cut, 1), len(text))
		if strings.Contains(got, canary) || !strings.HasPrefix(got, "before ") || !strings.Contains(got, " between ") || !strings.Contains(got, " after ") {
			t.Fatalf("let go at %d: %q", cut, got)
		}
	}
	always := func(int) bool { return true }
	got := pushed(&Body{Scrubber: s}, text, always, 1)
	if strings.Contains(got, canary) || len(got) < len(text) {
		t.Errorf("let go at each byte: %q", got)
	}
	if got := pushed(&Body{Scrubber: s}, "a g b gh c ghp_ d", always, 1); got != "a g b gh c ghp_ d" {
		t.Errorf("innocent text became %q", got)
	}
}

func TestTheEndOfAnEventIsSeen(t *testing.T) {
	for text, want := range map[string]bool{
		"data: a\n\n": true, "data: a\r\n\r\n": true, "data: a\r\r": true, "data: a\r\n\n": true, "data: a\n\r\n": true,
		"data: a\n": false, "data: a\r\n": false, "data: a": false, "": false,
	} {
		b := &Body{Scrubber: scrubberOf(canary)}
		b.Take(copy(b.Room(), text), false)
		if b.Ended() != want {
			t.Errorf("%q: %t", text, !want)
		}
	}
}

func TestNamesAreCheckedInAnyCase(t *testing.T) {
	s := scrubberOf(canary)
	if !s.Holds("X-"+strings.ToUpper(canary)) || !s.Holds("x-"+strings.ToLower(canary)) {
		t.Error("a value in another case was not found")
	}
	if s.Holds("X-Request-Id-And-A-Long-Name-Behind-It") {
		t.Error("an innocent name was found")
	}
}

// The search is compared with the plainest one there is.
func TestTheSearchFindsWhatAPlainSearchFinds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	letters := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "ab"[random.IntN(2)]
		}
		return string(b)
	}
	for range 300 {
		var forms []form
		for range 1 + random.IntN(12) {
			forms = append(forms, form{text: letters(1 + random.IntN(20)), with: "-"})
		}
		s := build(slices.Clone(forms))
		text := letters(random.IntN(200))
		var want strings.Builder
		for at := 0; at < len(text); {
			longest := 0
			for _, f := range forms {
				if strings.HasPrefix(text[at:], f.text) {
					longest = max(longest, len(f.text))
				}
			}
			if longest == 0 {
				want.WriteByte(text[at])
				at++
				continue
			}
			want.WriteByte('-')
			at += longest
		}
		if got := s.String(text); got != want.String() {
			t.Fatalf("%q without %v is %q, want %q", text, forms, got, want.String())
		}
		if got := pushed(&Body{Scrubber: s}, text+"c", nil, 1+random.IntN(5), 1+random.IntN(30)); got != want.String()+"c" {
			t.Fatalf("%q without %v, in pieces, is %q, want %q", text, forms, got, want.String())
		}
	}
}

// However a text is cut, and wherever what is held back is let go, no form of a
// value comes out whole; without letting go, the cut changes nothing.
func FuzzScrub(f *testing.F) {
	f.Add([]byte("x"+canary+"y"+canary[:7]), uint8(3))
	f.Add([]byte(canary[:20]+canary), uint8(1))
	f.Add([]byte(`p%C3%A4%22ss%20w/rd%26%3D%25%2B%3C'%3E, p\u00e4\"ss w\/rd&=%+<'>`), uint8(2))
	f.Add([]byte(base64.StdEncoding.EncodeToString([]byte("a"+canary))), uint8(7))
	values := []string{canary, "another-value-0123", canary + "/and more", `pä"ss w/rd&=%+<'>`}
	s := scrubberOf(values...)
	var forms []string
	for _, form := range s.forms {
		if !strings.Contains(placeholder, form.text) {
			forms = append(forms, form.text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, step uint8) {
		whole := s.String(string(text))
		for _, form := range forms {
			if strings.Contains(whole, form) && strings.Contains(string(text), form) {
				t.Fatalf("%q remains in %q", form, whole)
			}
		}
		size := int(step)%13 + 1
		if got := pushed(&Body{Scrubber: s}, string(text), nil, size); got != whole {
			t.Fatalf("in parts: %q; whole: %q", got, whole)
		}
		odd := func(at int) bool { return at/size%2 == 1 }
		let := pushed(&Body{Scrubber: s}, string(text), odd, size)
		for _, value := range values {
			if strings.Contains(let, value) && strings.Contains(string(text), value) {
				t.Fatalf("%q was let go in parts of %q", value, let)
			}
		}
	})
}

func BenchmarkScrub(b *testing.B) {
	text := bytes.Repeat([]byte(`{"id":"8f14e45fceea167a","text":"The quick brown fox jumps over the lazy dog."},`), 1<<20/80)
	for _, values := range []int{1, 10, 1000} {
		var all []string
		for i := range values {
			all = append(all, fmt.Sprintf("ghp_%026d%c", i*7919, 'a'+rune(i%26)))
		}
		s := scrubberOf(all...)
		b.Run(fmt.Sprint(values), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			body := &Body{Scrubber: s}
			for b.Loop() {
				for rest := bytes.NewReader(text); rest.Len() > 0; {
					n, err := rest.Read(body.Room())
					if err != nil && err != io.EOF {
						b.Fatal(err)
					}
					body.Take(n, false)
				}
			}
		})
	}
}
