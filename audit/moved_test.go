package audit

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// recovered makes a log that was moved aside twice, and returns the anchors of the streams that were, oldest first, that
// of the newest stream, and the directories.
func recovered(t *testing.T) (h house, old []Anchor, last Anchor, archives []string) {
	h = newHouse(t)
	for range 2 {
		old = append(old, h.fill(t, 3, Config{}), h.fill(t, 2, Config{}))
		l, archive, err := Recover(h.dir, h.keys, Config{}, "a test")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		archives = append(archives, filepath.Join(h.dir, archive))
		old, last = append(old, l.Anchor()), h.fill(t, 1, Config{})
	}
	return h, old[:len(old)-1], last, archives
}

func TestAnchorsOfStreamsThatWereMovedAsideOnTheRecordStayGood(t *testing.T) {
	h, old, last, _ := recovered(t)
	for _, a := range old {
		r := h.wants(t, Whole, last, a)
		if !strings.Contains(strings.Join(r.Warnings, "\n"), "stream "+a.Stream+" was moved aside to") {
			t.Errorf("it is not said: %q", r.Warnings)
		}
	}
	r, err := Verify(h.dir, VerifyOptions{RecoveryKey: h.recovery, Anchors: append(old, last)})
	if err != nil || r.Code != Unproven || !r.Unvouched || r.Unproven != 0 {
		t.Errorf("nobody vouches for the recovery, yet %+v, %v", r, err)
	}
}

func TestAnExportCannotConfirmAnchorsOfWhatWasMovedAside(t *testing.T) {
	h, old, last, _ := recovered(t)
	var out bytes.Buffer
	if err := Export(h.dir, "", time.Time{}, time.Time{}, &out); err != nil {
		t.Fatal(err)
	}
	check := func(anchors ...Anchor) *Report {
		r, err := VerifyExport(bytes.NewReader(out.Bytes()), VerifyOptions{RecoveryKey: h.recovery, VaultKey: h.keys.Vault, Anchors: anchors})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := check(last); r.Code != Whole {
		t.Errorf("report %+v", r)
	}
	if r := check(last, old[0]); r.Code != Unproven || r.Unchecked != 1 || r.LeftOut {
		t.Errorf("report %+v", r)
	}
}

func TestWhatAnArchiveDoesNotHoldIsNotTakenFromIt(t *testing.T) {
	h, old, last, archives := recovered(t)
	// A stream that was not there when the others were moved.
	never := old[0]
	never.Stream = never.Stream[:7] + "aaaaaaaa"
	h.wants(t, Tampered, last, never)
	// An anchor that what was moved does not fit, as after what recover is for.
	wrong := old[0]
	wrong.H = strings.Repeat("0", 64)
	if r := h.wants(t, Unproven, last, wrong); r.Unchecked != 1 || r.Unvouched {
		t.Errorf("report %+v", r)
	}
	// What was moved is changed afterwards, or cut, or removed.
	path := filepath.Join(archives[0], old[1].Stream+"-000001.jsonl")
	whole := read(t, path)
	write(t, path, bytes.Replace(whole, []byte("github-api"), []byte("github-apj"), 1))
	h.wants(t, Tampered, last, old[1])
	write(t, path, whole[:bytes.LastIndexByte(whole[:len(whole)-1], '\n')+1])
	h.wants(t, Tampered, last, old[1])
	os.Remove(path)
	h.wants(t, Tampered, last, old[0])
	// Without the directory nothing is known of what lay there; the log itself is whole.
	os.RemoveAll(archives[0])
	if r := h.wants(t, Unproven, last, old[0]); r.Unchecked != 1 {
		t.Errorf("report %+v", r)
	}
	h.wants(t, Whole, last)
}

func TestAStrangersRecoveryExplainsNothing(t *testing.T) {
	h := newHouse(t)
	old := h.fill(t, 3, Config{})
	stranger := h
	stranger.keys.Vault = bytes.Repeat([]byte{9}, 32)
	l, _, err := Recover(stranger.dir, stranger.keys, Config{}, "covering up")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	h.wants(t, Tampered, old)
	r, err := Verify(h.dir, VerifyOptions{RecoveryKey: h.recovery, Anchors: []Anchor{old, l.Anchor()}})
	if err != nil || r.Code != Unproven || !r.Unvouched {
		t.Errorf("report %+v, %v", r, err)
	}
}
