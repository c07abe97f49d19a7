package sight

import (
	"strings"
	"testing"
)

func TestNeedleIsSeenForEveryCut(t *testing.T) {
	text := strings.Repeat("zsta", 5) + "zstandin_abc" + strings.Repeat("in_ab", 5)
	for i := range text {
		for j := i; j <= len(text); j++ {
			s := New("zstandin_abc", "zstandin_abd")
			for _, piece := range []string{text[:i], text[i:j], text[j:]} {
				if _, err := s.Write([]byte(piece)); err != nil {
					t.Fatal(err)
				}
			}
			if !s.Saw(0) || s.Saw(1) || s.Bytes != int64(len(text)) {
				t.Fatalf("cut at %d and %d: saw %v %v in %d bytes", i, j, s.Saw(0), s.Saw(1), s.Bytes)
			}
		}
	}
}

func TestNeedleOfSingleBytesIsSeenAndResetForgets(t *testing.T) {
	s := New("abc")
	for _, b := range []byte("xxabcxx") {
		_, _ = s.Write([]byte{b})
	}
	if !s.Saw(0) {
		t.Fatal("not seen byte by byte")
	}
	s.Reset()
	if _, _ = s.Write([]byte("cab")); s.Saw(0) {
		t.Fatal("seen after a reset")
	}
}
