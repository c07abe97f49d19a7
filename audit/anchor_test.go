package audit

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// ask asks a log as verify asks a gateway.
func ask(t testing.TB, l *Log) Anchor {
	t.Helper()
	nonce := NewNonce()
	live, err := l.Live(nonce)
	if err != nil {
		t.Fatal(err)
	}
	return live.AnchorTo(nonce)
}

func TestOnlyTheHolderOfTheKeyIsALiveGateway(t *testing.T) {
	h := newHouse(t)
	last := h.fill(t, 4, Config{})
	l := h.open(t, Config{SegmentBytes: 2500})
	for i := range 9 {
		appendTo(t, l, substitution(i))
	}
	live := ask(t, l)
	genuine, err := l.Live(live.nonce)
	if err != nil {
		t.Fatal(err)
	}
	forged := live
	forged.proof = strings.Repeat("ab", 32)
	cut := live // as who has cut the log would have it
	cut.Seq--
	for name, a := range map[string]Anchor{
		"no proof":                (Live{Anchor: genuine.Anchor}).AnchorTo(live.nonce),
		"an invented proof":       forged,
		"the answer to another":   genuine.AnchorTo(NewNonce()),
		"the proof of a later":    cut,
		"an anchor of one sealed": (Live{last, genuine.Newest, genuine.Proof}).AnchorTo(live.nonce),
	} {
		r := h.wants(t, Unproven, a)
		if s := r.Streams[1]; s.Live || s.Anchored > 0 || r.Newest != nil {
			t.Errorf("%s: it is taken for an anchor: %+v", name, s)
		}
		if !slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, "does not hold its key") }) {
			t.Errorf("%s: warnings %v", name, r.Warnings)
		}
	}
	if s := h.wants(t, Whole, live, last).Streams[1]; !s.Live || s.Anchored != live.Seq {
		t.Errorf("the gateway itself: %+v", s)
	}
	if r, err := Verify(h.dir, VerifyOptions{Anchors: []Anchor{live}}); err != nil || r.Code != OrderOnly || r.Streams[1].Live {
		t.Errorf("without the key it cannot be checked: %+v, %v", r, err)
	}

	// The end is cut off under the gateway.
	path := h.files(t)[len(h.files(t))-1]
	lines := bytes.SplitAfter(read(t, path), []byte("\n"))
	write(t, path, bytes.Join(lines[:len(lines)-2], nil))
	h.wants(t, Tampered, live)
	h.wants(t, Unproven, forged)
	write(t, path, bytes.Join(lines, nil))

	if _, err := l.Live("ab"); err == nil {
		t.Error("it answers a nonce that is none")
	}
	if l.Close() != nil {
		t.Fatal("close")
	}
	if _, err := l.Live(live.nonce); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end it answers: %v", err)
	}
}

func TestALiveGatewayMissesAStreamThatWasOpenedAfterIt(t *testing.T) {
	h := newHouse(t)
	l := h.open(t, Config{})
	appendTo(t, l, substitution(1))
	h.wants(t, Whole, ask(t, l))
	last := h.fill(t, 2, Config{})
	if r := h.wants(t, Unproven, ask(t, l)); r.Streams[0].Unproven != 0 || r.Unproven == 0 {
		t.Errorf("the stream of a session that has ended: %+v", r)
	}
	h.wants(t, Whole, ask(t, l), last)
	os.Remove(h.files(t)[1])
	h.wants(t, Tampered, ask(t, l))
	old := ask(t, l)
	old.newest = old.Stream // an answer that somebody has changed is none
	h.wants(t, Unproven, old)
	l.Close()
	journal := last
	journal.Source = JournalLine
	h.wants(t, Unproven, journal)
}

func TestALiveAnchorSurvivesAFailedWrite(t *testing.T) {
	h := newHouse(t)
	disk := &faults{}
	l, err := open(h.dir, h.keys, Config{}, disk.create)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	appendTo(t, l, substitution(1))
	disk.fail(errTestDisk, 300, true)
	if l.Append(t.Context(), substitution(2)) == nil {
		t.Fatal("the disk did not fail")
	}
	live := ask(t, l)
	disk.fail(nil, 0, false)
	waitRetry()
	appendTo(t, l, substitution(3))
	for _, a := range []Anchor{live, ask(t, l)} {
		if r := h.wants(t, Unproven, a); r.Streams[0].Anchored != a.Seq || len(r.Warnings) > 0 {
			t.Errorf("%+v, %v", r.Streams[0], r.Warnings)
		}
	}
}
