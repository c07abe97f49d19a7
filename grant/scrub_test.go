package grant

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	"standin/vault"
)

const canary = "ghp_REALrealREALreal0123456789"

const canaryPlaceholder = "ghp_zstandin_abcdefghijklmnopqrstuvwxyz"

func scrubberOf(values ...string) *Scrubber {
	var all []scrubValue
	for _, v := range values {
		all = append(all, scrubValue{vault.NewSecret([]byte(v)), canaryPlaceholder})
	}
	return newScrubber(all)
}

// written lists the ways in which scrubbing must find a value.
func written(value string) map[string]string {
	ways := map[string]string{
		"raw":           value,
		"query":         url.QueryEscape(value),
		"path":          url.PathEscape(value),
		"every byte":    escapeAll(value, false),
		"lower percent": lowerEscapes(url.QueryEscape(value)),
		"hex":           hex.EncodeToString([]byte(value)),
		"upper hex":     strings.ToUpper(hex.EncodeToString([]byte(value))),
	}
	quoted, _ := json.Marshal(value)
	ways["json"] = string(quoted)
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
	for _, value := range []string{canary, `p"ss\w/rd&=ü +%?`, "short8!x", "line\nbreak-value"} {
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

func TestBase64AndHexKeepTheirLength(t *testing.T) {
	s := scrubberOf(canary)
	for way, text := range written(canary) {
		if got := s.String(text); (strings.HasPrefix(way, "base64") || strings.Contains(way, "hex")) && len(got) != len(text) {
			t.Errorf("%s: %d bytes became %d", way, len(text), len(got))
		}
	}
}

func TestScrubbingIsTheSameForEveryCut(t *testing.T) {
	s := scrubberOf(canary, canary+"-longer-than-the-other")
	text := "x" + canary + canary[:10] + canary + "-longer" + canary + "-longer-than-the-other" + canary[:29]
	want := s.String(text)
	for cut := range text {
		parts := io.MultiReader(strings.NewReader(text[:cut]), strings.NewReader(text[cut:]))
		got, err := io.ReadAll(s.Body(parts, -1))
		if err != nil || string(got) != want {
			t.Fatalf("cut at %d: %q, %v; want %q", cut, got, err, want)
		}
	}
	got, err := io.ReadAll(s.Body(iotest.OneByteReader(strings.NewReader(text)), int64(len(text))))
	if err != nil || string(got) != want {
		t.Fatalf("one byte at a time: %q, %v; want %q", got, err, want)
	}
}

func TestOnlyWhatCouldBeginAValueIsHeldBack(t *testing.T) {
	s := scrubberOf(canary)
	for _, c := range []struct {
		in   string
		held int
	}{{"data: hello\n\n", 0}, {"data: gh", 2}, {"data: " + canary[:12], 12}, {"data: " + canary[:12] + "\n\n", 0}} {
		_, settled := s.pass(nil, []byte(c.in), false)
		if got := len(c.in) - settled; got != c.held {
			t.Errorf("%q: %d bytes are held back, want %d", c.in, got, c.held)
		}
	}
}

func TestNamesAreCheckedInAnyCase(t *testing.T) {
	s := scrubberOf(canary)
	if !s.Holds("X-" + strings.ToUpper(canary)) {
		t.Error("a value in upper case was not found")
	}
	if s.Holds("X-Request-Id-And-A-Long-Name-Behind-It") {
		t.Error("an innocent name was found")
	}
}

func FuzzScrub(f *testing.F) {
	f.Add([]byte("x"+canary+"y"+canary[:7]), uint8(3))
	f.Add([]byte(canary[:20]+canary), uint8(1))
	f.Add([]byte(base64.StdEncoding.EncodeToString([]byte("a"+canary))), uint8(7))
	s := scrubberOf(canary, "another-value-0123")
	f.Fuzz(func(t *testing.T, text []byte, step uint8) {
		whole := s.String(string(text))
		if strings.Contains(whole, canary) {
			t.Fatalf("the value remains in %q", whole)
		}
		var parts []io.Reader
		for n := int(step)%13 + 1; len(text) > 0; text = text[min(n, len(text)):] {
			parts = append(parts, bytes.NewReader(text[:min(n, len(text))]))
		}
		got, err := io.ReadAll(s.Body(io.MultiReader(parts...), -1))
		if err != nil || string(got) != whole {
			t.Fatalf("in parts: %q, %v; whole: %q", got, err, whole)
		}
	})
}

func BenchmarkScrub(b *testing.B) {
	text := bytes.Repeat([]byte(`{"id":"8f14e45fceea167a","text":"The quick brown fox jumps over the lazy dog."},`), 1<<20/80)
	for name, values := range map[string]int{"1": 1, "10": 10, "100": 100} {
		var all []string
		for range values {
			all = append(all, "ghp_"+NewPlaceholder("")[len(Marker):])
		}
		s := scrubberOf(all...)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				s.next(view(text), 0, true)
			}
		})
	}
}
