package audit

import (
	"errors"
	"path/filepath"
	"testing"
)

// wrote is a vault that counts so many writes.
func wrote(n uint64) func() (uint64, error) { return func() (uint64, error) { return n, nil } }

func (h house) seen(t *testing.T) uint64 {
	t.Helper()
	n, err := SeenVaultWrites(h.dir, h.keys.Vault)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAVaultOlderThanTheLogHasSeenOpensNoStream(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	if n := h.seen(t); n != 0 {
		t.Fatalf("no log has seen write %d", n)
	}
	h.fill(t, 1, Config{}) // a log that does not watch the vault
	h.fill(t, 1, Config{VaultWrites: wrote(3)})
	h.fill(t, 1, Config{VaultWrites: wrote(3)})
	h.fill(t, 1, Config{VaultWrites: wrote(7)})
	for range 2 {
		for _, n := range []uint64{0, 1, 6} {
			_, err := Open(h.dir, h.keys, Config{VaultWrites: wrote(n)})
			var older *OlderVaultError
			if !errors.As(err, &older) || older.Have != n || older.Seen != 7 {
				t.Errorf("write %d: %v", n, err)
			}
			if _, _, err := Recover(h.dir, h.keys, Config{VaultWrites: wrote(n)}, "x"); !errors.As(err, &older) {
				t.Errorf("write %d recovers: %v", n, err)
			}
		}
		// What a stranger puts beside the log neither raises the count nor hides it.
		stranger := h
		stranger.keys.Vault = make([]byte, 32)
		stranger.keys.Vault[0] = 9
		stranger.fill(t, 1, Config{VaultWrites: wrote(99)})
		write(t, filepath.Join(h.dir, "000090-aaaaaaaa-000001.jsonl"), []byte("no record\n"))
	}
	if n := h.seen(t); n != 7 {
		t.Errorf("the log has seen write %d", n)
	}
	// A log that begins anew goes on from where the old one was.
	l, _, err := Recover(h.dir, h.keys, Config{VaultWrites: wrote(7)}, "strangers")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n := h.seen(t); n != 7 {
		t.Errorf("the new log has seen write %d", n)
	}
	h.wants(t, Whole, l.Anchor())
}

func TestAStreamThatWasOpenedWithAnOlderVaultIsFound(t *testing.T) {
	t.Parallel()
	python := findPython(t)
	h := newHouse(t)
	var end Anchor
	for _, n := range []uint64{2, 2, 5} {
		end = h.fill(t, 1, Config{VaultWrites: wrote(n)})
	}
	h.wants(t, Whole, end)
	if code, out := python(h.dir, ""); code != OrderOnly {
		t.Errorf("the second verifier ends with %d: %s", code, out)
	}
	// Whoever has the vault's key, and a program that does not look.
	l, err := prepare(h.dir, h.keys, Config{})
	if err != nil {
		t.Fatal(err)
	}
	streams, _, err := scan(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	l.opening.VaultWrites = 4
	log, err := l.begin(streams)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(log.Close(), l.unlock.Close()); err != nil {
		t.Fatal(err)
	}
	r := h.wants(t, Tampered, log.Anchor())
	if len(r.Problems) != 1 || r.Problems[0].What != "was opened with an older vault: write 4, after write 5 was seen" {
		t.Errorf("%v", r.Problems)
	}
	if code, out := python(h.dir, ""); code != Tampered {
		t.Errorf("the second verifier ends with %d: %s", code, out)
	}
}

func TestUsedUpNumbersStopALogAndNotItsRecovery(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.fill(t, 1, Config{VaultWrites: wrote(2)})
	write(t, filepath.Join(h.dir, "9223372036854775807-aaaaaaaa-000001.jsonl"), nil)
	if _, err := Open(h.dir, h.keys, Config{}); !errors.Is(err, ErrNumbers) {
		t.Fatalf("a stream after the last number: %v", err)
	}
	l, _, err := Recover(h.dir, h.keys, Config{VaultWrites: wrote(2)}, "no number was left")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	h.wants(t, Whole, l.Anchor())
	h.wants(t, Whole, h.fill(t, 1, Config{VaultWrites: wrote(2)}))
}
