package grant

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

const canary = "ghp_" + Marker + "abcdefghijklmnopqrstuvwxyz"

func indexOf(t testing.TB, placeholders map[string]string) *Index {
	t.Helper()
	x, err := NewIndex(placeholders)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestPlaceholdersHaveTheFormThatClientsAndScannersLeaveAlone(t *testing.T) {
	for _, shape := range []string{"", "ghp_", "sk-ant-", "xoxb-"} {
		p := NewPlaceholder(shape)
		if got, ok := Shape(p); !ok || got != shape {
			t.Errorf("%q: shape %q, %v", p, got, ok)
		}
		if rest := strings.TrimPrefix(p, shape); strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || len(rest) != len(Marker)+26 {
			t.Errorf("%q is not of the alphabet or the length", p)
		}
	}
}

func TestCaseA45NoPlaceholderIsPartOfAnother(t *testing.T) {
	seen := []string{}
	for range 200 {
		p := NewPlaceholder("")
		for _, other := range seen {
			if strings.Contains(other, p) || strings.Contains(p, other) {
				t.Fatalf("%q and %q", p, other)
			}
		}
		seen = append(seen, p)
	}
	same := NewPlaceholder("")
	if _, err := NewIndex(map[string]string{"a": same, "b": "ghp_" + same}); err == nil {
		t.Error("two placeholders of which one ends with the other were taken")
	}
}

func TestPlaceholderIsFoundOnlyAsAWholeToken(t *testing.T) {
	p := canary
	x := indexOf(t, map[string]string{"github": p})
	for text, want := range map[string]bool{
		p: true, "Bearer " + p: true, p + `"`: true, p + "-": true, p + ".": true,
		p + "a": false, p + "_": false, p + "Z": false, p[:len(p)-1]: false,
		strings.ToUpper(p): false, strings.Replace(p, "zstandin", "zstаndin", 1): false,
		p[4:]: false, "gh_" + p[4:]: false,
		Marker + p: true, Marker + Marker + p[4:]: false,
	} {
		if _, got := x.Next(text, 0); got != want {
			t.Errorf("%q: found %v, want %v", text, got, want)
		}
	}
}

func TestAlarmIsTheSameForEveryCut(t *testing.T) {
	p, q := canary, NewPlaceholder("")
	x := indexOf(t, map[string]string{"github": p, "other": q})
	text := strings.Repeat("-", 50) + p + " " + q + p + "x" + q + "," + strings.Repeat("y", 90) + p
	count := func(r io.Reader) string {
		var found []string
		_, err := io.Copy(io.Discard, x.Watch(io.NopCloser(r), func(p *Placeholder) error { found = append(found, p.Secret); return nil }))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(found, " ")
	}
	const want = "github other github"
	for cut := range text {
		if got := count(io.MultiReader(strings.NewReader(text[:cut]), strings.NewReader(text[cut:]))); got != want {
			t.Fatalf("cut at %d: %q, want %q", cut, got, want)
		}
	}
	if got := count(iotest.OneByteReader(strings.NewReader(text))); got != want {
		t.Fatalf("one byte at a time: %q, want %q", got, want)
	}
}

func TestNothingIsAllocatedWhereNothingMatches(t *testing.T) {
	text := strings.Repeat("no placeholder, but zstandin_ and more ", 1000)
	for _, known := range []int{1, 10, 1000} {
		all := map[string]string{"github": canary}
		for i := range known - 1 {
			all[fmt.Sprint(i)] = NewPlaceholder("")
		}
		x := indexOf(t, all)
		if n := testing.AllocsPerRun(10, func() { x.Next(text, 0) }); n > 0 {
			t.Errorf("%d known placeholders: %v allocations", known, n)
		}
	}
}

func FuzzAlarm(f *testing.F) {
	f.Add([]byte("a "+canary+" b"), uint8(5))
	f.Add([]byte(canary+canary), uint8(1))
	x := indexOf(f, map[string]string{"github": canary})
	f.Fuzz(func(t *testing.T, text []byte, step uint8) {
		want := len(x.All(string(text)))
		var parts []io.Reader
		for n, rest := int(step)%50+1, text; len(rest) > 0; rest = rest[min(n, len(rest)):] {
			parts = append(parts, bytes.NewReader(rest[:min(n, len(rest))]))
		}
		got := 0
		relayed, err := io.ReadAll(x.Watch(io.NopCloser(io.MultiReader(parts...)), func(*Placeholder) error { got++; return nil }))
		if err != nil || !bytes.Equal(relayed, text) {
			t.Fatalf("relayed %q, %v", relayed, err)
		}
		if got != want {
			t.Fatalf("found %d in parts, %d in the whole", got, want)
		}
	})
}

func BenchmarkIndex(b *testing.B) {
	text := string(bytes.Repeat([]byte(`{"id":"8f14e45fceea167a","text":"The quick brown fox jumps over the lazy dog."},`), 1<<20/80))
	for _, n := range []int{1, 10, 1000} {
		known := map[string]string{}
		for i := range n {
			known[fmt.Sprint(i)] = NewPlaceholder("")
		}
		x := indexOf(b, known)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				x.Next(text, 0)
			}
		})
	}
}
